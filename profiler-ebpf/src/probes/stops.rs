//! Stops of a Go program's world: probes at the entries of the two functions that stop it and let it go on. Both run on a
//! system stack, which never grows, so their entries aren't passed twice; and whoever stops the world is alone in doing so.

use aya_ebpf::{
    EbpfContext as _, helpers::generated::bpf_get_attach_cookie, macros::uprobe, programs::ProbeContext,
};
use profiler_common::{
    outcome::Outcome,
    stops::{PendingStop, REASONS, STOP_BOUNDS, StopReason, TELLS_REASON, stop_bound_ns},
};

use super::sched::now;
use crate::maps::{GO_STOPPED, GO_STOPS, add, count};

/// `runtime.stopTheWorldWithSema(reason)`
#[uprobe]
fn go_stop(ctx: ProbeContext) -> u32 {
    // SAFETY: the context is the one this program was called with.
    let cookie = unsafe { bpf_get_attach_cookie(ctx.as_ptr()) };
    let Some(pending) = GO_STOPPED.get_ptr_mut(cookie as u32) else { return 0 };
    let reason = if cookie & TELLS_REASON == 0 { StopReason::Unknown as u64 } else { reason(&ctx) };
    let now = now();
    // SAFETY: a pointer to a map value. Volatile, because the user side writes it too.
    unsafe {
        let since = &raw mut (*pending).since_ns;
        if since.read_volatile() != 0 {
            count(Outcome::StopUnpaired);
        }
        (&raw mut (*pending).reason).write_volatile(reason);
        since.write_volatile(now);
    }
    0
}

/// `runtime.startTheWorldWithSema(...)`
#[uprobe]
fn go_start(ctx: ProbeContext) -> u32 {
    // SAFETY: the context is the one this program was called with.
    let slot = unsafe { bpf_get_attach_cookie(ctx.as_ptr()) } as u32;
    let Some(pending) = GO_STOPPED.get_ptr_mut(slot) else { return 0 };
    let now = now();
    // SAFETY: as in `go_stop`.
    let PendingStop { since_ns, reason } = unsafe { pending.read_volatile() };
    if since_ns == 0 {
        count(Outcome::StopUnpaired);
        return 0;
    }
    // SAFETY: as above.
    unsafe { (&raw mut (*pending).since_ns).write_volatile(0) };
    let elapsed = match now.checked_sub(since_ns) {
        Some(elapsed) => elapsed,
        None => {
            count(Outcome::ClockBackwards);
            0
        }
    };
    let Some(counts) = GO_STOPS.get_ptr_mut(slot * REASONS as u32 + reason as u32) else { return 0 };
    // SAFETY: a pointer into this CPU's map value, whose counters are written by atomic additions only.
    let counts = unsafe { &mut *counts };
    add(&raw mut counts.total_ns, elapsed);
    if let Some(bucket) = counts.buckets.get_mut(bucket(elapsed)) {
        add(bucket, 1);
    }
    0
}

/// The reason, where the function is called with one: its first argument, a byte, is in AL (Go's src/cmd/compile/abi-internal.md);
/// what is in the rest of the register isn't defined.
#[cfg(bpf_target_arch = "x86_64")]
#[inline(always)]
fn reason(ctx: &ProbeContext) -> u64 {
    use aya_ebpf::bindings::pt_regs;
    let value: u64;
    // SAFETY: the context of a uprobe is the registers (struct pt_regs), readable as long as the program runs.
    unsafe {
        core::arch::asm!(
            "{value} = *(u64 *)({regs} + {offset})",
            value = out(reg) value,
            regs = in(reg) ctx.regs,
            offset = const core::mem::offset_of!(pt_regs, rax),
            options(pure, readonly, nostack),
        );
    }
    let number = value & 0xff;
    if number < StopReason::Other as u64 { number } else { StopReason::Other as u64 }
}

/// Nothing is probed on other machines yet.
#[cfg(not(bpf_target_arch = "x86_64"))]
#[inline(always)]
fn reason(_ctx: &ProbeContext) -> u64 {
    StopReason::Unknown as u64
}

/// The histogram bucket of a stop: the first whose bound (`stop_bound_ns`) is not below it.
#[inline(always)]
fn bucket(elapsed: u64) -> usize {
    let mut bucket = 0;
    let mut bound = stop_bound_ns(0);
    while bucket < STOP_BOUNDS && elapsed > bound {
        bucket += 1;
        bound <<= 1;
    }
    bucket
}
