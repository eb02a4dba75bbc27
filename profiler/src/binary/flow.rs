//! Following a function's control flow.

use std::collections::HashSet;

use iced_x86::FlowControl;

use super::text::{Branch, Text, ends_path};

/// Instructions of one function (and those it jumps to) that are followed. glibc's `realloc` with all it jumps to has
/// about 700.
pub const MAX_INSTRUCTIONS: usize = 16 * 1024;

/// Everything that can be reached from an address by jumps and by running on, without entering what is called.
#[derive(Clone, Debug, Default)]
pub struct Flow {
    /// Addresses of the instructions.
    pub instructions: HashSet<u64>,
    /// Direct jumps and calls among them.
    pub branches: Vec<Branch>,
    /// Branches through a pointer at a fixed place (`jmp *d(%rip)`, `call *d(%rip)`): target is the pointer's address.
    pub through_pointers: Vec<Branch>,
    /// False if the flow is longer than [`MAX_INSTRUCTIONS`], so that this is only a part of it.
    pub complete: bool,
}

impl Flow {
    /// Follows the flow from `entry`.
    ///
    /// Jumps are followed wherever they lead, into other functions too: what a function jumps to runs on its caller's
    /// return address. Running on into a known function start is not followed: that is what stands behind a call that
    /// never returns.
    pub fn from(text: &Text<'_>, entry: u64) -> Self {
        let mut flow = Self { complete: true, ..Self::default() };
        let mut open = vec![entry];
        while let Some(mut at) = open.pop() {
            while let Some(instruction) = text.decode(at) {
                if flow.instructions.contains(&at) {
                    break;
                }
                if flow.instructions.len() == MAX_INSTRUCTIONS {
                    flow.complete = false;
                    return flow;
                }
                flow.instructions.insert(at);
                let target = instruction.near_branch_target();
                let pointer =
                    instruction.is_ip_rel_memory_operand().then(|| instruction.ip_rel_memory_address());
                match instruction.flow_control() {
                    FlowControl::UnconditionalBranch => {
                        flow.branches.push(Branch { target, source: at, call: false });
                        open.push(target);
                        break;
                    }
                    FlowControl::ConditionalBranch => {
                        flow.branches.push(Branch { target, source: at, call: false });
                        open.push(target);
                    }
                    // `xbegin` goes on at its target when the transaction is aborted.
                    FlowControl::XbeginXabortXend if target != 0 => {
                        flow.branches.push(Branch { target, source: at, call: false });
                        open.push(target);
                    }
                    // `syscall` counts as a call here; it has no target.
                    FlowControl::Call if instruction.is_call_near() => {
                        flow.branches.push(Branch { target, source: at, call: true });
                    }
                    FlowControl::IndirectCall | FlowControl::IndirectBranch => {
                        let call = instruction.flow_control() == FlowControl::IndirectCall;
                        flow.through_pointers.extend(pointer.map(|target| Branch {
                            target,
                            source: at,
                            call,
                        }));
                    }
                    _ => (),
                }
                if ends_path(&instruction) {
                    break;
                }
                at = instruction.next_ip();
                if text.is_start(at) {
                    break;
                }
            }
        }
        flow
    }

    /// Whether the flow gets to an address by jumps alone.
    pub fn jumps_to(&self, address: u64) -> bool {
        self.branches.iter().any(|branch| !branch.call && branch.target == address)
    }

    /// Whether the flow calls an address directly.
    pub fn calls(&self, address: u64) -> bool {
        self.branches.iter().any(|branch| branch.call && branch.target == address)
    }
}
