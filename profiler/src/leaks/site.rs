//! The books of one site.

use super::{
    Sum,
    estimate::Missed,
    lifetimes::Ages,
    windows::{Grid, Track},
};

/// Everything that is known of one site but its live samples, which are the ledger's.
#[derive(Clone, Debug, Default)]
pub(super) struct Site {
    /// What the outside calls it.
    pub(super) key: u32,
    /// First of its live samples, as place in the ledger.
    pub(super) first: Option<u32>,
    pub(super) live: Sum,
    pub(super) allocated: Sum,
    pub(super) freed: Sum,
    pub(super) missed: Missed,
    pub(super) track: Track,
    pub(super) ages: Ages,
    /// Blocks that were given back although nothing seemed to point to them: the search doesn't see what points here.
    pub(super) found_in_use: u32,
    /// When something last happened.
    pub(super) last_ns: u64,
}

/// What has become of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It was given back at this age.
    Freed {
        /// Nanoseconds.
        age_ns: u64,
    },
    /// Its process ended when it had this age.
    Ended {
        /// Nanoseconds.
        age_ns: u64,
    },
}

impl Site {
    /// Books an allocation; returns the moment at which it was booked.
    pub(super) fn allocate(&mut self, grid: Grid, shift: u8, at_ns: u64, weight: f64, bytes: u64) -> u64 {
        let sum = Sum::of(weight, bytes);
        let booked_ns = self.track.turn_to(grid, shift, at_ns, &self.live);
        self.track.allocated(&sum);
        self.allocated.add(&sum);
        self.live.add(&sum);
        self.missed.learn(weight, bytes);
        self.last_ns = self.last_ns.max(booked_ns);
        booked_ns
    }

    /// Books the end of a block. `room`: whether there may be a further bucket of ages.
    pub(super) fn end(&mut self, grid: Grid, shift: u8, at_ns: u64, sum: &Sum, fate: Fate, room: bool) {
        let booked_ns = self.track.turn_to(grid, shift, at_ns, &self.live);
        self.live.remove(sum);
        match fate {
            Fate::Freed { age_ns } => {
                self.track.freed(sum);
                self.freed.add(sum);
                self.ages.freed(age_ns, sum, room);
            }
            Fate::Ended { age_ns } => self.ages.ended(age_ns, sum, room),
        }
        self.track.sunk(&self.live);
        self.last_ns = self.last_ns.max(booked_ns);
    }

    /// Windows and buckets of ages that are held.
    pub(super) fn cells(&self) -> (usize, usize) {
        (self.track.cells(), self.ages.cells())
    }

    /// Bytes that are held besides the struct itself.
    pub(super) fn heap_bytes(&self) -> usize {
        self.track.heap_bytes() + self.ages.heap_bytes()
    }
}
