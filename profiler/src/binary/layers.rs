//! Code that has the names of an allocator and stands on another one: to hook both would be to count twice.

use std::collections::HashSet;

use iced_x86::FlowControl;

use super::callers::Flows;
use super::goals::{Goal, Goals};
use super::names::{Kind, Meaning, meaning};
use super::text::Text;

/// Functions that are looked at for one.
const MAX_FUNCTIONS: usize = 512;
/// Instructions that are looked at, for one function and for all of a file.
const MAX_INSTRUCTIONS: usize = 1 << 17;
pub(super) const ALL_INSTRUCTIONS: usize = 1 << 20;

/// What a function gets its memory from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ground {
    /// Nothing that could be another allocator.
    Own,
    /// Another allocator's function of this name.
    Allocator(String),
    /// Something behind a pointer.
    Unknown,
}

/// Looks at everything that a function calls, for another allocator; `budget` instructions are left for this file. `other`: the name of another allocator's function at
/// an address in the file.
pub(super) fn ground<'a>(
    text: &Text<'a>,
    flows: &mut Flows<'_, '_>,
    goals: &Goals<'_, 'a>,
    entry: u64,
    budget: &mut usize,
    other: &dyn Fn(u64) -> Option<String>,
) -> Ground {
    let mut seen = HashSet::from([entry]);
    let mut open = vec![entry];
    let mut looked_at = 0;
    let mut unknown = false;
    while let Some(function) = open.pop() {
        let flow = flows.from(function);
        looked_at += flow.instructions.len();
        *budget = budget.saturating_sub(flow.instructions.len());
        if looked_at > MAX_INSTRUCTIONS || seen.len() > MAX_FUNCTIONS || *budget == 0 {
            break;
        }
        for &at in &flow.instructions {
            let Some(instruction) = text.decode(at) else { continue };
            let call = match instruction.flow_control() {
                FlowControl::Call if instruction.is_call_near() => true,
                FlowControl::IndirectCall => true,
                FlowControl::UnconditionalBranch | FlowControl::IndirectBranch => false,
                _ => continue,
            };
            match goals.of(&instruction) {
                Goal::Imported(name) => {
                    if let Some(name) = allocates(name) {
                        return Ground::Allocator(name);
                    }
                }
                Goal::Inside(target) => {
                    if let Some(name) = other(target) {
                        return Ground::Allocator(name);
                    }
                    if call && seen.insert(target) {
                        open.push(target);
                    }
                }
                Goal::Unknown => unknown = true,
            }
        }
    }
    if unknown { Ground::Unknown } else { Ground::Own }
}

/// The name, if it is that of a function that hands out blocks.
fn allocates(name: &[u8]) -> Option<String> {
    let name = std::str::from_utf8(name).ok()?;
    let Some(Meaning::Role(_, role)) = meaning(name) else { return None };
    (role.kind() != Kind::Freeing).then(|| name.to_string())
}
