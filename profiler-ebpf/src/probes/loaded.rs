//! The dynamic linker has changed the list of loaded objects: a probe on the function that it calls for debuggers then
//! (`_dl_debug_state`, glibc's elf/dl-debug.c; musl has it as well).

use aya_ebpf::{
    EbpfContext as _, helpers::generated::bpf_get_attach_cookie, macros::uprobe, programs::ProbeContext,
};
use profiler_common::process::{ProcessEvent, ProcessEventKind};

use super::process::send;
use crate::{maps::SWITCHES, probes::sched::now};

#[uprobe]
fn loaded(ctx: ProbeContext) -> u32 {
    // SAFETY: the context is the one this program was called with.
    let slot = unsafe { bpf_get_attach_cookie(ctx.as_ptr()) } as u32;
    let Some(switches) = SWITCHES.get_ptr_mut(slot) else { return 0 };
    // SAFETY: a pointer to a map value. Volatile, because the user side writes it.
    let pending = unsafe { &raw mut (*switches).loaded };
    // The user side looks at the whole list, so one event that waits is as good as many. (Two threads that get here at
    // once can send two.)
    // SAFETY: as above.
    if unsafe { pending.read_volatile() } != 0 {
        return 0;
    }
    // SAFETY: as above.
    unsafe { pending.write_volatile(1) };
    let event = ProcessEvent {
        kind: ProcessEventKind::Loaded as u32,
        pid: ctx.tgid(),
        slot,
        at_ns: now(),
        ..Default::default()
    };
    if !send(&event) {
        // So that the next one is told.
        // SAFETY: as above.
        unsafe { pending.write_volatile(0) };
    }
    0
}
