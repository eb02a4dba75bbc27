//! Truth comes from the corpus, and from a reader of our own that is checked against the corpus.

mod corpus;
mod encoder;
mod hostile;
mod properties;
mod reader;
mod signed;
mod strict;

use super::{Point, Value};

/// A point with one field, to be changed.
fn simple() -> Point<'static> {
    Point {
        measurement: "m".into(),
        tags: vec![("k".into(), "v".into())],
        fields: vec![("f".into(), Value::Integer(1))],
        time_ns: 7,
    }
}

/// A point whose only field is this one.
fn with(value: Value<'static>) -> Point<'static> {
    Point { tags: Vec::new(), fields: vec![("f".into(), value)], ..simple() }
}
