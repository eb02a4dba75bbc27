//! Allocator calls, counted at one probe site per function.

use crate::Record;

/// A function of the C allocator interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum AllocFunction {
    /// `malloc(size)`
    Malloc = 0,
    /// `calloc(count, size)`
    Calloc = 1,
    /// `realloc(pointer, size)`
    Realloc = 2,
    /// `reallocarray(pointer, count, size)`
    Reallocarray = 3,
    /// `posix_memalign(&pointer, alignment, size)`
    PosixMemalign = 4,
    /// `aligned_alloc(alignment, size)`
    AlignedAlloc = 5,
    /// `memalign(alignment, size)`
    Memalign = 6,
    /// `valloc(size)`
    Valloc = 7,
    /// `pvalloc(size)`
    Pvalloc = 8,
    /// `free(pointer)`
    Free = 9,
}

impl AllocFunction {
    /// Every function, in the order of its number. Where two names share one address, the earlier one names it.
    pub const ALL: [Self; 10] = [
        Self::Malloc,
        Self::Calloc,
        Self::Realloc,
        Self::Reallocarray,
        Self::PosixMemalign,
        Self::AlignedAlloc,
        Self::Memalign,
        Self::Valloc,
        Self::Pvalloc,
        Self::Free,
    ];

    /// The symbol's name, which is also the value of the `function` label.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Malloc => "malloc",
            Self::Calloc => "calloc",
            Self::Realloc => "realloc",
            Self::Reallocarray => "reallocarray",
            Self::PosixMemalign => "posix_memalign",
            Self::AlignedAlloc => "aligned_alloc",
            Self::Memalign => "memalign",
            Self::Valloc => "valloc",
            Self::Pvalloc => "pvalloc",
            Self::Free => "free",
        }
    }

    /// Whether a call can ask for a block.
    pub const fn allocates(self) -> bool {
        !matches!(self, Self::Free)
    }

    /// Whether a call can give a block back.
    pub const fn frees(self) -> bool {
        matches!(self, Self::Free | Self::Realloc | Self::Reallocarray)
    }

    /// How many integer arguments the function takes; all of them must be intact at a probe site.
    pub const fn arguments(self) -> usize {
        match self {
            Self::Malloc | Self::Valloc | Self::Pvalloc | Self::Free => 1,
            Self::Calloc | Self::Realloc | Self::AlignedAlloc | Self::Memalign => 2,
            Self::Reallocarray | Self::PosixMemalign => 3,
        }
    }
}

/// `realloc(NULL, n)` runs on into `malloc` and is counted there.
pub const NULL_COUNTED_ELSEWHERE: u32 = 1 << 0;
/// `realloc(p, 0)` runs on into `free` and is counted there.
pub const ZERO_COUNTED_ELSEWHERE: u32 = 1 << 1;
/// An alignment that every block has anyway runs on into `malloc` and is counted there.
pub const SMALL_ALIGNMENT_COUNTED_ELSEWHERE: u32 = 1 << 2;
/// An alignment that is no power of two is refused (instead of being rounded up).
pub const BAD_ALIGNMENT_FAILS: u32 = 1 << 3;
/// What the kernel side must know of one probe site. Value of the `ALLOC_SITES` map; the key is the attach cookie.
///
/// A site is a function's own probe, or one on an instruction by which the allocator calls that function itself; both
/// count alike, and the user side subtracts the second from the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct AllocSite {
    /// An [`AllocFunction`] as number.
    pub function: u32,
    /// Bits from the constants of this module.
    pub flags: u32,
    /// The target's slot; key of the `COUNTING` map.
    pub slot: u32,
    /// Zero.
    pub reserved: u32,
}

/// What one CPU has counted at one site. Value of the per-CPU map `ALLOC_COUNTS`; the key is the attach cookie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct AllocCounts {
    /// Calls that ask for a new block.
    pub allocations: u64,
    /// Calls that give a block back.
    pub frees: u64,
    /// Calls that give a block back and ask for another (`realloc` of a block): one free and one allocation.
    pub resizes: u64,
    /// Bytes asked for by `allocations` and `resizes`.
    pub bytes: u64,
    /// Calls that can't succeed (size above `PTRDIFF_MAX`, overflow of count times size, bad alignment). Not in `allocations`.
    pub refused: u64,
    /// Calls that do nothing (`free(NULL)`), or are counted at another site.
    pub ignored: u64,
}

impl AllocCounts {
    /// How often the probe fired while counting was on.
    pub const fn hits(&self) -> u64 {
        self.allocations + self.frees + self.resizes + self.refused + self.ignored
    }

    /// Blocks asked for.
    pub const fn allocated(&self) -> u64 {
        self.allocations + self.resizes
    }

    /// Blocks given back.
    pub const fn freed(&self) -> u64 {
        self.frees + self.resizes
    }

    /// Takes away what the allocator's own calls have counted. Never below zero: a call is counted at the caller first,
    /// and a snapshot in between may show it there only.
    pub const fn subtract(&mut self, own: &Self) {
        self.allocations = self.allocations.saturating_sub(own.allocations);
        self.frees = self.frees.saturating_sub(own.frees);
        self.resizes = self.resizes.saturating_sub(own.resizes);
        self.bytes = self.bytes.saturating_sub(own.bytes);
        self.refused = self.refused.saturating_sub(own.refused);
        self.ignored = self.ignored.saturating_sub(own.ignored);
    }

    /// Keeps every count from sinking below an earlier reading.
    pub fn raise_to(&mut self, earlier: &Self) {
        self.allocations = self.allocations.max(earlier.allocations);
        self.frees = self.frees.max(earlier.frees);
        self.resizes = self.resizes.max(earlier.resizes);
        self.bytes = self.bytes.max(earlier.bytes);
        self.refused = self.refused.max(earlier.refused);
        self.ignored = self.ignored.max(earlier.ignored);
    }

    /// Adds another CPU's (or site's) counts.
    pub const fn add(&mut self, other: &Self) {
        self.allocations += other.allocations;
        self.frees += other.frees;
        self.resizes += other.resizes;
        self.bytes = self.bytes.wrapping_add(other.bytes);
        self.refused += other.refused;
        self.ignored += other.ignored;
    }
}

// SAFETY: both are repr(C) of integers without padding (see the assertions).
unsafe impl Record for AllocSite {}
// SAFETY: as above.
unsafe impl Record for AllocCounts {}

const _: () = assert!(size_of::<AllocSite>() == 16);
const _: () = assert!(size_of::<AllocCounts>() == 48);
