//! Goroutines and their stacks.

use serde::Serialize;

/// A goroutine at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Goroutine {
    /// Its id, as a panic prints it.
    pub id: u64,
    /// `running`, `runnable`, `syscall`, `waiting`, ... as a panic prints it; for those that wait, what for: `chan receive`.
    pub state: String,
    /// Since when it waits, in nanoseconds of the runtime's clock; zero: not known (the garbage collector notes it).
    pub waiting_since_ns: u64,
    /// The thread that it is locked to or runs on, if any.
    pub thread: Option<u32>,
    /// Whether it is the runtime's own.
    pub system: bool,
    /// Addresses in the process, innermost first: of callers, what the call returns to.
    pub stack: Vec<u64>,
    /// Whether the first address is where it is, not what a call returns to.
    pub first_is_exact: bool,
    /// Why the stack is cut or absent.
    pub trouble: Option<String>,
    /// The address behind the `go` statement that made it, and the goroutine that ran it.
    pub created_by: Option<(u64, Option<u64>)>,
    /// The address of its first function.
    pub start: u64,
}

/// All goroutines of a process, as far as they could be read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Goroutines {
    /// By id.
    pub list: Vec<Goroutine>,
    /// Goroutines that changed while they were read, every time: they are in the list without a stack.
    pub torn: u64,
    /// Goroutines that weren't read because there are too many.
    pub left_out: u64,
}
