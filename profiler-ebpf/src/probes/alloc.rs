//! Allocator calls: counted where they enter, never at their return.

use aya_ebpf::{
    EbpfContext as _, helpers::generated::bpf_get_attach_cookie, macros::uprobe, programs::ProbeContext,
};
use aya_log_ebpf::trace;
use profiler_common::{
    alloc::{
        AllocOp, AllocSite, BAD_ALIGNMENT_FAILS, BANKS, NULL_COUNTED_ELSEWHERE, NULL_FAILS,
        POINTER_ALIGNMENT, SMALL_ALIGNMENT_COUNTED_ELSEWHERE, ZERO_COUNTED_ELSEWHERE, ZERO_RESIZES,
    },
    outcome::Outcome,
};

use crate::maps::{ALLOC_COUNTS, ALLOC_SITES, SWITCHES, add, count};

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
    let Some(site) = ALLOC_SITES.get_ptr(cookie) else {
        count(Outcome::UnknownSite);
        return 0;
    };
    // SAFETY: a pointer to a map value, which doesn't change while the site's probe is in place.
    hit(&ctx, unsafe { &*site }, cookie);
    0
}

/// Counts one hit of a site.
#[inline(always)]
fn hit(ctx: &ProbeContext, site: &AllocSite, cookie: u32) {
    let Some(switches) = SWITCHES.get_ptr(site.slot) else { return };
    // SAFETY: a pointer to a map value. Volatile, because the user side writes it.
    if unsafe { (&raw const (*switches).on).read_volatile() } == 0 {
        return;
    }
    // SAFETY: as above. It changes only while the process has no thread that could be here.
    let bank = unsafe { (&raw const (*switches).epoch).read_volatile() } as usize % BANKS;
    let Some(counts) = ALLOC_COUNTS.get_ptr_mut(cookie) else { return };
    // SAFETY: a pointer to this CPU's map value, whose counters are written by atomic additions only.
    let counts = unsafe { &mut (*counts).banks[bank] };
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
    trace!(ctx, "alloc: operation {} argument {}", site.op, argument(ctx, site, 0));
}

/// An argument of the operation, from the register that holds it at this site.
///
/// The verifier allows access to the registers at fixed offsets only, and the compiler would make one load with a
/// computed offset of the choice: hence the assembly.
#[cfg(bpf_target_arch = "x86_64")]
#[inline(always)]
fn argument(ctx: &ProbeContext, site: &AllocSite, n: usize) -> u64 {
    use aya_ebpf::bindings::pt_regs;
    use profiler_common::alloc::Register;

    macro_rules! load {
        ($field:ident) => {{
            let value: u64;
            // SAFETY: the context of a uprobe is the registers (struct pt_regs), readable as long as the program runs.
            unsafe {
                core::arch::asm!(
                    "{value} = *(u64 *)({regs} + {offset})",
                    value = out(reg) value,
                    regs = in(reg) ctx.regs,
                    offset = const core::mem::offset_of!(pt_regs, $field),
                    options(pure, readonly, nostack),
                );
            }
            value
        }};
    }
    macro_rules! choose {
        ($($register:ident: $field:ident),+; $last:ident) => {
            match site.registers[n] {
                $(number if number == Register::$register as u8 => load!($field),)+
                _ => load!($last),
            }
        };
    }
    choose!(
        Rdi: rdi, Rsi: rsi, Rdx: rdx, Rax: rax, Rcx: rcx, Rbx: rbx, Rbp: rbp, R8: r8, R9: r9, R10: r10, R11: r11,
        R12: r12, R13: r13, R14: r14; r15
    )
}

/// On other machines, where no sites are chosen yet, the arguments are where the calling convention has them.
#[cfg(not(bpf_target_arch = "x86_64"))]
#[inline(always)]
fn argument(ctx: &ProbeContext, _site: &AllocSite, n: usize) -> u64 {
    ctx.arg(n).unwrap_or(0)
}

#[inline(always)]
fn classify(ctx: &ProbeContext, site: &AllocSite) -> Call {
    const ALLOCATE: u8 = AllocOp::Allocate as u8;
    const ALLOCATE_ARRAY: u8 = AllocOp::AllocateArray as u8;
    const ALLOCATE_ALIGNED: u8 = AllocOp::AllocateAligned as u8;
    const FREE: u8 = AllocOp::Free as u8;
    const RESIZE: u8 = AllocOp::Resize as u8;
    const RESIZE_ARRAY: u8 = AllocOp::ResizeArray as u8;
    const ALLOCATE_COPY: u8 = AllocOp::AllocateCopy as u8;

    let first = argument(ctx, site, 0);
    match site.op {
        ALLOCATE => allocation(first),
        FREE | ALLOCATE_COPY if first == 0 => Call::Ignored,
        FREE => Call::Free,
        // How long a text is, is told by its bytes only.
        ALLOCATE_COPY => Call::Allocation { bytes: 0 },
        ALLOCATE_ARRAY => product(first, argument(ctx, site, 1)).map_or(Call::Refused, allocation),
        ALLOCATE_ALIGNED => aligned(first, argument(ctx, site, 1), site.flags),
        RESIZE => resize(first, argument(ctx, site, 1), site.flags),
        RESIZE_ARRAY => product(argument(ctx, site, 1), argument(ctx, site, 2))
            .map_or(Call::Refused, |bytes| resize(first, bytes, site.flags)),
        _ => Call::Ignored,
    }
}

#[inline(always)]
fn allocation(bytes: u64) -> Call {
    if bytes > LARGEST_REQUEST { Call::Refused } else { Call::Allocation { bytes } }
}

#[inline(always)]
fn aligned(alignment: u64, bytes: u64, flags: u32) -> Call {
    if flags & POINTER_ALIGNMENT != 0 && alignment % 8 != 0 {
        return Call::Refused;
    }
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
        return match flags & (NULL_COUNTED_ELSEWHERE | NULL_FAILS) {
            0 => allocation(bytes),
            NULL_FAILS => Call::Refused,
            _ => Call::Ignored,
        };
    }
    if bytes == 0 && flags & ZERO_RESIZES == 0 {
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
