//! Batches on disk, a file each, until they are acknowledged.
//!
//! A file is written whole: a temporary name, fsync, rename, fsync of the directory. What [`Spool::append`] has returned for is
//! there after any crash, and nothing else is needed to find it again: no cursor, no ledger. A file is plain gzip of lines,
//! so that `zcat` shows them, and gzip's own checksum and length tell whether it is as it was written.
//!
//! Two threads share it: one appends, one sends and removes. The index in memory is never locked while a disk is waited for.

mod content;
mod directory;
mod disk;
mod error;
mod hourly;
mod index;
mod name;
#[cfg(test)]
mod tests;

use std::{
    fs::File,
    io,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

pub use content::HIGHEST_BYTES;
pub use directory::Directory;
pub use disk::Disk;
pub use error::SpoolError;
pub(super) use hourly::Hourly;
pub use name::BatchId;
#[cfg(test)]
pub(super) use tests::log_of;

use index::{Entry, Index, Reason};

/// What a batch is called until it is whole. There is one, so that no number of failures leaves more than one behind.
const TEMPORARY: &str = "append.tmp";
/// So many batches that were set aside are kept, the newest.
const KEPT_BAD: usize = 16;

/// Bounds of a spool. What goes beyond them is dropped, the oldest first, and counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Of all batches together, as the disk counts: allocated blocks. While a batch is appended, that one is there besides;
    /// so are at most 16 files that were set aside.
    pub bytes: u64,
    /// What is older is dropped by [`Spool::expire`]. No step of the clock makes anything older, for ages are counted by the
    /// time that the machine is up: from appending, and for what was there at opening from opening. What was there has an age
    /// then already: that by which the newest of them is newer, by the times in their names. Where there is more than this limit
    /// between two that follow one another in time, the clock was set or nobody was here, and it counts as nothing. So what
    /// lay there while no profiler ran gets no older, and a file from 1970 (no clock yet) is as old as the oldest one from
    /// after the clock was set. A step that is smaller than this limit is believed at the next opening, but no sooner. The
    /// bytes bound everything all the same.
    pub age: Duration,
}

/// What a spool has, and what it had to drop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpoolFigures {
    /// Files that wait.
    pub batches: u64,
    /// Points in them, by their names.
    pub points: u64,
    /// Bytes on disk: allocated blocks.
    pub bytes: u64,
    /// When the oldest batch was appended, by the clock of then.
    pub oldest: Option<SystemTime>,
    /// Points dropped since opening because there was no room within [`Limits::bytes`]. A batch that is dropped while it is
    /// being sent counts, too.
    pub dropped_full: u64,
    /// Points dropped since opening because of [`Limits::age`].
    pub dropped_expired: u64,
    /// Points since opening in files that were damaged, unreadable or taken away by somebody else.
    pub dropped_corrupt: u64,
}

/// A directory of batches.
#[derive(Debug)]
pub struct Spool<D: Disk = Directory> {
    disk: D,
    limits: Limits,
    /// Held by who writes [`TEMPORARY`].
    appending: Mutex<()>,
    /// Never held during a call of `disk`, or while something is told.
    index: Mutex<Index>,
    /// What people were told of losses, by reason.
    told: Mutex<[Hourly; 3]>,
}

impl Spool<Directory> {
    /// Opens the spool in a directory, or makes it; nobody else can use it from then on. Reads the directory once.
    ///
    /// # Errors
    ///
    /// [`SpoolError::Locked`] if another process has it; otherwise if it can't be made, opened or read.
    pub fn open(path: &Path, limits: Limits) -> Result<Self, SpoolError> {
        Self::with_disk(Directory::open(path)?, limits)
    }

    /// Opens a file beside the batches to write behind its end: see [`Directory::open_for_append`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn open_for_append(&self, name: &str) -> io::Result<File> {
        self.disk.open_for_append(name)
    }
}

impl<D: Disk> Spool<D> {
    /// Opens the spool on a disk. What is beyond the limit of bytes is dropped at once; [`Self::expire`] knows the time.
    ///
    /// # Errors
    ///
    /// If the disk can't be read.
    pub fn with_disk(disk: D, limits: Limits) -> Result<Self, SpoolError> {
        // One that can't be removed now is tried again with the first batch.
        let _removed = disk.unlink(TEMPORARY);
        let (mut found, mut index) = (Vec::new(), Index::default());
        disk.list(&mut |name| {
            if let Some(id) = BatchId::of_name(name) {
                found.push(id);
            } else if let Some(id) = BatchId::of_bad_name(name) {
                index.add_bad(id);
            }
        })
        .map_err(|source| SpoolError::new(disk.path(), "read", source))?;
        let uptime = disk.uptime();
        for (id, age) in index::ages(found, limits.age) {
            let name = id.name();
            let size =
                disk.size(&name).map_err(|source| SpoolError::of_file(disk.path(), &name, "stat", source))?;
            match size {
                Some(size) => index.insert(id, Entry::new(size, uptime, age)),
                // No regular file, or gone: none of ours. Its name isn't used again.
                None => index.avoid(id),
            }
        }
        let (appending, told) = Default::default();
        let spool = Self { disk, limits, appending, index: Mutex::new(index), told };
        spool.trim_bad();
        // What can't be dropped now is tried again with the first batch.
        let _dropped = spool.make_room();
        spool.tell();
        Ok(spool)
    }

    /// Its directory, for messages.
    pub fn path(&self) -> &Path {
        self.disk.path()
    }

    /// Appends a batch. Once this has returned, it survives any crash. If there is no room within the limit, the oldest
    /// batches are dropped, after the new one is safe.
    ///
    /// # Errors
    ///
    /// If it is no batch ([`SpoolError::Unfit`], [`SpoolError::TooLarge`]: it never will be), or can't be written
    /// ([`SpoolError::is_no_space`] tells whether for want of space). Then nothing of it is left and nothing was dropped
    /// for it: it can be tried again. Where a disk refuses even to take it back, it may appear all the same, whole.
    pub fn append(&self, time: SystemTime, points: u32, text: &str) -> Result<BatchId, SpoolError> {
        let packed = content::pack(text, points)?;
        let appended = self.append_packed(time, points, &packed);
        self.tell();
        appended
    }

    fn append_packed(&self, time: SystemTime, points: u32, packed: &[u8]) -> Result<BatchId, SpoolError> {
        let _alone = lock(&self.appending);
        // Whatever couldn't be dropped last time: there is at most one batch too many.
        self.make_room()?;
        let written = self.write_temporary(packed).and_then(|size| match size > self.limits.bytes {
            true => Err(SpoolError::TooLarge { bytes: size, limit: self.limits.bytes }),
            false => Ok(size),
        });
        let size = written.inspect_err(|_| {
            let _removed = self.disk.unlink(TEMPORARY);
        })?;
        let entry = Entry::new(size, self.disk.uptime(), Duration::ZERO);
        let id = self.index().next(time, points);
        let name = id.name();
        let renamed =
            self.disk.rename(TEMPORARY, &name).map_err(|source| self.failed(&name, "rename", source));
        let safe = renamed.and_then(|()| {
            self.disk
                .sync_directory()
                .map_err(|source| SpoolError::new(self.disk.path(), "fsync the directory", source))
        });
        if let Err(error) = safe {
            let _removed = self.disk.unlink(TEMPORARY);
            if self.unlink(&name).is_err() {
                // It is there, so it is one of ours; who tries again sends it twice, which does no harm.
                self.index().insert(id, entry);
            }
            return Err(error);
        }
        self.index().insert(id, entry);
        let _dropped = self.make_room();
        Ok(id)
    }

    /// The batch that was appended first of those that are left.
    pub fn oldest(&self) -> Option<BatchId> {
        self.index().first()
    }

    /// The batch that was appended last of those that are left.
    pub fn newest(&self) -> Option<BatchId> {
        self.index().last()
    }

    /// At most so many batches, oldest first.
    pub fn ids(&self, limit: usize) -> Vec<BatchId> {
        self.index().ids(limit)
    }

    /// The lines of a batch. `None`: it was damaged and has been set aside, or was dropped or removed meanwhile.
    ///
    /// # Errors
    ///
    /// If the disk can neither read it nor set it aside, or there is no memory or descriptor for it: try again later.
    pub fn read(&self, id: BatchId) -> Result<Option<String>, SpoolError> {
        if !self.index().contains(id) {
            return Ok(None);
        }
        let read = self.read_file(id);
        self.tell();
        read
    }

    fn read_file(&self, id: BatchId) -> Result<Option<String>, SpoolError> {
        let name = id.name();
        match self.disk.read(&name, content::HIGHEST_PACKED) {
            Ok(packed) => match content::unpack(&packed, id.points) {
                Some(text) => Ok(Some(text)),
                None => self.set_aside(id).map(|()| None),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut index = self.index();
                if index.take(id).is_some() {
                    index.count(Reason::Corrupt, id);
                }
                Ok(None)
            }
            // It would stop all others. Where the whole disk is ill, it can't be renamed either.
            Err(error) if error::is_of_the_file(&error) => self.set_aside(id).map(|()| None),
            Err(source) => Err(self.failed(&name, "read", source)),
        }
    }

    /// Removes a batch that is acknowledged. After a crash it may be there again; it is sent again then, which does no harm.
    ///
    /// # Errors
    ///
    /// If it can't be removed: then it is still there, and may be sent again.
    pub fn remove(&self, id: BatchId) -> Result<(), SpoolError> {
        self.drop_batch(id, None)
    }

    /// Drops what is older than the limit. What can't be dropped is tried again next time.
    pub fn expire(&self) {
        let uptime = self.disk.uptime();
        let expired = self.index().older_than(self.limits.age, uptime);
        // The first that can't be dropped is the last that is tried.
        let _dropped = expired.into_iter().try_for_each(|id| self.drop_batch(id, Some(Reason::Expired)));
        self.tell();
    }

    /// What it has and had to drop. Never waits for the disk.
    pub fn figures(&self) -> SpoolFigures {
        self.index().figures()
    }

    /// Tells people of what was lost: each reason at once, then once an hour.
    fn tell(&self) {
        let (figures, uptime) = (self.figures(), self.disk.uptime());
        let all = [figures.dropped_full, figures.dropped_expired, figures.dropped_corrupt];
        let [full, expired, corrupt] = {
            let mut told = lock(&self.told);
            let mut all = all.into_iter();
            told.each_mut().map(|reason| reason.due(all.next().unwrap_or_default(), uptime))
        };
        let (path, again) = (self.disk.path().display(), "told again in an hour if it goes on");
        if let Some(points) = full {
            let limit = self.limits.bytes;
            tracing::error!(
                "the spool {path} is full ({limit} bytes, --influx-spool-size): {points} points are lost, the oldest first ({again})"
            );
        }
        if let Some(points) = expired {
            let age = humantime::format_duration(self.limits.age);
            tracing::error!(
                "{points} points in the spool {path} are lost: they have waited longer than {age} (--influx-spool-age; {again})"
            );
        }
        if let Some(points) = corrupt {
            tracing::error!(
                "{points} points in the spool {path} are lost: their files are damaged (they are called .bad now) or gone ({again})"
            );
        }
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        lock(&self.index)
    }

    fn failed(&self, name: &str, call: &'static str, source: io::Error) -> SpoolError {
        SpoolError::of_file(self.disk.path(), name, call, source)
    }

    /// Writes the temporary file so that its contents survive. Returns how much of the disk it takes.
    fn write_temporary(&self, packed: &[u8]) -> Result<u64, SpoolError> {
        let failed = |call| move |source| self.failed(TEMPORARY, call, source);
        let created = self.disk.create(TEMPORARY).or_else(|error| match error.kind() {
            // It couldn't be removed after an earlier failure.
            io::ErrorKind::AlreadyExists => {
                self.disk.unlink(TEMPORARY).and_then(|()| self.disk.create(TEMPORARY))
            }
            _ => Err(error),
        });
        let mut file = created.map_err(failed("create"))?;
        let mut rest = packed;
        while !rest.is_empty() {
            match self.disk.write(&mut file, rest) {
                Ok(0) => return Err(failed("write")(io::ErrorKind::WriteZero.into())),
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed("write")(error)),
            }
        }
        self.disk.sync(&file).map_err(failed("fsync"))?;
        self.disk.size_of(&file).map_err(failed("stat"))
    }

    /// Drops the oldest until all are within the limit.
    fn make_room(&self) -> Result<(), SpoolError> {
        loop {
            let surplus = {
                let index = self.index();
                if index.bytes() <= self.limits.bytes { None } else { index.first() }
            };
            match surplus {
                Some(id) => self.drop_batch(id, Some(Reason::Full))?,
                None => return Ok(()),
            }
        }
    }

    /// Removes a batch, and counts it as dropped if there is a reason. Whoever takes it out of the index has it alone.
    fn drop_batch(&self, id: BatchId, reason: Option<Reason>) -> Result<(), SpoolError> {
        let Some(entry) = self.index().take(id) else { return Ok(()) };
        let removed = self.unlink(&id.name());
        let mut index = self.index();
        match (&removed, reason) {
            (Ok(()), Some(reason)) => index.count(reason, id),
            (Ok(()), None) => {}
            (Err(_), _) => index.insert(id, entry),
        }
        removed
    }

    /// Removes a file. An error means that it is still there.
    fn unlink(&self, name: &str) -> Result<(), SpoolError> {
        match self.disk.unlink(name) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            // Over a network, an error may come for what was done.
            Err(_) if matches!(self.disk.size(name), Ok(None)) => Ok(()),
            Err(source) => Err(self.failed(name, "unlink", source)),
        }
    }

    /// Renames a batch that can't be read, so that it is out of the way and can be looked at.
    fn set_aside(&self, id: BatchId) -> Result<(), SpoolError> {
        let Some(entry) = self.index().take(id) else { return Ok(()) };
        let (name, bad_name) = (id.name(), id.bad_name());
        let renamed = self.disk.rename(&name, &bad_name).or_else(|error| match self.disk.size(&name) {
            // As in `unlink`, or somebody has taken it away.
            Ok(None) => Ok(()),
            _ => Err(error),
        });
        {
            let mut index = self.index();
            match renamed {
                Ok(()) => index.add_bad(id),
                Err(source) => {
                    index.insert(id, entry);
                    return Err(self.failed(&name, "rename", source));
                }
            }
            index.count(Reason::Corrupt, id);
        }
        self.trim_bad();
        Ok(())
    }

    /// Removes what was set aside long ago.
    fn trim_bad(&self) {
        let surplus = self.index().surplus_bad(KEPT_BAD);
        for id in surplus {
            if self.unlink(&id.bad_name()).is_err() {
                self.index().add_bad(id);
            }
        }
    }
}

/// Takes a lock. Nobody panics with one; if so, what it guards is whole between two statements all the same.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
