//! Points as InfluxDB reads them: one line each. Pure: no clock, no connection.
//!
//! Two layers. [`write()`] is strict: a point is written as it is, or refused. [`Encoder`] makes points fit for every
//! generation of server first, and counts what that costs.
//!
//! Every line ends in the only newline that it has: a newline within a text is written as `\n`, and names with control
//! characters are refused. So [`lines`] of a batch are its points, and never more.
//!
//! The reference is the corpus of InfluxDB's own encoders and decoders (github.com/influxdata/line-protocol, MIT licence).
//! `corpus.json`, for the tests, has all of its 115 cases of encoding, and of its 6,615 cases of decoding each different
//! text in UTF-8 and nanoseconds that is valid (255), and 643 of the 4,477 invalid ones.

mod encoder;
mod signed;
mod strict;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

pub(crate) use encoder::name_as_written;
pub use encoder::{Encoder, Options, Order, Reason};
pub use signed::signed;
pub use strict::{Part, Refused, write};

/// A field's value. A field keeps one type for ever: servers refuse another one for the same field.
#[derive(Debug, Clone, PartialEq)]
pub enum Value<'a> {
    /// `1.5`; also whole numbers: `1`.
    Float(f64),
    /// `1i`.
    Integer(i64),
    /// `1u`. Servers of the first generation refuse it.
    Unsigned(u64),
    /// `"one"`.
    Text(Cow<'a, str>),
    /// `true`.
    Boolean(bool),
}

/// What was true of something at some time.
#[derive(Debug, Clone, PartialEq)]
pub struct Point<'a> {
    /// The table, as servers of the third generation say.
    pub measurement: Cow<'a, str>,
    /// What it is about: keys and values. Together with the measurement they name the series.
    pub tags: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    /// What is said about it: keys and values.
    pub fields: Vec<(Cow<'a, str>, Value<'a>)>,
    /// When, in nanoseconds since 1970.
    pub time_ns: i64,
}

/// The lines of a batch, each with its newline; together they are the batch.
pub fn lines(batch: &str) -> impl Iterator<Item = &str> {
    batch.split_inclusive('\n')
}
