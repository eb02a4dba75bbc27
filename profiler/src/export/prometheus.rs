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
    out.set_help(filled.help.to_string());
    out.set_field_type(match filled.family.kind {
        Kind::Counter => proto::MetricType::COUNTER,
        Kind::Gauge => proto::MetricType::GAUGE,
        Kind::Histogram => proto::MetricType::HISTOGRAM,
        Kind::Summary => proto::MetricType::SUMMARY,
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
        (Value::Summary(sizes), _) => {
            let quantiles = sizes.quantiles.iter().map(|(share, size)| {
                let mut quantile = proto::Quantile::default();
                quantile.set_quantile(*share);
                quantile.set_value(*size);
                quantile
            });
            let mut summary = proto::Summary::default();
            summary.set_quantile(quantiles.collect());
            summary.set_sample_count(sizes.count);
            summary.set_sample_sum(sizes.sum);
            out.set_summary(summary);
        }
        (value, Kind::Counter) => {
            let mut counter = proto::Counter::default();
            counter.set_value(value.to_f64());
            out.set_counter(counter);
        }
        (value, Kind::Gauge | Kind::Histogram | Kind::Summary) => {
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
        test_support::moment::{CONTEXT, go_target, snapshot, target, trouble},
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
    fn a_go_program_has_its_figures_its_modules_and_its_pauses() {
        let text = rendered(vec![go_target("app")], CONTEXT);
        for line in [
            "profiler_go_goroutines{target=\"app\"} 12",
            "profiler_go_gc_duration_seconds{target=\"app\",quantile=\"0\"} 0.0001",
            "profiler_go_gc_duration_seconds{target=\"app\",quantile=\"0.75\"} 0.0004",
            "profiler_go_gc_duration_seconds_sum{target=\"app\"} 0.0015",
            "profiler_go_gc_duration_seconds_count{target=\"app\"} 5",
            "profiler_go_memstats_alloc_bytes{target=\"app\"} 1000000",
            "profiler_go_memstats_alloc_bytes_total{target=\"app\"} 9000000",
            "profiler_go_unavailable_info{target=\"app\",what=\"heap_profile\",reason=\"unavailable\"} 1",
            "profiler_go_table_info{target=\"app\",table=\"1.23.1\",exact=\"false\"} 1",
            "profiler_go_pauses_missed_total{target=\"app\"} 2",
            "profiler_target_parts_left_out{target=\"app\"} 4",
            "profiler_target_description_unavailable_info{target=\"app\",what=\"parts\",reason=\"damaged\"} 1",
            "profiler_go_table_info{target=\"app\",table=\"1.24.3\",exact=\"true\"} 1",
            "profiler_go_stops_total{target=\"app\",reason=\"GC mark termination\"} 3",
            "profiler_go_stop_seconds_bucket{target=\"app\",reason=\"GC mark termination\",le=\"0.000008\"} 0",
            "profiler_go_stop_seconds_bucket{target=\"app\",reason=\"GC mark termination\",le=\"0.000016\"} 3",
            "profiler_go_stop_seconds_sum{target=\"app\",reason=\"GC mark termination\"} 0.00009",
            "profiler_stalls_total{target=\"app\",cause=\"gc\"} 3",
            "profiler_stall_seconds_bucket{target=\"app\",cause=\"gc\",le=\"0.001\"} 3",
            "profiler_go_mod_info{target=\"app\",name=\"example.com/fork\",version=\"v0.9.0\",program=\"shopd\",replaces=\"example.com/original@v1.0.0\",sum=\"h1:example.com/fork=\"} 1",
            "profiler_target_part_info{target=\"app\",kind=\"library\",name=\"libc.so.6\",version=\"2.36\",build_id=\"abcd\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "missing: {line}\n{text}");
        }
        let build = "profiler_target_build_info{target=\"app\",program=\"shopd\",path=\"example.com/shop/cmd/shopd\",main_version=\"(devel)\",go_version=\"go1.23.9\",vcs=\"git\",revision=\"0123abcd\",time=\"2026-01-02T03:04:05Z\",modified=\"false\",race=\"true\",goarch=\"amd64\",goos=\"linux\",cgo=\"1\"} 1";
        assert!(text.lines().any(|found| found == build), "{text}");
        assert!(!rendered(vec![target("app")], CONTEXT).contains("profiler_go_"), "it isn't Go");
    }

    #[test]
    fn what_go_cannot_tell_has_no_series_but_a_reason_and_counted_pauses_stay() {
        let mut unknown = go_target("app");
        unknown.ledger = None;
        let go = unknown.go.as_mut().unwrap();
        (go.figures, go.trouble) = (None, vec![trouble("figures", "no table")]);
        let text = rendered(vec![unknown.clone()], CONTEXT);
        assert!(text.contains("{target=\"app\",what=\"figures\",reason=\"unavailable\"} 1"), "{text}");
        assert!(!text.contains("profiler_go_goroutines") && !text.contains("profiler_go_memstats"), "{text}");
        assert!(text.contains("profiler_stalls_total{target=\"app\",cause=\"gc\"} 3"), "{text}");
        for (loss, count) in [("readings_repeated", 5), ("counters_held_back", 6), ("readers_lost", 7)] {
            let line = format!("profiler_go_{loss}_total{{target=\"app\"}} {count}");
            assert!(text.lines().any(|found| found == line), "missing: {line}\n{text}");
        }
        unknown.go.as_mut().unwrap().pauses = Default::default();
        assert!(!rendered(vec![unknown], CONTEXT).contains("cause=\"gc\""), "nobody can tell");
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
        let text = rendered(vec![go_target("a")], CONTEXT);
        for line in text.lines().filter(|line| line.starts_with("# TYPE")) {
            let name = line.split(' ').nth(2).unwrap();
            assert!(c::ALL.iter().any(|family| family.name == name), "{name} is not in the catalogue");
        }
    }
}
