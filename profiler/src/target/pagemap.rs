//! Which pages of a process are there: /proc/PID/pagemap (Documentation/admin-guide/mm/pagemap.rst).
//!
//! The descriptor belongs to the memory that the process had when it was opened. When that is gone, because the process has
//! ended or replaced its program, everything in it is [`PageState::Gone`].

use std::{
    fs::File,
    io,
    ops::Range,
    os::{fd::AsRawFd as _, unix::fs::FileExt as _},
};

/// Size of a page (x86-64).
pub const PAGE: u64 = 4096;
/// Bytes that stand for a page in the file.
const ENTRY: usize = 8;
/// Entries that are read at once: 64 KiB of the file, 32 MiB of memory.
const ENTRIES: usize = 8192;
/// Pages that are asked for may lie so far apart, in pages, for one reading to take both.
const NEAR: u64 = 512;
/// Runs of pages that the kernel tells at once.
const REGIONS: usize = 512;

/// Bits of an entry.
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
const FILE_OR_SHARED: u64 = 1 << 61;

/// `PAGEMAP_SCAN`, Linux 6.7 (include/uapi/linux/fs.h): `_IOWR('f', 16, struct pm_scan_arg)`.
const PAGEMAP_SCAN: libc::c_ulong = 0xc060_6610;
const PAGE_IS_FILE: u64 = 1 << 2;
const PAGE_IS_PRESENT: u64 = 1 << 3;
const PAGE_IS_SWAPPED: u64 = 1 << 4;
const PAGE_IS_PFNZERO: u64 = 1 << 5;
const PAGE_IS_HUGE: u64 = 1 << 6;

/// `struct pm_scan_arg`.
#[repr(C)]
struct ScanArgument {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// `struct page_region`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Region {
    start: u64,
    end: u64,
    categories: u64,
}

const _: () = assert!(size_of::<ScanArgument>() == 96 && size_of::<Region>() == 24);

/// What there is at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageState {
    /// Nothing: it was never touched, or has been given back (`munmap`, `madvise`, a lower break, `execve`).
    Gone,
    /// Anonymous memory, or a page of a private mapping of a file that was written to: the process's own.
    Own,
    /// The same, swapped out.
    Swapped,
    /// A page of a file's, or of shared memory: it belongs to others as well, and `RssAnon` doesn't count it.
    Shared,
}

impl PageState {
    /// Whether it is memory that this process alone holds.
    pub const fn is_own(self) -> bool {
        matches!(self, Self::Own | Self::Swapped)
    }

    const fn of(entry: u64) -> Self {
        if entry & PRESENT != 0 {
            if entry & FILE_OR_SHARED != 0 { Self::Shared } else { Self::Own }
        } else if entry & SWAPPED != 0 {
            // Told of shared memory, too, but that has its bit.
            if entry & FILE_OR_SHARED != 0 { Self::Shared } else { Self::Swapped }
        } else {
            Self::Gone
        }
    }
}

/// Pages of a range; see [`Pagemap::resident`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resident {
    /// Those in memory, in order, neighbours joined.
    pub runs: Vec<Range<u64>>,
    /// How many are swapped out.
    pub swapped: u64,
    /// What follows has not been looked at; the end of the range if everything has.
    pub next: u64,
}

/// The page table of a process, to be asked.
#[derive(Debug)]
pub struct Pagemap {
    file: File,
    /// The kernel has no `PAGEMAP_SCAN`, or a filter of ours forbids it.
    no_scan: bool,
}

impl Pagemap {
    /// Takes an open /proc/PID/pagemap.
    pub const fn new(file: File) -> Self {
        Self { file, no_scan: false }
    }

    /// What there is at these addresses, which are sorted. Takes the process's `mmap_lock` for reading, for microseconds.
    ///
    /// # Errors
    ///
    /// If the file can't be read.
    pub fn states(&self, addresses: &[u64]) -> io::Result<Vec<PageState>> {
        let mut states = Vec::with_capacity(addresses.len());
        let mut entries = [0_u8; NEAR as usize * ENTRY];
        let mut rest = addresses;
        while let Some(&first) = rest.first() {
            let page = first / PAGE;
            let together = rest.iter().take_while(|address| (page..page + NEAR).contains(&(*address / PAGE)));
            // One that isn't sorted stands alone.
            let (now, later) = rest.split_at(together.count().max(1));
            let last = now.last().map_or(page, |address| address / PAGE).max(page);
            let wanted = &mut entries[..(last - page + 1) as usize * ENTRY];
            let got = read_up_to(&self.file, wanted, page * ENTRY as u64)?;
            for address in now {
                let at = (address / PAGE - page) as usize * ENTRY;
                let entry = wanted.get(at..at + ENTRY).filter(|_| at + ENTRY <= got);
                states.push(entry.map_or(PageState::Gone, |entry| PageState::of(word(entry))));
            }
            rest = later;
        }
        Ok(states)
    }

    /// Whether the page is part of a huge one: then a single touch has taken all of that. `None` if it isn't there, or this
    /// kernel doesn't tell (before 6.7).
    pub fn is_huge(&mut self, address: u64) -> Option<bool> {
        let page = address & !(PAGE - 1);
        let mut regions = [Region::default()];
        let found = self.scan(page..page + PAGE, [0, 0, PAGE_IS_PRESENT, PAGE_IS_HUGE], &mut regions).ok()?;
        (found.0 == 1).then(|| regions[0].categories & PAGE_IS_HUGE != 0)
    }

    /// The pages of a range that are in memory; of a private mapping (`shared` is false) only those that were written to,
    /// as far as the kernel tells. `None` if the memory is gone. Looks at a part of the range only, if it is large.
    ///
    /// # Errors
    ///
    /// If the file can't be read.
    pub fn resident(&mut self, range: Range<u64>, shared: bool) -> io::Result<Option<Resident>> {
        let mut first = [0_u8; ENTRY];
        // The scan finds nothing in a memory that is gone; this tells.
        if range.start < range.end && read_up_to(&self.file, &mut first, entry_at(range.start))? == 0 {
            return Ok(None);
        }
        if !self.no_scan {
            match self.scan_resident(range.clone(), shared) {
                Ok(found) => return Ok(Some(found)),
                Err(_) => self.no_scan = true,
            }
        }
        self.read_resident(range, shared)
    }

    fn scan_resident(&self, range: Range<u64>, shared: bool) -> io::Result<Resident> {
        let mut regions = vec![Region::default(); REGIONS];
        let without = if shared { 0 } else { PAGE_IS_FILE | PAGE_IS_PFNZERO };
        let masks = [without, without, PAGE_IS_PRESENT | PAGE_IS_SWAPPED, PAGE_IS_PRESENT];
        let (count, walked) = self.scan(range, masks, &mut regions)?;
        let mut found = Resident { next: walked, ..Resident::default() };
        for region in regions.iter().take(count) {
            found.add(region.start..region.end, region.categories & PAGE_IS_PRESENT != 0);
        }
        Ok(found)
    }

    /// How many regions were filled in, and how far the kernel has come. Masks: inverted, all of, any of, told.
    fn scan(&self, range: Range<u64>, masks: [u64; 4], regions: &mut [Region]) -> io::Result<(usize, u64)> {
        let mut argument = ScanArgument {
            size: size_of::<ScanArgument>() as u64,
            flags: 0,
            start: range.start,
            end: range.end,
            walk_end: 0,
            vec: regions.as_mut_ptr() as u64,
            vec_len: regions.len() as u64,
            max_pages: 0,
            category_inverted: masks[0],
            category_mask: masks[1],
            category_anyof_mask: masks[2],
            return_mask: masks[3],
        };
        // SAFETY: the argument is laid out as the kernel wants it, and has room for as many regions as it says.
        let count = unsafe { libc::ioctl(self.file.as_raw_fd(), PAGEMAP_SCAN, &raw mut argument) };
        let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        Ok((count.min(regions.len()), argument.walk_end))
    }

    fn read_resident(&self, range: Range<u64>, shared: bool) -> io::Result<Option<Resident>> {
        let mut found = Resident::default();
        let pages = (range.end.saturating_sub(range.start)).div_ceil(PAGE);
        let mut entries =
            vec![0_u8; ENTRY * usize::try_from(pages).map_or(ENTRIES, |pages| pages.min(ENTRIES))];
        let got = read_up_to(&self.file, &mut entries, entry_at(range.start))?;
        if got < ENTRY {
            return Ok(None);
        }
        found.next = range.start;
        for entry in entries[..got].chunks_exact(ENTRY) {
            let page = found.next..found.next + PAGE;
            found.next = page.end;
            match PageState::of(word(entry)) {
                PageState::Own => found.add(page, true),
                PageState::Shared if shared => found.add(page, word(entry) & PRESENT != 0),
                PageState::Swapped => found.add(page, false),
                PageState::Shared | PageState::Gone => {}
            }
        }
        Ok(Some(found))
    }
}

impl Resident {
    fn add(&mut self, run: Range<u64>, present: bool) {
        if !present {
            self.swapped += run.end.saturating_sub(run.start) / PAGE;
        } else if let Some(last) = self.runs.last_mut().filter(|last| last.end == run.start) {
            last.end = run.end;
        } else {
            self.runs.push(run);
        }
    }
}

const fn entry_at(address: u64) -> u64 {
    address / PAGE * ENTRY as u64
}

fn word(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_ne_bytes)
}

/// As many bytes as there are. Behind the end of the address space, and in a memory that is gone, there are none.
fn read_up_to(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

    #[test]
    fn what_the_kernel_scans_is_what_its_entries_say() {
        const PAGES: usize = 3000;
        let bytes = PAGES * PAGE as usize;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping wherever the kernel likes.
        let base =
            unsafe { mmap_anonymous(std::ptr::null_mut(), bytes, protection, MapFlags::PRIVATE) }.unwrap();
        // SAFETY: this mapping.
        unsafe { madvise(base, bytes, Advice::LinuxNoHugepage) }.unwrap();
        let touched: Vec<u64> =
            (0..PAGES).filter(|page| page % 3 == 1).map(|page| page as u64 * PAGE).collect();
        for offset in &touched {
            // SAFETY: inside the mapping, which nobody else knows.
            unsafe { base.cast::<u8>().add(*offset as usize).write_volatile(1) };
        }
        let start = base as u64;
        let mut pagemap = Pagemap::new(File::open("/proc/self/pagemap").unwrap());
        let mut all = |no_scan: bool| {
            pagemap.no_scan = no_scan;
            let (mut runs, mut from) = (Vec::new(), start);
            while from < start + bytes as u64 {
                let found = pagemap.resident(from..start + bytes as u64, false).unwrap().unwrap();
                assert!(found.next > from && found.swapped == 0);
                from = found.next;
                runs.extend(found.runs);
            }
            runs
        };
        let (plain, scanned) = (all(true), all(false));
        // SAFETY: this mapping, which nobody refers to.
        unsafe { munmap(base, bytes) }.unwrap();
        let expected: Vec<Range<u64>> =
            touched.iter().map(|offset| start + offset..start + offset + PAGE).collect();
        assert_eq!(plain, expected);
        assert_eq!(scanned, expected);
    }
}
