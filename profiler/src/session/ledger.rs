//! A target's threads in the ledger: following them from the start, and finding out about those that don't move.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use profiler_common::sched::{CAUSES, Retired, STATE_UNKNOWN, STATES, StallCounts, ThreadState};

use super::SessionError;
use crate::{
    kernel::{Followed, Kernel, ThreadRow, now_ns},
    snapshot::LedgerSnapshot,
    stalls::{Ledger, Unseen},
    target::{Process, ThreadSighting},
};

/// How often /proc is compared with the threads that we follow.
const RESCAN: Duration = Duration::from_secs(10);
/// The targets' turns to be compared are spread over [`RESCAN`] in so many steps, by their slots.
const TURNS: u32 = 64;
/// A thread that is neither blocked nor has used CPU time for this long waits for a CPU. /proc counts in ticks of 10 ms.
const TICKS_TELL: Duration = Duration::from_millis(100);
/// Readings in which a thread was just being moved are repeated at most this often.
const READ_TRIES: usize = 8;

/// A target's threads.
pub(super) struct LedgerWatch {
    slot: u32,
    /// Threads that existed when we came and have had no event since: what they had used and did then.
    unseen: HashMap<u32, ThreadSighting>,
    /// When /proc is looked at again.
    scan_due: Instant,
    suspects: HashSet<u32>,
    last: Ledger,
    /// What an earlier process has left in the slot.
    base: (Retired, [StallCounts; CAUSES]),
    /// Starts and ends of threads that the tracepoints didn't show, so far.
    pub(super) missed: u64,
    /// Threads that had no place in a map, at most: in that of threads, or in that of hints.
    pub(super) without_place: u64,
    /// Threads that had none in the map of threads at one time, at most.
    without_row: u64,
    /// Threads of which the kernel side had to guess how they were blocked at first.
    without_hint: u64,
    /// Nanoseconds of stale threads: their last events were missed.
    stale_ns: [u64; STATES],
    /// The most nanoseconds by which counters had to be kept from sinking.
    pub(super) held_back_ns: u64,
}

/// The kernel side's records at one moment, by slot.
#[derive(Clone, Default)]
pub(super) struct ThreadReading {
    now_ns: u64,
    /// Read before the rows: if it hasn't changed afterwards, no thread was moved meanwhile.
    retired: HashMap<u32, Retired>,
    rows: HashMap<u32, Vec<ThreadRow>>,
}

impl ThreadReading {
    pub(super) fn take(kernel: &Kernel, slots: impl IntoIterator<Item = u32>) -> Result<Self, SessionError> {
        let mut reading = Self::default();
        for slot in slots {
            reading.retired.insert(slot, kernel.retired(slot)?);
        }
        reading.now_ns = now_ns();
        for row in kernel.threads()? {
            reading.rows.entry(row.record.slot).or_default().push(row);
        }
        Ok(reading)
    }

    /// What concerns one target.
    pub(super) fn of(&mut self, slot: u32) -> Self {
        Self {
            now_ns: self.now_ns,
            retired: self.retired.remove_entry(&slot).into_iter().collect(),
            rows: self.rows.remove_entry(&slot).into_iter().collect(),
        }
    }
}

/// Forgets all threads of a slot: their process has ended, isn't observed any more, or couldn't be observed.
pub(super) fn forget_slot(kernel: &mut Kernel, slot: u32) -> Result<(), SessionError> {
    let rows = ThreadReading::take(kernel, [slot])?.rows.remove(&slot).unwrap_or_default();
    rows.iter().for_each(|row| kernel.unfollow_thread(row.tid));
    Ok(())
}

impl LedgerWatch {
    /// Follows all threads of a process; after an error, none of them.
    pub(super) fn begin(kernel: &mut Kernel, process: &Process, slot: u32) -> Result<Self, SessionError> {
        // The process is followed already: a thread that starts in between is found both ways, and counted once.
        let mut watch = Self {
            slot,
            unseen: HashMap::new(),
            scan_due: Instant::now() + RESCAN + RESCAN * (slot % TURNS) / TURNS,
            suspects: HashSet::new(),
            last: Ledger::default(),
            base: (kernel.retired(slot)?, kernel.stalls(slot)?),
            missed: 0,
            without_place: 0,
            without_row: 0,
            without_hint: 0,
            stale_ns: [0; STATES],
            held_back_ns: 0,
        };
        if let Err(error) = watch.follow_all(kernel, process) {
            // What went wrong first is what matters.
            let _forgotten = forget_slot(kernel, slot);
            return Err(error);
        }
        Ok(watch)
    }

    /// A thread that ends while the directory is read can hide others, so it is read until there is nothing new.
    fn follow_all(&mut self, kernel: &mut Kernel, process: &Process) -> Result<(), SessionError> {
        while self.follow_new(kernel, process, &process.threads()?)? > 0 {}
        Ok(())
    }

    fn follow_new(
        &mut self,
        kernel: &mut Kernel,
        process: &Process,
        tids: &[u32],
    ) -> Result<u64, SessionError> {
        let (mut new, mut full) = (0, 0);
        for tid in tids {
            match kernel.follow_thread(*tid, self.slot)? {
                Followed::New => {}
                Followed::Already => continue,
                Followed::Full => {
                    full += 1;
                    continue;
                }
            }
            // Looked at after its record exists: any change from here on is an event that we see.
            match process.sight_thread(*tid) {
                Some(sighting) => {
                    if let Some(state) = sighting.blocked
                        && !kernel.hint(*tid, state)?
                    {
                        self.without_hint += 1;
                    }
                    self.unseen.insert(*tid, sighting);
                    new += 1;
                }
                None => kernel.unfollow_thread(*tid),
            }
        }
        self.without_row = self.without_row.max(full);
        self.without_place = self.without_row + self.without_hint;
        Ok(new)
    }

    /// Reads the ledger. `reading` was made just now, for all targets together.
    pub(super) fn read(
        &mut self,
        kernel: &mut Kernel,
        process: &Process,
        mut reading: ThreadReading,
    ) -> Result<LedgerSnapshot, SessionError> {
        let (mut ledger, mut last_rows) = (None, Vec::new());
        for _ in 0..READ_TRIES {
            let rows = reading.rows.remove(&self.slot).unwrap_or_default();
            let retired = reading.retired.remove(&self.slot).unwrap_or_default();
            let (rows, unseen) = self.place_unseen(kernel, process, rows, reading.now_ns)?;
            if kernel.retired(self.slot)? == retired {
                let records = rows.iter().map(|row| (row.tid, row.record));
                let mut ended = retired.since(&self.base.0);
                ended.spent_ns.iter_mut().zip(self.stale_ns).for_each(|(sum, stale)| *sum += stale);
                ledger = Ledger::add_up(records, &unseen, &ended, reading.now_ns);
            }
            last_rows = rows;
            if ledger.is_some() {
                break;
            }
            reading = ThreadReading::take(kernel, [self.slot])?;
        }
        // Threads that end all the time: rather an older reading than a wrong one.
        let mut ledger = ledger.unwrap_or(self.last);
        self.held_back_ns = self.held_back_ns.max(ledger.hold(&self.last));
        self.last = ledger;
        if Instant::now() >= self.scan_due {
            self.scan_due = Instant::now() + RESCAN;
            self.rescan(kernel, process, last_rows)?;
        }
        let mut stalls = kernel.stalls(self.slot)?;
        stalls.iter_mut().zip(&self.base.1).for_each(|(now, before)| now.subtract(before));
        Ok(LedgerSnapshot { ledger, stalls })
    }

    /// Forgets all threads: the process has ended, or isn't observed any more.
    pub(super) fn end(&self, kernel: &mut Kernel) -> Result<(), SessionError> {
        forget_slot(kernel, self.slot)
    }

    /// Finds out what threads do that have had no event yet: a look at /proc between two readings of the record.
    fn place_unseen(
        &mut self,
        kernel: &mut Kernel,
        process: &Process,
        mut rows: Vec<ThreadRow>,
        now_ns: u64,
    ) -> Result<(Vec<ThreadRow>, Unseen), SessionError> {
        self.drop_ended(kernel, &rows)?;
        let mut unseen = Unseen::new();
        for row in &mut rows {
            if row.record.state != STATE_UNKNOWN {
                if self.unseen.remove(&row.tid).is_some() {
                    kernel.forget_hint(row.tid);
                }
                continue;
            }
            // Seen blocked after its record was made, and no event since: it is blocked all the while.
            if let Some(state) = self.unseen.get(&row.tid).and_then(|first| first.blocked) {
                unseen.insert(row.tid, state);
                continue;
            }
            let sighting = process.sight_thread(row.tid);
            if let Some(record) = kernel.thread(row.tid)? {
                row.record = record;
            }
            let (Some(sighting), Some(first)) = (sighting, self.unseen.get(&row.tid)) else { continue };
            let age = Duration::from_nanos(now_ns.saturating_sub(row.record.since_ns));
            let state = match sighting.blocked {
                Some(state) => Some(state),
                None if sighting.cpu_ticks > first.cpu_ticks => Some(ThreadState::Running),
                None if age > TICKS_TELL => Some(ThreadState::Runnable),
                None => None,
            };
            if let Some(state) = state {
                unseen.insert(row.tid, state);
            }
        }
        Ok((rows, unseen))
    }

    /// Forgets threads without an event that have none to come: they have ended, and their records are gone.
    fn drop_ended(&mut self, kernel: &mut Kernel, rows: &[ThreadRow]) -> Result<(), SessionError> {
        let there: HashSet<u32> = rows.iter().map(|row| row.tid).collect();
        let missing: Vec<u32> = self.unseen.keys().copied().filter(|tid| !there.contains(tid)).collect();
        for tid in missing {
            match kernel.thread(tid)? {
                // The rows were read while the map changed.
                Some(record) if record.slot == self.slot => continue,
                // Another process's thread has the id now, and the hint is about that one.
                Some(_) => {}
                None => kernel.forget_hint(tid),
            }
            self.unseen.remove(&tid);
        }
        Ok(())
    }

    /// Compares with /proc: tracepoints can be missed (program_busy, a full map), and a ledger that silently lacks a
    /// thread would be wrong for ever. `rows` were read just now.
    fn rescan(
        &mut self,
        kernel: &mut Kernel,
        process: &Process,
        rows: Vec<ThreadRow>,
    ) -> Result<(), SessionError> {
        let Ok(tids) = process.threads() else { return Ok(()) };
        self.missed += self.follow_new(kernel, process, &tids)?;
        let there: HashSet<u32> = tids.into_iter().collect();
        // A thread that is still ending has left /proc before its last event: only one that is missing twice is stale.
        let stale: Vec<ThreadRow> = rows.into_iter().filter(|row| !there.contains(&row.tid)).collect();
        for row in stale.iter().filter(|row| self.suspects.contains(&row.tid)) {
            // Its last event may have come since, and its time was moved then.
            if kernel.thread(row.tid)?.is_none_or(|record| record.slot != self.slot) {
                continue;
            }
            kernel.unfollow_thread(row.tid);
            self.missed += 1;
            self.stale_ns.iter_mut().zip(row.record.spent_ns).for_each(|(sum, spent)| *sum += spent);
        }
        self.suspects = stale.into_iter().map(|row| row.tid).collect();
        Ok(())
    }
}
