//! What runtimes tell of their own heaps: counts of sampled objects by call path and size, at every garbage collection.
//!
//! Nobody says which objects were freed. So what was freed between two readings is taken from what came last (a stack): then
//! of all that came after any moment, at least as many live as the stack has from then on, in whatever order they were freed
//! in truth. (Let `L` be how many lived at each reading. Of what came after reading `i`, at least `L(now) - L(i)` live, as of
//! the others at most `L(i)` can. The stack has from reading `i` on what `L(now)` exceeds the least `L` since then by: the
//! bound for that later reading, which is one for `i` as well.)

use std::collections::{BTreeSet, HashMap, hash_map::Entry};

use super::{Ledger, OTHER, Placed, Site, SiteIndex, Sum, Told};
use crate::leaks::{Stay, windows::Grid};

/// Batches of one record's stack; when there are more, those of the same window become one.
const BATCHES: usize = 128;
/// Readings of a process before anything counts as new: the first one says what was there, and the second one when the first
/// of them was published, which nobody knows of the first.
const BEFORE: u32 = 2;

/// A record's name: its process and its own.
type Key = (u32, u64);

/// Objects that came between two readings and are on the stack.
#[derive(Clone, Copy, Debug)]
struct Batch {
    from_ns: u64,
    to_ns: u64,
    n: u64,
}

impl Batch {
    const fn middle_ns(self) -> u64 {
        u64::midpoint(self.from_ns, self.to_ns)
    }
}

/// One record. What lives beyond the stack was there before.
#[derive(Clone, Debug)]
struct Record {
    /// Its site's place while anything of it lives.
    slot: u32,
    size: u64,
    weight: f64,
    allocs: u64,
    frees: u64,
    stack: Vec<Batch>,
}

impl Record {
    const fn live(&self) -> u64 {
        self.allocs.saturating_sub(self.frees)
    }

    /// One sampled object.
    fn one(&self) -> Sum {
        Sum::of(self.weight, self.size)
    }
}

/// A process that tells.
#[derive(Clone, Copy, Debug)]
struct Teller {
    /// One sample per so many bytes.
    rate: u64,
    readings: u32,
    last_ns: u64,
}

/// A reading that is being told.
#[derive(Clone, Copy, Debug)]
struct Reading {
    pid: u32,
    before: bool,
    from_ns: u64,
    to_ns: u64,
}

/// Everything that runtimes have told.
#[derive(Debug, Default)]
pub(super) struct Profiles {
    tellers: HashMap<u32, Teller>,
    records: HashMap<Key, Record>,
    /// Records with a stack, by the place of their site.
    stacked: BTreeSet<(u32, Key)>,
    batches: usize,
    reading: Option<Reading>,
    /// Places of sites of which the present reading has told something.
    touched: Vec<u32>,
    /// From when to when anything could be seen to be new.
    pub(super) span: Option<(u64, u64)>,
    /// There is or was one.
    pub(super) any: bool,
}

impl Profiles {
    /// Bytes that are held besides the struct itself.
    pub(super) fn heap_bytes(&self) -> usize {
        let records = self.records.capacity() * 8 / 7 * (size_of::<(Key, Record)>() + 1);
        // A leaf of a B-tree has eleven entries, and is half full at least.
        let stacked = self.stacked.len() * 2 * size_of::<(u32, Key)>();
        let batches: usize = self.records.values().map(|record| record.stack.capacity()).sum();
        records + stacked + batches * size_of::<Batch>() + self.touched.capacity() * size_of::<u32>()
    }

    /// What is on the stacks of one site (by its place), or of all.
    pub(super) fn stays(&self, slot: Option<u32>) -> Vec<Stay> {
        let range = match slot {
            Some(slot) => self.stacked.range((slot, (0, 0))..=(slot, (u32::MAX, u64::MAX))),
            None => self.stacked.range(..),
        };
        let mut stays = Vec::new();
        for (_, key) in range {
            let Some(record) = self.records.get(key) else { continue };
            stays.extend(record.stack.iter().map(|batch| Stay {
                from_ns: batch.from_ns,
                to_ns: batch.to_ns,
                n: batch.n,
                size: record.size,
                weight: record.weight,
            }));
        }
        stays
    }
}

/// Batches of the same window become one. True of every batch: it came within its bounds.
fn merge(stack: &mut Vec<Batch>, grid: Grid, shift: u8) {
    stack.dedup_by(|later, earlier| {
        let same = grid.index(later.middle_ns(), shift) == grid.index(earlier.middle_ns(), shift);
        if same {
            earlier.to_ns = later.to_ns;
            earlier.n = earlier.n.saturating_add(later.n);
        }
        same
    });
    stack.shrink_to_fit();
}

impl Ledger {
    /// A process's runtime has published a new profile, at this moment, with one sample per `rate` bytes: its records are told
    /// now, and then [`Self::end_reading`]. Whether it is the first of this process.
    pub fn begin_reading(&mut self, pid: u32, rate: u64, at_ns: u64) -> bool {
        if self.profiles.tellers.get(&pid).is_some_and(|teller| teller.rate != rate) {
            // What was counted at another rate is scaled by the new one from now on: nothing can be compared.
            self.forget_told(pid, at_ns);
        }
        let new = Teller { rate, readings: 0, last_ns: at_ns };
        let teller = self.profiles.tellers.entry(pid).or_insert(new);
        let reading = Reading {
            pid,
            before: teller.readings < BEFORE,
            from_ns: teller.last_ns,
            to_ns: at_ns.max(teller.last_ns),
        };
        teller.readings = teller.readings.saturating_add(1);
        teller.last_ns = reading.to_ns;
        if teller.readings >= BEFORE {
            let (since_ns, until_ns) = self.profiles.span.unwrap_or((reading.to_ns, reading.to_ns));
            self.profiles.span = Some((since_ns, until_ns.max(reading.to_ns)));
        }
        let first = teller.readings == 1;
        self.profiles.any = true;
        self.profiles.reading = Some(reading);
        self.sampled_every(if rate <= 1 { 0 } else { rate });
        first
    }

    /// Whether a record of the reading that has begun says anything that is to be booked with [`Self::tell`].
    pub fn is_news(&mut self, told: &Told) -> bool {
        let Some(reading) = self.profiles.reading else { return false };
        let frees = told.frees.min(told.allocs);
        let known = self.profiles.records.get(&(reading.pid, told.record));
        let news = known.map_or(told.allocs > 0, |known| told.allocs > known.allocs || frees > known.frees);
        if news && reading.before && told.allocs == frees && known.is_none_or(|known| known.live() == 0) {
            // What has come and gone before needs no site.
            let Some(record) = self.record(told) else { return false };
            record.allocs = record.allocs.max(told.allocs);
            record.frees = record.allocs;
            return false;
        }
        news
    }

    /// The record of that name; `None` if it is new and there is no place for it.
    fn record(&mut self, told: &Told) -> Option<&mut Record> {
        let pid = self.profiles.reading?.pid;
        let full = self.profiles.records.len() >= self.limits.records;
        match self.profiles.records.entry((pid, told.record)) {
            Entry::Occupied(known) => Some(known.into_mut()),
            Entry::Vacant(_) if full => {
                self.counts.refused += 1;
                None
            }
            Entry::Vacant(vacant) => Some(vacant.insert(Record {
                slot: OTHER,
                size: told.size,
                weight: told.weight,
                allocs: 0,
                frees: 0,
                stack: Vec::new(),
            })),
        }
    }

    /// A record of the reading that has begun. Counts that have gone back (before the first collection, the runtime tells
    /// of more than after it) are not believed: the highest ones stand.
    pub fn tell(&mut self, told: &Told, site: SiteIndex) -> Placed {
        let Some(reading) = self.profiles.reading else { return Placed::Refused };
        let key = (reading.pid, told.record);
        let Some(record) = self.record(told) else { return Placed::Refused };
        // What lives at a place can only be freed there.
        let bound = (record.live() > 0).then_some(record.slot);
        let shift = self.advance(reading.to_ns);
        let (slot, placed) = match bound {
            Some(OTHER) => (OTHER, Placed::Other),
            Some(slot) => (slot, Placed::Site(None)),
            None => self.place(site),
        };
        let Some(record) = self.profiles.records.get_mut(&key) else { return placed };
        record.slot = slot;
        let came = told.allocs.saturating_sub(record.allocs);
        let went = told.frees.min(told.allocs).saturating_sub(record.frees);
        record.allocs += came;
        record.frees += went;
        let (sum, size, weight) = (record.one(), record.size, record.weight);
        let batches = record.stack.len();
        if came > 0 && !reading.before {
            record.stack.push(Batch { from_ns: reading.from_ns, to_ns: reading.to_ns, n: came });
        }
        let since_ns = self.profiles.span.map_or(reading.to_ns, |(since_ns, _)| since_ns);
        let fates = take(&mut record.stack, went, since_ns, reading.to_ns);
        if record.stack.len() > BATCHES {
            merge(&mut record.stack, self.grid, shift);
        }
        self.profiles.batches = (self.profiles.batches + record.stack.len()).saturating_sub(batches);
        match record.stack.is_empty() {
            true => self.profiles.stacked.remove(&(slot, key)),
            false => self.profiles.stacked.insert((slot, key)),
        };
        let was_there = came.saturating_sub(went);
        let rooms = [true, self.buckets < self.limits.buckets];
        let site = self.sites.get_mut(slot as usize);
        let cells = site.as_ref().map_or((0, 0), |site| site.cells());
        for (site, room) in [Some(&mut self.all), site].into_iter().flatten().zip(rooms) {
            site.track.turn_to(self.grid, shift, reading.to_ns, &site.live);
            site.last_ns = site.last_ns.max(reading.to_ns);
            site.missed.learn(weight, size);
            site.live.add(&sum.times(came));
            if reading.before {
                site.live.remove(&sum.times(went));
                site.track.was_there(&sum.times(was_there));
                continue;
            }
            site.allocated.add(&sum.times(came));
            site.track.allocated(&sum.times(came));
            for (n, age_ns) in &fates {
                site.live.remove(&sum.times(*n));
                site.freed.add(&sum.times(*n));
                site.track.freed(&sum.times(*n));
                site.ages.freed(*age_ns, &sum.times(*n), room);
            }
        }
        let after = self.sites.get(slot as usize).map_or((0, 0), Site::cells);
        self.windows = (self.windows + after.0).saturating_sub(cells.0);
        self.buckets = (self.buckets + after.1).saturating_sub(cells.1);
        self.profiles.touched.push(slot);
        placed
    }

    /// All records have been told: what lives now is known of every site.
    pub fn end_reading(&mut self) {
        let Some(reading) = self.profiles.reading.take() else { return };
        // Also where nothing has happened, this much time has passed.
        self.advance(reading.to_ns);
        let mut touched = std::mem::take(&mut self.profiles.touched);
        touched.sort_unstable();
        touched.dedup();
        for slot in touched {
            if let Some(site) = self.sites.get_mut(slot as usize) {
                site.track.sunk(&site.live);
            }
        }
        self.all.track.sunk(&self.all.live);
        self.thin_out();
        self.thin_out_stacks();
    }

    /// A process has ended, or tells no more: nobody knows for how long its objects would have lived.
    pub(super) fn forget_told(&mut self, pid: u32, at_ns: u64) {
        if self.profiles.tellers.remove(&pid).is_none() {
            return;
        }
        let shift = self.advance(at_ns);
        let theirs: Vec<(Key, Record)> = self.profiles.records.extract_if(|key, _| key.0 == pid).collect();
        for (key, record) in theirs {
            self.profiles.batches = self.profiles.batches.saturating_sub(record.stack.len());
            self.profiles.stacked.remove(&(record.slot, key));
            let lived = record.one().times(record.live());
            if lived.n == 0 {
                continue;
            }
            let site = self.sites.get_mut(record.slot as usize);
            let cells = site.as_ref().map_or(0, |site| site.cells().0);
            for site in [Some(&mut self.all), site].into_iter().flatten() {
                site.track.turn_to(self.grid, shift, at_ns, &site.live);
                site.live.remove(&lived);
                site.track.sunk(&site.live);
            }
            let after = self.sites.get(record.slot as usize).map_or(0, |site| site.cells().0);
            self.windows = (self.windows + after).saturating_sub(cells);
        }
        self.thin_out();
    }

    /// Merges batches until there are not too many of them.
    fn thin_out_stacks(&mut self) {
        let shift = self.grid.shift(self.now_ns);
        for coarser in 0..=u8::BITS as u8 {
            if self.profiles.batches <= self.limits.windows {
                return;
            }
            for record in self.profiles.records.values_mut() {
                merge(&mut record.stack, self.grid, shift.saturating_add(coarser));
            }
            self.profiles.batches = self.profiles.records.values().map(|record| record.stack.len()).sum();
        }
    }
}

/// Takes so many from the top of a stack: how many, at which age. What was there before is older than anything since.
fn take(stack: &mut Vec<Batch>, mut n: u64, since_ns: u64, now_ns: u64) -> Vec<(u64, u64)> {
    let mut taken = Vec::new();
    while n > 0 {
        let Some(top) = stack.last_mut() else {
            taken.push((n, now_ns.saturating_sub(since_ns)));
            break;
        };
        let many = n.min(top.n);
        taken.push((many, now_ns.saturating_sub(top.middle_ns())));
        top.n -= many;
        n -= many;
        if top.n == 0 {
            stack.pop();
        }
    }
    taken
}

#[cfg(test)]
mod tests;
