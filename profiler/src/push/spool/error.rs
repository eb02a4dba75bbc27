//! What goes wrong with a spool.

use std::{
    io,
    path::{Path, PathBuf},
};

use rustix::io::Errno;
use thiserror::Error;

use super::HIGHEST_BYTES;

/// What went wrong with a spool. It is told in one line, with the way out where there is one.
#[derive(Debug, Error)]
pub enum SpoolError {
    /// Another process uses it.
    #[error(
        "the spool {} is used by another profiler ({}): give --influx-spool another directory, or end that one",
        path.display(), holder(*pid)
    )]
    Locked {
        /// Its directory.
        path: PathBuf,
        /// Who has it, by what that process wrote into the lock.
        pid: Option<u32>,
    },
    /// The disk is full, or a quota is.
    #[error("no space left for the spool: can't {call} {}: {source}", path.display())]
    NoSpace {
        /// The file, or the directory.
        path: PathBuf,
        /// What was to be done.
        call: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// A call failed.
    #[error("can't {call} {}: {source}", path.display())]
    Io {
        /// The file, or the directory.
        path: PathBuf,
        /// What was to be done.
        call: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// What was to be appended isn't what it is said to be.
    #[error(
        "a batch of {points} points can't be spooled: it has {lines} lines and {bytes} bytes \
         (a line for each point, at least one, and at most {HIGHEST_BYTES} bytes)"
    )]
    Unfit {
        /// Its bytes.
        bytes: usize,
        /// Its lines.
        lines: usize,
        /// What it was said to have.
        points: u32,
    },
    /// A batch is larger than all batches may be.
    #[error("a batch of {bytes} bytes doesn't fit into a spool of {limit} bytes")]
    TooLarge {
        /// What it takes on disk.
        bytes: u64,
        /// What all may take.
        limit: u64,
    },
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(|| "it doesn't say which".to_owned(), |pid| format!("pid {pid}"))
}

impl SpoolError {
    pub(super) fn new(path: &Path, call: &'static str, source: io::Error) -> Self {
        let path = path.to_owned();
        match Errno::from_io_error(&source) {
            Some(Errno::NOSPC | Errno::DQUOT) => Self::NoSpace { path, call, source },
            _ => Self::Io { path, call, source },
        }
    }

    pub(super) fn of_file(directory: &Path, name: &str, call: &'static str, source: io::Error) -> Self {
        Self::new(&directory.join(name), call, source)
    }

    /// Whether there was no space: somebody may make some.
    pub fn is_no_space(&self) -> bool {
        matches!(self, Self::NoSpace { .. })
    }
}

/// Whether a file can't be read for what it is, or for what has become of the disk below it: trying again won't help.
pub(super) fn is_of_the_file(error: &io::Error) -> bool {
    // EUCLEAN and EBADMSG are what ext4, XFS and btrfs say of a checksum that is wrong (EFSCORRUPTED and EFSBADCRC).
    const ERRORS: [Errno; 6] =
        [Errno::IO, Errno::UCLEAN, Errno::BADMSG, Errno::ACCESS, Errno::PERM, Errno::LOOP];
    error.kind() == io::ErrorKind::InvalidData
        || Errno::from_io_error(error).is_some_and(|errno| ERRORS.contains(&errno))
}
