//! The corpus of InfluxDB's own encoders and decoders.

use serde_json::Value as Json;

use super::reader::{Read, read};
use crate::export::line_protocol::{Point, Value, write};

/// Each point as `[measurement, [[tag, value]..], [[field, value]..], time]`, a value with a letter for its type before it, and
/// a time that the line didn't have as null. An encoding is a point and a line, or null if it must be refused; a decoding is a
/// text and its points, or null if it is not made of lines.
const CORPUS: &str = include_str!("../corpus.json");

fn cases(of: &str) -> Vec<(Json, Json)> {
    let corpus: Json = serde_json::from_str(CORPUS).unwrap();
    let pair = |case: &Json| (case[0].clone(), case[1].clone());
    corpus[of].as_array().unwrap().iter().map(pair).collect()
}

fn pairs(json: &Json) -> Vec<(String, String)> {
    let text = |json: &Json| json.as_str().unwrap().to_owned();
    json.as_array().unwrap().iter().map(|pair| (text(&pair[0]), text(&pair[1]))).collect()
}

fn expected(point: &Json) -> Read {
    let value = |text: String| match text.split_at(1) {
        ("f", number) => Value::Float(number.parse().unwrap()),
        ("i", number) => Value::Integer(number.parse().unwrap()),
        ("u", number) => Value::Unsigned(number.parse().unwrap()),
        ("b", truth) => Value::Boolean(truth.parse().unwrap()),
        ("s", text) => Value::Text(text.to_owned().into()),
        _ => panic!("{text}"),
    };
    Read {
        measurement: point[0].as_str().unwrap().to_owned(),
        tags: pairs(&point[1]),
        fields: pairs(&point[2]).into_iter().map(|(key, text)| (key, value(text))).collect(),
        time_ns: point[3].as_i64(),
    }
}

/// The point to be written, whose time is 0 if it has none.
pub fn point(read: &Read) -> Point<'_> {
    Point {
        measurement: read.measurement.as_str().into(),
        tags: read.tags.iter().map(|(key, value)| (key.as_str().into(), value.as_str().into())).collect(),
        fields: read.fields.iter().map(|(key, value)| (key.as_str().into(), value.clone())).collect(),
        time_ns: read.time_ns.unwrap_or(0),
    }
}

#[test]
fn every_point_of_the_corpus_is_written_byte_for_byte_or_refused() {
    let cases = cases("encode");
    assert_eq!(cases.len(), 115);
    let mut refused = 0;
    for (given, line) in cases {
        let mut out = String::new();
        let written = write(&point(&expected(&given)), &mut out);
        if let Some(line) = line.as_str() {
            assert_eq!(written, Ok(()), "{given}");
            assert_eq!(out, format!("{line}\n"), "{given}");
        } else {
            assert!(written.is_err() && out.is_empty(), "{given} {out}");
            refused += 1;
        }
    }
    assert_eq!(refused, 1);
}

#[test]
fn the_reader_of_these_tests_agrees_with_the_corpus() {
    let (mut valid, mut invalid) = (0, 0);
    for (text, points) in cases("decode") {
        let text = text.as_str().unwrap();
        let found = read(text);
        let Some(points) = points.as_array() else {
            assert!(found.is_err(), "{text:?} {found:?}");
            invalid += 1;
            continue;
        };
        let mut found = found.unwrap_or_else(|error| panic!("{text:?}: {error}"));
        found.iter_mut().for_each(|point| point.tags.sort());
        assert_eq!(found, points.iter().map(expected).collect::<Vec<_>>(), "{text:?}");
        valid += 1;
    }
    assert_eq!((valid, invalid), (255, 643));
}

#[test]
fn what_the_corpus_decodes_is_read_back_equal_when_it_was_written() {
    let (mut written, mut refused) = (0, Vec::new());
    for (_, points) in cases("decode") {
        for given in points.as_array().into_iter().flatten() {
            let mut given = expected(given);
            given.time_ns = given.time_ns.or(Some(0));
            let mut out = String::new();
            match write(&point(&given), &mut out) {
                Ok(()) => {
                    assert_eq!(read(&out), Ok(vec![given]), "{out:?}");
                    written += 1;
                }
                Err(error) => refused.push(error.to_string()),
            }
        }
    }
    assert_eq!((written, refused), (259, vec!["a tag key with the name time".to_owned()]));
}
