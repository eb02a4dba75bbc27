//! Every figure of one moment, as families of rows: what Prometheus' text, OpenMetrics and InfluxDB's points are made of.
//!
//! There is one walk over a snapshot (`walk`, `leaks`, `push`), and a format only writes down what it has found.

mod go;
mod leaks;
pub mod programs;
mod push;
mod walk;

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use profiler_common::sched::{STALL_BOUNDS, StallCounts, stall_bound_ns};

pub use walk::{FAULTS, SWITCHES};

use super::catalogue::Family;
use crate::snapshot::Snapshot;

/// What must be known beside the snapshot.
#[derive(Clone, Copy, Debug)]
pub struct Context {
    /// An interval at least this long is a stall.
    pub stall_threshold: Duration,
    /// So many series at most, not counting what no target has; a target that has begun is shown whole.
    pub max_series: usize,
    /// Call sites of a target that have series of their own; the rest are one, named `other`.
    pub top_sites: usize,
}

/// Call sites that have series of their own at `/metrics`: a family should have some ten series of a target, not hundreds.
pub const TOP_SITES: usize = 10;

/// A value, as exactly as it is known.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Counted or measured in whole units.
    Whole(u64),
    /// The same, and may be below zero.
    Signed(i64),
    /// Anything else.
    Real(f64),
    /// Counts by size.
    Histogram(Histogram),
    /// Sizes by rank.
    Summary(Summary),
}

impl Value {
    /// As a floating point number, which is exact up to 2^53.
    pub fn to_f64(&self) -> f64 {
        match self {
            Self::Whole(value) => *value as f64,
            Self::Signed(value) => *value as f64,
            Self::Real(value) => *value,
            Self::Histogram(histogram) => histogram.count as f64,
            Self::Summary(summary) => summary.count as f64,
        }
    }
}

/// Counts by size.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    /// Upper bounds, growing, and how many are not above each. Those above the last are only in `count`.
    pub buckets: Vec<(f64, u64)>,
    /// How many.
    pub count: u64,
    /// All sizes together.
    pub sum: f64,
}

/// Sizes by rank.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// Shares, growing, and the size that this share of all is not above.
    pub quantiles: Vec<(f64, f64)>,
    /// How many.
    pub count: u64,
    /// All sizes together.
    pub sum: f64,
}

/// A value and the labels that it belongs to, in the order of [`Family::labels`].
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Values of the labels.
    pub labels: Vec<String>,
    /// The value.
    pub value: Value,
}

/// A family with its rows.
#[derive(Clone, Debug)]
pub struct Filled {
    /// What it is.
    pub family: &'static Family,
    /// What it means: [`Family::help`], but for the few that name what they are of.
    pub help: Cow<'static, str>,
    /// Its rows: each set of labels once.
    pub rows: Vec<Row>,
}

/// All families of one moment, by name. What has vanished from the snapshot vanishes here.
#[derive(Default)]
pub struct Families {
    filled: BTreeMap<&'static str, Filled>,
    /// Label sets used so far: a second one of the same family would make a server refuse the whole scrape.
    seen: HashSet<(&'static str, Vec<String>)>,
}

impl Families {
    /// All figures of a snapshot.
    pub fn of(snapshot: &Snapshot, context: Context) -> Self {
        let mut out = Self::default();
        walk::all(&mut out, snapshot, context);
        out
    }

    /// The families, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Filled> {
        self.filled.values()
    }

    pub(super) fn value(&mut self, family: &'static Family, labels: &[&str], value: f64) {
        self.push(family, labels, Value::Real(value));
    }

    pub(super) fn count(&mut self, family: &'static Family, labels: &[&str], value: u64) {
        self.push(family, labels, Value::Whole(value));
    }

    fn signed(&mut self, family: &'static Family, labels: &[&str], value: i64) {
        self.push(family, labels, Value::Signed(value));
    }

    /// 1 for yes, 0 for no.
    pub(super) fn flag(&mut self, family: &'static Family, labels: &[&str], value: bool) {
        self.push(family, labels, Value::Whole(u64::from(value)));
    }

    /// A value that isn't known isn't shown.
    fn finite(&mut self, family: &'static Family, labels: &[&str], value: f64) {
        if value.is_finite() {
            self.value(family, labels, value);
        }
    }

    /// `buckets`: how many each has, and its upper bound in nanoseconds; then how many there are in all, and their sum.
    fn histogram(
        &mut self,
        family: &'static Family,
        labels: &[&str],
        buckets: impl Iterator<Item = (u64, u64)>,
        (count, total_ns): (u64, u64),
    ) {
        let mut cumulative = 0;
        let buckets = buckets.map(|(n, bound_ns)| {
            cumulative += n;
            (bound_ns as f64 / 1e9, cumulative)
        });
        let histogram = Histogram { buckets: buckets.collect(), count, sum: total_ns as f64 / 1e9 };
        self.push(family, labels, Value::Histogram(histogram));
    }

    fn stalls(&mut self, family: &'static Family, labels: &[&str], counts: &StallCounts) {
        let buckets = counts.buckets.iter().copied().zip((0..STALL_BOUNDS).map(stall_bound_ns));
        self.histogram(family, labels, buckets, (counts.count(), counts.total_ns));
    }

    /// Says something else of a family than the catalogue does.
    pub(super) fn explain(&mut self, family: &'static Family, help: String) {
        if let Some(filled) = self.filled.get_mut(family.name) {
            filled.help = Cow::Owned(help);
        }
    }

    pub(super) fn push(&mut self, family: &'static Family, labels: &[&str], value: Value) {
        debug_assert_eq!(labels.len(), family.labels.len(), "{}", family.name);
        let labels: Vec<String> = labels.iter().map(|label| (*label).to_owned()).collect();
        if self.seen.insert((family.name, labels.clone())) {
            let empty = || Filled { family, help: Cow::Borrowed(family.help), rows: Vec::new() };
            let filled = self.filled.entry(family.name).or_insert_with(empty);
            filled.rows.push(Row { labels, value });
        }
    }
}
