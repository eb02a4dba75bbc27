//! Allocator calls whose returns may be taken: chosen at the entry, told at the return, when the block's address is known.
//!
//! Twice: as one program that the kernel calls at both (a uprobe session, Linux 6.13) and that says at the entry whether it
//! wants the return, and as a pair of programs for other kernels, where every call returns through the kernel.

use core::ffi::c_void;

use aya_ebpf::{
    EbpfContext as _,
    helpers::{
        bpf_probe_read_user,
        generated::{bpf_get_attach_cookie, bpf_get_current_pid_tgid, bpf_get_func_ip, bpf_get_prandom_u32},
    },
    macros::{uprobe, uretprobe},
    programs::{ProbeContext, RetProbeContext},
};
use profiler_common::{
    alloc::{AllocOp, AllocSite, RESULT_IN_MEMORY},
    outcome::Outcome,
    sample::{
        LiveKey, PendingKey, PendingSample, SampleHeader, SampleKind, Sampling, threshold, threshold_at_most,
    },
};

use super::{
    alloc::{Hit, counted, forget, live, put_in, take_out},
    call::{Call, argument, registers, result},
    sample::{next_id, now, tell_with_stack, thinned},
};
use crate::maps::{ALLOC_SITES, PENDING_SAMPLES, SWITCHES, count};

/// What a session's program says at the entry.
pub const TAKE_RETURN: u32 = 0;
pub const IGNORE_RETURN: u32 = 1;

/// Entry and return. By hand, as aya's macro throws away what a program returns.
#[unsafe(no_mangle)]
#[unsafe(link_section = "uprobe")]
pub extern "C" fn alloc_session(ctx: *mut c_void) -> u32 {
    let ctx = ProbeContext::new(ctx);
    if is_return(&ctx) {
        returned(&ctx);
        return TAKE_RETURN;
    }
    if entered(&ctx) { TAKE_RETURN } else { IGNORE_RETURN }
}

/// The entry alone. What it returns is always 0: anything else would take the probe away.
#[uprobe]
fn alloc_entry(ctx: ProbeContext) -> u32 {
    if !entered(&ctx) {
        // What an earlier call at the same place has left, if it ended by an exception: this one's return isn't that one's.
        let _none = PENDING_SAMPLES.remove(&pending_key(registers(&ctx).sp));
    }
    0
}

/// The return alone.
#[uretprobe]
fn alloc_return(ctx: RetProbeContext) -> u32 {
    returned(&ProbeContext::new(ctx.as_ptr()));
    0
}

/// Whether a session's program was called for a return: then the instruction pointer is already where the call returns to.
#[inline(always)]
pub fn is_return(ctx: &ProbeContext) -> bool {
    // SAFETY: the context is the one the program was called with.
    registers(ctx).ip != unsafe { bpf_get_func_ip(ctx.as_ptr()) }
}

/// Names a call: `sp` is where its return address is.
#[inline(always)]
fn pending_key(sp: u64) -> PendingKey {
    // SAFETY: the helper takes nothing.
    PendingKey { pid_tgid: unsafe { bpf_get_current_pid_tgid() }, sp }
}

/// Counts a call and draws. True if its return is wanted.
#[inline(always)]
fn entered(ctx: &ProbeContext) -> bool {
    let Some(hit) = counted(ctx) else { return false };
    if hit.sampling.rate == 0 {
        return false;
    }
    match hit.call {
        Call::Allocation { bytes } => match draw(bytes, hit.sampling) {
            Some(threshold) => wait(ctx, &hit, PendingSample { bytes, threshold, ..Default::default() }),
            None => false,
        },
        Call::Resize { block: old_address, bytes } => {
            let key = LiveKey { slot: hit.site.slot, epoch: hit.epoch, address: old_address };
            let old_id = live(&key).unwrap_or(0);
            let threshold = draw(bytes, hit.sampling).unwrap_or(0);
            (old_id | threshold) != 0
                && wait(
                    ctx,
                    &hit,
                    PendingSample { bytes, threshold, old_id, old_address, ..Default::default() },
                )
        }
        Call::Free { block } => {
            forget(ctx, &hit, block, None);
            false
        }
        Call::Refused | Call::Ignored => false,
    }
}

/// The threshold that a draw for a block is below, if it is.
#[inline(always)]
fn draw(bytes: u64, sampling: Sampling) -> Option<u64> {
    // SAFETY: the helper takes nothing.
    let random = u64::from(unsafe { bpf_get_prandom_u32() });
    // Nearly always, one multiplication is enough to know.
    if random >= threshold_at_most(bytes, sampling) {
        return None;
    }
    let threshold = threshold(bytes, sampling);
    if random >= threshold {
        return None;
    }
    let threshold = thinned(threshold);
    (random < threshold).then_some(threshold)
}

/// Notes a call for its return.
#[inline(always)]
fn wait(ctx: &ProbeContext, hit: &Hit<'_>, mut pending: PendingSample) -> bool {
    const ALIGNED: u8 = AllocOp::AllocateAligned as u8;
    pending.epoch = hit.epoch;
    if hit.site.op == ALIGNED && hit.site.flags & RESULT_IN_MEMORY != 0 {
        pending.result_at = argument(ctx, hit.site, 2);
    }
    PENDING_SAMPLES.insert(&pending_key(registers(ctx).sp), &pending, 0).is_ok()
}

/// A call has returned, which may have been chosen.
#[inline(always)]
fn returned(ctx: &ProbeContext) {
    // `ret` has taken the return address off the stack.
    let key = pending_key(registers(ctx).sp.wrapping_sub(8));
    // SAFETY: the value is this thread's, which is here.
    let Some(&pending) = (unsafe { PENDING_SAMPLES.get(&key) }) else { return };
    let _removed = PENDING_SAMPLES.remove(&key);
    // SAFETY: the context is the one the program was called with.
    let cookie = unsafe { bpf_get_attach_cookie(ctx.as_ptr()) } as u32;
    let Some(site) = ALLOC_SITES.get_ptr(cookie) else { return };
    // SAFETY: a pointer to a map value, which doesn't change while the site's probe is in place.
    let site: &AllocSite = unsafe { &*site };
    let Some(switches) = SWITCHES.get_ptr(site.slot) else { return };
    // SAFETY: a pointer to a map value. Volatile, because the user side writes it.
    if unsafe { (&raw const (*switches).on).read_volatile() } == 0 {
        return;
    }
    let address = block(result(ctx), pending.result_at);
    // A call that has failed has changed nothing.
    if address == 0 {
        return;
    }
    if pending.old_id != 0 {
        let hit =
            Hit { site, cookie, epoch: pending.epoch, sampling: Sampling::default(), call: Call::Ignored };
        // Before the new block is put in, which may have the old one's address. If the allocator has called its own `free`
        // meanwhile, that was told there, and the address may be another block's.
        forget(ctx, &hit, pending.old_address, Some(pending.old_id));
    }
    if pending.threshold != 0 {
        remember(ctx, &pending, site.slot, cookie, address);
    }
}

/// The block's address; zero if there is none.
#[inline(always)]
fn block(result: u64, result_at: u64) -> u64 {
    if result_at == 0 {
        return result;
    }
    // posix_memalign: an `int`, zero for success.
    if result as u32 != 0 {
        return 0;
    }
    // SAFETY: the helper checks what it reads.
    unsafe { bpf_probe_read_user(result_at as *const u64) }.unwrap_or(0)
}

/// A block that was chosen: nobody knows its address yet but the thread that is here, so that nobody can give it back before
/// it was told.
#[inline(always)]
fn remember(ctx: &ProbeContext, pending: &PendingSample, slot: u32, site: u32, address: u64) {
    let key = LiveKey { slot, epoch: pending.epoch, address };
    let replaced = live(&key).unwrap_or(0);
    let Some(id) = next_id() else { return };
    if replaced != 0 {
        take_out(&key);
    }
    if !put_in(&key, id) {
        count(Outcome::LiveSamplesFull);
        return;
    }
    let told = tell_with_stack(&SampleHeader {
        kind: SampleKind::Allocated as u32,
        slot,
        pid: ctx.tgid(),
        tid: ctx.pid(),
        at_ns: now(),
        id,
        address,
        bytes: pending.bytes,
        threshold: pending.threshold,
        replaced,
        epoch: pending.epoch,
        site,
        stack_bytes: 0,
        reserved: 0,
        registers: registers(ctx),
    });
    if !told {
        take_out(&key);
    }
}
