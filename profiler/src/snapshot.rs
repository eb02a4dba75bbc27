//! One moment of everything we know: raw totals, made by one writer, read by many. Rates and ranks are derived elsewhere.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use profiler_common::{
    alloc::{AllocCounts, AllocFunction},
    sched::{CAUSES, StallCounts},
};

use crate::{
    binary::SiteKind,
    stalls::Ledger,
    target::{ProcessUsage, UsageDetail},
};

/// Everything at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// When, by the wall clock.
    pub taken_at: SystemTime,
    /// When, by the clock that never jumps.
    pub taken: Instant,
    /// The targets, in the order they were given.
    pub targets: Vec<TargetSnapshot>,
    /// What was lost or went wrong: reason and count. All reasons are listed, also at zero.
    pub losses: Vec<(&'static str, u64)>,
    /// Thread time that would have made a counter sink, and was held back.
    pub held_back: Duration,
    /// Our own process.
    pub own: Option<ProcessUsage>,
}

/// Who a target is. Doesn't change while we look at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetInfo {
    /// Value of the `target` label.
    pub name: String,
    /// Process id.
    pub pid: u32,
    /// Name of the process when we attached, cleaned.
    pub comm: String,
    /// Its program when we attached, cleaned.
    pub exe: Option<String>,
}

/// A target at one moment.
#[derive(Clone, Debug)]
pub struct TargetSnapshot {
    /// Who it is.
    pub info: Arc<TargetInfo>,
    /// Whether it still runs.
    pub up: bool,
    /// How long it has been observed: since counting began, until now or its end.
    pub observed: Duration,
    /// What /proc says; `None` after its end.
    pub usage: Option<ProcessUsage>,
    /// What /proc says of what is dear to read, and when that was read.
    pub detail: Option<(UsageDetail, Instant)>,
    /// Allocator calls.
    pub alloc: AllocSnapshot,
    /// Thread time; `None` if it isn't kept.
    pub ledger: Option<LedgerSnapshot>,
}

/// Allocator calls of a target.
#[derive(Clone, Debug)]
pub struct AllocSnapshot {
    /// Whether and why (not).
    pub state: AllocState,
    /// Every probe site and what it has counted.
    pub sites: Vec<SiteSnapshot>,
    /// What sites of an earlier program of the same process had counted before it was replaced (`execve`).
    pub earlier: Vec<FunctionCounts>,
}

/// Whether a target's allocations are counted.
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

/// A probe site and what it has counted.
#[derive(Clone, Debug)]
pub struct SiteSnapshot {
    /// Which one.
    pub site: Arc<SiteInfo>,
    /// The program's calls since attach.
    pub counts: AllocCounts,
    /// How often the site's probe fired, and those on the allocator's own calls of it.
    pub hits: u64,
    /// How many of the calls the allocator made itself; they are not in `counts`.
    pub internal: u64,
}

/// One function's counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FunctionCounts {
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
#[derive(Clone, Debug)]
pub struct SiteInfo {
    /// The function.
    pub function: AllocFunction,
    /// Every allocator name at that address.
    pub names: Vec<String>,
    /// The file, cleaned.
    pub object: String,
    /// Its build id, if it has one.
    pub build_id: Option<String>,
    /// Bytes behind the function's entry.
    pub offset: u64,
    /// The instruction there.
    pub instruction: String,
    /// Whether the kernel emulates that instruction, or must single-step it.
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
#[derive(Clone, Copy, Debug)]
pub struct LedgerSnapshot {
    /// Seconds by state.
    pub ledger: Ledger,
    /// Stalls by cause.
    pub stalls: [StallCounts; CAUSES],
}

impl AllocSnapshot {
    /// Counts by function, of all objects and programs, in the order of [`AllocFunction::ALL`]. Functions that have no
    /// site are left out.
    pub fn by_function(&self) -> Vec<FunctionCounts> {
        let now = self.sites.iter().map(|site| FunctionCounts {
            function: site.site.function,
            counts: site.counts,
            hits: site.hits,
            internal: site.internal,
        });
        let all: Vec<_> = now.chain(self.earlier.iter().copied()).collect();
        let sum = |function| {
            let of = all.iter().copied().filter(|one| one.function == function);
            of.reduce(|mut sum, one| {
                sum.counts.add(&one.counts);
                sum.hits += one.hits;
                sum.internal += one.internal;
                sum
            })
        };
        AllocFunction::ALL.into_iter().filter_map(sum).collect()
    }

    /// Everything together.
    pub fn total(&self) -> AllocCounts {
        let mut total = AllocCounts::default();
        self.by_function().iter().for_each(|one| total.add(&one.counts));
        total
    }

    /// Objects allocated minus objects freed since attach, in the present program. Below zero if the target has freed
    /// more of what it had before than it has kept of what came since.
    pub fn live_objects(&self) -> i64 {
        self.sites.iter().fold(0, |live, site| {
            live.wrapping_add_unsigned(site.counts.allocated()).wrapping_sub_unsigned(site.counts.freed())
        })
    }
}
