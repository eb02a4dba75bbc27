//! Sampled blocks: which calls are chosen, and what is told of them.
//!
//! Every byte asked for is a sample point with the same small probability, independently of all others, so a block of `n`
//! bytes is chosen with probability `1 - exp(-n / mean)` (a Poisson process along the bytes). That is what a countdown drawn
//! from the exponential distribution gives, too; but such a distribution has no memory, so that a fresh draw for every call
//! gives exactly the same without any state to keep, lose or race for.
//!
//! The kernel side draws 32 random bits and compares them with [`threshold`]; it tells the threshold that it has used, and
//! the weight of a sample is `2^32 / threshold`. So weights are unbiased by construction, whatever the approximation of the
//! exponential function is worth.

use crate::Record;

/// A threshold that every draw is below: the block is chosen for certain.
pub const CERTAIN: u64 = 1 << 32;
/// Blocks of this many means are chosen for certain (`exp(-23) < 2^-32`).
const CERTAIN_MEANS: u64 = 23;
/// The largest mean: with a larger one the rate would be too coarse.
pub const LARGEST_MEAN: u64 = 1 << 30;

/// How blocks are chosen, as the kernel side has it. Zeroes: none is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Sampling {
    /// Sample points per byte, times 2^40. Zero: nothing is sampled.
    pub rate: u64,
    /// Blocks of at least this many bytes are chosen for certain.
    pub certain: u64,
}

impl Sampling {
    /// One sample point per so many bytes on average (1 to [`LARGEST_MEAN`]).
    pub const fn with_mean(bytes: u64) -> Self {
        let mean = if bytes == 0 {
            1
        } else if bytes > LARGEST_MEAN {
            LARGEST_MEAN
        } else {
            bytes
        };
        Self { rate: (1 << 40) / mean, certain: CERTAIN_MEANS * mean }
    }
}

/// An upper bound of [`threshold`] that takes one multiplication: a draw that isn't below it needs no further look.
#[inline(always)]
pub const fn threshold_at_most(bytes: u64, sampling: Sampling) -> u64 {
    if bytes >= sampling.certain {
        return CERTAIN;
    }
    // 1 - exp(-x) <= x. No overflow: bytes < 23 * mean, so the product is below 23 * 2^40.
    let bound = (bytes * sampling.rate) >> 8;
    if bound < CERTAIN { bound + 1 } else { CERTAIN }
}

/// A block of so many bytes is chosen if 32 random bits are below this: `2^32 * (1 - exp(-bytes / mean))`, at least 1.
#[inline(always)]
pub const fn threshold(bytes: u64, sampling: Sampling) -> u64 {
    if bytes >= sampling.certain {
        return CERTAIN;
    }
    // x in units of 2^-40, below 23.
    let x = bytes * sampling.rate;
    if x >> 30 == 0 {
        // Below 2^-10: x - x^2/2 + x^3/6, to 2^-40 of the whole. The series, because a difference from one would be coarse.
        let square = ((x >> 10) * (x >> 10)) >> 20;
        let cube = (square * (x >> 20)) >> 20;
        let points = (x - square / 2 + cube / 6) >> 8;
        return if points == 0 { 1 } else { points };
    }
    // exp(-x) = 2^(-y), y = x / ln 2, in units of 2^-32. 1 / ln 2 = 1.442695040888963 = 6196328019 / 2^32.
    let y = ((x >> 16) * 6_196_328_019) >> 24;
    let whole = y >> 32;
    let part = (y & 0xffff_ffff) >> 2;
    // 2^-f for 0 <= f < 1, in units of 2^-30: a polynomial of degree 4 in f ln 2 would do; Horner with f in units of 2^-30.
    let one = 1_u64 << 30;
    let z = (part * 744_261_118) >> 30; // f * ln 2
    let t5 = one - z / 6;
    let t4 = one - ((z * t5) >> 30) / 5;
    let t3 = one - ((z * t4) >> 30) / 4;
    let t2 = one - ((z * t3) >> 30) / 3;
    let t1 = one - ((z * t2) >> 30) / 2;
    let power = one - ((z * t1) >> 30);
    let rest = if whole >= 34 { 0 } else { (power << 2) >> whole };
    let points = CERTAIN - rest;
    if points == 0 { 1 } else { points }
}

/// What a sample stands for: `2^32 / threshold`. Exactly one for a block that was chosen for certain.
pub fn weight(threshold: u64) -> f64 {
    CERTAIN as f64 / threshold as f64
}

/// Bytes of the ring buffer `SAMPLES`.
pub const RING_BYTES: u32 = 2 << 20;

/// With so much waiting in the ring, its reader is woken in any case: when less waits, it looks at its leisure.
pub const RING_WAKES: u32 = RING_BYTES / 4;
/// From so much on, fewer blocks are chosen; see [`thinned`].
const RING_THINS: u32 = RING_BYTES / 2;
/// With each of these steps, half as many.
const RING_STEP: u32 = RING_BYTES / 32;
/// From so much on, stacks are left out, so that what is left of the ring has room for 1,700 records without.
pub const RING_WITHOUT_STACKS: u32 = RING_BYTES / 8 * 7;

/// The threshold while so many bytes wait in the ring: as the ring fills, fewer blocks are chosen, so that it never gets full
/// and nothing that was chosen is lost. What waits has nothing to do with the draw, so samples stay unbiased.
#[inline(always)]
pub const fn thinned(threshold: u64, waiting: u64) -> u64 {
    if waiting < RING_THINS as u64 {
        return threshold;
    }
    // At most 17 steps.
    let rest = threshold >> (1 + (((waiting - RING_THINS as u64) / RING_STEP as u64) & 31));
    if rest == 0 { 1 } else { rest }
}

/// Bytes of a thread's stack that are copied with a sample, at most.
pub const STACK_BYTES: usize = 16 * 1024;

/// So much of a stack is copied at once, from a multiple of it: if any of it can't be read, all of it is zeroes.
pub const STACK_PIECE: usize = 512;

/// What a [`SampleHeader`] tells. Number of [`SampleHeader::kind`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum SampleKind {
    /// A block was allocated and chosen. Stack follows.
    Allocated = 1,
    /// A chosen block was given back (or moved by `realloc`), or a chosen page is touched for the first time again. No stack.
    Freed = 2,
    /// A page was touched for the first time and chosen. Stack follows.
    Page = 3,
    /// A process has been chosen to be killed for memory (`oom:mark_victim`). No stack.
    OutOfMemory = 4,
}

impl SampleKind {
    /// The kind with this number, if there is one.
    pub const fn from_number(number: u32) -> Option<Self> {
        match number {
            1 => Some(Self::Allocated),
            2 => Some(Self::Freed),
            3 => Some(Self::Page),
            4 => Some(Self::OutOfMemory),
            _ => None,
        }
    }
}

/// A thread's registers as far as unwinding needs them (x86-64).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Registers {
    /// Instruction pointer. Of an allocation: where the call returns to.
    pub ip: u64,
    /// Stack pointer. Of an allocation: behind the return address.
    pub sp: u64,
    /// Frame pointer, if the program keeps one.
    pub bp: u64,
    /// rbx, r12, r13, r14, r15: what else a function must keep (System V ABI for x86-64, 3.2.1).
    pub rest: [u64; 5],
}

/// One entry of the ring buffer `SAMPLES`; for kinds with a stack, `stack_bytes` bytes from `registers.sp` upwards follow, behind
/// the `sp % STACK_PIECE` bytes that lie below. What is behind them means nothing: entries come in a few sizes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct SampleHeader {
    /// A [`SampleKind`] as number.
    pub kind: u32,
    /// The target's slot.
    pub slot: u32,
    /// The process (tgid), in the initial pid namespace.
    pub pid: u32,
    /// The thread.
    pub tid: u32,
    /// When: nanoseconds of `CLOCK_MONOTONIC`.
    pub at_ns: u64,
    /// Names the sample: unique as long as the kernel side is loaded. Freed: the one that is given back.
    pub id: u64,
    /// Where the block (the page) is.
    pub address: u64,
    /// Bytes asked for. Page: the size of a page.
    pub bytes: u64,
    /// The threshold that the draw was below; see [`threshold`].
    pub threshold: u64,
    /// Allocated: the sample that was known at the same address until now, whose end was not seen; else zero.
    pub replaced: u64,
    /// `Switches::epoch` of the slot when it was drawn.
    pub epoch: u32,
    /// Attach cookie of the probe site that saw it. Page: 1 if the kernel touched it, in a system call of the thread; else zero.
    pub site: u32,
    /// Bytes of stack that follow. Zero: left out, as too much was waiting in the ring (or none of it could be read).
    pub stack_bytes: u32,
    /// Zero.
    pub reserved: u32,
    /// Zeroes for kinds without a stack.
    pub registers: Registers,
}

/// Key of the map `LIVE_SAMPLES`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct LiveKey {
    /// The target's slot.
    pub slot: u32,
    /// `Switches::epoch` of the slot: blocks of a program that was replaced are nobody's.
    pub epoch: u32,
    /// The block.
    pub address: u64,
}

impl LiveKey {
    /// The entry of the map `LIVE_FILTER` that counts this one.
    #[inline(always)]
    pub const fn filter(&self) -> u32 {
        // Blocks lie at multiples of 16. Multiplication by 2^64 / the golden ratio spreads them (Knuth, TAOCP 6.4).
        let number = (self.address >> 4) ^ ((self.slot as u64) << 48);
        (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - LIVE_FILTER_BITS)) as u32
    }
}

/// Bits of an index of the map `LIVE_FILTER`.
const LIVE_FILTER_BITS: u32 = 15;
/// Entries of the map `LIVE_FILTER`.
pub const LIVE_FILTER: u32 = 1 << LIVE_FILTER_BITS;

/// Key of the map `PENDING_SAMPLES`: a call that was chosen and hasn't returned yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct PendingKey {
    /// Process and thread, as `bpf_get_current_pid_tgid` gives them.
    pub pid_tgid: u64,
    /// The stack pointer at the entry, where the return address is: calls may nest.
    pub sp: u64,
}

/// Value of the map `PENDING_SAMPLES`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct PendingSample {
    /// Bytes asked for; if `threshold` is zero, the call was not chosen itself, but resizes a block that was.
    pub bytes: u64,
    /// The threshold that the draw was below, or zero.
    pub threshold: u64,
    /// The sample of the block that is resized, or zero.
    pub old_id: u64,
    /// That block's address.
    pub old_address: u64,
    /// Where the function will put the block's address (`posix_memalign`); zero: into the register of results.
    pub result_at: u64,
    /// The slot's epoch at the entry.
    pub epoch: u32,
    /// Zero.
    pub reserved: u32,
}

// SAFETY: all are repr(C) of integers without padding (see the assertions).
unsafe impl Record for Sampling {}
// SAFETY: as above.
unsafe impl Record for Registers {}
// SAFETY: as above.
unsafe impl Record for SampleHeader {}
// SAFETY: as above.
unsafe impl Record for LiveKey {}
// SAFETY: as above.
unsafe impl Record for PendingKey {}
// SAFETY: as above.
unsafe impl Record for PendingSample {}

const _: () = assert!(size_of::<Sampling>() == 16);
const _: () = assert!(size_of::<Registers>() == 64);
const _: () = assert!(size_of::<SampleHeader>() == 80 + 64);
const _: () = assert!(size_of::<LiveKey>() == 16);
const _: () = assert!(size_of::<PendingKey>() == 16);
const _: () = assert!(size_of::<PendingSample>() == 48);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_follow_the_exponential_function() {
        for mean in [1, 64, 4096, 524_288, 1 << 27, LARGEST_MEAN] {
            let sampling = Sampling::with_mean(mean);
            let mut bytes = 1_u64;
            while bytes < 40 * mean {
                let exact = -f64::exp_m1(-(bytes as f64) / mean as f64);
                let got = threshold(bytes, sampling) as f64 / CERTAIN as f64;
                let coarse = 3.0 / CERTAIN as f64;
                // A rate in units of 2^-40 is coarse for the largest means.
                assert!((got - exact).abs() <= coarse + exact * 2e-3, "{mean} {bytes}: {got} {exact}");
                assert!(threshold(bytes, sampling) <= threshold_at_most(bytes, sampling), "{mean} {bytes}");
                bytes += bytes / 7 + 1;
            }
            assert_eq!(threshold(40 * mean, sampling), CERTAIN);
            assert_eq!(threshold(u64::MAX, sampling), CERTAIN);
        }
    }

    #[test]
    fn a_fuller_ring_halves_what_is_chosen_step_by_step() {
        let at = |sixteenths: u64| thinned(CERTAIN, u64::from(RING_BYTES) / 16 * sixteenths);
        assert_eq!((at(0), at(7), at(8), at(9)), (CERTAIN, CERTAIN, CERTAIN >> 1, CERTAIN >> 3));
        assert_eq!((at(15), at(16)), (CERTAIN >> 15, CERTAIN >> 17));
        assert_eq!(thinned(5, u64::from(RING_BYTES)), 1, "never zero");
    }

    #[test]
    fn weights_undo_what_the_draw_does() {
        let sampling = Sampling::with_mean(524_288);
        assert!((weight(threshold(64, sampling)) * 64.0 - 524_288.0).abs() < 524_288.0 * 1e-3);
        assert_eq!(weight(CERTAIN), 1.0);
    }
}
