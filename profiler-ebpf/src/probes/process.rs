//! Processes that fork, replace their program or end: told one by one, as they are rare, and the user side has to act.

use aya_ebpf::{helpers::bpf_get_current_comm, macros::btf_tracepoint, programs::BtfTracePointContext};
use profiler_common::{
    outcome::Outcome,
    process::{FOLLOW_FORKS, ProcessEvent, ProcessEventKind, SCOPE_ALL, SCOPE_NOBODY, TargetEntry},
};

use super::sched::{now, replaced_program};
use crate::{
    kernel_data::{Task, last_thread_ends},
    maps::{EVENT_SCOPE, PROCESS_EVENTS, SWITCHES, TARGETS_BY_PID, count},
};

#[btf_tracepoint(function = "sched_process_fork")]
fn sched_process_fork(ctx: BtfTracePointContext) -> i32 {
    let (parent, child) = (Task::argument(&ctx, 0), Task::argument(&ctx, 1));
    if !child.is_main_thread() || child.is_kernel_thread() {
        return 0;
    }
    let parent = parent.pid();
    if everybody() || target(parent).is_some_and(|target| target.flags & FOLLOW_FORKS != 0) {
        let event = ProcessEvent {
            kind: ProcessEventKind::Fork as u32,
            pid: child.pid(),
            other: parent,
            at_ns: now(),
            ..Default::default()
        };
        send(&event);
    }
    0
}

/// Comes when the old program and all other threads are gone and the new program has not run yet (fs/exec.c).
#[btf_tracepoint(function = "sched_process_exec")]
fn sched_process_exec(ctx: BtfTracePointContext) -> i32 {
    let task = Task::argument(&ctx, 0);
    let (tid, old_tid) = (task.tid(), ctx.arg::<u64>(1) as u32);
    replaced_program(tid, old_tid);
    let pid = task.pid();
    let target = target(pid);
    if let Some(target) = target
        && let Some(switches) = SWITCHES.get_ptr_mut(target.slot)
    {
        // SAFETY: a pointer to a map value; the process has this one thread, and nobody else writes the member.
        let epoch = unsafe { &raw mut (*switches).epoch };
        // SAFETY: as above. Volatile, because the user side reads it at any time.
        unsafe { epoch.write_volatile(epoch.read_volatile().wrapping_add(1)) };
        // Nobody has judged the new program yet: it may be one whose returns must not be taken.
        // SAFETY: as above; the user side writes it, too, and looks at the epoch before and afterwards.
        unsafe { (&raw mut (*switches).sampling.rate).write_volatile(0) };
    }
    if target.is_some() || everybody() {
        let event = ProcessEvent {
            kind: ProcessEventKind::Exec as u32,
            pid,
            other: old_tid,
            at_ns: now(),
            comm: bpf_get_current_comm().unwrap_or_default(),
            ..Default::default()
        };
        send(&event);
    }
    0
}

#[btf_tracepoint(function = "sched_process_exit")]
fn sched_process_exit(ctx: BtfTracePointContext) -> i32 {
    let task = Task::argument(&ctx, 0);
    if !last_thread_ends(&ctx, task) || task.is_kernel_thread() {
        return 0;
    }
    let pid = task.pid();
    // Succeeds once, even if two threads seem to be the last.
    let was_target = TARGETS_BY_PID.remove(&pid).is_ok();
    if was_target || everybody() {
        let event = ProcessEvent {
            kind: ProcessEventKind::Exit as u32,
            pid,
            other: task.exit_code(),
            at_ns: now(),
            ..Default::default()
        };
        send(&event);
    }
    0
}

#[inline(always)]
fn target(pid: u32) -> Option<TargetEntry> {
    // SAFETY: the value is plain numbers that the user side writes once.
    unsafe { TARGETS_BY_PID.get(&pid) }.copied()
}

/// Whether all processes are to be told of, not targets only.
#[inline(always)]
fn everybody() -> bool {
    scope() == SCOPE_ALL
}

#[inline(always)]
fn scope() -> u32 {
    EVENT_SCOPE.get(0).copied().unwrap_or(SCOPE_NOBODY)
}

/// Hands an event to the user side, if anybody reads there; counts it as lost if there is no room. False if it wasn't sent.
#[inline(always)]
pub fn send(event: &ProcessEvent) -> bool {
    if scope() == SCOPE_NOBODY {
        return false;
    }
    let sent = PROCESS_EVENTS.output::<ProcessEvent>(event, 0).is_ok();
    if !sent {
        count(Outcome::EventsFull);
    }
    sent
}
