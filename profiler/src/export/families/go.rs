//! What Go's runtimes say of themselves.

use profiler_common::stops::{STOP_BOUNDS, stop_bound_ns};

use super::Families;
use crate::{
    export::catalogue::{self as c, go},
    snapshot::TargetSnapshot,
};

/// Everything of a target's Go programs. What can't be told has no series, and `profiler_go_unavailable_info` says why.
pub(super) fn target(out: &mut Families, target: &TargetSnapshot) {
    let (name, Some(snapshot)) = (&*target.name, &target.go) else { return };
    for version in &snapshot.versions {
        out.flag(&c::GO_INFO, &[name, version], true);
    }
    for trouble in &snapshot.trouble {
        out.flag(&c::GO_UNAVAILABLE, &[name, trouble.what, trouble.kind], true);
    }
    for (table, exact) in &snapshot.tables {
        let exact = if *exact { "true" } else { "false" };
        out.flag(&c::GO_TABLE, &[name, table, exact], true);
    }
    for (reason, counts) in snapshot.stops.iter().flatten() {
        out.count(&c::GO_STOPS, &[name, reason], counts.count());
        let buckets = counts.buckets.iter().copied().zip((0..STOP_BOUNDS).map(stop_bound_ns));
        out.histogram(&c::GO_STOP_SECONDS, &[name, reason], buckets, (counts.count(), counts.total_ns));
    }
    // Where there are no figures, these may say why.
    let losses = &snapshot.losses;
    out.count(&c::GO_READINGS_REPEATED, &[name], losses.readings_repeated);
    out.count(&c::GO_COUNTERS_HELD_BACK, &[name], losses.counters_held_back);
    out.count(&c::GO_READERS_LOST, &[name], losses.readers_lost);
    let Some(figures) = &snapshot.figures else { return };
    for figure in go::FIGURES {
        out.push(&figure.ours, &[name], (figure.value)(figures));
    }
    out.count(&c::GO_PROCESSES, &[name], snapshot.processes);
    out.count(&c::GO_CYCLES, &[name], figures.num_gc.into());
    out.count(&c::GO_FORCED_CYCLES, &[name], figures.num_forced_gc.into());
    if let Some(cpus) = figures.cpus {
        out.count(&c::GO_CPUS, &[name], cpus);
    }
    // Of several processes the last one that paused.
    if let Some((length, end)) = figures.pauses.iter().max_by_key(|(_, end)| *end) {
        out.value(&c::GO_LAST_PAUSE, &[name], go::seconds(*length));
        out.value(&c::GO_LAST_PAUSE_END, &[name], go::seconds(*end));
    }
    out.count(&c::GO_PAUSES_MISSED, &[name], losses.pauses_missed);
    out.value(&c::GO_READ_SECONDS, &[name], snapshot.read_seconds);
}
