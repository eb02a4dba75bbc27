//! Stops of the world of Go programs: each begins where `runtime.stopTheWorldWithSema` is entered and ends where
//! `runtime.startTheWorldWithSema` is.

use crate::Record;

/// Why a world is stopped: `stwReason` of Go's src/runtime/proc.go, which numbers them, the same from 1.21 to 1.27. What
/// only Go's own tests do is [`Self::Other`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum StopReason {
    /// Before 1.21 the runtime doesn't tell it. From then on it always does.
    Unknown = 0,
    /// A garbage collection's second stop: marking is done.
    GcMarkTermination = 1,
    /// A garbage collection's first stop.
    GcSweepTermination = 2,
    /// `runtime/debug.WriteHeapDump`
    WriteHeapDump = 3,
    /// `runtime.GoroutineProfile` begins
    GoroutineProfile = 4,
    /// `runtime.GoroutineProfile` ends
    GoroutineProfileCleanup = 5,
    /// `runtime.Stack` of all goroutines
    AllGoroutinesStack = 6,
    /// `runtime.ReadMemStats`
    ReadMemStats = 7,
    /// `syscall.AllThreadsSyscall`
    AllThreadsSyscall = 8,
    /// `runtime.GOMAXPROCS`
    Gomaxprocs = 9,
    /// `runtime/trace.Start`
    StartTrace = 10,
    /// `runtime/trace.Stop`
    StopTrace = 11,
    /// Another number.
    Other = 12,
}

/// How many [`StopReason`]s there are.
pub const REASONS: usize = 13;

impl StopReason {
    /// Every reason, in the order of its number.
    pub const ALL: [Self; REASONS] = [
        Self::Unknown,
        Self::GcMarkTermination,
        Self::GcSweepTermination,
        Self::WriteHeapDump,
        Self::GoroutineProfile,
        Self::GoroutineProfileCleanup,
        Self::AllGoroutinesStack,
        Self::ReadMemStats,
        Self::AllThreadsSyscall,
        Self::Gomaxprocs,
        Self::StartTrace,
        Self::StopTrace,
        Self::Other,
    ];

    /// The value of the `reason` label: as the runtime names it in its own traces (`stwReasonStrings`).
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::GcMarkTermination => "GC mark termination",
            Self::GcSweepTermination => "GC sweep termination",
            Self::WriteHeapDump => "write heap dump",
            Self::GoroutineProfile => "goroutine profile",
            Self::GoroutineProfileCleanup => "goroutine profile cleanup",
            Self::AllGoroutinesStack => "all goroutines stack trace",
            Self::ReadMemStats => "read mem stats",
            Self::AllThreadsSyscall => "AllThreadsSyscall",
            Self::Gomaxprocs => "GOMAXPROCS",
            Self::StartTrace => "start trace",
            Self::StopTrace => "stop trace",
            Self::Other => "other",
        }
    }
}

/// Bit of an attach cookie, beside the target's slot in its lower half: the function is called with a reason (Go 1.21 on).
pub const TELLS_REASON: u64 = 1 << 32;

/// A stop that goes on. Value of the `GO_STOPPED` map; the key is the target's slot. There is one at most: whoever stops
/// the world holds a semaphore of the runtime's (`worldsema`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct PendingStop {
    /// Since when, nanoseconds of `CLOCK_MONOTONIC`; zero: the world runs.
    pub since_ns: u64,
    /// A [`StopReason`] as number.
    pub reason: u64,
}

/// How many upper bounds a histogram of stops has; one more bucket holds what is longer.
pub const STOP_BOUNDS: usize = 21;

/// Upper bound of a bucket of that histogram in nanoseconds: 1 µs, doubling, up to 1.048576 s.
pub const fn stop_bound_ns(bucket: usize) -> u64 {
    1_000 << bucket
}

/// Stops of one target for one reason. Value of the per-CPU map `GO_STOPS`; the key is `slot * REASONS + reason`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct StopCounts {
    /// Their length together, nanoseconds.
    pub total_ns: u64,
    /// How many ended in each bucket (not cumulative); the last one is above the highest bound.
    pub buckets: [u64; STOP_BOUNDS + 1],
}

impl StopCounts {
    /// How many.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Adds another CPU's (or process's) counts.
    pub fn add(&mut self, other: &Self) {
        self.total_ns = self.total_ns.wrapping_add(other.total_ns);
        for (sum, n) in self.buckets.iter_mut().zip(other.buckets) {
            *sum += n;
        }
    }

    /// Takes an earlier reading away.
    pub fn subtract(&mut self, earlier: &Self) {
        self.total_ns = self.total_ns.saturating_sub(earlier.total_ns);
        for (sum, n) in self.buckets.iter_mut().zip(earlier.buckets) {
            *sum = sum.saturating_sub(n);
        }
    }
}

// SAFETY: repr(C) of integers without padding (see the assertions).
unsafe impl Record for PendingStop {}
// SAFETY: as above.
unsafe impl Record for StopCounts {}

const _: () = assert!(size_of::<PendingStop>() == 16);
const _: () = assert!(size_of::<StopCounts>() == 8 + 8 * (STOP_BOUNDS + 1));
