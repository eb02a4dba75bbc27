//! What is at `/metrics` is in InfluxDB, under the names of the catalogue; names that were asked for.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use profiler::export::catalogue::{ALL, Family, Holds, measurements};

use crate::{
    DATABASE, QUIET,
    common::{
        LONG, Scratch, can_observe,
        influxd::Influxd,
        lines::{Book, Fields, Value},
        profiler::Watching,
        within,
    },
    idle, metric, options, push, until,
};

/// Measurements about profiler itself, which never rests: their values aren't compared.
const RESTLESS: [&str; 2] = ["profiler_self", "profiler_push"];

type Labels = BTreeMap<String, String>;

fn now_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
    i64::try_from(since.as_nanos()).expect("it is before 2262")
}

/// Series and values of a page. No value of a label here has a quote.
fn samples(page: &str) -> BTreeMap<(String, Labels), f64> {
    let of_line = |line: &str| {
        let (series, value) = line.rsplit_once(' ').expect("a value");
        let (name, inside) = series.split_once('{').unwrap_or((series, ""));
        let pairs = inside.trim_end_matches("\"}").split("\",").filter_map(|pair| pair.split_once("=\""));
        let labels = pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        ((name.to_owned(), labels), value.parse().expect("a number"))
    };
    page.lines().filter(|line| !line.starts_with('#')).map(of_line).collect()
}

/// The fields of the point that a row of a family belongs to.
fn point<'a>(book: &'a Book, family: &Family, labels: &Labels, time: i64) -> Option<&'a Fields> {
    let others: BTreeSet<&str> = ALL
        .iter()
        .filter(|other| other.influx.measurement == family.influx.measurement)
        .flat_map(|other| other.influx.tags)
        .copied()
        .collect();
    let own = |tags: &Labels| {
        let tag = |label: &&&str| family.influx.is_tag(label);
        family.labels.iter().filter(tag).all(|label| {
            let value = labels.get(*label).map_or("", String::as_str);
            tags.get(*label).map_or("", String::as_str) == value
        }) && tags.keys().all(|key| {
            key == "host"
                || family.influx.is_tag(key) && family.labels.contains(&key.as_str())
                || others.contains(key.as_str())
        })
    };
    let found = book
        .points
        .iter()
        .filter(|(((name, tags), at), _)| *at == time && name == family.influx.measurement && own(tags));
    let mut found = found.map(|(_, fields)| fields);
    let first = found.next()?;
    assert!(found.next().is_none(), "{} {labels:?}: two points", family.name);
    Some(first)
}

/// Compares one row; how many values were.
fn compare(family: &Family, labels: &Labels, fields: &Fields, values: [f64; 2]) -> usize {
    let influx = &family.influx;
    let place = format!("{} {labels:?}", family.name);
    let text = |field: &str, label: &str| {
        if labels[label].is_empty() {
            return 0;
        }
        assert_eq!(fields.get(field), Some(&Value::Text(labels[label].clone())), "{place}: {field}");
        1
    };
    let mut compared = influx.words.iter().map(|word| text(word, word)).sum();
    let name = labels
        .iter()
        .fold(influx.field.to_owned(), |name, (label, value)| name.replace(&format!("{{{label}}}"), value));
    let there = match influx.holds {
        Holds::Chosen if values == [1.0, 1.0] => return compared + text(influx.field, influx.field),
        Holds::Chosen | Holds::Nothing | Holds::Histogram | Holds::Summary => return compared,
        // A limit that there isn't.
        Holds::Integer if values[0] >= u64::MAX as f64 => return compared,
        Holds::Integer => match fields.get(&name) {
            Some(Value::Integer(value)) => *value as f64,
            other => panic!("{place}: {name} is {other:?}"),
        },
        Holds::Float => match fields.get(&name) {
            Some(Value::Float(bits)) => f64::from_bits(*bits),
            other => panic!("{place}: {name} is {other:?}"),
        },
    };
    compared += 1;
    if !RESTLESS.contains(&influx.measurement) && !family.name.contains("_age_") {
        let [low, high] = [values[0].min(values[1]), values[0].max(values[1])];
        assert!((low..=high).contains(&there), "{place}: {there}, and at /metrics {values:?}");
    }
    compared
}

#[test]
fn what_is_at_metrics_is_in_influxdb_for_the_same_moment() {
    let Some(server) = Influxd::with_database("", DATABASE) else { return };
    let (target, spool) = (idle(), Scratch::name("spool"));
    let url = server.url();
    let mut arguments = options(&url, spool.path(), "1s");
    // With everything that can be had here.
    if can_observe() {
        arguments.drain(..QUIET.len());
    }
    let watching = Watching::with(target.pid(), &arguments);
    until(&watching, LONG, "profiler_influx_points_total", |points| points > 0.0);
    // A window of which both sides are known.
    let first = watching.get("/metrics");
    let after_first = now_ns();
    let points = metric(&watching, "profiler_influx_points_total");
    let mut book = Book::default();
    let mut before_last = 0;
    let mut last = None;
    let found = within(LONG, || {
        until(&watching, LONG, "profiler_influx_points_total", |now| now > points);
        std::thread::sleep(Duration::from_millis(100));
        before_last = now_ns();
        last = Some(watching.get("/metrics"));
        book = server.everything(DATABASE);
        book.times("profiler_target").iter().any(|time| (after_first..before_last).contains(time))
    });
    assert!(found, "no window was closed between two looks");
    let between = book.times("profiler_target").into_iter().find(|time| *time > after_first);
    let time = between.filter(|time| *time < before_last).expect("it was there just now");
    let (first, last) = (samples(first.text()), samples(last.expect("it was asked for").text()));
    let (mut families, mut compared) = (BTreeSet::new(), 0);
    for ((name, labels), value) in &first {
        let family = ALL.iter().find(|family| family.name == name && !family.influx.measurement.is_empty());
        let (Some(family), Some(later)) = (family, last.get(&(name.clone(), labels.clone()))) else {
            continue;
        };
        if family.influx.holds == Holds::Chosen && *value != 1.0 {
            continue;
        }
        // Nothing but a limit that there isn't, or words that there aren't.
        let Some(fields) = point(&book, family, labels, time) else {
            panic!("{name} {labels:?} is at /metrics, but not in InfluxDB at {time}");
        };
        let one = compare(family, labels, fields, [*value, *later]);
        compared += one;
        if one > 0 {
            families.insert(family.name);
        }
    }
    println!("{compared} values of {} families are the same", families.len());
    assert!(families.len() >= 30, "{families:?}");
    // And the types are those of the catalogue.
    let known = measurements();
    for measurement in server.measurements(DATABASE) {
        let known = &known[measurement.as_str()];
        for (field, kind) in server.types(DATABASE, &measurement) {
            let holds = known.fields.get(&field).copied();
            let expected = match holds {
                Some("text") => Some("string"),
                None => None,
                other => other,
            };
            assert!(
                expected.is_none_or(|expected| expected == kind),
                "{measurement}: {field} is {kind}, not {holds:?}"
            );
        }
    }
    assert!(watching.finish().status.success());
}

#[test]
fn names_tags_and_types_are_those_that_were_asked_for() {
    let Some(server) = Influxd::with_database("", DATABASE) else { return };
    let (target, spool) = (idle(), Scratch::name("spool"));
    let more = [
        "--influx-tag",
        "team=core, the=best",
        "--influx-tag",
        "host=elsewhere",
        "--influx-measurement-prefix",
        "x.",
        "--influx-uint",
    ];
    let watching = push(&target, &server.url(), spool.path(), "100ms", &more);
    until(&watching, LONG, "profiler_influx_points_total", |points| points > 50.0);
    let finished = watching.finish();
    assert!(finished.status.success());
    // 1.6.7 knows no unsigned integers, and is told so once.
    let said = finished.complaints.iter().filter(|line| line.contains("unsigned")).count();
    assert_eq!(said, 1, "{:#?}", finished.complaints);
    let book = server.everything(DATABASE);
    assert!(book.times("x.profiler_target").len() > 4, "{:?}", book.times("x.profiler_target"));
    for ((series, _), _) in book.points.iter().map(|((series, time), fields)| ((series, time), fields)) {
        assert!(series.0.starts_with("x.profiler_"), "{series:?}");
        assert_eq!(series.1.get("team").map(String::as_str), Some("core, the=best"), "{series:?}");
        assert_eq!(series.1.get("host").map(String::as_str), Some("elsewhere"), "{series:?}");
    }
    let types = server.types(DATABASE, "x.profiler_target");
    assert_eq!(types["processes"], "integer");
    let types = server.types(DATABASE, "x.profiler_process");
    assert_eq!(
        (types["minor_page_faults"].as_str(), types["resident_bytes"].as_str()),
        ("integer", "integer")
    );
}
