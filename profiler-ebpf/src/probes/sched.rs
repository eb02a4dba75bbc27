//! The scheduler's tracepoints: what each thread of a target is doing, and since when.
//!
//! Events of one thread are serialised by the run queue lock, which the kernel holds at `sched_switch` and at
//! `sched_wakeup`; so a thread's record has one writer at a time.

use aya_ebpf::{
    Global, bindings::BPF_NOEXIST, helpers::generated::bpf_ktime_get_ns, macros::btf_tracepoint,
    programs::BtfTracePointContext,
};
use aya_log_ebpf::trace;
use profiler_common::{
    outcome::Outcome,
    sched::{
        CAUSES, Retired, STALL_BOUNDS, STATE_GONE, STATE_UNKNOWN, STATES, StallCause, ThreadRecord,
        ThreadState,
    },
};

use crate::{
    kernel_data::{Leaving, Task, leaving},
    maps::{HINTS, RETIRED, STALLS, TARGETS_BY_PID, THREADS, add, count},
};

/// An interval at least this long is a stall. Nanoseconds; set before loading.
#[unsafe(no_mangle)]
static STALL_THRESHOLD_NS: Global<u64> = Global::new(1_000_000);

#[btf_tracepoint(function = "sched_switch")]
fn sched_switch(ctx: BtfTracePointContext) -> i32 {
    let prev = Task::argument(&ctx, 1);
    let next = Task::argument(&ctx, 2);
    let leaves = record(prev.tid());
    let enters = record(next.tid());
    if leaves.is_none() && enters.is_none() {
        return 0;
    }
    let now = now();
    if let Some(thread) = leaves {
        let preempted = ctx.arg::<u64>(0) & 1 != 0;
        ran(thread);
        match leaving(prev, preempted, ctx.arg::<u64>(3) as u32) {
            Leaving::To(state) => transition(thread, now, ThreadState::Running as u32, state as u32),
            Leaving::Dead => retire(prev.tid(), thread, now),
        }
        trace!(&ctx, "sched_switch: thread {} leaves", prev.tid());
    }
    if let Some(thread) = enters {
        transition(thread, now, ThreadState::Runnable as u32, ThreadState::Running as u32);
    }
    0
}

#[btf_tracepoint(function = "sched_wakeup")]
fn sched_wakeup(ctx: BtfTracePointContext) -> i32 {
    woken(Task::argument(&ctx, 0).tid());
    0
}

#[btf_tracepoint(function = "sched_wakeup_new")]
fn sched_wakeup_new(ctx: BtfTracePointContext) -> i32 {
    let task = Task::argument(&ctx, 0);
    let pid = task.pid();
    // SAFETY: the value is plain numbers that the user side writes once.
    let Some(target) = (unsafe { TARGETS_BY_PID.get(&pid) }) else { return 0 };
    let mut thread = ThreadRecord {
        slot: target.slot,
        state: ThreadState::Runnable as u32,
        since_ns: now(),
        ..Default::default()
    };
    let tid = task.tid();
    match THREADS.insert(&tid, &mut thread, u64::from(BPF_NOEXIST)) {
        Ok(()) => {}
        // The user side's scan of /proc found the thread before its first wake-up.
        Err(error) if error == -EEXIST => woken(tid),
        Err(_) => count(Outcome::ThreadsFull),
    }
    0
}

/// A thread has replaced the program. One that is not the main thread takes over the main thread's id (fs/exec.c, de_thread).
#[inline(always)]
pub fn replaced_program(tid: u32, old_tid: u32) {
    if tid != old_tid
        && let Some(thread) = record(old_tid)
    {
        // SAFETY: the thread is running here, so nobody else writes its record.
        let mut moved = unsafe { *thread };
        if THREADS.insert(&tid, &mut moved, 0).is_err() {
            count(Outcome::ThreadsFull);
        }
        forget(old_tid);
        // Of the former main thread; the one that has its id now runs.
        let _gone = HINTS.remove(&tid);
    }
}

const EEXIST: i32 = 17;

#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: the helper only reads the clock (CLOCK_MONOTONIC).
    unsafe { bpf_ktime_get_ns() }
}

/// The record of a thread, if it belongs to a target. Thread 0 is the idle task of every CPU.
#[inline(always)]
fn record(tid: u32) -> Option<*mut ThreadRecord> {
    if tid == 0 { None } else { THREADS.get_ptr_mut(&tid) }
}

/// A thread that leaves the CPU has run, whatever its record says: one that says runnable shows that the kernel did not
/// report the switch to it. How long it waited before can't be told then, so it is taken for running and for no stall.
#[inline(always)]
fn ran(thread: *mut ThreadRecord) {
    // SAFETY: a pointer into a map value; one writer at a time (module text).
    let thread = unsafe { &mut *thread };
    if thread.state == ThreadState::Runnable as u32 {
        count(Outcome::SwitchNotSeen);
        thread.state = ThreadState::Running as u32;
    }
}

/// A thread becomes runnable.
#[inline(always)]
fn woken(tid: u32) {
    let Some(thread) = record(tid) else { return };
    // SAFETY: a pointer into a map value.
    let state = unsafe { (*thread).state };
    // Woken before it had gone to sleep (kernel/sched/core.c, ttwu_runnable): nothing has changed.
    if state == ThreadState::Running as u32 || state == ThreadState::Runnable as u32 {
        return;
    }
    let before = if state == STATE_UNKNOWN {
        // SAFETY: a plain number.
        unsafe { HINTS.get(&tid) }.map_or(ThreadState::Sleeping as u32, |hint| *hint)
    } else {
        state
    };
    transition(thread, now(), before, ThreadState::Runnable as u32);
}

/// Ends the thread's present interval and begins the next. `before` is what it was doing if the record doesn't know.
#[inline(always)]
fn transition(thread: *mut ThreadRecord, now: u64, before: u32, next: u32) {
    // SAFETY: a pointer into a map value; one writer at a time (module text).
    let thread = unsafe { &mut *thread };
    let state = if thread.state == STATE_UNKNOWN { before } else { thread.state };
    let elapsed = match now.checked_sub(thread.since_ns) {
        Some(elapsed) => elapsed,
        None => {
            count(Outcome::ClockBackwards);
            0
        }
    };
    mark(thread);
    if let Some(spent) = thread.spent_ns.get_mut(state as usize) {
        *spent += elapsed;
    }
    thread.state = next;
    thread.since_ns += elapsed;
    mark(thread);
    if elapsed >= STALL_THRESHOLD_NS.load()
        && let Some(cause) = ThreadState::from_number(state).and_then(ThreadState::stall)
    {
        stalled(thread.slot, cause, elapsed);
    }
}

/// Tells readers that a change begins (odd) or is complete (even).
#[inline(always)]
fn mark(thread: &mut ThreadRecord) {
    // SAFETY: a valid reference. Volatile, so that the compiler keeps the order of the two marks and what they enclose.
    unsafe { core::ptr::write_volatile(&raw mut thread.version, thread.version.wrapping_add(1)) };
    core::sync::atomic::compiler_fence(core::sync::atomic::Ordering::SeqCst);
}

#[inline(always)]
fn stalled(slot: u32, cause: StallCause, elapsed: u64) {
    let Some(counts) = STALLS.get_ptr_mut(slot * CAUSES as u32 + cause as u32) else { return };
    // SAFETY: a pointer into this CPU's map value.
    let counts = unsafe { &mut *counts };
    add(&raw mut counts.total_ns, elapsed);
    if let Some(bucket) = counts.buckets.get_mut(bucket(elapsed)) {
        add(bucket, 1);
    }
}

/// The histogram bucket of an interval: the first whose bound (`stall_bound_ns`) is not below it.
#[inline(always)]
fn bucket(elapsed: u64) -> usize {
    let mut bucket = 0;
    let mut bound = profiler_common::sched::stall_bound_ns(0);
    while bucket < STALL_BOUNDS && elapsed > bound {
        bucket += 1;
        bound <<= 1;
    }
    bucket
}

/// Moves a thread's seconds to its target's sums and forgets the thread.
#[inline(always)]
fn retire(tid: u32, thread: *mut ThreadRecord, now: u64) {
    transition(thread, now, ThreadState::Running as u32, STATE_GONE);
    // SAFETY: pointers into map values; a dead thread's record has no other writer.
    let spent = unsafe { &(*thread).spent_ns };
    // SAFETY: as above.
    let slot = unsafe { (*thread).slot };
    match RETIRED.get_ptr_mut(slot) {
        // SAFETY: as above.
        Some(retired) => retire_into(unsafe { &mut *retired }, spent),
        None => count(Outcome::RetiredUnknown),
    }
    forget(tid);
}

/// Removes a thread's record, and the hint that goes with it: of a thread that had no event but its last one there still
/// is one.
#[inline(always)]
fn forget(tid: u32) {
    let _gone = THREADS.remove(&tid);
    let _gone = HINTS.remove(&tid);
}

#[inline(always)]
fn retire_into(retired: &mut Retired, spent: &[u64; STATES]) {
    let mut i = 0;
    while i < STATES {
        add(&raw mut retired.spent_ns[i], spent[i]);
        i += 1;
    }
    add(&raw mut retired.threads, 1);
}
