//! Debug files: what `strip` took from a program, kept in a file of its own (GDB manual, "Debugging Information in
//! Separate Files"). Only the symbols are of interest here.

use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;

use object::elf::FileHeader64;
use object::read::elf::FileHeader as _;
use object::{Endianness, LittleEndian};

use super::elf::{Header, LE};
use super::identity::outline;
use super::sections::Sections;
use super::symbols::SymbolTable;
use super::{BinaryError, DebugFileError};

/// Where distributions put debug files, found by build id.
const DIRECTORY: &str = "/usr/lib/debug/.build-id";
/// Digits of a build id: one byte at least for the directory and one for the file, and as many as are read at all.
const DIGITS: RangeInclusive<usize> = 4..=128;
/// Headers of one kind that are read.
const MAX_HEADERS: u32 = 1 << 16;

/// Where the debug file of a build may be, in the target's root or the host's. Empty if it is no build id: whoever
/// asks gets no other path by it.
pub fn debug_files(build_id: &str) -> Vec<PathBuf> {
    if !is_build_id(build_id) {
        return Vec::new();
    }
    let (directory, file) = build_id.split_at(2);
    vec![PathBuf::from(format!("{DIRECTORY}/{directory}/{file}.debug"))]
}

/// Whether it has the form of a build id: lowercase hexadecimal digits, two for each byte.
pub fn is_build_id(text: &str) -> bool {
    let digits = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    digits && text.len().is_multiple_of(2) && DIGITS.contains(&text.len())
}

/// Checks that a file has the symbols of the program with that build id.
///
/// # Errors
///
/// If it is something else, or damaged.
pub fn check_debug_file(build_id: &str, debug: &[u8]) -> Result<(), DebugFileError> {
    symbols_of(Some(build_id), debug).map(|_| ())
}

/// Which bytes of a debug file matter here: a small part of what is often gigabytes. `file` has its length, and zeroes
/// for what hasn't been read yet; each answer, once read, may lead to a longer one, until there is nothing new: three
/// times at most (the headers; their number, if it is in one of them; the sections).
pub fn debug_file_parts(file: &[u8]) -> Vec<Range<u64>> {
    let parts = || -> Vec<Range<u64>> {
        let mut parts = vec![part(file, 0, size_of::<FileHeader64<LittleEndian>>() as u64)];
        let Ok(header) = Header::parse(file) else { return parts };
        let segments = header.phnum(LE, file).map_or(0, |count| u64::from(count.min(MAX_HEADERS)));
        parts.push(part(file, header.e_phoff(LE), segments * u64::from(header.e_phentsize(LE))));
        let sections = header.shnum(LE, file).map_or(0, |count| u64::from(count.clamp(1, MAX_HEADERS)));
        parts.push(part(file, header.e_shoff(LE), sections * u64::from(header.e_shentsize(LE))));
        let sections = Sections::read(file).map(|sections| sections.parts()).unwrap_or_default();
        parts.extend(sections.into_iter().map(|(offset, size)| part(file, offset, size)));
        parts
    };
    let mut parts = parts();
    parts.retain(|part| !part.is_empty());
    parts
}

/// As much of it as the file has.
fn part(file: &[u8], offset: u64, size: u64) -> Range<u64> {
    let end = offset.saturating_add(size).min(file.len() as u64);
    offset.min(end)..end
}

/// The symbols of a debug file that belongs to the program with that build id.
pub(super) fn symbols_of<'a>(
    build_id: Option<&str>,
    debug: &'a [u8],
) -> Result<SymbolTable<'a>, DebugFileError> {
    let expected = build_id.ok_or(DebugFileError::NoBuildId)?;
    let sections = sections_of(debug)?;
    let found = sections.build_id();
    if found.as_deref() != Some(expected) {
        return Err(DebugFileError::OtherBuild { expected: expected.to_string(), found });
    }
    sections.symbol_table().map_err(damaged)?.ok_or(DebugFileError::NoSymbols)
}

/// The sections of a file whose program headers aren't to be relied on.
pub(super) fn sections_of(file: &[u8]) -> Result<Sections<'_>, DebugFileError> {
    let long = file.get(..5) == Some(b"\x7fELF\x02".as_slice());
    match long.then(|| outline::<FileHeader64<Endianness>>(file)) {
        Some(Ok((None, _))) => Sections::read(file).map_err(damaged),
        _ => Err(DebugFileError::OtherKind),
    }
}

fn damaged(error: BinaryError) -> DebugFileError {
    DebugFileError::Damaged(Box::new(error))
}
