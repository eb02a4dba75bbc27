//! The frame of a function that makes a system call, before Go 1.23, whose runtime doesn't note it.

use iced_x86::{Code, Decoder, DecoderOptions, Mnemonic, OpKind, Register};

use crate::runtime::{Memory, u64_at};

/// Bytes of code that are looked at; such functions are short.
const CODE: usize = 1024;

/// Where the caller's frame pointer is saved, for a function that is at `pc` with its stack pointer at `sp`: Go's functions
/// keep the stack pointer between their beginning and their end, and the next end says how much is between it and the saved
/// frame pointer. `None` if the code isn't of that form.
pub fn frame(memory: &impl Memory, pc: u64, sp: u64) -> Option<u64> {
    if cfg!(not(target_arch = "x86_64")) {
        return None;
    }
    // To the end of the page at least, which is there if its beginning is.
    let first = 4096 - (pc % 4096) as usize;
    let code = memory.read(&[(pc, CODE)]).or_else(|_| memory.read(&[(pc, first.min(CODE))])).ok()?;
    let size = size_of_frame(&code, pc)?;
    sp.checked_add(size).filter(|frame| {
        // It must lead upwards, as every frame of a goroutine does but the first.
        memory.read(&[(*frame, 8)]).is_ok_and(|word| {
            let next = u64_at(&word, 0);
            next == 0 || next > *frame
        })
    })
}

/// Bytes between the stack pointer and the saved frame pointer, by the first return in the code.
fn size_of_frame(code: &[u8], pc: u64) -> Option<u64> {
    let mut decoder = Decoder::with_ip(64, code, pc, DecoderOptions::NONE);
    let (mut added, mut restored) = (None, None);
    while decoder.can_decode() {
        let instruction = decoder.decode();
        let to_sp = instruction.op_count() > 1 && instruction.op0_register() == Register::RSP;
        match instruction.mnemonic() {
            Mnemonic::INVALID => return None,
            // Up to Go 1.20: mov rbp, [rsp+N]; add rsp, N+8; ret
            Mnemonic::Mov
                if instruction.op0_register() == Register::RBP
                    && instruction.op1_kind() == OpKind::Memory
                    && instruction.memory_base() == Register::RSP =>
            {
                restored = Some(instruction.memory_displacement64());
            }
            Mnemonic::Add | Mnemonic::Sub if to_sp => {
                let amount = instruction.try_immediate(1).ok()?;
                added = Some(if instruction.mnemonic() == Mnemonic::Sub { amount.wrapping_neg() } else { amount });
            }
            // From Go 1.21: add rsp, N; pop rbp; ret
            Mnemonic::Pop if instruction.code() == Code::Pop_r64 && instruction.op0_register() == Register::RBP => {
                restored = added.or(Some(0));
            }
            Mnemonic::Ret => return restored.filter(|size| *size < 1 << 16 && size.is_multiple_of(8)),
            Mnemonic::Push | Mnemonic::Pop => return None,
            _ => {}
        }
    }
    None
}
