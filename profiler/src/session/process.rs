//! One process under observation, from attach to its end.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    SessionError,
    alloc::{AllocWatch, Links},
    go::GoWatch,
    group::{Counters, Part},
    images::Images,
    ledger::{LedgerWatch, ThreadReading, forget_slot},
    strays::Strays,
};
use crate::{
    hunt::Death,
    kernel::{Kernel, Plan},
    snapshot::{AllocSnapshot, LiveObjects, Mappings, ProcessInfo, ProcessSnapshot},
    target::{Process, ProcessUsage, SwitchTally, TargetError, UsageDetail},
};

/// Dear figures are read again after this many times the time they took for each process that is observed, so that they
/// cost all targets and us at most half a percent of a CPU together.
const DETAIL_PACE: u32 = 200;
/// How long the last events of an ended process may take to arrive.
const LAST_EVENTS: Duration = Duration::from_millis(100);

/// One process under observation.
pub(super) struct Watched {
    pub process: Arc<Process>,
    pub info: Arc<ProcessInfo>,
    /// The target that it belongs to.
    pub group: Arc<str>,
    /// Whether processes that it forks are observed, too.
    pub follow: bool,
    pub slot: u32,
    pub alloc: AllocWatch,
    pub ledger: Option<LedgerWatch>,
    pub strays: Strays,
    /// What Go's runtime says of itself, if that is to be told.
    pub go: GoWatch,
    /// What earlier processes have left in the slot; `None` if mappings aren't accounted for.
    mappings: Option<Mappings>,
    ended: Option<Instant>,
    /// How, as `wait` tells it.
    status: Option<u32>,
    usage: Option<ProcessUsage>,
    detail: Detail,
    /// What belongs to an earlier target.
    counted: Counters,
}

/// The dear figures of a process: the last reading, and when the next one is due.
#[derive(Default)]
struct Detail {
    last: Option<(UsageDetail, Instant)>,
    due: Option<Instant>,
    reading: bool,
    tally: SwitchTally,
}

/// A reading of the dear figures that may take long; done elsewhere, so that no scrape waits for it.
pub struct DetailJob {
    process: Arc<Process>,
    tally: SwitchTally,
}

/// What a [`DetailJob`] brings back.
pub struct DetailResult {
    process: Arc<Process>,
    tally: SwitchTally,
    detail: Option<UsageDetail>,
    took: Duration,
}

impl DetailJob {
    /// Reads. Blocks as long as the kernel needs.
    pub fn run(mut self) -> DetailResult {
        let began = Instant::now();
        let detail = self.process.usage_detail(&mut self.tally).ok();
        DetailResult { process: self.process, tally: self.tally, detail, took: began.elapsed() }
    }
}

/// From when on a new process's calls should be counted, and what it had then.
#[derive(Default)]
pub(super) struct Birth {
    /// How long it has run already since that moment.
    pub ago: Duration,
    /// What it has of its parent's live objects.
    pub inherited: Vec<LiveObjects>,
    /// What `/proc` had counted of it when it left another target: that stays there.
    pub counted: Counters,
}

impl Watched {
    /// Places the probes (which takes milliseconds), then lets counting and the ledger begin together.
    pub fn begin(
        (kernel, images, plan): (&mut Option<Kernel>, &mut Images, Plan),
        process: Process,
        (group, follow): (Arc<str>, bool),
        slot: u32,
        mut birth: Birth,
    ) -> Result<Self, SessionError> {
        let asked = Instant::now();
        let pid = process.pid();
        let info = Arc::new(ProcessInfo { pid, comm: process.comm()?, exe: process.exe() });
        let usage = process.usage()?;
        let mut watched = Self {
            process: Arc::new(process),
            info,
            group,
            follow,
            slot,
            alloc: AllocWatch::off(slot),
            ledger: None,
            strays: Strays::default(),
            go: GoWatch::default(),
            mappings: None,
            ended: None,
            status: None,
            usage: Some(usage),
            detail: Detail::default(),
            counted: birth.counted,
        };
        let Some(kernel) = kernel else { return Ok(watched) };
        // Before the probes: an execve in between must be seen.
        // Forks of a process whose children aren't observed matter as well (see `strays`).
        kernel.watch_process(pid, slot, true)?;
        if !watched.process.runs_its_parents_program() {
            // An execve from here on is noticed.
            birth.inherited.clear();
        }
        let placed = watched.place(kernel, images, plan, birth);
        if placed.is_err() || !watched.process.is_alive() {
            watched.alloc.stop(kernel);
            kernel.unwatch_process(pid, slot);
            if plan.stalls {
                // The next process in this place must not inherit its threads. What went wrong first is what matters.
                let _forgotten = forget_slot(kernel, slot);
            }
            // The probes may sit in another process that has got its id; a process that ended explains every complaint.
            return Err(match placed {
                Err(error) if watched.process.is_alive() => error,
                _ => TargetError::Gone(pid).into(),
            });
        }
        tracing::info!("attached to process {pid} in {} ms", asked.elapsed().as_millis());
        Ok(watched)
    }

    fn place(
        &mut self,
        kernel: &mut Kernel,
        images: &mut Images,
        plan: Plan,
        birth: Birth,
    ) -> Result<(), SessionError> {
        if plan.mappings {
            self.mappings = Some(kernel.mapping_counts(self.slot)?);
        }
        if plan.alloc {
            let since = (birth.ago, birth.inherited);
            self.alloc = AllocWatch::place(kernel, images, &self.process, self.slot, since)?;
        }
        if plan.stalls {
            self.ledger = Some(LedgerWatch::begin(kernel, &self.process, self.slot)?);
        }
        self.alloc.start(kernel)
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        if self.ended.is_none() && !self.process.is_alive() {
            self.ended = Some(Instant::now());
        }
        self.ended.is_some()
    }

    /// How it ended, as `wait` tells it.
    pub fn ended_with(&mut self, status: u32) {
        self.status = Some(status);
    }

    /// How it ended, if that is known.
    pub const fn end(&self) -> Option<Death> {
        match self.status {
            Some(status) => Some(Death::of_status(status)),
            None => None,
        }
    }

    /// What `/proc` has counted of it so far, whatever target it belonged to.
    pub fn counters(&self) -> Counters {
        Counters::of(self.usage.as_ref(), self.detail.last.as_ref().map(|(detail, _)| detail))
    }

    /// When it started: with its id, that is who it is.
    pub fn start(&self) -> Option<f64> {
        Some(self.usage.as_ref()?.start_time_seconds)
    }

    /// When nothing more of it is to come; `None` while it lives.
    pub fn over_at(&self) -> Option<Instant> {
        self.ended.map(|ended| ended + LAST_EVENTS)
    }

    /// Whether it has ended and nothing more of it is to come.
    pub fn is_over(&self, part: &Part) -> bool {
        let threads = part.ledger.as_ref().map_or(0, |kept| kept.ledger.living);
        self.ended.is_some_and(|ended| threads == 0 || ended.elapsed() >= LAST_EVENTS)
    }

    /// Reads the figures of /proc; keeps up with a changed program.
    pub fn refresh(&mut self, kernel: Option<&mut Kernel>, images: &mut Images) -> Links {
        let Ok(usage) = self.process.usage() else { return (Vec::new(), None) };
        let mut gone = (Vec::new(), None);
        let headless = usage.image.0 == 0 && self.process.lives_on_without_its_main_thread();
        if let Some(kernel) = kernel {
            if headless {
                // The kernel goes by that thread's memory: single probes are gone at once (kernel/trace/trace_uprobe.c,
                // uprobe_perf_filter), those of a link as soon as another process's probes of the file are taken away.
                self.keep_counters(&usage);
                self.alloc
                    .pause(kernel, "its main thread has ended, and with it the kernel takes the probes away");
                return gone;
            }
            // It was in the middle of an execve by another thread.
            self.alloc.go_on(kernel);
            gone = self.alloc.keep_up(kernel, images, &self.process);
        }
        // Without memory, the kernel says zero; that is no size. It is ending, or only its main thread has ended.
        if usage.image.0 != 0 {
            self.usage = Some(usage);
        }
        gone
    }

    /// Sizes went with the main thread's memory, but time and faults go on.
    fn keep_counters(&mut self, now: &ProcessUsage) {
        if let Some(usage) = &mut self.usage {
            usage.cpu_seconds = now.cpu_seconds;
            usage.minor_faults = now.minor_faults;
            usage.major_faults = now.major_faults;
            usage.threads = now.threads;
        }
    }

    /// Its program has been replaced: name and path are new.
    pub fn rename(&mut self) {
        if let Ok(comm) = self.process.comm() {
            self.info = Arc::new(ProcessInfo { pid: self.info.pid, comm, exe: self.process.exe() });
        }
    }

    /// Everything of it at this moment. `reading` was made just now, for all processes together.
    pub fn read(
        &mut self,
        kernel: &mut Option<Kernel>,
        reading: &mut ThreadReading,
    ) -> Result<Part, SessionError> {
        let (mut alloc, mut kept, mut mappings) = (AllocSnapshot::default(), None, None);
        if let Some(kernel) = kernel {
            if let Some(before) = &self.mappings {
                let mut now = kernel.mapping_counts(self.slot)?;
                now.iter_mut().zip(before).for_each(|(now, before)| now.subtract(before));
                mappings = Some(now);
            }
            if let Some(ledger) = &mut self.ledger {
                kept = Some(ledger.read(kernel, &self.process, reading.of(self.slot))?);
            }
            self.go.read_stops(kernel, self.slot)?;
            alloc = self.alloc.read(kernel)?;
        }
        let up = self.ended.is_none();
        Ok(Part {
            process: ProcessSnapshot { info: Arc::clone(&self.info), up, alloc: self.alloc.state().clone() },
            usage: self.usage.clone().map(|usage| self.counted.taken_from(usage)),
            detail: self.detail.last.map(|(detail, at)| (self.counted.taken_from_detail(detail), at)),
            alloc,
            ledger: kept,
            mappings,
            go: self.go.part(&self.process),
        })
    }

    /// A reading of the dear figures, if one is due.
    pub fn due_detail(&mut self, now: Instant) -> Option<DetailJob> {
        let due =
            self.ended.is_none() && !self.detail.reading && self.detail.due.is_none_or(|due| due <= now);
        due.then(|| {
            self.detail.reading = true;
            let tally = std::mem::take(&mut self.detail.tally);
            DetailJob { process: Arc::clone(&self.process), tally }
        })
    }

    /// Whether a reading is of this process.
    pub fn is_of(&self, result: &DetailResult) -> bool {
        Arc::ptr_eq(&self.process, &result.process)
    }

    /// Takes a reading back in. `sharers`: how many processes share what such readings may cost.
    pub fn detail_done(&mut self, result: DetailResult, interval: Duration, sharers: u32) {
        let now = Instant::now();
        self.detail.reading = false;
        self.detail.tally = result.tally;
        let pause = result.took.saturating_mul(DETAIL_PACE).saturating_mul(sharers);
        self.detail.due = now.checked_add(interval.max(pause));
        if let Some(detail) = result.detail {
            self.detail.last = Some((detail, now));
        }
    }
}
