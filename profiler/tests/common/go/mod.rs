//! Go programs as witnesses: toolchains, the program of `tests/programs/go` made by them, and what it says of itself held
//! against what was read from outside.

pub mod cell;
pub mod dump;
pub mod exposition;
pub mod figures;
pub mod heap;
pub mod outside;
pub mod target;
pub mod toolchain;

/// How much of what was compared was equal, and what wasn't.
#[derive(Debug, Default)]
pub struct Tally {
    pub equal: usize,
    pub of: usize,
    /// What differed, in words, with both values.
    pub different: Vec<String>,
}

impl Tally {
    /// Compares once more.
    pub fn compare<T: PartialEq + std::fmt::Debug>(&mut self, what: &str, ours: &T, theirs: &T) {
        self.of += 1;
        if ours == theirs {
            self.equal += 1;
        } else {
            self.different.push(format!("{what}: {} and not {}", short(ours), short(theirs)));
        }
    }

    /// Something that couldn't be compared at all.
    pub fn fail(&mut self, what: impl Into<String>) {
        self.of += 1;
        self.different.push(what.into());
    }

    pub fn add(&mut self, other: Self) {
        self.equal += other.equal;
        self.of += other.of;
        self.different.extend(other.different);
    }

    pub fn all_equal(&self) -> bool {
        self.of > 0 && self.equal == self.of
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}/{}", self.equal, self.of)
    }
}

/// A value for a message: not more than a line or two of it.
fn short(value: &impl std::fmt::Debug) -> String {
    let text = format!("{value:?}");
    match text.char_indices().nth(600) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}
