//! Whether the runtime's numbers can be true: its own double checks (`doubleCheckReadMemStats` in Go's src/runtime/mstats.go)
//! and bounds. A table that doesn't fit, or a read between two instructions that belong together, shows here.

use crate::binary::go::Layout;

use super::{
    RING,
    formulas::{Rules, Totals, heap_goal, other_memory, taken_from_heap},
    raw::Raw,
};

/// Processors that we believe in.
pub const MOST_PROCESSORS: u64 = 4096;
/// User addresses are below this, so memory is less.
const MOST_MEMORY: u64 = 1 << 48;
/// Totals of bytes since the start: 30 years of a gigabyte in a nanosecond.
const MOST_TOTAL: u64 = 1 << 60;
/// Threads: `PID_MAX_LIMIT` in include/linux/threads.h.
const MOST_THREADS: i64 = 1 << 22;
/// Goroutines: 2 KiB of stack each is more memory than there is.
const MOST_GOROUTINES: u64 = 1 << 32;
/// A clock that was set since the last collection, as on a machine without a battery, began in 1970 or is years off: in
/// nanoseconds, what no clock is.
const CENTURY: u64 = 100 * 365 * 86_400_000_000_000;
/// The time that cycles take together is below this unless their count (32 bits) has wrapped: each stops the world for more
/// than half a microsecond.
const BEFORE_WRAPPING: u64 = 1 << 41;

/// Why numbers are not believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// Two numbers don't fit each other. A target that runs changes one behind the other: reading again helps, if it is that.
    Torn(String),
    /// One word, which is written at once, can't be what it should be: reading again won't help.
    Wrong(String),
}

/// All checks. `totals`: without what the caches hold back. `now`: nanoseconds since the unix epoch.
///
/// # Errors
///
/// The first that fails.
pub fn check(raw: &Raw, totals: Totals, layout: &Layout, rules: Rules, now: u64) -> Result<(), Doubt> {
    words(raw, layout, now)?;
    heap(raw, totals)?;
    collections(raw)?;
    scheduler(raw)?;
    // Zero would be a goal that is reached before the first object.
    let goal = heap_goal(&raw.pacer, totals.alloc.wrapping_sub(totals.free), rules);
    torn(goal > 0, || "the next collection is due at zero bytes".into())
}

/// What the caches hold back makes no more objects than there is memory for.
///
/// # Errors
///
/// As above.
pub fn check_with_caches(raw: &Raw, totals: Totals) -> Result<(), Doubt> {
    objects(raw, totals)
}

fn torn(holds: bool, why: impl FnOnce() -> String) -> Result<(), Doubt> {
    if holds { Ok(()) } else { Err(Doubt::Torn(why())) }
}

fn wrong(holds: bool, why: impl FnOnce() -> String) -> Result<(), Doubt> {
    if holds { Ok(()) } else { Err(Doubt::Wrong(why())) }
}

fn equal(left: (&str, u64), right: (&str, u64)) -> Result<(), Doubt> {
    torn(left.1 == right.1, || format!("{} is {}, {} {}", left.0, left.1, right.0, right.1))
}

fn at_most(left: (&str, u64), right: (&str, u64)) -> Result<(), Doubt> {
    torn(left.1 <= right.1, || format!("{} is {}, {} only {}", left.0, left.1, right.0, right.1))
}

/// Bounds of single words: the runtime writes each at once.
fn words(raw: &Raw, layout: &Layout, now: u64) -> Result<(), Doubt> {
    let processors = u64::from(raw.gomaxprocs.cast_unsigned());
    wrong((1..=MOST_PROCESSORS).contains(&processors), || format!("GOMAXPROCS is {}", raw.gomaxprocs))?;
    let cpus = raw.ncpu.unwrap_or(1);
    wrong((1..=1 << 16).contains(&cpus), || format!("the number of CPUs is {cpus}"))?;
    let pacer = &raw.pacer;
    let memory = [
        ("heapInUse", pacer.heap_in_use),
        ("heapReleased", pacer.heap_released),
        ("heapFree", pacer.heap_free),
        ("mappedReady", pacer.mapped_ready),
        ("stacks_sys", raw.stacks_sys),
        ("mspan_sys", raw.mspan_sys),
        ("mcache_sys", raw.mcache_sys),
        ("buckhash_sys", raw.buckhash_sys),
        ("gcMiscSys", raw.gc_misc_sys),
        ("other_sys", raw.other_sys),
    ];
    for (name, bytes) in memory {
        wrong(bytes < MOST_MEMORY, || format!("{name} is {bytes} bytes"))?;
    }
    for (name, total) in [
        ("totalAlloc", pacer.total_alloc),
        ("totalFree", pacer.total_free),
        ("pause_total_ns", raw.pause_total_ns),
    ] {
        wrong(total < MOST_TOTAL, || format!("{name} is {total}"))?;
    }
    for (name, bytes, size) in [
        ("spanalloc.inuse", raw.mspan_inuse, layout.mspan.size),
        ("cachealloc.inuse", raw.mcache_inuse, layout.mcache.size),
    ] {
        let multiple = bytes > 0 && bytes.checked_rem(size) == Some(0);
        wrong(multiple, || format!("{name} is {bytes}, which is no multiple of {size}"))?;
    }
    wrong(pacer.gc_percent >= -1, || format!("gcPercent is {}", pacer.gc_percent))?;
    wrong(pacer.memory_limit >= 0, || format!("memoryLimit is {}", pacer.memory_limit))?;
    wrong(raw.last_gc_unix <= now.saturating_add(CENTURY), || {
        format!("the last collection was at {}, long after now ({now})", raw.last_gc_unix)
    })?;
    // A count that is taken for a fraction is very small. Both of the times that are divided are estimates, so a little room.
    let fraction = raw.gc_cpu_fraction;
    let likely = fraction == 0.0 || (fraction.is_normal() && (-0.01..=1.01).contains(&fraction));
    wrong(likely, || format!("the fraction of time that collections took is {fraction}"))
}

/// Sums of memory. `allocSpan`, `freeSpanLocked` and `grow` in mheap.go, `scavengeOne` in mgcscavenge.go, `refill` and
/// `allocLarge` in mcache.go and `sweep` in mgcsweep.go change one side some instructions before the other; so does
/// `consistentHeapStats.read`, which moves one delta into another.
fn heap(raw: &Raw, totals: Totals) -> Result<(), Doubt> {
    let (heap, pacer) = (&raw.heap, &raw.pacer);
    equal(("heapInUse", pacer.heap_in_use), ("inHeap", heap.in_heap))?;
    equal(("heapReleased", pacer.heap_released), ("released", heap.released))?;
    let retained = heap.committed.wrapping_sub(taken_from_heap(heap));
    equal(("heapInUse+heapFree", pacer.heap_in_use + pacer.heap_free), ("committed", retained))?;
    let mapped = other_memory(raw).wrapping_add(heap.committed);
    equal(("mappedReady", pacer.mapped_ready), ("what is mapped", mapped))?;
    equal(("totalAlloc", pacer.total_alloc), ("what was allocated", totals.alloc))?;
    equal(("totalFree", pacer.total_free), ("what was freed", totals.free))?;
    at_most(("inStacks", heap.in_stacks), ("committed", heap.committed))?;
    at_most(("inWorkBufs", heap.in_work_bufs), ("committed", heap.committed))?;
    objects(raw, totals)?;
    at_most(("spanalloc.inuse", raw.mspan_inuse), ("mspan_sys", raw.mspan_sys))?;
    at_most(("cachealloc.inuse", raw.mcache_inuse), ("mcache_sys", raw.mcache_sys))
}

fn objects(raw: &Raw, totals: Totals) -> Result<(), Doubt> {
    at_most(("what was freed", totals.free), ("what was allocated", totals.alloc))?;
    at_most(("the count of frees", totals.frees), ("that of mallocs", totals.mallocs))?;
    let alloc = totals.alloc - totals.free;
    at_most(("HeapAlloc", alloc), ("HeapInuse", raw.pacer.heap_in_use))?;
    // memoryLimitHeapGoal waits for this.
    at_most(("HeapAlloc+heapFree", alloc + raw.pacer.heap_free), ("mappedReady", raw.pacer.mapped_ready))
}

/// `gcMarkTermination` in mgc.go writes the time, then the ring, then the sum, and counts the cycle at last.
fn collections(raw: &Raw) -> Result<(), Doubt> {
    let remembered = raw.pause_ns.iter().fold(0u64, |sum, pause| sum.saturating_add(*pause));
    at_most(("the sum of remembered pauses", remembered), ("that of all", raw.pause_total_ns))?;
    if raw.numgc > 0 {
        let newest = raw.pause_end[raw.numgc.wrapping_sub(1) as usize % RING];
        equal(("the end of the last pause", newest), ("the last collection", raw.last_gc_unix))?;
    }
    if raw.pause_total_ns < BEFORE_WRAPPING {
        let cycles = u64::from(raw.numgc);
        at_most(("numforcedgc", u64::from(raw.numforcedgc)), ("numgc", cycles))?;
        if cycles <= RING as u64 {
            equal(("the sum of all pauses", remembered), ("pause_total_ns", raw.pause_total_ns))?;
        }
    }
    Ok(())
}

/// `procresize` in proc.go changes the slice before the number; goroutines are moved between lists at any time.
fn scheduler(raw: &Raw) -> Result<(), Doubt> {
    equal(("len(allp)", raw.processors), ("gomaxprocs", u64::from(raw.gomaxprocs.cast_unsigned())))?;
    let threads = raw.threads_made.wrapping_sub(raw.threads_freed);
    let likely = (1..=MOST_THREADS).contains(&threads) && raw.threads_freed >= 0;
    torn(likely, || format!("of {} threads {} have ended", raw.threads_made, raw.threads_freed))?;
    let all = raw.goroutines;
    torn((1..MOST_GOROUTINES).contains(&all), || format!("there are {all} goroutines"))?;
    let all = all.cast_signed();
    // As they are read one behind the other, some can be counted twice: those that a processor hands over at once are 32.
    let (free, system) = (raw.free_goroutines, i64::from(raw.system_goroutines));
    let likely = (0..=all.saturating_mul(2)).contains(&free) && (0..=all).contains(&system);
    torn(likely, || format!("of {all} goroutines {free} are free and {system} the system's"))
}
