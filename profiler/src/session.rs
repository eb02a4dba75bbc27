//! The targets under observation: attaching, sampling, letting go.
//!
//! Synchronous and single-threaded; `app` decides when. A session owns the kernel side, so dropping it leaves nothing
//! behind.

mod alloc;
mod ledger;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use profiler_common::outcome::Outcome;
use thiserror::Error;

use crate::{
    kernel::{Facts, Kernel, KernelError, KernelLog, Placement, Plan, Sizes, Wanted},
    snapshot::{Snapshot, TargetInfo, TargetSnapshot},
    target::{Process, ProcessUsage, SwitchTally, TargetError, UsageDetail},
};

use alloc::AllocWatch;
pub use alloc::has_known_allocator;
use ledger::{LedgerWatch, ThreadReading};

/// Probe sites of one target: ten functions and the allocator's own calls of them, in several programs one after
/// another (`execve`). 128 of them are 6 KiB per CPU.
const SITES_PER_TARGET: u32 = 128;
/// Dear figures are read again after this many times the time they took, so that they cost the target and us at most
/// half a percent of a CPU.
const DETAIL_PACE: u32 = 200;

/// What can go wrong with a session.
#[derive(Debug, Error)]
pub enum SessionError {
    /// With the kernel side.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// With a target.
    #[error(transparent)]
    Target(#[from] TargetError),
}

/// The targets under observation.
pub struct Session {
    kernel: Option<Kernel>,
    watched: Vec<Watched>,
    own: Option<Process>,
    plan: Plan,
    free_slots: Vec<u32>,
}

/// One target.
struct Watched {
    process: Arc<Process>,
    info: Arc<TargetInfo>,
    began: Instant,
    ended: Option<Instant>,
    usage: Option<ProcessUsage>,
    detail: Detail,
    alloc: AllocWatch,
    ledger: Option<LedgerWatch>,
}

/// The dear figures of a target: the last reading, and when the next one is due.
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
    pid: u32,
    tally: SwitchTally,
    detail: Option<UsageDetail>,
    took: Duration,
}

impl DetailJob {
    /// Reads. Blocks as long as the kernel needs.
    pub fn run(mut self) -> DetailResult {
        let began = Instant::now();
        let detail = self.process.usage_detail(&mut self.tally).ok();
        DetailResult { pid: self.process.pid(), tally: self.tally, detail, took: began.elapsed() }
    }
}

impl Session {
    /// Prepares for up to `targets` targets: decides what is possible and loads the kernel side.
    ///
    /// # Errors
    ///
    /// If a wish can't be fulfilled on this machine, or the kernel refuses something.
    pub fn open(
        wanted: Wanted,
        targets: u32,
        stall_threshold: Duration,
        trace: bool,
    ) -> Result<Self, SessionError> {
        let asked = Instant::now();
        let plan = Plan::decide(wanted, &Facts::gather())?;
        let sizes = Sizes { targets, sites: targets * SITES_PER_TARGET };
        let kernel = if plan.alloc || plan.stalls {
            Some(Kernel::load(plan, sizes, stall_threshold, trace)?)
        } else {
            None
        };
        let own = Process::open(std::process::id()).ok();
        tracing::info!("kernel side loaded in {} ms", asked.elapsed().as_millis());
        Ok(Self { kernel, watched: Vec::new(), own, plan, free_slots: (0..targets).rev().collect() })
    }

    /// The kernel side's debug lines, once, if they were asked for.
    pub fn take_log(&mut self) -> Option<KernelLog> {
        self.kernel.as_mut().and_then(Kernel::take_log)
    }

    /// How probes are placed; `None` without the kernel side.
    pub fn placement(&self) -> Option<Placement> {
        self.kernel.as_ref().map(Kernel::placement)
    }

    /// Attaches to a process. `name` is its `target` label, made unique by the caller.
    ///
    /// # Errors
    ///
    /// If the process ends meanwhile or a probe can't be placed; nothing of it stays behind.
    pub fn attach(&mut self, process: Process, name: String) -> Result<&TargetInfo, SessionError> {
        let process = Arc::new(process);
        let info =
            Arc::new(TargetInfo { name, pid: process.pid(), comm: process.comm()?, exe: process.exe() });
        let usage = process.usage()?;
        let began = self.begin(&process);
        // A process that ended explains every other complaint.
        let (alloc, ledger) = began.map_err(|error| {
            if process.is_alive() { error } else { TargetError::Gone(process.pid()).into() }
        })?;
        self.watched.push(Watched {
            process,
            info: Arc::clone(&info),
            began: Instant::now(),
            ended: None,
            usage: Some(usage),
            detail: Detail::default(),
            alloc,
            ledger,
        });
        Ok(&self.watched[self.watched.len() - 1].info)
    }

    /// Places the probes (which takes tens of milliseconds), then lets counting and the ledger begin together.
    fn begin(&mut self, process: &Process) -> Result<(AllocWatch, Option<LedgerWatch>), SessionError> {
        let asked = Instant::now();
        let slot = self.free_slots.pop().ok_or_else(|| {
            KernelError::Unsupported("more targets than this session was opened for".to_owned())
        })?;
        let Some(kernel) = &mut self.kernel else { return Ok((AllocWatch::off(slot), None)) };
        let alloc =
            if self.plan.alloc { AllocWatch::place(kernel, process, slot)? } else { AllocWatch::off(slot) };
        let ledger = if self.plan.stalls { Some(LedgerWatch::begin(kernel, process, slot)?) } else { None };
        alloc.start(kernel)?;
        if !process.is_alive() {
            // The probes may sit in another process that has got its id.
            return Err(TargetError::Gone(process.pid()).into());
        }
        tracing::info!("attached to process {} in {} ms", process.pid(), asked.elapsed().as_millis());
        Ok((alloc, ledger))
    }

    /// Whether any target still runs.
    pub fn any_alive(&self) -> bool {
        self.watched.iter().any(|watched| watched.process.is_alive())
    }

    /// Reads everything.
    ///
    /// # Errors
    ///
    /// If the kernel's maps can't be read. A target that has ended is no error.
    pub fn sample(&mut self) -> Result<Snapshot, SessionError> {
        let taken = Instant::now();
        let mut missed = 0;
        let mut held_back = 0;
        let mut without_place = 0;
        let mut targets = Vec::with_capacity(self.watched.len());
        let slots = self.watched.iter().filter_map(|watched| watched.ledger.as_ref()).map(LedgerWatch::slot);
        let mut reading = match &self.kernel {
            Some(kernel) if self.plan.stalls => ThreadReading::take(kernel, slots)?,
            _ => ThreadReading::default(),
        };
        for watched in &mut self.watched {
            let up = watched.process.is_alive();
            if !up {
                watched.ended.get_or_insert(taken);
                watched.usage = None;
                if let (Some(kernel), Some(ledger)) = (&mut self.kernel, &watched.ledger) {
                    // Its id may be used again, by a process that is no business of ours.
                    kernel.unwatch_process(watched.process.pid(), ledger.slot());
                }
            } else if let Ok(usage) = watched.process.usage() {
                if let Some(kernel) = &mut self.kernel {
                    watched.alloc.keep_up(kernel, &watched.process, &usage);
                }
                // Without memory, the kernel says zero; that is no size.
                watched.usage = (usage.image.0 != 0).then_some(usage);
            }
            let (alloc, ledger) = match &mut self.kernel {
                Some(kernel) => {
                    let ledger = match &mut watched.ledger {
                        Some(ledger) => {
                            Some(ledger.read(kernel, &watched.process, reading.of(ledger.slot()))?)
                        }
                        None => None,
                    };
                    (watched.alloc.read(kernel)?, ledger)
                }
                None => (watched.alloc.unread(), None),
            };
            if let Some(ledger) = &watched.ledger {
                missed += ledger.missed;
                without_place += ledger.without_place;
                held_back += ledger.held_back_ns;
            }
            targets.push(TargetSnapshot {
                info: Arc::clone(&watched.info),
                up,
                observed: watched.ended.unwrap_or(taken).saturating_duration_since(watched.began),
                usage: watched.usage.clone(),
                detail: watched.detail.last.filter(|_| up),
                alloc,
                ledger,
            });
        }
        let mut losses = Vec::new();
        if let Some(kernel) = &self.kernel {
            losses.extend(kernel.outcomes()?.into_iter().map(|(outcome, count)| {
                let here = if outcome == Outcome::ThreadsFull { without_place } else { 0 };
                (outcome.reason(), count + here)
            }));
            losses.push(("program_busy", kernel.recursion_misses()));
        }
        losses.push(("thread_not_seen", missed));
        let own = self.own.as_ref().and_then(|own| own.usage().ok());
        let held_back = Duration::from_nanos(held_back);
        Ok(Snapshot { taken_at: SystemTime::now(), taken, targets, losses, held_back, own })
    }

    /// Readings of dear figures that are due. Run them anywhere and bring them back to [`Session::detail_done`].
    pub fn due_details(&mut self) -> Vec<DetailJob> {
        let now = Instant::now();
        self.watched
            .iter_mut()
            .filter(|watched| watched.ended.is_none() && !watched.detail.reading)
            .filter(|watched| watched.detail.due.is_none_or(|due| due <= now))
            .map(|watched| {
                watched.detail.reading = true;
                DetailJob {
                    process: Arc::clone(&watched.process),
                    tally: std::mem::take(&mut watched.detail.tally),
                }
            })
            .collect()
    }

    /// Takes a reading back in.
    pub fn detail_done(&mut self, result: DetailResult, interval: Duration) {
        let Some(watched) = self.watched.iter_mut().find(|watched| watched.process.pid() == result.pid)
        else {
            return;
        };
        let now = Instant::now();
        watched.detail.reading = false;
        watched.detail.tally = result.tally;
        watched.detail.due = now.checked_add(interval.max(result.took.saturating_mul(DETAIL_PACE)));
        if let Some(detail) = result.detail {
            watched.detail.last = Some((detail, now));
        }
    }

    /// Stops counting and reads what there was, exact to the last call. The probes are taken away when the session is
    /// dropped, which takes about a second per target; they do nothing any more meanwhile.
    ///
    /// # Errors
    ///
    /// If the kernel's maps can't be read.
    pub fn finish(&mut self) -> Result<Snapshot, SessionError> {
        if let Some(kernel) = &mut self.kernel {
            for watched in &mut self.watched {
                watched.alloc.stop(kernel);
            }
        }
        self.sample()
    }
}

/// Gives every target a label of its own: what was asked for, else its `comm`, else `comm:pid` where two would collide.
pub fn label_targets(targets: &[(u32, String, Option<String>)]) -> Vec<String> {
    let mut seen = HashMap::new();
    for (_, comm, name) in targets {
        *seen.entry(name.as_ref().unwrap_or(comm)).or_insert(0) += 1;
    }
    let mut used = HashSet::new();
    targets
        .iter()
        .map(|(pid, comm, name)| {
            let wish = name.as_ref().unwrap_or(comm);
            let label = if name.is_none() && seen[wish] > 1 { format!("{comm}:{pid}") } else { wish.clone() };
            if used.insert(label.clone()) { label } else { format!("{label}:{pid}") }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::label_targets;

    fn labels(targets: &[(u32, &str, Option<&str>)]) -> Vec<String> {
        let owned: Vec<_> = targets
            .iter()
            .map(|(pid, comm, name)| (*pid, (*comm).to_owned(), name.map(str::to_owned)))
            .collect();
        label_targets(&owned)
    }

    #[test]
    fn a_name_is_used_as_it_is_and_comm_only_where_it_is_unique() {
        assert_eq!(labels(&[(1, "redis", None)]), ["redis"]);
        assert_eq!(labels(&[(1, "redis", Some("cache"))]), ["cache"]);
        assert_eq!(
            labels(&[(1, "nginx", None), (2, "nginx", None), (3, "sh", None)]),
            ["nginx:1", "nginx:2", "sh"]
        );
        assert_eq!(labels(&[(1, "a", Some("x")), (2, "x", None)]), ["x", "x:2"]);
    }
}
