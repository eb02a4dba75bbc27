//! The books of one target: its live samples, and what every call site has done, within a fixed bound.
//!
//! Pure and in the order in which things are told; times may go back by a little (several processors), they are then booked
//! into the window that is open. Every sum is kept per site and once for all together; samples of sites that found no place
//! are in `other`, so that nothing is missing in the whole.
//!
//! Memory, with the default limits, at most (see [`Ledger::memory_bytes`]): live samples 65,536 x 88 bytes and 4 MiB of tables,
//! sites 20,000 x 416 bytes, windows 200,000 x 100 bytes and up to four more for every site, buckets of ages 200,000 x 64
//! bytes and two, at most four, more for every site: below 64 MiB. A day with a million stacks took 48 MiB.

use std::collections::{HashMap, VecDeque};

use profiler_common::sample;

use super::{
    Estimate, Sum, estimate,
    estimate::Missed,
    site::{Fate, Site},
    windows::Grid,
};

mod figures;
mod terms;
mod told;

pub use figures::{Candidate, Figures};
pub use terms::{Counts, Limits, Looked, NewSample, Placed, SiteIndex, Told};
use told::Profiles;

/// The place of `other` among the sites.
const OTHER: u32 = 0;
/// How many sites are tried for one that may be forgotten.
const TRIES: usize = 64;
/// Ends of processes that are remembered, for samples that are told after them.
const ENDED: usize = 64;
/// Two looks at a block count as two if they are this far apart.
const APART_NS: u64 = 1_000_000_000;

/// Whether something points to a block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Pointed {
    /// Nobody has looked.
    #[default]
    Unknown,
    /// It was found.
    To,
    /// Not found in one look.
    Unfound {
        /// When.
        at_ns: u64,
    },
    /// Not found in two.
    Lost,
}

/// A live sample.
#[derive(Clone, Copy, Debug)]
struct Block {
    id: u64,
    at_ns: u64,
    bytes: u64,
    address: u64,
    weight: f64,
    pid: u32,
    epoch: u32,
    /// Its site's place; `None`: nobody lives here.
    slot: Option<u32>,
    next: Option<u32>,
    previous: Option<u32>,
    pointed: Pointed,
}

/// The books of one target.
#[derive(Debug)]
pub struct Ledger {
    grid: Grid,
    limits: Limits,
    /// The latest moment of which anything was told.
    now_ns: u64,
    /// When all that lives was last confirmed to live.
    confirmed_ns: u64,
    all: Site,
    /// [`OTHER`] first.
    sites: Vec<Site>,
    places: HashMap<u32, u32>,
    hand: usize,
    blocks: Vec<Block>,
    vacant: Vec<u32>,
    ids: HashMap<u64, u32>,
    early: HashMap<u64, u64>,
    early_order: VecDeque<u64>,
    /// Processes (programs) that ended not long ago, and when.
    ended: VecDeque<(u32, Option<u32>, u64)>,
    windows: usize,
    buckets: usize,
    missed: Missed,
    counts: Counts,
    /// What runtimes have told.
    profiles: Profiles,
}

impl Ledger {
    /// Empty books of a watch that began then.
    pub fn new(since_ns: u64, limits: Limits) -> Self {
        Self {
            grid: Grid { since_ns, first_ns: limits.window_ns.max(1) },
            limits,
            now_ns: since_ns,
            confirmed_ns: since_ns,
            all: Site::default(),
            sites: vec![Site::default()],
            places: HashMap::new(),
            hand: 0,
            blocks: Vec::new(),
            vacant: Vec::new(),
            ids: HashMap::new(),
            early: HashMap::new(),
            early_order: VecDeque::new(),
            ended: VecDeque::new(),
            windows: 0,
            buckets: 0,
            missed: Missed::default(),
            counts: Counts::default(),
            profiles: Profiles::default(),
        }
    }

    /// Tells that one point per so many bytes is drawn from now on: how much may have been missed in total.
    pub fn sampled_every(&mut self, mean: u64) {
        self.missed = self.missed.max(Missed::by_mean(mean));
    }

    /// A block was allocated and chosen.
    pub fn allocated(&mut self, sample: NewSample) -> Placed {
        if self.ids.contains_key(&sample.id) {
            self.counts.repeated += 1;
            return Placed::Refused;
        }
        if self.ids.len() >= self.limits.live {
            self.counts.refused += 1;
            return Placed::Refused;
        }
        let shift = self.advance(sample.at_ns);
        let (slot, placed) = self.place(sample.site);
        let weight = sample::weight(sample.threshold.clamp(1, sample::CERTAIN));
        self.all.allocate(self.grid, shift, sample.at_ns, weight, sample.bytes);
        let mut block = Block {
            id: sample.id,
            at_ns: sample.at_ns,
            bytes: sample.bytes,
            address: sample.address,
            weight,
            pid: sample.pid,
            epoch: sample.epoch,
            slot: Some(slot),
            next: None,
            previous: None,
            pointed: Pointed::Unknown,
        };
        let mut follower = None;
        if let Some(site) = self.sites.get_mut(slot as usize) {
            let windows = site.cells().0;
            block.at_ns = site.allocate(self.grid, shift, sample.at_ns, weight, sample.bytes);
            // Coarser windows may make them fewer.
            self.windows = (self.windows + site.cells().0).saturating_sub(windows);
            follower = site.first;
        }
        block.next = follower;
        let at = self.keep(block);
        if let Some(follower) = follower.and_then(|at| self.blocks.get_mut(at as usize)) {
            follower.previous = Some(at);
        }
        if let Some(site) = self.sites.get_mut(slot as usize) {
            site.first = Some(at);
        }
        self.ids.insert(sample.id, at);
        self.thin_out();
        if let Some(freed_ns) = self.early.remove(&sample.id) {
            self.counts.early += 1;
            self.freed(sample.id, freed_ns.max(sample.at_ns));
        } else if let Some((.., ended_ns)) = self.ended.iter().find(|(pid, epoch, at_ns)| {
            *pid == sample.pid && *at_ns >= sample.at_ns && epoch.is_none_or(|epoch| epoch == sample.epoch)
        }) {
            self.end_with_process(sample.id, *ended_ns);
        }
        placed
    }

    /// A block was given back. An id that isn't known is remembered for a while: its beginning may be told later.
    pub fn freed(&mut self, id: u64, at_ns: u64) {
        let Some(at) = self.ids.remove(&id) else {
            self.unknown(id, at_ns);
            return;
        };
        self.end(at, at_ns, |block| Fate::Freed { age_ns: at_ns.saturating_sub(block.at_ns) });
    }

    /// A block's end was not seen: it counts as given back half-way between now and when it was last known to live.
    pub fn gone(&mut self, id: u64, at_ns: u64) {
        let Some(at) = self.ids.remove(&id) else {
            self.unknown(id, at_ns);
            return;
        };
        self.counts.gone += 1;
        let confirmed_ns = self.confirmed_ns;
        self.end(at, at_ns, |block| {
            let seen_ns = block.at_ns.max(confirmed_ns.min(at_ns));
            Fate::Freed { age_ns: (seen_ns - block.at_ns) + at_ns.saturating_sub(seen_ns) / 2 }
        });
    }

    /// Everything that is still on the books then was compared with the kernel's map and is there.
    pub fn confirmed(&mut self, at_ns: u64) {
        self.confirmed_ns = self.confirmed_ns.max(at_ns);
    }

    /// A process (or only its program of this epoch) has ended: what lived there lives no more, and nobody knows for how
    /// long it would have.
    pub fn process_ended(&mut self, pid: u32, epoch: Option<u32>, at_ns: u64) {
        if self.ended.len() >= ENDED {
            self.ended.pop_front();
        }
        self.ended.push_back((pid, epoch, at_ns));
        let lived_there = |block: &&Block| {
            block.slot.is_some() && block.pid == pid && epoch.is_none_or(|epoch| epoch == block.epoch)
        };
        let ids: Vec<u64> = self.blocks.iter().filter(lived_there).map(|block| block.id).collect();
        for id in ids {
            self.end_with_process(id, at_ns);
        }
        self.forget_told(pid, at_ns);
    }

    /// Books the results of a search of memory. A block counts as pointed to by nothing after two searches in a row that
    /// found nothing; one that finds something takes it back.
    pub fn set_unreferenced(&mut self, results: &[Looked], at_ns: u64) {
        for result in results {
            let Some(block) = self.ids.get(&result.id).and_then(|at| self.blocks.get_mut(*at as usize))
            else {
                continue;
            };
            block.pointed = match block.pointed {
                _ if result.referenced => Pointed::To,
                Pointed::Unknown | Pointed::To => Pointed::Unfound { at_ns },
                Pointed::Unfound { at_ns: before_ns } if before_ns.saturating_add(APART_NS) <= at_ns => {
                    Pointed::Lost
                }
                as_before => as_before,
            };
        }
    }

    /// The ids of all that lives, to be compared with the kernel's map.
    pub fn live_ids(&self) -> impl Iterator<Item = u64> {
        self.ids.keys().copied()
    }

    /// What lives in a process, or in its program of one epoch: ids, epochs, addresses.
    pub fn living_in(&self, pid: u32, epoch: Option<u32>) -> Vec<(u64, u32, u64)> {
        let there = |block: &&Block| {
            block.slot.is_some() && block.pid == pid && epoch.is_none_or(|epoch| epoch == block.epoch)
        };
        self.blocks.iter().filter(there).map(|block| (block.id, block.epoch, block.address)).collect()
    }

    /// Everything that lives: ids, processes, epochs, addresses, and since when.
    pub fn all_living(&self) -> Vec<(u64, u32, u32, u64, u64)> {
        let living = self.blocks.iter().filter(|block| block.slot.is_some());
        living.map(|block| (block.id, block.pid, block.epoch, block.address, block.at_ns)).collect()
    }

    /// Whether a site has a place, so that its stack is worth keeping.
    pub fn holds(&self, site: SiteIndex) -> bool {
        self.places.contains_key(&site.0)
    }

    /// What could not be booked as told.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Live bytes of all sites together, `other` included.
    pub fn live_bytes(&self) -> Estimate {
        estimate::bytes(&self.all.live, self.missed.max(self.all.missed))
    }

    /// Bytes of memory that the books take, at most (tables at full load).
    pub fn memory_bytes(&self) -> usize {
        let table = |capacity: usize, entry: usize| capacity * 8 / 7 * (entry + 1);
        let sites: usize = self.sites.iter().chain([&self.all]).map(Site::heap_bytes).sum();
        size_of::<Self>()
            + sites
            + self.sites.capacity() * size_of::<Site>()
            + self.blocks.capacity() * size_of::<Block>()
            + self.vacant.capacity() * size_of::<u32>()
            + table(self.places.capacity(), size_of::<(u32, u32)>())
            + table(self.ids.capacity(), size_of::<(u64, u32)>())
            + table(self.early.capacity(), size_of::<(u64, u64)>())
            + self.early_order.capacity() * size_of::<u64>()
            + self.profiles.heap_bytes()
    }

    /// Books that a live sample's process ended.
    fn end_with_process(&mut self, id: u64, at_ns: u64) {
        if let Some(at) = self.ids.remove(&id) {
            self.counts.ended += 1;
            self.end(at, at_ns, |block| Fate::Ended { age_ns: at_ns.saturating_sub(block.at_ns) });
        }
    }

    /// Remembers the end of a block that isn't known, in case that its beginning is told later.
    fn unknown(&mut self, id: u64, at_ns: u64) {
        self.counts.unknown += 1;
        if self.early.insert(id, at_ns).is_none() {
            self.early_order.push_back(id);
        }
        while self.early_order.len() > self.limits.early {
            if let Some(id) = self.early_order.pop_front() {
                self.early.remove(&id);
            }
        }
    }

    /// Takes note of a moment; how often the windows' length has doubled.
    fn advance(&mut self, at_ns: u64) -> u8 {
        self.now_ns = self.now_ns.max(at_ns);
        self.grid.shift(self.now_ns)
    }

    /// The place of a site: its own, a new one, that of an idle one, or that of all others.
    fn place(&mut self, site: SiteIndex) -> (u32, Placed) {
        if let Some(slot) = self.places.get(&site.0) {
            return (*slot, Placed::Site(None));
        }
        let fresh = Site { key: site.0, ..Site::default() };
        if self.sites.len() <= self.limits.sites {
            if self.sites.len() == self.sites.capacity() {
                self.sites.reserve_exact(512.min(self.limits.sites));
            }
            let slot = u32::try_from(self.sites.len()).unwrap_or(OTHER);
            self.sites.push(fresh);
            self.places.insert(site.0, slot);
            return (slot, Placed::Site(None));
        }
        for _ in 0..TRIES.min(self.sites.len()) {
            self.hand = if self.hand + 1 >= self.sites.len() { 1 } else { self.hand + 1 };
            let idle = |held: &&mut Site| {
                held.live.n == 0 && held.last_ns.saturating_add(self.limits.idle_ns) < self.now_ns
            };
            let Some(held) = self.sites.get_mut(self.hand).filter(idle) else { continue };
            let forgotten = std::mem::replace(held, fresh);
            let (windows, buckets) = forgotten.cells();
            self.windows = self.windows.saturating_sub(windows);
            self.buckets = self.buckets.saturating_sub(buckets);
            if let Some(other) = self.sites.get_mut(OTHER as usize) {
                other.allocated.add(&forgotten.allocated);
                other.freed.add(&forgotten.freed);
                other.missed = other.missed.max(forgotten.missed);
            }
            let slot = u32::try_from(self.hand).unwrap_or(OTHER);
            self.places.remove(&forgotten.key);
            self.places.insert(site.0, slot);
            self.counts.forgotten += 1;
            return (slot, Placed::Site(Some(SiteIndex(forgotten.key))));
        }
        self.counts.other += 1;
        (OTHER, Placed::Other)
    }

    /// Keeps a block; where.
    fn keep(&mut self, block: Block) -> u32 {
        if let Some(at) = self.vacant.pop()
            && let Some(place) = self.blocks.get_mut(at as usize)
        {
            *place = block;
            return at;
        }
        let at = u32::try_from(self.blocks.len()).unwrap_or(u32::MAX);
        self.blocks.push(block);
        at
    }

    /// Books the end of a block whose id has been taken away already.
    fn end(&mut self, at: u32, at_ns: u64, fate: impl FnOnce(&Block) -> Fate) {
        let shift = self.advance(at_ns);
        let Some(place) = self.blocks.get_mut(at as usize) else { return };
        let Some(slot) = place.slot.take() else { return };
        let block = *place;
        self.vacant.push(at);
        if let Some(next) = block.next.and_then(|next| self.blocks.get_mut(next as usize)) {
            next.previous = block.previous;
        }
        if let Some(previous) = block.previous.and_then(|previous| self.blocks.get_mut(previous as usize)) {
            previous.next = block.next;
        }
        let fate = fate(&block);
        let sum = Sum::of(block.weight, block.bytes);
        self.all.end(self.grid, shift, at_ns, &sum, fate, true);
        if let Some(site) = self.sites.get_mut(slot as usize) {
            if block.previous.is_none() {
                site.first = block.next;
            }
            if block.pointed == Pointed::Lost && matches!(fate, Fate::Freed { .. }) {
                site.found_in_use = site.found_in_use.saturating_add(1);
            }
            let before = site.cells();
            site.end(self.grid, shift, at_ns, &sum, fate, self.buckets < self.limits.buckets);
            let after = site.cells();
            self.windows = (self.windows + after.0).saturating_sub(before.0);
            self.buckets = (self.buckets + after.1).saturating_sub(before.1);
        }
        self.thin_out();
    }

    /// Makes windows coarser if there are too many: those of the sites that have the most of them first.
    fn thin_out(&mut self) {
        if self.windows <= self.limits.windows {
            return;
        }
        for most in [32, 16, 8, 4, 2, 1, 0] {
            for site in &mut self.sites {
                site.track.thin_out(most);
            }
            self.windows = self.sites.iter().map(|site| site.cells().0).sum();
            if self.windows <= self.limits.windows / 4 * 3 {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests;
