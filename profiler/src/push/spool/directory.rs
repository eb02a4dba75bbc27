//! A directory of the file system.

use std::{
    fs::{DirBuilder, File},
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, fchown},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    fs::{
        AtFlags, CWD, Dir, FileType, FlockOperation, Mode, OFlags, flock, fsync, openat, renameat, statat,
        unlinkat,
    },
    io::{Errno, retry_on_intr},
    time::{ClockId, Timespec, clock_gettime},
};

use super::{Disk, SpoolError};
use crate::own_file;

/// The file in which who has the spool says its process id.
const LOCK: &str = "lock";
/// What is in that file is no longer than this.
const LONGEST_PID: u64 = 16;

/// A directory that nobody else uses as a spool.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    /// As it was found at the beginning, whatever becomes of the way to it. Locked as long as it is open: also SIGKILL closes
    /// it.
    fd: OwnedFd,
    /// Locked, too: where the directory is on a server (NFS), its own lock is known to this machine only.
    _lock: File,
}

impl Directory {
    /// Opens a directory and locks it: the directory itself, which no `rm` of what is in it undoes. One that isn't there is made, and those above it; they belong to who called us (under
    /// sudo, to who asked for it) and are open to nobody else.
    ///
    /// # Errors
    ///
    /// If it can't be made or opened, is no directory (a link to one isn't), another process has it, or `lock` in it is no
    /// file of its own (a link, another name of some file).
    pub fn open(path: &Path) -> Result<Self, SpoolError> {
        let failed = |call| move |source| SpoolError::new(path, call, source);
        make(path).map_err(failed("make the directory"))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(CWD, path, flags, Mode::empty())
            .map_err(|error| failed("open the directory")(error.into()))?;
        let locked = |pid| SpoolError::Locked { path: path.to_owned(), pid };
        match flock(&fd, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                return Err(locked(open_existing(&fd, LOCK, FLAGS).ok().and_then(holder)));
            }
            Err(error) => return Err(failed("lock the directory")(error.into())),
        }
        let (lock, _) =
            open_file(&fd, LOCK, FLAGS).map_err(|source| SpoolError::of_file(path, LOCK, "open", source))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(locked(holder(lock))),
            Err(error) => return Err(SpoolError::of_file(path, LOCK, "lock", error.into())),
        }
        // It is for messages only: a full disk shouldn't be an obstacle, and what somebody else has written there stays.
        if has_no_text(&lock) {
            let pid = format!("{}\n", std::process::id());
            let _told = lock.set_len(0).and_then(|()| lock.write_all_at(pid.as_bytes(), 0));
        }
        Ok(Self { path: path.to_owned(), fd, _lock: lock })
    }

    /// Opens a file in it to write behind its end, whoever else does so; it can be read, too. A new one belongs to whom the
    /// directory would, is readable by nobody else, and its name survives a crash.
    ///
    /// # Errors
    ///
    /// If it can't be opened, is no regular file, or has another name besides (it may be anybody's then).
    pub fn open_for_append(&self, name: &str) -> io::Result<File> {
        let (file, new) = open_file(&self.fd, name, FLAGS | OFlags::APPEND)?;
        if new {
            self.sync_directory()?;
        }
        Ok(file)
    }
}

/// Makes a directory and those above it so that they survive a crash.
fn make(path: &Path) -> io::Result<()> {
    let parent = path.parent().map(|parent| match parent.as_os_str().is_empty() {
        true => Path::new("."),
        false => parent,
    });
    let create = || DirBuilder::new().mode(0o700).create(path);
    let created = match (create(), parent) {
        (Err(error), Some(parent)) if error.kind() == io::ErrorKind::NotFound => {
            make(parent).and_then(|()| create())
        }
        (created, _) => created,
    };
    match created {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        Err(error) => return Err(error),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    belongs_to_who_asked(&openat(CWD, path, flags, Mode::empty())?)?;
    parent.map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}

/// See [`own_file::open`].
fn belongs_to_who_asked(new: impl AsFd) -> io::Result<()> {
    own_file::who_asked().map_or(Ok(()), |(uid, gid)| fchown(new, Some(uid), Some(gid)))
}

/// For a file that is there or is made, to be read and written.
const FLAGS: OFlags =
    OFlags::RDWR.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

/// Opens a file that is in this directory and nowhere else, or makes it. Says whether it was made.
fn open_file(directory: &OwnedFd, name: &str, flags: OFlags) -> io::Result<(File, bool)> {
    let mode = Mode::from_raw_mode(0o600);
    match openat(directory, name, flags | OFlags::CREATE | OFlags::EXCL, mode) {
        Ok(fd) => {
            belongs_to_who_asked(&fd)?;
            Ok((File::from(fd), true))
        }
        Err(Errno::EXIST) => Ok((open_existing(directory, name, flags)?, false)),
        Err(error) => Err(error.into()),
    }
}

fn open_existing(directory: &OwnedFd, name: &str, flags: OFlags) -> io::Result<File> {
    let file = File::from(openat(directory, name, flags, Mode::empty())?);
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(no_regular_file());
    }
    if found.nlink() != 1 {
        let what = "it is another file's name, too: remove it";
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    Ok(file)
}

/// Who has the lock, by what it wrote there.
fn holder(lock: File) -> Option<u32> {
    let mut text = String::new();
    lock.take(LONGEST_PID).read_to_string(&mut text).ok()?;
    text.trim_end().parse().ok()
}

/// Whether nothing is in it but a number, or the zeroes that a crash leaves of one.
fn has_no_text(lock: &File) -> bool {
    let mut text = Vec::new();
    let read = lock.take(LONGEST_PID + 1).read_to_end(&mut text);
    read.is_ok_and(|length| length as u64 <= LONGEST_PID)
        && text.iter().all(|byte| byte.is_ascii_digit() || matches!(byte, b'\n' | 0))
}

fn no_regular_file() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "it is no regular file")
}

/// What a file takes: its blocks, of 512 bytes each; where a file system doesn't say so (yet), its bytes.
fn allocated(blocks: u64, bytes: u64) -> u64 {
    blocks.saturating_mul(512).max(bytes)
}

impl Disk for Directory {
    type File = File;

    fn path(&self) -> &Path {
        &self.path
    }

    fn uptime(&self) -> Duration {
        let Timespec { tv_sec, tv_nsec } = clock_gettime(ClockId::Boottime);
        let [seconds, nanoseconds] = [tv_sec, tv_nsec].map(|part| u64::try_from(part).unwrap_or_default());
        Duration::from_secs(seconds) + Duration::from_nanos(nanoseconds)
    }

    fn list(&self, visit: &mut dyn FnMut(&str)) -> io::Result<()> {
        for entry in Dir::read_from(&self.fd)? {
            if let Ok(name) = entry?.file_name().to_str() {
                visit(name);
            }
        }
        Ok(())
    }

    fn size(&self, name: &str) -> io::Result<Option<u64>> {
        let found = match statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => found,
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let number = |value: i64| u64::try_from(value).unwrap_or_default();
        let regular = FileType::from_raw_mode(found.st_mode) == FileType::RegularFile;
        Ok(regular.then(|| allocated(number(found.st_blocks), number(found.st_size))))
    }

    fn create(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(openat(&self.fd, name, flags, Mode::from_raw_mode(0o600))?);
        belongs_to_who_asked(&file)?;
        Ok(file)
    }

    fn write(&self, file: &mut File, bytes: &[u8]) -> io::Result<usize> {
        file.write(bytes)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_all()
    }

    fn size_of(&self, file: &File) -> io::Result<u64> {
        let found = file.metadata()?;
        Ok(allocated(found.blocks(), found.len()))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(renameat(&self.fd, from, &self.fd, to)?)
    }

    fn sync_directory(&self) -> io::Result<()> {
        Ok(retry_on_intr(|| fsync(&self.fd))?)
    }

    fn unlink(&self, name: &str) -> io::Result<()> {
        Ok(unlinkat(&self.fd, name, AtFlags::empty())?)
    }

    fn read(&self, name: &str, limit: u64) -> io::Result<Vec<u8>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = match openat(&self.fd, name, flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            // A link and a socket, in this order.
            Err(Errno::LOOP | Errno::NXIO) => return Err(no_regular_file()),
            Err(error) => return Err(error.into()),
        };
        if !file.metadata()?.is_file() {
            return Err(no_regular_file());
        }
        let mut bytes = Vec::new();
        file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > limit {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is larger than any batch"));
        }
        Ok(bytes)
    }
}
