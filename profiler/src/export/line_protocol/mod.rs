//! Points as InfluxDB reads them.

use std::borrow::Cow;

/// A field's value. A field keeps one type for ever.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    /// A number.
    Float(f64),
    /// A signed count.
    Integer(i64),
    /// A count.
    Unsigned(u64),
    /// Words.
    Text(Cow<'a, str>),
    /// Yes or no.
    Boolean(bool),
}

/// A point.
#[derive(Clone, Debug, PartialEq)]
pub struct Point<'a> {
    /// The measurement.
    pub measurement: Cow<'a, str>,
    /// Names and values.
    pub tags: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    /// Names and values.
    pub fields: Vec<(Cow<'a, str>, Value<'a>)>,
    /// When: nanoseconds of the unix epoch.
    pub time_ns: i64,
}
