//! Profiles of a Go program: the heap profile that its runtime keeps, and its goroutines.

use std::time::{Duration, SystemTime};

use super::{HEAP_TYPES, builder::Builder, times};
use crate::{runtime::go::heap_profile::HeapProfile, stack::Frame};

/// The heap profile of a Go program, scaled as `runtime/pprof` scales (its protomem.go, `scaleHeapSample`). `stacks`: of
/// each record, in their order, each frame with the one function that its address stands for.
pub fn heap(profile: &HeapProfile, stacks: &[Vec<Frame>], taken_at: SystemTime) -> Vec<u8> {
    let mut out = Builder::new();
    out.values(&HEAP_TYPES, "inuse_space");
    out.period("space", "bytes", profile.rate);
    times(&mut out, taken_at, Duration::ZERO);
    if profile.left_out > 0 {
        out.comment(&format!("{} records were left out: there are too many", profile.left_out));
    }
    for (record, frames) in profile.records.iter().zip(stacks) {
        let weight = profile.weight(record.size);
        // As Go does: numbers are cut off, not rounded.
        let scaled = |objects: u64| (objects as f64 * weight) as i64;
        let bytes =
            |objects: u64| (objects.saturating_mul(record.size) as f64 * weight) as i64;
        let live = record.allocs.saturating_sub(record.frees);
        let values = vec![scaled(record.allocs), bytes(record.allocs), scaled(live), bytes(live)];
        let stack = frames.iter().map(|frame| out.location(frame)).collect();
        out.sample(stack, values, &[("bytes", &record.size.to_string())]);
    }
    out.finish()
}

/// Goroutines by stack: how many stand at each.
pub fn goroutines(stacks: &[(Vec<Frame>, u64)], taken_at: SystemTime) -> Vec<u8> {
    let mut out = Builder::new();
    out.values(&[("goroutine", "count")], "goroutine");
    out.period("goroutine", "count", 1);
    times(&mut out, taken_at, Duration::ZERO);
    for (frames, count) in stacks {
        let stack = frames.iter().map(|frame| out.location(frame)).collect();
        out.sample(stack, vec![i64::try_from(*count).unwrap_or(i64::MAX)], &[]);
    }
    out.finish()
}
