//! Unwinding with the target's own tables.
//!
//! framehop 0.16 carries the instruction, stack and frame pointer from frame to frame. That suffices for what compilers
//! write: the place of a caller's frame depends on no other register.

use std::{collections::HashMap, ops::Range, sync::Arc};

use framehop::{
    Error, FrameAddress, ModuleSectionInfo, Unwinder as _,
    x86_64::{CacheX86_64, UnwindRegsX86_64, UnwinderX86_64},
};

use super::{Code, Module, RawFrame, RawUnwound, elf::Image};
use crate::stack::{End, MAX_FRAMES};

/// How far behind the copied bytes a place may lie to be believed to be on the same stack.
const STACK_LIMIT: u64 = 64 << 20;
/// How far behind a program's first instruction its first function ends, at most. That function (`_start`) can have no
/// caller. musl's has no unwind tables that say so.
const START_FUNCTION: u64 = 64;
/// A frame pointer that certainly can't be followed: no address has these upper bits (x86-64).
const NO_FRAME: u64 = 0x7fff_0000_0000_0000;

/// The code of a process, ready for unwinding.
pub struct Mapped {
    modules: Vec<Module>,
    /// Where the program's first function is, as mapped.
    starts: Vec<Range<u64>>,
    unwinder: UnwinderX86_64<Arc<[u8]>>,
    /// Of its own: framehop numbers sets of modules with 16 bits, so that a common cache would mix them up after a while.
    cache: CacheX86_64,
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
        for module in &modules {
            let Some(image) = images.get(&module.code) else { continue };
            let Some(bias) = image.bias(module.start, module.end, module.file_offset) else { continue };
            if image.entry != 0 {
                let start = image.entry.wrapping_add(bias);
                starts.push(start..start.saturating_add(START_FUNCTION));
            }
            let base = image.base().wrapping_add(bias);
            let range = module.start..module.end;
            unwinder.add_module(framehop::Module::new(String::new(), range, base, Tables(image)));
        }
        Self { modules, starts, unwinder, cache: CacheX86_64::new() }
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
            let end = match self.step(current, &mut registers, copied) {
                Step::Caller(caller) => match self.frame(caller.wrapping_sub(1)) {
                    Some(RawFrame { code: Code::Uprobes, .. }) | None => End::Lost,
                    Some(_) if frames.len() == MAX_FRAMES => End::TooDeep,
                    Some(frame) => {
                        frames.push(frame);
                        address = FrameAddress::from_return_address(caller);
                        continue;
                    }
                },
                Step::End(end) => end,
            };
            let started = self.starts.iter().any(|start| start.contains(&current.address_for_lookup()));
            return RawUnwound { frames, end: if started { End::Complete } else { end } };
        }
    }

    fn step(&mut self, address: FrameAddress, registers: &mut UnwindRegsX86_64, copied: Copied<'_>) -> Step {
        let before = *registers;
        let result = self.advance(address, registers, copied);
        match result {
            Ok(Some(caller)) => {
                // Whatever tables say: a caller's frame lies above, so that this ends.
                let upwards = registers.sp() > before.sp();
                if upwards { Step::Caller(caller) } else { Step::End(End::Lost) }
            }
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

    fn advance(
        &mut self,
        address: FrameAddress,
        registers: &mut UnwindRegsX86_64,
        copied: Copied<'_>,
    ) -> Result<Option<u64>, Error> {
        self.unwinder
            .unwind_frame(address, registers, &mut self.cache, &mut |place| copied.word(place).ok_or(()))
    }

    /// What is at an address.
    fn frame(&self, address: u64) -> Option<RawFrame> {
        let at = self.modules.partition_point(|module| module.start <= address).checked_sub(1)?;
        let module = self.modules.get(at).filter(|module| address < module.end)?;
        let offset = match module.code {
            Code::File(_) => module.file_offset.checked_add(address - module.start)?,
            _ => address,
        };
        Some(RawFrame { code: module.code, offset })
    }
}

enum Step {
    Caller(u64),
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
