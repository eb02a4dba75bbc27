//! Parts of a batch: which lines go into one request.

/// Lines of a batch, by their place in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece(Vec<usize>);

impl Piece {
    /// All `count` lines.
    pub fn all(count: usize) -> Self {
        Self((0..count).collect())
    }

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
    /// one measurement are kept together, for they are refused together (a type that conflicts).
    pub fn without(self, named: Option<Vec<usize>>, lines: &[&str]) -> Vec<Self> {
        if let Some(named) = named {
            let (mut refused, mut rest) = (Vec::new(), Vec::new());
            for (place, index) in self.0.into_iter().enumerate() {
                if named.binary_search(&place).is_ok() { refused.push(index) } else { rest.push(index) }
            }
            return [refused, rest].into_iter().filter(|part| !part.is_empty()).map(Self).collect();
        }
        let mut first = self.0;
        // Stable: lines of one series stay in their order.
        first.sort_by_key(|&index| measurement(lines[index]));
        let middle = first.len() / 2;
        let changes = |&at: &usize| measurement(lines[first[at - 1]]) != measurement(lines[first[at]]);
        let border = (1..first.len()).filter(changes).min_by_key(|&at| at.abs_diff(middle));
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

/// Up to the first comma or blank that isn't escaped.
fn measurement(line: &str) -> &str {
    let mut escaped = false;
    let end = line.bytes().position(|byte| {
        let ends = !escaped && matches!(byte, b',' | b' ');
        escaped = byte == b'\\' && !escaped;
        ends
    });
    &line[..end.unwrap_or(line.len())]
}
