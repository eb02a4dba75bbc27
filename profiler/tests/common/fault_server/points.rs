//! What the played servers do with lines. A parser of its own: small, and strict where the real ones are.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

/// Which server is played.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Play {
    V1 {
        /// Built to take `5u`.
        unsigned: bool,
    },
    V2,
    V3,
}

pub const V1: Play = Play::V1 { unsigned: false };

impl Play {
    pub fn error(self, words: &str) -> String {
        match self {
            Self::V1 { .. } => json!({"error": words}).to_string(),
            Self::V2 => json!({"code": "invalid", "message": words}).to_string(),
            Self::V3 => json!({"error": words, "data": null}).to_string(),
        }
    }
}

/// What was stored.
#[derive(Default)]
pub struct Store {
    /// By series, time and field.
    values: BTreeMap<(String, i64, String), String>,
    /// Type of each field of a measurement.
    types: BTreeMap<(String, String), char>,
    /// Lines that were stored.
    pub lines: BTreeSet<String>,
    /// Points that were written with another value than before.
    pub contradictions: Vec<String>,
    /// Measurements that hold as many columns as there may be.
    pub full: BTreeSet<String>,
    /// Lines with this in them make the server fail (500), whatever comes with them.
    pub poison: Option<String>,
    /// `max-series-per-database`.
    pub most_series: Option<usize>,
    /// What fits into a cache that is nearly full.
    pub most_lines: Option<usize>,
    /// Points before this are beyond what is kept.
    pub oldest: i64,
}

struct Point {
    series: String,
    measurement: String,
    fields: Vec<(String, String, char)>,
    time: i64,
}

impl Store {
    pub fn has(&self, line: &str) -> bool {
        self.lines.contains(line)
    }

    /// Stores what the server that is played would store, and answers as it does.
    pub fn write(&mut self, play: Play, text: &str) -> (u16, String) {
        let lines: Vec<&str> = text.split('\n').collect();
        if self.poison.as_ref().is_some_and(|poison| text.contains(poison)) {
            return (500, play.error("stream did not contain valid UTF-8"));
        }
        if self.most_lines.is_some_and(|most| lines.len() > most) {
            // As 1.6.7 said it.
            return (500, play.error("engine: cache-max-memory-size exceeded: (6400/3000)"));
        }
        let parsed: Vec<Result<Point, String>> = lines.iter().map(|line| parse(play, line)).collect();
        let unparsed: Vec<(usize, &String)> = parsed
            .iter()
            .enumerate()
            .filter_map(|(at, it)| it.as_ref().err().map(|error| (at, error)))
            .collect();
        if play == Play::V2 && !unparsed.is_empty() {
            return (400, play.error(&quote(&lines, &unparsed)));
        }
        let mut dropped: Vec<(usize, String)> = Vec::new();
        for (at, point) in parsed.iter().enumerate() {
            let Ok(point) = point else { continue };
            if play == Play::V3 && self.full.contains(&point.measurement) {
                return (422, play.error("Adding a new column would exceed limit of 500 columns per table"));
            }
            match self.put(point) {
                Ok(()) => {
                    self.lines.insert(lines[at].to_owned());
                }
                Err(error) => dropped.push((at, error)),
            }
        }
        let status = match play {
            _ if dropped.is_empty() && unparsed.is_empty() => return (204, String::new()),
            Play::V2 => 422,
            _ => 400,
        };
        let words = match play {
            Play::V3 => {
                let bad = unparsed.iter().map(|(at, error)| (*at, error.as_str()));
                let mut bad: Vec<_> =
                    bad.chain(dropped.iter().map(|(at, error)| (*at, error.as_str()))).collect();
                bad.sort_unstable();
                let named = bad.iter().map(|(at, error)| {
                    let cut: String = lines[*at].replace('"', "").chars().take(20).collect();
                    json!({"original_line": cut, "line_number": at + 1, "error_message": error})
                });
                let data: Vec<_> = named.collect();
                return (
                    status,
                    json!({"error": "partial write of line protocol occurred", "data": data}).to_string(),
                );
            }
            _ if !dropped.is_empty() => format!("partial write: {} dropped={}", dropped[0].1, dropped.len()),
            _ if unparsed.len() == lines.len() => quote(&lines, &unparsed),
            _ => format!("partial write: {} dropped=0", quote(&lines, &unparsed)),
        };
        (status, play.error(&words))
    }

    fn put(&mut self, point: &Point) -> Result<(), String> {
        if point.time < self.oldest {
            return Err("points beyond retention policy".to_owned());
        }
        if let Some(most) = self.most_series {
            let known: BTreeSet<&String> = self.values.keys().map(|(series, ..)| series).collect();
            if known.len() >= most && !known.contains(&point.series) {
                return Err(format!("max-series-per-database limit exceeded: ({most})"));
            }
        }
        let name = |field: &str| (point.measurement.clone(), field.to_owned());
        for (field, _, kind) in &point.fields {
            if self.types.get(&name(field)).is_some_and(|known| known != kind) {
                return Err(format!(
                    "field type conflict: input field \"{field}\" on measurement \"{}\" is type {kind}",
                    point.measurement
                ));
            }
        }
        for (field, value, kind) in &point.fields {
            self.types.insert(name(field), *kind);
            let before = self.values.insert((point.series.clone(), point.time, field.clone()), value.clone());
            if before.is_some_and(|before| before != *value) {
                self.contradictions.push(format!("{} {field} {}", point.series, point.time));
            }
        }
        Ok(())
    }
}

fn quote(lines: &[&str], unparsed: &[(usize, &String)]) -> String {
    let quotes = unparsed.iter().map(|(at, error)| format!("unable to parse '{}': {error}", lines[*at]));
    quotes.collect::<Vec<_>>().join("\n")
}

/// Without escapes, and texts without blanks: the lines of these tests have none.
fn parse(play: Play, line: &str) -> Result<Point, String> {
    let mut parts = line.split(' ');
    let (series, fields) = (parts.next().unwrap_or_default(), parts.next().ok_or("missing fields")?);
    let time = parts.next().ok_or("missing timestamp")?;
    let mut keys = series.split(',');
    let measurement = keys.next().filter(|name| !name.is_empty()).ok_or("missing measurement")?;
    if keys.any(|tag| tag.split_once('=').is_none_or(|(key, value)| key.is_empty() || value.is_empty())) {
        return Err("missing tag value".to_owned());
    }
    let mut found = Vec::new();
    for field in fields.split(',') {
        let (name, value) = field.split_once('=').ok_or("invalid field format")?;
        let kind = match value.chars().last().ok_or("missing field value")? {
            'i' if value[..value.len() - 1].parse::<i64>().is_ok() => 'i',
            'u' if play != super::points::V1 && value[..value.len() - 1].parse::<u64>().is_ok() => 'u',
            '"' => 's',
            _ if value.parse::<f64>().is_ok_and(f64::is_finite) => 'f',
            _ => return Err("invalid number".to_owned()),
        };
        found.push((name.to_owned(), value.to_owned(), kind));
    }
    let time = time.parse().map_err(|_| "bad timestamp".to_owned())?;
    Ok(Point { series: series.to_owned(), measurement: measurement.to_owned(), fields: found, time })
}
