//! Where the time of a target's threads goes.

use crate::Record;

/// What a thread is doing, as the scheduler sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum ThreadState {
    /// On a CPU.
    Running = 0,
    /// Ready to run, waiting for a CPU (preempted, or woken and not yet switched in).
    Runnable = 1,
    /// Uninterruptible sleep for I/O: `TASK_UNINTERRUPTIBLE` with `in_iowait`, which is what /proc/stat calls iowait.
    Disk = 2,
    /// Uninterruptible sleep for anything else: kernel locks, page faults that wait, `vfork`.
    Uninterruptible = 3,
    /// Asleep inside a futex system call: a contended lock, a condition variable, a join.
    Futex = 4,
    /// Stopped by a signal or a tracer.
    Stopped = 5,
    /// Asleep by its own wish: epoll, nanosleep, a quiet socket or pipe.
    Sleeping = 6,
}

/// How many [`ThreadState`]s there are.
pub const STATES: usize = 7;

/// `ThreadRecord::state` of a thread that has not been seen in any scheduler event yet.
///
/// Its first event tells what it did until then: switched out = was running, switched in = was runnable, woken = was
/// blocked, in the way that the `HINTS` map says.
pub const STATE_UNKNOWN: u32 = 0x40;
/// `ThreadRecord::state` of a thread whose seconds are being moved to its target's [`Retired`] sums.
pub const STATE_GONE: u32 = 0x41;

impl ThreadState {
    /// Every state, in the order of its number.
    pub const ALL: [Self; STATES] = [
        Self::Running,
        Self::Runnable,
        Self::Disk,
        Self::Uninterruptible,
        Self::Futex,
        Self::Stopped,
        Self::Sleeping,
    ];

    /// The value of the `state` label.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Runnable => "runnable",
            Self::Disk => "disk",
            Self::Uninterruptible => "uninterruptible",
            Self::Futex => "futex",
            Self::Stopped => "stopped",
            Self::Sleeping => "sleeping",
        }
    }

    /// The state with this number, if there is one.
    pub const fn from_number(number: u32) -> Option<Self> {
        if (number as usize) < STATES { Some(Self::ALL[number as usize]) } else { None }
    }

    /// The cause that a long interval in this state is counted under, or `None` if it is no stall.
    pub const fn stall(self) -> Option<StallCause> {
        match self {
            Self::Runnable => Some(StallCause::Runqueue),
            Self::Disk => Some(StallCause::Disk),
            Self::Uninterruptible => Some(StallCause::Uninterruptible),
            Self::Futex => Some(StallCause::Futex),
            Self::Stopped => Some(StallCause::Stopped),
            Self::Running | Self::Sleeping => None,
        }
    }
}

/// Why a thread stood still although it had something to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum StallCause {
    /// It waited for a CPU.
    Runqueue = 0,
    /// It waited for I/O ([`ThreadState::Disk`]).
    Disk = 1,
    /// It waited uninterruptibly for something else ([`ThreadState::Uninterruptible`]).
    Uninterruptible = 2,
    /// It waited on a futex ([`ThreadState::Futex`]).
    Futex = 3,
    /// It was stopped ([`ThreadState::Stopped`]).
    Stopped = 4,
}

/// How many [`StallCause`]s there are.
pub const CAUSES: usize = 5;

impl StallCause {
    /// Every cause, in the order of its number.
    pub const ALL: [Self; CAUSES] =
        [Self::Runqueue, Self::Disk, Self::Uninterruptible, Self::Futex, Self::Stopped];

    /// The value of the `cause` label.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Runqueue => "runqueue",
            Self::Disk => "disk",
            Self::Uninterruptible => "uninterruptible",
            Self::Futex => "futex",
            Self::Stopped => "stopped",
        }
    }
}

/// One thread of a target. Value of the `THREADS` map; the key is the thread's id in the initial pid namespace.
///
/// Written by scheduler events only, which are serialised per thread by the run queue lock. `version` is odd while
/// a writer is at work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ThreadRecord {
    /// Even when the record is consistent.
    pub version: u32,
    /// The target's slot.
    pub slot: u32,
    /// A [`ThreadState`] as number, or [`STATE_UNKNOWN`] or [`STATE_GONE`].
    pub state: u32,
    /// Zero.
    pub reserved: u32,
    /// When the present state began: nanoseconds of `CLOCK_MONOTONIC`.
    pub since_ns: u64,
    /// Nanoseconds in completed intervals, by state.
    pub spent_ns: [u64; STATES],
}

/// What the ended threads of a target have spent. Value of the `RETIRED` map; the key is the target's slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Retired {
    /// How many threads have ended.
    pub threads: u64,
    /// Nanoseconds by state.
    pub spent_ns: [u64; STATES],
}

impl Retired {
    /// What has been added since an earlier reading.
    pub fn since(&self, earlier: &Self) -> Self {
        let mut rest = Self { threads: self.threads.saturating_sub(earlier.threads), ..*self };
        for (spent, before) in rest.spent_ns.iter_mut().zip(earlier.spent_ns) {
            *spent = spent.saturating_sub(before);
        }
        rest
    }
}

/// How many upper bounds a stall histogram has; one more bucket holds what is longer.
pub const STALL_BOUNDS: usize = 15;

/// Upper bound of a bucket of the stall histogram in nanoseconds: 1 ms, doubling, up to 16.384 s.
pub const fn stall_bound_ns(bucket: usize) -> u64 {
    1_000_000 << bucket
}

/// Stalls of one target and one cause. Value of the per-CPU map `STALLS`; the key is `slot * CAUSES + cause`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct StallCounts {
    /// Their length together, nanoseconds.
    pub total_ns: u64,
    /// How many ended in each bucket (not cumulative); the last one is above the highest bound.
    pub buckets: [u64; STALL_BOUNDS + 1],
}

impl StallCounts {
    /// How many.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Adds another CPU's counts.
    pub fn add(&mut self, other: &Self) {
        // What a runtime says of its pauses is as large as it likes.
        self.total_ns = self.total_ns.saturating_add(other.total_ns);
        for (sum, n) in self.buckets.iter_mut().zip(other.buckets) {
            *sum = sum.saturating_add(n);
        }
    }
}

impl StallCounts {
    /// Takes an earlier reading away.
    pub fn subtract(&mut self, earlier: &Self) {
        self.total_ns = self.total_ns.saturating_sub(earlier.total_ns);
        for (sum, n) in self.buckets.iter_mut().zip(earlier.buckets) {
            *sum = sum.saturating_sub(n);
        }
    }
}

// SAFETY: all are repr(C) of integers without padding (see the assertions).
unsafe impl Record for ThreadRecord {}
// SAFETY: as above.
unsafe impl Record for Retired {}
// SAFETY: as above.
unsafe impl Record for StallCounts {}

const _: () = assert!(size_of::<ThreadRecord>() == 24 + 8 * STATES);
const _: () = assert!(size_of::<Retired>() == 8 + 8 * STATES);
const _: () = assert!(size_of::<StallCounts>() == 8 + 8 * (STALL_BOUNDS + 1));
