//! Which blocks nothing in a process's memory points to: what is lost for certain, as no code can give it back any more.
//!
//! Every aligned word of the memory is taken for a possible pointer, as conservative garbage collectors and leak checkers do
//! (Boehm and Weiser 1988; LeakSanitizer). A word points to a block if it lies in it, be it at its beginning or inside. The
//! 16 bits at its top are masked, where pointers carry tags; tags at the bottom lead inside the block anyhow. A place just
//! behind a block or before it is none of it: allocators without headers have the next block there, whose owner would hide
//! every leak of its neighbour. Nor is the beginning of glibc's next chunk, which may lie in a block's last word: free
//! chunks point to each other's beginnings. (Of lost blocks among freed ones, half were hidden by that.)
//!
//! What this says, and what it doesn't:
//! * "pointed to" proves nothing: pointers that were left behind in freed memory, in dead frames of stacks and in the
//!   allocator's own records (of a page's first block) keep lost blocks, and so do numbers that look like pointers. So
//!   fewer lost blocks are told than there are.
//! * "pointed to by nothing" can be wrong for a moment: registers can't be read without stopping the process, and a pointer
//!   may move from what has not been searched yet to what has. So a block counts as lost only when two searches, some seconds
//!   apart, have both found nothing; the caller does that. It stays wrong where a pointer lives in one register for ever,
//!   where it is kept in another form (encrypted, XORed with another one, as a 32-bit offset, not aligned to 8 bytes), or
//!   outside of the memory (a shared mapping of a file, another process, the kernel: what epoll and timers keep is given as
//!   `roots`).
//! * A block that only lost *sampled* blocks point to is lost, too. One that a lost block points to which wasn't sampled
//!   counts as pointed to: nobody knows that block.
//!
//! Pure over [`Memory`]. Bounds: 16 MiB at most besides the answer, whatever the memory holds; time is the caller's to end. Costs:
//! 3.5 GB/s of one CPU (half of it is copying, by the kernel), and the process feels it where it maps memory, as every page is
//! read under its `mmap_lock`: a pair of mmap and munmap took twice as long while another CPU searched, on a busy machine. So
//! the caller rests between the megabytes, in `go_on`; with a millisecond after each, it was 1.2 to 1.9 times as long.

use std::{io, ops::Range};

use thiserror::Error;

/// Blocks that are looked for at once, at most.
pub const MOST_BLOCKS: usize = 65_536;
/// Pointers from one of the blocks to another that are remembered; the blocks that further ones point to count as pointed to.
const MOST_EDGES: usize = 1 << 20;
/// Bytes that are read at once.
const CHUNK: usize = 1 << 20;
const PAGE: u64 = 4096;
/// Addresses of user space (x86-64 with four levels of page tables); what is above may be a pointer's tag.
const ADDRESS_BITS: u64 = (1 << 48) - 1;
/// Granules that the filter holds at most; a larger number makes them coarser.
const MOST_GRANULES: u64 = 1 << 17;

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum ReferencesError {
    /// More blocks than can be looked for.
    #[error("{0} blocks are more than can be looked for at once ({MOST_BLOCKS})")]
    TooMany(usize),
    /// The process has ended or replaced its program.
    #[error("the memory is gone: the process has ended or replaced its program")]
    Gone,
    /// The memory can't be read at all.
    #[error("can't read the process's memory: {0}")]
    Memory(#[from] io::Error),
}

/// A block that is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Its address.
    pub start: u64,
    /// Its size in bytes, as asked for.
    pub size: u64,
}

impl Block {
    const fn end(self) -> u64 {
        self.start.saturating_add(if self.size == 0 { 1 } else { self.size })
    }

    const fn holds(self, address: u64) -> bool {
        self.start <= address && address < self.end()
    }

    /// Whether a word of this value points to it.
    const fn is_meant_by(self, address: u64) -> bool {
        self.holds(address) && address != self.chunk_behind()
    }

    /// Where glibc's next chunk begins, if this block is one of glibc's: 16 bytes before its own block, so that this block's
    /// last word may be within it (malloc.c, "prev_size"). Chunks have 16 bytes each, at least 32, and 8 more than was
    /// asked for. If the chunk behind is free, the allocator's lists point there.
    const fn chunk_behind(self) -> u64 {
        let chunk = (self.size.saturating_add(8 + 15)) & !15;
        self.start.saturating_add(if chunk < 32 { 32 } else { chunk }).saturating_sub(16)
    }
}

/// A part of a process's address space to search. Begins and ends at pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SearchRange {
    /// The addresses.
    pub addresses: Range<u64>,
    /// The mapping is shared: pages that belong to its file (of memory, not of a disk) are searched as well. In a private
    /// mapping, those are pages that nobody has written, so that no pointer can be in them.
    pub shared: bool,
}

/// What pages of a range are there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pages {
    /// Resident ones, in order, neighbours joined.
    pub resident: Vec<Range<u64>>,
    /// How many are swapped out.
    pub swapped: u64,
    /// What follows from here on has not been looked at; the end of the range if everything has.
    pub next: u64,
}

/// A process's memory.
pub trait Memory {
    /// The pages of a range, from `range.addresses.start` on, as far as it likes. `None` if the memory is gone.
    ///
    /// # Errors
    ///
    /// If it can't be told.
    fn pages(&mut self, range: &SearchRange) -> io::Result<Option<Pages>>;

    /// Copies bytes; fewer than asked for if a page in between can't be read.
    ///
    /// # Errors
    ///
    /// If the first byte can't be read.
    fn read(&mut self, address: u64, into: &mut [u8]) -> io::Result<usize>;
}

impl Memory for crate::target::MemoryFiles {
    fn pages(&mut self, range: &SearchRange) -> io::Result<Option<Pages>> {
        let found = self.resident(range.addresses.clone(), range.shared)?;
        Ok(found.map(|found| Pages { resident: found.runs, swapped: found.swapped, next: found.next }))
    }

    fn read(&mut self, address: u64, into: &mut [u8]) -> io::Result<usize> {
        Self::read(self, address, into)
    }
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct References {
    /// For each block, in the order in which they were given: whether anything points to it.
    pub referenced: Vec<bool>,
    /// Likewise: whether something points to its last word, and nothing else does. That may be one of glibc's lists of free
    /// chunks, or the program's own pointer: nobody can tell.
    pub doubtful: Vec<bool>,
    /// Bytes that were searched.
    pub searched: u64,
    /// Pages that are swapped out, and were left there.
    pub swapped_pages: u64,
    /// Bytes that are there, but couldn't be read.
    pub unreadable: u64,
    /// The caller has ended the search before everything was searched.
    pub ended_early: bool,
}

impl References {
    /// Whether all memory was searched, so that "nothing points to it" means something.
    pub const fn is_complete(&self) -> bool {
        self.swapped_pages == 0 && self.unreadable == 0 && !self.ended_early
    }
}

/// Searches the ranges for pointers to the blocks. `roots` are words that the process has outside of its memory. `go_on` is
/// asked after every megabyte, and ends the search by saying no.
///
/// Only resident pages are read, so that nothing is swapped in. A page that is swapped out between the question and the
/// reading is read all the same.
///
/// # Errors
///
/// If there are too many blocks, or the memory can't be read.
pub fn search(
    blocks: &[Block],
    ranges: &[SearchRange],
    roots: &[u64],
    memory: &mut impl Memory,
    mut go_on: impl FnMut() -> bool,
) -> Result<References, ReferencesError> {
    if blocks.len() > MOST_BLOCKS {
        return Err(ReferencesError::TooMany(blocks.len()));
    }
    let mut finder = Finder::new(blocks);
    let mut found = References::default();
    // No block lies there.
    finder.scan(u64::MAX - 8 * roots.len() as u64, roots);
    let mut words = vec![0_u64; CHUNK / 8];
    'all: for range in ranges {
        let mut rest = range.clone();
        while rest.addresses.start < rest.addresses.end {
            let pages = memory.pages(&rest)?.ok_or(ReferencesError::Gone)?;
            found.swapped_pages += pages.swapped;
            for run in &pages.resident {
                let mut at = run.start;
                while at < run.end {
                    if !go_on() {
                        found.ended_early = true;
                        break 'all;
                    }
                    let wanted = usize::try_from(run.end - at).map_or(CHUNK, |bytes| bytes.min(CHUNK));
                    let got = memory.read(at, bytes_of(&mut words, wanted)).unwrap_or(0) & !7;
                    finder.scan(at, words.get(..got / 8).unwrap_or_default());
                    found.searched += got as u64;
                    at += got as u64;
                    if got == 0 {
                        found.unreadable += still_there(memory, range, at)?;
                        at += PAGE;
                    }
                }
            }
            // Never the same again: whoever looks at nothing has looked at everything.
            rest.addresses.start =
                if pages.next > rest.addresses.start { pages.next } else { rest.addresses.end };
        }
    }
    (found.referenced, found.doubtful) = finder.finish();
    Ok(found)
}

/// A page that can't be read: its bytes if it still is there, zero if it has been given back meanwhile.
fn still_there(memory: &mut impl Memory, range: &SearchRange, at: u64) -> Result<u64, ReferencesError> {
    let page = SearchRange { addresses: at..at + PAGE, ..range.clone() };
    let pages = memory.pages(&page)?.ok_or(ReferencesError::Gone)?;
    Ok(if pages.resident.is_empty() { 0 } else { PAGE })
}

/// The first bytes of some words.
fn bytes_of(words: &mut [u64], bytes: usize) -> &mut [u8] {
    let length = bytes.min(size_of_val(words));
    // SAFETY: words have no invalid bits, bytes no alignment, and the length is not above that of the words.
    unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), length) }
}

/// Finds the words that point to blocks. A word is first compared with the lowest and highest address, then looked up in
/// a filter of granules (pages, or more where blocks are large), then among the blocks.
struct Finder {
    /// Sorted by address.
    blocks: Vec<Block>,
    /// Where each was among those given.
    order: Vec<usize>,
    referenced: Vec<bool>,
    doubtful: Vec<bool>,
    /// Pointers from one block to another.
    edges: Vec<(u32, u32)>,
    low: u64,
    span: u64,
    /// Bit sets of granules, by hash. A power of two of words.
    filter: Vec<u64>,
    granule_shift: u32,
    hash_shift: u32,
}

impl Finder {
    fn new(given: &[Block]) -> Self {
        let mut order: Vec<usize> = (0..given.len()).collect();
        order.sort_by_key(|index| given[*index].start);
        let blocks: Vec<Block> = order.iter().map(|index| given[*index]).collect();
        let low = blocks.first().map_or(0, |block| block.start);
        let high = blocks.iter().map(|block| block.end()).max().unwrap_or(0).min(ADDRESS_BITS);
        let granules = |shift: u32| {
            let each = blocks.iter().map(|block| ((block.end() - 1) >> shift) - (block.start >> shift) + 1);
            each.fold(0, u64::saturating_add)
        };
        // At the coarsest, each block has one or two.
        let granule_shift = (12..48).find(|shift| granules(*shift) <= MOST_GRANULES).unwrap_or(48);
        let bits = (16 * granules(granule_shift)).next_power_of_two().clamp(1 << 12, 1 << 21);
        let mut finder = Self {
            referenced: vec![false; blocks.len()],
            doubtful: vec![false; blocks.len()],
            edges: Vec::new(),
            low,
            span: high.saturating_sub(low),
            filter: vec![0; (bits / 64) as usize],
            granule_shift,
            hash_shift: 64 - bits.ilog2(),
            order,
            blocks,
        };
        for block in finder.blocks.clone() {
            if block.start > ADDRESS_BITS {
                continue;
            }
            let last = (block.end() - 1).min(ADDRESS_BITS) >> granule_shift;
            for granule in block.start >> granule_shift..=last {
                let bit = finder.bit(granule);
                if let Some(word) = finder.filter.get_mut(bit / 64) {
                    *word |= 1 << (bit % 64);
                }
            }
        }
        finder
    }

    #[inline]
    const fn bit(&self, granule: u64) -> usize {
        // Fibonacci hashing (Knuth, The Art of Computer Programming, volume 3, 6.4).
        (granule.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> self.hash_shift) as usize
    }

    /// Looks at words that lie at this address.
    fn scan(&mut self, at: u64, words: &[u64]) {
        let (low, span) = (self.low, self.span);
        let mut place = at;
        for group in words.chunks(8) {
            let mut near = false;
            for word in group {
                near |= (word & ADDRESS_BITS).wrapping_sub(low) < span;
            }
            if near {
                for (index, word) in group.iter().enumerate() {
                    let value = word & ADDRESS_BITS;
                    if value.wrapping_sub(low) < span && self.may_be(value) {
                        self.hit(place.wrapping_add(8 * index as u64), value);
                    }
                }
            }
            place = place.wrapping_add(64);
        }
    }

    #[inline]
    fn may_be(&self, value: u64) -> bool {
        let bit = self.bit(value >> self.granule_shift);
        self.filter.get(bit / 64).is_some_and(|word| word >> (bit % 64) & 1 != 0)
    }

    /// The block at an address. Two are looked at, as blocks that were told as overlapping are wrong, but no trouble.
    fn block_at(&self, address: u64) -> Option<usize> {
        let behind = self.blocks.partition_point(|block| block.start <= address);
        (behind.saturating_sub(2)..behind).rev().find(|index| self.blocks[*index].holds(address))
    }

    #[cold]
    fn hit(&mut self, place: u64, value: u64) {
        let Some(to) = self.block_at(value) else { return };
        if self.referenced[to] {
            return;
        }
        if !self.blocks[to].is_meant_by(value) {
            self.doubtful[to] |= self.block_at(place) != Some(to);
            return;
        }
        match self.block_at(place) {
            Some(from) if from == to => {}
            // Fewer than 2^32 (`MOST_BLOCKS`).
            Some(from) if self.edges.len() < MOST_EDGES => self.edges.push((from as u32, to as u32)),
            _ => self.referenced[to] = true,
        }
    }

    /// Follows the pointers inside blocks that are pointed to, and gives the answer in the order of the question.
    fn finish(mut self) -> (Vec<bool>, Vec<bool>) {
        self.edges.sort_unstable();
        self.edges.dedup();
        let mut known: Vec<usize> = (0..self.blocks.len()).filter(|index| self.referenced[*index]).collect();
        while let Some(from) = known.pop() {
            let first = self.edges.partition_point(|edge| (edge.0 as usize) < from);
            for &(_, to) in self.edges[first..].iter().take_while(|edge| edge.0 as usize == from) {
                if !std::mem::replace(&mut self.referenced[to as usize], true) {
                    known.push(to as usize);
                }
            }
        }
        let mut answer = (vec![false; self.blocks.len()], vec![false; self.blocks.len()]);
        for (index, given) in self.order.iter().enumerate() {
            answer.0[*given] = self.referenced[index];
            answer.1[*given] = self.doubtful[index] && !self.referenced[index];
        }
        answer
    }
}

#[cfg(test)]
mod tests;
