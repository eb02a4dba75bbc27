//! Where branches lead: to functions of the file, or to those of other objects, through the procedure linkage table or
//! straight through the global offset table.

use std::collections::HashMap;

use iced_x86::{FlowControl, Instruction, Mnemonic};

use super::text::Text;

/// Where a branch leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Goal<'a> {
    /// An address in the file.
    Inside(u64),
    /// A function of another object, by name.
    Imported(&'a [u8]),
    /// Nobody knows: through a register, or a pointer that the program sets.
    Unknown,
}

/// The slots of the global offset table.
pub(super) struct Goals<'t, 'a> {
    text: &'t Text<'a>,
    slots: HashMap<u64, Goal<'a>>,
}

impl<'t, 'a> Goals<'t, 'a> {
    /// `own`: slots with the address of the function in this file that each leads to (unless another object has one of
    /// the same name); `imports`: those that lead to other objects, with the function's name.
    pub fn new(text: &'t Text<'a>, own: &[(u64, u64)], imports: &[(u64, &'a [u8])]) -> Self {
        let mut slots: HashMap<u64, Goal<'a>> = HashMap::with_capacity(own.len() + imports.len());
        slots.extend(imports.iter().map(|&(slot, name)| (slot, Goal::Imported(name))));
        slots.extend(own.iter().map(|&(slot, function)| (slot, Goal::Inside(function))));
        Self { text, slots }
    }

    /// Where a jump or call leads to; stubs of the procedure linkage table are seen through.
    pub fn of(&self, instruction: &Instruction) -> Goal<'a> {
        match instruction.flow_control() {
            FlowControl::IndirectBranch | FlowControl::IndirectCall => self.through_slot(instruction),
            _ => {
                let target = instruction.near_branch_target();
                self.behind_stub(target).unwrap_or(Goal::Inside(target))
            }
        }
    }

    fn through_slot(&self, instruction: &Instruction) -> Goal<'a> {
        let slot = instruction.is_ip_rel_memory_operand().then(|| instruction.ip_rel_memory_address());
        slot.and_then(|slot| self.slots.get(&slot)).copied().unwrap_or(Goal::Unknown)
    }

    /// What the stub at an address leads to: `jmp *slot`, perhaps with a `bnd` prefix, perhaps behind an `endbr64`.
    fn behind_stub(&self, address: u64) -> Option<Goal<'a>> {
        let mut instruction = self.text.decode(address)?;
        if instruction.mnemonic() == Mnemonic::Endbr64 {
            instruction = self.text.decode(instruction.next_ip())?;
        }
        let jump = instruction.flow_control() == FlowControl::IndirectBranch;
        Some(self.through_slot(&instruction)).filter(|goal| jump && *goal != Goal::Unknown)
    }
}
