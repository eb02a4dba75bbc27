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

/// The batches and their sizes: 20 bytes each, and what a tree takes besides.
#[derive(Debug, Default)]
pub struct Index {
    /// Blocks by batch.
    batches: BTreeMap<BatchId, u32>,
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

    /// Bytes on disk.
    pub fn insert(&mut self, id: BatchId, bytes: u64) {
        self.avoid(id);
        let blocks = u32::try_from(bytes.div_ceil(BLOCK)).unwrap_or(u32::MAX);
        match self.batches.insert(id, blocks) {
            Some(before) => self.blocks -= u64::from(before),
            None => self.points += u64::from(id.points),
        }
        self.blocks += u64::from(blocks);
    }

    /// Takes a batch out: the bytes that it has on disk. Nobody else gets it then.
    pub fn take(&mut self, id: BatchId) -> Option<u64> {
        let blocks = u64::from(self.batches.remove(&id)?);
        self.blocks -= blocks;
        self.points -= u64::from(id.points);
        Some(blocks * BLOCK)
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

    /// The clock may have been set back between any two batches, so all are looked at.
    pub fn older_than(&self, now: SystemTime, age: Duration) -> Vec<BatchId> {
        let now = nanoseconds(now);
        let old = |id: &&BatchId| Duration::from_nanos(now.saturating_sub(id.time_ns)) > age;
        self.batches.keys().filter(old).copied().collect()
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
