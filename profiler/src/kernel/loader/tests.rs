//! The embedded object and the loader agree.

use super::*;
use crate::kernel::place::{SESSIONS, UPROBES};
use object::{Object as _, ObjectSection as _, ObjectSymbol as _};
use profiler_common::{
    process::Switches,
    sample::{LiveKey, PendingKey, PendingSample},
};

/// Key and value size of a map as the object declares it (`bpf_map_def`: type, key size, value size, entries, flags).
fn declared(file: &object::File<'_>, map: &str) -> Option<(u32, u32)> {
    let symbol = file.symbols().find(|symbol| symbol.name() == Ok(map))?;
    let section = file.section_by_index(symbol.section_index()?).ok()?;
    let at = usize::try_from(symbol.address()).ok()?;
    let word = |n: usize| {
        Some(u32::from_le_bytes(section.data().ok()?.get(at + 4 * n..at + 4 * n + 4)?.try_into().ok()?))
    };
    Some((word(1)?, word(2)?))
}

#[test]
fn the_embedded_object_has_every_map_with_the_sizes_of_the_contract() {
    let file = object::File::parse(OBJECT).unwrap();
    let size = |bytes: usize| u32::try_from(bytes).unwrap();
    let contract = [
        ("ALLOC_SITES", size(size_of::<AllocSite>())),
        ("SWITCHES", size(size_of::<Switches>())),
        ("ALLOC_COUNTS", size(size_of::<SiteCounts>())),
        ("TARGETS_BY_PID", size(size_of::<TargetEntry>())),
        ("EVENT_SCOPE", 4),
        ("TRIALS", 8),
        ("SAMPLE_IDS", 8),
        ("LIVE_FILTER", 8),
        ("THREADS", size(size_of::<ThreadRecord>())),
        ("HINTS", 4),
        ("RETIRED", size(size_of::<Retired>())),
        ("STALLS", size(size_of::<StallCounts>())),
        ("MAPPING_COUNTS", size(size_of::<MappingCounts>())),
        ("GO_STOPPED", size(size_of::<PendingStop>())),
        ("GO_STOPS", size(size_of::<StopCounts>())),
        ("BREAKS", 8),
        ("OUTCOMES", 8),
    ];
    for (map, value) in contract {
        assert_eq!(declared(&file, map), Some((4, value)), "{map}");
    }
    let live = (size(size_of::<LiveKey>()), 8);
    assert_eq!(declared(&file, "LIVE_SAMPLES"), Some(live));
    let pending = (size(size_of::<PendingKey>()), size(size_of::<PendingSample>()));
    assert_eq!(declared(&file, "PENDING_SAMPLES"), Some(pending));
    for ring in ["PROCESS_EVENTS", "SAMPLES"] {
        assert_eq!(declared(&file, ring), Some((0, 0)), "{ring}: a ring buffer has no keys");
    }
}

#[test]
fn the_embedded_object_has_every_program_and_knob() {
    let file = object::File::parse(OBJECT).unwrap();
    let names: Vec<_> = file.symbols().filter_map(|symbol| symbol.name().ok().map(str::to_owned)).collect();
    let knobs = [
        "AYA_LOG_LEVEL",
        "STALL_THRESHOLD_NS",
        "TASK_PID",
        "TASK_TGID",
        "TASK_STATE",
        "TASK_IOWAIT_BYTE",
        "TASK_IOWAIT_MASK",
        "TASK_COMPAT_STATUS",
        "TASK_FLAGS",
        "TASK_SIGNAL",
        "SIGNAL_LIVE",
        "TASK_EXIT_CODE",
        "EXIT_TELLS_GROUP_DEAD",
        "TASK_MM",
        "MM_BRK",
    ];
    let programs = PROCESS_TRACEPOINTS.into_iter().chain(SCHED_TRACEPOINTS).chain(UPROBES);
    let programs = programs.chain(SESSIONS).chain(PAIRS);
    let programs = programs.chain(super::super::mapping::programs()).chain(stops::PROGRAMS);
    for name in programs.chain(knobs) {
        assert!(names.iter().any(|there| there == name), "{name} is missing");
    }
}
