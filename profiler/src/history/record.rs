//! A picture as it is stored: without stacks and graphs, figures shortened, squeezed.

use std::{
    collections::HashSet,
    io::{Read as _, Write as _},
    sync::Arc,
    time::SystemTime,
};

use flate2::{Compression, read::DeflateDecoder, write::DeflateEncoder};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    leaks::{Estimate, Picture, SiteReport, TargetReport, Verdict},
    stack::{End, Stack},
};

/// Sites of one target that are stored with a moment, at most.
const SITES: usize = 200;
/// Sites of all targets together, about.
const ALL_SITES: usize = 1000;
/// Of every target so many, whatever their number.
const FEW_SITES: usize = 4;
/// Processes of one target that are named.
const PIDS: usize = 64;
/// Bytes of a picture before it is squeezed; more would not be what we have written.
const LARGEST: u64 = 32 << 20;
/// Bytes of a stack.
const LARGEST_STACK: u64 = 1 << 20;
/// First byte of a picture in which a target has just ended.
const LAST: u8 = 1;

/// Bytes that aren't what we write.
#[derive(Debug, Error)]
pub enum Damage {
    /// They can't be unpacked.
    #[error("a record can't be unpacked")]
    Squeezed,
    /// They can't be understood.
    #[error("a record can't be understood: {0}")]
    Meaning(#[from] postcard::Error),
}

/// A picture without its stacks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    targets: Vec<TargetReport>,
}

impl Record {
    /// What is stored of a picture, and how many small sites are left out.
    pub fn of(picture: &Picture) -> (Self, u64) {
        let most = (ALL_SITES / picture.targets.len().max(1)).clamp(FEW_SITES, SITES);
        let none = no_stack();
        let mut dropped = 0;
        let targets = picture.targets.iter().map(|target| {
            let keep = worth_most(&target.sites, most);
            let mut short = TargetReport {
                sites: Vec::new(),
                pids: target.pids.iter().copied().take(PIDS).collect(),
                ..target_without_sites(target)
            };
            for (site, keep) in target.sites.iter().zip(keep) {
                if keep {
                    short.sites.push(shortened(site, &none));
                } else {
                    into_other(&mut short.other, site);
                    dropped += 1;
                }
            }
            short
        });
        (Self { targets: targets.collect() }, dropped)
    }

    /// Leaves out half of each target's sites, the smallest; how many.
    pub fn halve_sites(&mut self) -> u64 {
        let mut dropped = 0;
        for target in &mut self.targets {
            let most = (target.sites.len() / 2).max(FEW_SITES);
            let mut keep = worth_most(&target.sites, most).into_iter();
            let other = &mut target.other;
            target.sites.retain(|site| {
                let keep = keep.next().unwrap_or(false);
                if !keep {
                    into_other(other, site);
                    dropped += 1;
                }
                keep
            });
        }
        dropped
    }

    /// The sites in it.
    pub fn ids(&self) -> impl Iterator<Item = &Arc<str>> {
        self.targets.iter().flat_map(|target| &target.sites).map(|site| &site.id)
    }

    /// Whether a site is in it.
    pub fn has(&self, id: &str) -> bool {
        self.ids().any(|other| **other == *id)
    }

    /// As bytes. `last`: a target has just ended.
    ///
    /// # Errors
    ///
    /// If a time in it is before 1970.
    pub fn encode(&self, last: bool) -> Result<Vec<u8>, Damage> {
        let mut bytes = vec![if last { LAST } else { 0 }];
        bytes.extend(squeezed(&postcard::to_stdvec(self)?));
        Ok(bytes)
    }

    /// From bytes, and whether a target had just ended.
    ///
    /// # Errors
    ///
    /// If they are something else.
    pub fn decode(bytes: &[u8]) -> Result<(Self, bool), Damage> {
        let (flags, rest) = bytes.split_first().ok_or(Damage::Squeezed)?;
        Ok((postcard::from_bytes(&unpacked(rest, LARGEST)?)?, is_last(*flags)))
    }

    /// The picture again, with stacks.
    pub fn into_picture(self, taken_at: SystemTime, mut stack: impl FnMut(&str) -> Arc<Stack>) -> Picture {
        let mut targets = self.targets;
        let mut known = std::collections::HashMap::<Arc<str>, Arc<Stack>>::new();
        for site in targets.iter_mut().flat_map(|target| &mut target.sites) {
            let found = known.entry(Arc::clone(&site.id)).or_insert_with(|| stack(&site.id));
            site.stack = Arc::clone(found);
        }
        Picture { taken_at, targets }
    }
}

/// Whether a picture is one in which a target had just ended, by its first byte.
pub const fn is_last(first: u8) -> bool {
    first & LAST != 0
}

/// A stack as bytes.
pub fn encode_stack(stack: &Stack) -> Vec<u8> {
    // A stack has nothing that can't be written.
    squeezed(&postcard::to_stdvec(stack).unwrap_or_default())
}

/// A stack from bytes.
///
/// # Errors
///
/// If they are something else.
pub fn decode_stack(bytes: &[u8]) -> Result<Stack, Damage> {
    Ok(postcard::from_bytes(&unpacked(bytes, LARGEST_STACK)?)?)
}

/// What stands for a stack that isn't stored.
pub fn no_stack() -> Arc<Stack> {
    Arc::new(Stack { frames: Vec::new(), end: End::Lost })
}

/// Which sites are kept: what is said to leak or grow before the rest, the large before the small.
fn worth_most(sites: &[SiteReport], most: usize) -> Vec<bool> {
    let mut order: Vec<usize> = (0..sites.len()).collect();
    let worth = |index: &usize| {
        let site = &sites[*index];
        let concern = match site.judgement.verdict {
            Verdict::Leaking => 0,
            Verdict::Growing => 1,
            Verdict::Steady | Verdict::Unjudged => 2,
        };
        (concern, -site.live_bytes.value)
    };
    order.sort_by(|a, b| {
        let (a, b) = (worth(a), worth(b));
        a.0.cmp(&b.0).then(a.1.total_cmp(&b.1))
    });
    let kept: HashSet<usize> = order.into_iter().take(most).collect();
    (0..sites.len()).map(|index| kept.contains(&index)).collect()
}

/// Adds a site that is left out to the rest. The two are independent: widths add up like the sides of a right angle.
fn into_other((samples, live): &mut (u64, Estimate), site: &SiteReport) {
    *samples = samples.saturating_add(site.samples.1);
    *live = add(*live, site.live_bytes);
}

/// The sum of two independent estimates.
pub fn add(one: Estimate, other: Estimate) -> Estimate {
    let value = one.value + other.value;
    let below = (one.value - one.low).hypot(other.value - other.low);
    let above = (one.high - one.value).hypot(other.high - other.value);
    Estimate { value, low: value - below, high: value + above }
}

fn target_without_sites(target: &TargetReport) -> TargetReport {
    let mut judgement = target.judgement.clone();
    judgement.rate = judgement.rate.map(short);
    TargetReport {
        target: Arc::clone(&target.target),
        pids: Vec::new(),
        source: target.source.clone(),
        sample_bytes: target.sample_bytes,
        since: target.since,
        watched: target.watched,
        before: target.before,
        anon_bytes: target.anon_bytes,
        live_bytes: short(target.live_bytes),
        explained: target.explained.map(short),
        judgement,
        sites: Vec::new(),
        other: (target.other.0, short(target.other.1)),
        samples: target.samples,
        losses: target.losses.clone(),
        ended: target.ended.clone(),
        history: Vec::new(),
        anon_history: Vec::new(),
    }
}

fn shortened(site: &SiteReport, none: &Arc<Stack>) -> SiteReport {
    let mut judgement = site.judgement.clone();
    judgement.rate = judgement.rate.map(short);
    judgement.confidence = shorter(judgement.confidence);
    SiteReport {
        id: Arc::clone(&site.id),
        stack: Arc::clone(none),
        source: site.source,
        live_bytes: short(site.live_bytes),
        live_objects: short(site.live_objects),
        allocated_bytes: short(site.allocated_bytes),
        allocated_objects: short(site.allocated_objects),
        allocation_rate: shorter(site.allocation_rate),
        free_rate: shorter(site.free_rate),
        ages: site.ages,
        survival: site.survival.iter().map(|(age, part)| (*age, shorter(*part))).collect(),
        samples: site.samples,
        unreferenced: site.unreferenced,
        judgement,
        history: Vec::new(),
    }
}

fn short(estimate: Estimate) -> Estimate {
    Estimate { value: shorter(estimate.value), low: shorter(estimate.low), high: shorter(estimate.high) }
}

/// Seven digits: the rest would say nothing and can't be squeezed.
#[expect(clippy::cast_possible_truncation, reason = "that is what it is for")]
fn shorter(value: f64) -> f64 {
    f64::from(value as f32)
}

fn squeezed(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::new(3));
    // Memory takes whatever is written.
    let _written = encoder.write_all(bytes);
    encoder.finish().unwrap_or_default()
}

fn unpacked(bytes: &[u8], most: u64) -> Result<Vec<u8>, Damage> {
    let mut unpacked = Vec::new();
    let read = DeflateDecoder::new(bytes).take(most + 1).read_to_end(&mut unpacked);
    if read.is_err() || unpacked.len() as u64 > most { Err(Damage::Squeezed) } else { Ok(unpacked) }
}
