//! Whose code it is, by the texts that it refers to: what is left of a stripped program that has an allocator within.
//!
//! An allocator's `malloc` gets, by its calls, to code that writes its messages and reads its settings. Only texts that
//! this code itself names count, so that a program may contain them for another reason (as this one does).

use std::collections::{HashSet, VecDeque};

use iced_x86::{Mnemonic, OpKind};

use super::Allocator;
use super::callers::Flows;
use super::elf::Elf;
use super::goals::{Goal, Goals};
use super::text::Text;

/// Functions that are looked at, and instructions in them.
const MAX_FUNCTIONS: usize = 512;
const MAX_INSTRUCTIONS: usize = 1 << 17;

/// How such texts begin. jemalloc: every message (`src/jemalloc.c`, `src/malloc_io.c`). gperftools: the name of its source
/// (`src/tcmalloc.cc`, for `Log`), its messages and settings. mimalloc: its messages (`src/options.c`).
const MARKS: [(&[u8], Allocator); 6] = [
    (b"<jemalloc>: ", Allocator::Jemalloc),
    (b"src/tcmalloc.cc\0", Allocator::Tcmalloc),
    (b"tcmalloc: ", Allocator::Tcmalloc),
    (b"tcmalloc.", Allocator::Tcmalloc),
    (b"TCMALLOC_", Allocator::Tcmalloc),
    (b"mimalloc: ", Allocator::Mimalloc),
];

/// The allocator that a function is part of. `others`: functions with another name of an allocator, which aren't looked
/// into.
pub(super) fn allocator(
    elf: &Elf<'_>,
    text: &Text<'_>,
    flows: &mut Flows<'_, '_>,
    goals: &Goals<'_, '_>,
    entry: u64,
    others: &dyn Fn(u64) -> bool,
) -> Option<Allocator> {
    let mut seen = HashSet::from([entry]);
    let mut open = VecDeque::from([entry]);
    let mut looked_at = 0;
    while let Some(function) = open.pop_front() {
        let flow = flows.from(function);
        looked_at += flow.instructions.len();
        if looked_at > MAX_INSTRUCTIONS || seen.len() > MAX_FUNCTIONS {
            return None;
        }
        let mut addresses: Vec<u64> = flow.instructions.iter().copied().collect();
        addresses.sort_unstable();
        for at in addresses {
            let Some(instruction) = text.decode(at) else { continue };
            // Where the program lies is known only at its start, or it is linked to a fixed place.
            let named = match instruction.mnemonic() {
                Mnemonic::Lea if instruction.is_ip_rel_memory_operand() => {
                    Some(instruction.ip_rel_memory_address())
                }
                Mnemonic::Mov if instruction.op1_kind() == OpKind::Immediate32 => {
                    Some(u64::from(instruction.immediate32()))
                }
                _ => None,
            };
            let mark = |address| {
                let bytes = elf.at(address)?;
                MARKS.iter().find(|(mark, _)| bytes.starts_with(mark)).map(|&(_, allocator)| allocator)
            };
            if let Some(allocator) = named.and_then(mark) {
                return Some(allocator);
            }
            if instruction.is_call_near()
                && let Goal::Inside(target) = goals.of(&instruction)
                && !others(target)
                && seen.insert(target)
            {
                open.push_back(target);
            }
        }
    }
    None
}
