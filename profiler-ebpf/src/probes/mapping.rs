//! System calls that map memory: counted where they leave the kernel, with their result.
//!
//! The arguments are still in the thread's saved registers then, as the kernel used them (also where a seccomp filter or a
//! tracer has changed them, or refused the call). So nothing has to be kept from the call's beginning, and nothing can be
//! lost between the two - but for `brk`, whose result doesn't tell where the break was before.

use aya_ebpf::{
    EbpfContext as _, helpers::bpf_get_current_pid_tgid, macros::tracepoint, programs::TracePointContext,
};
use profiler_common::{
    mapping::{KINDS, MappingCounts, MappingKind},
    outcome::Outcome,
};

use crate::{
    kernel_data::Task,
    maps::{BREAKS, MAPPING_COUNTS, TARGETS_BY_PID, add, count},
};

/// arch/x86/include/asm/page_types.h
const PAGE: u64 = 4096;
/// include/uapi/asm-generic/mman-common.h, include/uapi/linux/mman.h
const PROT_ANY: u64 = 0x7;
const MAP_SHARED: u64 = 0x01;
const MAP_TYPE: u64 = 0x0f;
const MAP_ANONYMOUS: u64 = 0x20;
const MAP_HUGETLB: u64 = 0x40000;
const MAP_HUGE_SHIFT: u64 = 26;
const MREMAP_DONTUNMAP: u64 = 4;
/// The kernel's usual size of huge pages where a call names none, as a power of two.
const HUGE_SHIFT: u64 = 21;
/// A result above this is an error's number, negated (include/linux/err.h).
const LAST_RESULT: u64 = u64::MAX - 4095;

#[tracepoint]
fn mapping_mmap(ctx: TracePointContext) -> u32 {
    let Some((slot, call)) = target() else { return 0 };
    let (bytes, protection, flags) =
        (call.argument_of_call(1), call.argument_of_call(2), call.argument_of_call(3));
    let kind = if flags & MAP_ANONYMOUS == 0 {
        MappingKind::File
    } else if protection & PROT_ANY == 0 {
        MappingKind::Reserve
    } else if flags & MAP_TYPE == MAP_SHARED {
        MappingKind::Shared
    } else {
        MappingKind::Anonymous
    };
    let page = if flags & (MAP_HUGETLB | MAP_ANONYMOUS) == MAP_HUGETLB | MAP_ANONYMOUS {
        match (flags >> MAP_HUGE_SHIFT) & 0x3f {
            0 => 1 << HUGE_SHIFT,
            shift => 1 << shift,
        }
    } else {
        PAGE
    };
    record(slot, kind, result(&ctx) <= LAST_RESULT, round_up(bytes, page));
    0
}

#[tracepoint]
fn mapping_munmap(ctx: TracePointContext) -> u32 {
    let Some((slot, call)) = target() else { return 0 };
    record(slot, MappingKind::Unmap, result(&ctx) == 0, round_up(call.argument_of_call(1), PAGE));
    0
}

#[tracepoint]
fn mapping_mremap(ctx: TracePointContext) -> u32 {
    let Some((slot, call)) = target() else { return 0 };
    let (old, new) = (round_up(call.argument_of_call(1), PAGE), round_up(call.argument_of_call(2), PAGE));
    let (kind, bytes) = if old == 0 {
        (MappingKind::RemapMove, 0)
    } else if call.argument_of_call(3) & MREMAP_DONTUNMAP != 0 {
        (MappingKind::RemapGrow, new)
    } else if new > old {
        (MappingKind::RemapGrow, new - old)
    } else if new < old {
        (MappingKind::RemapShrink, old - new)
    } else {
        (MappingKind::RemapMove, 0)
    };
    record(slot, kind, result(&ctx) <= LAST_RESULT, bytes);
    0
}

/// Keeps where the break is before the call. Two threads that move it at the same moment may both see the same place; the
/// C library doesn't let that happen (its arena is locked).
#[tracepoint]
fn mapping_brk_enter(_ctx: TracePointContext) -> u32 {
    let Some((_, call)) = target() else { return 0 };
    if call.argument_of_call(0) != 0
        && let Some(mut old) = call.program_break()
    {
        // What can't be kept is missed at the call's end.
        let _full = BREAKS.insert(&thread(), &mut old, 0);
    }
    0
}

/// `brk` answers where the break is now, whether it was moved or not. `brk(0)` only asks, and isn't counted.
#[tracepoint]
fn mapping_brk(ctx: TracePointContext) -> u32 {
    let Some((slot, call)) = target() else { return 0 };
    let (asked, now) = (call.argument_of_call(0), result(&ctx));
    if asked == 0 {
        return 0;
    }
    let tid = thread();
    // SAFETY: a plain number that this thread has written.
    let before = unsafe { BREAKS.get(&tid) }.copied();
    let _gone = BREAKS.remove(&tid);
    let moved = now == asked;
    let before = match before {
        Some(before) => before,
        None if moved => {
            count(Outcome::BreakUnknown);
            return 0;
        }
        // Refused before it began, by a seccomp filter.
        None if now > LAST_RESULT => 0,
        // A call that fails tells where the break is.
        None => now,
    };
    if asked >= before {
        record(slot, MappingKind::BrkGrow, moved, asked - before);
    } else {
        record(slot, MappingKind::BrkShrink, moved, before - asked);
    }
    0
}

/// The target's slot and the thread that makes the call, if it belongs to a target.
#[inline(always)]
fn target() -> Option<(u32, Task)> {
    let pid = (bpf_get_current_pid_tgid() >> 32) as u32;
    // SAFETY: the value is a plain number that the user side writes once.
    unsafe { TARGETS_BY_PID.get(&pid) }.map(|entry| (entry.slot, Task::current()))
}

#[inline(always)]
fn thread() -> u32 {
    bpf_get_current_pid_tgid() as u32
}

/// What the call returns.
#[inline(always)]
fn result(ctx: &TracePointContext) -> u64 {
    // SAFETY: the context of a sys_exit event holds the call's number at 8 and its result at 16 (kernel/trace/trace_syscalls.c);
    // the verifier checks that this lies inside.
    unsafe { core::ptr::read_volatile(ctx.as_ptr().cast::<u64>().add(2)) }
}

#[inline(always)]
fn round_up(bytes: u64, page: u64) -> u64 {
    bytes.wrapping_add(page - 1) & !(page - 1)
}

#[inline(always)]
fn record(slot: u32, kind: MappingKind, succeeded: bool, bytes: u64) {
    let Some(counts) = MAPPING_COUNTS.get_ptr_mut(slot * KINDS as u32 + kind as u32) else { return };
    let counts: *mut MappingCounts = counts;
    // SAFETY: a pointer into this CPU's map value.
    let counts = unsafe { &mut *counts };
    if succeeded {
        add(&raw mut counts.calls, 1);
        add(&raw mut counts.bytes, bytes);
    } else {
        add(&raw mut counts.failed, 1);
    }
}
