//! A process of our own that reads what targets have made: their files and copies of their stacks. It has no rights, bounded
//! memory and bounded time, and may be killed at any moment; it is started again then.
//!
//! [`Worker`] is the client: it starts the process when it is first needed, hands it descriptors of the files (the process
//! can't open any that the system wouldn't open for `nobody`), asks, and waits for each answer no longer than [`Limits`] say.
//! A file, or a set of mapped files, that the process dies of twice is not given to it again.
//!
//! [`Analyst`] is the client for analyses of files, by which probes are placed in targets: it starts such a process for each.

mod analyse;
mod analyst;
mod believable;
mod client;
mod describe;
mod elf;
mod perf_map;
mod process;
mod protocol;
pub mod references;
mod row;
mod sandbox;
mod serve;
mod space;
mod symbolise;
mod unwind;
mod wire;

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use crate::stack::End;

pub use analyse::Analysed;
pub use analyst::{Analyst, NoAnalysis};
pub use client::{Figures, Worker};
pub use perf_map::{PerfMapError, open as open_perf_map};
pub use serve::{ARGUMENT, serve};
pub use space::{CodeRange, code_ranges};

/// What the process may use.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Its address space, in bytes. Debug files are mapped, so that their size counts.
    pub memory: u64,
    /// How long unwinding one stack may take, reading unwind tables included.
    pub unwind: Duration,
    /// How long naming the places of one request may take, reading debug information included.
    pub symbolise: Duration,
    /// How long analysing one file may take, the start of a process for it included.
    pub analyse: Duration,
    /// The program to start; its first argument will be [`ARGUMENT`].
    pub program: PathBuf,
}

impl Limits {
    /// For an [`Analyst`]: a file and its debug file are in memory at once, a gigabyte each at most. What isn't read of the
    /// second takes addresses only.
    pub fn for_analyses() -> Self {
        Self { memory: 4 << 30, ..Self::default() }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory: 2 << 30,
            unwind: Duration::from_secs(10),
            symbolise: Duration::from_secs(30),
            // A browser of 300 MB takes half a second where nobody else is at work.
            analyse: Duration::from_secs(20),
            // What we run, even if its file has been replaced since.
            program: PathBuf::from("/proc/self/exe"),
        }
    }
}

/// Names a file that was registered with [`Worker::add_file`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FileKey(pub(crate) u32);

/// What code is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Code {
    /// A file.
    File(FileKey),
    /// No file: made at run time. Has no unwind tables; frame pointers are followed.
    Anonymous,
    /// The kernel's code in every process.
    Vdso,
    /// Where the kernel lets a function return to whose return is probed: what was called before is unknown.
    Uprobes,
}

impl Code {
    /// What stands for the build id of code without a file (`stack::Place::build`).
    pub const fn unnamed(self) -> Option<&'static str> {
        match self {
            Self::File(_) => None,
            Self::Anonymous => Some("[anon]"),
            Self::Vdso => Some("[vdso]"),
            Self::Uprobes => Some("[uprobes]"),
        }
    }
}

/// A range of a process's addresses with code in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Module {
    /// First address.
    pub start: u64,
    /// Address behind the last.
    pub end: u64,
    /// Where in the file it begins; zero without a file.
    pub file_offset: u64,
    /// What is there.
    pub code: Code,
}

/// The code that a process has mapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Space {
    /// Names this list: another one for another process, and whenever the modules change.
    pub id: u64,
    /// In any order. Addresses outside of all of them aren't believed to be return addresses.
    pub modules: Vec<Module>,
}

/// A frame as unwound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RawFrame {
    /// What is there.
    pub code: Code,
    /// Where in the file; without a file, the address. Of a caller, within the call instruction (one byte before the return
    /// address).
    pub offset: u64,
}

/// A stack as unwound: never an error, see [`End`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RawUnwound {
    /// Innermost first; at most `stack::MAX_FRAMES`.
    pub frames: Vec<RawFrame>,
    /// Why there are no more.
    pub end: End,
}
