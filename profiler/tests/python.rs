//! Python's own allocators are counted as its own layers: exactly, also where the compiler has put copies of them into
//! nearly all functions. What is true is told by `sys.getallocatedblocks()`, and by the number of calls made.

mod common;

use std::{path::Path, process::Command};

use common::{LONG, can_observe, has_program, helper::Helper, profiler::Watching, skip, within};
use serde_json::Value;

/// What was counted in a layer.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    allocations: u64,
    frees: u64,
    bytes: u64,
}

impl Counts {
    fn live(self) -> i64 {
        self.allocations.cast_signed() - self.frees.cast_signed()
    }

    /// The counts of all of a target's layers whose name begins so; `None` without any. The only place that knows the
    /// report's form.
    fn of(target: &Value, layer: &str) -> Option<Self> {
        let mut counts: Option<Self> = None;
        for figures in target["python"].as_array().expect("a list") {
            if figures["allocator"].as_str().is_some_and(|name| name.starts_with(layer)) {
                let sum = counts.get_or_insert_default();
                sum.allocations += figures["allocations"].as_u64().expect("a number");
                sum.frees += figures["frees"].as_u64().expect("a number");
                sum.bytes += figures["allocated_bytes"].as_u64().expect("a number");
            }
        }
        counts
    }
}

const RAW: &str = "python_raw";
/// Memory and object domain: one layer or two.
const BLOCKS: [&str; 2] = ["python_mem", "python_object"];

/// A Python that is observed.
struct Observed {
    helper: Helper,
    watching: Watching,
}

/// One moment of it: blocks that it says are in use, blocks that were counted, bytes that were asked for, calls of the raw
/// domain.
#[derive(Clone, Copy, Debug)]
struct Moment {
    said: i64,
    counted: i64,
    bytes: i64,
    raw: u64,
}

impl Observed {
    /// `None` if it has no layers that could be found: a Python of another machine, or none at all.
    fn start(python: &str, environment: &[(&str, &str)]) -> Option<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/domains.py");
        let helper = Helper::spawn(Command::new(python).arg(script).envs(environment.iter().copied()));
        let watching = Watching::with(helper.pid(), &["--python", "on"]);
        let target = watching.now();
        if Counts::of(&target, RAW).is_none() {
            skip(&format!("{python} has no layers that are counted: {}", target["alloc"]));
            return None;
        }
        assert_eq!(target["alloc"]["state"], "counting", "{python}: {}", target["alloc"]);
        let mut observed = Self { helper, watching };
        // What the interpreter does once only: caches, compiled code.
        for work in ["none 0", "bytes 10", "large 10", "raw 10"] {
            observed.round(work);
        }
        Some(observed)
    }

    /// Lets it work, and looks at it while it waits again.
    fn round(&mut self, work: &str) -> Moment {
        self.helper.tell(work);
        let said = self.helper.answer()["blocks"].as_i64().expect("a number");
        // What the answer was made of is freed behind its writing.
        let syscall = format!("/proc/{}/syscall", self.helper.pid());
        let reads = || std::fs::read_to_string(&syscall).is_ok_and(|number| number.starts_with("0 "));
        assert!(within(LONG, reads), "it waits for the next round");
        let target = self.watching.now();
        let blocks: Vec<_> = BLOCKS.iter().filter_map(|layer| Counts::of(&target, layer)).collect();
        let counted = blocks.iter().map(|counts| counts.live()).sum();
        let bytes = blocks.iter().map(|counts| counts.bytes.cast_signed()).sum();
        Moment { said, counted, bytes, raw: Counts::of(&target, RAW).unwrap_or_default().allocations }
    }
}

/// An interpreter with copies of its allocators everywhere (Debian's), and whichever comes first in the path.
const PYTHONS: [&str; 2] = ["/usr/bin/python3", "python3"];

#[test]
fn live_blocks_are_those_that_the_interpreter_says() {
    for python in PYTHONS.into_iter().filter(|python| can_observe() && has_program(python)) {
        let Some(mut observed) = Observed::start(python, &[]) else { continue };
        let before = observed.round("none 0");
        for work in ["bytes 10000", "large 1000", "none 0"] {
            let after = observed.round(work);
            assert_eq!(after.counted - before.counted, after.said - before.said, "{python}: {work}");
        }
        let grown = observed.round("bytes 10000").counted - observed.round("none 0").counted;
        assert!(grown.abs() < 100, "an empty round changes next to nothing: {grown}");
    }
}

#[test]
fn tracemalloc_and_debug_hooks_change_nothing() {
    for python in PYTHONS.into_iter().filter(|python| can_observe() && has_program(python)) {
        for environment in [("PYTHONTRACEMALLOC", "1"), ("PYTHONMALLOC", "debug")] {
            let Some(mut observed) = Observed::start(python, &[environment]) else { continue };
            let before = observed.round("none 0");
            let after = observed.round("bytes 10000");
            assert!(after.said - before.said > 10_000, "{python}: {environment:?}");
            assert_eq!(after.counted - before.counted, after.said - before.said, "{python}: {environment:?}");
        }
    }
}

#[test]
fn calls_of_the_raw_domain_are_counted_one_by_one() {
    for python in PYTHONS.into_iter().filter(|python| can_observe() && has_program(python)) {
        let Some(mut observed) = Observed::start(python, &[]) else { continue };
        let moments = ["none 0", "none 0", "raw 1000"].map(|work| observed.round(work));
        let empty = moments[1].raw - moments[0].raw;
        assert_eq!(moments[2].raw - moments[1].raw - empty, 1000, "{python}");
        // Large blocks pass through both layers.
        let large = observed.round("large 1000");
        assert!(large.raw - moments[2].raw >= 1000, "{python}: {large:?}");
        assert!(large.counted - moments[2].counted >= 1000, "{python}: {large:?}");
    }
}

#[test]
fn bytes_are_exact_also_where_the_compiler_knew_the_size() {
    for python in PYTHONS.into_iter().filter(|python| can_observe() && has_program(python)) {
        let Some(mut observed) = Observed::start(python, &[]) else { continue };
        let rounds = [
            "nothing 5000",
            "nothing 10000",
            "floats 5000",
            "floats 10000",
            "integers 05000",
            "integers 10000",
        ];
        let _settled = rounds.map(|work| observed.round(work));
        let mut grown = |work| {
            let before = observed.round("none 0").bytes;
            observed.round(work).bytes - before
        };
        let [nothing, nothings, some, more, few, many] = rounds.map(&mut grown);
        // The lists are as long in both; a float has 24 bytes (sys.getsizeof).
        assert_eq!((more - some) - (nothings - nothing), 24 * 5000, "{python}");
        // An integer, with room for a second digit, and its place in the list.
        assert_eq!(many - few, (32 + 8) * 5000, "{python}");
    }
}

#[test]
fn a_replaced_allocator_is_noticed_where_that_matters() {
    for python in PYTHONS.into_iter().filter(|python| can_observe() && has_program(python)) {
        let Some(mut observed) = Observed::start(python, &[]) else { continue };
        let target = observed.watching.now();
        let notes = target["sites"].as_array().expect("a list").iter().map(|site| site["notes"].to_string());
        let matters = notes.into_iter().any(|note| note.contains("counted in the allocator itself"));
        let before = observed.round("none 0");
        // It loads a library, too, which makes profiler look.
        observed.round("trace 0");
        let expected = if matters { "partly" } else { "counting" };
        let state = || observed.watching.now()["alloc"]["state"].clone();
        assert!(within(LONG, || state() == expected), "{python}: {} and not {expected}", state());
        // Such a one passes everything on.
        let after = observed.round("bytes 10000");
        assert_eq!(after.counted - before.counted, after.said - before.said, "{python}");
    }
}

#[test]
fn nobody_pays_for_it_who_has_not_asked() {
    let Some(python) = PYTHONS.into_iter().find(|python| can_observe() && has_program(python)) else {
        return;
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/domains.py");
    let mut helper = Helper::spawn(Command::new(python).arg(script));
    let watching = Watching::process(helper.pid());
    helper.tell("bytes 1000");
    helper.answer();
    let target = watching.now();
    assert_eq!(target["alloc"]["state"], "counting", "{}", target["alloc"]);
    assert_eq!(target["python"].as_array().map(Vec::len), Some(0));
}

#[test]
fn the_many_places_of_a_function_are_one_line() {
    for python in PYTHONS.into_iter().filter(|python| can_observe() && has_program(python)) {
        let Some(observed) = Observed::start(python, &[]) else { continue };
        let metrics = observed.watching.get("/metrics");
        let sites = metrics.text().lines().filter(|line| {
            line.starts_with("profiler_probe_site_info{") && line.contains("allocator=\"python_")
        });
        assert!((8..=12).contains(&sites.count()), "{python}: {}", metrics.text());
    }
}
