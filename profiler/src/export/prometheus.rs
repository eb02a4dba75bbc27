//! The Prometheus text format, by the `prometheus` crate from a collector over one snapshot.

mod families;
mod leaks;

use std::{sync::Arc, time::Duration};

use profiler_common::{
    mapping::MappingKind,
    sched::{StallCause, ThreadState},
};
use prometheus::{
    Encoder as _, Registry, TextEncoder,
    core::{Collector, Desc},
    proto,
};

use self::families::Families;
use super::catalogue::{self as c, Family};
use crate::{
    binary::Layer,
    build_info,
    snapshot::{AllocState, Snapshot, TargetSnapshot},
    target::ProcessUsage,
};

/// The format's media type. Prometheus 3 refuses an answer without one.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What the exporter must know beside the snapshot.
#[derive(Clone, Copy, Debug)]
pub struct Context {
    /// An interval at least this long is a stall.
    pub stall_threshold: Duration,
    /// So many series at most, not counting what no target has; a target that has begun is shown whole.
    pub max_series: usize,
}

/// Renders a snapshot.
///
/// # Errors
///
/// If the crate's registry or encoder refuses something, which means a defect here.
pub fn render(snapshot: &Arc<Snapshot>, context: Context) -> Result<String, prometheus::Error> {
    let registry = Registry::new();
    registry.register(Box::new(SnapshotCollector { snapshot: Arc::clone(snapshot), context }))?;
    let mut text = Vec::with_capacity(64 << 10);
    TextEncoder::new().encode(&registry.gather(), &mut text)?;
    String::from_utf8(text).map_err(|error| prometheus::Error::Msg(error.to_string()))
}

/// Makes the families of one snapshot. A new one per scrape: what has vanished from the snapshot vanishes here.
struct SnapshotCollector {
    snapshot: Arc<Snapshot>,
    context: Context,
}

impl Collector for SnapshotCollector {
    fn desc(&self) -> Vec<&Desc> {
        // Only used to refuse two collectors of the same name; there is one.
        Vec::new()
    }

    fn collect(&self) -> Vec<proto::MetricFamily> {
        let mut out = Families::default();
        build(&mut out);
        let mut left_out = 0;
        let without_targets = out.seen.len();
        // The living first: they are what the limit is for.
        let (up, ended): (Vec<_>, Vec<_>) = self.snapshot.targets.iter().partition(|target| target.up());
        for target in up.into_iter().chain(ended) {
            if out.seen.len() - without_targets >= self.context.max_series {
                left_out += 1;
                continue;
            }
            observed(&mut out, target);
            allocations(&mut out, target);
            python(&mut out, target);
            sites(&mut out, target);
            mappings(&mut out, target);
            thread_time(&mut out, target);
            process(&mut out, target, &self.snapshot);
            leaks::target(&mut out, &self.snapshot, &target.name);
        }
        leaks::worker(&mut out, &self.snapshot);
        leaks::history(&mut out, &self.snapshot);
        out.count(&c::LEFT_OUT, &[], left_out);
        out.count(&c::FORGOTTEN, &[], self.snapshot.forgotten);
        for (reason, count) in &self.snapshot.not_observed {
            out.count(&c::NOT_OBSERVED, &[reason], *count);
        }
        out.value(&c::STALL_THRESHOLD, &[], self.context.stall_threshold.as_secs_f64());
        for (reason, count) in &self.snapshot.losses {
            out.count(&c::EVENTS_LOST, &[reason], *count);
        }
        out.value(&c::HELD_BACK, &[], self.snapshot.held_back.as_secs_f64());
        if let Some(own) = &self.snapshot.own {
            usage(&mut out, &OWN, &[], own);
        }
        out.finish()
    }
}

fn build(out: &mut Families) {
    let build = build_info::BUILD;
    out.value(
        &c::BUILD_INFO,
        &[
            build.version,
            build.revision,
            build.branch,
            build.rustc,
            std::env::consts::OS,
            std::env::consts::ARCH,
        ],
        1.0,
    );
    for (_, name, version) in build_info::DEPENDENCIES {
        out.value(&c::DEPENDENCY_INFO, &[name, version], 1.0);
    }
}

fn observed(out: &mut Families, target: &TargetSnapshot) {
    let name = &*target.name;
    for process in &target.processes {
        let info = &process.info;
        let exe = info.exe.as_deref().unwrap_or("");
        out.value(&c::TARGET_INFO, &[name, &info.pid.to_string(), &info.comm, exe], 1.0);
    }
    out.value(&c::TARGET_UP, &[name], f64::from(u8::from(target.up())));
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
            out.value(&c::LIVE_OBJECTS, &[name, allocator], live.objects as f64);
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
            out.value(&c::PYTHON_LIVE, &[name, domain], live.objects as f64);
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
        out.value(&c::PROBE_SITE_INFO, &labels, 1.0);
    }
    for one in &target.alloc.unhooked {
        let layer = one.layer.map_or("", Layer::name);
        out.value(&c::UNHOOKED_INFO, &[name, layer, &one.name, &one.object, &one.reason], 1.0);
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
    for cause in StallCause::ALL {
        let counts = &ledger.stalls[cause as usize];
        out.count(&c::STALLS, &[name, cause.name()], counts.count());
        out.histogram(&c::STALL_SECONDS, &[name, cause.name()], counts);
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
    out.count(&c::PROCESS_FAULTS, &[name, "minor"], target.faults.0);
    out.count(&c::PROCESS_FAULTS, &[name, "major"], target.faults.1);
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
        out.count(&c::PROCESS_SWITCHES, &[name, "voluntary"], detail.voluntary_switches);
        out.count(&c::PROCESS_SWITCHES, &[name, "involuntary"], detail.involuntary_switches);
        let age = snapshot.taken.saturating_duration_since(*read_at);
        out.value(&c::PROCESS_DETAIL_AGE, &[name], age.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        binary::{Allocator, PythonDomain},
        snapshot::{
            AllocSnapshot, FunctionCounts, LedgerSnapshot, LiveObjects, ProcessInfo, ProcessSnapshot,
        },
        stalls::Ledger,
    };
    use profiler_common::alloc::{AllocCounts, AllocFunction};
    use profiler_common::sched::{STALL_BOUNDS, StallCounts};
    use std::time::{Instant, SystemTime};

    const CONTEXT: Context = Context { stall_threshold: Duration::from_millis(1), max_series: 10_000 };

    fn target(name: &str) -> TargetSnapshot {
        let counts = AllocCounts { allocations: 7, bytes: 70, ..Default::default() };
        let of =
            |layer| FunctionCounts { layer, function: AllocFunction::Malloc, counts, hits: 7, internal: 0 };
        let layers = [Layer::Allocator(Allocator::Glibc), Layer::Python(PythonDomain::Raw)];
        let mut stalls = [StallCounts::default(); profiler_common::sched::CAUSES];
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
        }
    }

    fn snapshot(targets: Vec<TargetSnapshot>) -> Arc<Snapshot> {
        Arc::new(Snapshot {
            taken_at: SystemTime::UNIX_EPOCH,
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
        })
    }

    #[test]
    fn counts_and_histograms_come_out_as_prometheus_wants_them() {
        let text = render(&snapshot(vec![target("app")]), CONTEXT).unwrap();
        for line in [
            "profiler_allocations_total{target=\"app\",allocator=\"glibc\",function=\"malloc\"} 7",
            "profiler_allocated_bytes_total{target=\"app\",allocator=\"glibc\"} 70",
            "profiler_live_objects{target=\"app\",allocator=\"glibc\"} 7",
            "profiler_python_live_objects{target=\"app\",domain=\"raw\"} 7",
            "profiler_stalls_total{target=\"app\",cause=\"futex\"} 3",
            "profiler_stall_seconds_bucket{target=\"app\",cause=\"futex\",le=\"0.001\"} 2",
            "profiler_stall_seconds_bucket{target=\"app\",cause=\"futex\",le=\"16.384\"} 2",
            "profiler_stall_seconds_bucket{target=\"app\",cause=\"futex\",le=\"+Inf\"} 3",
            "profiler_stall_seconds_sum{target=\"app\",cause=\"futex\"} 20",
            "profiler_events_lost_total{reason=\"threads_full\"} 0",
        ] {
            assert!(text.lines().any(|found| found == line), "missing: {line}\n{text}");
        }
        assert!(!text.contains("profiler_frees_total{target=\"app\""), "malloc frees nothing");
    }

    #[test]
    fn what_left_the_snapshot_is_gone_and_nothing_comes_twice() {
        let both = render(&snapshot(vec![target("a"), target("b"), target("b")]), CONTEXT).unwrap();
        let of_b = both.lines().filter(|line| line.starts_with("profiler_target_up{target=\"b\"}")).count();
        assert_eq!(of_b, 1, "a server refuses a scrape with a series twice");
        let one = render(&snapshot(vec![target("a")]), CONTEXT).unwrap();
        assert!(!one.contains("target=\"b\""));
    }

    #[test]
    fn targets_beyond_the_limit_are_left_out_whole_and_counted() {
        let mut ended = target("ended");
        ended.processes[0].up = false;
        let context = Context { max_series: 1, ..CONTEXT };
        let text = render(&snapshot(vec![ended, target("a"), target("b")]), context).unwrap();
        assert!(text.contains("profiler_target_up{target=\"a\"} 1"));
        assert!(!text.contains("\"ended\"") && !text.contains("target=\"b\""), "{text}");
        assert!(text.contains("profiler_targets_left_out 2"));
    }

    #[test]
    fn a_name_with_quotes_and_newlines_stays_one_label() {
        let text = render(&snapshot(vec![target("a\"b\\c\nd")]), CONTEXT).unwrap();
        assert!(text.contains(r#"profiler_target_up{target="a\"b\\c\nd"} 1"#));
    }

    #[test]
    fn only_declared_families_come_out() {
        let text = render(&snapshot(vec![target("a")]), CONTEXT).unwrap();
        for line in text.lines().filter(|line| line.starts_with("# TYPE")) {
            let name = line.split(' ').nth(2).unwrap();
            assert!(c::ALL.iter().any(|family| family.name == name), "{name} is not in the catalogue");
        }
    }
}
