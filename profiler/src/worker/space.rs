//! The code that a process has mapped, from `/proc/PID/maps`.

use super::Code;

/// Ranges that are told, at most: a process may map what it likes.
const RANGES_LIMIT: usize = 16384;

/// A line of `/proc/PID/maps` that stands for code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodeRange {
    /// First address.
    pub start: u64,
    /// Address behind the last.
    pub end: u64,
    /// Where in the file it begins.
    pub file_offset: u64,
    /// Device (major, minor) and inode of the file, if it is one.
    pub file: Option<((i32, i32), u64)>,
    /// What it is, if it is no file.
    pub unnamed: Code,
}

/// The ranges with code of a process, those without a file too.
pub fn code_ranges(maps: &str) -> Vec<CodeRange> {
    maps.lines().filter_map(parse).take(RANGES_LIMIT).collect()
}

fn parse(line: &str) -> Option<CodeRange> {
    let mut fields = line.splitn(6, ' ');
    let (start, end) = fields.next()?.split_once('-')?;
    let permissions = fields.next()?;
    let file_offset = u64::from_str_radix(fields.next()?, 16).ok()?;
    let (major, minor) = fields.next()?.split_once(':')?;
    let device = (i32::from_str_radix(major, 16).ok()?, i32::from_str_radix(minor, 16).ok()?);
    let inode: u64 = fields.next()?.parse().ok()?;
    let name = fields.next().unwrap_or("").trim_start_matches(' ');
    if permissions.as_bytes().get(2) != Some(&b'x') {
        return None;
    }
    // A file's name begins with a slash, so that no file looks like these.
    let unnamed = match name {
        "[vdso]" => Code::Vdso,
        "[uprobes]" => Code::Uprobes,
        _ => Code::Anonymous,
    };
    Some(CodeRange {
        start: u64::from_str_radix(start, 16).ok()?,
        end: u64::from_str_radix(end, 16).ok()?,
        file_offset,
        file: (inode != 0).then_some((device, inode)),
        unnamed,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_with_and_without_files_is_told_apart() {
        let maps = "\
1000-2000 r-xp 00001000 fe:00 77                         /usr/lib/my lib/libc so.6 (deleted)
2000-3000 rw-p 00002000 fe:00 77                         /usr/lib/my lib/libc so.6 (deleted)
3000-4000 rwxp 00000000 00:00 0
5000-6000 r-xp 00000000 00:00 0                          [vdso]
7000-8000 --xp 00000000 00:00 0                          [uprobes]
zzz";
        let ranges = code_ranges(maps);
        let told: Vec<_> = ranges.iter().map(|range| (range.start, range.file, range.unnamed)).collect();
        assert_eq!(
            told,
            [
                (0x1000, Some(((0xfe, 0), 77)), Code::Anonymous),
                (0x3000, None, Code::Anonymous),
                (0x5000, None, Code::Vdso),
                (0x7000, None, Code::Uprobes),
            ]
        );
        assert_eq!(ranges[0].file_offset, 0x1000);
    }
}
