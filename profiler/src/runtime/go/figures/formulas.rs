//! Figures from the runtime's own numbers, as the runtime makes them: `readmemstats_m` in Go's src/runtime/mstats.go,
//! `heapGoalInternal` and `memoryLimitHeapGoal` in mgcpacer.go, `gcount` and `mcount` in proc.go.

use super::{
    Figures, RING,
    raw::{Heap, Pacer, Pending, Raw},
};

/// `memoryLimitMinHeapGoalHeadroom` (until Go 1.20 `memoryLimitHeapGoalHeadroom`).
const LEAST_HEADROOM: u64 = 1 << 20;
/// `memoryLimitHeapGoalHeadroomPercent`, from Go 1.21 on.
const HEADROOM_PERCENT: u64 = 3;
/// `minRunway` in `heapGoalInternal`.
const RUNWAY: u64 = 64 << 10;

/// What differs by version besides offsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// The room that is left below the memory limit grows with the limit: from Go 1.21 on (golang.org/issue/57069).
    pub proportional_headroom: bool,
}

impl Rules {
    /// Those of a version: `1.22.10`, `go1.27.0`. What can't be read is taken for a new one.
    pub fn of(version: &str) -> Self {
        let minor = version.trim_start_matches("go").strip_prefix("1.").map(|rest| {
            rest.split(|letter: char| !letter.is_ascii_digit()).next().unwrap_or_default().parse::<u32>()
        });
        Self { proportional_headroom: !matches!(minor, Some(Ok(0..=20))) }
    }
}

/// Totals of the allocator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Bytes allocated.
    pub alloc: u64,
    /// Objects allocated.
    pub mallocs: u64,
    /// Bytes freed.
    pub free: u64,
    /// Objects freed.
    pub frees: u64,
}

impl Totals {
    /// Without what the caches hold back.
    pub fn of(heap: &Heap, class_sizes: &[u16]) -> Self {
        let bytes = |counts: &[u64]| {
            let each = counts.iter().zip(class_sizes);
            each.fold(0u64, |sum, (count, size)| sum.wrapping_add(count.wrapping_mul(u64::from(*size))))
        };
        let count = |counts: &[u64]| counts.iter().fold(0u64, |sum, count| sum.wrapping_add(*count));
        Self {
            alloc: heap.large_alloc.wrapping_add(bytes(&heap.small_allocs)),
            mallocs: heap.large_allocs.wrapping_add(count(&heap.small_allocs)).wrapping_add(heap.tiny_allocs),
            free: heap.large_free.wrapping_add(bytes(&heap.small_frees)),
            // Tiny objects are counted as freed at once, as nobody knows when they are.
            frees: heap.large_frees.wrapping_add(count(&heap.small_frees)).wrapping_add(heap.tiny_allocs),
        }
    }

    /// With what they hold back, too.
    pub fn with(self, pending: &Pending, class_sizes: &[u16]) -> Self {
        let held = Heap {
            small_allocs: pending.small_allocs.clone(),
            tiny_allocs: pending.tiny_allocs,
            ..Heap::default()
        };
        let held = Self::of(&held, class_sizes);
        Self {
            alloc: self.alloc.wrapping_add(held.alloc),
            mallocs: self.mallocs.wrapping_add(held.mallocs),
            free: self.free,
            frees: self.frees.wrapping_add(held.frees),
        }
    }
}

/// Memory from the system for anything but the heap and what is taken from it: the `_sys` fields.
pub fn other_memory(raw: &Raw) -> u64 {
    [raw.stacks_sys, raw.mspan_sys, raw.mcache_sys, raw.buckhash_sys, raw.gc_misc_sys, raw.other_sys]
        .into_iter()
        .fold(0, u64::wrapping_add)
}

/// Memory that is taken from the heap for the runtime's own use.
pub const fn taken_from_heap(heap: &Heap) -> u64 {
    heap.in_stacks.wrapping_add(heap.in_work_bufs).wrapping_add(heap.in_ptr_scalar_bits)
}

/// All figures. `totals` belong to `raw`, with or without what the caches hold back.
pub fn figures(raw: &Raw, totals: Totals, rules: Rules) -> Figures {
    let (heap, pacer) = (&raw.heap, &raw.pacer);
    let heap_idle = pacer.heap_free.wrapping_add(pacer.heap_released);
    let heap_sys = pacer.heap_in_use.wrapping_add(heap_idle);
    let alloc = totals.alloc.wrapping_sub(totals.free);
    Figures {
        goroutines: goroutines(raw),
        threads: raw.threads_made.wrapping_sub(raw.threads_freed).cast_unsigned(),
        gomaxprocs: u64::from(raw.gomaxprocs.cast_unsigned()),
        cpus: raw.ncpu.map(|count| u64::from(count.cast_unsigned())),
        alloc,
        total_alloc: totals.alloc,
        sys: heap_sys.wrapping_add(other_memory(raw)).wrapping_add(taken_from_heap(heap)),
        mallocs: totals.mallocs,
        frees: totals.frees,
        heap_sys,
        heap_idle,
        heap_inuse: pacer.heap_in_use,
        heap_released: pacer.heap_released,
        heap_objects: totals.mallocs.wrapping_sub(totals.frees),
        stack_inuse: heap.in_stacks,
        stack_sys: heap.in_stacks.wrapping_add(raw.stacks_sys),
        mspan_inuse: raw.mspan_inuse,
        mspan_sys: raw.mspan_sys,
        mcache_inuse: raw.mcache_inuse,
        mcache_sys: raw.mcache_sys,
        buck_hash_sys: raw.buckhash_sys,
        gc_sys: raw.gc_misc_sys.wrapping_add(heap.in_work_bufs).wrapping_add(heap.in_ptr_scalar_bits),
        other_sys: raw.other_sys,
        // ReadMemStats counts what the caches hold back before it asks for the goal.
        next_gc: heap_goal(pacer, alloc, rules),
        last_gc: raw.last_gc_unix,
        pause_total_ns: raw.pause_total_ns,
        num_gc: raw.numgc,
        num_forced_gc: raw.numforcedgc,
        gc_cpu_fraction: raw.gc_cpu_fraction,
        gc_percent: pacer.gc_percent,
        memory_limit: pacer.memory_limit,
        pauses: pauses(raw),
    }
}

/// `gcount`: never less than the goroutine that asks.
fn goroutines(raw: &Raw) -> u64 {
    let count = i64::try_from(raw.goroutines).unwrap_or(i64::MAX);
    let rest = count.saturating_sub(raw.free_goroutines).saturating_sub(i64::from(raw.system_goroutines));
    u64::try_from(rest.max(1)).unwrap_or(1)
}

/// The cycles that `numgc` counts, newest last. An entry is written some instructions before it is counted, in the place of
/// the oldest: then that place is told as what it was, the oldest (whoever reads checks for that moment and reads again).
fn pauses(raw: &Raw) -> Vec<(u64, u64)> {
    let remembered = raw.numgc.min(RING as u32);
    let places = (1..=remembered).rev().map(|back| raw.numgc.wrapping_sub(back) as usize % RING);
    places.map(|place| (raw.pause_ns[place], raw.pause_end[place])).collect()
}

/// `heapGoalInternal`. `heap_alloc`: bytes of objects.
pub fn heap_goal(pacer: &Pacer, heap_alloc: u64, rules: Rules) -> u64 {
    let by_limit = memory_limit_goal(pacer, heap_alloc, rules);
    if by_limit < pacer.gc_percent_heap_goal {
        return by_limit;
    }
    let goal = pacer.gc_percent_heap_goal.max(pacer.sweep_dist_min_trigger);
    match pacer.triggered {
        u64::MAX => goal,
        triggered => goal.max(triggered.wrapping_add(RUNWAY)),
    }
}

/// `memoryLimitHeapGoal`.
fn memory_limit_goal(pacer: &Pacer, heap_alloc: u64, rules: Rules) -> u64 {
    let limit = pacer.memory_limit.cast_unsigned();
    let not_heap = pacer.mapped_ready.wrapping_sub(pacer.heap_free).wrapping_sub(heap_alloc);
    let over = pacer.mapped_ready.saturating_sub(limit);
    let taken = not_heap.wrapping_add(over);
    if taken >= limit {
        return pacer.heap_marked;
    }
    let goal = limit - taken;
    let headroom = if rules.proportional_headroom {
        LEAST_HEADROOM.max((goal / 100).wrapping_mul(HEADROOM_PERCENT))
    } else {
        LEAST_HEADROOM
    };
    let goal = if goal < headroom || goal - headroom < headroom { headroom } else { goal - headroom };
    goal.max(pacer.heap_marked)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn pacer(limit: i64) -> Pacer {
        Pacer {
            gc_percent_heap_goal: 400 * MIB,
            triggered: u64::MAX,
            heap_marked: 40 * MIB,
            // Not heap: 30 MiB.
            mapped_ready: 180 * MIB,
            heap_free: 50 * MIB,
            memory_limit: limit,
            ..Pacer::default()
        }
    }

    fn goal(pacer: &Pacer, version: &str) -> u64 {
        heap_goal(pacer, 100 * MIB, Rules::of(version))
    }

    #[test]
    fn the_goal_is_that_of_gogc_and_never_close_behind_the_trigger() {
        let none = pacer(i64::MAX);
        assert_eq!(goal(&none, "1.27.3"), 400 * MIB);
        assert_eq!(goal(&Pacer { sweep_dist_min_trigger: 500 * MIB, ..none }, "1.27.3"), 500 * MIB);
        assert_eq!(goal(&Pacer { triggered: 400 * MIB, ..none }, "1.27.3"), 400 * MIB + 65_536);
        assert_eq!(goal(&Pacer { triggered: 300 * MIB, ..none }, "1.27.3"), 400 * MIB);
    }

    #[test]
    fn the_memory_limit_leaves_room_below_it() {
        // 200 MiB, of which 30 aren't heap; 3 % of the remaining 170 MiB, or 1 MiB until Go 1.20.
        let limited = pacer(200 * MIB as i64);
        assert_eq!(goal(&limited, "1.21.13"), 170 * MIB - 170 * MIB / 100 * 3);
        assert_eq!(goal(&limited, "go1.20.7"), 169 * MIB);
        assert_eq!(goal(&limited, "1.19.8"), 169 * MIB);
        // Over the limit by 20 MiB: 160 - 30 - 20.
        assert_eq!(goal(&pacer(160 * MIB as i64), "1.19.8"), 109 * MIB);
        // Everything else is more than the limit already, or leaves less than what is in use.
        assert_eq!(goal(&pacer(20 * MIB as i64), "1.27.3"), 40 * MIB);
        assert_eq!(goal(&pacer(125 * MIB as i64), "1.27.3"), 40 * MIB);
        let little = Pacer { heap_marked: 0, ..pacer(106 * MIB as i64) };
        assert_eq!(goal(&little, "1.27.3"), MIB, "2 MiB without the room of 1 MiB");
    }

    #[test]
    fn quantiles_are_those_of_the_remembered_pauses() {
        let figures = |pauses: &[u64]| Figures {
            pauses: pauses.iter().map(|pause| (*pause, 0)).collect(),
            ..Figures::default()
        };
        assert_eq!(figures(&[]).pause_quantiles(), [0; 5]);
        assert_eq!(figures(&[7]).pause_quantiles(), [7; 5]);
        assert_eq!(figures(&[5, 1, 4, 2, 3]).pause_quantiles(), [1, 2, 3, 4, 5]);
        assert_eq!(figures(&[8, 7, 6, 5, 4, 3, 2, 1]).pause_quantiles(), [1, 3, 5, 7, 8]);
    }
}
