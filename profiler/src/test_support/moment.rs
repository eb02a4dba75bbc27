//! A moment with as many made-up targets as a test wants.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use profiler_common::{
    alloc::{AllocCounts, AllocFunction},
    sched::{CAUSES, STALL_BOUNDS, StallCause, StallCounts},
    stops::StopCounts,
};

use super::picture;
use crate::{
    binary::{
        Allocator, Layer, PythonDomain,
        go::{BuildInfo, Module},
    },
    export::families::{Context, TOP_SITES},
    runtime::go::figures::Figures,
    snapshot::{
        AllocSnapshot, AllocState, FunctionCounts, GoBuild, GoLosses, GoSnapshot, GoTrouble, LedgerSnapshot,
        LiveObjects, ProcessInfo, ProcessSnapshot, ProgramDescription, ProgramPart, ProgramTrouble, Snapshot,
        TargetSnapshot,
    },
    stalls::Ledger,
    target::ProcessUsage,
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

/// A target with a runtime of Go that tells everything, and two programs.
pub fn go_target(name: &str) -> TargetSnapshot {
    let usage = ProcessUsage {
        cpu_seconds: 1.5,
        open_fds: Some(9),
        max_fds: Some(1024),
        virtual_memory_bytes: 1 << 30,
        resident_memory_bytes: 20 << 20,
        start_time_seconds: 1_767_323_045.25,
        ..Default::default()
    };
    TargetSnapshot {
        cpu_seconds: 1.5,
        usage: Some(usage),
        go: Some(go()),
        programs: vec![go_program().into(), rust_program().into()],
        ..target(name)
    }
}

/// What a runtime of Go may say: each figure another, so that none can stand in for another.
pub fn go() -> GoSnapshot {
    let mut pauses = StallCounts { total_ns: 1_500_000, ..Default::default() };
    pauses.buckets[0] = 3;
    let mut stops = StopCounts { total_ns: 90_000, ..Default::default() };
    stops.buckets[4] = 3;
    GoSnapshot {
        versions: vec!["go1.23.9".to_owned()],
        figures: Some(figures()),
        processes: 1,
        trouble: vec![trouble("heap_profile", "the linker left memory profiling out")],
        pauses,
        losses: GoLosses { pauses_missed: 2, readings_repeated: 5, counters_held_back: 6, readers_lost: 7 },
        stops: Some(vec![("GC mark termination", stops)]),
        tables: vec![("1.23.1".to_owned(), false), ("1.24.3".to_owned(), true)],
        read_seconds: 0.000_02,
        programs: Vec::new(),
    }
}

/// Something that can't be told.
pub fn trouble(what: &'static str, reason: &str) -> GoTrouble {
    GoTrouble { what, kind: "unavailable", reason: reason.to_owned() }
}

/// Its figures. Sizes fit together as the runtime's do.
pub fn figures() -> Figures {
    Figures {
        goroutines: 12,
        threads: 7,
        gomaxprocs: 4,
        cpus: Some(8),
        alloc: 1_000_000,
        total_alloc: 9_000_000,
        sys: 14_000_000,
        mallocs: 70_000,
        frees: 60_000,
        heap_sys: 8_000_000,
        heap_idle: 5_000_000,
        heap_inuse: 3_000_000,
        heap_released: 2_000_000,
        heap_objects: 10_000,
        stack_inuse: 400_000,
        stack_sys: 500_000,
        mspan_inuse: 60_000,
        mspan_sys: 65_000,
        mcache_inuse: 4_800,
        mcache_sys: 15_600,
        buck_hash_sys: 1_400_000,
        gc_sys: 2_700_000,
        other_sys: 900_000,
        next_gc: 4_194_304,
        last_gc: 1_767_323_100_500_000_000,
        pause_total_ns: 1_500_000,
        num_gc: 5,
        num_forced_gc: 1,
        gc_cpu_fraction: 0.015_625,
        gc_percent: -1,
        memory_limit: i64::MAX,
        pauses: [
            (300_000, 1),
            (100_000, 2),
            (500_000, 3),
            (400_000, 4),
            (200_000, 1_767_323_100_500_000_000),
        ]
        .into(),
    }
}

/// A program of Go with three modules, one of which is replaced.
pub fn go_program() -> ProgramDescription {
    let module = |path: &str, version: &str| Module {
        path: path.to_owned(),
        version: version.to_owned(),
        sum: format!("h1:{path}="),
        replace: None,
    };
    let replaced = Module {
        replace: Some(Box::new(module("example.com/fork", "v0.9.0"))),
        ..module("example.com/original", "v1.0.0")
    };
    let setting = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let info = BuildInfo {
        path: "example.com/shop/cmd/shopd".to_owned(),
        main: Some(module("example.com/shop", "(devel)")),
        dependencies: vec![
            module("github.com/prometheus/client_golang", "v1.20.5"),
            replaced,
            module("golang.org/x/sys", "v0.28.0"),
        ],
        settings: vec![
            setting("-race", "true"),
            setting("CGO_ENABLED", "1"),
            setting("GOARCH", "amd64"),
            setting("GOOS", "linux"),
            setting("vcs", "git"),
            setting("vcs.revision", "0123abcd"),
            setting("vcs.time", "2026-01-02T03:04:05Z"),
            setting("vcs.modified", "false"),
        ],
    };
    ProgramDescription {
        exe: "/usr/bin/shopd".to_owned(),
        go: Some(GoBuild { version: "go1.23.9".to_owned(), info: Some(info) }),
        ..Default::default()
    }
}

/// A program of Rust with a crate and a library, of which not all could be read.
pub fn rust_program() -> ProgramDescription {
    let part = |kind, name: &str, version: &str, build_id: &str| ProgramPart {
        kind,
        name: name.to_owned(),
        version: version.to_owned(),
        build_id: build_id.to_owned(),
    };
    ProgramDescription {
        exe: "/usr/bin/helper".to_owned(),
        parts: vec![part("rust", "serde", "1.0.200", ""), part("library", "libc.so.6", "2.36", "abcd")],
        left_out: 4,
        trouble: vec![ProgramTrouble {
            what: "parts",
            kind: "damaged",
            reason: "the list of its crates: it ends early".to_owned(),
        }],
        ..Default::default()
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
