//! A probe that the user side puts on a function of its own at start, to see whether it is hit.

use aya_ebpf::{macros::uprobe, programs::ProbeContext};

use crate::maps::{TRIALS, add};

#[uprobe]
fn trial(_ctx: ProbeContext) -> u32 {
    if let Some(hits) = TRIALS.get_ptr_mut(0) {
        add(hits, 1);
    }
    0
}
