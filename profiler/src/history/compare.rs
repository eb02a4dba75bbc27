//! Two moments side by side, or two builds. Pure.
//!
//! The two estimates of a site are treated as independent, which they are for two runs. Two moments of one run share the
//! samples that live at both; these cancel in the difference, so the true interval is narrower than the one that is told:
//! it holds in at least 95 of 100 cases. How intervals of a difference are made of those of its parts, also where they aren't
//! symmetric: Zou and Donner, "Construction of confidence limits about effect measures", Statistics in Medicine 27 (2008).

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::record;
use crate::{
    leaks::{Estimate, Picture, SiteReport, TargetReport, Verdict},
    stack::{Frame, Stack},
};

/// When two sites are the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Identity {
    /// The same places in the same files: for two moments of the same build.
    #[default]
    Site,
    /// The same names of functions in the same order: for two builds. Sites that have all names in common are taken together.
    Name,
}

/// Two pictures side by side.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// When the first was taken.
    pub before: SystemTime,
    /// When the second was.
    pub after: SystemTime,
    /// How sites were matched.
    pub by: Identity,
    /// Targets of that name in both; those of one picture only are compared with nothing.
    pub targets: Vec<TargetComparison>,
}

/// A target in two pictures.
#[derive(Clone, Debug, PartialEq)]
pub struct TargetComparison {
    /// Its name; where they differ, `one -> other`.
    pub target: Arc<str>,
    /// Whether both pictures are of one run: the same watch of the same processes.
    pub same_run: bool,
    /// Live bytes, all sites together.
    pub live: Change,
    /// Anonymous memory.
    pub anon_bytes: (Option<u64>, Option<u64>),
    /// The verdicts on all together.
    pub verdicts: (Option<Verdict>, Option<Verdict>),
    /// The sites: the largest growth first, what shrank most last.
    pub rows: Vec<Row>,
}

/// Something before and after.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Change {
    /// Before; `None`: it wasn't there, or was too small to be listed.
    pub before: Option<Estimate>,
    /// After.
    pub after: Option<Estimate>,
    /// By how much it is more.
    pub difference: Estimate,
}

impl Change {
    /// Whether it has changed for certain: zero lies outside the interval.
    pub fn is_sure(&self) -> bool {
        self.difference.low > 0.0 || self.difference.high < 0.0
    }
}

/// A site in two pictures.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Its id: after, or before if it is gone.
    pub id: Arc<str>,
    /// Who calls; as for the id.
    pub stack: Arc<Stack>,
    /// Sites that were taken together for it: before, after.
    pub sites: (usize, usize),
    /// Live bytes.
    pub live: Change,
    /// The verdicts; of several sites the gravest.
    pub verdicts: (Option<Verdict>, Option<Verdict>),
}

/// Compares two pictures. Targets go by name; a single one is compared with a single one, whatever they are called.
pub fn compare(before: &Picture, after: &Picture, by: Identity) -> Comparison {
    let mut targets = Vec::new();
    if let ([one], [other]) = (before.targets.as_slice(), after.targets.as_slice()) {
        targets.push(compare_targets(Some(one), Some(other), by));
    } else {
        for target in &after.targets {
            let earlier = before.targets.iter().find(|earlier| earlier.target == target.target);
            targets.push(compare_targets(earlier, Some(target), by));
        }
        let gone =
            before.targets.iter().filter(|one| after.targets.iter().all(|other| one.target != other.target));
        targets.extend(gone.map(|target| compare_targets(Some(target), None, by)));
    }
    Comparison { before: before.taken_at, after: after.taken_at, by, targets }
}

fn compare_targets(
    before: Option<&TargetReport>,
    after: Option<&TargetReport>,
    by: Identity,
) -> TargetComparison {
    let mut rows: BTreeMap<String, (Vec<&SiteReport>, Vec<&SiteReport>)> = BTreeMap::new();
    for site in before.iter().flat_map(|target| &target.sites) {
        rows.entry(key(site, by)).or_default().0.push(site);
    }
    for site in after.iter().flat_map(|target| &target.sites) {
        rows.entry(key(site, by)).or_default().1.push(site);
    }
    let unseen = (before.map(unlisted), after.map(unlisted));
    let mut rows: Vec<Row> =
        rows.into_values().filter_map(|(one, other)| row(&one, &other, unseen)).collect();
    rows.sort_by(|one, other| other.live.difference.value.total_cmp(&one.live.difference.value));
    let target = match (before, after) {
        (Some(one), Some(other)) if one.target != other.target => {
            format!("{} -> {}", one.target, other.target).into()
        }
        (one, other) => other.or(one).map_or_else(|| "".into(), |target| Arc::clone(&target.target)),
    };
    let live = (before.map(|target| target.live_bytes), after.map(|target| target.live_bytes));
    TargetComparison {
        target,
        // Times on disk are rounded.
        same_run: before.zip(after).is_some_and(|(one, other)| {
            one.since
                .max(other.since)
                .duration_since(one.since.min(other.since))
                .is_ok_and(|apart| apart < Duration::from_millis(1))
        }),
        live: change(live, unseen),
        anon_bytes: (before.map(|target| target.anon_bytes), after.map(|target| target.anon_bytes)),
        verdicts: (before.map(|one| one.judgement.verdict), after.map(|one| one.judgement.verdict)),
        rows,
    }
}

fn row(
    before: &[&SiteReport],
    after: &[&SiteReport],
    unseen: (Option<Estimate>, Option<Estimate>),
) -> Option<Row> {
    let site = after.first().or(before.first())?;
    let live = |sites: &[&SiteReport]| sites.iter().map(|site| site.live_bytes).reduce(record::add);
    let verdict = |sites: &[&SiteReport]| sites.iter().map(|site| site.judgement.verdict).min();
    Some(Row {
        id: Arc::clone(&site.id),
        stack: Arc::clone(&site.stack),
        sites: (before.len(), after.len()),
        live: change((live(before), live(after)), unseen),
        verdicts: (verdict(before), verdict(after)),
    })
}

/// What may live at a site that isn't listed: nothing was seen, or it is among the rest. With one sample per `n` bytes on
/// average, 3.69 n bytes stay unseen once in forty times (exp(-3.69) = 0.025).
fn unlisted(target: &TargetReport) -> Estimate {
    let unseen = 3.69 * target.sample_bytes as f64;
    let rest = if target.other.0 > 0 { target.other.1.high } else { 0.0 };
    Estimate { value: 0.0, low: 0.0, high: unseen.max(rest) }
}

fn change(
    (before, after): (Option<Estimate>, Option<Estimate>),
    unseen: (Option<Estimate>, Option<Estimate>),
) -> Change {
    let one = before.or(unseen.0).unwrap_or_default();
    let other = after.or(unseen.1).unwrap_or_default();
    let value = other.value - one.value;
    let low = value - (other.value - other.low).hypot(one.high - one.value);
    let high = value + (other.high - other.value).hypot(one.value - one.low);
    Change { before, after, difference: Estimate { value, low, high } }
}

fn key(site: &SiteReport, by: Identity) -> String {
    match by {
        Identity::Site => site.id.to_string(),
        // A site without names is like no other.
        Identity::Name if site.stack.frames.is_empty() => site.id.to_string(),
        Identity::Name => site.stack.frames.iter().map(frame_names).collect::<Vec<_>>().join("\n"),
    }
}

/// The names of a frame; where nobody knows them, the file, as places in it differ from build to build.
fn frame_names(frame: &Frame) -> String {
    if frame.functions.is_empty() {
        return format!("[{}]", frame.object.rsplit('/').next().unwrap_or_default());
    }
    frame.names().join("\n")
}
