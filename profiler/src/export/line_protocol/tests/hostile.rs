//! Strings that want to be something else, and points that are made of them.

use proptest::prelude::*;

use crate::export::line_protocol::{Point, Value};

/// What has broken encoders: separators, ends of lines, quotes, backslashes, other controls, names that servers use.
pub const STRINGS: [&str; 40] = [
    "",
    " ",
    "a",
    "b b",
    "time",
    "_field",
    "_measurement",
    "#",
    "# a=1",
    "\\",
    "a\\",
    "a\\\\",
    "a\\,b",
    "\\ ",
    "\\n",
    "a\\nb",
    "\n",
    "a\nm f=1 1",
    "\r\n",
    "\r",
    "\t",
    "\0",
    "a\0b",
    "\u{7f}",
    "\u{85}",
    "\u{9b}31m",
    "\u{1b}[31m",
    "\u{2028}",
    "\u{2029}x",
    "\u{202e}abc",
    "\u{feff}",
    "\"",
    "\"\"",
    "\\\"",
    "a=1u,b=2u 3",
    ",",
    "=",
    "std::map<int, std::string>::operator[]",
    "\u{1f980}\u{200d}\u{1f525}e\u{301}",
    "\u{fffd}\u{fffe}\u{10ffff}",
];

/// Any string: one of the above, several of them together, anything, or a very long one.
pub fn string() -> impl Strategy<Value = String> {
    let one = || proptest::sample::select(&STRINGS[..]);
    let long = (one(), "[a-z\\\\\"é ,=\n]{1,3}", 300_usize..40_000);
    prop_oneof![
        4 => one().prop_map(str::to_owned),
        4 => "[ab]",
        4 => proptest::collection::vec(one(), 2..5).prop_map(|parts| parts.concat()),
        2 => any::<String>(),
        1 => long.prop_map(|(one, other, times)| format!("{one}{}", other.repeat(times))),
    ]
}

/// Any value, with those at the ends of its type more often than by chance.
pub fn value() -> impl Strategy<Value = Value<'static>> {
    use proptest::num::f64::ANY;
    const FLOATS: [f64; 12] =
        [0.0, -0.0, 1.0, 1e5, 999_999.0, 1e6, 1e-4, 9.999e-5, f64::MAX, f64::MIN_POSITIVE, 5e-324, f64::NAN];
    let ends = prop_oneof![Just(u64::MAX), Just(1 << 63), Just((1 << 63) - 1)];
    prop_oneof![
        ANY.prop_map(Value::Float),
        proptest::sample::select(&FLOATS[..]).prop_map(Value::Float),
        Just(Value::Float(f64::INFINITY)),
        any::<i64>().prop_map(Value::Integer),
        any::<u64>().prop_map(Value::Unsigned),
        ends.prop_map(Value::Unsigned),
        string().prop_map(|text| Value::Text(text.into())),
        any::<bool>().prop_map(Value::Boolean),
    ]
}

/// Any point.
pub fn point() -> impl Strategy<Value = Point<'static>> {
    let tags = proptest::collection::vec((string(), string()), 0..5);
    let fields = proptest::collection::vec((string(), value()), 0..5);
    let ends = prop_oneof![Just(i64::MIN), Just(i64::MIN + 1), Just(i64::MIN + 2), Just(i64::MAX), Just(0)];
    let time = prop_oneof![1 => ends, 9 => any::<i64>()];
    (string(), tags, fields, time).prop_map(|(measurement, tags, fields, time_ns)| Point {
        measurement: measurement.into(),
        tags: tags.into_iter().map(|(key, value)| (key.into(), value.into())).collect(),
        fields: fields.into_iter().map(|(key, value)| (key.into(), value)).collect(),
        time_ns,
    })
}

/// A hostile point that can be written as it is if it has fields, all of them finite.
pub fn writable() -> impl Strategy<Value = Point<'static>> {
    let name = |text: &str, at: usize| {
        let kept: String = text.chars().filter(|c| !c.is_control()).collect();
        // Keys differ at their ends, which aren't backslashes then.
        format!("{kept}{}", char::from(b'a' + at as u8)).into()
    };
    point().prop_map(move |point| Point {
        measurement: name(point.measurement.trim_start_matches('#'), 0),
        tags: (0..).zip(point.tags).map(|(at, (key, value))| (name(&key, at), name(&value, at))).collect(),
        fields: (0..).zip(point.fields).map(|(at, (key, value))| (name(&key, at), value)).collect(),
        time_ns: point.time_ns,
    })
}
