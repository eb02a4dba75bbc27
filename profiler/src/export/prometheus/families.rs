//! Families put together, in the crate's own types.

use std::collections::{BTreeMap, HashSet};

use profiler_common::sched::{STALL_BOUNDS, StallCounts, stall_bound_ns};
use prometheus::proto;

use crate::export::catalogue::{Family, Kind};

/// Families in the making.
#[derive(Default)]
pub(super) struct Families {
    families: BTreeMap<&'static str, proto::MetricFamily>,
    /// Label sets used so far: a second one of the same family would make a server refuse the whole scrape.
    pub(super) seen: HashSet<(&'static str, Vec<String>)>,
}

impl Families {
    pub(super) fn value(&mut self, family: &'static Family, labels: &[&str], value: f64) {
        let mut metric = proto::Metric::default();
        match family.kind {
            Kind::Counter => {
                let mut counter = proto::Counter::default();
                counter.set_value(value);
                metric.set_counter(counter);
            }
            Kind::Gauge | Kind::Histogram => {
                let mut gauge = proto::Gauge::default();
                gauge.set_value(value);
                metric.set_gauge(gauge);
            }
        }
        self.push(family, labels, metric);
    }

    /// A number that is counted or measured in whole units.
    pub(super) fn count(&mut self, family: &'static Family, labels: &[&str], value: u64) {
        self.value(family, labels, value as f64);
    }

    pub(super) fn histogram(&mut self, family: &'static Family, labels: &[&str], counts: &StallCounts) {
        let mut cumulative = 0;
        let buckets = (0..STALL_BOUNDS)
            .map(|i| {
                cumulative += counts.buckets[i];
                let mut bucket = proto::Bucket::default();
                bucket.set_upper_bound(stall_bound_ns(i) as f64 / 1e9);
                bucket.set_cumulative_count(cumulative);
                bucket
            })
            .collect();
        let mut histogram = proto::Histogram::default();
        histogram.set_bucket(buckets);
        histogram.set_sample_count(counts.count());
        histogram.set_sample_sum(counts.total_ns as f64 / 1e9);
        let mut metric = proto::Metric::default();
        metric.set_histogram(histogram);
        self.push(family, labels, metric);
    }

    fn push(&mut self, family: &'static Family, labels: &[&str], mut metric: proto::Metric) {
        debug_assert_eq!(labels.len(), family.labels.len(), "{}", family.name);
        let values: Vec<String> = labels.iter().map(|label| (*label).to_owned()).collect();
        if !self.seen.insert((family.name, values)) {
            return;
        }
        let pairs = family.labels.iter().zip(labels).map(|(name, value)| {
            let mut pair = proto::LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        });
        metric.set_label(pairs.collect());
        let entry = self.families.entry(family.name).or_insert_with(|| {
            let mut new = proto::MetricFamily::default();
            new.set_name(family.name.to_owned());
            new.set_help(family.help.to_owned());
            new.set_field_type(match family.kind {
                Kind::Counter => proto::MetricType::COUNTER,
                Kind::Gauge => proto::MetricType::GAUGE,
                Kind::Histogram => proto::MetricType::HISTOGRAM,
            });
            new
        });
        entry.mut_metric().push(metric);
    }

    pub(super) fn finish(self) -> Vec<proto::MetricFamily> {
        self.families.into_values().collect()
    }
}
