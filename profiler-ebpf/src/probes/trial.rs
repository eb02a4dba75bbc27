//! Probes that the user side puts on a function of its own at start, to see whether they are hit as they should.

use core::ffi::c_void;

use aya_ebpf::{
    macros::{uprobe, uretprobe},
    programs::{ProbeContext, RetProbeContext},
};

use super::chosen::{IGNORE_RETURN, TAKE_RETURN, is_return};
use crate::maps::{TRIALS, add, fetch_add};

/// Indices of `TRIALS`.
const ENTRIES: u32 = 0;
const RETURNS: u32 = 1;

#[uprobe]
fn trial(_ctx: ProbeContext) -> u32 {
    seen(ENTRIES);
    0
}

#[uretprobe]
fn trial_return(_ctx: RetProbeContext) -> u32 {
    seen(RETURNS);
    0
}

/// Takes the return of the first call, ignores that of the second, and so on.
#[unsafe(no_mangle)]
#[unsafe(link_section = "uprobe")]
pub extern "C" fn trial_session(ctx: *mut c_void) -> u32 {
    let ctx = ProbeContext::new(ctx);
    if is_return(&ctx) {
        seen(RETURNS);
        return TAKE_RETURN;
    }
    match TRIALS.get_ptr_mut(ENTRIES) {
        Some(entries) if fetch_add(entries, 1) % 2 == 0 => TAKE_RETURN,
        _ => IGNORE_RETURN,
    }
}

#[inline(always)]
fn seen(index: u32) {
    if let Some(hits) = TRIALS.get_ptr_mut(index) {
        add(hits, 1);
    }
}
