//! Pages that are touched for the first time: what makes a process grow, whatever allocates, in any language.
//!
//! The processor faults at a page that isn't there; that is seen before the kernel handles it, so neither what kind of memory
//! it is nor whether it will be there is known yet: the user side looks into the page table (`profiler/src/target/pagemap.rs`).
//! What faults here again was gone meanwhile (given back, or swapped out): its old sample ends, and it is drawn for anew, so
//! that a page never stands for more than it is, however often it comes and goes.
//!
//! Runs at every fault of the machine, while any target's pages are sampled. Faults at pages that are there but may not be written to aren't looked at: after a
//! `fork`, and where a file's page is read before it is written to, memory grows unseen.

use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, generated::bpf_get_prandom_u32},
    macros::btf_tracepoint,
    programs::BtfTracePointContext,
};
use profiler_common::{
    outcome::Outcome,
    process::TargetEntry,
    sample::{CERTAIN, LiveKey, SampleHeader, SampleKind},
};

use super::{
    sample::{next_id, tell, tell_with_stack, thinned},
    sched::now,
};
use crate::{
    kernel_data::Task,
    maps::{LIVE_PAGES, SWITCHES, TARGETS_BY_PID, count},
};

/// arch/x86/include/asm/page_types.h
const PAGE: u64 = 4096;
/// arch/x86/include/asm/trap_pf.h: the page is there; an instruction was to be fetched.
const X86_PF_PROT: u64 = 1 << 0;
const X86_PF_INSTR: u64 = 1 << 4;
/// The upper half of the address space is the kernel's.
const USER_END: u64 = 1 << 63;

/// `SampleHeader::site`: the thread itself touched the page, or the kernel did, during a system call.
const BY_THREAD: u32 = 0;
const BY_KERNEL: u32 = 1;

#[btf_tracepoint(function = "page_fault_user")]
fn page_fault_user(ctx: BtfTracePointContext) -> i32 {
    if let Some((pid_tgid, target)) = of_target(&ctx) {
        touched(ctx.arg(0), pid_tgid, target, BY_THREAD);
    }
    0
}

/// A system call reads into memory, say.
#[btf_tracepoint(function = "page_fault_kernel")]
fn page_fault_kernel(ctx: BtfTracePointContext) -> i32 {
    if ctx.arg::<u64>(0) < USER_END
        && let Some((pid_tgid, target)) = of_target(&ctx)
        // A try that may fail, such as our own reading of a stack: the page isn't made. If need be, another fault follows.
        && !Task::current().fails_at_faults()
    {
        touched(ctx.arg(0), pid_tgid, target, BY_KERNEL);
    }
    0
}

/// The thread and its target, if the fault is at a page that isn't there.
#[inline(always)]
fn of_target(ctx: &BtfTracePointContext) -> Option<(u64, TargetEntry)> {
    if ctx.arg::<u64>(2) & (X86_PF_PROT | X86_PF_INSTR) != 0 {
        return None;
    }
    let pid_tgid = bpf_get_current_pid_tgid();
    let pid = (pid_tgid >> 32) as u32;
    // SAFETY: the value is plain numbers that the user side writes once.
    unsafe { TARGETS_BY_PID.get(&pid) }.map(|entry| (pid_tgid, *entry))
}

#[inline(always)]
fn touched(address: u64, pid_tgid: u64, target: TargetEntry, site: u32) {
    let Some(switches) = SWITCHES.get_ptr(target.slot) else { return };
    // SAFETY: a pointer to a map value. Volatile, because the user side writes it.
    let threshold = match unsafe { (&raw const (*switches).growth).read_volatile() } {
        0 => return,
        u32::MAX => CERTAIN,
        threshold => u64::from(threshold),
    };
    // SAFETY: a pointer to a map value, which changes only while the process has no thread that could be here.
    let epoch = unsafe { (&raw const (*switches).epoch).read_volatile() };
    let mut header = SampleHeader {
        kind: SampleKind::Freed as u32,
        slot: target.slot,
        pid: (pid_tgid >> 32) as u32,
        tid: pid_tgid as u32,
        address: address & !(PAGE - 1),
        bytes: PAGE,
        epoch,
        site,
        ..Default::default()
    };
    let key = LiveKey { slot: target.slot, epoch, address: header.address };
    // SAFETY: the value is a number, written in one piece.
    if let Some(id) = unsafe { LIVE_PAGES.get(&key) }.copied()
        && LIVE_PAGES.remove(&key).is_ok()
    {
        header.id = id;
        header.at_ns = now();
        tell(&header);
    }
    // SAFETY: the helper takes nothing.
    let random = u64::from(unsafe { bpf_get_prandom_u32() });
    if random >= threshold {
        return;
    }
    let threshold = thinned(threshold);
    if random >= threshold {
        return;
    }
    let Some(mut id) = next_id() else { return };
    if LIVE_PAGES.insert(&key, &mut id, 0).is_err() {
        count(Outcome::LiveSamplesFull);
        return;
    }
    header.kind = SampleKind::Page as u32;
    header.id = id;
    header.at_ns = now();
    header.threshold = threshold;
    header.registers = Task::current().registers();
    if !tell_with_stack(&header) {
        let _gone = LIVE_PAGES.remove(&key);
    }
}
