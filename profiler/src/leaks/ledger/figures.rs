//! What is told of the books: figures of a site or of all together, evidence for the judge, blocks to look for.

use std::time::Duration;

use super::{Block, Ledger, Missed, OTHER, Pointed, Site, SiteIndex};
use crate::leaks::{Ages, Estimate, Evidence, LiveSample, SiteReport, Sum, Window, estimate};

/// "Of late" is the last part of the watch: this one, but [`LATE_NS`] at least.
const LATE_PART: u64 = 16;
/// See [`LATE_PART`].
const LATE_NS: u64 = 10_000_000_000;

/// The figures of a [`SiteReport`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures {
    /// Bytes that live.
    pub live_bytes: Estimate,
    /// Blocks that live.
    pub live_objects: Estimate,
    /// Bytes allocated since the beginning.
    pub allocated_bytes: Estimate,
    /// Blocks allocated since the beginning.
    pub allocated_objects: Estimate,
    /// Bytes allocated per second, of late.
    pub allocation_rate: f64,
    /// Bytes given back per second, of late.
    pub free_rate: f64,
    /// How old the live blocks are.
    pub ages: Ages,
    /// See [`SiteReport::survival`].
    pub survival: Vec<(Duration, f64)>,
    /// Samples drawn since the beginning, and alive.
    pub samples: (u64, u64),
    /// See [`SiteReport::unreferenced`].
    pub unreferenced: Option<(u32, u32)>,
    /// Live bytes at the end of every window (`CLOCK_MONOTONIC`, nanoseconds), the beginning's first: at most 64.
    pub history: Vec<(u64, f64)>,
}

/// One mistake may be a race; see `unreferenced`.
const MISTAKES: u32 = 2;

/// A live sample that is worth being looked for in its process's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The sample.
    pub id: u64,
    /// Its site; `None`: one of `other`.
    pub site: Option<SiteIndex>,
    /// Its process.
    pub pid: u32,
    /// `Switches::epoch` when it was drawn.
    pub epoch: u32,
    /// Where the block is.
    pub address: u64,
    /// Its size as asked for.
    pub bytes: u64,
}

impl Figures {
    /// Writes the figures into a report; `time` tells the time of day of a moment of `CLOCK_MONOTONIC`.
    pub fn put_into(self, report: &mut SiteReport, time: impl Fn(u64) -> std::time::SystemTime) {
        report.live_bytes = self.live_bytes;
        report.live_objects = self.live_objects;
        report.allocated_bytes = self.allocated_bytes;
        report.allocated_objects = self.allocated_objects;
        report.allocation_rate = self.allocation_rate;
        report.free_rate = self.free_rate;
        report.ages = self.ages;
        report.survival = self.survival;
        report.samples = self.samples;
        report.unreferenced = self.unreferenced;
        let point = |(at_ns, live_bytes)| crate::leaks::Point { at: time(at_ns), live_bytes };
        report.history = self.history.into_iter().map(point).collect();
    }
}

impl Ledger {
    /// Every site that has a place (not `other`) and what lives there, in no order.
    pub fn sites(&self) -> impl Iterator<Item = (SiteIndex, &Sum)> {
        self.sites.iter().skip(1).map(|site| (SiteIndex(site.key), &site.live))
    }

    /// Samples of the sites that found no place, and what lives of them.
    pub fn other(&self) -> (u64, Estimate) {
        let Some(other) = self.sites.get(OTHER as usize) else { return (0, Estimate::default()) };
        (other.allocated.n, estimate::bytes(&other.live, other.missed))
    }

    /// Figures of a site.
    pub fn figures(&self, site: SiteIndex, now_ns: u64) -> Option<Figures> {
        let site = self.site(site)?;
        Some(self.figures_of(site, &self.blocks_of(site), site.missed, now_ns))
    }

    /// Figures of all sites together.
    pub fn figures_of_all(&self, now_ns: u64) -> Figures {
        self.figures_of(&self.all, &self.all_blocks(), self.missed.max(self.all.missed), now_ns)
    }

    /// What is known of a site, for the judge.
    pub fn evidence(&self, site: SiteIndex, now_ns: u64) -> Option<Evidence> {
        let site = self.site(site)?;
        if self.profiles.any {
            return Some(self.collected(site, self.places.get(&site.key).copied()));
        }
        Some(self.evidence_of(site, &self.blocks_of(site), now_ns))
    }

    /// What is known of all sites together, for the judge.
    pub fn evidence_of_all(&self, now_ns: u64) -> Evidence {
        if self.profiles.any {
            return self.collected(&self.all, None);
        }
        self.evidence_of(&self.all, &self.all_blocks(), now_ns)
    }

    /// Live samples old enough to be looked for in memory, those of the sites first that grew most since half the watch ago.
    ///
    /// Of each site a fixed part in the order of a hash: as good as drawn by lot, so that the part found says something of
    /// the site; and the same ones every time, so that each is looked for twice.
    pub fn candidates(&self, now_ns: u64) -> Vec<Candidate> {
        let middle_ns = self.grid.since_ns + now_ns.saturating_sub(self.grid.since_ns) / 2;
        let mut sites: Vec<(f64, bool, &Site)> = Vec::new();
        for (slot, site) in self.sites.iter().enumerate().filter(|(_, site)| site.live.n > 0) {
            let growth = site.live.bytes - site.track.live_bytes_at(self.grid, middle_ns, &site.live);
            sites.push((growth, slot == OTHER as usize, site));
        }
        sites.sort_by(|one, other| {
            other.0.total_cmp(&one.0).then(other.2.live.bytes.total_cmp(&one.2.live.bytes))
        });
        let mut candidates = Vec::new();
        for (_, is_other, site) in sites {
            let room = self.limits.candidates.saturating_sub(candidates.len());
            let many = room.min(self.limits.candidates_of_site);
            if many == 0 {
                break;
            }
            let mut old = self.blocks_of(site);
            old.retain(|block| block.at_ns.saturating_add(self.limits.old_ns) <= now_ns);
            if old.len() > many {
                old.select_nth_unstable_by_key(many, |block| lot(block.id));
                old.truncate(many);
            }
            candidates.extend(old.into_iter().map(|block| Candidate {
                id: block.id,
                site: (!is_other).then_some(SiteIndex(site.key)),
                pid: block.pid,
                epoch: block.epoch,
                address: block.address,
                bytes: block.bytes,
            }));
        }
        candidates
    }

    fn site(&self, site: SiteIndex) -> Option<&Site> {
        self.places.get(&site.0).and_then(|slot| self.sites.get(*slot as usize))
    }

    /// The live blocks of a site.
    fn blocks_of(&self, site: &Site) -> Vec<&Block> {
        let mut blocks = Vec::new();
        let mut at = site.first;
        while let Some(block) = at.and_then(|at| self.blocks.get(at as usize)) {
            blocks.push(block);
            at = block.next;
        }
        blocks
    }

    fn all_blocks(&self) -> Vec<&Block> {
        self.blocks.iter().filter(|block| block.slot.is_some()).collect()
    }

    fn windows_of(&self, site: &Site, now_ns: u64) -> (u8, Vec<Window>) {
        site.track.windows(self.grid, now_ns.max(self.now_ns), &site.live)
    }

    fn evidence_of(&self, site: &Site, blocks: &[&Block], now_ns: u64) -> Evidence {
        let (shift, mut windows) = self.windows_of(site, now_ns);
        for block in blocks {
            let index = usize::try_from(self.grid.index(block.at_ns, shift)).unwrap_or(usize::MAX);
            if let Some(window) = windows.get_mut(index) {
                window.surviving.add(&Sum::of(block.weight, block.bytes));
            }
        }
        let live =
            |block: &&Block| LiveSample { at_ns: block.at_ns, bytes: block.bytes, weight: block.weight };
        Evidence {
            windows,
            live: blocks.iter().map(live).collect(),
            lifetimes: site.ages.lifetimes(),
            unreferenced: unreferenced(site, blocks),
            ..Evidence::default()
        }
    }

    /// What runtimes tell of a site (by its place) or of all: from the moment on when something could be seen to be new, to the
    /// last reading. Since then nothing is known.
    fn collected(&self, site: &Site, slot: Option<u32>) -> Evidence {
        let nothing = Evidence { collected: true, ..Evidence::default() };
        let Some((since_ns, until_ns)) = self.profiles.span.filter(|(since, until)| since < until) else {
            return nothing;
        };
        let (shift, mut windows) = site.track.windows(self.grid, until_ns, &site.live);
        let stays = self.profiles.stays(slot);
        for stay in &stays {
            let index = self.grid.index(u64::midpoint(stay.from_ns, stay.to_ns), shift);
            if let Some(window) = usize::try_from(index).ok().and_then(|index| windows.get_mut(index)) {
                window.surviving.add(&Sum::of(stay.weight, stay.size).times(stay.n));
            }
        }
        windows.retain(|window| window.end_ns > since_ns && window.begin_ns <= until_ns);
        if let Some(first) = windows.first_mut() {
            first.begin_ns = first.begin_ns.max(since_ns);
        }
        Evidence { windows, lifetimes: site.ages.lifetimes(), stays, ..nothing }
    }

    fn figures_of(&self, site: &Site, blocks: &[&Block], missed: Missed, now_ns: u64) -> Figures {
        // Runtimes tell up to their last reading.
        let told_ns = self.profiles.span.map(|(_, until_ns)| until_ns).filter(|_| self.profiles.any);
        let now_ns = told_ns.unwrap_or_else(|| now_ns.max(self.now_ns));
        let (_, windows) = self.windows_of(site, now_ns);
        let late_ns = LATE_NS.max((now_ns - self.grid.since_ns) / LATE_PART);
        let mut seconds = 0.0;
        let (mut allocated, mut freed) = (0.0, 0.0);
        for window in windows.iter().rev() {
            seconds += window.end_ns.saturating_sub(window.begin_ns) as f64 / 1e9;
            allocated += window.allocated.bytes;
            freed += window.freed.bytes;
            if seconds * 1e9 >= late_ns as f64 {
                break;
            }
        }
        let rate = |bytes: f64| if seconds > 0.0 { bytes / seconds } else { 0.0 };
        let age = |block: &Block| now_ns.saturating_sub(block.at_ns);
        Figures {
            live_bytes: estimate::bytes(&site.live, missed),
            live_objects: estimate::objects(&site.live, missed),
            allocated_bytes: estimate::bytes(&site.allocated, missed),
            allocated_objects: estimate::objects(&site.allocated, missed),
            allocation_rate: rate(allocated),
            free_rate: rate(freed),
            ages: ages(blocks.iter().map(|block| (age(block), block.weight * block.bytes as f64)).collect()),
            survival: match self.profiles.any {
                true => Vec::new(),
                false => site.ages.survival(blocks.iter().map(|block| (age(block), block.weight))),
            },
            samples: (site.allocated.n, site.live.n),
            unreferenced: unreferenced(site, blocks),
            history: windows.iter().map(|window| (window.end_ns, window.live_at_end.bytes)).collect(),
        }
    }
}

/// How many were looked for (those that weren't found only once are still undecided), and how many nothing points to.
/// What searches of memory say of a site's blocks. Nothing, if blocks were given back that seemed lost: what points to them is
/// where nobody looks (the kernel's queues, say).
fn unreferenced(site: &Site, blocks: &[&Block]) -> Option<(u32, u32)> {
    if site.found_in_use >= MISTAKES {
        return None;
    }
    let (mut looked, mut lost) = (0, 0);
    for block in blocks {
        match block.pointed {
            Pointed::Unknown | Pointed::Unfound { .. } => {}
            Pointed::To => looked += 1,
            Pointed::Lost => {
                looked += 1;
                lost += 1;
            }
        }
    }
    (looked > 0).then_some((looked, lost))
}

/// Median by bytes and greatest of `(age in nanoseconds, bytes)`.
fn ages(mut blocks: Vec<(u64, f64)>) -> Ages {
    blocks.sort_unstable_by_key(|(age_ns, _)| *age_ns);
    let half = blocks.iter().map(|(_, bytes)| bytes).sum::<f64>() / 2.0;
    let mut so_far = 0.0;
    let median = blocks.iter().find(|(_, bytes)| {
        so_far += bytes;
        so_far >= half
    });
    let age = |block: Option<&(u64, f64)>| Duration::from_nanos(block.map_or(0, |(age_ns, _)| *age_ns));
    Ages { median: age(median), oldest: age(blocks.last()) }
}

/// A number that says nothing of the id but is always the same (the finaliser of SplitMix64, Steele and others 2014).
fn lot(id: u64) -> u64 {
    let mut mixed = id.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
