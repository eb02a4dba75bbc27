//! The Prometheus text format, by the `prometheus` crate from a collector over the families of one moment.

use prometheus::{
    Encoder as _, Registry, TextEncoder,
    core::{Collector, Desc},
    proto,
};

use super::{
    catalogue::{Family, Kind},
    families::{Families, Filled, Row, Value},
};

/// The format's media type. Prometheus 3 refuses an answer without one.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Writes the families down.
///
/// # Errors
///
/// If the crate's registry or encoder refuses something, which means a defect here.
pub fn render(families: Families) -> Result<String, prometheus::Error> {
    let registry = Registry::new();
    registry.register(Box::new(FamiliesCollector(families)))?;
    let mut text = Vec::with_capacity(64 << 10);
    TextEncoder::new().encode(&registry.gather(), &mut text)?;
    String::from_utf8(text).map_err(|error| prometheus::Error::Msg(error.to_string()))
}

/// The families in the crate's own types. A new one per scrape.
struct FamiliesCollector(Families);

impl Collector for FamiliesCollector {
    fn desc(&self) -> Vec<&Desc> {
        // Only used to refuse two collectors of the same name; there is one.
        Vec::new()
    }

    fn collect(&self) -> Vec<proto::MetricFamily> {
        self.0.iter().map(family).collect()
    }
}

fn family(filled: &Filled) -> proto::MetricFamily {
    let mut out = proto::MetricFamily::default();
    out.set_name(filled.family.name.to_owned());
    out.set_help(filled.family.help.to_owned());
    out.set_field_type(match filled.family.kind {
        Kind::Counter => proto::MetricType::COUNTER,
        Kind::Gauge => proto::MetricType::GAUGE,
        Kind::Histogram => proto::MetricType::HISTOGRAM,
    });
    out.set_metric(filled.rows.iter().map(|row| metric(filled.family, row)).collect());
    out
}

fn metric(family: &Family, row: &Row) -> proto::Metric {
    let mut out = proto::Metric::default();
    let pairs = family.labels.iter().zip(&row.labels).map(|(name, value)| {
        let mut pair = proto::LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value(value.clone());
        pair
    });
    out.set_label(pairs.collect());
    match (&row.value, family.kind) {
        (Value::Histogram(counts), _) => {
            let buckets = counts.buckets.iter().map(|(bound, count)| {
                let mut bucket = proto::Bucket::default();
                bucket.set_upper_bound(*bound);
                bucket.set_cumulative_count(*count);
                bucket
            });
            let mut histogram = proto::Histogram::default();
            histogram.set_bucket(buckets.collect());
            histogram.set_sample_count(counts.count);
            histogram.set_sample_sum(counts.sum);
            out.set_histogram(histogram);
        }
        (value, Kind::Counter) => {
            let mut counter = proto::Counter::default();
            counter.set_value(value.to_f64());
            out.set_counter(counter);
        }
        (value, Kind::Gauge | Kind::Histogram) => {
            let mut gauge = proto::Gauge::default();
            gauge.set_value(value.to_f64());
            out.set_gauge(gauge);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        export::{catalogue as c, families::Context},
        test_support::moment::{CONTEXT, snapshot, target},
    };

    fn rendered(targets: Vec<crate::snapshot::TargetSnapshot>, context: Context) -> String {
        render(Families::of(&snapshot(targets), context)).unwrap()
    }

    #[test]
    fn counts_and_histograms_come_out_as_prometheus_wants_them() {
        let text = rendered(vec![target("app")], CONTEXT);
        for line in [
            "profiler_allocations_total{target=\"app\",allocator=\"glibc\",function=\"malloc\"} 7",
            "profiler_allocated_bytes_total{target=\"app\",allocator=\"glibc\"} 70",
            "profiler_live_objects{target=\"app\",allocator=\"glibc\"} 7",
            "profiler_python_live_objects{target=\"app\",domain=\"raw\"} 7",
            "profiler_stalls_total{target=\"app\",cause=\"futex\"} 3",
            "profiler_stall_seconds_bucket{target=\"app\",cause=\"futex\",le=\"0.001\"} 2",
            "profiler_stall_seconds_bucket{target=\"app\",cause=\"futex\",le=\"16.384\"} 2",
            "profiler_stall_seconds_bucket{target=\"app\",cause=\"futex\",le=\"+Inf\"} 3",
            "profiler_stall_seconds_sum{target=\"app\",cause=\"futex\"} 20",
            "profiler_events_lost_total{reason=\"threads_full\"} 0",
        ] {
            assert!(text.lines().any(|found| found == line), "missing: {line}\n{text}");
        }
        assert!(!text.contains("profiler_frees_total{target=\"app\""), "malloc frees nothing");
    }

    #[test]
    fn what_left_the_snapshot_is_gone_and_nothing_comes_twice() {
        let both = rendered(vec![target("a"), target("b"), target("b")], CONTEXT);
        let of_b = both.lines().filter(|line| line.starts_with("profiler_target_up{target=\"b\"}")).count();
        assert_eq!(of_b, 1, "a server refuses a scrape with a series twice");
        let one = rendered(vec![target("a")], CONTEXT);
        assert!(!one.contains("target=\"b\""));
    }

    #[test]
    fn targets_beyond_the_limit_are_left_out_whole_and_counted() {
        let mut ended = target("ended");
        ended.processes[0].up = false;
        let context = Context { max_series: 1, ..CONTEXT };
        let text = rendered(vec![ended, target("a"), target("b")], context);
        assert!(text.contains("profiler_target_up{target=\"a\"} 1"));
        assert!(!text.contains("\"ended\"") && !text.contains("target=\"b\""), "{text}");
        assert!(text.contains("profiler_targets_left_out 2"));
    }

    #[test]
    fn a_name_with_quotes_and_newlines_stays_one_label() {
        let text = rendered(vec![target("a\"b\\c\nd")], CONTEXT);
        assert!(text.contains(r#"profiler_target_up{target="a\"b\\c\nd"} 1"#));
    }

    #[test]
    fn only_declared_families_come_out() {
        let text = rendered(vec![target("a")], CONTEXT);
        for line in text.lines().filter(|line| line.starts_with("# TYPE")) {
            let name = line.split(' ').nth(2).unwrap();
            assert!(c::ALL.iter().any(|family| family.name == name), "{name} is not in the catalogue");
        }
    }
}
