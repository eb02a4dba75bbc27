//! What language runtimes say of themselves, read from outside: a room for each language.
//!
//! Nothing here stops, traces or writes a process. All memory of a target goes through [`Memory`]; what it holds is
//! hostile, whoever made it: every count is bounded, every address checked by the kernel, every sum held against others.

pub mod go;
pub mod reader;

use std::io;

/// Memory of a process, as far as it can be read: addresses are those of the running process.
pub trait Memory {
    /// Copies all parts, one behind the other, with one system call if there are 1024 parts at most.
    ///
    /// # Errors
    ///
    /// If the process has ended, or any byte can't be read.
    fn read(&self, parts: &[(u64, usize)]) -> io::Result<Vec<u8>>;
}

/// The word of 8 bytes at an offset; zero behind the end.
pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |word| u64::from_le_bytes(*word))
}

/// The word of 4 bytes at an offset; zero behind the end.
pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |word| u32::from_le_bytes(*word))
}

/// The word of 2 bytes at an offset; zero behind the end.
pub fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |word| u16::from_le_bytes(*word))
}
