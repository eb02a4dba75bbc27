//! InfluxDB's points of one moment, made of the families as the catalogue says, and what has become of verdicts.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    time::SystemTime,
};

use super::{
    catalogue::{Family, Holds},
    families::{Families, Filled, Row, Value as Figure},
    line_protocol::{self, Point, Value},
    weigh,
};
use crate::leaks::{Judgement, Picture, Verdict};

/// Where changes of verdicts go.
pub const VERDICTS: &str = "profiler_verdict";
/// What such an event has, and what that holds.
pub const VERDICT_FIELDS: [(&str, &str); 5] = [
    ("verdict", "text"),
    ("before", "text"),
    ("reason", "text"),
    ("confidence", "float"),
    ("bytes_per_second", "float"),
];

/// Those of its texts that are verdicts.
pub const VERDICT_WORDS: [&str; 2] = ["verdict", "before"];

/// Go's memory limit where there is none (`math.MaxInt64`).
const NO_GO_LIMIT: u64 = i64::MAX.cast_unsigned();

/// What all points have in common.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Common {
    /// Put before the name of every measurement.
    pub prefix: String,
    /// Tags of every point, besides its own.
    pub tags: Vec<(String, String)>,
}

/// A point's measurement and tags, in the order of the labels, as they are written: what is the same then is one series.
type Series<'a> = (&'static str, Vec<(&'static str, Cow<'a, str>)>);
/// Labels that become tags, as they are: the encoder counts what it has to change.
type Tags<'a> = Vec<(&'static str, &'a str)>;
/// Its fields.
type Fields<'a> = Vec<(Cow<'a, str>, Value<'a>)>;

/// The points of one moment. Figures with the same tags are one point.
pub fn points<'a>(families: &'a Families, at_ns: i64, common: &'a Common) -> Vec<Point<'a>> {
    let mut points: BTreeMap<Series<'a>, (Tags<'a>, Fields<'a>)> = BTreeMap::new();
    let mut shared: HashMap<Series<'a>, Tags<'a>> = HashMap::new();
    for Filled { family, rows, .. } in
        families.iter().filter(|filled| !filled.family.influx.measurement.is_empty())
    {
        for row in rows {
            let tags = tags_of(family, row);
            let written = |(name, value): &(_, &'a str)| (*name, line_protocol::name_as_written(value));
            let series = (family.influx.measurement, tags.iter().map(written).collect::<Vec<_>>());
            if !family.influx.tags.is_empty() {
                shared
                    .insert(series.clone(), labels(family, row, |label| family.influx.tags.contains(&label)));
            }
            let fields = fields_of(family, row);
            if !fields.is_empty() {
                let (_, there) = points.entry(series).or_insert_with(|| (tags, Fields::new()));
                for (name, value) in fields {
                    // Several processes of one target: the first one's words stand for it.
                    if !there.iter().any(|(known, _)| *known == name) {
                        there.push((name, value));
                    }
                }
            }
        }
    }
    let with_tags = |(series, (tags, fields)): (Series<'a>, (Tags<'a>, Fields<'a>))| {
        let extra = shared.get(&series).into_iter().flatten().copied();
        let (measurement, _) = series;
        let own = tags.into_iter().chain(extra).map(|(name, value)| (Cow::from(name), Cow::from(value)));
        point(measurement, own.collect(), fields, at_ns, common)
    };
    points.into_iter().map(with_tags).collect()
}

fn point<'a>(
    measurement: &str,
    mut tags: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    fields: Fields<'a>,
    time_ns: i64,
    common: &'a Common,
) -> Point<'a> {
    tags.extend(common.tags.iter().map(|(name, value)| (Cow::from(name), Cow::from(value))));
    Point { measurement: Cow::Owned(format!("{}{measurement}", common.prefix)), tags, fields, time_ns }
}

fn labels<'a>(
    family: &'static Family,
    row: &'a Row,
    wanted: impl Fn(&'static str) -> bool,
) -> Vec<(&'static str, &'a str)> {
    let pairs = family.labels.iter().zip(&row.labels);
    pairs.filter(|(name, _)| wanted(name)).map(|(name, value)| (*name, value.as_str())).collect()
}

fn tags_of<'a>(family: &'static Family, row: &'a Row) -> Tags<'a> {
    labels(family, row, |label| family.influx.is_tag(label))
}

fn fields_of<'a>(family: &'static Family, row: &'a Row) -> Fields<'a> {
    let influx = &family.influx;
    let text = |value: &'a str| Value::Text(Cow::from(value));
    let mut fields = Fields::new();
    match (influx.holds, &row.value) {
        (Holds::Nothing, _) => {}
        (Holds::Chosen, value) => {
            // The other rows are what it isn't.
            if value.to_f64() != 1.0 {
                return fields;
            }
            let chosen = labels(family, row, |label| label == influx.field);
            fields.extend(chosen.into_iter().map(|(name, value)| (Cow::from(name), text(value))));
        }
        (Holds::Histogram, Figure::Histogram(histogram)) => {
            fields.push((Cow::from(influx.field), Value::Float(histogram.sum)));
            for (bound, count) in &histogram.buckets {
                fields.push((Cow::Owned(format!("le_{bound}")), Value::Unsigned(*count)));
            }
        }
        (Holds::Summary, Figure::Summary(summary)) => {
            fields.push((Cow::from(influx.field), Value::Float(summary.sum)));
            let quantile = |(share, size): &(f64, f64)| {
                (Cow::Owned(quantile_field(influx.field, &share.to_string())), Value::Float(*size))
            };
            fields.extend(summary.quantiles.iter().map(quantile));
        }
        // A limit that there isn't: client_golang shows it as the largest number, of either kind, here it has none.
        (Holds::Integer, Figure::Whole(u64::MAX | NO_GO_LIMIT)) => {}
        (Holds::Float, value) => fields.push((field_name(family, row), Value::Float(value.to_f64()))),
        (Holds::Integer, Figure::Whole(value)) => {
            fields.push((field_name(family, row), Value::Unsigned(*value)));
        }
        (Holds::Integer, Figure::Signed(value)) => {
            fields.push((field_name(family, row), Value::Integer(*value)));
        }
        // The catalogue and the walk disagree: a field never changes its type, so there is none.
        (Holds::Integer | Holds::Histogram | Holds::Summary, _) => {
            debug_assert!(false, "{} holds something else", family.name);
        }
    }
    let words = labels(family, row, |label| influx.words.contains(&label));
    fields.extend(
        words
            .into_iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(name, value)| (Cow::from(name), text(value))),
    );
    fields
}

/// Where a quantile of a summary goes whose sum is in `field`.
pub fn quantile_field(field: &str, share: &str) -> String {
    format!("{}_{share}", field.strip_suffix("_total").unwrap_or(field))
}

/// The field's name, with the values of labels that are part of it.
fn field_name<'a>(family: &'static Family, row: &'a Row) -> Cow<'a, str> {
    let template = family.influx.field;
    if !template.contains('{') {
        return Cow::from(template);
    }
    let inside = labels(family, row, |label| family.influx.is_in_field(label));
    let replaced = |text: String, (label, value): (&str, &str)| text.replace(&format!("{{{label}}}"), value);
    Cow::Owned(inside.into_iter().fold(template.to_owned(), replaced))
}

/// Remembers verdicts, so that a change is told once.
#[derive(Debug, Default)]
pub struct Verdicts {
    known: HashMap<(String, Option<String>), Verdict>,
}

impl Verdicts {
    /// The events that this picture has beside the one before: a point for each target and site of which something else is
    /// said now. What is new and steady or not judged yet is no event.
    pub fn changes<'a>(&mut self, picture: &'a Picture, common: &'a Common) -> Vec<Point<'a>> {
        let at_ns = unix_ns(picture.taken_at);
        let mut now = HashMap::with_capacity(self.known.len());
        let mut events = Vec::new();
        for target in &picture.targets {
            let name = target.target.to_string();
            let mut look = |site: Option<&'a crate::leaks::SiteReport>, judgement: &'a Judgement| {
                let key = (name.clone(), site.map(|site| site.id.to_string()));
                let before = self.known.get(&key).copied();
                now.insert(key, judgement.verdict);
                let quiet = matches!(judgement.verdict, Verdict::Steady | Verdict::Unjudged);
                if before == Some(judgement.verdict) || (before.is_none() && quiet) {
                    return;
                }
                let mut tags: Vec<(Cow<'a, str>, Cow<'a, str>)> =
                    vec![(Cow::from("target"), Cow::from(&*target.target))];
                if let Some(site) = site {
                    let (function, _) = weigh::culprit(&site.stack).unwrap_or_default();
                    tags.push((Cow::from("site"), Cow::from(&*site.id)));
                    tags.push((Cow::from("function"), Cow::Owned(function)));
                }
                events.push(point(VERDICTS, tags, event(judgement, before), at_ns, common));
            };
            look(None, &target.judgement);
            target.sites.iter().for_each(|site| look(Some(site), &site.judgement));
        }
        self.known = now;
        events
    }
}

fn event(judgement: &Judgement, before: Option<Verdict>) -> Fields<'_> {
    let mut fields = vec![
        (Cow::from("verdict"), Value::Text(Cow::from(judgement.verdict.name()))),
        (Cow::from("before"), Value::Text(Cow::from(before.unwrap_or_default().name()))),
        (Cow::from("reason"), Value::Text(Cow::from(&judgement.reason))),
        (Cow::from("confidence"), Value::Float(judgement.confidence)),
    ];
    if let Some(rate) = judgement.rate {
        fields.push((Cow::from("bytes_per_second"), Value::Float(rate.value)));
    }
    fields
}

/// A moment as InfluxDB has it. What is before 1970 or after 2262 has no number and becomes the nearest.
pub fn unix_ns(at: SystemTime) -> i64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::{
        moment::{CONTEXT, go_target, snapshot, target},
        picture,
    };

    fn common() -> Common {
        Common { prefix: String::new(), tags: vec![("host".to_owned(), "h".to_owned())] }
    }

    fn with_leaks() -> Families {
        let picture = std::sync::Arc::new(picture::realistic());
        Families::of(
            &crate::snapshot::Snapshot { leaks: Some(picture), ..snapshot(vec![target("shop")]) },
            CONTEXT,
        )
    }

    fn find<'a>(points: &'a [Point<'a>], measurement: &str, tags: &[(&str, &str)]) -> &'a Point<'a> {
        let has = |point: &Point<'_>, (name, value): (&str, &str)| {
            point.tags.iter().any(|tag| *tag == (Cow::from(name), Cow::from(value)))
        };
        let mut found = points
            .iter()
            .filter(|point| point.measurement == measurement && tags.iter().all(|tag| has(point, *tag)));
        let first = found.next().unwrap_or_else(|| panic!("no {measurement} {tags:?}"));
        assert!(found.next().is_none(), "{measurement} {tags:?} twice");
        first
    }

    fn field<'a>(point: &'a Point<'a>, name: &str) -> &'a Value<'a> {
        let found = point.fields.iter().find(|(field, _)| field == name);
        &found.unwrap_or_else(|| panic!("no field {name} in {:?}", point.fields)).1
    }

    #[test]
    fn figures_with_the_same_tags_are_one_point_and_keep_their_types() {
        let (families, common) = (with_leaks(), common());
        let points = points(&families, 7, &common);
        let malloc = find(&points, "profiler_alloc", &[("function", "malloc"), ("allocator", "glibc")]);
        assert_eq!(field(malloc, "allocations"), &Value::Unsigned(7));
        assert_eq!(field(malloc, "probe_hits"), &Value::Unsigned(7));
        assert_eq!(malloc.time_ns, 7);
        let glibc = find(&points, "profiler_allocator", &[("allocator", "glibc")]);
        assert_eq!(field(glibc, "live_objects"), &Value::Integer(7));
        let of_target = find(&points, "profiler_target", &[("target", "shop")]);
        assert_eq!(field(of_target, "pid"), &Value::Text("1".into()));
        assert_eq!(of_target.tags.len(), 2, "target and host: {:?}", of_target.tags);
        let futex = find(&points, "profiler_stall", &[("cause", "futex")]);
        assert_eq!(field(futex, "le_0.001"), &Value::Unsigned(2));
        assert_eq!(field(futex, "seconds"), &Value::Float(20.0));
        let process = find(&points, "profiler_process", &[]);
        assert_eq!(field(process, "minor_page_faults"), &Value::Unsigned(0));
    }

    #[test]
    fn memory_of_go_has_the_names_that_gops_prints() {
        // gops' agent/agent.go, in the order of its answer to memstats, without its two settings (enable-gc, debug-gc).
        const GOPS: &str = "alloc total-alloc sys lookups mallocs frees heap-alloc heap-sys heap-idle heap-in-use heap-released \
            heap-objects stack-in-use stack-sys mspan-in-use mspan-sys mcache-in-use mcache-sys buck-hash-sys other-sys gc-sys \
            next-gc last-gc gc-pause-total gc-pause gc-pause-end num-gc num-forced-gc gc-cpu-fraction";
        let (families, common) = (Families::of(&snapshot(vec![go_target("shop")]), CONTEXT), common());
        let points = points(&families, 7, &common);
        let memory = find(&points, "profiler_go_memstats", &[("target", "shop"), ("host", "h")]);
        assert_eq!(memory.tags.len(), 2);
        for name in GOPS.split_whitespace() {
            field(memory, &name.replace('-', "_"));
        }
        assert_eq!(field(memory, "heap_in_use"), &Value::Unsigned(3_000_000));
        assert_eq!(field(memory, "gc_pause_total"), &Value::Float(0.0015));
        assert_eq!(field(memory, "gc_pause_0.5"), &Value::Float(0.0003));
        assert_eq!(field(memory, "gc_pause"), &Value::Float(0.0002));
        assert_eq!(field(memory, "num_forced_gc"), &Value::Unsigned(1));
        let go = find(&points, "profiler_go", &[("target", "shop")]);
        assert_eq!(field(go, "goroutines"), &Value::Unsigned(12));
        assert_eq!(field(go, "version"), &Value::Text("go1.23.9".into()));
        assert!(!go.fields.iter().any(|(name, _)| name == "memory_limit_bytes"), "there is none");
        let gc = find(&points, "profiler_stall", &[("cause", "gc")]);
        assert_eq!(field(gc, "stalls"), &Value::Unsigned(3));
    }

    #[test]
    fn names_that_differ_stay_apart_when_they_are_written_and_no_two_lines_are_of_one_series() {
        use crate::export::line_protocol::{Encoder, Options, lines};
        // The last one can't be told from the first.
        let names = ["a\\b", "a/b", "a\\", "a\u{ff3c}b"];
        let families = Families::of(&snapshot(names.map(target).to_vec()), CONTEXT);
        let (mut encoder, mut text, common) = (Encoder::new(Options::default()), String::new(), common());
        for point in points(&families, 7, &common) {
            assert!(encoder.encode(point, &mut text));
        }
        let mut series: Vec<_> = lines(&text).map(|line| line.split_once(' ').unwrap().0).collect();
        let (all, of_process) = (series.len(), |line: &&&str| line.starts_with("profiler_process,"));
        assert_eq!(series.iter().filter(of_process).count(), 3, "{series:?}");
        series.sort_unstable();
        series.dedup();
        assert_eq!(series.len(), all, "{text}");
    }

    #[test]
    fn a_site_is_one_series_with_its_function_and_its_verdict() {
        let (families, common) = (with_leaks(), common());
        let points = points(&families, 7, &common);
        let site = find(&points, "profiler_site", &[("site", "3f0a9c51e27b")]);
        assert!(site.tags.contains(&("function".into(), "cache::Store::remember".into())));
        assert_eq!(field(site, "verdict"), &Value::Text("leaking".into()));
        assert_eq!(field(site, "object"), &Value::Text("/usr/bin/shop".into()));
        assert_eq!(field(site, "live_bytes"), &Value::Float(3_686_400.0));
    }

    #[test]
    fn a_change_of_a_verdict_is_told_once() {
        let (mut verdicts, common) = (Verdicts::default(), common());
        let mut picture = picture::realistic();
        let first = verdicts.changes(&picture, &common).len();
        assert!(first > 0, "something leaks already");
        assert!(verdicts.changes(&picture, &common).is_empty());
        picture.targets[0].judgement.verdict = Verdict::Steady;
        let events = verdicts.changes(&picture, &common);
        assert_eq!(events.len(), 1);
        assert_eq!(field(&events[0], "verdict"), &Value::Text("steady".into()));
        assert_eq!(field(&events[0], "before"), &Value::Text("leaking".into()));
    }

    #[test]
    fn no_field_of_a_measurement_is_declared_with_two_types() {
        let mut types: HashMap<(&str, &str), Holds> = HashMap::new();
        for family in crate::export::catalogue::ALL {
            let influx = &family.influx;
            if influx.holds != Holds::Nothing {
                let known = types.insert((influx.measurement, influx.field), influx.holds);
                assert_eq!(known, None, "{}: two families in one field", family.name);
            }
        }
    }
}
