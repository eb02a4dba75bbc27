//! Go: what `runtime.MemStats`, `runtime/metrics`, `runtime/pprof` and gops' agent tell from inside, from outside.

pub mod attach;
pub mod figures;
pub mod goroutines;
pub mod heap_profile;
pub mod names;
#[cfg(test)]
mod tables;
pub mod totals;

use std::io;

use thiserror::Error;

pub use attach::GoRuntime;

/// Why something can't be said of a Go program.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum GoError {
    /// Memory can't be read.
    #[error("its memory can't be read: {0}")]
    Memory(String),
    /// What was read contradicts itself: the tables don't fit this program, and no figure of it is shown.
    #[error(
        "what was read contradicts itself ({0}): the table doesn't fit this program, or it was stopped in the middle of a change"
    )]
    Contradiction(String),
    /// It changed while it was read, every time.
    #[error("it changed while it was read, {0} times")]
    Restless(u32),
    /// The linker left out what would be needed.
    #[error("{0}")]
    Unavailable(String),
}

impl GoError {
    /// One word for it, for labels: the reasons themselves have numbers in them that change.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Memory(_) => "memory",
            Self::Contradiction(_) => "contradiction",
            Self::Restless(_) => "restless",
            Self::Unavailable(_) => "unavailable",
        }
    }
}

impl From<io::Error> for GoError {
    fn from(error: io::Error) -> Self {
        Self::Memory(error.to_string())
    }
}
