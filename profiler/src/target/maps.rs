//! The files that a process has mapped as code.

use std::{
    fs::File,
    io::{Read as _, Seek as _},
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use super::{Process, TargetError};
use crate::symbols::open_inside;

/// `int3`: what the kernel puts at a probe's place.
pub const BREAKPOINT: u8 = 0xcc;
/// A larger file is not read (the largest program seen in the wild is well under 1 GiB).
const OBJECT_LIMIT: u64 = 1 << 30;
/// More mapped files than this are not looked at.
const OBJECTS_LIMIT: usize = 4096;

/// A part of a file, mapped executable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MappedRange {
    /// First address.
    pub start: u64,
    /// Address behind the last.
    pub end: u64,
    /// Where in the file it begins.
    pub file_offset: u64,
}

/// A file of which the process has mapped something executable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MappedObject {
    /// Device number and inode: what the file is, whatever its name.
    pub device: (i32, i32),
    /// See `device`.
    pub inode: u64,
    /// The name it had when it was mapped, in the process's own root; raw, for opening. May end in " (deleted)".
    pub path: String,
    /// Its executable parts.
    pub ranges: Vec<MappedRange>,
}

impl MappedObject {
    /// What the file is, whatever its name: device and inode.
    pub const fn id(&self) -> ((i32, i32), u64) {
        (self.device, self.inode)
    }

    /// Where a place of the file is in the process, if that place is mapped executable.
    pub fn address_of(&self, file_offset: u64) -> Option<u64> {
        self.ranges.iter().find_map(|range| {
            let distance = file_offset.checked_sub(range.file_offset)?;
            (distance < range.end.saturating_sub(range.start)).then(|| range.start + distance)
        })
    }
}

/// A mapped file, opened: the very file that the process runs, also when it was deleted, replaced, or lives in
/// another mount namespace.
#[derive(Debug)]
pub struct PinnedObject {
    file: File,
    size: u64,
    changed: (i64, i64),
    identity: (u64, u64),
}

impl Process {
    /// The files of which something is mapped executable, in the order of their addresses.
    ///
    /// # Errors
    ///
    /// If the process has ended or can't be read.
    pub fn mapped_objects(&self) -> Result<Vec<MappedObject>, TargetError> {
        Ok(objects_of(&self.maps_text()?))
    }

    /// All of `/proc/PID/maps`.
    ///
    /// # Errors
    ///
    /// If the process has ended or can't be read.
    pub fn maps_text(&self) -> Result<String, TargetError> {
        self.read_text("maps")
    }

    /// Opens a mapped file.
    ///
    /// # Errors
    ///
    /// If the process has ended, or the file can't be had.
    pub fn pin(&self, object: &MappedObject) -> Result<PinnedObject, TargetError> {
        let range = object.ranges.first().ok_or(TargetError::Gone(self.pid()))?;
        let link = format!("map_files/{:x}-{:x}", range.start, range.end);
        // Following map_files needs CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE (fs/proc/base.c, proc_map_files_get_link).
        let file = match self.open_file(&link) {
            Ok(file) => file,
            Err(error @ TargetError::Gone(_)) if !self.is_alive() => return Err(error),
            Err(error) => self.open_by_name(object).ok_or(error)?,
        };
        PinnedObject::of(file).map_err(|error| TargetError::from_io(self.pid(), &link, error))
    }

    /// What file its program is: device and inode.
    pub fn exe_identity(&self) -> Option<(u64, u64)> {
        let metadata = std::fs::metadata(format!("/proc/{}/exe", self.pid())).ok()?;
        // The id may be another process's by now.
        self.is_alive().then(|| (metadata.dev(), metadata.ino()))
    }

    /// Opens the program that it runs.
    ///
    /// # Errors
    ///
    /// If the process has ended, or its program can't be had.
    pub fn pin_exe(&self) -> Result<PinnedObject, TargetError> {
        let file = self.open_file("exe")?;
        PinnedObject::of(file).map_err(|error| TargetError::from_io(self.pid(), "exe", error))
    }

    /// The same file by its name in the process's root; only if it still is the same file.
    fn open_by_name(&self, object: &MappedObject) -> Option<File> {
        let file = open_inside(&self.root(), Path::new(&object.path)).ok()?;
        let metadata = file.metadata().ok()?;
        let (major, minor) = (rustix::fs::major(metadata.dev()), rustix::fs::minor(metadata.dev()));
        let device = (major.cast_signed(), minor.cast_signed());
        ((device, metadata.ino()) == object.id()).then_some(file)
    }

    /// The word of 8 bytes at an address of the process, if it can be read.
    pub fn word_at(&self, address: u64) -> Option<u64> {
        let memory = self.open_file("mem").ok()?;
        let mut word = [0; 8];
        memory.read_exact_at(&mut word, address).ok()?;
        Some(u64::from_ne_bytes(word))
    }

    /// The byte at an address of the process, if it can be read. Reading needs no stop and changes nothing.
    pub fn byte_at(&self, address: u64) -> Option<u8> {
        let memory = self.open_file("mem").ok()?;
        let mut byte = [0];
        memory.read_exact_at(&mut byte, address).ok()?;
        Some(byte[0])
    }
}

impl PinnedObject {
    /// A device can be mapped, too, and read without end.
    fn of(file: File) -> std::io::Result<Self> {
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(std::io::Error::other("it is no regular file"));
        }
        Ok(Self {
            size: metadata.len(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            identity: (metadata.dev(), metadata.ino()),
            file,
        })
    }

    /// A path that leads to exactly this file as long as `self` lives.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
    }

    /// Its descriptor, for somebody else to read it by.
    ///
    /// # Errors
    ///
    /// If there are too many already.
    pub fn descriptor(&self) -> std::io::Result<OwnedFd> {
        Ok(self.file.try_clone()?.into())
    }

    /// Its size in bytes when it was opened.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// What file it is: device and inode of the file that was opened, which need not be the one that was asked for if its
    /// owner has mapped another one in between.
    pub const fn identity(&self) -> (u64, u64) {
        self.identity
    }

    /// When it was last changed: seconds since the epoch, and nanoseconds. Its owner can't set this time (`st_ctime`).
    pub const fn changed(&self) -> (i64, i64) {
        self.changed
    }

    /// Its first bytes, at most so many.
    ///
    /// # Errors
    ///
    /// If it can't be read.
    pub fn head(&self, bytes: u64) -> std::io::Result<Vec<u8>> {
        let mut head = vec![0; usize::try_from(bytes.min(self.size)).unwrap_or(0)];
        let read = self.file.read_at(&mut head, 0)?;
        head.truncate(read);
        Ok(head)
    }

    /// Its descriptor.
    pub fn into_file(self) -> OwnedFd {
        self.file.into()
    }

    /// The file's bytes, see [`read_object`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn read(&self) -> std::io::Result<Vec<u8>> {
        read_object(&self.file)
    }
}

impl AsFd for PinnedObject {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// A program's or library's bytes. Read and not mapped: its owner may cut it short at any time, which would kill us with
/// SIGBUS.
///
/// # Errors
///
/// If it can't be read, is no ELF file, or is larger than 1 GiB.
pub fn read_object(mut file: &File) -> std::io::Result<Vec<u8>> {
    let size = file.metadata()?.len();
    if size > OBJECT_LIMIT {
        return Err(std::io::Error::other(format!("{size} bytes are more than we read (1 GiB)")));
    }
    let mut magic = [0; 4];
    file.read_exact_at(&mut magic, 0)?;
    if magic != *b"\x7fELF" {
        return Err(std::io::Error::other("it is no ELF file"));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0) + 1);
    // It may have been read before.
    file.rewind()?;
    file.take(OBJECT_LIMIT).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Reads the lines of /proc/PID/maps that stand for executable parts of files.
///
/// The path is the whole rest of the line: names may hold spaces (Documentation/filesystems/proc.rst, 1.1).
pub fn objects_of(maps: &str) -> Vec<MappedObject> {
    let mut objects: Vec<MappedObject> = Vec::new();
    for line in maps.lines() {
        let Some((range, device, inode, path)) = parse_line(line) else { continue };
        if let Some(object) =
            objects.iter_mut().find(|object| object.device == device && object.inode == inode)
        {
            object.ranges.push(range);
        } else if objects.len() < OBJECTS_LIMIT {
            objects.push(MappedObject { device, inode, path: path.to_owned(), ranges: vec![range] });
        }
    }
    objects
}

fn parse_line(line: &str) -> Option<(MappedRange, (i32, i32), u64, &str)> {
    let mut fields = line.splitn(6, ' ');
    let (start, end) = fields.next()?.split_once('-')?;
    let permissions = fields.next()?;
    let file_offset = fields.next()?;
    let (major, minor) = fields.next()?.split_once(':')?;
    let inode = fields.next()?.parse().ok()?;
    let path = fields.next()?.trim_start_matches(' ');
    if permissions.as_bytes().get(2) != Some(&b'x') || inode == 0 || !path.starts_with('/') {
        return None;
    }
    let range = MappedRange {
        start: u64::from_str_radix(start, 16).ok()?,
        end: u64::from_str_radix(end, 16).ok()?,
        file_offset: u64::from_str_radix(file_offset, 16).ok()?,
    };
    Some((range, (i32::from_str_radix(major, 16).ok()?, i32::from_str_radix(minor, 16).ok()?), inode, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_spaces_and_deleted_files_are_kept_whole() {
        let maps = "\
7f00-7f10 r--p 00000000 fe:00 77                         /usr/lib/my lib/libc so.6 (deleted)
7f10-7f20 r-xp 00010000 fe:00 77                         /usr/lib/my lib/libc so.6 (deleted)
7f20-7f30 r-xp 00030000 fe:00 77                         /usr/lib/my lib/libc so.6 (deleted)
7ffd-7ffe r-xp 00000000 00:00 0                          [vdso]
zzz
5000-6000 r-xp 00001000 fe:00 12 /bin/x";
        let objects = objects_of(maps);
        assert_eq!(objects.len(), 2);
        assert_eq!(objects[0].path, "/usr/lib/my lib/libc so.6 (deleted)");
        assert_eq!(objects[0].device, (0xfe, 0));
        assert_eq!(objects[0].ranges.len(), 2);
        assert_eq!(objects[0].ranges[1], MappedRange { start: 0x7f20, end: 0x7f30, file_offset: 0x30000 });
        assert_eq!(objects[1].path, "/bin/x");
    }

    #[test]
    fn our_own_program_can_be_pinned_and_read() {
        let me = Process::open(std::process::id()).unwrap();
        let objects = me.mapped_objects().unwrap();
        let exe = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let program = objects.iter().find(|object| me.pin(object).unwrap().read().unwrap() == exe);
        assert!(program.is_some(), "the test program is among {objects:?}");
        let pinned = me.pin(program.unwrap()).unwrap();
        assert!((0..2).all(|_| pinned.read().unwrap() == exe), "as often as one likes");
    }

    #[test]
    fn by_its_name_only_the_very_file_is_opened() {
        let me = Process::open(std::process::id()).unwrap();
        let exe = std::env::current_exe().unwrap();
        let inode = exe.metadata().unwrap().ino();
        let objects = me.mapped_objects().unwrap();
        let program = objects.into_iter().find(|object| object.inode == inode).unwrap();
        let opened = me.open_by_name(&program).unwrap();
        assert_eq!(opened.metadata().unwrap().ino(), inode);
        let other_device =
            MappedObject { device: (program.device.0, program.device.1 + 1), ..program.clone() };
        assert!(me.open_by_name(&other_device).is_none());

        // To open it for reading would take for ever.
        let pipe = std::env::temp_dir().join(format!("profiler-pipe-{}", std::process::id()));
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0)
            .unwrap();
        let metadata = pipe.metadata().unwrap();
        let device = (rustix::fs::major(metadata.dev()), rustix::fs::minor(metadata.dev()));
        let device = (device.0.cast_signed(), device.1.cast_signed());
        let path = pipe.to_str().unwrap().to_owned();
        let piped = MappedObject { device, inode: metadata.ino(), path, ..program };
        let opened = me.open_by_name(&piped);
        std::fs::remove_file(&pipe).unwrap();
        assert!(opened.is_none());
    }
}
