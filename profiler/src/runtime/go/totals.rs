//! Sums over processes, and what outlives them.

use super::figures::Figures;

/// What only grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    total_alloc: u64,
    mallocs: u64,
    frees: u64,
    pause_total_ns: u64,
    num_gc: u32,
    num_forced_gc: u32,
}

impl Totals {
    /// Those of some figures.
    pub const fn of(figures: &Figures) -> Self {
        Self {
            total_alloc: figures.total_alloc,
            mallocs: figures.mallocs,
            frees: figures.frees,
            pause_total_ns: figures.pause_total_ns,
            num_gc: figures.num_gc,
            num_forced_gc: figures.num_forced_gc,
        }
    }

    /// The sum with others.
    #[must_use]
    pub const fn with(&self, other: &Self) -> Self {
        Self {
            total_alloc: self.total_alloc.saturating_add(other.total_alloc),
            mallocs: self.mallocs.saturating_add(other.mallocs),
            frees: self.frees.saturating_add(other.frees),
            pause_total_ns: self.pause_total_ns.saturating_add(other.pause_total_ns),
            num_gc: self.num_gc.saturating_add(other.num_gc),
            num_forced_gc: self.num_forced_gc.saturating_add(other.num_forced_gc),
        }
    }

    /// What a program leaves behind: all that it had is given back with it.
    #[must_use]
    pub const fn of_ended(self) -> Self {
        Self { frees: self.mallocs, ..self }
    }

    /// The same figures with these added.
    #[must_use]
    pub fn added_to(&self, mut figures: Figures) -> Figures {
        let sum = Self::of(&figures).with(self);
        figures.total_alloc = sum.total_alloc;
        figures.mallocs = sum.mallocs;
        figures.frees = sum.frees;
        figures.pause_total_ns = sum.pause_total_ns;
        figures.num_gc = sum.num_gc;
        figures.num_forced_gc = sum.num_forced_gc;
        figures
    }
}

/// Adds another process's figures. Of the last collection the latest counts, of the share of time the largest; `GOGC` and the
/// number of CPUs are those of the first process.
pub fn add(sum: &mut Figures, other: &Figures) {
    for (sum, other) in [
        (&mut sum.goroutines, other.goroutines),
        (&mut sum.threads, other.threads),
        (&mut sum.gomaxprocs, other.gomaxprocs),
        (&mut sum.alloc, other.alloc),
        (&mut sum.sys, other.sys),
        (&mut sum.heap_sys, other.heap_sys),
        (&mut sum.heap_idle, other.heap_idle),
        (&mut sum.heap_inuse, other.heap_inuse),
        (&mut sum.heap_released, other.heap_released),
        (&mut sum.heap_objects, other.heap_objects),
        (&mut sum.stack_inuse, other.stack_inuse),
        (&mut sum.stack_sys, other.stack_sys),
        (&mut sum.mspan_inuse, other.mspan_inuse),
        (&mut sum.mspan_sys, other.mspan_sys),
        (&mut sum.mcache_inuse, other.mcache_inuse),
        (&mut sum.mcache_sys, other.mcache_sys),
        (&mut sum.buck_hash_sys, other.buck_hash_sys),
        (&mut sum.gc_sys, other.gc_sys),
        (&mut sum.other_sys, other.other_sys),
        (&mut sum.next_gc, other.next_gc),
    ] {
        *sum = sum.saturating_add(other);
    }
    // No limit is the largest number.
    sum.memory_limit = sum.memory_limit.saturating_add(other.memory_limit);
    sum.last_gc = sum.last_gc.max(other.last_gc);
    sum.gc_cpu_fraction = sum.gc_cpu_fraction.max(other.gc_cpu_fraction);
    sum.pauses.extend_from_slice(&other.pauses);
    sum.pauses.sort_unstable_by_key(|(_, end)| *end);
    *sum = Totals::of(other).added_to(std::mem::take(sum));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_hold_what_each_has_and_totals_what_has_ended() {
        let one = Figures { goroutines: 3, mallocs: 10, num_gc: 2, last_gc: 7, ..Figures::default() };
        let mut sum = Figures { goroutines: 4, mallocs: 5, num_gc: 1, last_gc: 9, ..Figures::default() };
        sum.pauses = vec![(1, 5)];
        add(&mut sum, &Figures { pauses: vec![(2, 4)], ..one.clone() });
        assert_eq!((sum.goroutines, sum.mallocs, sum.num_gc, sum.last_gc), (7, 15, 3, 9));
        assert_eq!(sum.pauses, [(2, 4), (1, 5)]);
        let with_ended = Totals::of(&one).added_to(sum);
        assert_eq!((with_ended.mallocs, with_ended.goroutines), (25, 7));
    }
}
