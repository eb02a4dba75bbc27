//! What is read for the figures, and what it says: bytes become numbers with names here, and nothing is judged.

use crate::{
    binary::go::Places,
    runtime::{
        go::{GoError, attach::Bias},
        u32_at, u64_at,
    },
};

use super::RING;

/// The runtime keeps what allocators count three times; the sum is what holds (Go's src/runtime/mstats.go,
/// `consistentHeapStats`).
const DELTAS: u64 = 3;
/// Offsets in the runtime's structures are below this: `mheap` is the largest, with some 93,000 bytes.
const FARTHEST: u64 = 1 << 20;
/// Bytes of a structure's part that is read at most.
const LONGEST: u64 = 64 << 10;
/// Go has 68 size classes, in all versions that we have tables of.
const MOST_CLASSES: usize = 256;

/// A part of memory.
pub type Part = (u64, usize);

/// Part of a structure: from its first field that is wanted to its last.
#[derive(Clone, Copy, Debug)]
struct Piece {
    /// Offset in the structure.
    from: u64,
    part: Part,
}

impl Piece {
    /// `fields`: offset and size.
    fn of(address: u64, fields: &[(u64, u64)]) -> Result<Self, GoError> {
        let from = fields.iter().map(|(offset, _)| *offset).min().unwrap_or(0);
        let end = fields.iter().map(|(offset, size)| offset.saturating_add(*size)).max().unwrap_or(0);
        let length = end.saturating_sub(from);
        if end > FARTHEST || length > LONGEST {
            return Err(GoError::Unavailable(format!("its table has a structure of {end} bytes")));
        }
        Ok(Self { from, part: (address.wrapping_add(from), usize::try_from(length).unwrap_or(0)) })
    }
}

/// Bytes of a piece, asked by offsets in the structure.
struct Bytes<'bytes> {
    from: u64,
    bytes: &'bytes [u8],
}

impl Bytes<'_> {
    fn at(&self, offset: u64) -> usize {
        usize::try_from(offset.wrapping_sub(self.from)).unwrap_or(usize::MAX)
    }

    fn u64(&self, offset: u64) -> u64 {
        u64_at(self.bytes, self.at(offset))
    }

    fn u32(&self, offset: u64) -> u32 {
        u32_at(self.bytes, self.at(offset))
    }

    fn i32(&self, offset: u64) -> i32 {
        self.u32(offset).cast_signed()
    }
}

/// The order of what is read. What the target changes together is read together: counts of the allocator and what the
/// pacer makes of them lie next to each other, so that few updates fall in between.
const ALLP: usize = 0;
const GOMAXPROCS: usize = 1;
const NCPU: usize = 2;
const SWEEPGEN: usize = 3;
const RINGS: usize = 4;
const ALLGLEN: usize = 5;
const SCHED: usize = 6;
const SPANS: usize = 7;
const CACHES: usize = 8;
const STATS: usize = 9;
const CONTROLLER: usize = 10;
const PIECES: usize = 11;

/// Where everything is in the process that doesn't depend on what is read.
#[derive(Clone, Debug)]
pub struct Plan {
    pieces: [Piece; PIECES],
    cpus_known: bool,
}

impl Plan {
    /// What to read in a process.
    ///
    /// # Errors
    ///
    /// If the table can't be: offsets without measure, or lists of free goroutines that it doesn't know.
    pub fn of(places: &Places, bias: Bias) -> Result<Self, GoError> {
        let (globals, layout) = (&places.globals, &places.layout);
        let classes = layout.class_sizes.len();
        if classes == 0 || classes > MOST_CLASSES {
            return Err(GoError::Unavailable(format!("its table has {classes} size classes")));
        }
        // Without them all goroutines that have ended would be counted.
        let own = [layout.p.g_free_n, layout.p.g_free_size].into_iter().flatten().count();
        let shared = (layout.sched.g_free_n, layout.sched.g_free_stack, layout.sched.g_free_no_stack);
        let known = matches!(shared, (Some(_), None, None) | (None, Some(_), Some(_)));
        if own != 1 || !known {
            return Err(GoError::Unavailable("where the free goroutines are counted isn't known".into()));
        }
        let (stats, heap, sched, pacer) = (&layout.mstats, &layout.heap, &layout.sched, &layout.controller);
        let deltas = layout.heap_stats.size.saturating_mul(DELTAS);
        let whole = |address: u64, size: u64| Piece::of(bias.live(address), &[(0, size)]);
        let word = |address: u64, offset: u64| Piece::of(bias.live(address), &[(offset, 8)]);
        let inuse = layout.fix_alloc.inuse;
        let ring = 8 * RING as u64;
        let scheduler = [
            Some((sched.ngsys, 4)),
            Some((sched.mnext, 8)),
            Some((sched.nmfreed, 8)),
            sched.g_free_n.map(|offset| (offset, 4)),
            sched.g_free_stack.map(|offset| (offset, 4)),
            sched.g_free_no_stack.map(|offset| (offset, 4)),
        ];
        let scheduler: Vec<_> = scheduler.into_iter().flatten().collect();
        let memstats = bias.live(globals.memstats);
        let pieces = [
            whole(globals.allp, 24)?,
            whole(globals.gomaxprocs, 4)?,
            // Without a place of its own it is read from where the number of processors is, and not used.
            whole(globals.ncpu.unwrap_or(globals.gomaxprocs), 4)?,
            Piece::of(bias.live(globals.mheap), &[(heap.sweepgen, 4)])?,
            Piece::of(
                memstats,
                &[
                    (stats.pause_ns, ring),
                    (stats.pause_end, ring),
                    (stats.numgc, 4),
                    (stats.numforcedgc, 4),
                    (stats.gc_cpu_fraction, 8),
                ],
            )?,
            whole(globals.allglen, 8)?,
            Piece::of(bias.live(globals.sched), &scheduler)?,
            word(globals.mheap, heap.span_alloc.saturating_add(inuse))?,
            word(globals.mheap, heap.cache_alloc.saturating_add(inuse))?,
            Piece::of(
                memstats,
                &[
                    (stats.heap_stats, deltas),
                    (stats.stacks_sys, 8),
                    (stats.mspan_sys, 8),
                    (stats.mcache_sys, 8),
                    (stats.buckhash_sys, 8),
                    (stats.gc_misc_sys, 8),
                    (stats.other_sys, 8),
                    (stats.last_gc_unix, 8),
                    (stats.pause_total_ns, 8),
                ],
            )?,
            Piece::of(
                bias.live(globals.gc_controller),
                &[
                    (pacer.gc_percent, 4),
                    (pacer.memory_limit, 8),
                    (pacer.gc_percent_heap_goal, 8),
                    (pacer.sweep_dist_min_trigger, 8),
                    (pacer.triggered, 8),
                    (pacer.heap_marked, 8),
                    (pacer.heap_in_use, 8),
                    (pacer.heap_released, 8),
                    (pacer.heap_free, 8),
                    (pacer.total_alloc, 8),
                    (pacer.total_free, 8),
                    (pacer.mapped_ready, 8),
                ],
            )?,
        ];
        Ok(Self { pieces, cpus_known: globals.ncpu.is_some() })
    }

    /// Where the slice of processors is.
    pub const fn allp(&self) -> Part {
        self.pieces[ALLP].part
    }

    /// Everything, in order.
    pub fn parts(&self) -> impl Iterator<Item = Part> {
        self.pieces.iter().map(|piece| piece.part)
    }

    /// How many bytes that is.
    pub fn length(&self) -> usize {
        self.parts().map(|(_, length)| length).sum()
    }

    /// Makes numbers of the bytes.
    pub fn decode(&self, places: &Places, bytes: &[u8]) -> Raw {
        let mut rest = bytes;
        let pieces: [Bytes<'_>; PIECES] = std::array::from_fn(|number| {
            let piece = &self.pieces[number];
            let (here, behind) = rest.split_at(piece.part.1.min(rest.len()));
            rest = behind;
            Bytes { from: piece.from, bytes: here }
        });
        let layout = &places.layout;
        let (stats, rings) = (&pieces[STATS], &pieces[RINGS]);
        let (fields, pacer, sched) = (&layout.mstats, &layout.controller, &layout.sched);
        let word_of_pacer = |offset: u64| pieces[CONTROLLER].u64(offset);
        let ring = |from: u64| std::array::from_fn(|number| rings.u64(from + 8 * number as u64));
        let free = [sched.g_free_n, sched.g_free_stack, sched.g_free_no_stack];
        let free = free.into_iter().flatten().map(|offset| i64::from(pieces[SCHED].i32(offset)));
        Raw {
            allp: pieces[ALLP].u64(0),
            processors: pieces[ALLP].u64(8),
            gomaxprocs: pieces[GOMAXPROCS].i32(0),
            ncpu: self.cpus_known.then(|| pieces[NCPU].i32(0)),
            sweepgen: pieces[SWEEPGEN].u32(layout.heap.sweepgen),
            goroutines: pieces[ALLGLEN].u64(0),
            free_goroutines: free.sum(),
            system_goroutines: pieces[SCHED].i32(sched.ngsys),
            threads_made: pieces[SCHED].u64(sched.mnext).cast_signed(),
            threads_freed: pieces[SCHED].u64(sched.nmfreed).cast_signed(),
            mspan_inuse: pieces[SPANS].u64(layout.heap.span_alloc + layout.fix_alloc.inuse),
            mcache_inuse: pieces[CACHES].u64(layout.heap.cache_alloc + layout.fix_alloc.inuse),
            heap: Heap::sum_of(places, stats),
            stacks_sys: stats.u64(fields.stacks_sys),
            mspan_sys: stats.u64(fields.mspan_sys),
            mcache_sys: stats.u64(fields.mcache_sys),
            buckhash_sys: stats.u64(fields.buckhash_sys),
            gc_misc_sys: stats.u64(fields.gc_misc_sys),
            other_sys: stats.u64(fields.other_sys),
            last_gc_unix: stats.u64(fields.last_gc_unix),
            pause_total_ns: stats.u64(fields.pause_total_ns),
            pause_ns: ring(fields.pause_ns),
            pause_end: ring(fields.pause_end),
            numgc: rings.u32(fields.numgc),
            numforcedgc: rings.u32(fields.numforcedgc),
            gc_cpu_fraction: f64::from_bits(rings.u64(fields.gc_cpu_fraction)),
            pacer: Pacer {
                gc_percent: pieces[CONTROLLER].i32(pacer.gc_percent),
                memory_limit: word_of_pacer(pacer.memory_limit).cast_signed(),
                gc_percent_heap_goal: word_of_pacer(pacer.gc_percent_heap_goal),
                sweep_dist_min_trigger: word_of_pacer(pacer.sweep_dist_min_trigger),
                triggered: word_of_pacer(pacer.triggered),
                heap_marked: word_of_pacer(pacer.heap_marked),
                heap_in_use: word_of_pacer(pacer.heap_in_use),
                heap_released: word_of_pacer(pacer.heap_released),
                heap_free: word_of_pacer(pacer.heap_free),
                total_alloc: word_of_pacer(pacer.total_alloc),
                total_free: word_of_pacer(pacer.total_free),
                mapped_ready: word_of_pacer(pacer.mapped_ready),
            },
        }
    }
}

/// The runtime's own numbers, by its own names where it has any.
#[derive(Clone, Debug, PartialEq)]
pub struct Raw {
    /// Where the addresses of the processors (`P`) are.
    pub allp: u64,
    /// How many there are.
    pub processors: u64,
    /// `gomaxprocs`.
    pub gomaxprocs: i32,
    /// `ncpu`, if it is known where.
    pub ncpu: Option<i32>,
    /// `mheap_.sweepgen`.
    pub sweepgen: u32,
    /// `allglen`: goroutines ever, those that are used again counted once.
    pub goroutines: u64,
    /// Of those, free: the scheduler's, and the processors' own added to it by whoever reads those.
    pub free_goroutines: i64,
    /// `sched.ngsys`.
    pub system_goroutines: i32,
    /// `sched.mnext`.
    pub threads_made: i64,
    /// `sched.nmfreed`.
    pub threads_freed: i64,
    /// `mheap_.spanalloc.inuse`.
    pub mspan_inuse: u64,
    /// `mheap_.cachealloc.inuse`.
    pub mcache_inuse: u64,
    /// `memstats.heapStats`, summed up.
    pub heap: Heap,
    /// `memstats.stacks_sys`.
    pub stacks_sys: u64,
    /// `memstats.mspan_sys`.
    pub mspan_sys: u64,
    /// `memstats.mcache_sys`.
    pub mcache_sys: u64,
    /// `memstats.buckhash_sys`.
    pub buckhash_sys: u64,
    /// `memstats.gcMiscSys`.
    pub gc_misc_sys: u64,
    /// `memstats.other_sys`.
    pub other_sys: u64,
    /// `memstats.last_gc_unix`.
    pub last_gc_unix: u64,
    /// `memstats.pause_total_ns`.
    pub pause_total_ns: u64,
    /// `memstats.pause_ns`.
    pub pause_ns: [u64; RING],
    /// `memstats.pause_end`.
    pub pause_end: [u64; RING],
    /// `memstats.numgc`.
    pub numgc: u32,
    /// `memstats.numforcedgc`.
    pub numforcedgc: u32,
    /// `memstats.gc_cpu_fraction`.
    pub gc_cpu_fraction: f64,
    /// `gcController`.
    pub pacer: Pacer,
}

/// `heapStatsDelta`, its three added; by class where the runtime has it by class. Signed there, so all sums wrap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heap {
    /// `committed`.
    pub committed: u64,
    /// `released`.
    pub released: u64,
    /// `inHeap`.
    pub in_heap: u64,
    /// `inStacks`.
    pub in_stacks: u64,
    /// `inWorkBufs`.
    pub in_work_bufs: u64,
    /// `inPtrScalarBits`; zero where there is none, which is from Go 1.25 on.
    pub in_ptr_scalar_bits: u64,
    /// `tinyAllocCount`.
    pub tiny_allocs: u64,
    /// `largeAlloc`: bytes.
    pub large_alloc: u64,
    /// `largeAllocCount`.
    pub large_allocs: u64,
    /// `smallAllocCount`.
    pub small_allocs: Vec<u64>,
    /// `largeFree`: bytes.
    pub large_free: u64,
    /// `largeFreeCount`.
    pub large_frees: u64,
    /// `smallFreeCount`.
    pub small_frees: Vec<u64>,
}

impl Heap {
    fn sum_of(places: &Places, stats: &Bytes<'_>) -> Self {
        let layout = &places.layout;
        let (fields, classes) = (&layout.heap_stats, layout.class_sizes.len() as u64);
        let sum = |offset: u64| {
            let deltas = (0..DELTAS).map(|number| layout.mstats.heap_stats + number * fields.size);
            deltas.fold(0u64, |sum, delta| sum.wrapping_add(stats.u64(delta.saturating_add(offset))))
        };
        let each = |from: u64| (0..classes).map(|class| sum(from + 8 * class)).collect();
        Self {
            committed: sum(fields.committed),
            released: sum(fields.released),
            in_heap: sum(fields.in_heap),
            in_stacks: sum(fields.in_stacks),
            in_work_bufs: sum(fields.in_work_bufs),
            in_ptr_scalar_bits: fields.in_ptr_scalar_bits.map_or(0, sum),
            tiny_allocs: sum(fields.tiny_alloc_count),
            large_alloc: sum(fields.large_alloc),
            large_allocs: sum(fields.large_alloc_count),
            small_allocs: each(fields.small_alloc_count),
            large_free: sum(fields.large_free),
            large_frees: sum(fields.large_free_count),
            small_frees: each(fields.small_free_count),
        }
    }
}

/// `gcController`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pacer {
    /// `gcPercent`.
    pub gc_percent: i32,
    /// `memoryLimit`.
    pub memory_limit: i64,
    /// `gcPercentHeapGoal`.
    pub gc_percent_heap_goal: u64,
    /// `sweepDistMinTrigger`.
    pub sweep_dist_min_trigger: u64,
    /// `triggered`.
    pub triggered: u64,
    /// `heapMarked`.
    pub heap_marked: u64,
    /// `heapInUse`.
    pub heap_in_use: u64,
    /// `heapReleased`.
    pub heap_released: u64,
    /// `heapFree`.
    pub heap_free: u64,
    /// `totalAlloc`.
    pub total_alloc: u64,
    /// `totalFree`.
    pub total_free: u64,
    /// `mappedReady`.
    pub mapped_ready: u64,
}

/// What the processors' caches hold back, by size class.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pending {
    /// Objects.
    pub small_allocs: Vec<u64>,
    /// Tiny ones, which share an object.
    pub tiny_allocs: u64,
}
