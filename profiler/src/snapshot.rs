//! One moment of everything we know: raw totals, made by one writer, read by many. Rates and ranks are derived elsewhere.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use profiler_common::{
    alloc::{AllocCounts, AllocFunction},
    mapping::{KINDS, MappingCounts},
    sched::{CAUSES, StallCounts},
    stops::StopCounts,
};

use serde::Serialize;

use crate::{
    binary::{
        Layer, SiteKind,
        go::{BuildInfo, GoImage},
    },
    leaks::Picture,
    push::figures::PushFigures,
    runtime::go::{attach::FileId, figures::Figures},
    stalls::Ledger,
    target::{Process, ProcessUsage, UsageDetail},
    worker,
};

/// Everything at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// When, by the wall clock.
    pub taken_at: SystemTime,
    /// When, by the clock that never jumps.
    pub taken: Instant,
    /// The targets, in the order in which they came.
    pub targets: Vec<TargetSnapshot>,
    /// What was lost or went wrong: reason and count. All reasons are listed, also at zero.
    pub losses: Vec<(&'static str, u64)>,
    /// Chosen processes that are not observed, by reason. All reasons are listed, also at zero.
    pub not_observed: Vec<(&'static str, u64)>,
    /// Targets that had ended and were forgotten, to keep their number bounded.
    pub forgotten: u64,
    /// Thread time that would have made a counter sink, and was held back.
    pub held_back: Duration,
    /// Our own process.
    pub own: Option<ProcessUsage>,
    /// Where memory leaks, as of the last look; `None` if nobody looks.
    pub leaks: Option<Arc<Picture>>,
    /// The process that reads what targets have made; `None` if leaks aren't looked for.
    pub worker: Option<worker::Figures>,
    /// The history on disk; `None` if there is none.
    pub history: Option<HistoryFigures>,
    /// The push to InfluxDB; `None` if nothing is pushed.
    pub push: Option<PushFigures>,
}

/// What a history has, and what was left out of it or lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HistoryFigures {
    /// Pictures that it has.
    pub moments: u64,
    /// Pictures that were left out as they aged.
    pub thinned_moments: u64,
    /// Small sites that were left out, each counted once per picture.
    pub dropped_sites: u64,
    /// Pictures that could not be written.
    pub failed: u64,
}

/// A target at one moment: one process, or all processes that are shown under one name.
///
/// Totals include the processes that have ended, so that they never sink; sizes are those of the living.
#[derive(Clone, Debug)]
pub struct TargetSnapshot {
    /// Value of the `target` label.
    pub name: Arc<str>,
    /// The living processes; where none lives any more, the last one that did.
    pub processes: Vec<ProcessSnapshot>,
    /// Processes that belong or have belonged to it.
    pub processes_seen: u64,
    /// How long it has been observed: since its first process was, until now or the end of the last.
    pub observed: Duration,
    /// CPU time that its processes have used, those that ended included (as of their last sample).
    pub cpu_seconds: f64,
    /// Their page faults, without and with I/O.
    pub faults: (u64, u64),
    /// What /proc says; `None` when no process lives.
    pub usage: Option<ProcessUsage>,
    /// What /proc says of what is dear to read, and when the oldest part of that was read.
    pub detail: Option<(UsageDetail, Instant)>,
    /// Allocator calls.
    pub alloc: AllocSnapshot,
    /// Thread time; `None` if it isn't kept.
    pub ledger: Option<LedgerSnapshot>,
    /// Memory that the processes mapped and unmapped themselves, by kind; `None` if it isn't accounted for.
    pub mappings: Option<Mappings>,
    /// What Go's runtime says of itself; `None` if no process of it runs Go.
    pub go: Option<GoSnapshot>,
    /// What its programs were built from; one for each program, as far as that is known already.
    pub programs: Vec<Arc<ProgramDescription>>,
}

/// What Go's runtimes of a target say of themselves. Totals include the processes that have ended.
#[derive(Clone, Debug, Default)]
pub struct GoSnapshot {
    /// The versions of Go: one, unless the target's processes run several programs.
    pub versions: Vec<String>,
    /// The sums over the living processes, totals with those that have ended; of the time of the last collection the
    /// latest, and of all processes' remembered pauses, all. `None` if they can't be told of any.
    pub figures: Option<Figures>,
    /// Whose figures these are: processes.
    pub processes: u64,
    /// What can't be told, and why.
    pub trouble: Vec<GoTrouble>,
    /// Pauses of garbage collections that were stalls, since it is observed: each is what one cycle stopped the world for.
    pub pauses: StallCounts,
    /// What isn't in all that, or only after a second look.
    pub losses: GoLosses,
    /// Times that the world was stopped, by reason, if asked for: each single stop, measured by probes.
    pub stops: Option<Vec<(&'static str, StopCounts)>>,
    /// The tables by which the runtimes are read, and whether each is that of the exact version: each once, sorted.
    pub tables: Vec<(String, bool)>,
    /// How long the last reading of memory took, in seconds: of all processes together.
    pub read_seconds: f64,
    /// The living processes' programs, to ask more of them.
    pub programs: Vec<GoProcess>,
}

/// What was lost while Go runtimes were read, since they are observed; of processes that have ended, too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GoLosses {
    /// Cycles whose pause was overwritten before it was read.
    pub pauses_missed: u64,
    /// Readings that were made again, as a counter went back or jumped further than any can.
    pub readings_repeated: u64,
    /// Counters that were shown as they had been before, as they were less in the second reading, too.
    pub counters_held_back: u64,
    /// Threads that were left behind, as reading memory didn't end in time.
    pub readers_lost: u64,
}

impl GoLosses {
    /// Adds another process's.
    pub const fn add(&mut self, other: &Self) {
        self.pauses_missed = self.pauses_missed.saturating_add(other.pauses_missed);
        self.readings_repeated = self.readings_repeated.saturating_add(other.readings_repeated);
        self.counters_held_back = self.counters_held_back.saturating_add(other.counters_held_back);
        self.readers_lost = self.readers_lost.saturating_add(other.readers_lost);
    }
}

/// What can't be told of a Go runtime.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GoTrouble {
    /// `figures`, `heap_profile` or `stops`.
    pub what: &'static str,
    /// One word for the reason: `memory` (it can't be read), `contradiction`, `restless`, `unavailable`, `late`.
    pub kind: &'static str,
    /// Why, in words.
    pub reason: String,
}

/// A living process that runs a Go program.
#[derive(Clone, Debug)]
pub struct GoProcess {
    /// The process.
    pub process: Arc<Process>,
    /// What its program's file says.
    pub image: Arc<GoImage>,
    /// What file that is, as `/proc/PID/maps` has it.
    pub file: FileId,
}

/// What a program was built from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProgramDescription {
    /// The program's path, cleaned.
    pub exe: String,
    /// Of a Go program.
    pub go: Option<GoBuild>,
    /// Its parts: Go's modules aren't among them.
    pub parts: Vec<ProgramPart>,
    /// Parts that were left out because there are too many: at least so many.
    pub left_out: u64,
    /// What could not be read.
    pub trouble: Vec<ProgramTrouble>,
}

impl ProgramDescription {
    /// What could not be read, in words; `None` if there is nothing of that kind.
    pub fn trouble(&self) -> Option<String> {
        let words: Vec<_> = self.trouble.iter().map(|trouble| trouble.reason.as_str()).collect();
        (!words.is_empty()).then(|| words.join("; "))
    }
}

/// What can't be told of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramTrouble {
    /// `program` (nothing of it), `parts` (some of what its file says), `modules` (what Go's linker has written of them).
    pub what: &'static str,
    /// One word for the reason: `late`, `unreadable`, `refused`, `failed`, `damaged`, `unavailable`.
    pub kind: &'static str,
    /// Why, in words.
    pub reason: String,
}

/// What a Go program was built from and with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GoBuild {
    /// `go1.22.1`.
    pub version: String,
    /// Modules and settings; `None` if the program doesn't say.
    pub info: Option<BuildInfo>,
}

/// Something that a program was built from or has loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct ProgramPart {
    /// What it is: `rust` (a crate, by cargo-auditable), `python` (an installed distribution), `library` (a mapped file).
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// Its version; empty if nobody knows.
    pub version: String,
    /// Its build id, of a library; else empty.
    pub build_id: String,
}

/// System calls that map and unmap memory, by [`MappingKind`](profiler_common::mapping::MappingKind).
pub type Mappings = [MappingCounts; KINDS];

impl TargetSnapshot {
    /// Whether any process of it still runs.
    pub fn up(&self) -> bool {
        self.processes.iter().any(|process| process.up)
    }

    /// Whether the calls of its processes are counted, in one answer.
    pub fn alloc_state(&self) -> AllocState {
        let states = self.alloc_states();
        match states.as_slice() {
            [] => AllocState::Off,
            [(state, _)] => (*state).clone(),
            several => {
                let told = several.iter().filter_map(|(state, count)| Some((state.tell().1?, count)));
                let told: Vec<_> =
                    told.map(|(reason, count)| format!("{count} processes: {reason}")).collect();
                AllocState::Partly(told.join("; "))
            }
        }
    }

    /// How the calls of its processes are counted, each answer once, with the number of processes.
    pub fn alloc_states(&self) -> Vec<(&AllocState, usize)> {
        let mut states: Vec<(&AllocState, usize)> = Vec::new();
        for process in &self.processes {
            match states.iter_mut().find(|(state, _)| **state == process.alloc) {
                Some((_, count)) => *count += 1,
                None => states.push((&process.alloc, 1)),
            }
        }
        states
    }
}

/// A process of a target at one moment.
#[derive(Clone, Debug)]
pub struct ProcessSnapshot {
    /// Who it is.
    pub info: Arc<ProcessInfo>,
    /// Whether it still runs.
    pub up: bool,
    /// Whether its allocator calls are counted.
    pub alloc: AllocState,
}

/// Who a process is. A program that replaces itself (`execve`) gives a new one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessInfo {
    /// Process id.
    pub pid: u32,
    /// Its name, cleaned.
    pub comm: String,
    /// Its program, cleaned.
    pub exe: Option<String>,
}

/// Allocator calls of a target.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AllocSnapshot {
    /// The program's calls since attach, by layer and function, in that order.
    pub functions: Vec<FunctionCounts>,
    /// Objects that live, by layer.
    pub live: Vec<LiveObjects>,
    /// Every probe site, once for all processes that have it.
    pub sites: Vec<Arc<SiteInfo>>,
    /// Every function that could have been probed and isn't, once.
    pub unhooked: Vec<Arc<Unhooked>>,
    /// Time in which processes ran and their calls were not counted: between a fork or `execve` and the probes.
    pub gap: Duration,
}

/// Allocations minus frees in one layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveObjects {
    /// Whose.
    pub layer: Layer,
    /// Below zero if more was freed of what was there before than was kept of what came since. Of the present program
    /// of every living process, with what a forked process has inherited from its parent.
    pub objects: i64,
}

/// A function of an allocator that isn't probed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Unhooked {
    /// Whose, or `None` if that isn't known.
    pub layer: Option<Layer>,
    /// The function's public name; empty if it concerns the whole file.
    pub name: String,
    /// The file, cleaned.
    pub object: String,
    /// Why, in words.
    pub reason: String,
}

/// Whether a process's allocations are counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AllocState {
    /// Not asked for.
    Off,
    /// They are.
    Counting,
    /// Those of one allocator are, those of another one in the same process are not, because of this.
    Partly(String),
    /// They can't be, because of this.
    NotCounting(String),
}

impl AllocState {
    /// One word, and the reason if there is one.
    pub const fn tell(&self) -> (&'static str, Option<&str>) {
        match self {
            Self::Off => ("off", None),
            Self::Counting => ("counting", None),
            Self::Partly(reason) => ("partly", Some(reason.as_str())),
            Self::NotCounting(reason) => ("not_counting", Some(reason.as_str())),
        }
    }
}

/// One function's counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FunctionCounts {
    /// Whose.
    pub layer: Layer,
    /// Which one.
    pub function: AllocFunction,
    /// The program's calls.
    pub counts: AllocCounts,
    /// How often probes fired for it.
    pub hits: u64,
    /// Calls that the allocator made itself.
    pub internal: u64,
}

/// Where a probe sits, and why there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SiteInfo {
    /// Whose function.
    pub layer: Layer,
    /// The function.
    pub function: AllocFunction,
    /// Every allocator name at that address.
    pub names: Vec<String>,
    /// The file, cleaned.
    pub object: String,
    /// Its build id, if it has one.
    pub build_id: Option<String>,
    /// How many places are probed for it: one, but for the functions that a compiler has copied (Python's).
    pub places: usize,
    /// Bytes behind the function's entry; zero for several places.
    pub offset: u64,
    /// The instruction there; for several places, how many they are.
    pub instruction: String,
    /// Whether the kernel emulates that instruction (those instructions, all of them), or must single-step it.
    pub kind: SiteKind,
    /// Why this one.
    pub reason: String,
    /// On how many of the allocator's own calls of this function there is a probe, too, to be subtracted.
    pub internal_calls: usize,
    /// What isn't exact, in words.
    pub notes: Vec<String>,
    /// Whether the kernel's breakpoint was seen in the target's memory; `None` if that couldn't be read.
    pub in_place: Option<bool>,
}

/// Thread time of a target.
#[derive(Clone, Copy, Debug, Default)]
pub struct LedgerSnapshot {
    /// Seconds by state.
    pub ledger: Ledger,
    /// Stalls by cause.
    pub stalls: [StallCounts; CAUSES],
}

impl LedgerSnapshot {
    /// Adds another process's.
    pub fn add(&mut self, other: &Self) {
        self.ledger.add(&other.ledger);
        self.stalls.iter_mut().zip(&other.stalls).for_each(|(sum, one)| sum.add(one));
    }
}

impl AllocSnapshot {
    /// The functions of allocators; those of interpreters' layers stand on these and are never added to them.
    pub fn of_allocators(&self) -> impl Iterator<Item = &FunctionCounts> {
        self.functions.iter().filter(|one| matches!(one.layer, Layer::Allocator(_)))
    }

    /// Everything of one layer together.
    pub fn total_of(&self, layer: Layer) -> AllocCounts {
        sum(self.functions.iter().filter(|one| one.layer == layer))
    }

    /// Everything of all allocators together.
    pub fn total(&self) -> AllocCounts {
        sum(self.of_allocators())
    }

    /// Objects that live in all allocators; see [`LiveObjects::objects`].
    pub fn live_objects(&self) -> i64 {
        let of_allocators = self.live.iter().filter(|one| matches!(one.layer, Layer::Allocator(_)));
        of_allocators.fold(0, |live, one| live.wrapping_add(one.objects))
    }

    /// The layers that were counted, in their order.
    pub fn layers(&self) -> Vec<Layer> {
        let mut layers: Vec<_> = self.functions.iter().map(|one| one.layer).collect();
        layers.sort_unstable();
        layers.dedup();
        layers
    }

    /// Adds counts, function by function.
    pub fn add_functions(&mut self, others: &[FunctionCounts]) {
        for other in others {
            let same = |one: &&mut FunctionCounts| (one.layer, one.function) == (other.layer, other.function);
            match self.functions.iter_mut().find(same) {
                Some(one) => {
                    one.counts.add(&other.counts);
                    one.hits += other.hits;
                    one.internal += other.internal;
                }
                None => self.functions.push(*other),
            }
        }
        self.functions.sort_unstable_by_key(|one| (one.layer, one.function));
    }

    /// Adds live objects, layer by layer.
    pub fn add_live(&mut self, others: &[LiveObjects]) {
        for other in others {
            match self.live.iter_mut().find(|one| one.layer == other.layer) {
                Some(one) => one.objects = one.objects.wrapping_add(other.objects),
                None => self.live.push(*other),
            }
        }
        self.live.sort_unstable_by_key(|one| one.layer);
    }

    /// Adds another process's totals, sites and gaps; its live objects are added apart, as only the living have any.
    pub fn add_totals(&mut self, other: &Self) {
        self.add_functions(&other.functions);
        self.gap += other.gap;
        for site in &other.sites {
            if !self.sites.iter().any(|known| Arc::ptr_eq(known, site) || known == site) {
                self.sites.push(Arc::clone(site));
            }
        }
        for unhooked in &other.unhooked {
            if !self.unhooked.iter().any(|known| Arc::ptr_eq(known, unhooked) || known == unhooked) {
                self.unhooked.push(Arc::clone(unhooked));
            }
        }
    }
}

fn sum<'a>(functions: impl Iterator<Item = &'a FunctionCounts>) -> AllocCounts {
    let mut total = AllocCounts::default();
    functions.for_each(|one| total.add(&one.counts));
    total
}
