//! Choosing the site of a function whose calls are to be sampled: at their return, the block's address is known.

use profiler_common::alloc::{AllocFunction, AllocOp, RESULT_IN_MEMORY, Register};
use serde::{Deserialize, Serialize};

use super::flow::Flow;
use super::site::{choose_in, disassemble};
use super::text::Text;
use super::{Hook, InternalCall, Site, SiteError};

/// Why the calls of a function can't be sampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error, Serialize, Deserialize)]
pub enum NotSampled {
    /// It hands out no blocks.
    #[error("it only gives blocks back")]
    Frees,
    /// It stands on an allocator that is sampled itself.
    #[error("the allocator below is")]
    Layer,
    /// It copies something of unknown length.
    #[error("how many bytes it asks for is in no register")]
    Size,
    /// The stack pointer has moved before the site.
    #[error("the stack pointer has moved where it is probed, so that its return can't be taken there")]
    Depth,
    /// The unwinder finds the kernel's address in place of the return address, and ends the program.
    #[error("it throws when there is no memory, and no exception gets past a return that is taken")]
    Throws,
    /// Nothing tells where the block's address is stored.
    #[error("where it stores the block's address is in no register where it is probed")]
    Result,
}

impl NotSampled {
    /// What is to be told of it, if it is about a function that could be expected to be sampled.
    fn note(self) -> Option<String> {
        (!matches!(self, Self::Frees | Self::Layer)).then(|| format!("not sampled: {self}"))
    }
}

/// A site, and what it is good for.
pub(super) struct Chosen {
    pub site: Site,
    /// What the kernel side must know because of it.
    pub flags: u32,
    pub not_sampled: Option<NotSampled>,
}

/// Chooses the site of an allocator's function, as `site::choose_in` with jumps back accepted. `registers` are those of the
/// arguments at the entry, and become those at the site.
pub(super) fn choose_sampled(
    text: &Text<'_>,
    flow: &Flow,
    entry: u64,
    (function, op, names): (AllocFunction, AllocOp, &[String]),
    registers: &mut [Register; 3],
) -> Result<Chosen, SiteError> {
    let (mut site, mut places) = choose_in(text, flow, entry, &registers[..op.arguments()], true)?;
    let mut flags = 0;
    let mut not_sampled = None;
    if function == AllocFunction::PosixMemalign {
        // With the argument that nobody needs to count: no dearer place for its sake.
        match choose_in(text, flow, entry, &registers[..], true) {
            Ok((other, all)) if other.kind == site.kind => {
                (site, places) = (other, all);
                flags = RESULT_IN_MEMORY;
            }
            _ => not_sampled = Some(NotSampled::Result),
        }
    }
    registers[..places.len()].copy_from_slice(&places);
    let reasons = [
        (op == AllocOp::Free, NotSampled::Frees),
        (op == AllocOp::AllocateCopy, NotSampled::Size),
        (names.iter().any(|name| may_throw(name)), NotSampled::Throws),
        (!site.at_entry_depth, NotSampled::Depth),
    ];
    let first = reasons.into_iter().find(|(holds, _)| *holds).map(|(_, reason)| reason);
    Ok(Chosen { site, flags, not_sampled: first.or(not_sampled) })
}

/// Whether a function of this name throws `std::bad_alloc`: C++'s operators (Itanium C++ ABI, 5.1.5) and what stands for
/// them in tcmalloc and mimalloc, but for the forms with `std::nothrow`.
fn may_throw(name: &str) -> bool {
    let new = ["_Znwm", "_Znam", "tc_new", "mi_new", "mi_heap_new", "mi_heap_alloc_new", "mi_theap_new"];
    new.iter().any(|new| name.starts_with(new)) && !name.contains("nothrow")
}

impl Hook {
    /// All that isn't exact here, sampling included, in words.
    pub fn caveats(&self) -> Vec<String> {
        self.notes.iter().cloned().chain(self.not_sampled.and_then(NotSampled::note)).collect()
    }
}

impl InternalCall {
    /// The call or jump at an address.
    pub(super) fn at(text: &Text<'_>, address: u64) -> Option<Self> {
        let instruction = text.decode(address)?;
        let is_call = instruction.is_call_near() || instruction.is_call_near_indirect();
        let returns_to = if is_call { text.file_offset_of(instruction.next_ip()) } else { None };
        let file_offset = text.file_offset_of(address)?;
        Some(Self { address, file_offset, instruction: disassemble(&instruction), returns_to })
    }
}

#[cfg(test)]
mod tests {
    use super::may_throw;

    #[test]
    fn only_operators_that_throw_are_taken_for_such() {
        for name in ["_Znwm", "_ZnamSt11align_val_t", "tc_newarray", "mi_new_n", "mi_heap_new"] {
            assert!(may_throw(name), "{name}");
        }
        for name in ["malloc", "_ZnwmRKSt9nothrow_t", "tc_new_nothrow", "mi_new_aligned_nothrow", "_ZdlPv"] {
            assert!(!may_throw(name), "{name}");
        }
    }
}
