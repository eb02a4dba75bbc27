//! The walk over a snapshot.

use profiler_common::{mapping::MappingKind, sched::ThreadState};

use super::{Context, Families, go, leaks, programs, push};
use crate::{
    binary::Layer,
    build_info,
    export::{
        catalogue::{self as c, Family},
        causes,
    },
    snapshot::{AllocState, Snapshot, TargetSnapshot},
    target::ProcessUsage,
};

/// Kinds of page faults.
pub const FAULTS: [&str; 2] = ["minor", "major"];
/// Kinds of context switches.
pub const SWITCHES: [&str; 2] = ["voluntary", "involuntary"];

/// Everything that the snapshot has.
pub(super) fn all(out: &mut Families, snapshot: &Snapshot, context: Context) {
    build(out);
    let mut left_out = 0;
    let without_targets = out.seen.len();
    // The living first: they are what the limit is for.
    let (up, ended): (Vec<_>, Vec<_>) = snapshot.targets.iter().partition(|target| target.up());
    for target in up.into_iter().chain(ended) {
        if out.seen.len() - without_targets >= context.max_series {
            left_out += 1;
            continue;
        }
        observed(out, target);
        allocations(out, target);
        python(out, target);
        sites(out, target);
        mappings(out, target);
        thread_time(out, target);
        stalls(out, target);
        go::target(out, target);
        programs::target(out, target);
        process(out, target, snapshot);
        leaks::target(out, snapshot, &target.name, context.top_sites);
    }
    leaks::worker(out, snapshot);
    leaks::history(out, snapshot);
    push::push(out, snapshot);
    out.count(&c::LEFT_OUT, &[], left_out);
    out.count(&c::FORGOTTEN, &[], snapshot.forgotten);
    for (reason, count) in &snapshot.not_observed {
        out.count(&c::NOT_OBSERVED, &[reason], *count);
    }
    out.value(&c::STALL_THRESHOLD, &[], context.stall_threshold.as_secs_f64());
    for (reason, count) in &snapshot.losses {
        out.count(&c::EVENTS_LOST, &[reason], *count);
    }
    out.value(&c::HELD_BACK, &[], snapshot.held_back.as_secs_f64());
    if let Some(own) = &snapshot.own {
        usage(out, &OWN, &[], own);
    }
}

fn build(out: &mut Families) {
    let build = build_info::BUILD;
    out.flag(
        &c::BUILD_INFO,
        &[
            build.version,
            build.revision,
            build.branch,
            build.rustc,
            std::env::consts::OS,
            std::env::consts::ARCH,
        ],
        true,
    );
    for (_, name, version) in build_info::DEPENDENCIES {
        out.flag(&c::DEPENDENCY_INFO, &[name, version], true);
    }
}

fn observed(out: &mut Families, target: &TargetSnapshot) {
    let name = &*target.name;
    for process in &target.processes {
        let info = &process.info;
        let exe = info.exe.as_deref().unwrap_or("");
        out.flag(&c::TARGET_INFO, &[name, &info.pid.to_string(), &info.comm, exe], true);
    }
    out.flag(&c::TARGET_UP, &[name], target.up());
    let running = target.processes.iter().filter(|process| process.up).count();
    out.count(&c::TARGET_PROCESSES, &[name], running as u64);
    out.count(&c::TARGET_PROCESSES_SEEN, &[name], target.processes_seen);
    out.value(&c::TARGET_OBSERVED, &[name], target.observed.as_secs_f64());
    for (state, processes) in target.alloc_states() {
        let (state, reason) = state.tell();
        out.count(&c::TARGET_ALLOC_INFO, &[name, state, reason.unwrap_or("")], processes as u64);
    }
}

fn allocations(out: &mut Families, target: &TargetSnapshot) {
    let name = &*target.name;
    for layer in target.alloc.layers() {
        let Layer::Allocator(allocator) = layer else { continue };
        let allocator = allocator.name();
        for one in target.alloc.functions.iter().filter(|one| one.layer == layer) {
            let labels = [name, allocator, one.function.name()];
            if one.function.allocates() {
                out.count(&c::ALLOCATIONS, &labels, one.counts.allocated());
                out.count(&c::REFUSED, &labels, one.counts.refused);
            }
            if one.function.frees() {
                out.count(&c::FREES, &labels, one.counts.freed());
            }
            out.count(&c::PROBE_HITS, &labels, one.hits);
        }
        out.count(&c::ALLOCATED_BYTES, &[name, allocator], target.alloc.total_of(layer).bytes);
        if let Some(live) = target.alloc.live.iter().find(|one| one.layer == layer) {
            out.signed(&c::LIVE_OBJECTS, &[name, allocator], live.objects);
        }
    }
    if target.alloc_states().iter().any(|(state, _)| **state != AllocState::Off) {
        out.value(&c::TARGET_GAP, &[name], target.alloc.gap.as_secs_f64());
    }
}

fn python(out: &mut Families, target: &TargetSnapshot) {
    let name = &*target.name;
    for layer in target.alloc.layers() {
        let Layer::Python(domain) = layer else { continue };
        let domain = domain.name();
        for one in target.alloc.functions.iter().filter(|one| one.layer == layer) {
            let labels = [name, domain, one.function.name()];
            if one.function.allocates() {
                out.count(&c::PYTHON_ALLOCATIONS, &labels, one.counts.allocated());
            }
            if one.function.frees() {
                out.count(&c::PYTHON_FREES, &labels, one.counts.freed());
            }
            out.count(&c::PROBE_HITS, &[name, layer.name(), one.function.name()], one.hits);
        }
        out.count(&c::PYTHON_BYTES, &[name, domain], target.alloc.total_of(layer).bytes);
        if let Some(live) = target.alloc.live.iter().find(|one| one.layer == layer) {
            out.signed(&c::PYTHON_LIVE, &[name, domain], live.objects);
        }
    }
}

fn sites(out: &mut Families, target: &TargetSnapshot) {
    let name = &*target.name;
    for site in &target.alloc.sites {
        let labels = [
            name,
            site.layer.name(),
            site.function.name(),
            &site.names.join(","),
            &site.object,
            site.build_id.as_deref().unwrap_or(""),
            &site.offset.to_string(),
            &site.instruction,
            site.kind.name(),
        ];
        out.flag(&c::PROBE_SITE_INFO, &labels, true);
    }
    for one in &target.alloc.unhooked {
        let layer = one.layer.map_or("", Layer::name);
        out.flag(&c::UNHOOKED_INFO, &[name, layer, &one.name, &one.object, &one.reason], true);
    }
}

fn mappings(out: &mut Families, target: &TargetSnapshot) {
    let Some(counts) = &target.mappings else { return };
    for kind in MappingKind::ALL {
        let labels = [&*target.name, kind.name()];
        let one = &counts[kind as usize];
        out.count(&c::MAPPING_CALLS, &labels, one.calls);
        out.count(&c::MAPPING_BYTES, &labels, one.bytes);
        out.count(&c::MAPPING_FAILED, &labels, one.failed);
    }
}

fn thread_time(out: &mut Families, target: &TargetSnapshot) {
    let Some(ledger) = &target.ledger else { return };
    let name = &*target.name;
    for state in ThreadState::ALL {
        out.value(&c::THREAD_SECONDS, &[name, state.name()], ledger.ledger.seconds(state));
    }
}

fn stalls(out: &mut Families, target: &TargetSnapshot) {
    let name = &*target.name;
    for (cause, counts) in causes::of(target) {
        out.count(&c::STALLS, &[name, cause], counts.count());
        out.stalls(&c::STALL_SECONDS, &[name, cause], counts);
    }
}

/// The families of one process's figures: a target's, or our own.
struct UsageFamilies {
    cpu: &'static Family,
    open_fds: &'static Family,
    max_fds: &'static Family,
    virtual_memory: &'static Family,
    virtual_memory_max: &'static Family,
    resident: &'static Family,
    start: &'static Family,
    threads: &'static Family,
}

const TARGET: UsageFamilies = UsageFamilies {
    cpu: &c::PROCESS_CPU,
    open_fds: &c::PROCESS_OPEN_FDS,
    max_fds: &c::PROCESS_MAX_FDS,
    virtual_memory: &c::PROCESS_VIRTUAL,
    virtual_memory_max: &c::PROCESS_VIRTUAL_MAX,
    resident: &c::PROCESS_RESIDENT,
    start: &c::PROCESS_START,
    threads: &c::PROCESS_THREADS,
};

const OWN: UsageFamilies = UsageFamilies {
    cpu: &c::OWN_CPU,
    open_fds: &c::OWN_OPEN_FDS,
    max_fds: &c::OWN_MAX_FDS,
    virtual_memory: &c::OWN_VIRTUAL,
    virtual_memory_max: &c::OWN_VIRTUAL_MAX,
    resident: &c::OWN_RESIDENT,
    start: &c::OWN_START,
    threads: &c::OWN_THREADS,
};

fn usage(out: &mut Families, families: &UsageFamilies, labels: &[&str], usage: &ProcessUsage) {
    // client_golang shows an absent limit as the largest number, too.
    let limit = |limit: Option<u64>| limit.unwrap_or(u64::MAX);
    out.value(families.cpu, labels, usage.cpu_seconds);
    if let Some(open_fds) = usage.open_fds {
        out.count(families.open_fds, labels, open_fds);
    }
    out.count(families.max_fds, labels, limit(usage.max_fds));
    out.count(families.virtual_memory, labels, usage.virtual_memory_bytes);
    out.count(families.virtual_memory_max, labels, limit(usage.virtual_memory_max_bytes));
    out.count(families.resident, labels, usage.resident_memory_bytes);
    out.value(families.start, labels, usage.start_time_seconds);
    out.count(families.threads, labels, usage.threads);
}

fn process(out: &mut Families, target: &TargetSnapshot, snapshot: &Snapshot) {
    let name = &*target.name;
    out.value(&c::PROCESS_CPU, &[name], target.cpu_seconds);
    for (kind, count) in FAULTS.into_iter().zip([target.faults.0, target.faults.1]) {
        out.count(&c::PROCESS_FAULTS, &[name, kind], count);
    }
    if let Some(figures) = &target.usage {
        usage(out, &TARGET, &[name], figures);
        out.count(&c::PROCESS_ANONYMOUS, &[name], figures.anonymous_memory_bytes);
        out.count(&c::PROCESS_SWAP, &[name], figures.swap_bytes);
    }
    if let Some((detail, read_at)) = &target.detail {
        if let Some(memory) = detail.memory {
            out.count(&c::PROCESS_PROPORTIONAL, &[name], memory.proportional_bytes);
            out.count(&c::PROCESS_UNIQUE, &[name], memory.unique_bytes);
        }
        for (kind, count) in
            SWITCHES.into_iter().zip([detail.voluntary_switches, detail.involuntary_switches])
        {
            out.count(&c::PROCESS_SWITCHES, &[name, kind], count);
        }
        if let Some(limit) = detail.memory_limit_bytes {
            out.count(&c::MEMORY_LIMIT, &[name], limit);
        }
        let age = snapshot.taken.saturating_duration_since(*read_at);
        out.value(&c::PROCESS_DETAIL_AGE, &[name], age.as_secs_f64());
    }
}
