//! A binary's code: its bytes, where its functions begin, and which places its direct branches lead to.

use std::cell::OnceCell;
use std::ops::Range;

use iced_x86::{Code as Op, Decoder, DecoderOptions, FlowControl, Instruction};

use super::BinaryError;

/// Bytes of code that are read. Browsers and databases have up to 300 MB.
const MAX_CODE: u64 = 1 << 30;
/// Bytes of code of which all branches are indexed; glibc has 1.4 MB. Of more, only those that matter are.
const MAX_INDEXED: u64 = 16 << 20;
/// How far around a place of interest all branches are indexed, in bytes. The largest object file of an allocator has
/// about 300 KB of code.
const WINDOW: u64 = 512 << 10;
/// How far around a place of interest a branch's target may be to be indexed, wherever the branch is: what could spoil a
/// site.
const REACH: u64 = 2 * super::site::MAX_BYTES;
/// Executable segments that are read. Binaries have one, rarely two.
const MAX_PIECES: usize = 16;
/// Branches that are indexed. glibc has about 60,000.
const MAX_BRANCHES: usize = 2 << 20;
/// Bytes of the longest x86 instruction.
pub(super) const MAX_INSTRUCTION: usize = 15;
/// How far a short branch reaches, its own length included.
const SHORT_REACH: u64 = 127 + 6;
/// How far before a function its neighbours are searched for short branches into it.
const NEIGHBOURHOOD: u64 = 4096;

/// The bytes of one executable segment.
#[derive(Clone, Copy, Debug)]
pub struct Code<'a> {
    /// Virtual address of the first byte.
    pub address: u64,
    /// Offset of the first byte in the file.
    pub file_offset: u64,
    /// The bytes.
    pub bytes: &'a [u8],
}

impl Code<'_> {
    /// Places of interest so close together that all branches are indexed.
    pub(super) fn places(&self) -> Vec<u64> {
        (self.address..self.end()).step_by(WINDOW as usize).collect()
    }

    /// The end can't overflow: the reader has checked that, and [`Text::new`] does again.
    fn end(&self) -> u64 {
        self.address + self.bytes.len() as u64
    }
}

/// How many functions are tried as the one that an instruction belongs to, with and without unwind tables.
const FEW_OWNERS: usize = 4;
const MANY_OWNERS: usize = 256;
/// Jumps through slots that are read.
const MAX_SLOT_JUMPS: usize = 1 << 16;

/// A direct branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Branch {
    /// Where it leads to.
    pub target: u64,
    /// Address of the branch instruction.
    pub source: u64,
    /// A `call`; otherwise a jump, conditional or not.
    pub call: bool,
}

/// A jump or call through a slot of the global offset table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotJump {
    /// A call.
    pub call: bool,
    /// The function whose address the slot gets.
    pub function: u64,
    /// Address of the instruction.
    pub source: u64,
}

/// What matters in large code.
#[derive(Debug)]
struct Interest {
    /// Where all branches are indexed, by where they stand; sorted, apart from each other.
    windows: Vec<Range<u64>>,
    /// Targets of branches that are indexed wherever they stand; as above.
    targets: Vec<Range<u64>>,
}

impl Interest {
    fn new(places: &[u64]) -> Self {
        Self { windows: around(places, WINDOW), targets: around(places, REACH) }
    }

    fn matters(&self, source: u64, target: u64) -> bool {
        holds(&self.targets, target) || holds(&self.windows, source)
    }
}

/// The ranges of a length around places, those that touch made one.
fn around(places: &[u64], length: u64) -> Vec<Range<u64>> {
    let mut places = places.to_vec();
    places.sort_unstable();
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for place in places {
        let range = place.saturating_sub(length)..place.saturating_add(length);
        match ranges.last_mut() {
            Some(last) if range.start <= last.end => last.end = range.end,
            _ => ranges.push(range),
        }
    }
    ranges
}

fn holds(ranges: &[Range<u64>], address: u64) -> bool {
    let behind = ranges.partition_point(|range| range.start <= address);
    ranges[..behind].last().is_some_and(|range| address < range.end)
}

/// A binary's code.
#[derive(Debug)]
pub struct Text<'a> {
    code: Vec<Code<'a>>,
    /// Where functions begin, sorted.
    starts: Vec<u64>,
    /// Whether `starts` has the local functions, too.
    complete: bool,
    /// Every 4-byte branch that the bytes can be read as, sorted by target. A superset: no instruction boundaries are
    /// known, so bytes inside other instructions are in it too. That such bytes hit a given address is improbable (one
    /// in 2^32 each), and the mistake is on the safe side. Of large code only those around the places of interest.
    branches: OnceCell<Vec<Branch>>,
    /// What matters in large code.
    interest: Option<Interest>,
}

impl<'a> Text<'a> {
    /// Takes the code in. `starts` are the function starts that are known, in any order; `complete` tells that local
    /// functions are among them (unwind tables list them). Without it the targets of direct calls are taken as well.
    /// `places`: the functions of interest; in large code only branches around them are indexed.
    pub fn new(
        code: Vec<Code<'a>>,
        mut starts: Vec<u64>,
        complete: bool,
        places: &[u64],
    ) -> Result<Self, BinaryError> {
        if code.len() > MAX_PIECES {
            return Err(BinaryError::TableTooLong {
                table: "list of executable segments",
                limit: MAX_PIECES,
            });
        }
        let size = code.iter().map(|code| code.bytes.len() as u64).sum();
        if size > MAX_CODE {
            return Err(BinaryError::TooMuchCode { size, limit: MAX_CODE });
        }
        if let Some(index) = code.iter().position(|c| c.address.checked_add(c.bytes.len() as u64).is_none()) {
            return Err(BinaryError::Segment { index });
        }
        let interest = (size > MAX_INDEXED).then(|| Interest::new(places));
        let text = Self { code, starts: Vec::new(), complete, interest, branches: OnceCell::new() };
        if !complete {
            let calls = text.index()?.iter().filter(|branch| branch.call);
            starts.extend(calls.map(|branch| branch.target));
        }
        starts.retain(|&start| text.code_at(start).is_some());
        starts.sort_unstable();
        starts.dedup();
        Ok(Self { starts, ..text })
    }

    /// All branches that matter. The first time, all code is read; this is what takes time in large files, and files that
    /// only pass calls on don't need it.
    ///
    /// # Errors
    ///
    /// If there are too many.
    pub(super) fn index(&self) -> Result<&[Branch], BinaryError> {
        let branches = self.branches.get_or_init(|| self.scan());
        if branches.len() > MAX_BRANCHES {
            return Err(BinaryError::TooManyBranches { limit: MAX_BRANCHES });
        }
        Ok(branches)
    }

    /// One more than [`MAX_BRANCHES`] at most.
    fn scan(&self) -> Vec<Branch> {
        let mut branches = Vec::new();
        for code in &self.code {
            for (at, window) in code.bytes.windows(5).enumerate() {
                let (skip, call) = match window[0] {
                    0xe8 => (1, true),
                    0xe9 => (1, false),
                    0x0f if window[1] & 0xf0 == 0x80 => (2, false),
                    _ => continue,
                };
                let Some(displacement) = code.bytes.get(at + skip..at + skip + 4) else { continue };
                let displacement = i32::from_le_bytes(displacement.try_into().unwrap_or_default());
                let source = code.address + at as u64;
                let next = source.wrapping_add(skip as u64 + 4);
                let target = next.wrapping_add_signed(i64::from(displacement));
                let matters = self.interest.as_ref().is_none_or(|interest| interest.matters(source, target));
                if matters && self.code_at(target).is_some() && branches.len() <= MAX_BRANCHES {
                    branches.push(Branch { target, source, call });
                }
            }
        }
        branches.sort_unstable();
        branches
    }

    /// Bytes of code.
    pub(super) fn size(&self) -> u64 {
        self.code.iter().map(|code| code.bytes.len() as u64).sum()
    }

    fn code_at(&self, address: u64) -> Option<&Code<'a>> {
        self.code.iter().find(|code| (code.address..code.end()).contains(&address))
    }

    /// The bytes from an address to the end of its segment.
    pub fn bytes_at(&self, address: u64) -> Option<&'a [u8]> {
        let code = self.code_at(address)?;
        code.bytes.get(usize::try_from(address - code.address).ok()?..)
    }

    /// Where the byte at an address lies in the file.
    pub fn file_offset_of(&self, address: u64) -> Option<u64> {
        let code = self.code_at(address)?;
        code.file_offset.checked_add(address - code.address)
    }

    /// The instruction at an address; `None` outside the code and for bytes that are no instruction.
    pub fn decode(&self, address: u64) -> Option<Instruction> {
        let bytes = self.bytes_at(address)?;
        let bytes = &bytes[..bytes.len().min(MAX_INSTRUCTION)];
        let instruction = Decoder::with_ip(64, bytes, address, DecoderOptions::NONE).decode();
        (!instruction.is_invalid()).then_some(instruction)
    }

    /// The branches with 4-byte displacements that lead into a range.
    pub fn branches_into(&self, range: Range<u64>) -> &[Branch] {
        let branches = self.branches.get_or_init(|| self.scan());
        let from = branches.partition_point(|branch| branch.target < range.start);
        let to = branches.partition_point(|branch| branch.target < range.end);
        &branches[from..to.max(from)]
    }

    /// Whether a function is known to begin there.
    pub fn is_start(&self, address: u64) -> bool {
        self.starts.binary_search(&address).is_ok()
    }

    /// The nearest known function start up to and including an address.
    pub fn start_before(&self, address: u64) -> Option<u64> {
        self.starts[..self.starts.partition_point(|&start| start <= address)].last().copied()
    }

    /// Starts of functions to which an instruction may belong: with unwind tables, a few before it (the nearest it should
    /// be, but symbols may stand inside functions). Else all within `distance`, as local functions may be unknown and
    /// their callers be anywhere around them.
    pub(super) fn owners(&self, address: u64, distance: u64) -> Vec<u64> {
        let limit = if self.complete { FEW_OWNERS } else { MANY_OWNERS };
        let (before, behind) = self.starts.split_at(self.starts.partition_point(|&start| start <= address));
        let near = |start: &&u64| start.abs_diff(address) <= distance;
        let before = before.iter().rev().take(limit).take_while(near);
        let behind = behind.iter().take(if self.complete { 0 } else { limit }).take_while(near);
        before.chain(behind).copied().collect()
    }

    /// The first known function start behind an address.
    pub fn start_behind(&self, address: u64) -> Option<u64> {
        self.starts.get(self.starts.partition_point(|&start| start <= address)).copied()
    }

    /// The short branches (1-byte displacement) that lead into a range of at most a few hundred bytes. Found by
    /// disassembling the neighbourhood in a line, from the nearest function start before it; each start on the way
    /// sets the disassembly right again, should data have led it astray.
    pub fn short_branches_into(&self, range: Range<u64>) -> Vec<Branch> {
        let first = range.start.saturating_sub(SHORT_REACH);
        let oldest = first.saturating_sub(NEIGHBOURHOOD);
        let mut at = self.start_before(first).filter(|&start| start >= oldest).unwrap_or(first);
        let last = range.end.saturating_add(SHORT_REACH);
        let mut found = Vec::new();
        while at < last {
            let next_start = self.start_behind(at).unwrap_or(u64::MAX);
            let Some(instruction) = self.decode(at) else {
                at = at.saturating_add(1);
                continue;
            };
            let branches = matches!(
                instruction.flow_control(),
                FlowControl::UnconditionalBranch | FlowControl::ConditionalBranch
            );
            if branches && range.contains(&instruction.near_branch_target()) {
                found.push(Branch { target: instruction.near_branch_target(), source: at, call: false });
            }
            at = instruction.next_ip().min(next_start).max(at.saturating_add(1));
        }
        found
    }

    /// Bytes near an address that could be a short jump to it: only good for finding candidates.
    pub fn possible_short_jumps(&self, address: u64) -> Vec<u64> {
        let possible = (address.saturating_sub(129)..=address.saturating_add(126)).filter(|&source| {
            let Some(&[opcode, displacement, ..]) = self.bytes_at(source) else { return false };
            let target = source.wrapping_add(2).wrapping_add_signed(i64::from(displacement as i8));
            (opcode == 0xeb || opcode & 0xf0 == 0x70) && target == address
        });
        possible.collect()
    }

    /// Places that look like instructions `mov d(%rip), %r64`, `call *d(%rip)` or `jmp *d(%rip)` on one of the given
    /// addresses (sorted), with that address. Only good for finding candidates: no instruction boundaries are known.
    pub(super) fn possible_uses(&self, addresses: &[u64]) -> Vec<(u64, u64)> {
        let mut found = Vec::new();
        for code in &self.code {
            for (at, window) in code.bytes.windows(6).enumerate() {
                // 8b /r with a REX.W prefix before it, ff /2, ff /4; modrm 00 xxx 101 is relative to the next instruction.
                let moves = window[0] == 0x8b && window[1] & 0xc7 == 0x05;
                if !(moves || window[0] == 0xff && matches!(window[1], 0x15 | 0x25)) {
                    continue;
                }
                let Some(at) = at.checked_sub(usize::from(moves)) else { continue };
                if moves && !matches!(code.bytes[at], 0x48 | 0x4c) {
                    continue;
                }
                let source = code.address + at as u64;
                let displacement = i32::from_le_bytes([window[2], window[3], window[4], window[5]]);
                let next = source.wrapping_add(6 + u64::from(moves));
                let address = next.wrapping_add_signed(i64::from(displacement));
                if addresses.binary_search(&address).is_ok() && found.len() < MAX_SLOT_JUMPS {
                    found.push((source, address));
                }
            }
        }
        found
    }

    /// All jumps and calls through the given slots (address of the slot, function it leads to; sorted by slot).
    pub fn slot_jumps(&self, slots: &[(u64, u64)]) -> Vec<SlotJump> {
        let mut found = Vec::new();
        if slots.is_empty() {
            return found;
        }
        for code in &self.code {
            for (at, window) in code.bytes.windows(6).enumerate() {
                // ff 25: jmp *d(%rip); ff 15: call *d(%rip)
                let call = match window[..2] {
                    [0xff, 0x25] => false,
                    [0xff, 0x15] => true,
                    _ => continue,
                };
                let displacement = i32::from_le_bytes([window[2], window[3], window[4], window[5]]);
                let source = code.address + at as u64;
                let slot = source.wrapping_add(6).wrapping_add_signed(i64::from(displacement));
                if let Ok(index) = slots.binary_search_by_key(&slot, |&(slot, _)| slot)
                    && found.len() < MAX_SLOT_JUMPS
                {
                    found.push(SlotJump { call, function: slots[index].1, source });
                }
            }
        }
        found
    }
}

/// Whether an instruction ends the path: nothing is executed behind it, or nothing that could be told.
pub(super) fn ends_path(instruction: &Instruction) -> bool {
    matches!(
        instruction.flow_control(),
        FlowControl::Return | FlowControl::IndirectBranch | FlowControl::Interrupt | FlowControl::Exception
    ) || instruction.code() == Op::Hlt
}
