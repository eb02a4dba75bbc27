//! Allocator calls are counted exactly: every number here must be equal to what the observed program has counted itself.

mod common;

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use common::{
    Scratch, can_observe,
    child::run,
    has_program,
    helper::{Helper, compiled},
    profiler::{Watching, profiler},
    skip,
    totals::{self, Totals, number},
};
use serde_json::Value;

/// What a helper has counted.
fn truth(counts: &Value) -> Totals {
    Totals::told(counts)
}

/// What profiler has counted.
fn counted(target: &Value) -> Totals {
    // A library that stands before malloc makes it "partly": what it counts is compared all the same.
    let (state, reason) = totals::state(target);
    assert!(state == "counting" || state == "partly", "{state}: {reason}");
    Totals::counted(target)
}

/// A number of one function, zero if it isn't listed.
fn of_function(target: &Value, function: &str, key: &str) -> u64 {
    let functions = target["functions"].as_array().expect("a list");
    functions.iter().find(|one| one["function"] == function).map_or(0, |one| number(one, key))
}

/// Observes a helper while it works; its own counts and the target in profiler's report.
fn observe(mut helper: Helper) -> (Value, Value) {
    let watching = Watching::process(helper.pid());
    let counts = helper.work();
    let target = watching.finish().target().clone();
    (counts, target)
}

fn observe_program(source: &str, options: &[&str], arguments: &[&str]) -> Option<(Value, Value)> {
    let program = if can_observe() { compiled(source, options)? } else { return None };
    Some(observe(Helper::start(&program, arguments)))
}

#[test]
fn every_function_is_counted_under_its_name_whatever_it_is_asked_for() {
    for seed in ["1", "2", "3"] {
        let Some((counts, target)) = observe_program("calls.c", &[], &[seed, "60000"]) else { return };
        let functions = counts["functions"].as_object().expect("a list");
        let sum = |key| functions.values().map(|function| number(function, key)).sum::<u64>();
        let (allocations, frees) = (sum("allocations"), sum("frees"));
        let live = allocations.cast_signed() - frees.cast_signed();
        assert_eq!(
            counted(&target),
            Totals { allocations, frees, bytes: sum("bytes"), live },
            "seed {seed}: {counts:#}"
        );
        // Which function runs on into which is the C library's affair; the labels hold for the versions in which the
        // helper was checked.
        if counts["glibc"] != "2.36" {
            skip(&format!("labels of glibc {} aren't known to the helper", counts["glibc"]));
            continue;
        }
        for (function, expected) in functions {
            for key in ["allocations", "frees", "bytes", "refused"] {
                let (got, expected) = (of_function(&target, function, key), number(expected, key));
                assert_eq!(got, expected, "seed {seed}: {key} of {function}");
            }
        }
    }
}

#[test]
fn a_product_that_overflows_in_reallocarray_is_no_allocation() {
    let Some((counts, target)) = observe_program("overflow.c", &[], &["1000"]) else { return };
    assert_eq!(number(&counts, "refused"), 1000);
    assert_eq!(counted(&target), Totals { allocations: 0, frees: 0, bytes: 0, live: 0 });
    // The wrapper has no probe of its own and ends before it gets to realloc, so these aren't among the refused either.
    let functions = target["functions"].as_array().expect("a list");
    let hits: u64 = functions.iter().map(|function| number(function, "hits")).sum();
    assert_eq!(hits, 0, "hits of all functions");
}

#[test]
fn eight_threads_that_free_each_others_blocks_are_counted_exactly() {
    let Some((counts, target)) = observe_program("threads.c", &[], &["pairs", "8", "40000"]) else { return };
    assert!(number(&counts, "allocations") >= 320_000, "{counts}");
    assert_eq!(counted(&target), truth(&counts));
}

#[test]
fn five_million_pairs_leave_no_object_behind() {
    let Some((counts, target)) = observe_program("threads.c", &[], &["pairs", "4", "1250000"]) else {
        return;
    };
    assert!(number(&counts, "allocations") >= 5_000_000, "{counts}");
    assert_eq!(counted(&target), truth(&counts));
    assert_eq!(counted(&target).live, 0);
}

#[test]
fn a_hundred_million_pairs_leave_no_object_behind() {
    if std::env::var_os("PROFILER_LONG_TESTS").is_none() {
        // Not a test that can't run: one that takes minutes, and is asked for.
        println!("left out: set PROFILER_LONG_TESTS to run it");
        return;
    }
    let began = Instant::now();
    let Some((counts, target)) = observe_program("threads.c", &[], &["pairs", "4", "25000000"]) else {
        return;
    };
    println!("{:.1} s for {counts}", began.elapsed().as_secs_f64());
    assert!(number(&counts, "allocations") >= 100_000_000, "{counts}");
    assert_eq!(counted(&target), truth(&counts));
    assert_eq!(counted(&target).live, 0);
}

#[test]
fn what_a_threads_end_gives_back_is_not_counted() {
    // A thread's record is the C library's own allocation, so threads without work tell what threads cost.
    let rounds = "40";
    let Some((_, idle)) = observe_program("threads.c", &[], &["churn", "8", "0", rounds]) else { return };
    let Some((counts, busy)) = observe_program("threads.c", &[], &["churn", "8", "300", rounds]) else {
        return;
    };
    let (counts, idle, busy) = (truth(&counts), counted(&idle), counted(&busy));
    assert_eq!(counts.live, 0);
    assert!(counts.allocations >= 8 * 300 * 40);
    assert_eq!(busy.live, idle.live, "live objects of 320 threads with and without work");
    assert_eq!(busy.allocations - idle.allocations, counts.allocations);
    assert_eq!(busy.frees - idle.frees, counts.frees);
    assert_eq!(busy.bytes - idle.bytes, counts.bytes);
}

#[test]
fn new_and_delete_in_all_forms_are_counted_exactly() {
    let Some((counts, target)) = observe_program("objects.cpp", &[], &[]) else { return };
    assert_eq!(counted(&target), truth(&counts));
    for function in ["malloc", "posix_memalign"] {
        assert_eq!(of_function(&target, function, "allocations"), number(&counts, function), "{function}");
    }
}

#[test]
fn a_rust_program_is_counted_exactly() {
    let Some((counts, target)) = observe_program("collections.rs", &[], &[]) else { return };
    assert!(number(&counts, "allocations") > 100_000, "{counts}");
    assert_eq!(counted(&target), truth(&counts));
}

#[test]
fn a_python_script_is_counted_exactly() {
    if !can_observe() {
        return;
    }
    // A wrapper that chooses among versions would only take time.
    let python = if Path::new("/usr/bin/python3").exists() { "/usr/bin/python3" } else { "python3" };
    let Some(counter) = compiled("preload.c", &["-O2", "-shared", "-fPIC"]) else { return };
    if !has_program(python) {
        return;
    }
    let mut command = Command::new(python);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/work.py")).arg(&counter);
    // Every object is a block of its own, instead of a part of a larger one.
    command.env("PYTHONMALLOC", "malloc").env("LD_PRELOAD", &counter);
    let (counts, target) = observe(Helper::spawn(&mut command));
    assert!(number(&counts, "allocations") > 100_000, "{counts}");
    assert_eq!(counted(&target), truth(&counts));
}

#[test]
fn a_threads_own_record_is_counted_as_the_library_asks_for_it() {
    let Some(program) = compiled("threads.c", &[]) else { return };
    let Some(counter) = compiled("preload.c", &["-O2", "-shared", "-fPIC"]) else { return };
    if !can_observe() {
        return;
    }
    // Here the library's calls are seen from outside, so nothing has to be subtracted.
    let mut command = Command::new(program);
    command.args(["churn", "8", "300", "20"]).env("LD_PRELOAD", counter);
    let (counts, target) = observe(Helper::spawn(&mut command));
    assert_eq!(counted(&target), truth(&counts["all"]), "{counts}");
}

#[test]
fn who_only_looks_the_next_allocator_up_is_not_counted_besides() {
    let program = if can_observe() { compiled("threads.c", &[]) } else { return };
    let Some(program) = program else { return };
    for (form, expected) in [("-DPLAIN", "counting"), ("-DCOPIES", "counting"), ("-DEARLY", "partly")] {
        let Some(shim) = compiled("shim.c", &["-O2", "-shared", "-fPIC", form]) else { return };
        let mut command = Command::new(&program);
        command.args(["pairs", "2", "20000"]).env("LD_PRELOAD", &shim);
        let helper = Helper::spawn(&mut command);
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", helper.pid())).expect("its maps");
        assert!(maps.contains(shim.to_str().expect("it is text")), "{maps}");
        let (counts, target) = observe(helper);
        assert_eq!(counted(&target), truth(&counts), "{form}");
        let (state, reason) = totals::state(&target);
        assert_eq!(state, expected, "{form}: {reason}");
    }
}

#[test]
fn counting_begins_and_ends_at_one_instant() {
    let program = if can_observe() { compiled("one_block.c", &[]) } else { return };
    let Some(program) = program else { return };
    for lives in ["long", "short"] {
        let helper = Helper::start(&program, &[lives]);
        for round in 0..5 {
            let watching = Watching::process(helper.pid());
            std::thread::sleep(Duration::from_millis(50));
            let finished = watching.finish();
            let target = finished.target();
            assert!(counted(target).allocations > 1000, "{target:#}");
            // Whenever it began and ended: two threads had at most one block each before, and have as many after.
            let live = counted(target).live;
            assert!(live.abs() <= 2, "{lives} lives, round {round}: {live} live objects in {target:#}");
        }
    }
}

/// Runs a program from its first instruction.
fn run_from_the_start(program: &Path, arguments: &[&str]) -> (Option<i32>, Totals) {
    let report = Scratch::name("report.json");
    let mut command = profiler(["run", "--listen", "none", "--report"]);
    command.arg(report.path()).arg("--").arg(program).args(arguments);
    let ended = run(&mut command);
    let report = std::fs::read(report.path()).unwrap_or_else(|error| panic!("{error}: {ended:?}"));
    let report: Value = serde_json::from_slice(&report).expect("the report is JSON");
    (ended.status.code(), counted(&report["targets"][0]))
}

#[test]
fn a_started_program_is_counted_from_its_first_allocation() {
    let Some(program) = compiled("first.c", &[]) else { return };
    let Some(early) = compiled("first.c", &["-DEARLY=1000"]) else { return };
    if !can_observe() {
        return;
    }
    let (status, none) = run_from_the_start(&program, &["0"]);
    assert_eq!(status, Some(0));
    let (status, some) = run_from_the_start(&program, &["5000", "7"]);
    assert_eq!(status, Some(7), "the program's own exit code");
    assert_eq!(some.allocations - none.allocations, 5000);
    assert_eq!(some.bytes - none.bytes, 5000 * 24);
    assert_eq!(some.frees, none.frees);
    let (_, before_main) = run_from_the_start(&early, &["0"]);
    assert_eq!(before_main.allocations - none.allocations, 1000, "allocations of a constructor");
    assert_eq!(before_main.bytes - none.bytes, 1000 * 24);
}

#[test]
fn two_profilers_at_the_same_process_are_both_exact() {
    let program = if can_observe() { compiled("threads.c", &[]) } else { return };
    let Some(program) = program else { return };
    let mut helper = Helper::start(&program, &["pairs", "4", "50000"]);
    let (one, other) = (Watching::process(helper.pid()), Watching::process(helper.pid()));
    let counts = helper.work();
    assert_eq!(counted(one.finish().target()), truth(&counts));
    assert_eq!(counted(other.finish().target()), truth(&counts));
}

#[test]
fn a_profiler_that_leaves_does_not_disturb_one_that_stays() {
    let program = if can_observe() { compiled("threads.c", &[]) } else { return };
    let Some(program) = program else { return };
    let mut helper = Helper::start(&program, &["pairs", "4", "400000"]);
    let (stays, leaves) = (Watching::process(helper.pid()), Watching::process(helper.pid()));
    helper.tell("start");
    std::thread::sleep(Duration::from_millis(200));
    leaves.finish();
    let counts = helper.answer();
    assert_eq!(counted(stays.finish().target()), truth(&counts));
}
