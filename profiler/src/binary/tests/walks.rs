//! A second opinion on sites: random walks through a function, by rules written independently of the module's.

use std::collections::HashSet;

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, Register};

use profiler_common::alloc::Register as Argument;

use crate::binary::Segment;

/// Walks per function, and how long one may get before it is given up.
const WALKS: u32 = 300;
const STEPS: usize = 4000;

/// Memory of a process, as the program headers have it.
pub struct Memory<'a> {
    pub image: &'a [u8],
    pub segments: &'a [Segment],
}

impl Memory<'_> {
    fn decode(&self, address: u64) -> Option<Instruction> {
        let inside = |s: &&Segment| {
            s.executable && (s.virtual_address..s.virtual_address + s.file_size).contains(&address)
        };
        let segment = self.segments.iter().find(inside)?;
        let from = (address - segment.virtual_address + segment.file_offset) as usize;
        let to = (from + 15).min((segment.file_offset + segment.file_size) as usize);
        let instruction = Decoder::with_ip(64, &self.image[from..to], address, DecoderOptions::NONE).decode();
        (!instruction.is_invalid()).then_some(instruction)
    }

    /// Whether what stands behind a call is padding up to a multiple of 16: then the call probably never returns.
    fn is_padding(&self, mut at: u64) -> bool {
        let start = at;
        while !at.is_multiple_of(16) {
            match self.decode(at) {
                Some(i) if i.mnemonic() == Mnemonic::Nop || i.mnemonic() == Mnemonic::Int3 => {
                    at = i.next_ip();
                }
                _ => return false,
            }
        }
        at != start
    }
}

/// A small generator, for repeatable walks (xorshift).
struct Random(u64);

impl Random {
    fn flip(&mut self) -> bool {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 40 & 1 == 1
    }
}

/// Which argument (from 0) each general register holds, by number of the register.
type Held = [Option<usize>; 16];

/// What an instruction does to the registers, by what instructions do that stand at the begin of functions; anything
/// unusual is an error.
fn execute(held: &mut Held, instruction: &Instruction) -> Result<(), String> {
    let number = |register: Register| register.is_gpr().then(|| register.full_register().number());
    match instruction.mnemonic() {
        Mnemonic::Cmp
        | Mnemonic::Test
        | Mnemonic::Push
        | Mnemonic::Nop
        | Mnemonic::Endbr64
        | Mnemonic::Bt => (),
        Mnemonic::Mul => (held[0], held[2]) = (None, None),
        Mnemonic::Mov
            if instruction.op0_register().is_gpr64()
                && instruction.op1_kind() == OpKind::Register
                && instruction.op1_register().is_gpr64() =>
        {
            held[instruction.op0_register().number()] = held[instruction.op1_register().number()];
        }
        Mnemonic::Mov
        | Mnemonic::Lea
        | Mnemonic::Add
        | Mnemonic::Sub
        | Mnemonic::And
        | Mnemonic::Or
        | Mnemonic::Xor
        | Mnemonic::Movzx
        | Mnemonic::Movsxd
        | Mnemonic::Shl
        | Mnemonic::Shr
        | Mnemonic::Sar
        | Mnemonic::Bsr
        | Mnemonic::Neg
        | Mnemonic::Sete
        | Mnemonic::Seta
        | Mnemonic::Setne
        | Mnemonic::Movups
        | Mnemonic::Movaps
        | Mnemonic::Pxor
        | Mnemonic::Xorps
        | Mnemonic::Movq
        | Mnemonic::Movd => {
            if instruction.op0_kind() == OpKind::Register
                && let Some(number) = number(instruction.op0_register())
            {
                held[number] = None;
            }
        }
        _ => return Err(format!("{instruction} may do anything")),
    }
    Ok(())
}

/// Walks through the function at `entry` many times. Every walk must pass `site` exactly once, and there each of the
/// `arguments` (its register at the entry, and its register at the site) must be where it is said to be. `starts`:
/// functions into which nothing runs on.
pub fn check(
    memory: &Memory<'_>,
    entry: u64,
    site: u64,
    arguments: &[(Argument, Argument)],
    starts: &HashSet<u64>,
) -> Result<usize, String> {
    let mut random = Random(entry | 1);
    let mut visited = HashSet::new();
    for walk in 0..WALKS {
        let mut at = entry;
        let mut passes = 0;
        let mut held = Held::default();
        for (index, (from, _)) in arguments.iter().enumerate() {
            held[*from as usize] = Some(index);
        }
        for step in 0..STEPS {
            let Some(instruction) = memory.decode(at) else { break };
            visited.insert(at);
            if at == site {
                passes += 1;
                for (index, (from, to)) in arguments.iter().enumerate() {
                    if passes == 1 && held[*to as usize] != Some(index) {
                        return Err(format!("walk {walk}: what was in {from:?} isn't in {to:?}"));
                    }
                }
            } else if passes == 0 {
                execute(&mut held, &instruction).map_err(|error| format!("walk {walk}, {at:#x}: {error}"))?;
            }
            // The compiler's loops could be walked for ever; a walk that long has shown what it can.
            if step + 1 == STEPS {
                break;
            }
            at = match instruction.flow_control() {
                FlowControl::UnconditionalBranch => instruction.near_branch_target(),
                FlowControl::ConditionalBranch if random.flip() => instruction.near_branch_target(),
                FlowControl::Next | FlowControl::ConditionalBranch => instruction.next_ip(),
                FlowControl::Call | FlowControl::IndirectCall => {
                    let next = instruction.next_ip();
                    if memory.is_padding(next) || starts.contains(&next) {
                        break;
                    }
                    next
                }
                _ => break,
            };
        }
        if passes != 1 {
            return Err(format!("walk {walk}: passes {passes} times"));
        }
    }
    Ok(visited.len())
}
