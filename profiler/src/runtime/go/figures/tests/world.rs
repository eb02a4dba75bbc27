//! A runtime made up in memory, and what it would say of itself: sums are made here, separately from the code under test.

use std::{collections::BTreeMap, io, sync::Arc};

use super::super::Figures;
use crate::{
    binary::go::{Globals, Layout, Places, Span},
    runtime::{
        Memory,
        go::{GoError, GoRuntime, tables},
    },
};

pub const EXE: ((i32, i32), u64) = ((254, 0), 77);
/// The file's addresses begin at 0x400000; the process has it here.
pub const MAPS: &str = "\
7f0000000000-7f0000100000 r--p 00000000 fe:00 77 /usr/bin/program
7f0000100000-7f0000200000 r-xp 00100000 fe:00 77 /usr/bin/program
7f0000200000-7f0000300000 rw-p 00200000 fe:00 77 /usr/bin/program
";
pub const BIAS: u64 = 0x7f00_0000_0000 - 0x40_0000;
pub const MEMSTATS: u64 = 0x60_0000;
pub const MHEAP: u64 = 0x61_0000;
pub const CONTROLLER: u64 = 0x64_0000;
const SCHED: u64 = 0x65_0000;
pub const SMALL: u64 = 0x66_0000;
const EMPTY: u64 = 0x67_0000;
pub const HEAP: u64 = 0xc0_0000_0000;
const NOW: u64 = 1_700_000_000_000_000_000;

/// Regions by their first address.
#[derive(Clone, Default)]
pub struct Fake {
    regions: BTreeMap<u64, Vec<u8>>,
}

impl Fake {
    fn room(&mut self, address: u64, bytes: usize) {
        self.regions.insert(address, vec![0; bytes]);
    }

    pub fn put(&mut self, address: u64, bytes: &[u8]) {
        let (start, region) = self.regions.range_mut(..=address).next_back().unwrap();
        let from = usize::try_from(address - start).unwrap();
        region[from..from + bytes.len()].copy_from_slice(bytes);
    }

    pub fn add(&mut self, address: u64, what: u64) {
        let old = crate::runtime::u64_at(&self.read(&[(address, 8)]).unwrap(), 0);
        self.put(address, &old.wrapping_add(what).to_le_bytes());
    }
}

impl Memory for Fake {
    fn read(&self, parts: &[(u64, usize)]) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        for (address, length) in parts {
            let region = self.regions.range(..=*address).next_back();
            let part = region.and_then(|(start, region)| {
                let from = usize::try_from(address - start).ok()?;
                region.get(from..from.checked_add(*length)?)
            });
            bytes.extend_from_slice(part.ok_or_else(|| io::Error::other("nothing there"))?);
        }
        Ok(bytes)
    }
}

impl Memory for &Fake {
    fn read(&self, parts: &[(u64, usize)]) -> io::Result<Vec<u8>> {
        (**self).read(parts)
    }
}

/// A runtime, and what it would say of itself.
pub struct World {
    pub memory: Fake,
    pub places: Arc<Places>,
    /// Without what the caches hold back.
    pub plain: Figures,
    pub with_caches: Figures,
}

/// Numbers from a seed (xorshift).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

pub fn places(minor: &str) -> Places {
    let (table, layout) = tables::layout(minor);
    Places {
        base: 0x40_0000,
        table,
        globals: Globals {
            memstats: MEMSTATS,
            mheap: MHEAP,
            gc_controller: CONTROLLER,
            sched: SCHED,
            allp: SMALL,
            allglen: SMALL + 32,
            gomaxprocs: SMALL + 48,
            ncpu: Some(SMALL + 56),
            emptymspan: Some(EMPTY),
            ..Globals::default()
        },
        layout,
        text: Span { start: 0x50_1000, end: 0x51_0000 },
        ..Places::default()
    }
}

pub fn world(minor: &str, seed: u64, processors: u64, cycles: u32) -> World {
    let mut dice = Dice(seed.wrapping_mul(2) + 1);
    let places = places(minor);
    let layout = &places.layout;
    let mut memory = Fake::default();
    let live = |address: u64| address.wrapping_add(BIAS);
    for start in [MEMSTATS, MHEAP, CONTROLLER, SCHED, SMALL] {
        memory.room(live(start), 0x2_0000.min(usize::try_from(layout.heap.size).unwrap() + 0x1000));
    }
    memory.room(HEAP, 0x100_0000);

    // Of each number that is kept three times a random part is in each; they are signed and wrap.
    let (stats, each) = (&layout.mstats, &layout.heap_stats);
    let parted = |memory: &mut Fake, dice: &mut Dice, offset: u64, value: u64| {
        let (first, second) = (dice.below(1 << 40), dice.below(1 << 40));
        let third = value.wrapping_sub(first).wrapping_sub(second);
        for (number, part) in [first, second, third].into_iter().enumerate() {
            let at = live(MEMSTATS) + stats.heap_stats + number as u64 * each.size + offset;
            memory.put(at, &part.to_le_bytes());
        }
    };
    let (mut total_alloc, mut total_free, mut mallocs, mut frees) = (0, 0, 0, 0);
    for (class, size) in layout.class_sizes.iter().enumerate() {
        let allocs = dice.below(10_000);
        let freed = dice.below(allocs + 1);
        parted(&mut memory, &mut dice, each.small_alloc_count + 8 * class as u64, allocs);
        parted(&mut memory, &mut dice, each.small_free_count + 8 * class as u64, freed);
        total_alloc += allocs * u64::from(*size);
        total_free += freed * u64::from(*size);
        mallocs += allocs;
        frees += freed;
    }
    let (large, large_freed, tiny) =
        (dice.below(1 << 30) + (1 << 30), dice.below(1 << 30), dice.below(1 << 20));
    for (offset, value) in [
        (each.large_alloc, large),
        (each.large_alloc_count, 500),
        (each.large_free, large_freed),
        (each.large_free_count, 400),
        (each.tiny_alloc_count, tiny),
    ] {
        parted(&mut memory, &mut dice, offset, value);
    }
    total_alloc += large;
    total_free += large_freed;
    mallocs += 500 + tiny;
    frees += 400 + tiny;

    // Memory. `bits` only where there is a field for it.
    let alloc = total_alloc - total_free;
    let (inuse, free, released) = (alloc + (256 << 20), dice.below(1 << 24), dice.below(1 << 24));
    let (stacks, buffers) = (dice.below(1 << 24), dice.below(1 << 24));
    let bits = each.in_ptr_scalar_bits.map_or(0, |_| dice.below(1 << 20));
    let committed = inuse + free + stacks + buffers + bits;
    for (offset, value) in [
        (Some(each.committed), committed),
        (Some(each.released), released),
        (Some(each.in_heap), inuse),
        (Some(each.in_stacks), stacks),
        (Some(each.in_work_bufs), buffers),
        (each.in_ptr_scalar_bits, bits),
    ] {
        if let Some(offset) = offset {
            parted(&mut memory, &mut dice, offset, value);
        }
    }
    let mut word = |address: u64, value: u64| memory.put(live(address), &value.to_le_bytes());
    let (mspans, mcaches) = (layout.mspan.size * 100, layout.mcache.size * processors);
    let systems = [
        dice.below(1 << 20),
        mspans + 5000,
        mcaches + 5000,
        1 << 20,
        dice.below(1 << 22),
        dice.below(1 << 22),
    ];
    let fields = [
        stats.stacks_sys,
        stats.mspan_sys,
        stats.mcache_sys,
        stats.buckhash_sys,
        stats.gc_misc_sys,
        stats.other_sys,
    ];
    for (field, value) in fields.into_iter().zip(systems) {
        word(MEMSTATS + field, value);
    }
    let system: u64 = systems.iter().sum();
    word(MHEAP + layout.heap.span_alloc + layout.fix_alloc.inuse, mspans);
    word(MHEAP + layout.heap.cache_alloc + layout.fix_alloc.inuse, mcaches);
    let pacer = &layout.controller;
    for (field, value) in [
        (pacer.gc_percent, 100),
        (pacer.memory_limit, i64::MAX as u64),
        (pacer.gc_percent_heap_goal, 2 * alloc),
        (pacer.sweep_dist_min_trigger, alloc),
        (pacer.triggered, u64::MAX),
        (pacer.heap_marked, alloc / 2),
        (pacer.heap_in_use, inuse),
        (pacer.heap_released, released),
        (pacer.heap_free, free),
        (pacer.total_alloc, total_alloc),
        (pacer.total_free, total_free),
        (pacer.mapped_ready, system + committed),
    ] {
        word(CONTROLLER + field, value);
    }
    // gcPercent has 32 bits; what is behind it is somebody else's.
    memory.put(live(CONTROLLER + pacer.gc_percent), &100u32.to_le_bytes());

    // Collections, as the runtime writes them: one behind the other, round and round.
    let (mut pauses, mut pause_total) = (Vec::new(), 0);
    for cycle in 0..u64::from(cycles) {
        let pause = (10_000 + dice.below(1_000_000), NOW + cycle * 1000);
        memory.put(live(MEMSTATS) + stats.pause_ns + 8 * (cycle % 256), &pause.0.to_le_bytes());
        memory.put(live(MEMSTATS) + stats.pause_end + 8 * (cycle % 256), &pause.1.to_le_bytes());
        pause_total += pause.0;
        pauses.push(pause);
    }
    let last = pauses.last().map_or(0, |(_, end)| *end);
    memory.put(live(MEMSTATS) + stats.last_gc_unix, &last.to_le_bytes());
    memory.put(live(MEMSTATS) + stats.pause_total_ns, &pause_total.to_le_bytes());
    memory.put(live(MEMSTATS) + stats.numgc, &cycles.to_le_bytes());
    memory.put(live(MEMSTATS) + stats.numforcedgc, &(cycles / 3).to_le_bytes());
    memory.put(live(MEMSTATS) + stats.gc_cpu_fraction, &0.25f64.to_le_bytes());
    pauses.drain(..pauses.len().saturating_sub(256));

    // Processors, goroutines, threads.
    let (array, sweepgen) = (HEAP, 20u32);
    memory.put(live(SMALL), &array.to_le_bytes());
    memory.put(live(SMALL) + 8, &processors.to_le_bytes());
    memory.put(live(SMALL) + 16, &processors.to_le_bytes());
    memory.put(live(SMALL) + 32, &1000u64.to_le_bytes());
    memory.put(live(SMALL) + 48, &(processors as u32).to_le_bytes());
    memory.put(live(SMALL) + 56, &8u32.to_le_bytes());
    memory.put(live(MHEAP) + layout.heap.sweepgen, &sweepgen.to_le_bytes());
    let sched = &layout.sched;
    memory.put(live(SCHED) + sched.mnext, &40u64.to_le_bytes());
    memory.put(live(SCHED) + sched.nmfreed, &3u64.to_le_bytes());
    memory.put(live(SCHED) + sched.ngsys, &7u32.to_le_bytes());
    let mut free_goroutines = 0;
    for (field, count) in [(sched.g_free_n, 11u32), (sched.g_free_stack, 5), (sched.g_free_no_stack, 9)] {
        if let Some(offset) = field {
            memory.put(live(SCHED) + offset, &count.to_le_bytes());
            free_goroutines += u64::from(count);
        }
    }
    let (mut held_bytes, mut held_objects, mut held_tiny) = (0, 0, 0);
    for number in 0..processors {
        let (p, cache) = (HEAP + 0x10_000 + number * 0x4000, HEAP + 0x10_000 + number * 0x4000 + 0x3000);
        memory.put(array + 8 * number, &p.to_le_bytes());
        memory.put(p + layout.p.mcache, &cache.to_le_bytes());
        memory.put(p + layout.p.g_free_size.or(layout.p.g_free_n).unwrap(), &2u32.to_le_bytes());
        free_goroutines += 2;
        let tiny = dice.below(50);
        memory.put(cache + layout.mcache.tiny_allocs, &tiny.to_le_bytes());
        held_tiny += tiny;
        for (slot, size) in layout.class_sizes.iter().flat_map(|size| [size, size]).enumerate() {
            let mut span = live(EMPTY);
            // A span in every third place; of those that were cached before the sweeper's last start, some.
            if slot > 1 && dice.below(3) == 0 {
                span = HEAP + 0x80_0000 + (number * 136 + slot as u64) * 0x200;
                let (before, more) = (dice.below(20) as u16, dice.below(30) as u16);
                let generation = sweepgen + if dice.below(4) == 0 { 1 } else { 3 };
                memory.put(span + layout.mspan.alloc_count, &(before + more).to_le_bytes());
                memory.put(span + layout.mspan.alloc_count_before_cache, &before.to_le_bytes());
                memory.put(span + layout.mspan.sweepgen, &generation.to_le_bytes());
                held_bytes += u64::from(more) * u64::from(*size);
                held_objects += u64::from(more);
            }
            memory.put(cache + layout.mcache.alloc + 8 * slot as u64, &span.to_le_bytes());
        }
    }
    let plain = Figures {
        goroutines: 1000 - 7 - free_goroutines,
        threads: 37,
        gomaxprocs: processors,
        cpus: Some(8),
        alloc,
        total_alloc,
        sys: inuse + free + released + stacks + buffers + bits + system,
        mallocs,
        frees,
        heap_sys: inuse + free + released,
        heap_idle: free + released,
        heap_inuse: inuse,
        heap_released: released,
        heap_objects: mallocs - frees,
        stack_inuse: stacks,
        stack_sys: stacks + systems[0],
        mspan_inuse: mspans,
        mspan_sys: systems[1],
        mcache_inuse: mcaches,
        mcache_sys: systems[2],
        buck_hash_sys: systems[3],
        gc_sys: systems[4] + buffers + bits,
        other_sys: systems[5],
        next_gc: 2 * alloc,
        last_gc: last,
        pause_total_ns: pause_total,
        num_gc: cycles,
        num_forced_gc: cycles / 3,
        gc_cpu_fraction: 0.25,
        gc_percent: 100,
        memory_limit: i64::MAX,
        pauses,
    };
    let with_caches = Figures {
        alloc: alloc + held_bytes,
        total_alloc: total_alloc + held_bytes,
        mallocs: mallocs + held_objects + held_tiny,
        frees: frees + held_tiny,
        heap_objects: mallocs - frees + held_objects,
        ..plain.clone()
    };
    World { memory, places: Arc::new(places), plain, with_caches }
}

impl World {
    pub fn attach<M: Memory>(&self, memory: M) -> Result<GoRuntime<M>, GoError> {
        GoRuntime::attach(&self.places, memory, MAPS, EXE)
    }

    pub fn live(address: u64) -> u64 {
        address.wrapping_add(BIAS)
    }

    pub fn layout(&self) -> &Layout {
        &self.places.layout
    }
}
