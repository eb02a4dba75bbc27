//! Unwinding with the target's own tables, by framehop; rows that it doesn't evaluate by `row`.
//!
//! The instruction, stack and frame pointer are carried from frame to frame. That suffices for what compilers write: where a
//! call is made, the place of the caller's frame depends on no other register.

use std::{
    collections::{HashMap, HashSet},
    ops::Range,
    sync::Arc,
};

use framehop::{
    Error, FrameAddress, ModuleSectionInfo, Unwinder as _,
    x86_64::{CacheX86_64, UnwindRegsX86_64, UnwinderX86_64},
};

use super::{
    Code, Module, RawFrame, RawUnwound,
    elf::Image,
    row::{self, Answer, Pointers},
};
use crate::stack::{End, MAX_FRAMES};

/// How far behind the copied bytes a place may lie to be believed to be on the same stack.
const STACK_LIMIT: u64 = 64 << 20;
/// How far behind a program's first instruction its first function ends, at most. That function (`_start`) can have no
/// caller. musl's has no unwind tables that say so.
const START_FUNCTION: u64 = 64;
/// A frame pointer that certainly can't be followed: no address has these upper bits (x86-64).
const NO_FRAME: u64 = 0x7fff_0000_0000_0000;

/// Addresses whose rows are remembered to be framehop's.
const SIMPLE_LIMIT: usize = 1 << 16;

/// The code of a process, ready for unwinding.
pub struct Mapped {
    modules: Vec<Placed>,
    /// Where the program's first function is, as mapped.
    starts: Vec<Range<u64>>,
    unwinder: UnwinderX86_64<Arc<[u8]>>,
    /// Of its own: framehop numbers sets of modules with 16 bits, so that a common cache would mix them up after a while.
    cache: CacheX86_64,
    simple: HashSet<u64>,
}

/// A module, and its file's tables with the distance of its addresses from those that the file states.
struct Placed {
    module: Module,
    image: Option<(Arc<Image>, u64)>,
}

/// The names that framehop asks for, and what there is.
struct Tables<'a>(&'a Image);

impl ModuleSectionInfo<Arc<[u8]>> for Tables<'_> {
    fn base_svma(&self) -> u64 {
        self.0.base()
    }

    fn section_svma_range(&mut self, name: &[u8]) -> Option<Range<u64>> {
        let part = match name {
            b".eh_frame_hdr" => self.0.index.as_ref()?,
            b".eh_frame" => self.0.tables.as_ref()?,
            _ => return None,
        };
        Some(part.address..part.address.checked_add(part.bytes.len() as u64)?)
    }

    fn section_data(&mut self, name: &[u8]) -> Option<Arc<[u8]>> {
        match name {
            b".eh_frame_hdr" => self.0.index.as_ref().map(|part| Arc::clone(&part.bytes)),
            b".eh_frame" => self.0.tables.as_ref().map(|part| Arc::clone(&part.bytes)),
            _ => None,
        }
    }
}

impl Mapped {
    /// The images are those of the files (and of the vdso) that can be read.
    pub fn new(mut modules: Vec<Module>, images: &HashMap<Code, Arc<Image>>) -> Self {
        modules.retain(|module| module.start < module.end);
        modules.sort_by_key(|module| module.start);
        let mut unwinder = UnwinderX86_64::new();
        let mut starts = Vec::new();
        let mut placed = Vec::with_capacity(modules.len());
        for module in modules {
            let image = images.get(&module.code).and_then(|image| {
                let bias = image.bias(module.start, module.end, module.file_offset)?;
                Some((Arc::clone(image), bias))
            });
            if let Some((image, bias)) = &image {
                if image.entry != 0 {
                    let start = image.entry.wrapping_add(*bias);
                    starts.push(start..start.saturating_add(START_FUNCTION));
                }
                let base = image.base().wrapping_add(*bias);
                let range = module.start..module.end;
                unwinder.add_module(framehop::Module::new(String::new(), range, base, Tables(image)));
            }
            placed.push(Placed { module, image });
        }
        Self { modules: placed, starts, unwinder, cache: CacheX86_64::new(), simple: HashSet::new() }
    }

    /// Unwinds from the registers (instruction, stack, frame pointer) over the bytes from the stack pointer upwards. If
    /// `returned`, the instruction pointer is where a call has just returned to.
    pub fn unwind(&mut self, registers: [u64; 3], returned: bool, stack: &[u8]) -> RawUnwound {
        let [ip, sp, bp] = registers;
        let copied = Copied { sp, bytes: stack };
        let mut registers = UnwindRegsX86_64::new(ip, sp, bp);
        let mut frames = Vec::with_capacity(32);
        // By the tables, the place behind a call is where the function goes on; by name, it may be the next one's.
        let Some(frame) = self.frame(if returned { ip.wrapping_sub(1) } else { ip }) else {
            return RawUnwound { frames, end: End::Lost };
        };
        frames.push(frame);
        // To framehop, only the first frame of all may be a function that has called nobody yet. After a return, none is;
        // it looks up a return address one byte before.
        let mut address = if returned {
            ip.checked_add(1).and_then(FrameAddress::from_return_address)
        } else {
            Some(FrameAddress::from_instruction_pointer(ip))
        };
        loop {
            let Some(current) = address else { return RawUnwound { frames, end: End::Lost } };
            let (next, lookup) = match self.step(current, &mut registers, copied) {
                Step::Caller(caller) => (FrameAddress::from_return_address(caller), caller.wrapping_sub(1)),
                Step::Interrupted(ip) => (Some(FrameAddress::from_instruction_pointer(ip)), ip),
                Step::End(end) => return RawUnwound { end: self.end(current, end), frames },
            };
            let end = match self.frame(lookup) {
                Some(RawFrame { code: Code::Uprobes, .. }) | None => self.end(current, End::Lost),
                Some(_) if frames.len() == MAX_FRAMES => End::TooDeep,
                Some(frame) => {
                    frames.push(frame);
                    address = next;
                    continue;
                }
            };
            return RawUnwound { frames, end };
        }
    }

    /// Why a stack really ends: a program's first function has no caller, whatever was found in its place.
    fn end(&self, last: FrameAddress, end: End) -> End {
        let started = self.starts.iter().any(|start| start.contains(&last.address_for_lookup()));
        if started { End::Complete } else { end }
    }

    fn step(&mut self, address: FrameAddress, registers: &mut UnwindRegsX86_64, copied: Copied<'_>) -> Step {
        let before = *registers;
        match self.row(address.address_for_lookup(), &before, copied) {
            Answer::Simple => {}
            Answer::Caller { pointers, interrupted } => {
                *registers = UnwindRegsX86_64::new(pointers.ip, pointers.sp, pointers.bp);
                return match interrupted {
                    // A handler may have a stack of its own, so that this may lie anywhere.
                    true => Step::Interrupted(pointers.ip),
                    false if pointers.sp > before.sp() => Step::Caller(pointers.ip),
                    false => Step::End(End::Lost),
                };
            }
            Answer::Unreadable(place) if copied.is_behind(place) => return Step::End(End::Cut),
            Answer::Unreadable(_) | Answer::Nonsense => return Step::End(End::Lost),
        }
        match self.advance(address, registers, copied) {
            // Whatever tables say: a caller's frame lies above, so that this ends.
            Ok(Some(caller)) if registers.sp() > before.sp() => Step::Caller(caller),
            Ok(Some(_)) => Step::End(End::Lost),
            // framehop says so at the mark of an outermost function, and where it would follow a frame pointer that is zero,
            // which functions that keep other things in that register may well have.
            Ok(None) if before.bp() == 0 => {
                let mut other = before;
                other.set_bp(NO_FRAME);
                let marked = matches!(self.advance(address, &mut other, copied), Ok(None));
                Step::End(if marked { End::Complete } else { End::Lost })
            }
            Ok(None) => Step::End(End::Complete),
            Err(Error::CouldNotReadStack(place)) if copied.is_behind(place) => Step::End(End::Cut),
            Err(_) => Step::End(End::Lost),
        }
    }

    /// What the tables say of an address, if that isn't framehop's to evaluate.
    fn row(&mut self, lookup: u64, registers: &UnwindRegsX86_64, copied: Copied<'_>) -> Answer {
        if self.simple.contains(&lookup) {
            return Answer::Simple;
        }
        let Some((image, bias)) = self.placed(lookup).and_then(|placed| placed.image.as_ref()) else {
            return Answer::Simple;
        };
        let pointers = Pointers { ip: registers.ip(), sp: registers.sp(), bp: registers.bp() };
        let answer = row::evaluate(image, lookup.wrapping_sub(*bias), pointers, &|place| copied.word(place));
        if answer == Answer::Simple {
            if self.simple.len() >= SIMPLE_LIMIT {
                self.simple.clear();
            }
            self.simple.insert(lookup);
        }
        answer
    }

    fn advance(
        &mut self,
        address: FrameAddress,
        registers: &mut UnwindRegsX86_64,
        copied: Copied<'_>,
    ) -> Result<Option<u64>, Error> {
        self.unwinder
            .unwind_frame(address, registers, &mut self.cache, &mut |place| copied.word(place).ok_or(()))
    }

    fn placed(&self, address: u64) -> Option<&Placed> {
        let at = self.modules.partition_point(|placed| placed.module.start <= address).checked_sub(1)?;
        self.modules.get(at).filter(|placed| address < placed.module.end)
    }

    /// What is at an address.
    fn frame(&self, address: u64) -> Option<RawFrame> {
        let module = &self.placed(address)?.module;
        let offset = match module.code {
            Code::File(_) => module.file_offset.checked_add(address - module.start)?,
            _ => address,
        };
        Some(RawFrame { code: module.code, offset })
    }
}

enum Step {
    /// The frame that has called; the return address.
    Caller(u64),
    /// The frame that was interrupted; where.
    Interrupted(u64),
    End(End),
}

/// The copied part of a stack.
#[derive(Clone, Copy)]
struct Copied<'a> {
    sp: u64,
    bytes: &'a [u8],
}

impl Copied<'_> {
    fn word(self, place: u64) -> Option<u64> {
        let at = usize::try_from(place.checked_sub(self.sp)?).ok()?;
        self.bytes.get(at..at.checked_add(8)?)?.try_into().ok().map(u64::from_le_bytes)
    }

    /// Whether a place that couldn't be read may well be on the stack, behind what was copied.
    fn is_behind(self, place: u64) -> bool {
        let end = self.sp.saturating_add(self.bytes.len() as u64);
        place.saturating_add(8) > end && place - place.min(end) < STACK_LIMIT && place >= self.sp
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::worker::{
        FileKey,
        elf::{Load, Part},
    };

    /// A file whose unwind tables are these bytes; with or without an index that leads there.
    fn image(tables: &[u8], index: Option<&[u8]>) -> Image {
        let part = |address, bytes: &[u8]| Part { address, bytes: bytes.into() };
        Image {
            loads: vec![Load { offset: 0, address: 0, size: 0x10000, code: true }],
            entry: 0,
            index: index.map(|bytes| part(0x8000, bytes)),
            tables: Some(part(0x9000, tables)),
        }
    }

    fn mapped(image: Image) -> Mapped {
        let code = Code::File(FileKey(0));
        let module = Module { start: 0x10_0000, end: 0x11_0000, file_offset: 0, code };
        Mapped::new(vec![module], &HashMap::from([(code, Arc::new(image))]))
    }

    /// One function (all of the file) with these instructions for its frame.
    fn tables(instructions: &[u8]) -> Vec<u8> {
        // CIE: version 1, no augmentation, code factor 1, data factor -8, return address in register 16.
        let mut bytes = vec![0, 0, 0, 0, 1, 0, 1, 0x78, 16];
        bytes.resize(16, 0);
        let mut tables = vec![12, 0, 0, 0];
        tables.extend_from_slice(&bytes[..12]);
        let length = 4 + 16 + instructions.len() as u32;
        tables.extend_from_slice(&length.to_le_bytes());
        // Where the CIE is, seen from here.
        tables.extend_from_slice(&20_u32.to_le_bytes());
        tables.extend_from_slice(&0_u64.to_le_bytes());
        tables.extend_from_slice(&0x10000_u64.to_le_bytes());
        tables.extend_from_slice(instructions);
        tables.extend_from_slice(&[0; 4]);
        tables
    }

    fn words(words: &[u64]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    const START: [u64; 3] = [0x10_0100, 0x7000_0000, 0];

    #[test]
    fn tables_lead_from_frame_to_frame() {
        // CFA: stack pointer + 16; return address at CFA - 8.
        let mut mapped = mapped(image(&tables(&[0x0c, 7, 16, 0x90, 1]), None));
        let unwound = mapped.unwind(START, true, &words(&[0, 0x10_0200, 0, 0x10_0300, 0, 0]));
        let offsets: Vec<u64> = unwound.frames.iter().map(|frame| frame.offset).collect();
        assert_eq!(offsets, [0xff, 0x1ff, 0x2ff]);
        assert_eq!(unwound.end, End::Complete, "a return address of zero");
    }

    #[test]
    fn tables_that_lead_in_circles_end() {
        for instructions in [
            // CFA: stack pointer + 0, with the return address above it.
            &[0x0c, 7, 0, 0x90, 1][..],
            // CFA by an expression: the stack pointer; the return address is the instruction pointer.
            &[0x0f, 2, 0x77, 0, 0x16, 16, 2, 0x80, 0][..],
            // An expression that jumps to its own beginning.
            &[0x0f, 3, 0x2f, 0xfd, 0xff, 0x90, 1][..],
        ] {
            let mut mapped = mapped(image(&tables(instructions), None));
            let unwound = mapped.unwind(START, true, &words(&[0x10_0100; 64]));
            assert_eq!((unwound.frames.len(), unwound.end), (1, End::Lost), "{instructions:x?}");
        }
    }

    #[test]
    fn code_of_nobody_is_followed_by_frame_pointers_and_a_probed_return_is_the_end() {
        let module = |start, code| Module { start, end: start + 0x1000, file_offset: 0, code };
        let modules = vec![module(0x1000, Code::Anonymous), module(0x9000, Code::Uprobes)];
        let mut mapped = Mapped::new(modules, &HashMap::new());
        let registers = [0x1100, 0x7000_0000, 0x7000_0010];
        let stack = words(&[1, 2, 0x7000_0030, 0x1200, 3, 4, 0x7000_0050, 0x9001, 0, 0]);
        let unwound = mapped.unwind(registers, true, &stack);
        let offsets: Vec<u64> = unwound.frames.iter().map(|frame| frame.offset).collect();
        assert_eq!((offsets.as_slice(), unwound.end), (&[0x10ff, 0x11ff][..], End::Lost));
    }

    proptest! {
        #[test]
        fn any_tables_and_any_stack_end(
            instructions in prop::collection::vec(any::<u8>(), 0..40),
            raw in prop::collection::vec(any::<u8>(), 0..200),
            index in prop::option::of(prop::collection::vec(any::<u8>(), 0..60)),
            stack in prop::collection::vec(prop_oneof![0x10_0000..0x11_0000_u64, 0x7000_0000..0x7000_0800_u64, any::<u64>()], 0..200),
            registers in any::<[u64; 3]>(),
            returned in any::<bool>(),
        ) {
            for tables in [tables(&instructions), raw] {
                let mut mapped = mapped(image(&tables, index.as_deref()));
                for registers in [START, [0x10_0100, 0x7000_0000, 0x7000_0010], registers] {
                    // Arithmetic on hostile numbers may panic in what we use; the process answers that it failed.
                    let stack = words(&stack);
                    let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| mapped.unwind(registers, returned, &stack)));
                    if let Ok(unwound) = unwound {
                        prop_assert!(unwound.frames.len() <= MAX_FRAMES);
                    }
                }
            }
        }
    }
}
