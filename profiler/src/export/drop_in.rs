//! One target as client_golang would show it from inside: its names, kinds and help, and no label that says whose they are.
//!
//! So that dashboards, alerts and recording rules which were made for a program with that library work for one without it.
//! Names and texts of `go_*` are in [`catalogue::go`](super::catalogue::go), those of `process_*` are those of our own process
//! (prometheus/process_collector.go), `go_mod_info` is prommod's (prommod.go). `process_network_*` are left out: what the
//! library shows under these names is of the whole network namespace, whoever has sent it.
//!
//! It is always in the text format, as `promhttp.Handler()` answers when nobody has asked for more in the program: OpenMetrics
//! would write the shares of `go_gc_duration_seconds` in another way, and the queries of a dashboard would find nothing.

use super::{
    catalogue::{self as c, Family, Influx, Kind, go},
    families::{
        Families,
        programs::{TakenModule, build_info, short_name},
    },
    prometheus,
};
use crate::snapshot::TargetSnapshot;

const INFO: Family = Family {
    name: "go_info",
    kind: Kind::Gauge,
    labels: &["version"],
    help: "Information about the Go environment.",
    influx: Influx::NOWHERE,
};

/// Its help names the program: see [`modules_help`].
const MOD_INFO: Family = Family {
    name: "go_mod_info",
    kind: Kind::Gauge,
    labels: &["name", "version", "program"],
    help: "",
    influx: Influx::NOWHERE,
};

/// Writes a target down. What isn't known is absent.
///
/// # Errors
///
/// As [`prometheus::render`].
pub fn render(target: &TargetSnapshot) -> Result<String, ::prometheus::Error> {
    prometheus::render(families(target))
}

/// Its families.
pub fn families(target: &TargetSnapshot) -> Families {
    let mut out = Families::default();
    process(&mut out, target);
    runtime(&mut out, target);
    modules(&mut out, target);
    out
}

fn process(out: &mut Families, target: &TargetSnapshot) {
    let Some(usage) = &target.usage else { return };
    // Of all processes that the target has had, so that it doesn't sink when one of several ends.
    out.value(&c::OWN_CPU, &[], target.cpu_seconds);
    if let Some(open_fds) = usage.open_fds {
        out.count(&c::OWN_OPEN_FDS, &[], open_fds);
    }
    let limit = |limit: Option<u64>| limit.unwrap_or(u64::MAX);
    out.count(&c::OWN_MAX_FDS, &[], limit(usage.max_fds));
    out.count(&c::OWN_VIRTUAL, &[], usage.virtual_memory_bytes);
    out.count(&c::OWN_VIRTUAL_MAX, &[], limit(usage.virtual_memory_max_bytes));
    out.count(&c::OWN_RESIDENT, &[], usage.resident_memory_bytes);
    out.value(&c::OWN_START, &[], usage.start_time_seconds);
}

fn runtime(out: &mut Families, target: &TargetSnapshot) {
    let Some(snapshot) = &target.go else { return };
    for version in &snapshot.versions {
        out.flag(&INFO, &[version], true);
    }
    let Some(figures) = &snapshot.figures else { return };
    for figure in go::FIGURES {
        out.push(&figure.theirs, &[], (figure.value)(figures));
    }
}

fn modules(out: &mut Families, target: &TargetSnapshot) {
    for program in &target.programs {
        let short = short_name(program);
        for module in build_info(program).into_iter().flat_map(|info| &info.dependencies) {
            let TakenModule { name, version, .. } = TakenModule::of(module);
            out.flag(&MOD_INFO, &[name, version, short], true);
        }
    }
    let mut programs: Vec<_> = target.programs.iter().filter(|program| program.go.is_some()).collect();
    programs.sort_unstable_by_key(|program| short_name(program));
    programs.dedup_by_key(|program| short_name(program));
    let names: Vec<_> = programs.into_iter().map(|program| short_name(program)).collect();
    out.explain(&MOD_INFO, modules_help(&names.join(", ")));
}

/// As prommod words it.
fn modules_help(program: &str) -> String {
    format!(
        "A metric with a constant '1' value labeled by dependency name, version, from which {program} was built."
    )
}

#[cfg(test)]
mod tests;
