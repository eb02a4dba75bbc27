//! Memory that a target gets from the kernel by itself: `mmap`, `munmap`, `mremap`, `brk`, counted by system call.
//!
//! What the allocator asks the kernel for is in here too (a heap grows by `brk`, large blocks and arenas come by `mmap`), so
//! these figures and the allocator's are two views of partly the same memory, and must not be added up.
//!
//! Calls are exact, and so are the bytes that they asked for. What was mapped less what was unmapped is *not* the memory
//! in use. What the figures can't tell:
//!
//! * `munmap` and `mremap` say nothing about what they work on: files' mappings are in `unmap` and `remap_*` too, and so
//!   is what wasn't mapped at all (`munmap` of a gap succeeds).
//! * A mapping placed over another one (`MAP_FIXED`, `MREMAP_FIXED`) replaces it, and nothing counts what went.
//! * A reservation (`PROT_NONE`) becomes memory by `mprotect`, which isn't followed: glibc's arenas of further threads
//!   show as `reserve` only, and the surplus that it trims from them as `unmap`. (Go maps over its reservations: those
//!   show in both kinds.)
//! * Huge pages of the usual size (`MAP_HUGETLB` alone) are taken for 2 MiB, whatever the kernel was told at boot.
//! * `madvise(MADV_DONTNEED)` gives memory back and leaves the mapping. A process that ends or calls `execve` gives back all.
//! * What no call asks for: the stack and other `MAP_GROWSDOWN` mappings as they grow, and what `execve`, `shmat` or a driver map.
//!   A private mapping of `/dev/zero` is anonymous memory, but by its call it is a file's.
//! * A child of `vfork` works on its parent's memory, under its own process id: it isn't followed until that is a target.
//! * A call that a seccomp supervisor answers in the kernel's place counts by the answer.
//! * Calls by the 32-bit interface, by 32-bit programs and by `int $0x80`, have no events on x86-64 and are missing.

use crate::Record;

/// What a call does to the address space, as far as its arguments tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum MappingKind {
    /// `mmap` of private anonymous memory (`MAP_PRIVATE`, `MAP_DROPPABLE`) that can be used.
    Anonymous = 0,
    /// `mmap` of shared anonymous memory. Apart, because the kernel accounts it as shared (`RssShmem`) and children share it.
    Shared = 1,
    /// `mmap` of anonymous addresses without any access (`PROT_NONE`): no memory yet.
    Reserve = 2,
    /// `mmap` of a file or device.
    File = 3,
    /// `munmap` of anything; bytes as asked for.
    Unmap = 4,
    /// `mremap` to a larger size, by so much; also with `MREMAP_DONTUNMAP`, which keeps the old addresses mapped.
    RemapGrow = 5,
    /// `mremap` to a smaller size, by so much.
    RemapShrink = 6,
    /// `mremap` that changes no size, and the second mapping of shared pages (an old size of 0). No bytes.
    RemapMove = 7,
    /// `brk` upwards, in bytes of the break (which the kernel rounds to pages).
    BrkGrow = 8,
    /// `brk` downwards.
    BrkShrink = 9,
}

/// How many [`MappingKind`]s there are.
pub const KINDS: usize = 10;

impl MappingKind {
    /// Every kind, in the order of its number.
    pub const ALL: [Self; KINDS] = [
        Self::Anonymous,
        Self::Shared,
        Self::Reserve,
        Self::File,
        Self::Unmap,
        Self::RemapGrow,
        Self::RemapShrink,
        Self::RemapMove,
        Self::BrkGrow,
        Self::BrkShrink,
    ];

    /// The value of the `kind` label.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Anonymous => "anonymous",
            Self::Shared => "shared",
            Self::Reserve => "reserve",
            Self::File => "file",
            Self::Unmap => "unmap",
            Self::RemapGrow => "remap_grow",
            Self::RemapShrink => "remap_shrink",
            Self::RemapMove => "remap_move",
            Self::BrkGrow => "brk_grow",
            Self::BrkShrink => "brk_shrink",
        }
    }
}

/// Calls of one kind. Value of the per-CPU map `MAPPING_COUNTS`; the key is `slot * KINDS + kind`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct MappingCounts {
    /// Calls that succeeded.
    pub calls: u64,
    /// Bytes of `calls`, rounded up to whole pages as the kernel does (`brk`: to the byte).
    pub bytes: u64,
    /// Calls that failed, and changed nothing.
    pub failed: u64,
}

impl MappingCounts {
    /// Adds another CPU's (or target's) counts.
    pub const fn add(&mut self, other: &Self) {
        self.calls += other.calls;
        self.bytes = self.bytes.wrapping_add(other.bytes);
        self.failed += other.failed;
    }

    /// Takes an earlier reading away.
    pub const fn subtract(&mut self, earlier: &Self) {
        self.calls = self.calls.saturating_sub(earlier.calls);
        self.bytes = self.bytes.wrapping_sub(earlier.bytes);
        self.failed = self.failed.saturating_sub(earlier.failed);
    }
}

// SAFETY: repr(C) of integers without padding (see the assertion).
unsafe impl Record for MappingCounts {}

const _: () = assert!(size_of::<MappingCounts>() == 24);
