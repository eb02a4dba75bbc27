//! Calls that map memory are counted exactly, and nothing of that is in place unless it was asked for.

mod common;

use std::{
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use common::{
    can_observe,
    helper::{Helper, compiled},
    profiler::Watching,
    skip,
};
use profiler::kernel::{Facts, Kernel, Plan, Sizes, Wanted};
use profiler_common::mapping::{KINDS, MappingCounts, MappingKind};
use serde_json::Value;

const WANTED: Wanted = Wanted { mappings: true, ..Wanted::NOTHING };

/// One at a time: some count the descriptors of this process.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn load(wanted: Wanted) -> Option<Kernel> {
    if !can_observe() {
        return None;
    }
    match Plan::decide(wanted, &Facts::gather()) {
        Ok(plan) => {
            let sizes = Sizes { targets: 3, sites: 1 };
            Some(
                Kernel::load(plan, sizes, Duration::from_millis(1), false)
                    .unwrap_or_else(|error| panic!("{error}")),
            )
        }
        Err(error) => {
            skip(&error.to_string());
            None
        }
    }
}

fn program() -> Option<PathBuf> {
    compiled("mappings.c", &[])
}

/// Everything that got lost, in one number.
fn lost(kernel: &Kernel) -> u64 {
    let outcomes = kernel.outcomes().expect("the map can be read");
    kernel.mapping_misses() + outcomes.iter().map(|(_, count)| count).sum::<u64>()
}

fn truth(answer: &Value) -> [MappingCounts; KINDS] {
    MappingKind::ALL.map(|kind| {
        let of = |key: &str| {
            answer[kind.name()][key].as_u64().unwrap_or_else(|| panic!("no {} {key}: {answer}", kind.name()))
        };
        MappingCounts { calls: of("calls"), bytes: of("bytes"), failed: of("failed") }
    })
}

/// Compares kind by kind, so that a difference has a name.
fn compare(counted: [MappingCounts; KINDS], truth: [MappingCounts; KINDS], what: &str) {
    for kind in MappingKind::ALL {
        assert_eq!(counted[kind as usize], truth[kind as usize], "{what}: {}", kind.name());
    }
}

/// Follows the helper under slot 1 while it works.
fn observe(arguments: &[&str]) -> Option<(Value, [MappingCounts; KINDS], Kernel)> {
    let mut kernel = load(WANTED)?;
    let mut helper = Helper::start(&program()?, arguments);
    kernel.watch_process(helper.pid(), 1, false).expect("it can be followed");
    let answer = helper.work();
    let counts = kernel.mapping_counts(1).expect("the map can be read");
    for slot in [0, 2] {
        let others = kernel.mapping_counts(slot).expect("the map can be read");
        assert_eq!(others, [MappingCounts::default(); KINDS], "slot {slot} belongs to nobody");
    }
    Some((answer, counts, kernel))
}

#[test]
fn every_kind_of_call_by_many_threads_is_counted_exactly() {
    let _alone = alone();
    for seed in ["1", "2", "3"] {
        let Some((answer, counts, kernel)) = observe(&["random", seed, "20000", "8"]) else { return };
        let truth = truth(&answer);
        assert!(truth.iter().all(|kind| kind.calls > 0), "{answer}");
        assert_eq!(lost(&kernel), 0);
        compare(counts, truth, &format!("seed {seed}"));
    }
}

#[test]
fn the_break_of_the_c_librarys_heap_is_followed_to_the_byte() {
    let _alone = alone();
    let Some((answer, counts, kernel)) = observe(&["heap"]) else { return };
    let [grow, shrink] = [MappingKind::BrkGrow, MappingKind::BrkShrink].map(|kind| counts[kind as usize]);
    assert_eq!(lost(&kernel), 0);
    let moved = grow.bytes.cast_signed() - shrink.bytes.cast_signed();
    assert_eq!(Some(moved), answer["moved"].as_i64(), "{answer}");
    assert!(Some(grow.bytes) >= answer["high"].as_u64() && shrink.bytes > 50_000_000, "{answer} {counts:?}");
    assert_eq!((grow.failed, shrink.failed), (0, 0));
}

#[test]
fn calls_that_a_seccomp_filter_refuses_are_counted_as_failed() {
    let _alone = alone();
    let Some((answer, counts, kernel)) = observe(&["refused"]) else { return };
    assert_eq!(lost(&kernel), 0);
    assert_eq!(truth(&answer)[MappingKind::BrkGrow as usize].failed, 100);
    compare(counts, truth(&answer), "refused");
}

#[test]
fn a_forked_child_is_not_counted_for_its_parent() {
    let _alone = alone();
    let Some((answer, counts, _)) = observe(&["fork"]) else { return };
    compare(counts, truth(&answer), "the parent alone");
}

#[test]
fn calls_by_the_32_bit_interface_are_not_seen() {
    let _alone = alone();
    if !cfg!(target_arch = "x86_64") {
        return;
    }
    let Some((answer, counts, kernel)) = observe(&["compat"]) else { return };
    assert_eq!(lost(&kernel), 0);
    compare(counts, truth(&answer), "100 calls by int $0x80");
}

#[test]
fn a_process_that_is_not_followed_any_more_is_not_counted() {
    let _alone = alone();
    let (Some(mut kernel), Some(program)) = (load(WANTED), program()) else { return };
    let mut helper = Helper::start(&program, &["random", "5", "1000", "2"]);
    kernel.watch_process(helper.pid(), 0, false).expect("it can be followed");
    kernel.unwatch_process(helper.pid(), 0);
    helper.work();
    assert_eq!(kernel.mapping_counts(0).expect("readable"), [MappingCounts::default(); KINDS]);
    let mut next = Helper::start(&program, &["random", "5", "1000", "2"]);
    kernel.watch_process(next.pid(), 0, false).expect("it can be followed");
    next.work();
    assert_ne!(kernel.mapping_counts(0).expect("readable"), [MappingCounts::default(); KINDS]);
    kernel.clear_mapping_counts(0).expect("writable");
    assert_eq!(kernel.mapping_counts(0).expect("readable"), [MappingCounts::default(); KINDS]);
}

#[test]
fn two_observers_count_the_same_and_the_one_that_leaves_disturbs_nobody() {
    let _alone = alone();
    let (Some(mut one), Some(mut other), Some(mut leaves)) = (load(WANTED), load(WANTED), load(WANTED))
    else {
        return;
    };
    let Some(program) = program() else { return };
    let mut helper = Helper::start(&program, &["random", "9", "40000", "4"]);
    for kernel in [&mut one, &mut other, &mut leaves] {
        kernel.watch_process(helper.pid(), 0, false).expect("it can be followed");
    }
    helper.tell("start");
    drop(leaves);
    let answer = helper.answer();
    for kernel in [one, other] {
        assert_eq!(lost(&kernel), 0);
        compare(kernel.mapping_counts(0).expect("readable"), truth(&answer), "one of two");
    }
}

/// How many performance events a process holds.
fn events_of(pid: u32) -> usize {
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("the process is there");
    descriptors
        .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
        .filter(|link| link.as_os_str() == "anon_inode:[perf_event]")
        .count()
}

#[test]
fn nothing_is_attached_unless_it_was_asked_for_and_nothing_stays() {
    let _alone = alone();
    let own = std::process::id();
    assert_eq!(events_of(own), 0);
    let mounts = || std::fs::read_to_string("/proc/self/mountinfo").expect("it is always there");
    let before = mounts();
    let Some(without) = load(Wanted { alloc: true, stalls: true, ..Wanted::NOTHING }) else {
        return;
    };
    assert_eq!(events_of(own), 0);
    let Some(with) = load(WANTED) else { return };
    assert_eq!(events_of(own), 5);
    assert_eq!(mounts(), before);
    drop((with, without));
    assert_eq!(events_of(own), 0);
}

#[test]
fn the_program_attaches_nothing_of_it_by_default() {
    let _alone = alone();
    let Some(program) = (if can_observe() { program() } else { None }) else { return };
    let helper = Helper::start(&program, &["fork"]);
    let watching = Watching::with(helper.pid(), &["--alloc", "off"]);
    assert_eq!(events_of(watching.pid()), 0);
}
