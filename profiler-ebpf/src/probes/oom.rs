//! A process that the kernel kills because memory has run out, its own group's or the machine's.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use profiler_common::sample::{SampleHeader, SampleKind};

use super::{sample::tell, sched::now};
use crate::{kernel_data::victim, maps::TARGETS_BY_PID};

/// Comes before the process is killed (mm/oom_kill.c, mark_oom_victim), so its memory can still be looked at for some
/// milliseconds.
#[btf_tracepoint(function = "mark_victim")]
fn mark_victim(ctx: BtfTracePointContext) -> i32 {
    let (pid, tid) = victim(&ctx);
    // SAFETY: the value is plain numbers that the user side writes once.
    if let Some(target) = unsafe { TARGETS_BY_PID.get(&pid) } {
        let kind = SampleKind::OutOfMemory as u32;
        tell(&SampleHeader { kind, slot: target.slot, pid, tid, at_ns: now(), ..Default::default() });
    }
    0
}
