//! The ledger's kernel side: which threads are followed, and what their records say.

use aya::maps::MapError;
use profiler_common::sched::{
    CAUSES, Retired, STATE_UNKNOWN, StallCause, StallCounts, ThreadRecord, ThreadState,
};

use super::{Kernel, KernelError, Raw, loader::map_error, loader::sum_cpus};

/// `BPF_NOEXIST` of bpf(2).
const NO_EXIST: u64 = 1;
/// A record that changes while it is read is read again at most this often.
const READ_TRIES: usize = 8;

/// What came of following a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Followed {
    /// It is followed from now on.
    New,
    /// It was followed already.
    Already,
    /// There is no place for another thread.
    Full,
}

/// A thread and its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThreadRow {
    /// Thread id.
    pub tid: u32,
    /// The record, consistent in itself.
    pub record: ThreadRecord,
}

impl Kernel {
    /// Follows a thread that exists already.
    ///
    /// # Errors
    ///
    /// If the map can't be written. A full one is no error.
    pub fn follow_thread(&mut self, tid: u32, slot: u32) -> Result<Followed, KernelError> {
        let record =
            ThreadRecord { slot, state: STATE_UNKNOWN, since_ns: super::now_ns(), ..Default::default() };
        match self.threads.insert(tid, Raw(record), NO_EXIST) {
            Ok(()) => Ok(Followed::New),
            Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::EEXIST) => {
                Ok(Followed::Already)
            }
            Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::E2BIG) => {
                Ok(Followed::Full)
            }
            Err(source) => Err(map_error("THREADS", source)),
        }
    }

    /// Tells the kernel side how a thread, not seen in any event yet, is blocked. `false`: there is no place for that, and
    /// the thread will be taken for sleeping until its first event.
    ///
    /// # Errors
    ///
    /// If the map can't be written. A full one is no error.
    pub fn hint(&mut self, tid: u32, state: ThreadState) -> Result<bool, KernelError> {
        match self.hints.insert(tid, state as u32, 0) {
            Ok(()) => Ok(true),
            Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::E2BIG) => {
                Ok(false)
            }
            Err(source) => Err(map_error("HINTS", source)),
        }
    }

    /// A thread has had its first event: its hint is no longer needed.
    pub fn forget_hint(&mut self, tid: u32) {
        // Not there is as good as removed.
        let _removed = self.hints.remove(&tid);
    }

    /// Forgets a thread.
    pub fn unfollow_thread(&mut self, tid: u32) {
        // Not there is as good as removed.
        let _removed = self.threads.remove(&tid);
        let _removed = self.hints.remove(&tid);
    }

    /// Every followed thread. Threads that start or end meanwhile may or may not be among them.
    ///
    /// # Errors
    ///
    /// If the map can't be read.
    pub fn threads(&self) -> Result<Vec<ThreadRow>, KernelError> {
        let mut rows = Vec::new();
        for tid in self.threads.keys() {
            let tid = tid.map_err(|source| map_error("THREADS", source))?;
            if let Some(record) = self.thread(tid)? {
                rows.push(ThreadRow { tid, record });
            }
        }
        // A map that changes while it is walked may show a key twice.
        rows.sort_unstable_by_key(|row| row.tid);
        rows.dedup_by_key(|row| row.tid);
        Ok(rows)
    }

    /// One thread's record, read until two readings agree. `None` if it isn't followed (any more).
    ///
    /// # Errors
    ///
    /// If the map can't be read.
    pub fn thread(&self, tid: u32) -> Result<Option<ThreadRecord>, KernelError> {
        let read = || match self.threads.get(&tid, 0) {
            Ok(raw) => Ok(Some(raw.0)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(source) => Err(map_error("THREADS", source)),
        };
        let mut last = read()?;
        for _ in 0..READ_TRIES {
            let again = read()?;
            if again == last && again.is_none_or(|record| record.version % 2 == 0) {
                break;
            }
            last = again;
        }
        Ok(last)
    }

    /// What ended threads of a target have spent.
    ///
    /// # Errors
    ///
    /// If the map can't be read.
    pub fn retired(&self, slot: u32) -> Result<Retired, KernelError> {
        self.retired.get(&slot, 0).map(|raw| raw.0).map_err(|source| map_error("RETIRED", source))
    }

    /// Stalls of a target by cause, over all CPUs.
    ///
    /// # Errors
    ///
    /// If the map can't be read.
    pub fn stalls(&self, slot: u32) -> Result<[StallCounts; CAUSES], KernelError> {
        let mut by_cause = [StallCounts::default(); CAUSES];
        for cause in StallCause::ALL {
            let sum = &mut by_cause[cause as usize];
            sum_cpus(&self.stalls, "STALLS", slot * CAUSES as u32 + cause as u32, |counts| sum.add(counts))?;
        }
        Ok(by_cause)
    }
}
