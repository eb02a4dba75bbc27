//! A process's memory as a whole: its mappings by kind, what of it can hold pointers, and the descriptors to read it by.

use std::{fs::File, ops::Range, os::unix::fs::FileExt as _};

use super::{Pagemap, Process, Resident, TargetError};

/// Anonymous and shared memory that is searched for pointers at most: at 1 GB/s, that is a minute.
pub const SEARCH_LIMIT: u64 = 64 << 30;
/// Words outside of the memory that are told at most.
const MOST_ROOTS: usize = 1 << 20;
/// Descriptors that are looked at for epoll instances.
const MOST_DESCRIPTORS: usize = 65_536;

/// What a mapping is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MappingUse {
    /// Below the program break.
    Heap,
    /// The main thread's stack. Those of other threads are `Anonymous`.
    Stack,
    /// Anonymous memory of the process alone.
    Anonymous,
    /// A file, mapped privately: what is written to becomes the process's own.
    PrivateFile,
    /// Memory that can be shared with other processes: `memfd`, System V, `/dev/shm`, shared anonymous memory.
    SharedMemory,
    /// A file, mapped shared.
    SharedFile,
    /// A device, or what the kernel itself has put there (vdso).
    Special,
}

/// A mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryMapping {
    /// Where.
    pub addresses: Range<u64>,
    /// What it is.
    pub usage: MappingUse,
    /// The process may read it.
    pub readable: bool,
}

impl MemoryMapping {
    /// Whether first touches of its pages are growth of the process: memory that is its own. Of a private mapping of a file
    /// only the written pages are; what is read only belongs to the page cache ([`super::PageState::Shared`] tells).
    /// Shared memory isn't: it doesn't go with the process, and `RssAnon`, with which growth is compared, doesn't have it.
    pub const fn can_grow(&self) -> bool {
        !matches!(self.usage, MappingUse::SharedMemory | MappingUse::SharedFile | MappingUse::Special)
    }

    /// A part of it to search for pointers: `Some(shared)` if pointers may be in it.
    ///
    /// Shared memory is searched, as there are runtimes that keep their heap there (Java's ZGC); files that are mapped shared
    /// are not. Devices are never read: that can do something. Memory that the process itself may not read is left out.
    pub const fn searchable(&self) -> Option<bool> {
        match self.usage {
            _ if !self.readable => None,
            MappingUse::Heap | MappingUse::Stack | MappingUse::Anonymous | MappingUse::PrivateFile => {
                Some(false)
            }
            MappingUse::SharedMemory => Some(true),
            MappingUse::SharedFile | MappingUse::Special => None,
        }
    }
}

/// All mappings of a process at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddressSpace {
    /// Sorted by address.
    pub mappings: Vec<MemoryMapping>,
}

impl AddressSpace {
    /// Reads the text of /proc/PID/maps. Lines that can't be read are left out.
    pub fn parse(maps: &str) -> Self {
        Self { mappings: maps.lines().filter_map(parse_line).collect() }
    }

    /// The mapping at an address.
    pub fn at(&self, address: u64) -> Option<&MemoryMapping> {
        let behind = self.mappings.partition_point(|mapping| mapping.addresses.start <= address);
        self.mappings[..behind].last().filter(|mapping| mapping.addresses.contains(&address))
    }
}

/// What to search for pointers, and how.
#[derive(Debug)]
pub struct SearchPlan {
    /// The parts, by address, and whether each is shared memory.
    pub ranges: Vec<(Range<u64>, bool)>,
    /// Words that the kernel keeps for the process and hands back to it: of epoll, of timers, and the registers that a
    /// blocked thread's system call was made with.
    pub roots: Vec<u64>,
    /// Bytes in memory, as the kernel counts them: what the search will read, roughly.
    pub resident_bytes: u64,
}

/// A process's memory, open for reading. Belongs to the memory that the process had when it was opened; needs no right any
/// more, so that a process without rights can be given it.
#[derive(Debug)]
pub struct MemoryFiles {
    /// /proc/PID/mem.
    pub mem: File,
    /// /proc/PID/pagemap.
    pub pagemap: Pagemap,
}

impl MemoryFiles {
    /// See [`Pagemap::resident`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn resident(&mut self, range: Range<u64>, shared: bool) -> std::io::Result<Option<Resident>> {
        self.pagemap.resident(range, shared)
    }

    /// Copies bytes; fewer than asked for if a page can't be read. Takes the `mmap_lock` of the process for reading, once
    /// for each page.
    ///
    /// # Errors
    ///
    /// If the first byte can't be read.
    pub fn read(&self, address: u64, into: &mut [u8]) -> std::io::Result<usize> {
        self.mem.read_at(into, address)
    }
}

impl Process {
    /// Its mappings.
    ///
    /// # Errors
    ///
    /// If the process has ended or can't be read.
    pub fn address_space(&self) -> Result<AddressSpace, TargetError> {
        Ok(AddressSpace::parse(&self.read_text("maps")?))
    }

    /// Opens its page table.
    ///
    /// # Errors
    ///
    /// If the process has ended, or we may not.
    pub fn pagemap(&self) -> Result<Pagemap, TargetError> {
        Ok(Pagemap::new(self.open_file("pagemap")?))
    }

    /// Opens its memory and its page table.
    ///
    /// # Errors
    ///
    /// If the process has ended, or we may not.
    pub fn memory_files(&self) -> Result<MemoryFiles, TargetError> {
        Ok(MemoryFiles { mem: self.open_file("mem")?, pagemap: self.pagemap()? })
    }

    /// What of its memory to search for pointers.
    ///
    /// # Errors
    ///
    /// If the process has ended or can't be read, or has more memory than is searched.
    pub fn search_plan(&self) -> Result<SearchPlan, TargetError> {
        let status = self.status()?;
        let kib: u64 = [status.rssanon, status.rssshmem].into_iter().flatten().sum();
        let resident_bytes = kib.saturating_mul(1024);
        if resident_bytes > SEARCH_LIMIT {
            return Err(TargetError::TooLarge {
                pid: self.pid(),
                bytes: resident_bytes,
                limit: SEARCH_LIMIT,
            });
        }
        let mappings = self.address_space()?.mappings.into_iter();
        let ranges = mappings.filter_map(|mapping| Some((mapping.addresses.clone(), mapping.searchable()?)));
        Ok(SearchPlan { ranges: ranges.collect(), roots: self.kept_by_the_kernel(), resident_bytes })
    }

    /// Words that the kernel keeps for the process. What can't be read is left out.
    fn kept_by_the_kernel(&self) -> Vec<u64> {
        let mut roots = words_after(&self.read_text("timers").unwrap_or_default(), "signal: ");
        let descriptors =
            self.proc().fd().into_iter().flatten().filter_map(Result::ok).take(MOST_DESCRIPTORS);
        for descriptor in descriptors {
            if matches!(&descriptor.target, procfs::process::FDTarget::AnonInode(name) if name.contains("eventpoll"))
            {
                let text = self.read_text(&format!("fdinfo/{}", descriptor.fd)).unwrap_or_default();
                roots.extend(words_after(&text, "data: "));
            }
        }
        for tid in self.threads().unwrap_or_default() {
            // Number, six arguments, stack pointer, instruction pointer; "running" of a thread that isn't blocked.
            let text = self.read_text(&format!("task/{tid}/syscall")).unwrap_or_default();
            let words = text.split_whitespace().skip(1).take(6);
            roots
                .extend(words.filter_map(|word| u64::from_str_radix(word.trim_start_matches("0x"), 16).ok()));
        }
        roots.truncate(MOST_ROOTS);
        roots
    }
}

/// The hexadecimal word behind `key` in each line that has it; behind a slash, if there is one in front (`signal: 14/7f00`).
fn words_after(text: &str, key: &str) -> Vec<u64> {
    let values = text.lines().filter_map(|line| {
        let word = line.split_once(key)?.1.split_whitespace().next()?;
        u64::from_str_radix(word.rsplit('/').next()?, 16).ok()
    });
    values.take(MOST_ROOTS).collect()
}

/// Documentation/filesystems/proc.rst, 1.1: `start-end permissions offset device inode path`.
fn parse_line(line: &str) -> Option<MemoryMapping> {
    let mut fields = line.splitn(6, ' ');
    let (start, end) = fields.next()?.split_once('-')?;
    let permissions = fields.next()?.as_bytes();
    let inode: u64 = fields.nth(2)?.parse().ok()?;
    let path = fields.next().unwrap_or_default().trim_start_matches(' ');
    let addresses = u64::from_str_radix(start, 16).ok()?..u64::from_str_radix(end, 16).ok()?;
    let shared = *permissions.get(3)? == b's';
    let of_memory = ["/dev/zero", "/dev/shm/", "/memfd:", "/SYSV", "/anon_hugepage"];
    let usage = if of_memory.iter().any(|prefix| path.starts_with(prefix)) {
        if shared { MappingUse::SharedMemory } else { MappingUse::PrivateFile }
    } else if path.starts_with("/dev/hugepages/") {
        // Memory, too (hugetlbfs).
        if shared { MappingUse::SharedMemory } else { MappingUse::PrivateFile }
    } else if path.starts_with("/dev/") || path.starts_with("anon_inode:") {
        MappingUse::Special
    } else if inode != 0 {
        if shared { MappingUse::SharedFile } else { MappingUse::PrivateFile }
    } else {
        match path {
            "[heap]" => MappingUse::Heap,
            _ if path.starts_with("[stack") => MappingUse::Stack,
            // Named by the process (PR_SET_VMA_ANON_NAME).
            _ if path.is_empty() || path.starts_with("[anon") => MappingUse::Anonymous,
            _ => MappingUse::Special,
        }
    };
    (addresses.start < addresses.end).then_some(MemoryMapping {
        addresses,
        usage,
        readable: *permissions.first()? == b'r',
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_are_told_by_kind() {
        let maps = "\
555500000000-555500001000 rw-p 00002000 fe:00 77                         /usr/bin/my program
555500001000-555500002000 rw-p 00000000 00:00 0                          [heap]
7f0000000000-7f0000001000 rw-p 00000000 00:00 0
7f0000001000-7f0000002000 ---p 00000000 00:00 0
7f0000002000-7f0000003000 rw-s 00000000 00:01 1024                       /memfd:heap (deleted)
7f0000003000-7f0000004000 rw-s 00000000 fe:00 78                         /var/lib/data
7f0000004000-7f0000005000 rw-s 00000000 00:05 90                         /dev/dri/card0
7f0000005000-7f0000006000 rw-p 00000000 00:00 0                          [anon:arena]
7f0000006000-7f0000007000 rw-p 00000000 00:00 0                          [stack]
7f0000007000-7f0000008000 r--p 00000000 00:00 0                          [vvar]
7f0000009000-7f0000008000 r--p 00000000 00:00 0
zzz
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]";
        use MappingUse::{Anonymous, Heap, PrivateFile, SharedFile, SharedMemory, Special, Stack};
        let space = AddressSpace::parse(maps);
        let kinds: Vec<_> =
            space.mappings.iter().map(|mapping| (mapping.usage, mapping.searchable())).collect();
        assert_eq!(
            kinds,
            [
                (PrivateFile, Some(false)),
                (Heap, Some(false)),
                (Anonymous, Some(false)),
                (Anonymous, None),
                (SharedMemory, Some(true)),
                (SharedFile, None),
                (Special, None),
                (Anonymous, Some(false)),
                (Stack, Some(false)),
                (Special, None),
                (Special, None),
            ]
        );
        assert_eq!(space.at(0x7f00_0000_3fff).map(|mapping| mapping.usage), Some(SharedFile));
        assert_eq!((space.at(0x7f00_0000_8000), space.at(0)), (None, None));
    }

    #[test]
    fn words_that_the_kernel_keeps_are_found_in_its_lines() {
        let epoll = "pos:\t0\nflags:\t02\ntfd:        5 events:       1d data:     7f12345678  pos:0 ino:5\n";
        assert_eq!(words_after(epoll, "data: "), [0x007f_1234_5678]);
        let timers = "ID: 1\nsignal: 14/000055550000abcd\nnotify: signal/pid.9\n";
        assert_eq!(words_after(timers, "signal: "), [0x5555_0000_abcd]);
    }
}
