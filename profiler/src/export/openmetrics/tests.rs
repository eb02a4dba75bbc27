use std::{
    collections::{BTreeMap, BTreeSet},
    process::{Command, Stdio},
};

use profiler_common::stops::{STOP_BOUNDS, stop_bound_ns};

use super::*;
use crate::{
    export::{
        catalogue as c,
        families::{Histogram, Summary},
        prometheus,
    },
    snapshot::Snapshot,
    target::ProcessUsage,
    test_support::{
        moment::{self, CONTEXT},
        picture,
    },
};

/// Numbers that don't fit into a floating point number, estimates, and a name that wants to be more than a label.
fn snapshot() -> Snapshot {
    let usage = ProcessUsage {
        cpu_seconds: 0.1 + 0.2,
        resident_memory_bytes: (1 << 53) + 1,
        start_time_seconds: 1_767_323_045.25,
        ..Default::default()
    };
    let hostile = "a\"} 1\n# EOF\n\\n\\\"\u{7f}\r\u{2028}é{";
    let mut targets = vec![moment::go_target("shop"), moment::target(hostile)];
    targets[0].usage = Some(usage.clone());
    targets[1].alloc.functions[0].counts.allocations = u64::MAX;
    targets[1].alloc.live[0].objects = -9_007_199_254_740_993;
    Snapshot {
        own: Some(usage),
        leaks: Some(std::sync::Arc::new(picture::realistic())),
        push: Some(Default::default()),
        ..moment::snapshot(targets)
    }
}

fn rendered() -> String {
    render(&Families::of(&snapshot(), CONTEXT))
}

fn family(
    kind: Kind,
    name: &'static str,
    help: &'static str,
    labels: &'static [&'static str],
) -> &'static Family {
    Box::leak(Box::new(Family { name, kind, labels, help, ..c::STALLS }))
}

fn written(family: &'static Family, labels: &[&str], value: Value) -> String {
    let row = Row { labels: labels.iter().map(|label| (*label).to_owned()).collect(), value };
    let mut out = String::new();
    write_family(&mut out, &Filled { family, help: family.help.into(), rows: vec![row] });
    out
}

#[test]
fn a_counter_is_described_without_its_suffix_and_sampled_with_it() {
    let counter = family(Kind::Counter, "eaten_bytes_total", "What \"was\"\\eaten\nso far.", &["by"]);
    let expected = "# TYPE eaten_bytes counter\n# UNIT eaten_bytes bytes\n\
        # HELP eaten_bytes What \\\"was\\\"\\\\eaten\\nso far.\n\
        eaten_bytes_total{by=\"a\\\"b\\\\c\\nd\"} 18446744073709551615\n";
    assert_eq!(written(counter, &["a\"b\\c\nd"], Value::Whole(u64::MAX)), expected);
}

#[test]
fn a_gauge_has_its_whole_name_and_may_be_below_zero() {
    let gauge = family(Kind::Gauge, "left_ratio", "What is left.", &[]);
    let head = "# TYPE left_ratio gauge\n# UNIT left_ratio ratio\n# HELP left_ratio What is left.\n";
    assert_eq!(
        written(gauge, &[], Value::Signed(i64::MIN)),
        format!("{head}left_ratio -9223372036854775808\n")
    );
    assert_eq!(written(gauge, &[], Value::Real(0.25)), format!("{head}left_ratio 0.25\n"));
    for name in ["things", "bytes", "kilobytes", "bytes_left"] {
        let text = written(family(Kind::Gauge, name, "No unit.", &[]), &[], Value::Whole(1));
        assert!(!text.contains("# UNIT"), "{text}");
    }
}

#[test]
fn a_histogram_has_canonical_bounds_and_one_for_everything() {
    let histogram = family(Kind::Histogram, "wait_seconds", "Waiting.", &["for"]);
    let counts = Histogram { buckets: vec![(0.001, 1), (1.0, 2), (1e6, 3)], count: 5, sum: 2e9 };
    let expected = "# TYPE wait_seconds histogram\n# UNIT wait_seconds seconds\n# HELP wait_seconds Waiting.\n\
        wait_seconds_bucket{for=\"me\",le=\"0.001\"} 1\n\
        wait_seconds_bucket{for=\"me\",le=\"1.0\"} 2\n\
        wait_seconds_bucket{for=\"me\",le=\"1e+06\"} 3\n\
        wait_seconds_bucket{for=\"me\",le=\"+Inf\"} 5\n\
        wait_seconds_count{for=\"me\"} 5\n\
        wait_seconds_sum{for=\"me\"} 2e+09\n";
    assert_eq!(written(histogram, &["me"], Value::Histogram(counts)), expected);
    let bare = family(Kind::Histogram, "wait_seconds", "Waiting.", &[]);
    let counts = Histogram { buckets: vec![], count: 0, sum: 0.0 };
    let text = written(bare, &[], Value::Histogram(counts));
    assert!(
        text.ends_with("wait_seconds_bucket{le=\"+Inf\"} 0\nwait_seconds_count 0\nwait_seconds_sum 0.0\n"),
        "{text}"
    );
}

#[test]
fn a_summary_has_canonical_shares() {
    let summary = family(Kind::Summary, "nap_seconds", "Sleeping.", &["of"]);
    let sizes = Summary { quantiles: vec![(0.0, 0.001), (0.5, 1.0), (1.0, 2e6)], count: 5, sum: 2e9 };
    let expected = "# TYPE nap_seconds summary\n# UNIT nap_seconds seconds\n# HELP nap_seconds Sleeping.\n\
        nap_seconds{of=\"me\",quantile=\"0.0\"} 0.001\n\
        nap_seconds{of=\"me\",quantile=\"0.5\"} 1.0\n\
        nap_seconds{of=\"me\",quantile=\"1.0\"} 2e+06\n\
        nap_seconds_count{of=\"me\"} 5\n\
        nap_seconds_sum{of=\"me\"} 2e+09\n";
    assert_eq!(written(summary, &["me"], Value::Summary(sizes)), expected);
}

/// From the specification, "Considerations: Canonical Numbers".
#[test]
fn numbers_are_written_as_the_specification_lists_them() {
    let listed = "1e-10 1e-09 1e-05 0.0001 0.1 1.0 10.0 100000.0 1e+06 1e+10 0.0 0.001 0.002 0.01 0.1 0.9 0.95 0.99 0.999 1.0 1.7 10.0";
    for expected in listed.split(' ') {
        assert_eq!(number(expected.parse().unwrap()), expected);
    }
    assert_eq!(number(f64::INFINITY), "+Inf");
    assert_eq!(number(f64::NEG_INFINITY), "-Inf");
    assert_eq!(number(f64::NAN), "NaN");
    assert_eq!(number(f64::MAX), "1.7976931348623157e+308");
    assert_eq!(number(-123_456.75), "-123456.75");
}

proptest::proptest! {
    #[test]
    fn every_number_is_read_back_as_the_same(bits: u64) {
        let value = f64::from_bits(bits);
        proptest::prop_assume!(value.is_finite());
        let text = number(value);
        proptest::prop_assert_eq!(text.parse::<f64>().unwrap().to_bits(), bits, "{}", text);
        proptest::prop_assert!(text.contains(['.', 'e']), "{}", text);
    }
}

#[test]
fn infos_are_those_that_are_always_one() {
    let kinds: BTreeMap<_, _> = c::ALL.iter().map(|family| (family.name, described(family))).collect();
    for (name, (described, kind)) in &kinds {
        let counts_something = *name == "profiler_target_alloc_info";
        assert_eq!(*kind == "info", name.ends_with("_info") && !counts_something, "{name}");
        if *kind == "unknown" {
            assert_eq!((*name, *described), ("profiler_go_memstats_alloc_bytes_total", *name));
            continue;
        }
        assert_eq!(
            *described,
            name.trim_end_matches(if *kind == "gauge" { "_total" } else { "_info" })
                .trim_end_matches("_total")
        );
    }
    for filled in
        Families::of(&snapshot(), CONTEXT).iter().filter(|filled| described(filled.family).1 == "info")
    {
        assert!(filled.rows.iter().all(|row| row.value == Value::Whole(1)), "{}", filled.family.name);
    }
}

#[test]
fn no_two_families_share_a_name_or_a_sample() {
    let mut names = BTreeSet::new();
    for family in c::ALL {
        let (name, kind) = described(family);
        let suffixes: &[&str] = match kind {
            "counter" => &["", "_total", "_created"],
            "histogram" => &["", "_bucket", "_count", "_sum", "_created"],
            "info" => &["", "_info"],
            "summary" => &["", "_count", "_sum", "_created"],
            _ => &[""],
        };
        for suffix in suffixes {
            assert!(names.insert(format!("{name}{suffix}")), "{name}{suffix} is there twice");
        }
    }
}

/// Series and their values as Prometheus keeps them: names, sorted labels, floating point.
fn series(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let pairs = lines.map(|line| {
        let (series, value) = line.rsplit_once(' ').unwrap();
        (series.to_owned(), value.parse().unwrap())
    });
    let all: Vec<_> = pairs.collect();
    let map: BTreeMap<_, _> = all.iter().cloned().collect();
    assert_eq!(map.len(), all.len(), "a series twice");
    map
}

#[test]
fn it_says_the_same_as_the_text_format() {
    let text = prometheus::render(Families::of(&snapshot(), CONTEXT)).unwrap();
    // Shares and the smallest bounds are written in another way; Prometheus 3 makes them the same.
    let mut rendered = rendered()
        .replace("quantile=\"0.0\"", "quantile=\"0\"")
        .replace("quantile=\"1.0\"", "quantile=\"1\"");
    for bound in (0..STOP_BOUNDS).map(|bucket| stop_bound_ns(bucket) as f64 / 1e9) {
        let (one, other) = (format!("le=\"{}\"", number(bound)), format!("le=\"{bound}\""));
        rendered = rendered.replace(&one, &other);
    }
    let (openmetrics, text) = (series(&rendered), series(&text));
    assert!(text.len() > 200, "{}", text.len());
    assert_eq!(openmetrics, text);
}

#[test]
fn there_is_one_end_and_it_is_last() {
    let text = rendered();
    assert!(text.ends_with("\n# EOF\n"));
    assert_eq!(text.lines().filter(|line| line.starts_with("# EOF")).count(), 1);
    assert!(text.contains(" 9007199254740993\n"), "2^53 + 1, to the last digit");
    assert!(text.contains(" -9007199254740993\n"));
}

/// The parser of the people who wrote the specification, which refuses what isn't in it.
#[test]
fn the_reference_parser_reads_the_same_numbers() {
    const PROGRAM: &str = "import sys\nfrom prometheus_client.openmetrics.parser import text_string_to_metric_families as read\n\
        for family in read(sys.stdin.buffer.read().decode()):\n  for sample in family.samples:\n    print(family.type, sample.name, len(sample.labels), sample.value)";
    // Debian's package belongs to Debian's own interpreter, which need not be the first.
    let can = |python: &&str| {
        let tried = Command::new(python).args(["-c", "import prometheus_client.openmetrics.parser"]).output();
        tried.is_ok_and(|output| output.status.success())
    };
    let Some(python) = ["python3", "/usr/bin/python3"].into_iter().find(can) else {
        println!("SKIPPED: no python3-prometheus-client");
        assert!(std::env::var_os("PROFILER_TESTS_MUST_RUN").is_none(), "no python3-prometheus-client");
        return;
    };
    let mut python = Command::new(python)
        .args(["-c", PROGRAM])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let text = rendered();
    let mut stdin = python.stdin.take().unwrap();
    let sent = text.clone();
    let sender = std::thread::spawn(move || std::io::Write::write_all(&mut stdin, sent.as_bytes()));
    let output = python.wait_with_output().unwrap();
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaints}\n{text}");
    sender.join().unwrap().unwrap();
    let read = String::from_utf8(output.stdout).unwrap();
    assert_eq!(read.lines().count(), series(&text).len(), "{read}");
    for line in [
        "counter profiler_allocations_total 3 7",
        "counter profiler_allocations_total 3 18446744073709551615",
        "histogram profiler_stall_seconds_bucket 3 2",
        "info profiler_build_info 6 1",
        "gauge profiler_target_alloc_info 3 1",
        "gauge profiler_go_memstats_alloc_bytes 1 1000000",
        "unknown profiler_go_memstats_alloc_bytes_total 1 9000000",
        "summary profiler_go_gc_duration_seconds 2 0.0003",
        "summary profiler_go_gc_duration_seconds_count 1 5",
    ] {
        assert!(read.lines().any(|found| found == line), "missing: {line}\n{read}");
    }
}
