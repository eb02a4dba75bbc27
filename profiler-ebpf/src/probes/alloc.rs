//! Allocator calls: counted where they enter, and sampled blocks that are given back.

use aya_ebpf::{
    EbpfContext as _, bindings::BPF_NOEXIST, helpers::generated::bpf_get_attach_cookie, macros::uprobe,
    programs::ProbeContext,
};
use aya_log_ebpf::trace;
use profiler_common::{
    alloc::{AllocSite, BANKS, ONLY_COUNTED},
    outcome::Outcome,
    process::Switches,
    sample::{LiveKey, SampleHeader, SampleKind, Sampling},
};

use super::{
    call::{Call, argument, classify},
    sample::{now, tell},
};
use crate::maps::{ALLOC_COUNTS, ALLOC_SITES, LIVE_FILTER, LIVE_SAMPLES, SWITCHES, add, count};

/// A call that was counted.
pub struct Hit<'a> {
    pub site: &'a AllocSite,
    /// The probe's cookie.
    pub cookie: u32,
    /// The target's epoch.
    pub epoch: u32,
    /// How blocks are chosen; a rate of zero: none is.
    pub sampling: Sampling,
    pub call: Call,
}

/// A function whose returns aren't looked at, or a call that the allocator makes itself.
#[uprobe]
fn alloc(ctx: ProbeContext) -> u32 {
    let Some(hit) = counted(&ctx) else { return 0 };
    if hit.sampling.rate != 0 && hit.site.flags & ONLY_COUNTED == 0 {
        // Whether the block can be resized isn't seen here: taken for granted.
        if let Call::Free { block } | Call::Resize { block, .. } = hit.call {
            forget(&ctx, &hit, block, None);
        }
    }
    0
}

/// Counts a hit, if the target's calls are counted.
#[inline(always)]
pub fn counted(ctx: &ProbeContext) -> Option<Hit<'static>> {
    // SAFETY: the context is the one the program was called with.
    let cookie = unsafe { bpf_get_attach_cookie(ctx.as_ptr()) } as u32;
    let Some(site) = ALLOC_SITES.get_ptr(cookie) else {
        count(Outcome::UnknownSite);
        return None;
    };
    // SAFETY: a pointer to a map value, which doesn't change while the site's probe is in place.
    let site = unsafe { &*site };
    let switches = SWITCHES.get_ptr(site.slot)?;
    // SAFETY: a pointer to a map value. Volatile, because the user side writes it.
    if unsafe { (&raw const (*switches).on).read_volatile() } == 0 {
        return None;
    }
    // SAFETY: as above. It changes only while the process has no thread that could be here.
    let epoch = unsafe { (&raw const (*switches).epoch).read_volatile() };
    let counts = ALLOC_COUNTS.get_ptr_mut(cookie)?;
    // SAFETY: a pointer to this CPU's map value, whose counters are written by atomic additions only.
    let counts = unsafe { &mut (*counts).banks[epoch as usize % BANKS] };
    // Before the call is classified: what of it stays undefined would be kept across this, and older verifiers (6.1) refuse to
    // copy what was never written.
    trace!(ctx, "alloc: operation {} argument {}", site.op, argument(ctx, site, 0));
    let call = classify(ctx, site);
    match call {
        Call::Allocation { bytes } => {
            add(&raw mut counts.allocations, 1);
            add(&raw mut counts.bytes, bytes);
        }
        Call::Free { .. } => add(&raw mut counts.frees, 1),
        Call::Resize { bytes, .. } => {
            add(&raw mut counts.resizes, 1);
            add(&raw mut counts.bytes, bytes);
        }
        Call::Refused => add(&raw mut counts.refused, 1),
        Call::Ignored => add(&raw mut counts.ignored, 1),
    }
    Some(Hit { site, cookie, epoch, sampling: sampling(switches), call })
}

#[inline(always)]
fn sampling(switches: *const Switches) -> Sampling {
    // SAFETY: a pointer to a map value. Volatile, because the user side writes it.
    unsafe {
        Sampling {
            rate: (&raw const (*switches).sampling.rate).read_volatile(),
            certain: (&raw const (*switches).sampling.certain).read_volatile(),
        }
    }
}

/// The id of a sampled block, if the block is one.
#[inline(always)]
pub fn live(key: &LiveKey) -> Option<u64> {
    let entries = LIVE_FILTER.get_ptr(key.filter())?;
    // SAFETY: a pointer to a map value. Volatile, because everybody writes it.
    if unsafe { entries.read_volatile() } == 0 {
        return None;
    }
    // SAFETY: the value is a number, written in one piece.
    unsafe { LIVE_SAMPLES.get(key) }.copied()
}

/// Takes a sampled block out. True for one of those who try it at once.
#[inline(always)]
pub fn take_out(key: &LiveKey) -> bool {
    let taken = LIVE_SAMPLES.remove(key).is_ok();
    if taken {
        count_in_filter(key, u64::MAX);
    }
    taken
}

/// Puts a sampled block in; false if there is no room, or there is one already.
#[inline(always)]
pub fn put_in(key: &LiveKey, id: u64) -> bool {
    count_in_filter(key, 1);
    let put = LIVE_SAMPLES.insert(key, &id, u64::from(BPF_NOEXIST)).is_ok();
    if !put {
        count_in_filter(key, u64::MAX);
    }
    put
}

/// Adds 1, or takes 1 away (by adding 2^64 - 1).
#[inline(always)]
fn count_in_filter(key: &LiveKey, n: u64) {
    if let Some(entries) = LIVE_FILTER.get_ptr_mut(key.filter()) {
        add(entries, n);
    }
}

/// A block is given back: if it was sampled, as the sample with this id if one is told, that is told.
#[inline(always)]
pub fn forget(ctx: &ProbeContext, hit: &Hit<'_>, address: u64, only: Option<u64>) {
    let key = LiveKey { slot: hit.site.slot, epoch: hit.epoch, address };
    let Some(id) = live(&key) else { return };
    if only.is_some_and(|only| only != id) {
        return;
    }
    if !take_out(&key) {
        return;
    }
    tell(&SampleHeader {
        kind: SampleKind::Freed as u32,
        slot: key.slot,
        pid: ctx.tgid(),
        tid: ctx.pid(),
        at_ns: now(),
        id,
        address,
        epoch: key.epoch,
        site: hit.cookie,
        ..Default::default()
    });
}
