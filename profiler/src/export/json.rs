//! The snapshot as JSON: `--json`, `--report`, `/api/v1/targets`; a picture of leaks as JSON: `/api/v1/leaks`.

mod go;

use std::{collections::BTreeMap, time::UNIX_EPOCH};

use profiler_common::mapping::{MappingCounts, MappingKind};
use profiler_common::sched::{STALL_BOUNDS, ThreadState, stall_bound_ns};
use serde::Serialize;

use crate::{
    binary::Layer,
    export::{causes, html::segment},
    leaks::Picture,
    snapshot::{Mappings, ProcessSnapshot, SiteInfo, Snapshot, TargetSnapshot},
};

#[derive(Serialize)]
struct Document<'a> {
    /// Seconds since the epoch.
    taken_at: f64,
    targets: Vec<Target<'a>>,
    processes_not_observed: BTreeMap<&'a str, u64>,
    targets_forgotten: u64,
    events_lost: BTreeMap<&'a str, u64>,
    ledger_held_back_seconds: f64,
    /// In reports, if leaks are looked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    leaks: Option<&'a Picture>,
}

#[derive(Serialize)]
struct Target<'a> {
    target: &'a str,
    /// Where it is as client_golang would show it.
    metrics: String,
    /// Of the only process, or of the one that was observed first.
    pid: Option<u32>,
    up: bool,
    processes: Vec<Process<'a>>,
    processes_seen: u64,
    observed_seconds: f64,
    /// Time in which processes ran uncounted, between a fork or execve and the probes.
    gap_seconds: f64,
    /// Of all processes in one answer.
    alloc: OwnedAlloc,
    functions: Vec<Function>,
    allocators: Vec<Totals>,
    /// CPython's own layers, which stand on the allocators.
    python: Vec<Totals>,
    /// Of all allocators together, as the next three.
    allocations: u64,
    frees: u64,
    allocated_bytes: u64,
    live_objects: i64,
    thread_seconds: Option<BTreeMap<&'static str, f64>>,
    threads_ended: Option<u64>,
    stalls: Option<Vec<Stalls>>,
    mappings: Option<Vec<Mapping>>,
    /// Of all processes, those that ended included.
    cpu_seconds: f64,
    minor_faults: u64,
    major_faults: u64,
    /// Of the living.
    process: Option<ProcessFigures>,
    sites: Vec<Site<'a>>,
    unhooked: Vec<NotHooked<'a>>,
    /// What Go's runtime says; `null` if no process of it runs Go.
    go: Option<go::Go<'a>>,
    /// What its programs were built from, as far as that is known already.
    programs: Vec<go::Program<'a>>,
}

#[derive(Serialize)]
struct Process<'a> {
    pid: u32,
    comm: &'a str,
    exe: Option<&'a str>,
    up: bool,
    alloc: Alloc<'a>,
}

/// Everything of one layer.
#[derive(Serialize)]
struct Totals {
    /// As in the `functions` above.
    allocator: &'static str,
    allocations: u64,
    frees: u64,
    allocated_bytes: u64,
    live_objects: i64,
}

#[derive(Serialize)]
struct NotHooked<'a> {
    allocator: Option<&'static str>,
    function: &'a str,
    object: &'a str,
    reason: &'a str,
}

#[derive(Serialize)]
struct OwnedAlloc {
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

#[derive(Serialize)]
struct Alloc<'a> {
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}

#[derive(Serialize)]
struct Function {
    allocator: &'static str,
    function: &'static str,
    allocations: u64,
    frees: u64,
    bytes: u64,
    refused: u64,
    ignored: u64,
    internal: u64,
    hits: u64,
}

/// System calls of one kind that map or unmap memory.
#[derive(Clone, Copy, Serialize)]
struct Mapping {
    kind: &'static str,
    calls: u64,
    bytes: u64,
    failed: u64,
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
    allocator: &'static str,
    function: &'static str,
    names: &'a [String],
    object: &'a str,
    build_id: Option<&'a str>,
    places: usize,
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
    serde_json::to_string_pretty(&document(snapshot, None))
}

/// The same with what is known of leaks: what a report has in it.
///
/// # Errors
///
/// As [`render`].
pub fn report(snapshot: &Snapshot) -> serde_json::Result<String> {
    serde_json::to_string_pretty(&document(snapshot, snapshot.leaks.as_deref()))
}

fn document<'a>(snapshot: &'a Snapshot, leaks: Option<&'a Picture>) -> Document<'a> {
    Document {
        taken_at: snapshot.taken_at.duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64()),
        targets: snapshot.targets.iter().map(target).collect(),
        processes_not_observed: snapshot.not_observed.iter().copied().collect(),
        targets_forgotten: snapshot.forgotten,
        events_lost: snapshot.losses.iter().copied().collect(),
        ledger_held_back_seconds: snapshot.held_back.as_secs_f64(),
        leaks,
    }
}

/// Renders what is known of leaks: one object, indented. docs/leaks-json.md has its fields.
///
/// # Errors
///
/// As [`render`].
pub fn leaks(picture: &Picture) -> serde_json::Result<String> {
    serde_json::to_string_pretty(picture)
}

fn target(target: &TargetSnapshot) -> Target<'_> {
    let alloc = &target.alloc;
    let together = target.alloc_state();
    let (state, reason) = together.tell();
    let total = alloc.total();
    let functions = alloc.functions.iter().map(|one| Function {
        allocator: one.layer.name(),
        function: one.function.name(),
        allocations: one.counts.allocated(),
        frees: one.counts.freed(),
        bytes: one.counts.bytes,
        refused: one.counts.refused,
        ignored: one.counts.ignored,
        internal: one.internal,
        hits: one.hits,
    });
    let (allocators, python): (Vec<_>, Vec<_>) =
        alloc.layers().into_iter().partition(|layer| matches!(layer, Layer::Allocator(_)));
    let totals = |layers: Vec<Layer>| layers.into_iter().map(|layer| totals(target, layer)).collect();
    let unhooked = alloc.unhooked.iter().map(|one| NotHooked {
        allocator: one.layer.map(Layer::name),
        function: &one.name,
        object: &one.object,
        reason: &one.reason,
    });
    let seconds = target.ledger.map(|kept| {
        ThreadState::ALL.map(|state| (state.name(), kept.ledger.seconds(state))).into_iter().collect()
    });
    Target {
        target: &target.name,
        metrics: format!("/targets/{}/metrics", segment(&target.name)),
        pid: target.processes.first().map(|process| process.info.pid),
        up: target.up(),
        processes: target.processes.iter().map(one_process).collect(),
        processes_seen: target.processes_seen,
        observed_seconds: target.observed.as_secs_f64(),
        gap_seconds: alloc.gap.as_secs_f64(),
        alloc: OwnedAlloc { state, reason: reason.map(str::to_owned) },
        functions: functions.collect(),
        allocators: totals(allocators),
        python: totals(python),
        allocations: total.allocated(),
        frees: total.freed(),
        allocated_bytes: total.bytes,
        live_objects: alloc.live_objects(),
        thread_seconds: seconds,
        threads_ended: target.ledger.map(|kept| kept.ledger.ended),
        stalls: stalls(target),
        mappings: target
            .mappings
            .as_ref()
            .map(|counts| MappingKind::ALL.map(|kind| mapping(kind, counts)).to_vec()),
        cpu_seconds: target.cpu_seconds,
        minor_faults: target.faults.0,
        major_faults: target.faults.1,
        process: process(target),
        sites: alloc.sites.iter().map(|site| self::site(site)).collect(),
        unhooked: unhooked.collect(),
        go: target.go.as_ref().map(go::go),
        programs: target.programs.iter().map(|program| go::program(program)).collect(),
    }
}

fn one_process(process: &ProcessSnapshot) -> Process<'_> {
    let (state, reason) = process.alloc.tell();
    Process {
        pid: process.info.pid,
        comm: &process.info.comm,
        exe: process.info.exe.as_deref(),
        up: process.up,
        alloc: Alloc { state, reason },
    }
}

fn totals(target: &TargetSnapshot, layer: Layer) -> Totals {
    let counts = target.alloc.total_of(layer);
    let live = target.alloc.live.iter().find(|one| one.layer == layer);
    Totals {
        allocator: layer.name(),
        allocations: counts.allocated(),
        frees: counts.freed(),
        allocated_bytes: counts.bytes,
        live_objects: live.map_or(0, |live| live.objects),
    }
}

const fn mapping(kind: MappingKind, counts: &Mappings) -> Mapping {
    let MappingCounts { calls, bytes, failed } = counts[kind as usize];
    Mapping { kind: kind.name(), calls, bytes, failed }
}

fn stalls(target: &TargetSnapshot) -> Option<Vec<Stalls>> {
    let causes = causes::of(target);
    if causes.is_empty() {
        return None;
    }
    let by_cause = causes.into_iter().map(|(cause, counts)| {
        let mut cumulative = 0;
        let buckets = (0..STALL_BOUNDS).map(|i| {
            cumulative += counts.buckets[i];
            Bucket { le: stall_bound_ns(i) as f64 / 1e9, count: cumulative }
        });
        Stalls {
            cause,
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
        allocator: site.layer.name(),
        function: site.function.name(),
        names: &site.names,
        object: &site.object,
        build_id: site.build_id.as_deref(),
        places: site.places,
        offset: site.offset,
        instruction: &site.instruction,
        kind: site.kind.name(),
        reason: &site.reason,
        in_place: site.in_place,
        internal_calls: site.internal_calls,
        notes: &site.notes,
    }
}
