//! What profiler answers of a Go program, by its verbs and over HTTP, is what the program says of itself: read while it has
//! stopped itself, so that all speak of the same state.

mod common;

use common::{
    LONG, Scratch, can_observe,
    child::run,
    go::{
        Tally,
        exposition::{self, fetch},
        figures::{self, Moment},
        target::Target,
        toolchain::{Build, Toolchain},
    },
    profiler::{Watching, profiler},
    within,
};
use serde_json::Value;

/// Name for Prometheus, ours among the figures, and how many of ours are one of theirs.
const NAMES: [(&str, &str, f64); 24] = [
    ("go_goroutines", "goroutines", 1.0),
    ("go_threads", "threads", 1.0),
    ("go_memstats_alloc_bytes", "alloc", 1.0),
    ("go_memstats_alloc_bytes_total", "total_alloc", 1.0),
    ("go_memstats_sys_bytes", "sys", 1.0),
    ("go_memstats_mallocs_total", "mallocs", 1.0),
    ("go_memstats_frees_total", "frees", 1.0),
    ("go_memstats_heap_alloc_bytes", "alloc", 1.0),
    ("go_memstats_heap_sys_bytes", "heap_sys", 1.0),
    ("go_memstats_heap_idle_bytes", "heap_idle", 1.0),
    ("go_memstats_heap_inuse_bytes", "heap_inuse", 1.0),
    ("go_memstats_heap_released_bytes", "heap_released", 1.0),
    ("go_memstats_heap_objects", "heap_objects", 1.0),
    ("go_memstats_stack_inuse_bytes", "stack_inuse", 1.0),
    ("go_memstats_stack_sys_bytes", "stack_sys", 1.0),
    ("go_memstats_mspan_inuse_bytes", "mspan_inuse", 1.0),
    ("go_memstats_mspan_sys_bytes", "mspan_sys", 1.0),
    ("go_memstats_mcache_inuse_bytes", "mcache_inuse", 1.0),
    ("go_memstats_mcache_sys_bytes", "mcache_sys", 1.0),
    ("go_memstats_buck_hash_sys_bytes", "buck_hash_sys", 1.0),
    ("go_memstats_gc_sys_bytes", "gc_sys", 1.0),
    ("go_memstats_other_sys_bytes", "other_sys", 1.0),
    ("go_memstats_next_gc_bytes", "next_gc", 1.0),
    ("go_memstats_last_gc_time_seconds", "last_gc", 1e9),
];

fn started(toolchain: &Toolchain, build: Build) -> Option<Target> {
    if !can_observe() {
        return None;
    }
    let mut target = Target::start(&toolchain.program(build)?, 4, &[]);
    for command in ["work 3000", "gor 30", "gc 2", "work 500"] {
        target.ask(command);
    }
    Some(target)
}

fn asked(arguments: &[&str]) -> Value {
    let ended = run(&mut profiler(arguments));
    assert!(ended.status.success(), "{arguments:?}: {:#?}", ended.complaints());
    serde_json::from_slice(&ended.stdout).expect("JSON")
}

/// The fewest differences of some tries; see `cell`.
fn settled(mut once: impl FnMut() -> Tally) -> Tally {
    let mut best = once();
    for _ in 0..3 {
        if best.all_equal() {
            break;
        }
        let next = once();
        if next.different.len() < best.different.len() {
            best = next;
        }
    }
    best
}

#[test]
fn memstats_prints_what_the_program_says_in_both_views() {
    for toolchain in Toolchain::representative() {
        for build in [Build::Default, Build::PieStripped] {
            let Some(mut target) = started(&toolchain, build) else { return };
            let pid = target.pid().to_string();
            for (moment, view) in
                [(Moment::Metrics, "metrics"), (Moment::Pre, "memstats"), (Moment::Post, "memstats")]
            {
                let tally = settled(|| {
                    let ask = || run(&mut profiler(["memstats", "--json", &pid, "--go-view", view]));
                    let (ended, said) = target.stopped(moment.command(), ask);
                    let mut tally = Tally::default();
                    // Its other threads stop where they are, be it in the middle of a change: then it contradicts itself.
                    if !ended.status.success() {
                        tally.fail(format!("{:?}", ended.complaints()));
                        return tally;
                    }
                    let answer: Value = serde_json::from_slice(&ended.stdout).expect("JSON");
                    assert_eq!(answer["view"], view, "{answer}");
                    assert_eq!(answer["version"], said["version"], "{answer}");
                    figures::compare(moment, false, &answer["figures"], &said)
                });
                assert!(tally.all_equal(), "Go {}, {view}: {:#?}", toolchain.version, tally.different);
            }
            target.end();
        }
    }
}

#[test]
fn a_scrape_says_what_the_program_says() {
    for toolchain in Toolchain::representative() {
        let Some(mut target) = started(&toolchain, Build::Stripped) else { return };
        let watching = Watching::process(target.pid());
        let name = watching.now()["target"].as_str().expect("a name").to_owned();
        let path = format!("/targets/{name}/metrics");
        let known = || fetch(watching.address(), &path).is_some_and(|text| text.contains("\ngo_goroutines "));
        assert!(within(LONG, known), "it isn't known as Go's: {:?}", fetch(watching.address(), &path));
        let tally = settled(|| {
            let look = || {
                let _fresh = watching.now();
                ["/metrics", path.as_str()].map(|path| fetch(watching.address(), path).expect("it answers"))
            };
            let ([own, drop_in], said) = target.stopped("rm", look);
            let (own, drop_in) = (
                exposition::samples(&exposition::parse(&own)),
                exposition::samples(&exposition::parse(&drop_in)),
            );
            let mut tally = Tally::default();
            for (metric, field, of) in NAMES {
                let theirs = figures::said(&said, field).map(|value| value as f64 / of);
                tally.compare(metric, &drop_in.get(metric).copied(), &theirs);
                let key = format!("profiler_{metric}{{target=\"{name}\"}}");
                tally.compare(&key, &own.get(&key).copied(), &theirs);
            }
            for (number, quantile) in ["0", "0.25", "0.5", "0.75", "1"].into_iter().enumerate() {
                let key = format!("go_gc_duration_seconds{{quantile=\"{quantile}\"}}");
                let theirs = said["quantiles"][number].as_u64().map(|time| time as f64 / 1e9);
                tally.compare(&key, &drop_in.get(&key).copied(), &theirs);
            }
            let theirs = said["pause_sum"].as_u64().map(|time| time as f64 / 1e9);
            tally.compare("sum", &drop_in.get("go_gc_duration_seconds_sum").copied(), &theirs);
            let theirs = said["cycles"].as_u64().map(|count| count as f64);
            tally.compare("count", &drop_in.get("go_gc_duration_seconds_count").copied(), &theirs);
            let version = format!("go_info{{version=\"{}\"}}", said["version"].as_str().expect("a version"));
            tally.compare(&version, &drop_in.get(&version).copied(), &Some(1.0));
            tally
        });
        watching.finish();
        assert!(tally.all_equal(), "Go {}: {tally}: {:#?}", toolchain.version, tally.different);
        target.end();
    }
}

#[test]
fn modules_are_those_that_the_program_knows() {
    for toolchain in Toolchain::representative() {
        let Some(mut target) = started(&toolchain, Build::Stripped) else { return };
        let answer = asked(&["modules", "--json", &target.pid().to_string()]);
        let said = target.ask("info")["build"].clone();
        let text = answer.to_string();
        // The form is the verb's; that each name and version is in it is what counts.
        for dependency in said["Deps"].as_array().expect("a list") {
            for key in ["Path", "Version"] {
                let word = dependency[key].as_str().expect("a word");
                assert!(text.contains(word), "{word}: {text}");
            }
            let replace = dependency["Replace"]["Path"].as_str().unwrap_or_default();
            assert!(text.contains(replace), "{replace}: {text}");
        }
        assert!(text.contains(said["Path"].as_str().expect("a path")), "{text}");
        target.end();
    }
}

#[test]
fn the_only_target_needs_no_name() {
    let Some(toolchain) = Toolchain::newest() else { return };
    let Some(mut target) = started(&toolchain, Build::Stripped) else { return };
    let watching = Watching::process(target.pid());
    let name = watching.now()["target"].as_str().expect("a name").to_owned();
    let answers = || {
        ["/debug/pprof/heap?debug=1".to_owned(), format!("/debug/pprof/heap?debug=1&target={name}")]
            .map(|path| fetch(watching.address(), &path).unwrap_or_default())
    };
    let known = || answers().iter().all(|text| text.contains("main."));
    assert!(within(LONG, known), "no profile of the runtime's: {:#?}", answers());
    let ([unnamed, named], _) = target.stopped("rm", answers);
    assert_eq!(unnamed, named);
    watching.finish();
    target.end();
}

#[test]
fn ps_says_which_go_can_be_read() {
    let Some(toolchain) = Toolchain::newest() else { return };
    let Some(program) = can_observe().then(|| toolchain.program(Build::Stripped)).flatten() else { return };
    // The same program with another version in its build information: a minor one that there never was.
    let scratch = Scratch::directory("go-of-tomorrow");
    let changed = scratch.path().join("tomorrow");
    let mut bytes = std::fs::read(&program).expect("it is there");
    let magic = b"\xff Go buildinf:";
    let place = bytes.windows(magic.len()).position(|part| part == magic).expect("build information");
    let version = format!("go{}", toolchain.version);
    let text = bytes[place..].windows(version.len()).position(|part| part == version.as_bytes());
    let text = place + text.expect("its version");
    bytes[text..text + 6].copy_from_slice(b"go1.98");
    std::fs::write(&changed, bytes).expect("it can be written");
    std::fs::set_permissions(&changed, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("ours");
    for (program, profile, reason) in
        [(&program, "runtime", "isn't counted"), (&changed, "stalls only", "go-layouts 1.98")]
    {
        let target = Target::start(program, 2, &[]);
        let rows = asked(&["ps", "--json"]);
        let row = rows.as_array().and_then(|rows| rows.iter().find(|row| row["pid"] == target.pid()));
        let row = row.expect("it is listed");
        assert_eq!(row["profile"], profile, "{row}");
        assert!(row["reason"].as_str().is_some_and(|why| why.contains(reason)), "{row}");
        // There is no C in it, so no debug file could tell of an allocator.
        let explained = asked(&["explain", "--json", "--pid", &target.pid().to_string()]);
        assert!(!explained.to_string().contains("debug file"), "{explained}");
        target.end();
    }
}
