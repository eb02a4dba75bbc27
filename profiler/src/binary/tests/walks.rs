//! A second opinion on sites: random walks through a function, by rules written independently of the module's.

use std::collections::HashSet;

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, Register};

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

/// Whether an instruction leaves the registers of the first `arguments` arguments alone, by what instructions do that
/// stand at the begin of functions; anything unusual counts as not.
fn leaves_alone(instruction: &Instruction, arguments: usize) -> bool {
    let taken = |register: Register| {
        let families: [&[Register]; 3] = [
            &[Register::RDI, Register::EDI, Register::DI, Register::DIL],
            &[Register::RSI, Register::ESI, Register::SI, Register::SIL],
            &[Register::RDX, Register::EDX, Register::DX, Register::DL, Register::DH],
        ];
        families[..arguments].iter().any(|family| family.contains(&register))
    };
    match instruction.mnemonic() {
        Mnemonic::Cmp
        | Mnemonic::Test
        | Mnemonic::Push
        | Mnemonic::Nop
        | Mnemonic::Endbr64
        | Mnemonic::Bt => true,
        Mnemonic::Mul => arguments < 3,
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
        | Mnemonic::Movd => instruction.op0_kind() != OpKind::Register || !taken(instruction.op0_register()),
        _ => false,
    }
}

/// Walks through the function at `entry` many times. Every walk must pass `site` exactly once, with the arguments
/// intact. `starts`: functions into which nothing runs on.
pub fn check(
    memory: &Memory<'_>,
    entry: u64,
    site: u64,
    arguments: usize,
    starts: &HashSet<u64>,
) -> Result<usize, String> {
    let mut random = Random(entry | 1);
    let mut visited = HashSet::new();
    for walk in 0..WALKS {
        let mut at = entry;
        let mut passes = 0;
        for step in 0..STEPS {
            let Some(instruction) = memory.decode(at) else { break };
            visited.insert(at);
            if at == site {
                passes += 1;
            } else if passes == 0 && !leaves_alone(&instruction, arguments) {
                return Err(format!("walk {walk}: {instruction} at {at:#x} may write an argument"));
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
