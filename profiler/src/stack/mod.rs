//! Stacks: who called. The types; unwinding and naming happen in the worker (`worker/`), which may be killed.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Frames of one stack that are kept, innermost first; deeper ones are cut off ([`End::TooDeep`]).
pub const MAX_FRAMES: usize = 128;

/// A place in a file: what stays the same whatever address it is mapped at, and after a restart.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    /// The file's build id in hexadecimal, or `path:size` where it has none; `[anon]`, `[jit]`, `[vdso]`, `[uprobes]` for
    /// code without a file.
    pub build: Arc<str>,
    /// Where in the file, in bytes; without a file, the address itself. Of a caller, it lies within the call instruction
    /// (one byte before the return address).
    pub offset: u64,
}

/// Why a stack ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// At its outermost function.
    Complete,
    /// The bytes that were copied end.
    Cut,
    /// There are more frames than [`MAX_FRAMES`].
    TooDeep,
    /// Nothing tells how to go on: code without unwind tables and without frame pointers.
    Lost,
    /// The worker failed at it (it was killed for time or memory, or crashed).
    Failed,
    /// It was not copied: too many samples were drawn at once. There are no frames.
    LeftOut,
}

impl End {
    /// One word, for labels and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Cut => "cut",
            Self::TooDeep => "too_deep",
            Self::Lost => "lost",
            Self::Failed => "failed",
            Self::LeftOut => "left_out",
        }
    }
}

/// A stack as unwound, and the identity of a call site: equal stacks are the same site, across processes, restarts and
/// machines.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RawStack {
    /// Innermost first: the allocator's caller. At most [`MAX_FRAMES`].
    pub places: Vec<Place>,
    /// Why there are no more.
    pub end: End,
}

/// A function at a place.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Function {
    /// Its name, demangled and cleaned.
    pub name: Arc<str>,
    /// Its source file, cleaned, if the debug information tells.
    pub file: Option<Arc<str>>,
    /// The line, or zero.
    pub line: u32,
}

/// A frame, named.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frame {
    /// Where.
    pub place: Place,
    /// The mapped file, as the process names it, cleaned; empty if there is none.
    pub object: Arc<str>,
    /// What is there: the innermost inlined function first, the function that was really called last. Empty if nobody knows.
    pub functions: Vec<Function>,
}

/// A stack, named. Innermost first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stack {
    /// Innermost first.
    pub frames: Vec<Frame>,
    /// Why there are no more.
    pub end: End,
}

impl Frame {
    /// The names from the innermost to the outermost; `build+offset` where nobody knows.
    pub fn names(&self) -> Vec<String> {
        if self.functions.is_empty() {
            let object = self.object.rsplit('/').next().filter(|name| !name.is_empty());
            return vec![format!("{}+{:#x}", object.unwrap_or(&self.place.build), self.place.offset)];
        }
        self.functions.iter().map(|function| function.name.to_string()).collect()
    }
}
