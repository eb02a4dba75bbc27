//! The snapshot as JSON: `--json`, `--report`, `/api/v1/targets`.

use std::{collections::BTreeMap, time::UNIX_EPOCH};

use profiler_common::sched::{STALL_BOUNDS, StallCause, ThreadState, stall_bound_ns};
use serde::Serialize;

use crate::snapshot::{SiteInfo, Snapshot, TargetSnapshot};

#[derive(Serialize)]
struct Document<'a> {
    /// Seconds since the epoch.
    taken_at: f64,
    targets: Vec<Target<'a>>,
    events_lost: BTreeMap<&'a str, u64>,
    ledger_held_back_seconds: f64,
}

#[derive(Serialize)]
struct Target<'a> {
    target: &'a str,
    pid: u32,
    comm: &'a str,
    exe: Option<&'a str>,
    up: bool,
    observed_seconds: f64,
    alloc: Alloc<'a>,
    functions: Vec<Function>,
    allocations: u64,
    frees: u64,
    allocated_bytes: u64,
    live_objects: i64,
    thread_seconds: Option<BTreeMap<&'static str, f64>>,
    threads_ended: Option<u64>,
    stalls: Option<Vec<Stalls>>,
    process: Option<ProcessFigures>,
    sites: Vec<Site<'a>>,
}

#[derive(Serialize)]
struct Alloc<'a> {
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}

#[derive(Serialize)]
struct Function {
    function: &'static str,
    allocations: u64,
    frees: u64,
    bytes: u64,
    refused: u64,
    ignored: u64,
    internal: u64,
    hits: u64,
}

#[derive(Serialize)]
struct Stalls {
    cause: &'static str,
    count: u64,
    seconds: f64,
    /// Cumulative, as in Prometheus; the last bound is the highest.
    buckets: Vec<Bucket>,
}

#[derive(Serialize)]
struct Bucket {
    le: f64,
    count: u64,
}

#[derive(Serialize)]
struct ProcessFigures {
    cpu_seconds: f64,
    resident_memory_bytes: u64,
    anonymous_memory_bytes: u64,
    virtual_memory_bytes: u64,
    swap_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    proportional_memory_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unique_memory_bytes: Option<u64>,
    threads: u64,
    open_fds: Option<u64>,
    minor_faults: u64,
    major_faults: u64,
    start_time_seconds: f64,
}

#[derive(Serialize)]
struct Site<'a> {
    function: &'static str,
    names: &'a [String],
    object: &'a str,
    build_id: Option<&'a str>,
    offset: u64,
    instruction: &'a str,
    kind: &'static str,
    reason: &'a str,
    in_place: Option<bool>,
    internal_calls: usize,
    notes: &'a [String],
}

/// Renders a snapshot: one object, indented.
///
/// # Errors
///
/// If a number can't be written, which none of ours is.
pub fn render(snapshot: &Snapshot) -> serde_json::Result<String> {
    let document = Document {
        taken_at: snapshot.taken_at.duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64()),
        targets: snapshot.targets.iter().map(target).collect(),
        events_lost: snapshot.losses.iter().copied().collect(),
        ledger_held_back_seconds: snapshot.held_back.as_secs_f64(),
    };
    serde_json::to_string_pretty(&document)
}

fn target(target: &TargetSnapshot) -> Target<'_> {
    let total = target.alloc.total();
    let (state, reason) = target.alloc.state.tell();
    let functions = target.alloc.by_function().into_iter().map(|one| Function {
        function: one.function.name(),
        allocations: one.counts.allocated(),
        frees: one.counts.freed(),
        bytes: one.counts.bytes,
        refused: one.counts.refused,
        ignored: one.counts.ignored,
        internal: one.internal,
        hits: one.hits,
    });
    let seconds = target.ledger.map(|kept| {
        ThreadState::ALL.map(|state| (state.name(), kept.ledger.seconds(state))).into_iter().collect()
    });
    Target {
        target: &target.info.name,
        pid: target.info.pid,
        comm: &target.info.comm,
        exe: target.info.exe.as_deref(),
        up: target.up,
        observed_seconds: target.observed.as_secs_f64(),
        alloc: Alloc { state, reason },
        functions: functions.collect(),
        allocations: total.allocated(),
        frees: total.freed(),
        allocated_bytes: total.bytes,
        live_objects: target.alloc.live_objects(),
        thread_seconds: seconds,
        threads_ended: target.ledger.map(|kept| kept.ledger.ended),
        stalls: stalls(target),
        process: process(target),
        sites: target.alloc.sites.iter().map(|site| self::site(&site.site)).collect(),
    }
}

fn stalls(target: &TargetSnapshot) -> Option<Vec<Stalls>> {
    let kept = target.ledger.as_ref()?;
    let by_cause = StallCause::ALL.into_iter().map(|cause| {
        let counts = &kept.stalls[cause as usize];
        let mut cumulative = 0;
        let buckets = (0..STALL_BOUNDS).map(|i| {
            cumulative += counts.buckets[i];
            Bucket { le: stall_bound_ns(i) as f64 / 1e9, count: cumulative }
        });
        Stalls {
            cause: cause.name(),
            count: counts.count(),
            seconds: counts.total_ns as f64 / 1e9,
            buckets: buckets.collect(),
        }
    });
    Some(by_cause.collect())
}

fn process(target: &TargetSnapshot) -> Option<ProcessFigures> {
    let usage = target.usage.as_ref()?;
    let memory = target.detail.as_ref().and_then(|(detail, _)| detail.memory);
    Some(ProcessFigures {
        cpu_seconds: usage.cpu_seconds,
        resident_memory_bytes: usage.resident_memory_bytes,
        anonymous_memory_bytes: usage.anonymous_memory_bytes,
        virtual_memory_bytes: usage.virtual_memory_bytes,
        swap_bytes: usage.swap_bytes,
        proportional_memory_bytes: memory.map(|memory| memory.proportional_bytes),
        unique_memory_bytes: memory.map(|memory| memory.unique_bytes),
        threads: usage.threads,
        open_fds: usage.open_fds,
        minor_faults: usage.minor_faults,
        major_faults: usage.major_faults,
        start_time_seconds: usage.start_time_seconds,
    })
}

fn site(site: &SiteInfo) -> Site<'_> {
    Site {
        function: site.function.name(),
        names: &site.names,
        object: &site.object,
        build_id: site.build_id.as_deref(),
        offset: site.offset,
        instruction: &site.instruction,
        kind: site.kind.name(),
        reason: &site.reason,
        in_place: site.in_place,
        internal_calls: site.internal_calls,
        notes: &site.notes,
    }
}
