//! What is in a file: lines, compressed by gzip.

use std::{
    io::{Read as _, Write as _},
    path::PathBuf,
};

use flate2::{Compression, bufread::GzDecoder, write::GzEncoder};

use super::SpoolError;

/// The largest batch, in bytes before compression.
pub const HIGHEST_BYTES: usize = 8 << 20;
/// The largest file: what gzip makes of such a batch if nothing can be compressed is less than a hundredth more.
pub const HIGHEST_PACKED: u64 = (HIGHEST_BYTES + HIGHEST_BYTES / 64) as u64;

/// Compresses lines, if they are so many.
pub fn pack(text: &str, points: u32) -> Result<Vec<u8>, SpoolError> {
    if text.is_empty() || text.len() > HIGHEST_BYTES || !has_lines(text, points) {
        return Err(SpoolError::Unfit { bytes: text.len(), lines: text.lines().count(), points });
    }
    let compress = || {
        // Metrics repeat themselves so much that more effort gains little.
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text.as_bytes())?;
        encoder.finish()
    };
    compress().map_err(|source| SpoolError::Io { path: PathBuf::new(), call: "compress a batch", source })
}

/// The lines of a file; `None` if it isn't what [`pack`] has made of so many points.
pub fn unpack(packed: &[u8], points: u32) -> Option<String> {
    let mut decoder = GzDecoder::new(packed);
    let mut text = Vec::new();
    // One more than there may be, so that the end is reached, where the checksum is.
    decoder.by_ref().take(HIGHEST_BYTES as u64 + 1).read_to_end(&mut text).ok()?;
    if text.len() > HIGHEST_BYTES || !decoder.into_inner().is_empty() {
        return None;
    }
    String::from_utf8(text).ok().filter(|text| !text.is_empty() && has_lines(text, points))
}

fn has_lines(text: &str, points: u32) -> bool {
    u32::try_from(text.lines().count()).is_ok_and(|lines| lines == points)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn lines_come_back_as_they_were() {
        for (text, points) in [("a f=1 1\n", 1), ("a f=1 1\nb f=2i 2\n", 2), ("a f=\"ü\" 1", 1)] {
            assert_eq!(unpack(&pack(text, points).unwrap(), points).as_deref(), Some(text));
        }
    }

    #[test]
    fn a_batch_without_lines_with_others_or_too_many_bytes_is_refused() {
        let long = "x".repeat(HIGHEST_BYTES + 1);
        for (text, points) in [("", 0), ("", 1), ("a f=1 1\n", 0), ("a f=1 1\n", 2), (&long, 1)] {
            let error = pack(text, points).unwrap_err();
            assert!(matches!(error, SpoolError::Unfit { points: told, .. } if told == points), "{error}");
        }
        let longest = &long[1..];
        assert_eq!(unpack(&pack(longest, 1).unwrap(), 1).map(|text| text.len()), Some(HIGHEST_BYTES));
    }

    #[test]
    fn what_was_cut_lengthened_or_changed_is_no_batch() {
        let text = (0..50).map(|line| format!("a,t=x f={line}i {line}\n")).collect::<String>();
        let packed = pack(&text, 50).unwrap();
        for length in 0..packed.len() {
            assert_eq!(unpack(&packed[..length], 50), None, "the first {length} bytes");
            let mut zeroed = packed.clone();
            zeroed[length..].fill(0);
            assert!(zeroed == packed || unpack(&zeroed, 50).is_none(), "zeroes after {length} bytes");
        }
        for extra in [&packed[..], &[0], b"garbage"] {
            assert_eq!(unpack(&[&packed, extra].concat(), 50), None);
        }
        for position in 0..packed.len() {
            for bit in 0..8 {
                let mut changed = packed.clone();
                changed[position] ^= 1 << bit;
                // Parts of the header, and the last bits of the last block, mean nothing.
                assert!(unpack(&changed, 50).is_none_or(|read| read == text), "{position} {bit}");
            }
        }
        assert_eq!(unpack(&packed, 49), None, "the name says otherwise");
        assert_eq!(unpack(&gzip(b""), 0), None);
        assert_eq!(unpack(&gzip(b"a f=\"\xff\" 1\n"), 1), None, "no UTF-8");
    }

    #[test]
    fn a_bomb_takes_no_more_than_the_largest_batch() {
        let bomb = gzip(&vec![b'x'; 16 << 20]);
        assert!(bomb.len() < 1 << 20);
        assert_eq!(unpack(&bomb, 1), None);
    }
}
