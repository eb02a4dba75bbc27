//! A program that does nothing: what a probe costs by itself. Used by the benchmarks as the yardstick.

use aya_ebpf::{macros::uprobe, programs::ProbeContext};

#[uprobe]
fn empty(_ctx: ProbeContext) -> u32 {
    0
}
