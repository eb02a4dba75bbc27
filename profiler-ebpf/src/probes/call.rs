//! What a hit of an allocator's probe means: its arguments, and what the call does by them.

use aya_ebpf::programs::ProbeContext;
use profiler_common::alloc::{
    AllocOp, AllocSite, BAD_ALIGNMENT_FAILS, NULL_COUNTED_ELSEWHERE, NULL_FAILS, POINTER_ALIGNMENT,
    SMALL_ALIGNMENT_COUNTED_ELSEWHERE, ZERO_COUNTED_ELSEWHERE, ZERO_RESIZES,
};
use profiler_common::sample::Registers;

/// glibc gives every block this alignment (`MALLOC_ALIGNMENT`, malloc/malloc-alignment.h, on 64-bit machines).
const MALLOC_ALIGNMENT: u64 = 16;
/// Larger requests can't succeed: a process addresses 2^47 bytes on x86-64 unless it asks mmap for more, which malloc doesn't.
/// (glibc itself refuses from `PTRDIFF_MAX` on; in between, mmap does.)
const LARGEST_REQUEST: u64 = (1 << 47) - 1;

/// What one call means for the counts.
#[derive(Clone, Copy)]
pub enum Call {
    Allocation {
        bytes: u64,
    },
    /// Of the block at this address.
    Free {
        block: u64,
    },
    Resize {
        block: u64,
        bytes: u64,
    },
    Refused,
    Ignored,
}

/// An argument of the operation, from the register that holds it at this site.
///
/// The verifier allows access to the registers at fixed offsets only, and the compiler would make one load with a
/// computed offset of the choice: hence the assembly.
#[cfg(bpf_target_arch = "x86_64")]
#[inline(always)]
pub fn argument(ctx: &ProbeContext, site: &AllocSite, n: usize) -> u64 {
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

/// The registers that tell where a call is, besides those for its arguments.
#[cfg(bpf_target_arch = "x86_64")]
#[inline(always)]
pub fn registers(ctx: &ProbeContext) -> Registers {
    // SAFETY: the context of a uprobe is the registers, readable as long as the program runs.
    let regs = unsafe { &*ctx.regs };
    Registers {
        ip: regs.rip,
        sp: regs.rsp,
        bp: regs.rbp,
        rest: [regs.rbx, regs.r12, regs.r13, regs.r14, regs.r15],
    }
}

/// What a function has returned.
#[cfg(bpf_target_arch = "x86_64")]
#[inline(always)]
pub fn result(ctx: &ProbeContext) -> u64 {
    // SAFETY: as above.
    unsafe { (*ctx.regs).rax }
}

/// On other machines nothing is sampled yet.
#[cfg(not(bpf_target_arch = "x86_64"))]
#[inline(always)]
pub fn registers(_ctx: &ProbeContext) -> Registers {
    Registers::default()
}

/// As above.
#[cfg(not(bpf_target_arch = "x86_64"))]
#[inline(always)]
pub fn result(_ctx: &ProbeContext) -> u64 {
    0
}

/// On other machines, where no sites are chosen yet, the arguments are where the calling convention has them.
#[cfg(not(bpf_target_arch = "x86_64"))]
#[inline(always)]
pub fn argument(ctx: &ProbeContext, _site: &AllocSite, n: usize) -> u64 {
    ctx.arg(n).unwrap_or(0)
}

/// What a call does.
#[inline(always)]
pub fn classify(ctx: &ProbeContext, site: &AllocSite) -> Call {
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
        FREE => Call::Free { block: first },
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
        return if flags & ZERO_COUNTED_ELSEWHERE != 0 {
            Call::Ignored
        } else {
            Call::Free { block: pointer }
        };
    }
    // A request that can't succeed leaves the old block alone.
    if bytes > LARGEST_REQUEST { Call::Refused } else { Call::Resize { block: pointer, bytes } }
}

/// `a * b`, or `None` where that is more than any request may be; divides only when one factor is large.
#[inline(always)]
fn product(a: u64, b: u64) -> Option<u64> {
    if (a | b) >> 31 != 0 && a != 0 && b > LARGEST_REQUEST / a { None } else { Some(a.wrapping_mul(b)) }
}
