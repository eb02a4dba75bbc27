//! Files that we write for who called us: a report, a history.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{OpenOptionsExt as _, fchown},
    path::Path,
};

/// What is done with the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Writing only.
    Write,
    /// Reading, too.
    ReadWrite,
}

/// Opens a file for writing, or makes it. A new one belongs to who called us (under sudo, that is who asked for it) and is
/// readable by nobody else; links, pipes and devices are refused. What is in it stays as it is.
///
/// # Errors
///
/// If it can't be opened, or is no regular file.
pub fn open(path: &Path, access: Access) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).read(access == Access::ReadWrite);
    options.mode(0o600).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    match options.clone().create_new(true).open(path) {
        Ok(file) => {
            let id = |key: &str| std::env::var(key).ok().and_then(|text| text.parse::<u32>().ok());
            if let (Some(uid), Some(gid)) = (id("SUDO_UID"), id("SUDO_GID")) {
                fchown(&file, Some(uid), Some(gid))?;
            }
            Ok(file)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            if !path.symlink_metadata()?.is_file() {
                return Err(no_regular_file());
            }
            let file = options.open(path)?;
            if file.metadata()?.is_file() { Ok(file) } else { Err(no_regular_file()) }
        }
        Err(error) => Err(error),
    }
}

/// Opens a file for reading, if it is a regular one. A link is followed: nothing is written.
///
/// # Errors
///
/// If it can't be opened, or is no regular file.
pub fn open_to_read(path: &Path) -> io::Result<File> {
    // A pipe that nobody writes to must not make us wait.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(no_regular_file()) }
}

fn no_regular_file() -> io::Error {
    io::Error::other("it is no regular file")
}
