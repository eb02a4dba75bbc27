//! Python's own allocators are counted as its own layers: exactly, also where the compiler has put copies of them into
//! nearly all functions. What is true is told by `sys.getallocatedblocks()`, and by the number of calls made.

mod common;

use std::{path::Path, process::Command};

use common::{can_observe, has_program, helper::Helper, profiler::Watching, skip};
use serde_json::Value;

/// What was counted in a layer.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    allocations: u64,
    frees: u64,
}

impl Counts {
    fn live(self) -> i64 {
        self.allocations.cast_signed() - self.frees.cast_signed()
    }

    /// The counts of all of a target's layers whose name begins so; `None` without any. The only place that knows the
    /// report's form.
    fn of(target: &Value, layer: &str) -> Option<Self> {
        let mut counts = None;
        for (name, figures) in target["allocators"].as_object()? {
            if name.starts_with(layer) {
                let sum: &mut Self = counts.get_or_insert_default();
                sum.allocations += figures["allocations"].as_u64().expect("a number");
                sum.frees += figures["frees"].as_u64().expect("a number");
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

/// One moment of it: blocks that it says are in use, blocks that were counted, calls of the raw domain.
#[derive(Clone, Copy, Debug)]
struct Moment {
    said: i64,
    counted: i64,
    raw: u64,
}

impl Observed {
    /// `None` where Python's layers aren't reported.
    fn start(python: &str, environment: &[(&str, &str)]) -> Option<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/domains.py");
        let helper = Helper::spawn(Command::new(python).arg(script).envs(environment.iter().copied()));
        let watching = Watching::process(helper.pid());
        if Counts::of(&watching.now(), RAW).is_none() {
            skip("Python's layers are not reported");
            return None;
        }
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
        let target = self.watching.now();
        let counted = BLOCKS.iter().filter_map(|layer| Counts::of(&target, layer)).map(Counts::live).sum();
        Moment { said, counted, raw: Counts::of(&target, RAW).unwrap_or_default().allocations }
    }
}

/// An interpreter with copies of its allocators everywhere (Debian's), and whichever comes first in the path.
const PYTHONS: [&str; 2] = ["/usr/bin/python3", "python3"];

#[test]
fn live_blocks_are_those_that_the_interpreter_says() {
    for python in PYTHONS.into_iter().filter(|python| can_observe() && has_program(python)) {
        let Some(mut observed) = Observed::start(python, &[]) else { return };
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
            let Some(mut observed) = Observed::start(python, &[environment]) else { return };
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
        let Some(mut observed) = Observed::start(python, &[]) else { return };
        let moments = ["none 0", "none 0", "raw 1000"].map(|work| observed.round(work));
        let empty = moments[1].raw - moments[0].raw;
        assert_eq!(moments[2].raw - moments[1].raw - empty, 1000, "{python}");
        // Large blocks pass through both layers.
        let large = observed.round("large 1000");
        assert!(large.raw - moments[2].raw >= 1000, "{python}: {large:?}");
        assert!(large.counted - moments[2].counted >= 1000, "{python}: {large:?}");
    }
}
