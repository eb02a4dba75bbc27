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
    /// C++ `operator new` in all forms: single objects and arrays, aligned or not, throwing or not.
    OperatorNew = 10,
    /// C++ `operator delete` in all forms, sized or not.
    OperatorDelete = 11,
    /// jemalloc's `mallocx(size, flags)`
    Mallocx = 12,
    /// jemalloc's `rallocx(pointer, size, flags)`
    Rallocx = 13,
    /// jemalloc's `dallocx(pointer, flags)` and `sdallocx(pointer, size, flags)`
    Dallocx = 14,
    /// mimalloc's functions that copy a text into a block of its own, `mi_strdup(text)` and its like.
    Strdup = 15,
}

impl AllocFunction {
    /// Every function, in the order of its number. Where two names share one address, the earlier one names it.
    pub const ALL: [Self; 16] = [
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
        Self::OperatorNew,
        Self::OperatorDelete,
        Self::Mallocx,
        Self::Rallocx,
        Self::Dallocx,
        Self::Strdup,
    ];

    /// The value of the `function` label: the C symbol's name, or a word for a group of functions.
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
            Self::OperatorNew => "operator_new",
            Self::OperatorDelete => "operator_delete",
            Self::Mallocx => "mallocx",
            Self::Rallocx => "rallocx",
            Self::Dallocx => "dallocx",
            Self::Strdup => "strdup",
        }
    }

    /// Whether a call can ask for a block.
    pub const fn allocates(self) -> bool {
        !matches!(self, Self::Free | Self::OperatorDelete | Self::Dallocx)
    }

    /// Whether a call can give a block back.
    pub const fn frees(self) -> bool {
        matches!(
            self,
            Self::Free
                | Self::Realloc
                | Self::Reallocarray
                | Self::OperatorDelete
                | Self::Rallocx
                | Self::Dallocx
        )
    }
}

/// What a call does with memory: how its arguments are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum AllocOp {
    /// Asks for a block. Argument: size.
    Allocate = 0,
    /// Asks for a block of several elements. Arguments: count, size of one.
    AllocateArray = 1,
    /// Asks for an aligned block. Arguments: alignment, size.
    AllocateAligned = 2,
    /// Gives a block back. Argument: pointer.
    Free = 3,
    /// Gives a block back and asks for another. Arguments: pointer, size.
    Resize = 4,
    /// The same with several elements. Arguments: pointer, count, size of one.
    ResizeArray = 5,
    /// Asks for a block to copy something into, of as many bytes as that has: no register tells how many. Argument: pointer to
    /// what is copied; nothing happens if it is null.
    AllocateCopy = 6,
}

impl AllocOp {
    /// How many arguments the operation reads.
    pub const fn arguments(self) -> usize {
        match self {
            Self::Allocate | Self::AllocateCopy | Self::Free => 1,
            Self::AllocateArray | Self::AllocateAligned | Self::Resize => 2,
            Self::ResizeArray => 3,
        }
    }
}

/// A register that holds an argument. The numbers are those of the instruction encoding (Intel SDM, volume 2, 2.2.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[expect(missing_docs, reason = "names of registers")]
pub enum Register {
    Rax = 0,
    Rcx = 1,
    Rdx = 2,
    Rbx = 3,
    Rbp = 5,
    Rsi = 6,
    Rdi = 7,
    R8 = 8,
    R9 = 9,
    R10 = 10,
    R11 = 11,
    R12 = 12,
    R13 = 13,
    R14 = 14,
    R15 = 15,
}

impl Register {
    /// Every register that can hold an argument, in the order of its number.
    pub const ALL: [Self; 15] = [
        Self::Rax,
        Self::Rcx,
        Self::Rdx,
        Self::Rbx,
        Self::Rbp,
        Self::Rsi,
        Self::Rdi,
        Self::R8,
        Self::R9,
        Self::R10,
        Self::R11,
        Self::R12,
        Self::R13,
        Self::R14,
        Self::R15,
    ];
    /// Where the integer arguments are passed (System V ABI for x86-64, 3.2.3).
    pub const ARGUMENTS: [Self; 6] = [Self::Rdi, Self::Rsi, Self::Rdx, Self::Rcx, Self::R8, Self::R9];
}

/// `realloc(NULL, n)` runs on into `malloc` and is counted there.
pub const NULL_COUNTED_ELSEWHERE: u32 = 1 << 0;
/// `realloc(p, 0)` runs on into `free` and is counted there.
pub const ZERO_COUNTED_ELSEWHERE: u32 = 1 << 1;
/// An alignment that every block has anyway runs on into `malloc` and is counted there.
pub const SMALL_ALIGNMENT_COUNTED_ELSEWHERE: u32 = 1 << 2;
/// An alignment that is no power of two is refused (instead of being rounded up).
pub const BAD_ALIGNMENT_FAILS: u32 = 1 << 3;
/// An alignment that is no multiple of a pointer's size is refused (`posix_memalign`).
pub const POINTER_ALIGNMENT: u32 = 1 << 4;
/// `realloc(p, 0)` gives a block of no bytes instead of freeing `p` and returning a null pointer.
pub const ZERO_RESIZES: u32 = 1 << 5;
/// `realloc(NULL, n)` fails: the function resizes only (jemalloc's `rallocx`).
pub const NULL_FAILS: u32 = 1 << 6;
/// The function stores the block's address where its third argument points to, and returns zero when it has succeeded
/// (`posix_memalign`). That argument is in the third register.
pub const RESULT_IN_MEMORY: u32 = 1 << 7;
/// Calls are counted here and nothing else: what happens to the blocks is seen elsewhere as well.
pub const ONLY_COUNTED: u32 = 1 << 8;

/// What the kernel side must know of one probe site. Value of the `ALLOC_SITES` map; the key is the attach cookie.
///
/// A site is a function's own probe, or stands for all instructions by which the allocator calls that function itself;
/// both count alike, and the user side subtracts the second from the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct AllocSite {
    /// An [`AllocOp`] as number.
    pub op: u8,
    /// The registers that hold the operation's arguments, each a [`Register`] as number.
    pub registers: [u8; 3],
    /// Bits from the constants of this module.
    pub flags: u32,
    /// The target's slot; key of the `SWITCHES` map.
    pub slot: u32,
    /// Zero.
    pub reserved: u32,
}

/// What one CPU has counted at one site.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct AllocCounts {
    /// Calls that ask for a new block.
    pub allocations: u64,
    /// Calls that give a block back.
    pub frees: u64,
    /// Calls that give a block back and ask for another (`realloc` of a block): one free and one allocation.
    pub resizes: u64,
    /// Bytes asked for by `allocations` and `resizes`, without those of [`AllocOp::AllocateCopy`].
    pub bytes: u64,
    /// Calls that can't succeed (size above `PTRDIFF_MAX`, overflow of count times size, bad alignment). Not in `allocations`.
    pub refused: u64,
    /// Calls that do nothing (`free(NULL)`), or are counted at another site.
    pub ignored: u64,
}

/// How many banks a site's counts have: one for the present program of the target, one for the program before (`execve`).
pub const BANKS: usize = 2;

/// What one CPU has counted at one site, by bank. Value of the per-CPU map `ALLOC_COUNTS`; the key is the attach cookie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct SiteCounts {
    /// Index: the last bit of the epoch (`Switches::epoch`) that the target was in.
    pub banks: [AllocCounts; BANKS],
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

// SAFETY: all are repr(C) of integers without padding (see the assertions).
unsafe impl Record for AllocSite {}
// SAFETY: as above.
unsafe impl Record for AllocCounts {}
// SAFETY: as above.
unsafe impl Record for SiteCounts {}

const _: () = assert!(size_of::<AllocSite>() == 16);
const _: () = assert!(size_of::<AllocCounts>() == 48);
const _: () = assert!(size_of::<SiteCounts>() == BANKS * 48);
