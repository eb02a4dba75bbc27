//! One point as one line, or not at all.

use std::fmt::Write as _;

use super::{Point, Value};

/// What a name or a value is part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The name of the measurement.
    Measurement,
    /// A tag's key.
    TagKey,
    /// A tag's value.
    TagValue,
    /// A field's key.
    FieldKey,
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Measurement => "measurement",
            Self::TagKey => "tag key",
            Self::TagValue => "tag value",
            Self::FieldKey => "field key",
        })
    }
}

/// Why a point can't be written as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Every line needs a field.
    #[error("the point has no fields")]
    NoFields,
    /// An absent tag and one with an empty value are the same, so that nothing stands for the latter.
    #[error("an empty {0}")]
    Empty(Part),
    /// It would end the line, or the server refuses it.
    #[error("a control character in the {0} {1:?}")]
    Control(Part, String),
    /// The backslash would escape what comes after the name.
    #[error("the {0} {1:?} ends in a backslash")]
    Backslash(Part, String),
    /// The line would be a comment.
    #[error("the measurement {0:?} begins with #")]
    Comment(String),
    /// The point's own time has this name.
    #[error("a {0} with the name time")]
    Time(Part),
    /// Only one of them would be stored, or nothing.
    #[error("the {0} {1:?} comes twice")]
    Twice(Part, String),
    /// Line protocol has no text for it.
    #[error("the field {0:?} is not a finite number")]
    NotFinite(String),
}

/// Appends the point to `out` as one line with its newline, or appends nothing.
///
/// The bytes are those of InfluxDB's own encoder (the corpus): of a text only `\`, `"`, newline, carriage return and tab
/// are escaped; numbers are as short as can be and read back equal. Tags are in the order in which they are given.
///
/// # Errors
/// Whatever would make more or fewer than one line, or another point than this one.
pub fn write(point: &Point<'_>, out: &mut String) -> Result<(), Refused> {
    check(point)?;
    escaped(out, &point.measurement, &[',', ' ']);
    for (key, value) in &point.tags {
        out.push(',');
        escaped(out, key, &[',', '=', ' ']);
        out.push('=');
        escaped(out, value, &[',', '=', ' ']);
    }
    let mut separator = ' ';
    for (key, value) in &point.fields {
        out.push(separator);
        escaped(out, key, &[',', '=', ' ']);
        out.push('=');
        append(out, value);
        separator = ',';
    }
    // Writing to a string can't fail.
    let _infallible = writeln!(out, " {}", point.time_ns);
    Ok(())
}

fn check(point: &Point<'_>) -> Result<(), Refused> {
    name(Part::Measurement, &point.measurement)?;
    if point.measurement.starts_with('#') {
        return Err(Refused::Comment(point.measurement.clone().into_owned()));
    }
    for (at, (key, value)) in point.tags.iter().enumerate() {
        keyed(Part::TagKey, key, point.tags[..at].iter().map(|(key, _)| &**key))?;
        name(Part::TagValue, value)?;
    }
    for (at, (key, value)) in point.fields.iter().enumerate() {
        keyed(Part::FieldKey, key, point.fields[..at].iter().map(|(key, _)| &**key))?;
        if matches!(value, Value::Float(number) if !number.is_finite()) {
            return Err(Refused::NotFinite(key.clone().into_owned()));
        }
    }
    if point.fields.is_empty() { Err(Refused::NoFields) } else { Ok(()) }
}

fn keyed<'a>(part: Part, key: &str, mut before: impl Iterator<Item = &'a str>) -> Result<(), Refused> {
    name(part, key)?;
    if key == "time" {
        return Err(Refused::Time(part));
    }
    if before.any(|other| other == key) {
        return Err(Refused::Twice(part, key.to_owned()));
    }
    Ok(())
}

fn name(part: Part, name: &str) -> Result<(), Refused> {
    if name.is_empty() {
        Err(Refused::Empty(part))
    } else if name.contains(char::is_control) {
        Err(Refused::Control(part, name.to_owned()))
    } else if name.ends_with('\\') {
        Err(Refused::Backslash(part, name.to_owned()))
    } else {
        Ok(())
    }
}

/// A backslash in a name stands for itself unless a special character follows: none is doubled.
fn escaped(out: &mut String, name: &str, special: &[char]) {
    for c in name.chars() {
        if special.contains(&c) {
            out.push('\\');
        }
        out.push(c);
    }
}

fn append(out: &mut String, value: &Value<'_>) {
    // Writing to a string can't fail.
    let _infallible = match value {
        Value::Float(number) => return float(out, *number),
        Value::Text(value) => return text(out, value),
        Value::Integer(number) => write!(out, "{number}i"),
        Value::Unsigned(number) => write!(out, "{number}u"),
        Value::Boolean(truth) => write!(out, "{truth}"),
    };
}

fn text(out: &mut String, value: &str) {
    out.push('"');
    for c in value.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c => out.push(c),
        }
    }
    out.push('"');
}

/// As Go's `strconv.FormatFloat(number, 'g', -1, 64)`: as short as can be, with an exponent of two digits or more
/// (`1e+06`) from a million on and below a ten-thousandth.
fn float(out: &mut String, number: f64) {
    let size = number.abs();
    if size == 0.0 || (1e-4..1e6).contains(&size) {
        let _infallible = write!(out, "{number}");
        return;
    }
    let text = format!("{number:e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |exponent| ('-', exponent));
    let _infallible = write!(out, "{digits}e{sign}{exponent:0>2}");
}
