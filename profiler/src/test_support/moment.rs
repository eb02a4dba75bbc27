//! A moment with as many made-up targets as a test wants.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use profiler_common::{
    alloc::{AllocCounts, AllocFunction},
    sched::{CAUSES, STALL_BOUNDS, StallCause, StallCounts},
};

use super::picture;
use crate::{
    binary::{Allocator, Layer, PythonDomain},
    export::families::{Context, TOP_SITES},
    snapshot::{
        AllocSnapshot, AllocState, FunctionCounts, LedgerSnapshot, LiveObjects, ProcessInfo, ProcessSnapshot,
        Snapshot, TargetSnapshot,
    },
    stalls::Ledger,
};

/// What everybody has.
pub const CONTEXT: Context =
    Context { stall_threshold: Duration::from_millis(1), max_series: 10_000, top_sites: TOP_SITES };

/// A target that has called malloc seven times, in glibc and in a layer of Python.
pub fn target(name: &str) -> TargetSnapshot {
    let counts = AllocCounts { allocations: 7, bytes: 70, ..Default::default() };
    let of = |layer| FunctionCounts { layer, function: AllocFunction::Malloc, counts, hits: 7, internal: 0 };
    let layers = [Layer::Allocator(Allocator::Glibc), Layer::Python(PythonDomain::Raw)];
    let mut stalls = [StallCounts::default(); CAUSES];
    stalls[StallCause::Futex as usize].total_ns = 20_000_000_000;
    stalls[StallCause::Futex as usize].buckets[0] = 2;
    stalls[StallCause::Futex as usize].buckets[STALL_BOUNDS] = 1;
    let info = Arc::new(ProcessInfo { pid: 1, comm: name.to_owned(), exe: None });
    TargetSnapshot {
        name: name.into(),
        processes: vec![ProcessSnapshot { info, up: true, alloc: AllocState::Counting }],
        processes_seen: 1,
        observed: Duration::from_secs(2),
        cpu_seconds: 0.0,
        faults: (0, 0),
        usage: None,
        detail: None,
        alloc: AllocSnapshot {
            functions: layers.map(of).to_vec(),
            live: layers.map(|layer| LiveObjects { layer, objects: 7 }).to_vec(),
            ..Default::default()
        },
        ledger: Some(LedgerSnapshot { ledger: Ledger::default(), stalls }),
        mappings: None,
        go: None,
        programs: Vec::new(),
    }
}

/// A moment with these targets and nothing else.
pub fn snapshot(targets: Vec<TargetSnapshot>) -> Snapshot {
    Snapshot {
        taken_at: picture::at(picture::TAKEN_AT),
        taken: Instant::now(),
        targets,
        losses: vec![("threads_full", 0)],
        not_observed: vec![("max_targets", 0)],
        forgotten: 0,
        held_back: Duration::ZERO,
        own: None,
        leaks: None,
        worker: None,
        history: None,
        push: None,
    }
}
