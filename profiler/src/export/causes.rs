//! Causes of stalls, as they are exported: those that the kernel tells of threads, and one that only Go's runtime tells.

use profiler_common::sched::{StallCause, StallCounts};

use crate::snapshot::TargetSnapshot;

/// Go's garbage collector stopped the world: all threads of a process that run Go code, once for each cycle. A thread that
/// waits for it may also be counted under what it waits on.
pub const GC: &str = "gc";

/// The names of all.
pub fn names() -> impl Iterator<Item = &'static str> {
    StallCause::ALL.map(StallCause::name).into_iter().chain([GC])
}

/// What a target has of each: none of the kernel's without its thread time, and no pauses where nobody can tell them.
pub fn of(target: &TargetSnapshot) -> Vec<(&'static str, &StallCounts)> {
    let kept = target.ledger.as_ref();
    let mut all: Vec<_> = kept
        .into_iter()
        .flat_map(|kept| {
            StallCause::ALL.into_iter().map(|cause| (cause.name(), &kept.stalls[cause as usize]))
        })
        .collect();
    // What was counted stays, whatever can be told now: a counter doesn't vanish.
    let told = target.go.as_ref().filter(|go| go.figures.is_some() || go.pauses.count() > 0);
    all.extend(told.map(|go| (GC, &go.pauses)));
    all
}
