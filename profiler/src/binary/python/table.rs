//! The interpreter's tables of allocators: where they are, and what is in them.

use std::collections::HashMap;

use iced_x86::{FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register};
use profiler_common::alloc::AllocFunction;
use serde::{Deserialize, Serialize};

use super::super::elf::Elf;
use super::super::flow::Flow;
use super::super::text::Text;
use super::{Domain, FUNCTIONS, Flows};

/// Instructions behind a load of a variable's address in which a use of it is looked for.
const MAX_BEHIND: usize = 64;
/// Functions called by the one that installs the debug hooks which are looked at as well.
const MAX_CALLED: usize = 8;

/// The table of a domain: context, malloc, calloc, realloc, free; 8 bytes each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// Whose.
    pub domain: Domain,
    /// Virtual address of the context, the first member.
    pub address: u64,
    /// The functions that the file itself puts in: malloc, calloc, realloc, free.
    pub initial: [Option<u64>; 4],
}

impl Table {
    /// Where a function's pointer lies.
    pub fn pointer(&self, function: AllocFunction) -> u64 {
        let index = FUNCTIONS.iter().position(|&other| other == function).unwrap_or(0);
        self.address.wrapping_add(8 + 8 * index as u64)
    }

    /// The function that the file puts in, if it puts one in.
    pub fn initially(&self, function: AllocFunction) -> Option<u64> {
        let index = FUNCTIONS.iter().position(|&other| other == function)?;
        self.initial[index].filter(|&pointer| pointer != 0)
    }
}

/// The allocator behind a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Current {
    /// The C library's (`PYTHONMALLOC=malloc`, and usually the raw domain).
    System,
    /// pymalloc, or whatever else the file puts into its tables.
    Pymalloc,
    /// The debug hooks, around one of the others (`PYTHONMALLOC=debug`, `-X dev`).
    DebugHooks,
    /// Something else: tracemalloc, or an allocator that the program has set.
    Other,
}

impl Current {
    /// What that means for the counts, in words.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::System => "the C library's allocator: every block is also counted there",
            Self::Pymalloc => {
                "pymalloc: blocks of up to 512 bytes lie in arenas, larger ones are also counted in raw"
            }
            Self::DebugHooks => {
                "debug hooks around an allocator: calls are counted as the program makes them"
            }
            Self::Other => "tracemalloc or the program's own: calls are counted as the program makes them",
        }
    }
}

/// Finds the tables by what the public functions read: each its own member of the same table.
pub(super) fn find(elf: &Elf<'_>, text: &Text<'_>, flows: &Flows) -> Vec<Table> {
    let variables: HashMap<u64, u64> = elf.variable_slots().into_iter().collect();
    let mut tables: Vec<Table> = Vec::new();
    // pymalloc's functions, which may be copied into the public ones, use the raw table: it comes first.
    for domain in Domain::ALL {
        let mut common: Option<Vec<u64>> = None;
        for (index, flow) in flows[4 * domain as usize..][..4].iter().enumerate() {
            let Some(flow) = flow else { continue };
            let back = 8 + 8 * index as u64;
            let reads = reads(text, flow, &variables);
            let mut bases: Vec<u64> = reads.iter().map(|at| at.wrapping_sub(back)).collect();
            bases.retain(|base| common.as_ref().is_none_or(|common| common.contains(base)));
            common = Some(bases);
        }
        let mut bases = common.unwrap_or_default();
        bases.retain(|base| tables.iter().all(|table| table.address != *base));
        bases.sort_unstable();
        bases.dedup();
        if let [address] = bases[..] {
            let initial = [8, 16, 24, 32].map(|offset| elf.pointer_at(address.wrapping_add(offset)));
            tables.push(Table { domain, address, initial });
        }
    }
    tables
}

/// Addresses that a flow reads: directly, or inside a variable whose address it takes from a slot (CPython 3.12 has the
/// tables in `_PyRuntime`). Instructions are taken in their order in memory, which is good enough for candidates.
fn reads(text: &Text<'_>, flow: &Flow, variables: &HashMap<u64, u64>) -> Vec<u64> {
    let mut addresses: Vec<u64> = flow.instructions.iter().copied().collect();
    addresses.sort_unstable();
    let mut found = Vec::new();
    let mut known: HashMap<Register, u64> = HashMap::new();
    for instruction in addresses.into_iter().filter_map(|at| text.decode(at)) {
        let mut loaded = None;
        if let Some(address) = fixed_address(&instruction) {
            found.push(address);
            loaded = variables.get(&address).copied();
        } else if let Some(base) = known.get(&based_on(&instruction)) {
            found.push(base.wrapping_add(instruction.memory_displacement64()));
        }
        if instruction.op0_kind() == OpKind::Register {
            known.remove(&instruction.op0_register());
            if let (Some(variable), Mnemonic::Mov) = (loaded, instruction.mnemonic()) {
                known.insert(instruction.op0_register(), variable);
            }
        }
    }
    found
}

fn has_memory(instruction: &Instruction) -> bool {
    (0..instruction.op_count()).any(|operand| instruction.op_kind(operand) == OpKind::Memory)
}

fn fixed_address(instruction: &Instruction) -> Option<u64> {
    (has_memory(instruction) && instruction.is_ip_rel_memory_operand())
        .then(|| instruction.ip_rel_memory_address())
}

/// The register to which a memory operand is relative, if to nothing else.
fn based_on(instruction: &Instruction) -> Register {
    let plain = has_memory(instruction) && instruction.memory_index() == Register::None;
    if plain { instruction.memory_base() } else { Register::None }
}

/// Places that may read the pointers at the given addresses (sorted), with the address. `slots` are those of all
/// variables, with the variable's address.
pub(super) fn uses(text: &Text<'_>, addresses: &[u64], slots: &[(u64, u64)]) -> Vec<(u64, u64)> {
    // A variable that has a pointer a little behind its start; `_PyRuntime` has them within its first KiB.
    let near = |variable: u64| addresses.iter().any(|&at| at >= variable && at - variable < 4096);
    let mut variables: Vec<(u64, u64)> =
        slots.iter().copied().filter(|&(_, variable)| near(variable)).collect();
    variables.sort_unstable();
    let wanted: Vec<u64> = variables.iter().map(|&(slot, _)| slot).collect();
    let mut found = proven(text, text.possible_uses(addresses));
    for (place, slot) in proven(text, text.possible_uses(&wanted)) {
        let Ok(index) = variables.binary_search_by_key(&slot, |&(slot, _)| slot) else { continue };
        found.extend(behind(text, place, variables[index].1, addresses));
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// Reads of `addresses` behind an instruction that loads a variable's address into a register, as long as code runs on and
/// the register keeps it.
fn behind(text: &Text<'_>, load: u64, variable: u64, addresses: &[u64]) -> Vec<(u64, u64)> {
    let mut found = Vec::new();
    let Some(first) = text.decode(load) else { return found };
    let base = first.op0_register();
    if !base.is_gpr64() {
        return found;
    }
    let mut info = InstructionInfoFactory::new();
    let mut at = first.next_ip();
    for _ in 0..MAX_BEHIND {
        let Some(instruction) = text.decode(at) else { break };
        let address = variable.wrapping_add(instruction.memory_displacement64());
        let reads = instruction.mnemonic() == Mnemonic::Mov && instruction.op0_register().is_gpr64();
        let indirect =
            matches!(instruction.flow_control(), FlowControl::IndirectCall | FlowControl::IndirectBranch);
        if based_on(&instruction) == base && (reads || indirect) && addresses.binary_search(&address).is_ok()
        {
            found.push((at, address));
        }
        if !matches!(instruction.flow_control(), FlowControl::Next | FlowControl::ConditionalBranch) {
            break;
        }
        let used = info.info(&instruction).used_registers();
        let writes = used.iter().any(|used| {
            used.register().full_register() == base
                && !matches!(used.access(), OpAccess::Read | OpAccess::CondRead)
        });
        if writes {
            break;
        }
        at = instruction.next_ip();
    }
    found
}

/// Bytes from a function's start that are disassembled to find out where instructions begin. The largest function of an
/// interpreter, its main loop, has about 64 KiB.
const MAX_FUNCTION: u64 = 1 << 20;

/// Of places that look like instructions, those that are: disassembling their function from its start comes past them.
pub(super) fn proven(text: &Text<'_>, mut places: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    places.sort_unstable();
    let (mut at, mut function) = (0, None);
    places.retain(|&(place, _)| {
        let start = text.start_before(place);
        if start != function {
            function = start;
            at = start.unwrap_or(u64::MAX);
        }
        while at < place {
            let near = start.is_some_and(|start| place - start <= MAX_FUNCTION);
            at = text.decode(at).filter(|_| near).map_or(u64::MAX, |instruction| instruction.next_ip());
        }
        at == place
    });
    places
}

/// Function starts that a flow, and what it calls, puts into a register or compares with. Sorted.
pub(super) fn mentioned(text: &Text<'_>, flow: &Flow) -> Vec<u64> {
    let calls = flow.branches.iter().filter(|branch| branch.call).take(MAX_CALLED);
    let called: Vec<Flow> = calls.map(|branch| Flow::from(text, branch.target)).collect();
    let instructions = called.iter().chain([flow]).flat_map(|flow| &flow.instructions);
    let constant = |instruction: Instruction| match instruction.mnemonic() {
        Mnemonic::Lea if instruction.is_ip_rel_memory_operand() => Some(instruction.ip_rel_memory_address()),
        Mnemonic::Mov | Mnemonic::Cmp => {
            let immediate = matches!(instruction.op1_kind(), OpKind::Immediate32 | OpKind::Immediate32to64);
            immediate.then(|| instruction.immediate(1))
        }
        _ => None,
    };
    let constants = instructions.filter_map(|&at| constant(text.decode(at)?));
    let mut starts: Vec<u64> = constants.filter(|&at| text.is_start(at)).collect();
    starts.sort_unstable();
    starts.dedup();
    starts
}
