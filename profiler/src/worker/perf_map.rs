//! Perf maps: where a runtime says which code it has made (`/tmp/perf-PID.map`; tools/perf/Documentation/jit-interface.txt in
//! Linux). The file is the target's own, and all of it is hostile: its type, its length, its words.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _},
    },
    path::Path,
};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use thiserror::Error;

/// A longer one is not read.
pub const SIZE_LIMIT: u64 = 64 << 20;
/// Longest line that is believed to be one.
const LINE_LIMIT: usize = 4096;

/// Why a perf map can't be used. Says nothing of what is in the file.
#[derive(Debug, Error)]
pub enum PerfMapError {
    /// It isn't there, or can't be opened (a link in its place isn't followed).
    #[error("can't open the perf map of process {pid}: {source}")]
    Unreadable {
        /// Whose, in its own pid namespace.
        pid: u32,
        /// The system's reason.
        source: io::Error,
    },
    /// A pipe, device, directory.
    #[error("the perf map of process {0} is no regular file")]
    NotRegular(u32),
    /// Somebody else has put it there.
    #[error("the perf map of process {pid} belongs to user {owner}, not to the process's user {user}")]
    Foreign {
        /// Whose, in its own pid namespace.
        pid: u32,
        /// The file's owner.
        owner: u32,
        /// The process's user.
        user: u32,
    },
    /// Larger than we read.
    #[error("the perf map of process {pid} has {size} bytes, more than we read ({SIZE_LIMIT})")]
    TooLarge {
        /// Whose, in its own pid namespace.
        pid: u32,
        /// Its size.
        size: u64,
    },
}

/// Opens the perf map of a process: `root` is its `/proc/PID/root`, `pid` its number as it sees it itself, `user` its user.
///
/// Links are not followed, nowhere on the way: absolute ones would lead into our own root, and any of them could lead to what
/// the process may not read.
///
/// # Errors
///
/// If there is none, or it isn't a regular file of that user and of a sensible size.
pub fn open(root: &Path, pid: u32, user: u32) -> Result<File, PerfMapError> {
    let unreadable = |error: rustix::io::Errno| PerfMapError::Unreadable { pid, source: error.into() };
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(CWD, root, directory, Mode::empty()).map_err(unreadable)?;
    let name = format!("tmp/perf-{pid}.map");
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
    // To find it is not to open it: a pipe or a device would take notice of that.
    let found: OwnedFd =
        rustix::fs::openat2(&root, name.as_str(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)
            .map_err(unreadable)?;
    let found = File::from(found);
    let unreadable = |source: io::Error| PerfMapError::Unreadable { pid, source };
    let metadata = found.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(PerfMapError::NotRegular(pid));
    }
    if metadata.uid() != user {
        return Err(PerfMapError::Foreign { pid, owner: metadata.uid(), user });
    }
    if metadata.len() > SIZE_LIMIT {
        return Err(PerfMapError::TooLarge { pid, size: metadata.len() });
    }
    let again = format!("/proc/self/fd/{}", found.as_raw_fd());
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    File::options().read(true).custom_flags(flags.bits().cast_signed()).open(again).map_err(unreadable)
}

/// The names of the code at some addresses; of two that overlap, the later line's (code is made anew where old code was).
/// `None` if the file can't be read.
pub fn names(map: &File, addresses: &[u64]) -> Option<Vec<Option<String>>> {
    let contents = read(map)?;
    let mut order: Vec<(u64, usize)> =
        addresses.iter().enumerate().map(|(at, address)| (*address, at)).collect();
    order.sort_unstable();
    let mut found: Vec<Option<&[u8]>> = vec![None; addresses.len()];
    for line in contents.split(|byte| *byte == b'\n') {
        let Some((start, end, name)) = parse(line) else { continue };
        let first = order.partition_point(|(address, _)| *address < start);
        for (_, at) in order.iter().skip(first).take_while(|(address, _)| *address < end) {
            if let Some(place) = found.get_mut(*at) {
                *place = Some(name);
            }
        }
    }
    Some(found.into_iter().map(|name| name.map(|name| String::from_utf8_lossy(name).into_owned())).collect())
}

/// Its contents; by place, because the descriptor's position is the client's, too.
fn read(map: &File) -> Option<Vec<u8>> {
    let size = usize::try_from(map.metadata().ok()?.len().min(SIZE_LIMIT)).ok()?;
    let mut contents = vec![0; size];
    let mut filled = 0;
    while filled < size {
        match map.read_at(&mut contents[filled..], filled as u64) {
            // It has become shorter.
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
    contents.truncate(filled);
    Some(contents)
}

/// `START SIZE NAME`, both numbers in hexadecimal; the name is the rest of the line.
fn parse(line: &[u8]) -> Option<(u64, u64, &[u8])> {
    if line.len() > LINE_LIMIT {
        return None;
    }
    let mut fields = line.splitn(3, |byte| *byte == b' ');
    let mut number = || {
        let text = std::str::from_utf8(fields.next()?).ok()?;
        u64::from_str_radix(text.strip_prefix("0x").unwrap_or(text), 16).ok()
    };
    let (start, size) = (number()?, number()?);
    let name = fields.next().filter(|name| !name.is_empty())?;
    Some((start, start.checked_add(size)?, name))
}
