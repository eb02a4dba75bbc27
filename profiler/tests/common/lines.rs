//! What was true when, by lines of InfluxDB's protocol: a reader of its own, and a book that tells what is missing.

use std::collections::BTreeMap;

/// Measurement and tags.
pub type Series = (String, BTreeMap<String, String>);

/// What a field has. Of a float the bits, so that equal is equal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Float(u64),
    Integer(i64),
    Text(String),
    Boolean(bool),
}

pub type Fields = BTreeMap<String, Value>;

/// Points by series and time. One that comes again must say the same.
#[derive(Clone, Debug, Default)]
pub struct Book {
    pub points: BTreeMap<(Series, i64), Fields>,
}

impl Book {
    pub fn insert(&mut self, series: Series, time: i64, fields: Fields) {
        if let Some(before) = self.points.get(&(series.clone(), time)) {
            assert_eq!(before, &fields, "{series:?} has two points at {time}");
            return;
        }
        self.points.insert((series, time), fields);
    }

    pub fn extend(&mut self, other: Self) {
        for ((series, time), fields) in other.points {
            self.insert(series, time, fields);
        }
    }

    /// Takes in lines of the protocol.
    pub fn read(&mut self, lines: &str) {
        for line in lines.lines().filter(|line| !line.is_empty()) {
            let (series, fields, time) = parse(line).unwrap_or_else(|| panic!("no line: {line}"));
            self.insert(series, time, fields);
        }
    }

    /// Of `expected`, every point has to be here as it is there.
    pub fn has_all_of(&self, expected: &Self) {
        let missing: Vec<_> =
            expected.points.iter().filter(|(key, _)| !self.points.contains_key(key)).collect();
        assert!(
            missing.is_empty(),
            "{} of {} points are missing, the first one {:?}",
            missing.len(),
            expected.points.len(),
            missing[0]
        );
        for (key, fields) in &expected.points {
            assert_eq!(&self.points[key], fields, "{key:?}");
        }
    }

    /// The moments at which there is a point of a measurement, in order.
    pub fn times(&self, measurement: &str) -> Vec<i64> {
        let of = self.points.keys().filter(|((name, _), _)| name == measurement);
        let mut times: Vec<_> = of.map(|(_, time)| *time).collect();
        times.sort_unstable();
        times.dedup();
        times
    }
}

/// A line, read as influxd 1 reads it.
pub fn parse(line: &str) -> Option<(Series, Fields, i64)> {
    let (head, rest) = split(line, ' ')?;
    let (fields, time) = rest.rsplit_once(' ')?;
    let mut parts = Vec::new();
    let mut left = head;
    while let Some((part, more)) = split(left, ',') {
        parts.push(part);
        left = more;
    }
    parts.push(left);
    let mut parts = parts.into_iter();
    let measurement = plain(parts.next()?);
    let mut tags = BTreeMap::new();
    for part in parts {
        let (key, value) = split(part, '=')?;
        tags.insert(plain(key), plain(value));
    }
    let mut all = Fields::new();
    let mut left = fields;
    while !left.is_empty() {
        let (key, rest) = split(left, '=')?;
        let (value, rest) = value(rest)?;
        all.insert(plain(key), value);
        left = rest.strip_prefix(',').unwrap_or(rest);
    }
    Some(((measurement, tags), all, time.parse().ok()?))
}

/// At the first one that isn't escaped.
fn split(text: &str, at: char) -> Option<(&str, &str)> {
    let mut escaped = false;
    for (place, c) in text.char_indices() {
        if c == at && !escaped {
            return Some((&text[..place], &text[place + c.len_utf8()..]));
        }
        escaped = c == '\\' && !escaped;
    }
    None
}

/// Without what escapes.
fn plain(name: &str) -> String {
    name.replace("\\,", ",").replace("\\=", "=").replace("\\ ", " ")
}

/// A field's value, and what follows.
fn value(text: &str) -> Option<(Value, &str)> {
    if let Some(inside) = text.strip_prefix('"') {
        let (mut out, mut escaped) = (String::new(), false);
        for (place, c) in inside.char_indices() {
            match c {
                '"' if !escaped => return Some((Value::Text(out), &inside[place + 1..])),
                '\\' if !escaped => escaped = true,
                c => {
                    if escaped && !matches!(c, '"' | '\\') {
                        out.push('\\');
                    }
                    out.push(c);
                    escaped = false;
                }
            }
        }
        return None;
    }
    let (word, rest) = text.split_at(text.find(',').unwrap_or(text.len()));
    let value = match word {
        "true" | "t" => Value::Boolean(true),
        "false" | "f" => Value::Boolean(false),
        _ => match word.strip_suffix('i') {
            Some(integer) => Value::Integer(integer.parse().ok()?),
            None => Value::Float(word.parse::<f64>().ok()?.to_bits()),
        },
    };
    Some((value, rest))
}
