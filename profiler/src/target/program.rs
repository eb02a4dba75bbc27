//! What a program's file tells in its first pages: whether it is linked dynamically, and whether Go made it. Pure over
//! bytes that are fetched by offset, so that a large file is never read whole; every size is bounded.

use std::{
    collections::HashMap,
    fs::File,
    os::unix::fs::{FileExt as _, MetadataExt as _},
};

/// Program headers that are read. Real programs have about ten to fifteen.
const MAX_SEGMENTS: usize = 256;
/// Section headers that are read. Real programs have about forty.
const MAX_SECTIONS: usize = 1024;
/// Bytes of section names that are read.
const MAX_NAMES: u64 = 64 << 10;
/// Bytes that are searched where a file has no sections.
const MAX_SEARCHED: u64 = 1 << 20;
/// Bytes of a version; the longest ones name experiments.
const MAX_VERSION: u64 = 128;
/// How Go's build information begins (Go's src/debug/buildinfo/buildinfo.go), and on what it is aligned.
const MAGIC: (&[u8], usize) = (b"\xff Go buildinf:", 16);
/// Bytes of notes that are read.
const MAX_NOTES: u64 = 4096;
/// Bytes of a build id: SHA-1 has 20.
const MAX_BUILD_ID: usize = 64;
/// include/uapi/linux/elf.h
const NT_GNU_BUILD_ID: u32 = 3;
/// Bytes in front of the information itself.
const PREAMBLE: u64 = 32;
/// Files whose programs are kept.
const KEPT: usize = 4096;

/// What a program's file tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Program {
    /// It names a dynamic linker: other objects will be mapped with it.
    pub dynamic: bool,
    /// Go's linker made it.
    pub go: bool,
    /// With which version of Go, without the `go` in front; not known of every program.
    pub go_version: Option<String>,
    /// Its build id in hexadecimal (the note NT_GNU_BUILD_ID), if it has one.
    pub build_id: Option<String>,
}

/// A file at one state of its contents: device, inode, size and time of change, which its owner can't set (`st_ctime`). A
/// number of an inode is given to another file once the first is gone, and a file can be written anew.
type Key = (u64, u64, u64, (i64, i64));

/// Programs that were looked at already. Bounded: all are forgotten when there are too many.
#[derive(Debug, Default)]
pub struct ProgramCache(HashMap<Key, Option<Program>>);

impl ProgramCache {
    /// Looks at an opened program; `None` if it isn't one for 64 bit little-endian machines, or is damaged.
    pub(super) fn look(&mut self, file: &File) -> Option<&Program> {
        let metadata = file.metadata().ok()?;
        let changed = (metadata.ctime(), metadata.ctime_nsec());
        let key = (metadata.dev(), metadata.ino(), metadata.size(), changed);
        if self.0.len() >= KEPT && !self.0.contains_key(&key) {
            self.0.clear();
        }
        self.0
            .entry(key)
            .or_insert_with(|| {
                // A program is a regular file; so much is made sure of before it is read.
                metadata
                    .is_file()
                    .then(|| Image(&|offset, bytes| file.read_exact_at(bytes, offset).is_ok()).read())?
            })
            .as_ref()
    }
}

/// Fetches bytes at an offset; whether they were all there.
type Fetch<'a> = &'a dyn Fn(u64, &mut [u8]) -> bool;

struct Image<'a>(Fetch<'a>);

/// A part of the file that is mapped, or a section; offsets and sizes in the file.
#[derive(Clone, Copy, Debug)]
struct Part {
    address: u64,
    offset: u64,
    size: u64,
}

impl Image<'_> {
    /// ELF-64 (System V ABI, "Object Files"); numbers in the comments are the offsets of the fields.
    fn read(&self) -> Option<Program> {
        let header = self.bytes(0, 64)?;
        // Magic number, 64 bit, little-endian.
        if !header.starts_with(b"\x7fELF\x02\x01") {
            return None;
        }
        let segments =
            self.table(u64_at(&header, 32)?, u16_at(&header, 54)?, 56, u16_at(&header, 56)?, MAX_SEGMENTS)?;
        let kind = |entry: &Vec<u8>| u32_at(entry, 0);
        let part = |entry: &Vec<u8>| {
            Some(Part { offset: u64_at(entry, 8)?, address: u64_at(entry, 16)?, size: u64_at(entry, 32)? })
        };
        let loaded: Vec<Part> =
            segments.iter().filter(|entry| kind(entry) == Some(1)).filter_map(part).collect();
        let mut program =
            Program { dynamic: segments.iter().any(|entry| kind(entry) == Some(3)), ..Program::default() };
        program.build_id = segments
            .iter()
            .filter(|entry| kind(entry) == Some(4))
            .filter_map(part)
            .find_map(|notes| self.build_id(notes));
        match self.sections(&header) {
            Some(sections) => {
                let named =
                    |name: &[u8]| sections.iter().find(|(found, _)| found == name).map(|(_, part)| *part);
                // Some programs come without build information; their code still needs its tables.
                program.go = named(b".go.buildinfo").or(named(b".gopclntab")).is_some();
                program.go_version = named(b".go.buildinfo").and_then(|part| self.go_version(part, &loaded));
            }
            None => {
                // Then it begins the first writable segment (flags 4, of which 2 is "write").
                let first = segments.iter().find(|entry| {
                    kind(entry) == Some(1) && u32_at(entry, 4).is_some_and(|flags| flags & 2 != 0)
                });
                if let Some(place) = first.and_then(part).and_then(|part| self.search(part)) {
                    program.go = true;
                    program.go_version = self.go_version(place, &loaded);
                }
            }
        }
        Some(program)
    }

    /// Names and places of the sections; `None` if the file has none.
    fn sections(&self, header: &[u8]) -> Option<Vec<(Vec<u8>, Part)>> {
        let entries =
            self.table(u64_at(header, 40)?, u16_at(header, 58)?, 64, u16_at(header, 60)?, MAX_SECTIONS)?;
        let part = |entry: &Vec<u8>| {
            Some(Part { address: u64_at(entry, 16)?, offset: u64_at(entry, 24)?, size: u64_at(entry, 32)? })
        };
        let names = part(entries.get(usize::from(u16_at(header, 62)?))?)?;
        let names = self.bytes(names.offset, names.size.min(MAX_NAMES))?;
        let named = |entry: &Vec<u8>| {
            let name = names.get(u32_at(entry, 0)? as usize..)?;
            Some((
                name.split(|byte| *byte == 0).next()?.get(..).filter(|name| name.len() < 64)?.to_vec(),
                part(entry)?,
            ))
        };
        Some(entries.iter().filter_map(named).collect())
    }

    /// A note is three numbers (sizes of name and contents, type), name and contents, each padded to four bytes.
    fn build_id(&self, notes: Part) -> Option<String> {
        let bytes = self.bytes(notes.offset, notes.size.min(MAX_NOTES))?;
        let mut rest = bytes.as_slice();
        while rest.len() >= 12 {
            let (name, size) = (u32_at(rest, 0)? as usize, u32_at(rest, 4)? as usize);
            let contents = 12_usize.checked_add(name.checked_next_multiple_of(4)?)?;
            let end = contents.checked_add(size)?;
            if u32_at(rest, 8)? == NT_GNU_BUILD_ID && rest.get(12..16)? == b"GNU\0" && size <= MAX_BUILD_ID {
                return Some(rest.get(contents..end)?.iter().map(|byte| format!("{byte:02x}")).collect());
            }
            rest = rest.get(end.checked_next_multiple_of(4)?..)?;
        }
        None
    }

    /// Where in the segment the build information is.
    fn search(&self, segment: Part) -> Option<Part> {
        let bytes = self.bytes(segment.offset, segment.size.min(MAX_SEARCHED))?;
        let at = bytes.chunks(MAGIC.1).position(|chunk| chunk.starts_with(MAGIC.0))? * MAGIC.1;
        Some(Part { offset: segment.offset.checked_add(at as u64)?, ..segment })
    }

    fn go_version(&self, place: Part, loaded: &[Part]) -> Option<String> {
        let preamble = self.bytes(place.offset, PREAMBLE)?;
        if !preamble.starts_with(MAGIC.0) {
            return None;
        }
        // The size of a pointer, and what the next bytes are: since Go 1.18 the text itself (2).
        let (pointer, flags) = (*preamble.get(14)?, *preamble.get(15)?);
        let text = if flags & 2 != 0 {
            let start = place.offset.checked_add(PREAMBLE)?;
            // Its length: seven bits a byte, so one byte for what is shorter than 128.
            let length = *self.bytes(start, 1)?.first()?;
            self.bytes(start + 1, u64::from(length).min(MAX_VERSION))?
        } else if pointer == 8 && flags & 1 == 0 {
            // Before that, the address of the text's address and length.
            let text = self.bytes(offset_of(loaded, u64_at(&preamble, 16)?)?, 16)?;
            self.bytes(offset_of(loaded, u64_at(&text, 0)?)?, u64_at(&text, 8)?.min(MAX_VERSION))?
        } else {
            return None;
        };
        let text = String::from_utf8_lossy(&text);
        // "go1.22.1", "go1.25.5 X:greenteagc", "devel go1.24-abc Mon ..."
        let version = text.split_whitespace().find_map(|word| word.strip_prefix("go"))?;
        version.starts_with(|c: char| c.is_ascii_digit()).then(|| crate::text::clean(version))
    }

    /// The entries of a table, if they have the size that they should have.
    fn table(&self, offset: u64, size: u16, expected: u16, count: u16, limit: usize) -> Option<Vec<Vec<u8>>> {
        if size != expected || count == 0 || usize::from(count) > limit {
            return None;
        }
        let bytes = self.bytes(offset, u64::from(size) * u64::from(count))?;
        Some(bytes.chunks_exact(usize::from(size)).map(<[u8]>::to_vec).collect())
    }

    /// `size` is bounded by every caller.
    fn bytes(&self, offset: u64, size: u64) -> Option<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(size).ok()?];
        (self.0)(offset, &mut bytes).then_some(bytes)
    }
}

fn offset_of(loaded: &[Part], address: u64) -> Option<u64> {
    loaded.iter().find_map(|part| {
        let distance = address.checked_sub(part.address).filter(|distance| *distance < part.size)?;
        part.offset.checked_add(distance)
    })
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    array_at(bytes, at).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    array_at(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    array_at(bytes, at).map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn read(bytes: &[u8]) -> Option<Program> {
        Image(&|offset, into| {
            let start = usize::try_from(offset).ok();
            let found = start.and_then(|start| bytes.get(start..start.checked_add(into.len())?));
            found.is_some_and(|found| {
                into.copy_from_slice(found);
                true
            })
        })
        .read()
    }

    /// A program of one writable segment at address 0x1000, which holds `data`, with a section of that name or with none.
    fn image(section: Option<&str>, data: &[u8]) -> Vec<u8> {
        const DATA: usize = 64 + 56;
        let names = format!("\0{}\0", section.unwrap_or_default());
        let names_at = DATA + data.len();
        let sections_at = names_at + names.len();
        let mut bytes = vec![0; DATA];
        let mut put = |at: usize, value: u64, size: usize| {
            bytes[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
        };
        put(0, 0x0001_0102_464c_457f, 8);
        for (at, value) in [(54, 56), (56, 1), (58, 64), (60, if section.is_some() { 2 } else { 0 })] {
            put(at, value, 2);
        }
        put(32, 64, 8);
        put(40, sections_at as u64, 8);
        for (at, value, size) in
            [(0, 1, 4), (4, 6, 4), (8, DATA as u64, 8), (16, 0x1000, 8), (32, data.len() as u64, 8)]
        {
            put(64 + at, value, size);
        }
        bytes.extend_from_slice(data);
        bytes.extend_from_slice(names.as_bytes());
        for (name, offset, size) in [(0, names_at, names.len()), (1, DATA, data.len())] {
            let mut entry = [0_u8; 64];
            entry[0] = name;
            entry[24..32].copy_from_slice(&(offset as u64).to_le_bytes());
            entry[32..40].copy_from_slice(&(size as u64).to_le_bytes());
            bytes.extend_from_slice(&entry);
        }
        bytes
    }

    fn build_information(flags: u8, rest: &[u8]) -> Vec<u8> {
        [MAGIC.0, &[8, flags], rest].concat()
    }

    /// Since Go 1.18: the text, after 16 bytes of nothing.
    fn inline(version: &str) -> Vec<u8> {
        build_information(2, &[&[0; 16], [version.len() as u8].as_slice(), version.as_bytes()].concat())
    }

    #[test]
    fn gos_version_is_found_in_all_three_ways_of_writing_it() {
        let version =
            |bytes: &[u8]| read(bytes).and_then(|program| program.go.then_some(program.go_version)?);
        for (written, expected) in [
            ("go1.22.1", Some("1.22.1")),
            ("go1.25.5 X:greenteagc", Some("1.25.5")),
            ("devel go1.24-abcdef Mon", Some("1.24-abcdef")),
            ("gopher", None),
        ] {
            assert_eq!(version(&image(Some(".go.buildinfo"), &inline(written))).as_deref(), expected);
        }
        // No sections: searched for, on its alignment.
        let data = [&[1; 48], inline("go1.22.1").as_slice()].concat();
        assert_eq!(version(&image(None, &data)).as_deref(), Some("1.22.1"));
        // Before Go 1.18: an address, where an address and a length are.
        let pointers: Vec<u8> =
            [0x1020_u64, 0, 0x1030, 8].iter().flat_map(|word| word.to_le_bytes()).collect();
        let data = build_information(0, &[pointers.as_slice(), b"go1.17.3"].concat());
        assert_eq!(version(&image(Some(".go.buildinfo"), &data)).as_deref(), Some("1.17.3"));
        let unversioned = read(&image(Some(".gopclntab"), &[0; 64])).unwrap();
        assert_eq!((unversioned.go, unversioned.go_version), (true, None));
        assert!(!read(&image(Some(".text"), &inline("go1.22.1"))).unwrap().go);
    }

    #[test]
    fn damaged_files_are_read_without_harm() {
        let whole = image(Some(".go.buildinfo"), &inline("go1.22.1"));
        for length in 0..whole.len() {
            let _any = read(&whole[..length]);
        }
        for at in 0..whole.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut damaged = whole.clone();
                damaged[at] = value;
                let _any = read(&damaged);
            }
        }
    }

    #[test]
    fn a_file_that_is_written_anew_is_looked_at_anew_and_few_are_kept() {
        let path = std::env::temp_dir().join(format!("profiler-program-{}", std::process::id()));
        let mut cache = ProgramCache::default();
        let mut is_go = |bytes: &[u8]| {
            // Written over: the inode stays.
            std::fs::write(&path, bytes).unwrap();
            cache.look(&File::open(&path).unwrap()).map(|program| program.go)
        };
        assert_eq!(is_go(&image(Some(".go.buildinfo"), &inline("go1.22.1"))), Some(true));
        assert_eq!(is_go(b"#!/bin/sh\n"), None);
        cache.0 = (0..KEPT as u64).map(|inode| ((0, inode, 0, (0, 0)), None)).collect();
        assert!(cache.look(&File::open(&path).unwrap()).is_none());
        assert_eq!(cache.0.len(), 1);
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn our_own_program_is_dynamic_and_not_gos() {
        let exe = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let found = read(&exe).unwrap();
        let build_id = crate::binary::analyse(&exe, None).unwrap().build_id;
        assert_eq!(found, Program { dynamic: true, build_id, ..Program::default() });
    }

    #[test]
    fn a_real_program_of_go_tells_the_version_that_is_written_in_it() {
        // Docker's client is the Go program that is installed most.
        let Some(docker) = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
            .map(|directory| directory.join("docker"))
            .find(|path| path.is_file())
        else {
            return println!("SKIPPED: there is no program docker");
        };
        let file = File::open(&docker).unwrap();
        let mut cache = ProgramCache::default();
        let program = cache.look(&file).unwrap();
        let version = format!("go{}", program.go_version.as_ref().unwrap());
        let said = Command::new(&docker).arg("version").output().unwrap().stdout;
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(said.contains(&version), "{version} isn't what it says:\n{said}");
    }
}
