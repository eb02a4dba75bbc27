//! Profiles of what Go's runtime says itself.

use std::{
    fmt::Write as _,
    time::{Duration, SystemTime},
};

use super::{Builder, HEAP_TYPES, times};
use crate::{
    binary::go::lines::COMPILER_MADE,
    export::goroutines::{Names, meant},
    runtime::go::{
        goroutines::Goroutines,
        heap_profile::{HeapProfile, Record, runtime_frames},
    },
    stack::Frame,
};

/// The addresses to be named for [`heap`], each once.
pub fn heap_addresses(profile: &HeapProfile) -> Vec<u64> {
    let stacks = profile.records.iter().flat_map(|record| &record.stack);
    let mut all: Vec<u64> = stacks.map(|address| address.wrapping_sub(1)).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// The heap profile, as `runtime/pprof` writes it: scaled, without the allocator's own functions. `shown`: which of its values
/// is shown first.
pub fn heap(
    profile: &HeapProfile,
    names: &Names,
    shown: &str,
    (target, taken_at): (&str, SystemTime),
) -> Vec<u8> {
    // Each address stands for one function: the innermost of those that are inlined there.
    let innermost = |(address, frame): (&u64, &Frame)| {
        let functions = frame.functions.iter().take(1).cloned().collect();
        (*address, Frame { functions, ..frame.clone() })
    };
    let single: Names = names.iter().map(innermost).collect();
    let mut out = Builder::new();
    out.values(&HEAP_TYPES, shown);
    out.period("space", "bytes", profile.rate);
    times(&mut out, taken_at, Duration::ZERO);
    out.comment("kept by the program's own runtime; of the end of its last completed garbage collection");
    if profile.left_out > 0 {
        out.comment(&format!("{} records were left out", profile.left_out));
    }
    for record in &profile.records {
        let own = runtime_frames(record.stack.iter().map(|address| {
            let function = single.get(&address.wrapping_sub(1)).and_then(|frame| frame.functions.first());
            function.map_or("", |function| &*function.name)
        }));
        let shown = record.stack.iter().skip(own).map(|address| address.wrapping_sub(1));
        let shown = shown.filter(|address| !is_end(&single, *address));
        let stack = shown.map(|address| place(&mut out, &single, address)).collect();
        out.sized_sample(stack, scaled(profile, record).to_vec(), &[("target", target)], record.size);
    }
    out.finish()
}

/// Values in the order of [`HEAP_TYPES`], cut to whole numbers as `scaleHeapSample` does.
fn scaled(profile: &HeapProfile, record: &Record) -> [i64; 4] {
    let weight = profile.weight(record.size);
    let both = |count: u64| match record.size {
        0 => [0, 0],
        size => [(count as f64 * weight) as i64, (count.saturating_mul(size) as f64 * weight) as i64],
    };
    let [allocs, alloc_bytes] = both(record.allocs);
    let [live, live_bytes] = both(record.allocs.saturating_sub(record.frees));
    [allocs, alloc_bytes, live, live_bytes]
}

/// How many goroutines are where. The runtime's own are left out, as `runtime/pprof` does.
pub fn goroutines(goroutines: &Goroutines, names: &Names, target: &str, taken_at: SystemTime) -> Vec<u8> {
    let mut out = Builder::new();
    out.values(&[("goroutine", "count")], "goroutine");
    out.period("goroutine", "count", 1);
    times(&mut out, taken_at, Duration::ZERO);
    let (torn, left_out) = (goroutines.torn, goroutines.left_out);
    if torn + left_out > 0 {
        out.comment(&format!(
            "without the stacks of {torn} that changed while they were read; {left_out} weren't read"
        ));
    }
    for goroutine in goroutines.list.iter().filter(|goroutine| !goroutine.system) {
        let places = meant(goroutine).filter(|address| !is_end(names, *address));
        let mut stack: Vec<u64> = places.map(|address| place(&mut out, names, address)).collect();
        if stack.is_empty() {
            stack.push(out.word("[no stack]"));
        }
        out.sample(stack, vec![1], &[("target", target), ("state", &goroutine.state)]);
    }
    out.finish()
}

/// The heap profile as text, as `runtime/pprof` writes it with `debug=1`: not scaled.
pub fn heap_text(profile: &HeapProfile, names: &Names) -> String {
    let mut body = String::new();
    let mut total = [0_u64; 4];
    for record in &profile.records {
        let live = record.allocs.saturating_sub(record.frees);
        let of = |objects: u64| objects.saturating_mul(record.size);
        let values = [live, of(live), record.allocs, of(record.allocs)];
        total.iter_mut().zip(values).for_each(|(sum, value)| *sum = sum.saturating_add(value));
        let [live, live_bytes, allocs, alloc_bytes] = values;
        // Writing to a string can't fail.
        let _infallible = write!(body, "{live}: {live_bytes} [{allocs}: {alloc_bytes}] @");
        for address in &record.stack {
            let _infallible = write!(body, " {address:#x}");
        }
        body.push('\n');
        for address in &record.stack {
            let frame = names.get(&address.wrapping_sub(1));
            if let Some(function) = frame.and_then(|frame| frame.functions.first()) {
                let file = function.file.as_deref().unwrap_or("?");
                let _infallible =
                    writeln!(body, "#\t{address:#x}\t{}\t{file}:{}", function.name, function.line);
            }
        }
        body.push('\n');
    }
    let [live, live_bytes, allocs, alloc_bytes] = total;
    let rate = profile.rate.saturating_mul(2);
    format!("heap profile: {live}: {live_bytes} [{allocs}: {alloc_bytes}] @ heap/{rate}\n{body}")
}

/// Where every goroutine ends, and what the compiler has made itself: `runtime/pprof` shows neither.
fn is_end(names: &Names, address: u64) -> bool {
    let functions = names.get(&address).map(|frame| frame.functions.as_slice()).unwrap_or_default();
    !functions.is_empty()
        && functions.iter().all(|function| {
            &*function.name == "runtime.goexit" || function.file.as_deref() == Some(COMPILER_MADE)
        })
}

fn place<'a>(out: &mut Builder<'a>, names: &'a Names, address: u64) -> u64 {
    match names.get(&address) {
        Some(frame) => out.location(frame),
        None => out.word(&format!("{address:#x}")),
    }
}
