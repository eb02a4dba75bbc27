//! Targets as they are shown: processes under one name, with what those that have ended leave behind.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::go::{GoEnded, GoPart};
use crate::{
    snapshot::{AllocSnapshot, LedgerSnapshot, Mappings, ProcessSnapshot, TargetSnapshot},
    target::{ProcessUsage, UsageDetail},
};

/// One process's part at one moment.
pub(super) struct Part {
    pub process: ProcessSnapshot,
    pub usage: Option<ProcessUsage>,
    pub detail: Option<(UsageDetail, Instant)>,
    pub alloc: AllocSnapshot,
    pub ledger: Option<LedgerSnapshot>,
    pub mappings: Option<Mappings>,
    pub go: GoPart,
}

/// A target: its name and what its ended processes leave behind.
pub(super) struct Group {
    pub name: Arc<str>,
    began: Instant,
    /// When its last process ended, while none lives.
    ended: Option<Instant>,
    processes_seen: u64,
    /// Totals of ended processes; no live objects.
    alloc: AllocSnapshot,
    ledger: Option<LedgerSnapshot>,
    mappings: Option<Mappings>,
    go: GoEnded,
    counters: Counters,
    /// The last process that ended: its live objects are shown while no other lives.
    last: Option<(ProcessSnapshot, AllocSnapshot)>,
}

/// What /proc counts and forgets with the process.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counters {
    cpu_seconds: f64,
    minor_faults: u64,
    major_faults: u64,
    voluntary_switches: u64,
    involuntary_switches: u64,
}

impl Counters {
    pub fn of(usage: Option<&ProcessUsage>, detail: Option<&UsageDetail>) -> Self {
        Self {
            cpu_seconds: usage.map_or(0.0, |usage| usage.cpu_seconds),
            minor_faults: usage.map_or(0, |usage| usage.minor_faults),
            major_faults: usage.map_or(0, |usage| usage.major_faults),
            voluntary_switches: detail.map_or(0, |detail| detail.voluntary_switches),
            involuntary_switches: detail.map_or(0, |detail| detail.involuntary_switches),
        }
    }

    fn add(&mut self, other: &Self) {
        self.cpu_seconds += other.cpu_seconds;
        self.minor_faults += other.minor_faults;
        self.major_faults += other.major_faults;
        self.voluntary_switches += other.voluntary_switches;
        self.involuntary_switches += other.involuntary_switches;
    }

    /// The same figures without these.
    pub fn taken_from(&self, mut usage: ProcessUsage) -> ProcessUsage {
        usage.cpu_seconds = (usage.cpu_seconds - self.cpu_seconds).max(0.0);
        usage.minor_faults = usage.minor_faults.saturating_sub(self.minor_faults);
        usage.major_faults = usage.major_faults.saturating_sub(self.major_faults);
        usage
    }

    /// As [`Counters::taken_from`].
    pub const fn taken_from_detail(&self, mut detail: UsageDetail) -> UsageDetail {
        detail.voluntary_switches = detail.voluntary_switches.saturating_sub(self.voluntary_switches);
        detail.involuntary_switches = detail.involuntary_switches.saturating_sub(self.involuntary_switches);
        detail
    }
}

impl Group {
    pub fn new(name: Arc<str>) -> Self {
        Self {
            name,
            began: Instant::now(),
            ended: None,
            processes_seen: 0,
            alloc: AllocSnapshot::default(),
            ledger: None,
            mappings: None,
            go: GoEnded::default(),
            counters: Counters::default(),
            last: None,
        }
    }

    /// Another process belongs to it.
    pub const fn enter(&mut self) {
        self.processes_seen += 1;
        self.ended = None;
    }

    /// A process has ended, or belongs to another target from now on: what it had counted stays in the sums.
    pub fn retire(&mut self, part: Part, living: usize) {
        // Not its sites: they would pile up, of every program that ever was.
        self.alloc.add_functions(&part.alloc.functions);
        self.alloc.gap += part.alloc.gap;
        if let Some(ledger) = &part.ledger {
            let sum = self.ledger.get_or_insert_default();
            sum.add(ledger);
            // Its threads are as gone as it is, whether or not the last of them was seen ending.
            sum.ledger.ended += sum.ledger.living;
            sum.ledger.living = 0;
        }
        add_mappings(&mut self.mappings, part.mappings.as_ref());
        self.go.add(&part.go);
        let detail = part.detail.as_ref().map(|(detail, _)| detail);
        self.counters.add(&Counters::of(part.usage.as_ref(), detail));
        if living == 0 {
            self.ended = Some(Instant::now());
        }
        // Whether or not it runs on: to this target it doesn't belong any more.
        self.last = Some((ProcessSnapshot { up: false, ..part.process }, part.alloc));
    }

    /// When the last of its processes ended; `None` while one lives.
    pub const fn ended(&self) -> Option<Instant> {
        self.ended
    }

    /// Everything together.
    pub fn snapshot(&self, parts: Vec<Part>, taken: Instant) -> TargetSnapshot {
        let mut alloc = self.alloc.clone();
        let mut ledger = self.ledger;
        let mut mappings = self.mappings;
        let mut usage: Option<ProcessUsage> = None;
        let mut detail: Option<(UsageDetail, Instant)> = None;
        let mut processes = Vec::with_capacity(parts.len().max(1));
        let mut go_parts = Vec::with_capacity(parts.len());
        for part in parts {
            alloc.add_totals(&part.alloc);
            alloc.add_live(&part.alloc.live);
            if let Some(one) = &part.ledger {
                ledger.get_or_insert_default().add(one);
            }
            add_mappings(&mut mappings, part.mappings.as_ref());
            match (&mut usage, part.usage) {
                (Some(sum), Some(one)) => sum.add(&one),
                (none, one) => *none = none.take().or(one),
            }
            match (&mut detail, part.detail) {
                (Some((sum, read_at)), Some((one, at))) => {
                    sum.add(&one);
                    *read_at = (*read_at).min(at);
                }
                (none, one) => *none = none.take().or(one),
            }
            processes.push(part.process);
            go_parts.push(part.go);
        }
        if processes.is_empty()
            && let Some((process, last)) = &self.last
        {
            processes.push(process.clone());
            alloc.add_live(&last.live);
            alloc.sites.clone_from(&last.sites);
            alloc.unhooked.clone_from(&last.unhooked);
        }
        let (go, programs) = self.go.together(go_parts);
        let mut counters = self.counters;
        counters.add(&Counters::of(usage.as_ref(), detail.as_ref().map(|(detail, _)| detail)));
        if let Some(usage) = &mut usage {
            usage.cpu_seconds = counters.cpu_seconds;
            usage.minor_faults = counters.minor_faults;
            usage.major_faults = counters.major_faults;
        }
        if let Some((detail, _)) = &mut detail {
            detail.voluntary_switches = counters.voluntary_switches;
            detail.involuntary_switches = counters.involuntary_switches;
        }
        TargetSnapshot {
            name: Arc::clone(&self.name),
            processes,
            processes_seen: self.processes_seen,
            observed: self.ended.unwrap_or(taken).saturating_duration_since(self.began),
            cpu_seconds: counters.cpu_seconds,
            faults: (counters.minor_faults, counters.major_faults),
            usage,
            detail,
            alloc,
            ledger,
            mappings,
            go,
            programs,
        }
    }
}

fn add_mappings(sum: &mut Option<Mappings>, other: Option<&Mappings>) {
    if let Some(other) = other {
        sum.get_or_insert_default().iter_mut().zip(other).for_each(|(sum, one)| sum.add(one));
    }
}

/// Forgets the targets that ended first, until at most `keep` ended ones are left; returns how many went.
pub(super) fn forget(groups: &mut Vec<Group>, keep: usize) -> u64 {
    let mut ended: Vec<Instant> = groups.iter().filter_map(Group::ended).collect();
    if ended.len() <= keep {
        return 0;
    }
    ended.sort_unstable();
    let from = ended[ended.len() - keep..].first().copied();
    let before = groups.len();
    groups.retain(|group| group.ended().is_none_or(|at| from.is_some_and(|from| at >= from)));
    (before - groups.len()) as u64
}

/// The time that a moment of the kernel's clock lies back.
pub(super) fn since(at_ns: u64) -> Duration {
    Duration::from_nanos(crate::kernel::now_ns().saturating_sub(at_ns))
}
