//! What a spool knows of its directory without asking it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime},
};

use super::{BatchId, SpoolFigures, name::nanoseconds};

/// The unit in which sizes are kept: that of `st_blocks`.
const BLOCK: u64 = 512;

/// Why points were dropped.
#[derive(Clone, Copy, Debug)]
pub enum Reason {
    Full,
    Expired,
    Corrupt,
}

/// What is known of a batch besides its name.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    blocks: u32,
    /// When its age began, in nanoseconds by the clock that nobody sets; below zero: before the machine came up.
    born: i64,
}

impl Entry {
    /// What takes so many bytes on disk and has this age at this moment.
    pub fn new(bytes: u64, uptime: Duration, age: Duration) -> Self {
        let blocks = u32::try_from(bytes.div_ceil(BLOCK)).unwrap_or(u32::MAX);
        Self { blocks, born: signed(uptime).saturating_sub(signed(age)) }
    }
}

fn signed(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}

/// How old batches are that were found, by their names alone. The newest has no age, and of two that follow one another in
/// time the earlier one is older by what lies between them; more than `longest` isn't believed.
pub fn ages(mut found: Vec<BatchId>, longest: Duration) -> Vec<(BatchId, Duration)> {
    found.sort_unstable_by_key(|id| std::cmp::Reverse(id.time_ns));
    let (mut age, mut newer) = (Duration::ZERO, None);
    let aged = found.into_iter().map(|id| {
        let between = newer.map_or(0, |newer: u64| newer.saturating_sub(id.time_ns));
        let between = Some(Duration::from_nanos(between)).filter(|between| *between <= longest);
        age = age.saturating_add(between.unwrap_or_default());
        newer = Some(id.time_ns);
        (id, age)
    });
    aged.collect()
}

/// The batches, their sizes and ages: 32 bytes each, and what a tree takes besides.
#[derive(Debug, Default)]
pub struct Index {
    batches: BTreeMap<BatchId, Entry>,
    blocks: u64,
    points: u64,
    /// What was set aside.
    bad: BTreeSet<BatchId>,
    /// No batch was ever seen that had this sequence number or a higher one, unless it is the highest of all.
    next: u32,
    dropped_full: u64,
    dropped_expired: u64,
    dropped_corrupt: u64,
}

impl Index {
    /// The name of a new batch: behind all others.
    pub fn next(&self, time: SystemTime, points: u32) -> BatchId {
        let mut id = BatchId { sequence: self.next, time_ns: nanoseconds(time), points };
        // Without an end of numbers (who appends every second has them for 136 years) the time alone tells batches apart.
        if self.next == u32::MAX
            && let Some(last) = self.last().filter(|last| last.sequence == u32::MAX)
        {
            id.time_ns = id.time_ns.max(last.time_ns.saturating_add(1));
        }
        id
    }

    /// Doesn't use the number of this batch again.
    pub fn avoid(&mut self, id: BatchId) {
        self.next = self.next.max(id.sequence.saturating_add(1));
    }

    /// A batch that is there, or there again.
    pub fn insert(&mut self, id: BatchId, entry: Entry) {
        self.avoid(id);
        match self.batches.insert(id, entry) {
            Some(before) => self.blocks -= u64::from(before.blocks),
            None => self.points += u64::from(id.points),
        }
        self.blocks += u64::from(entry.blocks);
    }

    /// Takes a batch out. Nobody else gets it then.
    pub fn take(&mut self, id: BatchId) -> Option<Entry> {
        let entry = self.batches.remove(&id)?;
        self.blocks -= u64::from(entry.blocks);
        self.points -= u64::from(id.points);
        Some(entry)
    }

    pub fn contains(&self, id: BatchId) -> bool {
        self.batches.contains_key(&id)
    }

    pub fn first(&self) -> Option<BatchId> {
        self.batches.first_key_value().map(|(id, _)| *id)
    }

    pub fn last(&self) -> Option<BatchId> {
        self.batches.last_key_value().map(|(id, _)| *id)
    }

    pub fn ids(&self, limit: usize) -> Vec<BatchId> {
        self.batches.keys().take(limit).copied().collect()
    }

    pub fn bytes(&self) -> u64 {
        self.blocks * BLOCK
    }

    /// Those found at opening aren't in the order of their ages if the clock was set, so all are looked at.
    pub fn older_than(&self, age: Duration, uptime: Duration) -> Vec<BatchId> {
        let old = |entry: &Entry| signed(uptime).saturating_sub(entry.born) > signed(age);
        self.batches.iter().filter(|(_, entry)| old(entry)).map(|(id, _)| *id).collect()
    }

    pub fn add_bad(&mut self, id: BatchId) {
        self.avoid(id);
        self.bad.insert(id);
    }

    /// Takes out what was set aside before the newest so many.
    pub fn surplus_bad(&mut self, kept: usize) -> Vec<BatchId> {
        let surplus = self.bad.len().saturating_sub(kept);
        std::iter::from_fn(|| self.bad.pop_first()).take(surplus).collect()
    }

    pub fn count(&mut self, reason: Reason, id: BatchId) {
        let counter = match reason {
            Reason::Full => &mut self.dropped_full,
            Reason::Expired => &mut self.dropped_expired,
            Reason::Corrupt => &mut self.dropped_corrupt,
        };
        *counter += u64::from(id.points);
    }

    pub fn figures(&self) -> SpoolFigures {
        SpoolFigures {
            batches: self.batches.len() as u64,
            points: self.points,
            bytes: self.bytes(),
            oldest: self.first().map(BatchId::time),
            dropped_full: self.dropped_full,
            dropped_expired: self.dropped_expired,
            dropped_corrupt: self.dropped_corrupt,
        }
    }
}
