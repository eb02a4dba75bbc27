//! Allocator calls: counted where they enter, never at their return.

use aya_ebpf::{
    EbpfContext as _, helpers::generated::bpf_get_attach_cookie, macros::uprobe, programs::ProbeContext,
};
use aya_log_ebpf::trace;
use profiler_common::{
    alloc::{
        AllocCounts, AllocFunction, AllocSite, BAD_ALIGNMENT_FAILS, NULL_COUNTED_ELSEWHERE,
        SMALL_ALIGNMENT_COUNTED_ELSEWHERE, ZERO_COUNTED_ELSEWHERE,
    },
    outcome::Outcome,
};

use crate::maps::{ALLOC_COUNTS, ALLOC_SITES, COUNTING, add, count};

/// glibc gives every block this alignment (`MALLOC_ALIGNMENT`, malloc/malloc-alignment.h, on 64-bit machines).
const MALLOC_ALIGNMENT: u64 = 16;
/// Larger requests can't succeed: a process addresses 2^47 bytes on x86-64 unless it asks mmap for more, which malloc doesn't.
/// (glibc itself refuses from `PTRDIFF_MAX` on; in between, mmap does.)
const LARGEST_REQUEST: u64 = (1 << 47) - 1;

/// What one call means for the counts.
enum Call {
    Allocation { bytes: u64 },
    Free,
    Resize { bytes: u64 },
    Refused,
    Ignored,
}

#[uprobe]
fn alloc(ctx: ProbeContext) -> u32 {
    // SAFETY: the context is the one this program was called with.
    let cookie = unsafe { bpf_get_attach_cookie(ctx.as_ptr()) } as u32;
    let (Some(site), Some(counts)) = (ALLOC_SITES.get_ptr(cookie), ALLOC_COUNTS.get_ptr_mut(cookie)) else {
        count(Outcome::UnknownSite);
        return 0;
    };
    // SAFETY: both point to map values; the site doesn't change while its probe is in place.
    unsafe { hit(&ctx, &*site, &mut *counts) };
    0
}

/// Counts one hit of a site.
#[inline(always)]
fn hit(ctx: &ProbeContext, site: &AllocSite, counts: &mut AllocCounts) {
    if COUNTING.get(site.slot).is_none_or(|on| *on == 0) {
        return;
    }
    match classify(ctx, site) {
        Call::Allocation { bytes } => {
            add(&raw mut counts.allocations, 1);
            add(&raw mut counts.bytes, bytes);
        }
        Call::Free => add(&raw mut counts.frees, 1),
        Call::Resize { bytes } => {
            add(&raw mut counts.resizes, 1);
            add(&raw mut counts.bytes, bytes);
        }
        Call::Refused => add(&raw mut counts.refused, 1),
        Call::Ignored => add(&raw mut counts.ignored, 1),
    }
    trace!(ctx, "alloc: function {} argument {}", site.function, argument(ctx, 0));
}

#[inline(always)]
fn argument(ctx: &ProbeContext, n: usize) -> u64 {
    ctx.arg(n).unwrap_or(0)
}

#[inline(always)]
fn classify(ctx: &ProbeContext, site: &AllocSite) -> Call {
    const MALLOC: u32 = AllocFunction::Malloc as u32;
    const CALLOC: u32 = AllocFunction::Calloc as u32;
    const REALLOC: u32 = AllocFunction::Realloc as u32;
    const REALLOCARRAY: u32 = AllocFunction::Reallocarray as u32;
    const POSIX_MEMALIGN: u32 = AllocFunction::PosixMemalign as u32;
    const ALIGNED_ALLOC: u32 = AllocFunction::AlignedAlloc as u32;
    const MEMALIGN: u32 = AllocFunction::Memalign as u32;
    const VALLOC: u32 = AllocFunction::Valloc as u32;
    const PVALLOC: u32 = AllocFunction::Pvalloc as u32;
    const FREE: u32 = AllocFunction::Free as u32;

    let first = argument(ctx, 0);
    match site.function {
        MALLOC | VALLOC | PVALLOC => allocation(first),
        FREE if first == 0 => Call::Ignored,
        FREE => Call::Free,
        CALLOC => product(first, argument(ctx, 1)).map_or(Call::Refused, allocation),
        REALLOC => resize(first, argument(ctx, 1), site.flags),
        REALLOCARRAY => product(argument(ctx, 1), argument(ctx, 2))
            .map_or(Call::Refused, |bytes| resize(first, bytes, site.flags)),
        POSIX_MEMALIGN => {
            // POSIX: a power of two and a multiple of the size of a pointer; glibc checks exactly that.
            let alignment = argument(ctx, 1);
            if alignment % 8 != 0 { Call::Refused } else { aligned(alignment, argument(ctx, 2), site.flags) }
        }
        ALIGNED_ALLOC | MEMALIGN => aligned(first, argument(ctx, 1), site.flags),
        _ => Call::Ignored,
    }
}

#[inline(always)]
fn allocation(bytes: u64) -> Call {
    if bytes > LARGEST_REQUEST { Call::Refused } else { Call::Allocation { bytes } }
}

#[inline(always)]
fn aligned(alignment: u64, bytes: u64, flags: u32) -> Call {
    // glibc checks this first, so a bad alignment never gets to where small ones are counted.
    if flags & BAD_ALIGNMENT_FAILS != 0 && (alignment == 0 || alignment & (alignment - 1) != 0) {
        return Call::Refused;
    }
    if flags & SMALL_ALIGNMENT_COUNTED_ELSEWHERE != 0 && alignment <= MALLOC_ALIGNMENT {
        return Call::Ignored;
    }
    // glibc's _mid_memalign refuses an alignment above SIZE_MAX / 2 + 1.
    if alignment > 1 << 63 { Call::Refused } else { allocation(bytes) }
}

#[inline(always)]
fn resize(pointer: u64, bytes: u64, flags: u32) -> Call {
    if pointer == 0 {
        return if flags & NULL_COUNTED_ELSEWHERE != 0 { Call::Ignored } else { allocation(bytes) };
    }
    if bytes == 0 {
        // glibc frees the block and returns NULL (REALLOC_ZERO_BYTES_FREES).
        return if flags & ZERO_COUNTED_ELSEWHERE != 0 { Call::Ignored } else { Call::Free };
    }
    // A request that can't succeed leaves the old block alone.
    if bytes > LARGEST_REQUEST { Call::Refused } else { Call::Resize { bytes } }
}

/// `a * b`, or `None` where that is more than any request may be; divides only when one factor is large.
#[inline(always)]
fn product(a: u64, b: u64) -> Option<u64> {
    if (a | b) >> 31 != 0 && a != 0 && b > LARGEST_REQUEST / a { None } else { Some(a.wrapping_mul(b)) }
}
