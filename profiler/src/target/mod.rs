//! The processes we look at: who they are, and what `/proc` says of them. The only room that names `procfs`.
//!
//! Nothing here writes to a target, signals it, stops it or traces it; everything is read through descriptors that were
//! opened when the process was identified, so that a process id used again is never taken for the old process.

mod cgroup;
mod facts;
mod glob;
mod identity;
mod limit;
mod maps;
mod memory;
mod pagemap;
mod parts;
mod program;
mod runtime;
mod scan;
mod selection;
mod tasks;
mod usage;
mod vm;

use std::io;

use thiserror::Error;

pub use cgroup::Cgroups;
pub use facts::ProcessFacts;
pub use glob::Glob;
pub use identity::{Process, ThreadSighting};
pub use maps::{BREAKPOINT, MappedObject, MappedRange, PinnedObject, objects_of, read_object};
pub use memory::{AddressSpace, MappingUse, MemoryFiles, MemoryMapping, SEARCH_LIMIT, SearchPlan};
pub use pagemap::{PAGE, PageState, Pagemap, Resident};
pub use parts::{Part, Parts};
pub use program::{Program, ProgramCache};
pub use runtime::Runtime;
pub use scan::{GroupBy, SHORT_ID, Scan, group_name, scan, short_container};
pub use selection::{ContainerName, Criterion, Selection, SelectionError};
pub use usage::{MemoryDetail, ProcessUsage, SwitchTally, UsageDetail};
pub use vm::ProcessMemory;

/// What can be wrong with a target.
#[derive(Debug, Error)]
pub enum TargetError {
    /// There is no such process.
    #[error("no process has the id {0}")]
    NoSuchProcess(u32),
    /// It ended while we looked.
    #[error("process {0} has ended")]
    Gone(u32),
    /// Its main thread has ended and the others go on: the kernel's probes go by the main thread.
    #[error("the main thread of process {0} has ended: such a process can't be observed")]
    NoMainThread(u32),
    /// Kernel threads have no user memory.
    #[error("process {pid} ({name}) is a kernel thread: it has no program to look at")]
    KernelThread {
        /// Its id.
        pid: u32,
        /// Its name.
        name: String,
    },
    /// The number is a thread's id.
    #[error("{tid} is a thread of process {pid}: use --pid {pid}")]
    IsThread {
        /// What was given.
        tid: u32,
        /// The process it belongs to.
        pid: u32,
    },
    /// We may not read it.
    #[error("not allowed to read {what} of process {pid}: run as root (sudo), or with CAP_SYS_PTRACE")]
    Forbidden {
        /// Its id.
        pid: u32,
        /// The file.
        what: String,
    },
    /// The list of processes can't be had.
    #[error("can't list the processes in /proc: {0}")]
    Unlisted(String),
    /// Reading failed otherwise.
    #[error("can't read {what} of process {pid}: {source}")]
    Unreadable {
        /// Its id.
        pid: u32,
        /// The file.
        what: String,
        /// The system's reason.
        source: io::Error,
    },
    /// It has more memory than we search.
    #[error(
        "process {pid} has {bytes} bytes in memory, more than are searched for pointers ({limit}): lost blocks can't be told from used ones"
    )]
    TooLarge {
        /// Its id.
        pid: u32,
        /// Anonymous and shared memory.
        bytes: u64,
        /// What is searched at most.
        limit: u64,
    },
    /// A file of `/proc` doesn't look as it should.
    #[error("can't understand {what} of process {pid}: {detail}")]
    Malformed {
        /// Its id.
        pid: u32,
        /// The file.
        what: String,
        /// What is odd.
        detail: String,
    },
}

impl TargetError {
    /// Whether the process is simply not there any more.
    pub const fn is_gone(&self) -> bool {
        matches!(self, Self::NoSuchProcess(_) | Self::Gone(_))
    }

    fn from_io(pid: u32, what: &str, source: io::Error) -> Self {
        match source.raw_os_error() {
            Some(libc::ENOENT | libc::ESRCH) => Self::Gone(pid),
            Some(libc::EACCES | libc::EPERM) => Self::Forbidden { pid, what: what.to_owned() },
            _ => Self::Unreadable { pid, what: what.to_owned(), source },
        }
    }

    fn from_proc(pid: u32, what: &str, error: procfs::ProcError) -> Self {
        match error {
            procfs::ProcError::PermissionDenied(_) => Self::Forbidden { pid, what: what.to_owned() },
            procfs::ProcError::NotFound(_) => Self::Gone(pid),
            procfs::ProcError::Io(source, _) => Self::from_io(pid, what, source),
            other => Self::Malformed { pid, what: what.to_owned(), detail: other.to_string() },
        }
    }
}
