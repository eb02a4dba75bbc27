//! Every metric family that can appear at `/metrics`: name, kind, labels, help. `docs/metrics.md` is made from this.

pub mod go;
mod influx;
mod values;

use std::fmt::Write as _;

use serde::Serialize;

pub use go::*;
pub use influx::{Holds, Influx, Measurement, measurements};
use influx::{chosen, float, histogram, integer, summary, tags, words};

/// How a family's value behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, but for restarts.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by size.
    Histogram,
    /// Sizes by rank.
    Summary,
}

impl Kind {
    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
            Self::Summary => "summary",
        }
    }
}

/// A metric family.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    /// Its name.
    pub name: &'static str,
    /// How its value behaves.
    pub kind: Kind,
    /// Its labels, in the order in which values are given.
    pub labels: &'static [&'static str],
    /// What it means, its unit, and what it doesn't tell.
    pub help: &'static str,
    /// Where it goes in InfluxDB.
    pub influx: Influx,
}

macro_rules! families {
    ($all:ident: $($id:ident: $kind:ident $name:literal $labels:tt => $influx:expr, $help:literal;)*) => {
        $(#[doc = $help] pub const $id: Family =
            Family { name: $name, kind: Kind::$kind, labels: &$labels, help: $help, influx: $influx };)*
        /// The families of this list.
        pub(super) const $all: &[Family] = &[$($id),*];
    };
}
use families;

families! { COMMON:
    TARGET_INFO: Gauge "profiler_target_info" ["target", "pid", "comm", "exe"]
        => words("profiler_target", &["pid", "comm", "exe"]),
        "A process of a target: its id, name and program. Where no process lives any more, the last one that did. Always 1.";
    TARGET_UP: Gauge "profiler_target_up" ["target"]
        => integer("profiler_target", "up"),
        "1 while a process of the target runs, 0 after the end of the last.";
    TARGET_PROCESSES: Gauge "profiler_target_processes" ["target"]
        => integer("profiler_target", "processes"),
        "Processes of the target that run. Sizes below are theirs together; totals include those that have ended.";
    TARGET_PROCESSES_SEEN: Counter "profiler_target_processes_seen_total" ["target"]
        => integer("profiler_target", "processes_seen"),
        "Processes that belong or have belonged to the target.";
    TARGET_OBSERVED: Gauge "profiler_target_observed_seconds" ["target"]
        => float("profiler_target", "observed_seconds"),
        "How long the target has been observed: the time that all totals below cover.";
    TARGET_ALLOC_INFO: Gauge "profiler_target_alloc_info" ["target", "state", "reason"]
        => integer("profiler_target_alloc", "processes").with(&["reason"]),
        "Processes of the target by whether their allocator calls are counted (state: counting, partly, not_counting, off), and if not, why.";
    TARGET_GAP: Counter "profiler_target_gap_seconds_total" ["target"]
        => float("profiler_target", "gap_seconds"),
        "Time in which processes of the target ran without their allocator calls being counted: from a fork, execve or dlopen to the probes. Calls made then are in no total.";
    ALLOCATIONS: Counter "profiler_allocations_total" ["target", "allocator", "function"]
        => integer("profiler_alloc", "allocations"),
        "Calls that ask for a block, since attach, by allocator and function. What an allocator passes on is counted where it arrives: with glibc, reallocarray as realloc, realloc(NULL, n) and alignments up to 16 as malloc. Exact, but a call that fails for lack of memory can't be told from one that succeeds.";
    FREES: Counter "profiler_frees_total" ["target", "allocator", "function"]
        => integer("profiler_alloc", "frees"),
        "Calls that give a block back, since attach, by allocator and function. free(NULL) is none; a realloc that resizes a block is one allocation and one free. Exact.";
    ALLOCATED_BYTES: Counter "profiler_allocated_bytes_total" ["target", "allocator"]
        => integer("profiler_allocator", "allocated_bytes"),
        "Bytes asked for by the calls in profiler_allocations_total. Exact as requested; what the allocator rounds up to is not in it, nor what mimalloc's strdup and its like copy.";
    REFUSED: Counter "profiler_allocations_refused_total" ["target", "allocator", "function"]
        => integer("profiler_alloc", "refused"),
        "Calls that can't succeed whatever memory there is: more than PTRDIFF_MAX bytes, count times size overflows, alignment not allowed. Not in profiler_allocations_total. An overflow in reallocarray never gets to a probe and is in neither.";
    LIVE_OBJECTS: Gauge "profiler_live_objects" ["target", "allocator"]
        => integer("profiler_allocator", "live_objects"),
        "Allocations minus frees since attach, of the present program of every living process, with what a forked process has inherited from its parent. Below zero when more was freed of what was there before than was kept of what came since. Doesn't drift.";
    PYTHON_ALLOCATIONS: Counter "profiler_python_allocations_total" ["target", "domain", "function"]
        => integer("profiler_python", "allocations"),
        "Calls that ask CPython's own layers for a block, since attach, by domain and function. These layers stand on the allocator: large blocks and arenas are counted there as well. Only with --python on.";
    PYTHON_FREES: Counter "profiler_python_frees_total" ["target", "domain", "function"]
        => integer("profiler_python", "frees"),
        "Calls that give a block back to CPython's own layers, since attach, by domain and function.";
    PYTHON_BYTES: Counter "profiler_python_allocated_bytes_total" ["target", "domain"]
        => integer("profiler_python_domain", "allocated_bytes"),
        "Bytes asked for by the calls in profiler_python_allocations_total.";
    PYTHON_LIVE: Gauge "profiler_python_live_objects" ["target", "domain"]
        => integer("profiler_python_domain", "live_objects"),
        "Allocations minus frees in CPython's own layers since attach; as profiler_live_objects.";
    PROBE_SITE_INFO: Gauge "profiler_probe_site_info" ["target", "allocator", "function", "names", "object", "build_id", "offset", "instruction", "kind"]
        => words("profiler_probe", &["names", "build_id", "offset", "instruction", "kind"]),
        "Where a probe sits: offset in bytes behind the function's entry; kind is emulated (one trap per hit) or single_stepped (two). Where a function has several places (Python's), instruction tells how many, and kind is emulated if all are. Always 1.";
    UNHOOKED_INFO: Gauge "profiler_unhooked_info" ["target", "allocator", "function", "object", "reason"]
        => words("profiler_unhooked", &["reason"]),
        "An allocator function that should be probed and can't be, or a file whose functions can't be found, and why. Always 1.";
    PROBE_HITS: Counter "profiler_probe_hits_total" ["target", "allocator", "function"]
        => integer("profiler_alloc", "probe_hits"),
        "How often a probe fired while counting was on, whatever the call turned out to be. Each hit costs the target time.";
    MAPPING_CALLS: Counter "profiler_mapping_calls_total" ["target", "kind"]
        => integer("profiler_mapping", "calls"),
        "Successful system calls that map or unmap memory, by kind; the allocator's own are in it. Only with --mappings on. Kinds: anonymous, shared, reserve (no access: no memory yet), file, unmap, remap_grow, remap_shrink, remap_move, brk_grow, brk_shrink.";
    MAPPING_BYTES: Counter "profiler_mapping_bytes_total" ["target", "kind"]
        => integer("profiler_mapping", "bytes"),
        "Bytes mapped or unmapped by the calls in profiler_mapping_calls_total, in whole pages. unmap and the remaps don't tell files from anonymous memory; what MAP_FIXED replaces and what mprotect makes of a reservation is not seen.";
    MAPPING_FAILED: Counter "profiler_mapping_failed_total" ["target", "kind"]
        => integer("profiler_mapping", "failed"),
        "System calls of that kind that failed. Not in profiler_mapping_calls_total.";
    THREAD_SECONDS: Counter "profiler_thread_seconds_total" ["target", "state"]
        => float("profiler_thread", "seconds"),
        "Time of all threads by what they were doing: running, runnable (waiting for a CPU), disk (uninterruptible, in I/O wait), uninterruptible (for anything else), futex, stopped, sleeping. The states sum to threads times time.";
    LEAK_VERDICT: Gauge "profiler_leak_verdict" ["target", "verdict"]
        => chosen("profiler_leak", "verdict"),
        "1 at what is said of the target's memory, 0 at the rest: leaking, growing (may level off), steady, unjudged. This and all families of leaks only with --leaks.";
    LEAK_RATE: Gauge "profiler_leak_bytes_per_second" ["target"]
        => float("profiler_leak", "bytes_per_second"),
        "By how much the target's memory grows, if it is judged: estimated, of all sites together. Absent while unjudged.";
    LEAK_RATE_LOW: Gauge "profiler_leak_low_bytes_per_second" ["target"]
        => float("profiler_leak", "bytes_per_second_low"),
        "Lower end of the 95 % interval of profiler_leak_bytes_per_second.";
    LEAK_RATE_HIGH: Gauge "profiler_leak_high_bytes_per_second" ["target"]
        => float("profiler_leak", "bytes_per_second_high"),
        "Upper end of the 95 % interval of profiler_leak_bytes_per_second.";
    HEAP_LIVE: Gauge "profiler_heap_live_bytes" ["target"]
        => float("profiler_leak", "live_bytes"),
        "Bytes allocated since attach that live, of all sites: estimated from samples.";
    HEAP_LIVE_LOW: Gauge "profiler_heap_live_low_bytes" ["target"]
        => float("profiler_leak", "live_bytes_low"),
        "Lower end of the 95 % interval of profiler_heap_live_bytes.";
    HEAP_LIVE_HIGH: Gauge "profiler_heap_live_high_bytes" ["target"]
        => float("profiler_leak", "live_bytes_high"),
        "Upper end of the 95 % interval of profiler_heap_live_bytes.";
    HEAP_EXPLAINED: Gauge "profiler_heap_explained_ratio" ["target"]
        => float("profiler_leak", "explained_ratio"),
        "How much of the growth of anonymous memory since attach the live bytes explain. Absent while it hasn't grown by 1 MiB.";
    HEAP_BEFORE: Gauge "profiler_heap_before_bytes" ["target"]
        => integer("profiler_leak", "before_bytes"),
        "Anonymous memory that was there before anybody looked: no site has any of it.";
    SAMPLES: Counter "profiler_samples_total" ["target"]
        => integer("profiler_leak", "samples"),
        "Allocations that were drawn as samples: what all estimates rest on.";
    SAMPLES_LIVE: Gauge "profiler_samples_live" ["target"]
        => integer("profiler_leak", "samples_live"),
        "Samples whose block lives.";
    SAMPLE_BYTES: Gauge "profiler_sample_interval_bytes" ["target"]
        => integer("profiler_leak", "sample_interval_bytes"),
        "One allocation is drawn per so many bytes on average, at present.";
    SAMPLES_LOST: Counter "profiler_samples_lost_total" ["target", "reason"]
        => integer("profiler_leak_loss", "samples"),
        "Samples, and what belongs to them, that were lost, by reason. Anything above zero says which estimates to doubt.";
    SITE_LIVE: Gauge "profiler_site_live_bytes" ["target", "site"]
        => float("profiler_site", "live_bytes"),
        "Bytes that live, by the call site that allocated them: estimated. The sites of most concern (10 of a target), the rest as other. A site's id is made of build ids and offsets: the same after a restart.";
    SITE_OBJECTS: Gauge "profiler_site_live_objects" ["target", "site"]
        => float("profiler_site", "live_objects"),
        "Blocks that live, by call site: estimated. Of the sites that had no place any more they aren't known and not in other.";
    SITE_RATE: Gauge "profiler_site_leak_bytes_per_second" ["target", "site"]
        => float("profiler_site", "bytes_per_second"),
        "By how much a site grows, if it is judged: estimated. other is the sum of those that are judged.";
    SITE_VERDICT: Gauge "profiler_site_leak_verdict" ["target", "site", "verdict"]
        => chosen("profiler_site", "verdict"),
        "1 at what is said of the site, 0 at the rest; as profiler_leak_verdict.";
    SITE_INFO: Gauge "profiler_site_info" ["target", "site", "function", "object"]
        => tags("profiler_site", &["function"]).with(&["object"]),
        "A site's innermost function that isn't the allocator's or the runtime's, and its file. Always 1.";
    STALLS: Counter "profiler_stalls_total" ["target", "cause"]
        => integer("profiler_stall", "stalls"),
        "Completed intervals at least profiler_stall_threshold_seconds long in which a thread stood still, by cause. Sleeping is no stall. Cause gc is another thing: what each cycle of Go's garbage collection stopped the whole program for, however short.";
    STALL_SECONDS: Histogram "profiler_stall_seconds" ["target", "cause"]
        => histogram("profiler_stall", "seconds"),
        "Length of the intervals in profiler_stalls_total, in seconds.";
    STALL_THRESHOLD: Gauge "profiler_stall_threshold_seconds" []
        => float("profiler_self", "stall_threshold_seconds"),
        "An interval at least this long is a stall.";
    PROCESS_CPU: Counter "profiler_process_cpu_seconds_total" ["target"]
        => float("profiler_process", "cpu_seconds"),
        "Total user and system CPU time spent in seconds.";
    PROCESS_OPEN_FDS: Gauge "profiler_process_open_fds" ["target"]
        => integer("profiler_process", "open_fds"),
        "Number of open file descriptors.";
    PROCESS_MAX_FDS: Gauge "profiler_process_max_fds" ["target"]
        => integer("profiler_process", "max_fds"),
        "Maximum number of open file descriptors (soft limit; 2^64 if unlimited).";
    PROCESS_VIRTUAL: Gauge "profiler_process_virtual_memory_bytes" ["target"]
        => integer("profiler_process", "virtual_bytes"),
        "Virtual memory size in bytes.";
    PROCESS_VIRTUAL_MAX: Gauge "profiler_process_virtual_memory_max_bytes" ["target"]
        => integer("profiler_process", "virtual_max_bytes"),
        "Maximum amount of virtual memory available in bytes (soft limit; 2^64 if unlimited).";
    PROCESS_RESIDENT: Gauge "profiler_process_resident_memory_bytes" ["target"]
        => integer("profiler_process", "resident_bytes"),
        "Resident memory size in bytes.";
    MEMORY_LIMIT: Gauge "profiler_target_memory_limit_bytes" ["target"]
        => integer("profiler_target", "memory_limit_bytes"),
        "The smallest memory limit of the control groups around the target's processes: a container's, a unit's. Other processes of the group use of it, too. Absent where there is none.";
    PROCESS_START: Gauge "profiler_process_start_time_seconds" ["target"]
        => float("profiler_process", "start_time_seconds"),
        "Start time of the process since unix epoch in seconds.";
    PROCESS_THREADS: Gauge "profiler_process_threads" ["target"]
        => integer("profiler_process", "threads"),
        "Number of threads.";
    PROCESS_PROPORTIONAL: Gauge "profiler_process_proportional_memory_bytes" ["target"]
        => integer("profiler_process", "proportional_bytes"),
        "Resident memory with every shared page divided by the number of its users (PSS). Read seldom, see profiler_process_detail_age_seconds.";
    PROCESS_UNIQUE: Gauge "profiler_process_unique_memory_bytes" ["target"]
        => integer("profiler_process", "unique_bytes"),
        "Resident memory that no other process has mapped (USS): what would come free at its end. Read seldom, see profiler_process_detail_age_seconds.";
    PROCESS_ANONYMOUS: Gauge "profiler_process_anonymous_memory_bytes" ["target"]
        => integer("profiler_process", "anonymous_bytes"),
        "Resident memory that belongs to no file: heap and stacks.";
    PROCESS_SWAP: Gauge "profiler_process_swap_bytes" ["target"]
        => integer("profiler_process", "swap_bytes"),
        "Anonymous memory that is swapped out.";
    PROCESS_FAULTS: Counter "profiler_process_page_faults_total" ["target", "kind"]
        => integer("profiler_process", "{kind}_page_faults"),
        "Page faults by kind: minor (no I/O) and major.";
    PROCESS_SWITCHES: Counter "profiler_process_context_switches_total" ["target", "kind"]
        => integer("profiler_process", "{kind}_context_switches"),
        "Context switches of all threads by kind: voluntary and involuntary. Of a thread that ended, what it had at the last reading. Read seldom, see profiler_process_detail_age_seconds.";
    PROCESS_DETAIL_AGE: Gauge "profiler_process_detail_age_seconds" ["target"]
        => float("profiler_process", "detail_age_seconds"),
        "Age of the figures that are dear to read: they are read so seldom that it costs at most half a percent of a CPU.";
    NOT_OBSERVED: Counter "profiler_processes_not_observed_total" ["reason"]
        => integer("profiler_not_observed", "processes"),
        "Processes that were chosen and are not observed: no place (max_targets), over before it could begin (ended_before), or refused (failed).";
    WORKER_STARTS: Counter "profiler_worker_starts_total" []
        => integer("profiler_self", "worker_starts"),
        "How often the process that reads what targets have made (files, copies of stacks, perf maps) was started. Only with --leaks.";
    WORKER_DEATHS: Counter "profiler_worker_deaths_total" ["cause"]
        => integer("profiler_self", "worker_deaths_{cause}"),
        "How often that process ended before its time, by cause: time (an answer took too long), crash (out of memory, a fault, a signal), refused (a system call that it must not make), unstartable. It is started again; what it was asked has no answer.";
    WORKER_FAILED: Counter "profiler_worker_failed_requests_total" []
        => integer("profiler_self", "worker_failed_requests"),
        "Questions to that process that have no answer: stacks that end early, functions without names.";
    WORKER_QUARANTINED: Counter "profiler_worker_quarantined_total" []
        => integer("profiler_self", "worker_quarantined"),
        "Files and sets of mapped files that are not given to that process any more, because it died of them twice.";
    HISTORY_PICTURES: Gauge "profiler_history_pictures" []
        => integer("profiler_self", "history_pictures"),
        "Pictures of leaks that the history on disk has. This and the next three only with --history.";
    HISTORY_THINNED: Counter "profiler_history_thinned_total" []
        => integer("profiler_self", "history_thinned"),
        "Pictures that were left out of the history as they aged, to keep it small; since it was begun.";
    HISTORY_DROPPED: Counter "profiler_history_dropped_sites_total" []
        => integer("profiler_self", "history_dropped_sites"),
        "Small sites that were left out of pictures in the history, each counted once per picture; since it was begun.";
    HISTORY_FAILED: Counter "profiler_history_failed_total" []
        => integer("profiler_self", "history_failed"),
        "Pictures that could not be written to the history.";
    INFLUX_UP: Gauge "profiler_influx_up" []
        => integer("profiler_push", "up"),
        "1 if the last write to InfluxDB was acknowledged, else 0. This and all families of the push only with --influx.";
    INFLUX_POINTS: Counter "profiler_influx_points_total" []
        => integer("profiler_push", "points"),
        "Points that InfluxDB has acknowledged. One that is sent again counts again.";
    INFLUX_REQUESTS: Counter "profiler_influx_requests_total" ["outcome"]
        => integer("profiler_push", "requests_{outcome}"),
        "Requests to InfluxDB by outcome: stored, rejected (something in it can't be taken), too_large, busy, misconfigured (credentials, database, address: somebody must mend it), broken (the server failed), unreachable.";
    INFLUX_RETRIES: Counter "profiler_influx_retries_total" []
        => integer("profiler_push", "retries"),
        "Batches that were sent again.";
    INFLUX_QUARANTINED: Counter "profiler_influx_quarantined_points_total" []
        => integer("profiler_push", "quarantined_points"),
        "Points that InfluxDB refuses for good; they are kept, with its reason, in the file quarantine.lp of the spool.";
    INFLUX_DROPPED: Counter "profiler_influx_dropped_points_total" ["reason"]
        => integer("profiler_push", "dropped_points_{reason}"),
        "Points that were given up: spool_full and memory_full (the oldest go first), expired (older than --influx-spool-age), corrupt (the disk has changed them), unfit (one window is larger than the spool may be), quarantine_full.";
    INFLUX_LEFT_OUT: Counter "profiler_influx_left_out_total" ["reason"]
        => integer("profiler_push", "left_out_{reason}"),
        "Values and points that line protocol can't express or no server takes, by reason; what was changed to fit, too.";
    INFLUX_BACKLOG_POINTS: Gauge "profiler_influx_backlog_points" []
        => integer("profiler_push", "backlog_points"),
        "Points that wait to be sent.";
    INFLUX_BACKLOG_BYTES: Gauge "profiler_influx_backlog_bytes" []
        => integer("profiler_push", "backlog_bytes"),
        "Size of the points that wait, on disk and in memory.";
    INFLUX_BACKLOG_AGE: Gauge "profiler_influx_backlog_age_seconds" []
        => float("profiler_push", "backlog_age_seconds"),
        "Age of the oldest point that waits; 0 if none does.";
    INFLUX_MEMORY_BYTES: Gauge "profiler_influx_memory_bytes" []
        => integer("profiler_push", "memory_bytes"),
        "Size of the points that wait in memory, because the spool's disk doesn't take them or there is no spool: a kill loses these.";
    INFLUX_SPOOL_LIMIT: Gauge "profiler_influx_spool_limit_bytes" []
        => integer("profiler_push", "spool_limit_bytes"),
        "How large the spool may get (--influx-spool-size). Absent without a spool.";
    INFLUX_SPOOL_FAILURES: Counter "profiler_influx_spool_failures_total" []
        => integer("profiler_push", "spool_failures"),
        "Batches that the spool's disk refused at the first attempt. They wait in memory and are tried again.";
    INFLUX_MISSED: Counter "profiler_influx_windows_missed_total" []
        => integer("profiler_push", "missed_windows"),
        "Windows that were not closed in time, or for which there were no new figures: the machine slept, or had no time.";
    INFLUX_LAST_SUCCESS: Gauge "profiler_influx_last_success_timestamp_seconds" []
        => float("profiler_push", "last_success_seconds"),
        "When InfluxDB acknowledged something last, in seconds since the unix epoch. Absent until it has.";
    FORGOTTEN: Counter "profiler_targets_forgotten_total" []
        => integer("profiler_self", "targets_forgotten"),
        "Targets of which no process lived any more and whose series are gone: as many ended ones are kept as processes can be observed.";
    LEFT_OUT: Gauge "profiler_targets_left_out" []
        => integer("profiler_self", "targets_left_out"),
        "Targets that are observed but not shown here, because of --max-series.";
    EVENTS_LOST: Counter "profiler_events_lost_total" ["reason"]
        => integer("profiler_loss", "events"),
        "What was lost or went wrong while observing, by reason. Anything above zero says which figures to doubt.";
    HELD_BACK: Counter "profiler_ledger_held_back_seconds_total" []
        => float("profiler_self", "ledger_held_back_seconds"),
        "Thread time that would have made a counter sink when the state of an unmoving thread became known, and was held back.";
    BUILD_INFO: Gauge "profiler_build_info" ["version", "revision", "branch", "rustversion", "os", "arch"]
        => words("profiler_self", &["version", "revision", "branch", "rustversion", "os", "arch"]),
        "This build of profiler. Always 1.";
    DEPENDENCY_INFO: Gauge "profiler_dependency_info" ["name", "version"]
        => Influx::NOWHERE,
        "A library that this build of profiler contains. Always 1.";
    OWN_CPU: Counter "process_cpu_seconds_total" []
        => float("profiler_self", "cpu_seconds"),
        "Total user and system CPU time spent in seconds.";
    OWN_OPEN_FDS: Gauge "process_open_fds" []
        => integer("profiler_self", "open_fds"),
        "Number of open file descriptors.";
    OWN_MAX_FDS: Gauge "process_max_fds" []
        => integer("profiler_self", "max_fds"),
        "Maximum number of open file descriptors.";
    OWN_VIRTUAL: Gauge "process_virtual_memory_bytes" []
        => integer("profiler_self", "virtual_bytes"),
        "Virtual memory size in bytes.";
    OWN_VIRTUAL_MAX: Gauge "process_virtual_memory_max_bytes" []
        => integer("profiler_self", "virtual_max_bytes"),
        "Maximum amount of virtual memory available in bytes.";
    OWN_RESIDENT: Gauge "process_resident_memory_bytes" []
        => integer("profiler_self", "resident_bytes"),
        "Resident memory size in bytes.";
    OWN_START: Gauge "process_start_time_seconds" []
        => float("profiler_self", "start_time_seconds"),
        "Start time of the process since unix epoch in seconds.";
    OWN_THREADS: Gauge "process_threads" []
        => integer("profiler_self", "threads"),
        "Number of threads.";
}

/// Every family, in the order of the documentation.
pub const ALL: &[Family] = &{
    const GO: usize = COMMON.len();
    const REST: usize = GO + FIGURES.len();
    let mut all = [COMMON[0]; REST + go::OWN.len()];
    let mut at = 0;
    while at < all.len() {
        all[at] = match at {
            0..GO => COMMON[at],
            GO..REST => FIGURES[at - GO].ours,
            _ => go::OWN[at - REST],
        };
        at += 1;
    }
    all
};

/// The whole catalogue for a terminal: names with their labels, and what they mean.
pub fn list() -> String {
    let mut text = String::new();
    for family in ALL {
        let labels =
            if family.labels.is_empty() { String::new() } else { format!("{{{}}}", family.labels.join(",")) };
        // Writing to a string can't fail.
        let _infallible = writeln!(text, "{}{labels}\n    {}", family.name, family.help);
    }
    text
}

/// The whole catalogue for programs: families with their labels, and InfluxDB's measurements.
///
/// # Errors
///
/// If it can't be written as JSON, which means a defect here.
pub fn json() -> serde_json::Result<String> {
    #[derive(Serialize)]
    struct Catalogue {
        families: Vec<Written>,
        measurements: std::collections::BTreeMap<&'static str, Measurement>,
    }
    #[derive(Serialize)]
    struct Written {
        name: &'static str,
        kind: &'static str,
        labels: &'static [&'static str],
        /// Of labels that can have few values only (and of `le`), all of them.
        values: std::collections::BTreeMap<&'static str, Vec<String>>,
        help: &'static str,
    }
    let families = ALL.iter().map(|family| Written {
        name: family.name,
        kind: family.kind.name(),
        labels: family.labels,
        values: values::of_family(family),
        help: family.help,
    });
    serde_json::to_string_pretty(&Catalogue { families: families.collect(), measurements: measurements() })
}

/// The whole catalogue as a Markdown table.
pub fn markdown() -> String {
    let mut text = String::from(
        "# Metrics\n\nMade by `cargo xtask docs` from `profiler/src/export/catalogue.rs`; `profiler metrics` prints the same \
         list. Names without the prefix `profiler_` are profiler's own process.\n\n| Metric | Kind | Labels | Meaning |\n|---|---|---|---|\n",
    );
    for family in ALL {
        let kind = family.kind.name();
        let labels: Vec<_> = family.labels.iter().map(|label| format!("`{label}`")).collect();
        // Writing to a string can't fail.
        let _infallible =
            writeln!(text, "| `{}` | {kind} | {} | {} |", family.name, labels.join(" "), family.help);
    }
    text.push_str(
        "\n## In InfluxDB\n\nThe same figures, as `--influx` pushes them; every point has the tag `host`, too. A name in braces stands for \
         each of its values. See [influx.md](influx.md) for queries.\n\n",
    );
    text.push_str(&influx::markdown());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_there_once_and_follows_the_conventions() {
        let mut names = std::collections::HashSet::new();
        for family in ALL {
            assert!(names.insert(family.name), "{} twice", family.name);
            assert_eq!(family.kind == Kind::Counter, family.name.ends_with("_total"), "{}", family.name);
            assert!(family.help.ends_with('.') && !family.help.contains('|'), "{}", family.name);
            assert!(family.name.starts_with("profiler_") || family.name.starts_with("process_"));
            assert!(family.labels.iter().all(|label| *label != "instance" && *label != "job"));
        }
    }
}
