//! Files that we write for who called us: a report, a history.

use std::{
    ffi::{OsStr, OsString},
    fs::{File, OpenOptions, Permissions},
    io::{self, Write as _},
    os::{
        fd::OwnedFd,
        unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown},
    },
    path::Path,
};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, openat, renameat, unlinkat};

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
            if let Some((uid, gid)) = who_asked() {
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

/// Under sudo: the user and the group of who asked for it.
pub fn who_asked() -> Option<(u32, u32)> {
    let id = |key: &str| std::env::var(key).ok().and_then(|text| text.parse::<u32>().ok());
    id("SUDO_UID").zip(id("SUDO_GID"))
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
/// A file that is replaced as a whole: who reads it meets what was there or what is there, never a part.
#[derive(Debug)]
pub struct Report {
    /// Its directory, as it was found at the beginning: whatever becomes of the way to it.
    directory: OwnedFd,
    name: OsString,
    file: File,
}

impl Report {
    /// Opens the file, or makes it, as [`open`] does.
    ///
    /// # Errors
    ///
    /// As [`open`].
    pub fn open(path: &Path) -> io::Result<Self> {
        let name = path.file_name().ok_or_else(no_regular_file)?.to_owned();
        let file = open(path, Access::Write)?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = openat(CWD, parent, flags, Mode::empty())?;
        Ok(Self { directory, name, file })
    }

    /// Removes it if nothing was ever written to it.
    pub fn discard(&self) {
        if self.file.metadata().is_ok_and(|metadata| metadata.len() == 0) {
            // What can't be removed is empty at least.
            let _removed = unlinkat(&self.directory, &self.name, AtFlags::empty());
        }
    }

    /// Replaces the contents.
    ///
    /// # Errors
    ///
    /// If it can't be written; then the earlier contents are still there, unless nothing else can be made in its directory.
    pub fn replace(&mut self, contents: &[u8]) -> io::Result<()> {
        let mut name = OsString::from(".");
        name.push(&self.name);
        name.push(format!(".{}", std::process::id()));
        let Ok(mut new) = self.beside(&name) else { return self.overwrite(contents) };
        let written = new.write_all(contents).and_then(|()| new.sync_data());
        let renamed = written.map(|()| renameat(&self.directory, &name, &self.directory, &self.name).is_ok());
        if !matches!(renamed, Ok(true)) {
            let _removed = unlinkat(&self.directory, &name, AtFlags::empty());
        }
        match renamed {
            Ok(true) => self.file = new,
            // A file that is mounted by itself can't be replaced.
            Ok(false) => self.overwrite(contents)?,
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// A new file in the same directory that belongs to the same and is as open to others.
    fn beside(&self, name: &OsStr) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let new = File::from(openat(&self.directory, name, flags, Mode::from_raw_mode(0o600))?);
        let old = self.file.metadata()?;
        let made = fchown(&new, Some(old.uid()), Some(old.gid()))
            .and_then(|()| new.set_permissions(Permissions::from_mode(old.mode() & 0o777)));
        if made.is_err() {
            let _removed = unlinkat(&self.directory, name, AtFlags::empty());
        }
        made.map(|()| new)
    }

    fn overwrite(&self, contents: &[u8]) -> io::Result<()> {
        self.file.write_all_at(contents, 0)?;
        self.file.set_len(contents.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_replaced_as_a_whole_and_keeps_its_owner_and_mode() {
        let directory = tempdir();
        let path = directory.join("report");
        std::fs::write(&path, "before, and longer").unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        let before = File::open(&path).unwrap();
        let mut report = Report::open(&path).unwrap();
        for contents in ["one", "two, longer", ""] {
            report.replace(contents.as_bytes()).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), contents);
        }
        assert_eq!(std::io::read_to_string(before).unwrap(), "before, and longer");
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o640);
        assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 1, "nothing else is left");
        report.discard();
        assert!(!path.exists(), "nothing is in it");
        std::fs::remove_dir_all(directory).unwrap();
    }

    fn tempdir() -> std::path::PathBuf {
        let path = std::env::temp_dir().join(format!("profiler-own-file-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        path
    }
}
