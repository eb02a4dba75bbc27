//! One moment of everything: reading all processes, and putting targets together.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use profiler_common::outcome::Outcome;

use super::{
    Losses, NOT_OBSERVED, Session, SessionError,
    group::{self, Part},
    ledger::ThreadReading,
    process::Watched,
};
use crate::{snapshot::Snapshot, target::ProcessUsage};

const BUSY: &str = "program_busy";
const THREAD: &str = "thread_not_seen";
const PROGRAM: &str = "program_not_seen";
/// Reasons for losses beside those that the kernel side counts one by one ([`Outcome`]).
pub const LOST_HERE: [&str; 3] = [BUSY, THREAD, PROGRAM];

impl Session {
    /// Reads everything.
    ///
    /// # Errors
    ///
    /// If the kernel's maps can't be read. A process that has ended is no error.
    pub fn sample(&mut self) -> Result<Snapshot, SessionError> {
        let taken = Instant::now();
        let slots =
            self.watched.iter().filter(|watched| watched.ledger.is_some()).map(|watched| watched.slot);
        let mut reading = match &self.kernel {
            Some(kernel) if self.plan.stalls => ThreadReading::take(kernel, slots)?,
            _ => ThreadReading::default(),
        };
        self.hand_on_descriptions(false);
        let mut parts: HashMap<Arc<str>, Vec<Part>> = HashMap::new();
        let mut over = Vec::new();
        let mut losses = self.earlier;
        for mut watched in std::mem::take(&mut self.watched) {
            if !watched.has_ended() {
                let gone = watched.refresh(self.kernel.as_mut(), &mut self.images);
                self.slots.drop_links(gone);
                if let Some(kernel) = &mut self.kernel {
                    self.hunt.judge(kernel, &watched)?;
                }
                if let Some(room) = &mut self.go {
                    if watched.go.is_outdated(&watched.process) {
                        self.slots.drop_stops(watched.go.replaced(room, &watched.process));
                    }
                    watched.go.read(room, &watched.process);
                    if let Some(kernel) = &mut self.kernel {
                        self.hunt.tell_profile(kernel, &watched)?;
                        watched.go.place_stops(room, kernel, &watched.process, watched.slot);
                    }
                }
            }
            losses.add(&watched);
            match watched.read(&mut self.kernel, &mut reading) {
                Ok(part) if watched.is_over(&part) => over.push((watched, part)),
                Ok(part) => {
                    parts.entry(Arc::clone(&watched.group)).or_default().push(part);
                    self.watched.push(watched);
                }
                Err(error) => {
                    tracing::warn!("process {}: {error}", watched.info.pid);
                    self.watched.push(watched);
                }
            }
        }
        // Only now is it known who else lives.
        for (watched, part) in over {
            self.conclude(watched, part)?;
        }
        self.forgotten += group::forget(&mut self.groups, self.slots.all() as usize);
        let targets = self
            .groups
            .iter()
            .map(|group| group.snapshot(parts.remove(&group.name).unwrap_or_default(), taken));
        let targets = targets.collect();
        Ok(Snapshot {
            leaks: self.hunt.picture(),
            worker: self.hunt.worker(),
            history: None,
            push: None,
            taken_at: SystemTime::now(),
            taken,
            targets,
            losses: self.losses(&losses)?,
            not_observed: NOT_OBSERVED.into_iter().zip(self.not_observed).collect(),
            forgotten: self.forgotten,
            held_back: Duration::from_nanos(losses.held_back_ns),
            own: self.own_usage(),
        })
    }

    /// Hands on what was found out of programs; `wait`: if it is worth waiting for.
    pub(super) fn hand_on_descriptions(&mut self, wait: bool) {
        if let Some(room) = &mut self.go {
            room.hand_on(self.watched.iter_mut().map(|watched| &mut watched.go), wait);
        }
    }

    fn own_usage(&self) -> Option<ProcessUsage> {
        self.own.as_ref().and_then(|own| own.usage().ok())
    }

    /// What was lost, by reason.
    fn losses(&self, here: &Losses) -> Result<Vec<(&'static str, u64)>, SessionError> {
        let mut losses = Vec::new();
        if let Some(kernel) = &self.kernel {
            losses.extend(kernel.outcomes()?.into_iter().map(|(outcome, count)| {
                let full = if outcome == Outcome::ThreadsFull { here.threads_without_place } else { 0 };
                (outcome.reason(), count + full)
            }));
            losses.push((BUSY, kernel.recursion_misses() + kernel.mapping_misses()));
        }
        losses.push((THREAD, here.threads_not_seen));
        losses.push((PROGRAM, here.programs_not_seen));
        Ok(losses)
    }
}

impl Losses {
    pub(super) fn add(&mut self, watched: &Watched) {
        self.programs_not_seen += watched.alloc.programs_not_seen;
        if let Some(ledger) = &watched.ledger {
            self.threads_not_seen += ledger.missed;
            self.threads_without_place += ledger.without_place;
            self.held_back_ns += ledger.held_back_ns;
        }
    }
}
