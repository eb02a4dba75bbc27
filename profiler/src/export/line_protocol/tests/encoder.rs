//! How points are made fit.

use super::{simple, with};
use crate::export::line_protocol::{Encoder, Options, Order, Point, Reason, Value};

/// The line, if there is one, and what was counted.
fn encoded(options: Options, point: Point<'_>) -> (String, Vec<(&'static str, u64)>) {
    let mut encoder = Encoder::new(options);
    let mut out = String::new();
    assert_eq!(encoder.encode(point, &mut out), !out.is_empty());
    let counts =
        encoder.left_out().filter(|(_, count)| *count > 0).map(|(reason, count)| (reason.name(), count));
    (out, counts.collect())
}

fn plainly(point: Point<'_>) -> (String, Vec<(&'static str, u64)>) {
    encoded(Options::default(), point)
}

fn tagged(tags: &[(&'static str, &'static str)]) -> Point<'static> {
    Point { tags: tags.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect(), ..simple() }
}

fn line(text: &str) -> String {
    format!("{text}\n")
}

#[test]
fn what_is_fit_is_written_as_it_is() {
    let point = tagged(&[("b", "\u{202e}\u{1f980} ,=\""), ("a", "#2")]);
    assert_eq!(plainly(point), (line("m,a=#2,b=\u{202e}\u{1f980}\\ \\,\\=\" f=1i 7"), vec![]));
}

#[test]
fn tags_keep_their_order_if_that_is_wanted() {
    let options = Options { order: Order::AsGiven, ..Options::default() };
    assert_eq!(encoded(options, tagged(&[("b", "1"), ("a", "2")])).0, line("m,b=1,a=2 f=1i 7"));
}

#[test]
fn control_characters_and_backslashes_are_cleaned_away() {
    let point = Point {
        measurement: "##m\n\\".into(),
        tags: vec![("k\\\u{9b}".into(), "\\\r\nv\\".into())],
        fields: vec![("f\0".into(), Value::Text("a\\n\nb\tc\u{7f}".into()))],
        time_ns: 7,
    };
    assert_eq!(plainly(point), (line(r#"m＼,k＼=＼v＼ f="a\\nbc" 7"#), vec![("cleaned", 6)]));
}

#[test]
fn empty_tags_are_left_out_without_being_counted() {
    assert_eq!(plainly(tagged(&[("a", ""), ("b", "1")])), (line("m,b=1 f=1i 7"), vec![]));
}

#[test]
fn of_one_name_the_first_stays_and_a_field_rather_than_a_tag() {
    let tags = tagged(&[("a", "1"), ("f", "2"), ("a", "3")]).tags;
    let fields = vec![("f".into(), Value::Integer(1)), ("f".into(), Value::Integer(2))];
    assert_eq!(plainly(Point { tags, fields, ..simple() }), (line("m,a=1 f=1i 7"), vec![("duplicate", 3)]));
}

#[test]
fn names_that_servers_use_are_left_out() {
    let tags =
        tagged(&[("time", "1"), ("_field", "2"), ("_measurement", "3"), ("ti\nme", "4"), ("Time", "5")]).tags;
    let fields = vec![("time".into(), Value::Integer(1)), ("f".into(), Value::Integer(2))];
    let found = plainly(Point { tags, fields, ..simple() });
    assert_eq!(found, (line("m,Time=5 f=2i 7"), vec![("reserved", 5), ("cleaned", 1)]));
}

#[test]
fn a_point_without_a_finite_field_is_no_line() {
    assert_eq!(
        plainly(with(Value::Float(f64::NAN))),
        (String::new(), vec![("non_finite", 1), ("no_fields", 1)])
    );
    let fields = vec![("g".into(), Value::Float(f64::INFINITY)), ("f".into(), Value::Float(1.0))];
    assert_eq!(plainly(Point { fields, ..simple() }), (line("m,k=v f=1 7"), vec![("non_finite", 1)]));
}

#[test]
fn nothing_is_without_a_name() {
    assert_eq!(plainly(Point { measurement: "#\n#".into(), ..simple() }).0, "");
    let fields = vec![
        ("".into(), Value::Integer(1)),
        ("\n".into(), Value::Integer(1)),
        ("f".into(), Value::Integer(2)),
    ];
    let found = plainly(Point { fields, ..tagged(&[("", "v")]) });
    assert_eq!(found, (line("m f=2i 7"), vec![("nameless", 3), ("cleaned", 1)]));
}

#[test]
fn unsigned_numbers_are_integers_unless_they_are_wanted() {
    let unsigned = Options { unsigned: true, ..Options::default() };
    for (number, integer, saturated) in
        [(5, "5i", vec![]), (u64::MAX, "9223372036854775807i", vec![("saturated", 1)])]
    {
        assert_eq!(plainly(with(Value::Unsigned(number))), (line(&format!("m f={integer} 7")), saturated));
        assert_eq!(
            encoded(unsigned, with(Value::Unsigned(number))),
            (line(&format!("m f={number}u 7")), vec![])
        );
    }
}

#[test]
fn long_texts_and_names_are_cut_where_a_character_ends() {
    let (found, counts) = plainly(tagged(&[("k", "v")]));
    assert_eq!((found, counts), (line("m,k=v f=1i 7"), vec![]));
    let long = |times| "é".repeat(times);
    let point = Point { tags: vec![("k".into(), format!("a{}", long(512)).into())], ..simple() };
    assert_eq!(plainly(point), (line(&format!("m,k=a{} f=1i 7", long(511))), vec![("cut", 1)]));
    let point = Point { tags: vec![("k".into(), long(512).into())], ..simple() };
    assert_eq!(plainly(point), (line(&format!("m,k={} f=1i 7", long(512))), vec![]));
    let text = Value::Text(format!("a{}", "\"".repeat(32_000)).into());
    assert_eq!(
        plainly(with(text)),
        (line(&format!("m f=\"a{}\" 7", "\\\"".repeat(31_999))), vec![("cut", 1)])
    );
    let text = "a".repeat(64_000);
    assert_eq!(plainly(with(Value::Text(text.clone().into()))), (line(&format!("m f=\"{text}\" 7")), vec![]));
}

#[test]
fn a_series_that_is_too_long_is_left_out() {
    let value = ",".repeat(1024);
    let tags = |count| (0..count).map(|tag| (format!("{tag:02}").into(), value.clone().into())).collect();
    assert_eq!(plainly(Point { tags: tags(32), ..simple() }), (String::new(), vec![("too_long", 1)]));
    let (found, counts) = plainly(Point { tags: tags(31), ..simple() });
    assert!(counts.is_empty() && (62_000..65_535).contains(&found.len()), "{}", found.len());
}

#[test]
fn times_that_servers_keep_for_themselves_are_left_out() {
    for time_ns in [i64::MIN, i64::MIN + 1, i64::MAX] {
        assert_eq!(plainly(Point { time_ns, ..simple() }), (String::new(), vec![("time", 1)]));
    }
    assert_eq!(
        plainly(Point { time_ns: i64::MIN + 2, ..simple() }).0,
        line("m,k=v f=1i -9223372036854775806")
    );
    assert_eq!(
        plainly(Point { time_ns: i64::MAX - 1, ..simple() }).0,
        line("m,k=v f=1i 9223372036854775806")
    );
}

#[test]
fn every_reason_has_a_name_of_its_own_and_its_place() {
    let names: std::collections::BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.name()).collect();
    assert_eq!(names.len(), Reason::ALL.len());
    for (at, reason) in Reason::ALL.into_iter().enumerate() {
        assert_eq!(reason as usize, at, "counts are by place");
    }
}
