//! Makes points fit for every generation of server.
//!
//! The rules are what InfluxDB 1.6, 2 and 3 were found to accept all of them, and to give back as it was; each is stated
//! where it is applied. What they cost is counted.

use std::borrow::Cow;

use super::{Point, Value, write};

/// A tag's value and a name have at most so many bytes. Servers take up to 64 KB for a whole series, and index it.
const NAME: usize = 1024;
/// A text has at most so many bytes when it is written. Servers of the third generation refuse more than 64 KB.
const TEXT: usize = 64_000;
/// All names and values of tags, and the longest key of a field, have at most so many bytes together. Servers of the first
/// generation take 65,535 when they are written, which at most doubles them.
const SERIES: usize = 32_000;
/// Names that servers use for what isn't a tag or a field, one generation or another.
const RESERVED: [&str; 3] = ["time", "_field", "_measurement"];

/// Why something of a point, or the whole point, was left out or changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// A field that isn't a finite number was left out.
    NonFinite,
    /// A tag or field was left out: its name is one that servers use themselves.
    Reserved,
    /// A tag or field was left out: there is one of that name already.
    Duplicate,
    /// A tag or field without a name, or a point without one for its measurement, was left out.
    Nameless,
    /// A point was left out: no field of it was left.
    NoFields,
    /// A point was left out: its time is one that servers refuse.
    Time,
    /// A point was left out: its measurement and tags are too long together.
    TooLong,
    /// A point was left out: it was refused although it had been made fit, which is an error of ours.
    Refused,
    /// A name, a tag's value or a text lost characters or got others in their place.
    Cleaned,
    /// A name, a tag's value or a text lost its end.
    Cut,
    /// A number was too large for an integer, and became the largest one.
    Saturated,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::NonFinite,
        Self::Reserved,
        Self::Duplicate,
        Self::Nameless,
        Self::NoFields,
        Self::Time,
        Self::TooLong,
        Self::Refused,
        Self::Cleaned,
        Self::Cut,
        Self::Saturated,
    ];

    /// As it is called in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::NonFinite => "non_finite",
            Self::Reserved => "reserved",
            Self::Duplicate => "duplicate",
            Self::Nameless => "nameless",
            Self::NoFields => "no_fields",
            Self::Time => "time",
            Self::TooLong => "too_long",
            Self::Refused => "refused",
            Self::Cleaned => "cleaned",
            Self::Cut => "cut",
            Self::Saturated => "saturated",
        }
    }
}

/// The order of a point's tags.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// By key: best for servers of the first two generations, which sort them otherwise.
    #[default]
    Sorted,
    /// As they come: for servers of the third generation, where the first write of a table decides the order of its
    /// columns, and those that queries ask for should come first.
    AsGiven,
}

/// What becomes of a name, or a tag's value. What two of them become is the same only if they differ in control characters, in
/// a backslash where the other one has U+FF3C, or after 1024 bytes.
pub(crate) fn name_as_written(name: &str) -> Cow<'_, str> {
    fit_name(Cow::from(name), |_| ())
}

/// A backslash at the end of a name is refused, and one within is read differently by the generations: its double of full
/// width (U+FF3C) looks like it and means nothing. Another character of ASCII, a slash, would be in other names already.
fn fit_name<'a>(name: Cow<'a, str>, mut count: impl FnMut(Reason)) -> Cow<'a, str> {
    let clean = |c: char| match c {
        '\\' => Some('\u{ff3c}'),
        c => (!c.is_control()).then_some(c),
    };
    cut(cleaned(name, clean, &mut count), NAME, |_| false, &mut count)
}

fn cleaned<'a>(
    text: Cow<'a, str>,
    clean: impl Fn(char) -> Option<char>,
    count: &mut impl FnMut(Reason),
) -> Cow<'a, str> {
    if text.chars().all(|c| clean(c) == Some(c)) {
        return text;
    }
    count(Reason::Cleaned);
    Cow::Owned(text.chars().filter_map(clean).collect())
}

/// At most so many bytes, at the boundary of a character; those that are escaped count twice.
fn cut<'a>(
    text: Cow<'a, str>,
    limit: usize,
    escaped: impl Fn(char) -> bool,
    count: &mut impl FnMut(Reason),
) -> Cow<'a, str> {
    let mut length = 0;
    let end = text.char_indices().find_map(|(at, c)| {
        length += c.len_utf8() + usize::from(escaped(c));
        (length > limit).then_some(at)
    });
    let Some(end) = end else { return text };
    count(Reason::Cut);
    match text {
        Cow::Borrowed(text) => Cow::Borrowed(&text[..end]),
        Cow::Owned(mut text) => {
            text.truncate(end);
            Cow::Owned(text)
        }
    }
}

/// What can be chosen.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Whether unsigned fields are written as such, for servers that know them; if not, as integers up to `i64::MAX`. To be
    /// the same for ever: a field doesn't change its type.
    pub unsigned: bool,
    /// The order of tags.
    pub order: Order,
}

/// Writes points, and counts what it had to leave out or change.
#[derive(Debug, Default)]
pub struct Encoder {
    options: Options,
    counts: [u64; Reason::ALL.len()],
}

impl Encoder {
    /// One that has left out nothing yet.
    pub fn new(options: Options) -> Self {
        Self { options, counts: [0; Reason::ALL.len()] }
    }

    /// How often something was left out or changed, by reason.
    pub fn left_out(&self) -> impl Iterator<Item = (Reason, u64)> {
        Reason::ALL.into_iter().zip(self.counts)
    }

    /// Appends the point to `out` as one line, as far as servers take it. Says whether a line was added.
    ///
    /// Of what has the same name the first one stays; a field stays rather than a tag. An empty tag is the same as none,
    /// and isn't counted.
    pub fn encode(&mut self, point: Point<'_>, out: &mut String) -> bool {
        let written = self.fit(point).and_then(|point| write(&point, out).map_err(|_| Reason::Refused));
        if let Err(reason) = written {
            self.count(reason);
        }
        written.is_ok()
    }

    fn fit<'a>(&mut self, point: Point<'a>) -> Result<Point<'a>, Reason> {
        // InfluxDB 1 and 2 keep the ends of the range for themselves.
        if !(i64::MIN + 2..i64::MAX).contains(&point.time_ns) {
            return Err(Reason::Time);
        }
        let measurement = self.measurement(point.measurement);
        if measurement.is_empty() {
            return Err(Reason::Nameless);
        }
        let mut fields = Vec::with_capacity(point.fields.len());
        for (key, value) in point.fields {
            if let Some(field) = self.field(key, value, &fields) {
                fields.push(field);
            }
        }
        if fields.is_empty() {
            return Err(Reason::NoFields);
        }
        let mut tags = Vec::with_capacity(point.tags.len());
        for (key, value) in point.tags {
            if let Some(tag) = self.tag(key, value, &tags, &fields) {
                tags.push(tag);
            }
        }
        let longest = fields.iter().map(|(key, _)| key.len()).max().unwrap_or(0);
        let all: usize = tags.iter().map(|(key, value)| key.len() + value.len() + 2).sum();
        if measurement.len() + longest + all > SERIES {
            return Err(Reason::TooLong);
        }
        if self.options.order == Order::Sorted {
            tags.sort_by(|(one, _), (other, _)| one.cmp(other));
        }
        Ok(Point { measurement, tags, fields, time_ns: point.time_ns })
    }

    /// A line that begins with `#` is a comment.
    fn measurement<'a>(&mut self, name: Cow<'a, str>) -> Cow<'a, str> {
        let name = self.name(name);
        if !name.starts_with('#') {
            return name;
        }
        self.count(Reason::Cleaned);
        Cow::Owned(name.trim_start_matches('#').to_owned())
    }

    fn field<'a>(
        &mut self,
        key: Cow<'a, str>,
        value: Value<'a>,
        before: &[(Cow<'a, str>, Value<'a>)],
    ) -> Option<(Cow<'a, str>, Value<'a>)> {
        let value = match value {
            Value::Float(number) if !number.is_finite() => {
                self.count(Reason::NonFinite);
                return None;
            }
            Value::Unsigned(number) if !self.options.unsigned => {
                let integer = i64::try_from(number);
                if integer.is_err() {
                    self.count(Reason::Saturated);
                }
                Value::Integer(integer.unwrap_or(i64::MAX))
            }
            // Generations differ in what `\n` in a text means, and some refuse other control characters.
            Value::Text(text) => {
                let mut count = |reason| self.count(reason);
                let text = cleaned(text, |c| (!c.is_control()).then_some(c), &mut count);
                Value::Text(cut(text, TEXT, |c| matches!(c, '"' | '\\'), &mut count))
            }
            value => value,
        };
        let key = self.key(key, |key| before.iter().any(|(other, _)| other == key))?;
        Some((key, value))
    }

    fn tag<'a>(
        &mut self,
        key: Cow<'a, str>,
        value: Cow<'a, str>,
        before: &[(Cow<'a, str>, Cow<'a, str>)],
        fields: &[(Cow<'a, str>, Value<'a>)],
    ) -> Option<(Cow<'a, str>, Cow<'a, str>)> {
        let value = self.name(value);
        if value.is_empty() {
            return None;
        }
        let taken = |key: &str| {
            before.iter().any(|(other, _)| other == key) || fields.iter().any(|(other, _)| other == key)
        };
        Some((self.key(key, taken)?, value))
    }

    fn key<'a>(&mut self, key: Cow<'a, str>, taken: impl Fn(&str) -> bool) -> Option<Cow<'a, str>> {
        let key = self.name(key);
        let reason = if key.is_empty() {
            Reason::Nameless
        } else if RESERVED.contains(&&*key) {
            Reason::Reserved
        } else if taken(&key) {
            Reason::Duplicate
        } else {
            return Some(key);
        };
        self.count(reason);
        None
    }

    fn name<'a>(&mut self, name: Cow<'a, str>) -> Cow<'a, str> {
        fit_name(name, |reason| self.count(reason))
    }

    fn count(&mut self, reason: Reason) {
        self.counts[reason as usize] += 1;
    }
}
