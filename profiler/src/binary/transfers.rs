//! All ways into a hooked function by which the allocator's own code gets there.
//!
//! What is counted at the function on such a way must be taken away again, as the caller is counted itself, or is no call
//! of the program's at all. The way's last instruction gets a probe of its own, and sees the same arguments.

use iced_x86::FlowControl;

use super::InternalCall;
use super::callers::{Callers, Flows, places};
use super::candidates::Candidate;
use super::text::Text;

/// Ways into one function that are listed. mimalloc's `mi_free` has about a dozen.
pub(super) const MAX_TRANSFERS: usize = 64;

/// The allocator's own ways into a function. What isn't exact is added to `notes`. `wrappers`: those that pass on to it.
pub(super) fn internal<'a>(
    text: &Text<'a>,
    callers: &Callers<'_, 'a>,
    flows: &mut Flows<'_, 'a>,
    candidate: &Candidate,
    wrappers: &[&Candidate],
    notes: &mut Vec<String>,
) -> Vec<InternalCall> {
    let (mut ways, sometimes) = into(text, callers, flows, candidate.address);
    for wrapper in wrappers {
        let (through, _) = into(text, callers, flows, wrapper.address);
        // The probe on such a call reads the arguments as the function behind it has them.
        if wrapper.role.op == candidate.role.op && wrapper.registers() == candidate.registers() {
            ways.extend(through);
        } else if !through.is_empty() {
            notes.push(format!(
                "{} in the allocator call {}, which passes on to it: those calls are counted as the program's",
                places(through.len()),
                wrapper.names.join(", ")
            ));
        }
    }
    if sometimes > 0 {
        notes.push(format!(
            "conditional jumps in {} of the allocator lead here: where they are taken, it is counted twice",
            places(sometimes)
        ));
    }
    ways.sort_unstable();
    ways.dedup();
    if ways.len() > MAX_TRANSFERS {
        notes.push(format!(
            "{} in the allocator lead here, too many to be its own calls: all are counted as the program's",
            places(ways.len())
        ));
        return Vec::new();
    }
    let mut listed = Vec::new();
    let mut unproven = 0;
    for way in ways {
        match callers.proven(flows, way) {
            Some(call) => listed.push(call),
            None => unproven += 1,
        }
    }
    if unproven > 0 {
        notes.push(format!(
            "what looks like the allocator's own calls of it, in {}, can't be proven to be instructions: if they are, they \
             are counted as the program's",
            places(unproven)
        ));
    }
    listed
}

/// The allocator's own instructions that lead to an address for certain, and how many do under a condition.
fn into<'a>(
    text: &Text<'a>,
    callers: &Callers<'_, 'a>,
    flows: &mut Flows<'_, 'a>,
    address: u64,
) -> (Vec<u64>, usize) {
    let mut ways = Vec::new();
    let mut sometimes = 0;
    for source in callers.ways_into(address) {
        if !callers.is_own(flows, source) {
            continue;
        }
        match text.decode(source).map(|instruction| instruction.flow_control()) {
            Some(FlowControl::ConditionalBranch) => sometimes += 1,
            Some(_) => ways.push(source),
            None => (),
        }
    }
    (ways, sometimes)
}
