//! The system calls that a spool makes, one method each, so that a test can stop between any two of them.

use std::{io, path::Path, time::Duration};

/// A directory on a disk. Names are those of entries in it.
pub trait Disk {
    /// A file that is being written.
    type File;

    /// The directory, for messages.
    fn path(&self) -> &Path;

    /// How long the machine has been up, asleep or not: a clock that nobody sets.
    fn uptime(&self) -> Duration;

    /// Names every entry that has a name in UTF-8.
    ///
    /// # Errors
    ///
    /// If the directory can't be read.
    fn list(&self, visit: &mut dyn FnMut(&str)) -> io::Result<()>;

    /// How much of the disk an entry takes, in bytes. `None`: there is none, or it is no regular file.
    ///
    /// # Errors
    ///
    /// If that can't be said.
    fn size(&self, name: &str) -> io::Result<Option<u64>>;

    /// Makes a new file.
    ///
    /// # Errors
    ///
    /// If it can't be made, or there is one of that name.
    fn create(&self, name: &str) -> io::Result<Self::File>;

    /// Writes behind what was written before. Returns how many of the bytes.
    ///
    /// # Errors
    ///
    /// If none could be written.
    fn write(&self, file: &mut Self::File, bytes: &[u8]) -> io::Result<usize>;

    /// Waits until what is in the file survives a crash. That says nothing of its name.
    ///
    /// # Errors
    ///
    /// If some of it may not.
    fn sync(&self, file: &Self::File) -> io::Result<()>;

    /// How much of the disk a file takes, in bytes.
    ///
    /// # Errors
    ///
    /// If that can't be said.
    fn size_of(&self, file: &Self::File) -> io::Result<u64>;

    /// Gives a file another name, in place of what had that name.
    ///
    /// # Errors
    ///
    /// If it can't be done.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Waits until all names survive a crash.
    ///
    /// # Errors
    ///
    /// If some may not.
    fn sync_directory(&self) -> io::Result<()>;

    /// Removes an entry.
    ///
    /// # Errors
    ///
    /// If it can't be done.
    fn unlink(&self, name: &str) -> io::Result<()>;

    /// All bytes of a regular file. Links aren't followed, and nothing is waited for.
    ///
    /// # Errors
    ///
    /// `InvalidData` if it is no regular file or has more bytes than the limit; what the system says otherwise.
    fn read(&self, name: &str, limit: u64) -> io::Result<Vec<u8>>;
}
