//! A reader of lines for tests. It shares nothing with the encoder; what it takes for a point is checked against the
//! corpus of InfluxDB's own decoders.

use std::collections::BTreeSet;

use crate::export::line_protocol::Value;

/// A point as it was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Read {
    pub measurement: String,
    pub tags: Vec<(String, String)>,
    pub fields: Vec<(String, Value<'static>)>,
    pub time_ns: Option<i64>,
}

/// Reads all lines; nothing if one of them is none.
pub fn read(text: &str) -> Result<Vec<Read>, String> {
    let mut reader = Reader { rest: text };
    let mut points = Vec::new();
    while reader.next_line()? {
        points.push(reader.line()?);
    }
    Ok(points)
}

struct Reader<'a> {
    rest: &'a str,
}

fn unprintable(c: char) -> bool {
    c < ' ' || c == '\u{7f}'
}

impl Reader<'_> {
    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn take(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.rest = &self.rest[c.len_utf8()..];
        Some(c)
    }

    fn spaces(&mut self) -> bool {
        let before = self.rest.len();
        self.rest = self.rest.trim_start_matches(' ');
        self.rest.len() < before
    }

    fn line_end(&mut self) -> bool {
        for end in ["\r\n", "\n"] {
            if let Some(rest) = self.rest.strip_prefix(end) {
                self.rest = rest;
                return true;
            }
        }
        let end = matches!(self.rest, "" | "\r");
        if end {
            self.rest = "";
        }
        end
    }

    /// To the beginning of the next point; there may be none.
    fn next_line(&mut self) -> Result<bool, String> {
        loop {
            self.spaces();
            match self.peek() {
                None => return Ok(false),
                Some('#') => {
                    let end = self.rest.find('\n').unwrap_or(self.rest.len());
                    let comment = self.rest[..end].trim_end_matches('\r');
                    if comment.contains(unprintable) {
                        return Err(format!("{comment:?}"));
                    }
                    self.rest = &self.rest[end..];
                }
                Some('\r' | '\n') => {
                    if !self.line_end() {
                        return Err("a carriage return".to_owned());
                    }
                }
                Some(_) => return Ok(true),
            }
        }
    }

    /// A name up to one of `ends`, all of which can be escaped.
    fn name(&mut self, ends: &str) -> Result<String, String> {
        let mut name = String::new();
        while let Some(c) = self.peek() {
            if ends.contains(c) || unprintable(c) {
                break;
            }
            self.take();
            match self.peek() {
                Some(next) if c == '\\' && ends.contains(next) => {
                    self.take();
                    name.push(next);
                }
                _ => name.push(c),
            }
        }
        if name.is_empty() { Err(format!("no name before {:?}", self.rest)) } else { Ok(name) }
    }

    fn expect(&mut self, expected: char) -> Result<(), String> {
        match self.take() {
            Some(c) if c == expected => Ok(()),
            other => Err(format!("{other:?} in the place of {expected:?}")),
        }
    }

    fn line(&mut self) -> Result<Read, String> {
        let measurement = self.name(", ")?;
        let mut tags = Vec::new();
        while self.peek() == Some(',') {
            self.take();
            let key = self.name(",= ")?;
            self.expect('=')?;
            tags.push((key, self.name(",= ")?));
        }
        if tags.iter().map(|(key, _)| key).collect::<BTreeSet<_>>().len() < tags.len() {
            return Err("a tag comes twice".to_owned());
        }
        if !self.spaces() {
            return Err(format!("no space before {:?}", self.rest));
        }
        let mut fields = Vec::new();
        loop {
            let key = self.name(",= ")?;
            self.expect('=')?;
            fields.push((key, self.value()?));
            if self.peek() != Some(',') {
                break;
            }
            self.take();
        }
        let mut time_ns = None;
        if self.spaces() && self.peek().is_some_and(|c| !"\r\n".contains(c)) {
            let end = self.rest.find([' ', '\r', '\n']).unwrap_or(self.rest.len());
            let time = &self.rest[..end];
            if time.starts_with('+') {
                return Err(format!("{time} is no time"));
            }
            time_ns = Some(time.parse().map_err(|error| format!("{time:?}: {error}"))?);
            self.rest = &self.rest[end..];
            self.spaces();
        }
        if !self.line_end() {
            return Err(format!("{:?} after the point", self.rest));
        }
        Ok(Read { measurement, tags, fields, time_ns })
    }

    fn value(&mut self) -> Result<Value<'static>, String> {
        if self.peek() == Some('"') {
            self.take();
            return self.text().map(|text| Value::Text(text.into()));
        }
        let end = self.rest.find([',', ' ', '\r', '\n']).unwrap_or(self.rest.len());
        let (value, rest) = self.rest.split_at(end);
        self.rest = rest;
        let wrong = || format!("{value:?} is no value");
        match value {
            "t" | "T" | "true" | "True" | "TRUE" => return Ok(Value::Boolean(true)),
            "f" | "F" | "false" | "False" | "FALSE" => return Ok(Value::Boolean(false)),
            _ => {}
        }
        // Neither names like `inf`, nor a plus sign before the number.
        if !value.starts_with(|c: char| c.is_ascii_digit() || "-.".contains(c)) || value.starts_with("-i") {
            return Err(wrong());
        }
        if let Some(integer) = value.strip_suffix('i') {
            return integer.parse().map(Value::Integer).map_err(|_| wrong());
        }
        if let Some(unsigned) = value.strip_suffix('u') {
            return unsigned.parse().map(Value::Unsigned).map_err(|_| wrong());
        }
        let number: f64 = value.parse().map_err(|_| wrong())?;
        if number.is_finite() { Ok(Value::Float(number)) } else { Err(wrong()) }
    }

    fn text(&mut self) -> Result<String, String> {
        let mut text = String::new();
        loop {
            match self.take().ok_or("a text without end")? {
                '"' => return Ok(text),
                '\\' => {
                    let escaped = match self.peek() {
                        Some(c @ ('\\' | '"')) => c,
                        Some('n') => '\n',
                        Some('r') => '\r',
                        Some('t') => '\t',
                        _ => {
                            text.push('\\');
                            continue;
                        }
                    };
                    self.take();
                    text.push(escaped);
                }
                c => text.push(c),
            }
        }
    }
}
