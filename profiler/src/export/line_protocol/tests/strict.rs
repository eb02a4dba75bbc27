//! What is refused, and how values are written.

use super::{simple, with};
use crate::export::line_protocol::{Part, Point, Refused, Value, write};

fn refusal(point: &Point<'_>) -> Refused {
    let mut out = "x\n".to_owned();
    let refused = write(point, &mut out).unwrap_err();
    assert_eq!(out, "x\n", "{point:?}");
    refused
}

fn value(value: Value<'static>) -> String {
    let mut out = String::new();
    write(&with(value), &mut out).unwrap();
    out.strip_prefix("m f=").and_then(|rest| rest.strip_suffix(" 7\n")).unwrap().to_owned()
}

#[test]
fn floats_are_as_short_as_can_be_and_have_exponents_as_go_writes_them() {
    // What Go 1.19's strconv.FormatFloat(x, 'g', -1, 64) prints.
    let cases = [
        (1.0, "1"),
        (0.0, "0"),
        (-0.0, "-0"),
        (-0.64, "-0.64"),
        (0.1 + 0.2, "0.30000000000000004"),
        (100_000.0, "100000"),
        (999_999.0, "999999"),
        (999_999.999_999_999_9, "999999.9999999999"),
        (1e6, "1e+06"),
        (-1_234_567.5, "-1.2345675e+06"),
        (1e21, "1e+21"),
        (0.0001, "0.0001"),
        (0.000_099_999, "9.9999e-05"),
        (1e-5, "1e-05"),
        (1e100, "1e+100"),
        (f64::MAX, "1.7976931348623157e+308"),
        (f64::MIN_POSITIVE, "2.2250738585072014e-308"),
        (5e-324, "5e-324"),
    ];
    for (number, text) in cases {
        assert_eq!(value(Value::Float(number)), text);
    }
}

#[test]
fn each_type_has_its_mark() {
    assert_eq!(value(Value::Integer(i64::MIN)), "-9223372036854775808i");
    assert_eq!(value(Value::Unsigned(u64::MAX)), "18446744073709551615u");
    assert_eq!(value(Value::Boolean(false)), "false");
    assert_eq!(value(Value::Text("".into())), "\"\"");
    assert_eq!(value(Value::Text("a\"\\\n\r\t\u{1},= é".into())), "\"a\\\"\\\\\\n\\r\\t\u{1},= é\"");
}

#[test]
fn tags_are_in_the_order_in_which_they_are_given() {
    let mut out = String::new();
    let tags = vec![("b".into(), "1".into()), ("a".into(), "2".into())];
    write(&Point { tags, ..simple() }, &mut out).unwrap();
    assert_eq!(out, "m,b=1,a=2 f=1i 7\n");
}

#[test]
fn what_would_not_be_this_one_point_is_refused() {
    let tag =
        |key: &'static str, value: &'static str| Point { tags: vec![(key.into(), value.into())], ..simple() };
    let named = |measurement: &'static str| Point { measurement: measurement.into(), ..simple() };
    let field = |key: &'static str| Point { fields: vec![(key.into(), Value::Integer(1))], ..simple() };
    let twice = Value::Integer(1);
    let fields = vec![("f".into(), twice.clone()), ("g".into(), twice.clone()), ("f".into(), twice)];
    let tags = vec![("k".into(), "1".into()), ("k".into(), "2".into())];
    let cases = [
        (Point { fields: Vec::new(), ..simple() }, Refused::NoFields),
        (Point { fields, ..simple() }, Refused::Twice(Part::FieldKey, "f".into())),
        (Point { tags, ..simple() }, Refused::Twice(Part::TagKey, "k".into())),
        (with(Value::Float(f64::NAN)), Refused::NotFinite("f".into())),
        (with(Value::Float(f64::INFINITY)), Refused::NotFinite("f".into())),
        (with(Value::Float(f64::NEG_INFINITY)), Refused::NotFinite("f".into())),
        (named(""), Refused::Empty(Part::Measurement)),
        (named("a\nb"), Refused::Control(Part::Measurement, "a\nb".into())),
        (named("a\\"), Refused::Backslash(Part::Measurement, "a\\".into())),
        (named("#a"), Refused::Comment("#a".into())),
        (tag("", "v"), Refused::Empty(Part::TagKey)),
        (tag("k", ""), Refused::Empty(Part::TagValue)),
        (tag("k\r", "v"), Refused::Control(Part::TagKey, "k\r".into())),
        (tag("k", "\0"), Refused::Control(Part::TagValue, "\0".into())),
        (tag("k", "v\\"), Refused::Backslash(Part::TagValue, "v\\".into())),
        (tag("time", "v"), Refused::Time(Part::TagKey)),
        (field(""), Refused::Empty(Part::FieldKey)),
        (field("\u{85}"), Refused::Control(Part::FieldKey, "\u{85}".into())),
        (field("f\\"), Refused::Backslash(Part::FieldKey, "f\\".into())),
        (field("time"), Refused::Time(Part::FieldKey)),
    ];
    for (point, expected) in cases {
        assert_eq!(refusal(&point), expected);
    }
    assert_eq!(refusal(&named("a\nb")).to_string(), "a control character in the measurement \"a\\nb\"");
}
