//! On which instruction a function of Go's runtime is probed.
//!
//! Go's functions begin with a look at whether the stack suffices: a comparison and a jump, which the kernel emulates (one
//! trap), while it single-steps a copy of the comparison (two traps). The functions probed here run on a system stack, which
//! is never too small in a program that lives: so the jump, like the entry, is passed once in each call, and no argument has
//! been touched there.

use iced_x86::{Code, Decoder, DecoderOptions, FlowControl, Mnemonic};

use super::Span;
use super::image::{GoFile, Machine};
use crate::binary::site::is_emulated;

/// Bytes of the longest look at the stack (`lea`, `cmp`, `jbe`), and some more.
const LOOK: usize = 32;
/// Instructions in front of its jump.
const BEFORE: usize = 3;

/// Where in the file the function is probed; `None` if it isn't there, or for a machine without such probes.
pub fn site(file: &GoFile<'_>, function: Span) -> Option<u64> {
    if file.machine != Machine::Amd64 {
        return None;
    }
    let length = usize::try_from(function.end.checked_sub(function.start)?).ok()?;
    let bytes = file.bytes(function.start, length.min(LOOK))?;
    file.file_offset(function.start)?.checked_add(jump(bytes).unwrap_or(0) as u64)
}

/// How far behind the entry the jump is; `None` if the function doesn't begin so.
fn jump(code: &[u8]) -> Option<usize> {
    let mut decoder = Decoder::new(64, code, DecoderOptions::NONE);
    for _ in 0..=BEFORE {
        let at = decoder.position();
        let instruction = decoder.decode();
        let bytes = code.get(at..decoder.position())?;
        match instruction.mnemonic() {
            // What comes before changes nothing but flags and the scratch registers of Go's ABI.
            Mnemonic::Cmp => {}
            Mnemonic::Lea | Mnemonic::Mov if is_scratch(instruction.op0_register()) => {}
            _ if instruction.code() == Code::INVALID => return None,
            _ => {
                let behind = instruction.flow_control() == FlowControl::ConditionalBranch && at > 0;
                return (behind && is_emulated(bytes)).then_some(at);
            }
        }
    }
    None
}

/// Go's src/cmd/compile/abi-internal.md: R12 and R13 are scratch.
fn is_scratch(register: iced_x86::Register) -> bool {
    matches!(register.full_register(), iced_x86::Register::R12 | iced_x86::Register::R13)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `objdump` shows the beginnings of the two functions in Go 1.19 and 1.27.
    #[test]
    fn the_jump_of_the_look_at_the_stack_is_found() {
        let small = [0x49, 0x3b, 0x66, 0x10, 0x0f, 0x86, 0x60, 2, 0, 0, 0x48, 0x83, 0xec, 0x60];
        assert_eq!(jump(&small), Some(4));
        let large = [0x4c, 0x8d, 0x64, 0x24, 0xe8, 0x4d, 0x3b, 0x66, 0x18, 0x0f, 0x86, 0x0e, 4, 0, 0, 0x55];
        assert_eq!(jump(&large), Some(9));
        let short = [0x49, 0x3b, 0x66, 0x10, 0x76, 0x20, 0x55];
        assert_eq!(jump(&short), Some(4));
    }

    #[test]
    fn what_begins_otherwise_is_probed_at_its_entry() {
        // push %rbp; mov %rsp,%rbp
        assert_eq!(jump(&[0x55, 0x48, 0x89, 0xe5]), None);
        // The argument would be overwritten: lea 8(%rsp),%rax.
        assert_eq!(jump(&[0x48, 0x8d, 0x44, 0x24, 8, 0x49, 0x3b, 0x66, 0x10, 0x76, 0x20]), None);
        // A jump at the very entry.
        assert_eq!(jump(&[0x76, 0x20, 0x55]), None);
        let good = [0x4c, 0x8d, 0x64, 0x24, 0xe8, 0x4d, 0x3b, 0x66, 0x18, 0x0f, 0x86, 0x0e, 4, 0, 0];
        for length in 0..good.len() {
            assert_eq!(jump(&good[..length]), None, "{length} bytes");
        }
    }
}
