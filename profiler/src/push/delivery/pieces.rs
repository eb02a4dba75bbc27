//! Parts of a batch: which lines go into one request.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

/// Lines of a batch, by their place in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece(Vec<usize>);

impl Piece {
    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The only one.
    pub fn single(&self) -> Option<usize> {
        if let [line] = self.0[..] { Some(line) } else { None }
    }

    /// Which.
    pub fn indexes(&self) -> impl Iterator<Item = usize> + '_ {
        self.0.iter().copied()
    }

    /// The lines themselves.
    pub fn lines<'a>(&self, lines: &[&'a str]) -> Vec<&'a str> {
        self.0.iter().map(|&index| lines[index]).collect()
    }

    /// Bytes, each line with what ends it.
    pub fn bytes(&self, lines: &[&str]) -> usize {
        self.0.iter().map(|&index| lines[index].len() + 1).sum()
    }

    /// As much as one request may hold, one line at least, and what is left.
    pub fn limited(self, lines: &[&str], most_lines: usize, most_bytes: usize) -> (Self, Option<Self>) {
        let mut bytes = 0;
        let fits = self.0.iter().take(most_lines).take_while(|&&index| {
            bytes += lines[index].len() + 1;
            bytes <= most_bytes
        });
        let count = fits.count().max(1);
        let mut first = self.0;
        let rest = if count < first.len() { Some(Self(first.split_off(count))) } else { None };
        (first.into(), rest)
    }

    /// What to send instead, the last one first: what was named as refused and all the rest, by themselves; or two halves. Lines of
    /// one shape are kept together, for they are refused together (a type that conflicts).
    pub fn without(self, named: Option<Vec<usize>>, lines: &[&str]) -> Vec<Self> {
        if let Some(named) = named {
            let (mut refused, mut rest) = (Vec::new(), Vec::new());
            for (place, index) in self.0.into_iter().enumerate() {
                if named.binary_search(&place).is_ok() { refused.push(index) } else { rest.push(index) }
            }
            return [refused, rest].into_iter().filter(|part| !part.is_empty()).map(Self).collect();
        }
        let mut shaped: Vec<_> = self.0.into_iter().map(|index| (Shape::of(lines[index]), index)).collect();
        // Stable: lines of one series and shape stay in their order.
        shaped.sort_by_key(|&(shape, _)| shape);
        let middle = shaped.len() / 2;
        let changes = |&at: &usize| shaped[at - 1].0 != shaped[at].0;
        let border = (1..shaped.len()).filter(changes).min_by_key(|&at| at.abs_diff(middle));
        let mut first: Vec<usize> = shaped.into_iter().map(|(_, index)| index).collect();
        let second = first.split_off(border.unwrap_or(middle));
        vec![Self(second), Self(first)]
    }

    /// Each line by itself, the first one last.
    pub fn singles(self) -> impl Iterator<Item = Self> {
        self.0.into_iter().rev().map(|line| Self(vec![line]))
    }
}

impl From<Vec<usize>> for Piece {
    fn from(lines: Vec<usize>) -> Self {
        Self(lines)
    }
}

/// What lines have in common that a server refuses for the type of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Shape<'a> {
    measurement: &'a str,
    /// A hash of the names of the fields, and of what each value ends with: that tells its type.
    fields: u64,
}

impl<'a> Shape<'a> {
    fn of(line: &'a str) -> Self {
        let measurement = &line[..end(line, b", ")];
        let mut hasher = DefaultHasher::new();
        let mut rest = line.get(end(line, b" ") + 1..).unwrap_or_default();
        loop {
            let name = end(rest, b"=, ");
            let value = rest.get(name + 1..).unwrap_or_default();
            let length = end(value, b", ");
            let last = value[..length].bytes().last().filter(|byte| !byte.is_ascii_digit());
            (&rest[..name], last).hash(&mut hasher);
            if value.as_bytes().get(length) != Some(&b',') {
                return Self { measurement, fields: hasher.finish() };
            }
            rest = &value[length + 1..];
        }
    }
}

/// Where the first of these bytes is that is neither escaped nor in quotes; the end of the text, if there is none.
fn end(text: &str, ends: &[u8]) -> usize {
    let (mut escaped, mut quoted) = (false, false);
    let found = text.bytes().position(|byte| {
        let is_end = !escaped && !quoted && ends.contains(&byte);
        quoted ^= byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        is_end
    });
    found.unwrap_or(text.len())
}
