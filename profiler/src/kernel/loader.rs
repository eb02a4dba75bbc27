//! Loads the embedded object, sized and configured for this run.

use std::{
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, RingBuf},
    programs::{BtfTracePoint, Program, TracePoint, UProbe},
};
use profiler_common::{
    alloc::{AllocSite, SiteCounts},
    mapping::{KINDS, MappingCounts},
    outcome::Outcome,
    process::TargetEntry,
    sched::{CAUSES, Retired, StallCounts, ThreadRecord},
    stops::{PendingStop, REASONS, StopCounts},
};

use super::{
    Btf, EventReader, Facts, KernelError, KernelLog, Plan, Raw, SiteId,
    alloc::Switchboard,
    growth::{GROWTH_TRACEPOINTS, Growth, GrowthKnobs, LivePages, VICTIM_TRACEPOINTS},
    mapping::BreakOffsets,
    place::{MapFds, Multi, PAIRS},
    returns::Returns,
    sample::{LIVE_SAMPLES, LiveSamples, Samples},
    stops,
};

/// The kernel side, compiled by build.rs. aya wants it aligned.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/profiler-ebpf.o"));

/// The programs for process events; each is named like its tracepoint.
const PROCESS_TRACEPOINTS: [&str; 3] = ["sched_process_fork", "sched_process_exec", "sched_process_exit"];
/// The programs for the ledger, likewise.
const SCHED_TRACEPOINTS: [&str; 3] = ["sched_switch", "sched_wakeup", "sched_wakeup_new"];

/// How large the maps must be: `profiler-ebpf/src/maps.rs` tells what a target and a site take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Targets at once; slots are below that.
    pub targets: u32,
    /// Probe sites of all targets together: one for each [`super::SitePlan`].
    pub sites: u32,
}

/// The loaded kernel side.
pub struct Kernel {
    ebpf: Ebpf,
    log: Option<KernelLog>,
    pub(super) alloc_sites: Array<MapData, Raw<AllocSite>>,
    pub(super) switches: Switchboard,
    pub(super) alloc_counts: PerCpuArray<MapData, Raw<SiteCounts>>,
    pub(super) targets: HashMap<MapData, u32, Raw<TargetEntry>>,
    pub(super) event_scope: Array<MapData, u32>,
    pub(super) event_reader: Option<EventReader>,
    pub(super) events: bool,
    pub(super) threads: HashMap<MapData, u32, Raw<ThreadRecord>>,
    pub(super) hints: HashMap<MapData, u32, u32>,
    pub(super) retired: Array<MapData, Raw<Retired>>,
    pub(super) stalls: PerCpuArray<MapData, Raw<StallCounts>>,
    pub(super) live_pages: Option<LivePages>,
    pub(super) growth: Growth,
    pub(super) mapping_counts: PerCpuArray<MapData, Raw<MappingCounts>>,
    /// Closed to take the programs away from their events.
    pub(super) mapping_links: Vec<OwnedFd>,
    pub(super) go_stopped: Array<MapData, Raw<PendingStop>>,
    pub(super) go_stops: PerCpuArray<MapData, Raw<StopCounts>>,
    outcomes: PerCpuArray<MapData, u64>,
    pub(super) next_site: u32,
    pub(super) freed_sites: Arc<Mutex<Vec<SiteId>>>,
    pub(super) sites: u32,
    pub(super) cpus: usize,
    /// If probes are placed many at once.
    pub(super) multi: Option<Multi>,
    /// What can be done about returns.
    pub(super) returns: Returns,
    pub(super) samples: Option<Samples>,
    /// See [`Kernel::take_risks`].
    pub(super) throwing: bool,
}

impl Kernel {
    /// Loads what the plan asks for. Nothing is attached yet but the tracepoints.
    ///
    /// # Errors
    ///
    /// If the kernel refuses something, or its type information lacks what the programs need.
    pub fn load(
        plan: Plan,
        sizes: Sizes,
        stall_threshold: Duration,
        trace: bool,
    ) -> Result<Self, KernelError> {
        let offsets = TaskOffsets::find(plan)?;
        let break_offsets = if plan.mappings { BreakOffsets::find()? } else { BreakOffsets::default() };
        let (growth, growth_obstacle) = GrowthKnobs::find(plan)?;
        let threshold = u64::try_from(stall_threshold.as_nanos()).unwrap_or(u64::MAX);
        // Below every level, so that the verifier removes the log statements.
        let log_level: u8 = if trace { aya_log::Level::Trace as u8 } else { 0 };
        let stopping = if plan.go_stops { sizes.targets } else { 1 };
        let mut loader = EbpfLoader::new();
        // The programs carry no relocations against kernel types; parsing those twice would cost memory and time.
        loader
            .btf(None)
            .map_max_entries("ALLOC_SITES", sizes.sites)
            .map_max_entries("ALLOC_COUNTS", sizes.sites)
            .map_max_entries("SWITCHES", sizes.targets)
            .map_max_entries("TARGETS_BY_PID", sizes.targets)
            .map_max_entries("RETIRED", sizes.targets)
            .map_max_entries("STALLS", sizes.targets * CAUSES as u32)
            .map_max_entries("MAPPING_COUNTS", if plan.mappings { sizes.targets * KINDS as u32 } else { 1 })
            .map_max_entries("GO_STOPPED", stopping)
            .map_max_entries("GO_STOPS", stopping * REASONS as u32)
            .override_global("AYA_LOG_LEVEL", &log_level, true)
            .override_global("STALL_THRESHOLD_NS", &threshold, true)
            .override_global("TASK_PID", &offsets.pid, true)
            .override_global("TASK_TGID", &offsets.tgid, true)
            .override_global("TASK_STATE", &offsets.state, true)
            .override_global("TASK_IOWAIT_BYTE", &offsets.iowait_byte, true)
            .override_global("TASK_IOWAIT_MASK", &offsets.iowait_mask, true)
            .override_global("TASK_COMPAT_STATUS", &offsets.compat_status, true)
            .override_global("TASK_FLAGS", &offsets.flags, true)
            .override_global("TASK_SIGNAL", &offsets.signal, true)
            .override_global("SIGNAL_LIVE", &offsets.signal_live, true)
            .override_global("TASK_EXIT_CODE", &offsets.exit_code, true)
            .override_global("EXIT_TELLS_GROUP_DEAD", &offsets.exit_tells_group_dead, true)
            .override_global("TASK_MM", &break_offsets.task_mm, true)
            .override_global("MM_BRK", &break_offsets.mm_brk, true)
            .override_global("TASK_PAGEFAULT_DISABLED", &growth.pagefault_disabled, true)
            .override_global("MARK_VICTIM_TELLS_TASK", &growth.victim_is_task, true);
        // The smallest ring buffer there is.
        let page = rustix::param::page_size() as u32;
        if !plan.stalls {
            loader
                .map_max_entries("THREADS", 1)
                .map_max_entries("HINTS", 1)
                .map_max_entries("RETIRED", 1)
                .map_max_entries("STALLS", 1);
        }
        if !plan.mappings {
            loader.map_max_entries("BREAKS", 1);
        }
        if plan.growth.is_none() {
            loader.map_max_entries("LIVE_PAGES", 1);
        }
        if !plan.events {
            loader.map_max_entries("PROCESS_EVENTS", page);
        }
        if plan.samples {
            loader.map_max_entries("LIVE_SAMPLES", LIVE_SAMPLES);
        } else {
            loader.map_max_entries("LIVE_SAMPLES", 1).map_max_entries("PENDING_SAMPLES", 1);
        }
        if !plan.tells_samples() {
            loader.map_max_entries("LIVE_FILTER", 1).map_max_entries("SAMPLES", page);
        }
        if !trace {
            loader.map_max_entries("AYA_LOGS", page);
        }
        let mut ebpf = loader.load(OBJECT).map_err(|error| KernelError::Load(Box::new(error)))?;
        // Before any of them is taken out of aya's hands.
        let map_fds = MapFds::of(&ebpf);
        let log = if trace { KernelLog::take(&mut ebpf) } else { None };
        let Some(Map::Array(switches)) = ebpf.take_map("SWITCHES") else {
            return Err(KernelError::Missing { kind: "map", name: "SWITCHES" });
        };
        let mut kernel = Self {
            alloc_sites: take(&mut ebpf, "ALLOC_SITES", Array::try_from)?,
            switches: Switchboard::map(&switches, sizes.targets)?,
            alloc_counts: take(&mut ebpf, "ALLOC_COUNTS", PerCpuArray::try_from)?,
            targets: take(&mut ebpf, "TARGETS_BY_PID", HashMap::try_from)?,
            event_scope: take(&mut ebpf, "EVENT_SCOPE", Array::try_from)?,
            event_reader: None,
            events: plan.events,
            threads: take(&mut ebpf, "THREADS", HashMap::try_from)?,
            hints: take(&mut ebpf, "HINTS", HashMap::try_from)?,
            retired: take(&mut ebpf, "RETIRED", Array::try_from)?,
            stalls: take(&mut ebpf, "STALLS", PerCpuArray::try_from)?,
            live_pages: None,
            growth: Growth::new(growth_obstacle),
            mapping_counts: take(&mut ebpf, "MAPPING_COUNTS", PerCpuArray::try_from)?,
            mapping_links: Vec::new(),
            go_stopped: take(&mut ebpf, "GO_STOPPED", Array::try_from)?,
            go_stops: take(&mut ebpf, "GO_STOPS", PerCpuArray::try_from)?,
            outcomes: take(&mut ebpf, "OUTCOMES", PerCpuArray::try_from)?,
            ebpf,
            log,
            next_site: 0,
            freed_sites: Arc::default(),
            sites: sizes.sites,
            cpus: aya::util::nr_cpus()
                .map_err(|(path, source)| KernelError::System { path: path.to_owned(), source })?,
            multi: None,
            returns: Returns::None("no samples are wanted".to_owned()),
            samples: None,
            throwing: false,
        };
        if plan.events {
            let ring = take(&mut kernel.ebpf, "PROCESS_EVENTS", RingBuf::try_from)?;
            kernel.event_reader = Some(EventReader::new(ring));
        }
        let process = if plan.events { &PROCESS_TRACEPOINTS[..] } else { &[] };
        let sched = if plan.stalls { &SCHED_TRACEPOINTS[..] } else { &[] };
        let victims = if plan.victims { &VICTIM_TRACEPOINTS[..] } else { &[] };
        let waiting = if kernel.growth.is_possible() { &GROWTH_TRACEPOINTS[..] } else { &[] };
        kernel.attach_tracepoints(&[process, sched, victims].concat(), waiting)?;
        if plan.mappings {
            kernel.attach_mappings()?;
        }
        if plan.alloc || plan.go_stops {
            kernel.load_uprobes(plan, &map_fds)?;
        }
        if plan.growth.is_some() {
            kernel.live_pages =
                Some(LivePages::new(take(&mut kernel.ebpf, "LIVE_PAGES", HashMap::try_from)?));
        }
        if plan.tells_samples() {
            let Some(Map::Array(filter)) = kernel.ebpf.take_map("LIVE_FILTER") else {
                return Err(KernelError::Missing { kind: "map", name: "LIVE_FILTER" });
            };
            let live = take(&mut kernel.ebpf, "LIVE_SAMPLES", HashMap::try_from)?;
            kernel.samples = Some(Samples {
                ring: take(&mut kernel.ebpf, "SAMPLES", RingBuf::try_from)?,
                live: LiveSamples::new(live, &filter)?,
            });
        }
        Ok(kernel)
    }

    /// The programs for probes in user space: for many places at once if that works, else for single ones.
    fn load_uprobes(&mut self, plan: Plan, map_fds: &MapFds) -> Result<(), KernelError> {
        let trials = take(&mut self.ebpf, "TRIALS", Array::try_from)?;
        if plan.multi {
            let asked = Instant::now();
            let stops = if plan.go_stops { &stops::PROGRAMS[..] } else { &[] };
            match Multi::load(map_fds, &trials, stops) {
                Ok(multi) => {
                    tracing::debug!("probes are placed many at once, found out in {:?}", asked.elapsed());
                    self.multi = Some(multi);
                }
                Err(reason) => tracing::debug!("probes are placed one by one: {reason}"),
            }
        }
        if self.multi.is_none() {
            let alloc = if plan.alloc { &["alloc", "loaded"][..] } else { &[] };
            let pairs = if plan.samples { &PAIRS[..] } else { &[] };
            let stops = if plan.go_stops { &stops::PROGRAMS[..] } else { &[] };
            for &name in alloc.iter().chain(pairs).chain(stops) {
                self.uprobe(name)?.load().map_err(|source| refused("load", name, source))?;
            }
        }
        if plan.samples {
            self.find_returns(plan.sessions, &trials);
        }
        if let Some(multi) = &mut self.multi {
            multi.seal();
        }
        Ok(())
    }

    /// `waiting`: for sampling pages; loaded, and attached when that is wanted.
    fn attach_tracepoints(
        &mut self,
        names: &[&'static str],
        waiting: &[&'static str],
    ) -> Result<(), KernelError> {
        if names.is_empty() && waiting.is_empty() {
            return Ok(());
        }
        let btf = aya::Btf::from_sys_fs()
            .map_err(|error| KernelError::Unsupported(format!("{error}; use --alloc off --stalls off")))?;
        for &name in names {
            let program: &mut BtfTracePoint = program(&mut self.ebpf, name)?;
            program.load(name, &btf).map_err(|source| refused("load", name, source))?;
        }
        for &name in waiting {
            let program: &mut BtfTracePoint = program(&mut self.ebpf, name)?;
            if let Err(source) = program.load(name, &btf) {
                self.growth = Growth::new(Some(refused("load", name, source).to_string()));
                break;
            }
        }
        for &name in names {
            let program: &mut BtfTracePoint = program(&mut self.ebpf, name)?;
            program.attach().map_err(|source| refused("attach", name, source))?;
        }
        Ok(())
    }

    /// The kernel side's debug lines, once, if they were asked for.
    pub const fn take_log(&mut self) -> Option<KernelLog> {
        self.log.take()
    }

    /// A program for probes in user space.
    pub(super) fn uprobe(&mut self, name: &'static str) -> Result<&mut UProbe, KernelError> {
        program(&mut self.ebpf, name)
    }

    /// A program for a tracepoint with typed arguments.
    pub(super) fn btf_tracepoint(&mut self, name: &'static str) -> Result<&mut BtfTracePoint, KernelError> {
        program(&mut self.ebpf, name)
    }

    /// A program for an event of the tracing system, loaded.
    pub(super) fn tracepoint(&mut self, name: &'static str) -> Result<&TracePoint, KernelError> {
        let program: &mut TracePoint = program(&mut self.ebpf, name)?;
        program.load().map_err(|source| refused("load", name, source))?;
        Ok(program)
    }

    /// What was lost in the kernel so far.
    ///
    /// # Errors
    ///
    /// If the map can't be read.
    pub fn outcomes(&self) -> Result<Vec<(Outcome, u64)>, KernelError> {
        Outcome::ALL
            .into_iter()
            .map(|outcome| {
                let values = self
                    .outcomes
                    .get(&(outcome as u32), 0)
                    .map_err(|source| map_error("OUTCOMES", source))?;
                Ok((outcome, values.iter().sum()))
            })
            .collect()
    }

    /// How often the kernel left out a tracepoint's program because it was still at work on that CPU (kernel/bpf,
    /// `recursion_misses`). aya doesn't show the figure, the program's fdinfo does.
    pub fn recursion_misses(&self) -> u64 {
        PROCESS_TRACEPOINTS.into_iter().chain(SCHED_TRACEPOINTS).filter_map(|name| self.misses(name)).sum()
    }

    /// The same for one program; `None` if it isn't loaded.
    pub(super) fn misses(&self, name: &str) -> Option<u64> {
        let fd = self.ebpf.program(name)?.fd().ok()?.as_fd().as_raw_fd();
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()?;
        info.lines().find_map(|line| line.strip_prefix("recursion_misses:"))?.trim().parse().ok()
    }
}

pub(super) fn refused(
    action: &'static str,
    program: &'static str,
    source: aya::programs::ProgramError,
) -> KernelError {
    KernelError::Program { action, program, source: Box::new(source) }
}

pub(super) fn map_error(map: &'static str, source: MapError) -> KernelError {
    KernelError::Map { map, source: Box::new(source) }
}

fn program<'a, P>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut P, KernelError>
where
    &'a mut P: TryFrom<&'a mut Program>,
{
    let missing = KernelError::Missing { kind: "program", name };
    match ebpf.program_mut(name) {
        Some(program) => program.try_into().map_err(|_| missing),
        None => Err(missing),
    }
}

fn take<M>(
    ebpf: &mut Ebpf,
    name: &'static str,
    convert: impl FnOnce(Map) -> Result<M, MapError>,
) -> Result<M, KernelError> {
    let map = ebpf.take_map(name).ok_or(KernelError::Missing { kind: "map", name })?;
    convert(map).map_err(|source| map_error(name, source))
}

/// Sum over all CPUs of a per-CPU value.
pub(super) fn sum_cpus<T: Copy>(
    map: &PerCpuArray<MapData, Raw<T>>,
    name: &'static str,
    index: u32,
    mut add: impl FnMut(&T),
) -> Result<(), KernelError>
where
    Raw<T>: Pod,
{
    let values = map.get(&index, 0).map_err(|source| map_error(name, source))?;
    values.iter().for_each(|value| add(&value.0));
    Ok(())
}

/// Where the running kernel keeps what `profiler-ebpf/src/kernel_data.rs` reads.
#[derive(Default)]
struct TaskOffsets {
    pid: u64,
    tgid: u64,
    state: u64,
    iowait_byte: u64,
    iowait_mask: u8,
    compat_status: u64,
    flags: u64,
    signal: u64,
    signal_live: u64,
    exit_code: u64,
    exit_tells_group_dead: u8,
}

impl TaskOffsets {
    /// What the plan's programs need, and zero else.
    fn find(plan: Plan) -> Result<Self, KernelError> {
        if !plan.events {
            return Ok(Self::default());
        }
        let bytes = std::fs::read(Facts::BTF_PATH)
            .map_err(|source| KernelError::System { path: Facts::BTF_PATH.to_owned(), source })?;
        let btf = Btf::parse(&bytes)?;
        let at = |member| btf.member("task_struct", member);
        let offsets = Self {
            pid: at("pid")?.byte_offset(),
            tgid: at("tgid")?.byte_offset(),
            flags: at("flags")?.byte_offset(),
            signal: at("signal")?.byte_offset(),
            signal_live: btf.member("signal_struct", "live")?.byte_offset(),
            exit_code: at("exit_code")?.byte_offset(),
            exit_tells_group_dead: u8::from(btf.tracepoint_arguments("sched_process_exit") == Some(2)),
            ..Self::default()
        };
        if !plan.stalls {
            return Ok(offsets);
        }
        if btf.tracepoint_arguments("sched_switch") != Some(4) {
            return Err(KernelError::Unsupported(
                "this kernel's sched_switch doesn't tell the state of a thread that is switched out: use --stalls off"
                    .to_owned(),
            ));
        }
        let iowait = at("in_iowait")?;
        Ok(Self {
            state: at("__state")?.byte_offset(),
            iowait_byte: iowait.byte_offset(),
            iowait_mask: 1 << (iowait.bit_offset % 8),
            compat_status: at("thread_info.status")?.byte_offset(),
            ..offsets
        })
    }
}

#[cfg(test)]
mod tests;
