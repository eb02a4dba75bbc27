//! A runtime made up in memory, in every layout that there is a table of: what is read of it must be what was put in.

mod world;

use std::{
    cell::Cell,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use proptest::prelude::*;

use self::world::{BIAS, CONTROLLER, EXE, HEAP, MAPS, MEMSTATS, MHEAP, SMALL, World, places, world};
use super::{Figures, View, read::APART};
use crate::{
    binary::go::Layout,
    runtime::{
        Memory,
        go::{GoError, GoRuntime, attach::Bias, tables},
    },
};

/// The first so many readings are of another memory.
struct Changing<'memory> {
    first: &'memory dyn Memory,
    then: &'memory dyn Memory,
    left: Cell<u32>,
}

impl Memory for Changing<'_> {
    fn read(&self, parts: &[(u64, usize)]) -> io::Result<Vec<u8>> {
        let left = self.left.get();
        self.left.set(left.saturating_sub(1));
        if left > 0 { self.first.read(parts) } else { self.then.read(parts) }
    }
}

#[test]
fn everything_is_read_as_it_was_put_in_by_every_table_and_in_one_call() {
    for minor in tables::minors() {
        for (seed, processors, cycles) in [(1, 1, 0), (2, 2, 5), (3, 16, 256), (4, 3, 1000)] {
            let world = world(&minor, seed, processors, cycles);
            let mut runtime = world.attach(&world.memory).unwrap();
            assert_eq!(runtime.read(View::Metrics).unwrap(), world.plain, "{minor} {seed}");
            assert_eq!((runtime.cost().calls, runtime.cost().tries), (1, 1));
            assert_eq!(runtime.read(View::MemStats).unwrap(), world.with_caches, "{minor} {seed}");
            // Two rounds.
            assert_eq!((runtime.cost().calls, runtime.cost().tries), (2, 1));
        }
    }
}

#[test]
fn another_versions_table_is_refused_unless_it_says_the_same() {
    let mut refused = 0;
    for theirs in tables::minors() {
        let world = world(&theirs, 5, 4, 300);
        for ours in tables::minors().into_iter().filter(|ours| *ours != theirs) {
            let places = Arc::new(places(&ours));
            match GoRuntime::attach(&places, &world.memory, MAPS, EXE)
                .and_then(|mut runtime| runtime.read(View::Metrics))
            {
                Ok(figures) => assert_eq!(figures, world.plain, "{ours}'s table on {theirs}"),
                Err(_) => refused += 1,
            }
        }
    }
    assert!(refused > 30, "{refused} of 56");
}

#[test]
fn each_number_of_the_memory_that_is_off_by_a_page_is_noticed() {
    for minor in tables::minors() {
        let world = world(&minor, 6, 4, 300);
        let layout = world.layout();
        let (stats, each, pacer) = (&layout.mstats, &layout.heap_stats, &layout.controller);
        let memstats = [
            stats.stacks_sys,
            stats.mspan_sys,
            stats.mcache_sys,
            stats.buckhash_sys,
            stats.gc_misc_sys,
            stats.other_sys,
        ];
        let heap = [
            each.committed,
            each.released,
            each.in_heap,
            each.in_stacks,
            each.in_work_bufs,
            each.large_alloc,
            each.large_free,
            each.small_alloc_count + 8,
            each.small_free_count + 80,
        ];
        let controller = [
            pacer.heap_in_use,
            pacer.heap_released,
            pacer.heap_free,
            pacer.total_alloc,
            pacer.total_free,
            pacer.mapped_ready,
        ];
        let addresses = memstats
            .into_iter()
            .map(|offset| MEMSTATS + offset)
            .chain(heap.into_iter().map(|offset| MEMSTATS + stats.heap_stats + each.size + offset))
            .chain(controller.into_iter().map(|offset| CONTROLLER + offset))
            .chain([MEMSTATS + stats.last_gc_unix, MHEAP + layout.heap.span_alloc + layout.fix_alloc.inuse]);
        for address in addresses {
            let mut memory = world.memory.clone();
            memory.add(World::live(address), 4096);
            let error = world.attach(&memory).err();
            assert!(matches!(error, Some(GoError::Contradiction(_))), "{minor} {address:#x}: {error:?}");
        }
    }
}

#[test]
fn what_is_read_between_two_instructions_is_read_again() {
    let world = world("1.27", 7, 4, 10);
    // The runtime is just merging one delta into another (consistentHeapStats.read): everything of it counts double.
    let mut merging = world.memory.clone();
    let (from, length) =
        (World::live(MEMSTATS + world.layout().mstats.heap_stats), world.layout().heap_stats.size);
    for offset in (0..length).step_by(8) {
        let other = crate::runtime::u64_at(&merging.read(&[(from + length + offset, 8)]).unwrap(), 0);
        merging.add(from + offset, other);
    }
    let changing = Changing { first: &merging, then: &world.memory, left: Cell::new(0) };
    let mut runtime = world.attach(changing).unwrap();
    runtime.memory().left.set(3);
    assert_eq!(runtime.read(View::Metrics).unwrap(), world.plain);
    assert_eq!(runtime.cost().tries, 4);
    // A target that is stopped right there for long is restless at first, however often it is asked; then the table is not
    // believed any more.
    runtime.memory().left.set(u32::MAX);
    let mut outcomes = Vec::new();
    for rest in [Duration::ZERO, Duration::ZERO, APART, APART] {
        std::thread::sleep(rest);
        outcomes.push(runtime.read(View::Metrics).unwrap_err());
    }
    let restless = outcomes.iter().take(3).all(|outcome| matches!(outcome, GoError::Restless(_)));
    assert!(restless && matches!(outcomes[3], GoError::Contradiction(_)), "{outcomes:?}");
    runtime.memory().left.set(0);
    assert_eq!(runtime.read(View::Metrics).unwrap(), world.plain);
}

#[test]
fn more_processors_are_noticed_at_the_next_reading() {
    let (few, many) = (world("1.22", 8, 2, 10), world("1.22", 9, 7, 10));
    let changing = Changing { first: &few.memory, then: &many.memory, left: Cell::new(u32::MAX) };
    let mut runtime = few.attach(changing).unwrap();
    assert_eq!(runtime.read(View::MemStats).unwrap(), few.with_caches);
    runtime.memory().left.set(0);
    assert_eq!(runtime.read(View::Metrics).unwrap(), many.plain);
    assert_eq!(runtime.read(View::MemStats).unwrap(), many.with_caches);
}

#[test]
fn a_span_on_its_way_out_of_a_cache_is_not_counted_twice() {
    let world = world("1.24", 10, 2, 10);
    let mut leaving = world.memory.clone();
    let cached = (0..2 * 136u64).map(|slot| HEAP + 0x80_0000 + slot * 0x200);
    let layout = world.layout();
    for span in cached {
        // uncacheSpan sets the sweeper's own generation.
        leaving.put(span + layout.mspan.sweepgen, &20u32.to_le_bytes());
    }
    let changing = Changing { first: &leaving, then: &world.memory, left: Cell::new(10) };
    let mut runtime = world.attach(changing).unwrap();
    assert_eq!(runtime.read(View::MemStats).unwrap(), world.with_caches);
    runtime.memory().left.set(u32::MAX);
    assert!(matches!(runtime.read(View::MemStats), Err(GoError::Restless(_))));
}

#[test]
fn without_the_empty_span_the_caches_are_unavailable_and_the_rest_is_not() {
    let mut world = world("1.23", 11, 2, 10);
    Arc::make_mut(&mut world.places).globals.emptymspan = None;
    Arc::make_mut(&mut world.places).globals.ncpu = None;
    let mut runtime = world.attach(&world.memory).unwrap();
    assert!(matches!(runtime.read(View::MemStats), Err(GoError::Unavailable(_))));
    assert_eq!(runtime.read(View::Metrics).unwrap(), Figures { cpus: None, ..world.plain.clone() });
}

#[test]
fn without_a_list_of_free_goroutines_nothing_is_read() {
    for minor in ["1.23", "1.27"] {
        let world = world(minor, 13, 2, 10);
        let refused = |change: fn(&mut Layout)| {
            let mut places = (*world.places).clone();
            change(&mut places.layout);
            let error = GoRuntime::attach(&Arc::new(places), &world.memory, MAPS, EXE).err();
            assert!(matches!(error, Some(GoError::Unavailable(_))), "{minor}: {error:?}");
        };
        refused(|layout| (layout.p.g_free_n, layout.p.g_free_size) = (None, None));
        refused(|layout| (layout.p.g_free_n, layout.p.g_free_size) = (Some(8), Some(8)));
        refused(|layout| (layout.sched.g_free_n, layout.sched.g_free_stack) = (None, None));
        refused(|layout| layout.sched.g_free_n = layout.sched.g_free_n.xor(Some(8)));
    }
}

#[test]
fn the_program_is_found_by_its_code_among_other_mappings_of_its_file() {
    let places = places("1.27");
    let copy = format!("100000-200000 r--p 00000000 fe:00 77 /usr/bin/program\n{MAPS}");
    let found = Bias::find(&places, &copy, EXE).unwrap();
    assert_eq!((found.live(MEMSTATS), found.file(found.live(MEMSTATS))), (MEMSTATS + BIAS, MEMSTATS));
    assert_eq!(found, Bias::find(&places, MAPS, EXE).unwrap());
    for (maps, exe) in [("", EXE), ("nonsense\n-\n1-2\n", EXE), (MAPS, ((254, 0), 78)), (MAPS, ((8, 0), 77))]
    {
        assert!(matches!(Bias::find(&places, maps, exe), Err(GoError::Unavailable(_))));
    }
}

/// Any address can be read, and holds this.
struct Everywhere<F>(F);

impl<F: Fn(u64) -> u8> Memory for Everywhere<F> {
    fn read(&self, parts: &[(u64, usize)]) -> io::Result<Vec<u8>> {
        let bytes: usize = parts.iter().map(|(_, length)| length).sum();
        assert!(bytes < 1 << 20, "{bytes} bytes");
        Ok(parts
            .iter()
            .flat_map(|(address, length)| (0..*length as u64).map(|at| (self.0)(address.wrapping_add(at))))
            .collect())
    }
}

#[test]
fn memory_that_holds_anything_is_refused_at_once() {
    let places = Arc::new(places("1.26"));
    let start = Instant::now();
    for seed in 0..50u64 {
        let noise =
            Everywhere(|address: u64| ((address ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u8);
        assert!(GoRuntime::attach(&places, noise, MAPS, EXE).is_err());
        assert!(GoRuntime::attach(&places, Everywhere(|_| seed as u8), MAPS, EXE).is_err());
    }
    let world = world("1.26", 12, 2, 10);
    for count in [0, 4097, 1 << 60, u64::MAX] {
        let mut memory = world.memory.clone();
        memory.put(World::live(SMALL) + 8, &count.to_le_bytes());
        assert!(matches!(world.attach(&memory).err(), Some(GoError::Contradiction(_))));
    }
    assert!(start.elapsed().as_secs() < 10);
}

proptest! {
    #[test]
    fn a_table_of_any_numbers_reads_no_more_than_it_may(offsets in proptest::collection::vec(any::<u64>(), 12), classes in 0usize..400) {
        let mut places = places("1.26");
        let layout = &mut places.layout;
        layout.class_sizes = vec![8; classes];
        for (field, offset) in [
            &mut layout.mstats.numgc, &mut layout.mstats.heap_stats, &mut layout.heap_stats.size, &mut layout.heap_stats.small_free_count,
            &mut layout.controller.triggered, &mut layout.sched.mnext, &mut layout.heap.span_alloc, &mut layout.p.mcache,
            &mut layout.mcache.alloc, &mut layout.mspan.sweepgen, &mut layout.fix_alloc.inuse, &mut layout.mstats.pause_ns,
        ].into_iter().zip(offsets) {
            // Small ones, too.
            *field = if offset % 3 == 0 { offset % 100_000 } else { *field };
            if offset % 50 == 0 { *field = offset; }
        }
        let _refused = GoRuntime::attach(&Arc::new(places), Everywhere(|_| 1), MAPS, EXE);
    }
}
