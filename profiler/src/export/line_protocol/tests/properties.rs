//! What holds for every point.

use proptest::prelude::*;

use super::{
    hostile,
    reader::{Read, read},
};
use crate::export::line_protocol::{Encoder, Options, Order, Point, Reason, Value, lines, signed, write};

/// What must be read back of a point that is written as it is.
fn as_it_is(point: &Point<'_>) -> Read {
    Read {
        measurement: point.measurement.clone().into_owned(),
        tags: point.tags.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect(),
        fields: point.fields.iter().map(|(key, value)| (key.to_string(), owned(value))).collect(),
        time_ns: Some(point.time_ns),
    }
}

fn owned(value: &Value<'_>) -> Value<'static> {
    match value {
        Value::Float(number) => Value::Float(*number),
        Value::Integer(number) => Value::Integer(*number),
        Value::Unsigned(number) => Value::Unsigned(*number),
        Value::Text(text) => Value::Text(text.to_string().into()),
        Value::Boolean(truth) => Value::Boolean(*truth),
    }
}

/// The rules once more, as plainly as can be: what must be read back of a point after cleaning.
fn cleaned(point: &Point<'_>, options: Options) -> Option<Read> {
    let printable = |text: &str| text.chars().filter(|c| !c.is_control()).collect::<String>();
    let shortened = |text: String, fits: &dyn Fn(&str) -> bool| {
        let ends: Vec<_> = text.char_indices().map(|(at, c)| at + c.len_utf8()).collect();
        let kept = ends.partition_point(|end| fits(&text[..*end]));
        text[..kept.checked_sub(1).map_or(0, |last| ends[last])].to_owned()
    };
    let name = |text: &str| shortened(printable(text).replace('\\', "＼"), &|text| text.len() <= 1024);
    let free = |key: &str| !["", "time", "_field", "_measurement"].contains(&key);
    let mut fields: Vec<(String, Value<'static>)> = Vec::new();
    for (key, value) in &point.fields {
        let key = name(key);
        let value = match owned(value) {
            Value::Float(number) if !number.is_finite() => continue,
            Value::Unsigned(number) if !options.unsigned => {
                Value::Integer(number.min(i64::MAX as u64) as i64)
            }
            Value::Text(text) => {
                let written = |text: &str| text.len() + text.matches(['"', '\\']).count();
                Value::Text(shortened(printable(&text), &|text| written(text) <= 64_000).into())
            }
            other => other,
        };
        if free(&key) && fields.iter().all(|(other, _)| *other != key) {
            fields.push((key, value));
        }
    }
    let mut tags: Vec<(String, String)> = Vec::new();
    for (key, value) in &point.tags {
        let (key, value) = (name(key), name(value));
        let new =
            tags.iter().all(|(other, _)| *other != key) && fields.iter().all(|(other, _)| *other != key);
        if free(&key) && !value.is_empty() && new {
            tags.push((key, value));
        }
    }
    if options.order == Order::Sorted {
        tags.sort();
    }
    let measurement = name(&point.measurement).trim_start_matches('#').to_owned();
    let in_range = point.time_ns > i64::MIN + 1 && point.time_ns < i64::MAX;
    let left = !measurement.is_empty() && !fields.is_empty() && in_range;
    left.then_some(Read { measurement, tags, fields, time_ns: Some(point.time_ns) })
}

fn options() -> impl Strategy<Value = Options> {
    let order = prop_oneof![Just(Order::Sorted), Just(Order::AsGiven)];
    (any::<bool>(), order).prop_map(|(unsigned, order)| Options { unsigned, order })
}

/// Bits as well: `-0` is another number than `0`.
fn same(one: &[Read], other: &[Read]) -> bool {
    format!("{one:?}") == format!("{other:?}")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_point_is_read_back_equal_or_refused(point in prop_oneof![hostile::point(), hostile::writable()]) {
        let mut out = "before".to_owned();
        match write(&point, &mut out) {
            Err(_) => prop_assert_eq!(out, "before"),
            Ok(()) => {
                let line = out.strip_prefix("before").unwrap();
                prop_assert_eq!(lines(line).count(), 1);
                prop_assert!(line.ends_with('\n'));
                prop_assert!(same(&read(line).unwrap(), &[as_it_is(&point)]), "{}", line);
            }
        }
    }

    #[test]
    fn points_are_read_back_as_the_rules_say_and_there_are_never_more(
        points in proptest::collection::vec(hostile::point(), 0..6),
        options in options(),
    ) {
        let mut encoder = Encoder::new(options);
        let mut out = String::new();
        let added = points.iter().filter(|point| encoder.encode((*point).clone(), &mut out)).count();
        let expected: Vec<_> = points.iter().filter_map(|point| cleaned(point, options)).collect();
        prop_assert_eq!(lines(&out).count(), added);
        prop_assert!(added <= points.len());
        prop_assert!(same(&read(&out).unwrap(), &expected), "{}", out);
        let lost: u64 = encoder.left_out().filter(|(reason, _)| whole_point(*reason)).map(|(_, count)| count).sum();
        prop_assert!(lost as usize >= points.len() - added);
        prop_assert!(encoder.left_out().all(|(reason, count)| reason != Reason::Refused || count == 0));
        prop_assert!(!out.chars().any(|c| c.is_control() && c != '\n'));
    }

    #[test]
    fn making_lines_signed_changes_types_and_nothing_else(
        points in proptest::collection::vec(hostile::point(), 0..6),
        order in prop_oneof![Just(Order::Sorted), Just(Order::AsGiven)],
    ) {
        let mut unsigned = Encoder::new(Options { unsigned: true, order });
        let mut integers = Encoder::new(Options { unsigned: false, order });
        let (mut one, mut other) = (String::new(), String::new());
        for point in points {
            unsigned.encode(point.clone(), &mut one);
            integers.encode(point, &mut other);
        }
        prop_assert_eq!(signed(&one), other.clone());
        prop_assert_eq!(signed(&other), other);
    }

    #[test]
    fn making_lines_signed_holds_for_every_point_that_can_be_written(point in prop_oneof![hostile::point(), hostile::writable()]) {
        let mut line = String::new();
        if write(&point, &mut line).is_ok() {
            let mut expected = as_it_is(&point);
            for (_, value) in &mut expected.fields {
                if let Value::Unsigned(number) = value {
                    *value = Value::Integer(i64::try_from(*number).unwrap_or(i64::MAX));
                }
            }
            prop_assert!(same(&read(&signed(&line)).unwrap(), &[expected]), "{}", line);
        }
    }

    #[test]
    fn making_anything_signed_never_fails(text in hostile::string()) {
        prop_assert!(signed(&text).len() <= text.len() + 1);
    }
}

fn whole_point(reason: Reason) -> bool {
    use Reason::{Nameless, NoFields, Refused, Time, TooLong};
    matches!(reason, Nameless | NoFields | Refused | Time | TooLong)
}
