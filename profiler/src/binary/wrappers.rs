//! Functions that only pass their calls on.
//!
//! Such a function is not hooked, as the one that it passes on to is: `operator new` of libstdc++ calls `malloc`,
//! jemalloc's `operator delete` jumps to `free`, mimalloc's functions form chains. What matters is the code: every way
//! through the function that ends in a return gets to another function of the same kind first, or does nothing that
//! could hand out a block (a size that overflows, a bad alignment, a null pointer).

use std::collections::{HashMap, HashSet};

use iced_x86::{FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register};

use super::goals::{Goal, Goals};
use super::names::Kind;
use super::text::{Text, ends_path};

/// Instructions of one function that are looked at. Wrappers are short: the longest in the libraries that were seen has
/// about 60 before it passes on.
const MAX_INSTRUCTIONS: usize = 2000;
/// Instructions of all functions together that one calls and that are to be proven harmless, and how deep calls within
/// are followed.
const MAX_HARMLESS: usize = 4000;
const MAX_DEPTH: usize = 3;

/// Functions of other objects which change nothing that matters here: the place of `errno`, and the end of everything.
const HARMLESS_IMPORTS: [&[u8]; 4] = [b"__errno_location", b"abort", b"__stack_chk_fail", b"__assert_fail"];

/// What is known of a function's ways before they get to another one of its kind.
#[derive(Clone, Debug, Default)]
pub(super) struct Ways<'a> {
    /// Where it passes on to, in the order of their finding.
    pub passes_on_to: Vec<Goal<'a>>,
    /// Whether some way returns without passing on, having done what an allocator may do.
    pub works_itself: bool,
    /// Whether there are calls or jumps on them of which nobody knows where they lead.
    pub unknown: bool,
}

impl Ways<'_> {
    /// Whether the function does nothing but pass its calls on.
    pub fn is_wrapper(&self) -> bool {
        !self.passes_on_to.is_empty() && !self.works_itself
    }
}

/// What is known of called functions.
#[derive(Default)]
struct Harmless {
    known: HashMap<u64, bool>,
    looked_at: usize,
}

/// What an instruction does to the register in which a function returns a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Result {
    Kept,
    Null,
    Set,
}

/// One instruction on the way.
struct Step {
    result: Result,
    next: [Option<u64>; 2],
    /// The function ends here, as far as can be told.
    ends: bool,
    /// It may be part of the work of an allocator.
    works: bool,
}

/// Follows the ways through a function. `kind`: what it does, if it is one that returns the block; then a way on which it
/// returns a null pointer hands out none, whatever else is done there (`new` that fails asks the program's handler).
/// `is_kin`: whether a place that a branch leads to is another function of the kind.
pub(super) fn ways<'a>(
    text: &Text<'_>,
    goals: &Goals<'_, 'a>,
    entry: u64,
    kind: Option<Kind>,
    is_kin: &dyn Fn(Goal<'a>) -> bool,
) -> Ways<'a> {
    let mut found = Ways::default();
    let mut steps: HashMap<u64, Step> = HashMap::new();
    let mut harmless = Harmless::default();
    let mut open = vec![entry];
    while let Some(at) = open.pop() {
        if steps.contains_key(&at) {
            continue;
        }
        if steps.len() == MAX_INSTRUCTIONS {
            found.works_itself = true;
            return found;
        }
        let Some(instruction) = text.decode(at) else {
            steps.insert(at, Step { result: Result::Set, next: [None; 2], ends: true, works: true });
            continue;
        };
        let behind = Some(instruction.next_ip()).filter(|&next| !text.is_start(next));
        let mut step = Step { result: result_of(&instruction), next: [None; 2], ends: false, works: false };
        let goal = is_branch(&instruction).then(|| goals.of(&instruction));
        let call = matches!(instruction.flow_control(), FlowControl::Call | FlowControl::IndirectCall);
        let conditional = instruction.flow_control() == FlowControl::ConditionalBranch;
        match goal {
            Some(goal) if goal != Goal::Inside(entry) && is_kin(goal) => {
                if !found.passes_on_to.contains(&goal) {
                    found.passes_on_to.push(goal);
                }
                if conditional {
                    step.next[0] = behind;
                }
            }
            Some(goal) if call => {
                found.unknown |= goal == Goal::Unknown;
                step.works = !is_harmless(text, goals, goal, &mut harmless, 0);
                step.next[0] = behind;
            }
            // Through a register: a table of a `switch` looks like a pointer to a function.
            Some(Goal::Unknown) => {
                found.unknown = true;
                (step.ends, step.works) = (true, true);
            }
            Some(goal @ Goal::Imported(_)) => {
                step.works = !is_harmless(text, goals, goal, &mut harmless, 0);
                step.ends = true;
                step.next[0] = behind.filter(|_| conditional);
            }
            Some(Goal::Inside(target)) => {
                step.next = [Some(target), behind.filter(|_| conditional)];
            }
            None => {
                step.works = writes_memory(&instruction)
                    || matches!(instruction.flow_control(), FlowControl::Call | FlowControl::IndirectCall);
                step.ends = instruction.flow_control() == FlowControl::Return;
                step.next[0] = behind.filter(|_| !ends_path(&instruction));
            }
        }
        open.extend(step.next.into_iter().flatten());
        steps.insert(at, step);
    }
    found.works_itself = works_on_a_way_out(&steps, entry, kind.is_some_and(|kind| kind != Kind::Freeing));
    found
}

/// Whether a function may take blocks without a call of another one that does: whether it gets to code of this file that
/// does more than look. `asks`: whether a function at an address is one that takes blocks by its name.
pub(super) fn takes_itself(
    text: &Text<'_>,
    goals: &Goals<'_, '_>,
    entry: u64,
    asks: &dyn Fn(u64) -> bool,
) -> bool {
    let mut harmless = Harmless::default();
    let mut seen = HashSet::new();
    let mut open = vec![entry];
    while let Some(at) = open.pop() {
        if !seen.insert(at) {
            continue;
        }
        let Some(instruction) = text.decode(at).filter(|_| seen.len() < MAX_INSTRUCTIONS) else {
            return true;
        };
        let jumps = instruction.flow_control() == FlowControl::UnconditionalBranch;
        if is_branch(&instruction) {
            let call = matches!(instruction.flow_control(), FlowControl::Call | FlowControl::IndirectCall);
            match goals.of(&instruction) {
                Goal::Imported(_) => (),
                Goal::Inside(target) if target != entry && asks(target) => (),
                Goal::Inside(target) if !call => open.push(target),
                goal if is_harmless(text, goals, goal, &mut harmless, 0) => (),
                _ => return true,
            }
        }
        let next = instruction.next_ip();
        if !jumps && !ends_path(&instruction) && !text.is_start(next) {
            open.push(next);
        }
    }
    false
}

fn is_branch(instruction: &Instruction) -> bool {
    match instruction.flow_control() {
        FlowControl::ConditionalBranch
        | FlowControl::UnconditionalBranch
        | FlowControl::IndirectBranch
        | FlowControl::IndirectCall => true,
        // `syscall` counts as a call; it has no target.
        FlowControl::Call => instruction.is_call_near(),
        _ => false,
    }
}

fn result_of(instruction: &Instruction) -> Result {
    let rax = |register: Register| register.full_register() == Register::RAX;
    let whole = |register: Register| matches!(register, Register::RAX | Register::EAX);
    match instruction.mnemonic() {
        Mnemonic::Xor
            if whole(instruction.op0_register())
                && instruction.op0_register() == instruction.op1_register() =>
        {
            Result::Null
        }
        _ => {
            let mut info = InstructionInfoFactory::new();
            let call = matches!(instruction.flow_control(), FlowControl::Call | FlowControl::IndirectCall);
            let written = info.info(instruction).used_registers().iter().any(|used| {
                rax(used.register())
                    && !matches!(used.access(), OpAccess::Read | OpAccess::CondRead | OpAccess::None)
            });
            if call || written { Result::Set } else { Result::Kept }
        }
    }
}

/// Whether something is done on a way that comes to an end. With `returns_block`, ways that end with a null pointer don't
/// matter.
fn works_on_a_way_out(steps: &HashMap<u64, Step>, entry: u64, returns_block: bool) -> bool {
    #[derive(Clone, Copy, PartialEq, Eq, Hash)]
    enum Seen {
        /// Nothing has been done behind here, and what is returned isn't known.
        Nothing,
        /// Something has; whether it matters depends on what is returned.
        Work,
        /// What is returned may be a block.
        Block,
    }
    let mut before: HashMap<u64, Vec<u64>> = HashMap::new();
    for (&at, step) in steps {
        for next in step.next.into_iter().flatten() {
            before.entry(next).or_default().push(at);
        }
    }
    let first = if returns_block { Seen::Nothing } else { Seen::Block };
    let ends = steps.iter().filter(|(_, step)| step.ends);
    let mut open: Vec<(u64, Seen)> = ends.map(|(&at, _)| (at, first)).collect();
    let mut seen: HashSet<(u64, Seen)> = open.iter().copied().collect();
    while let Some((at, mut state)) = open.pop() {
        let Some(step) = steps.get(&at) else { continue };
        if step.works && state == Seen::Nothing {
            state = Seen::Work;
        }
        match (step.result, state) {
            (Result::Null, Seen::Nothing | Seen::Work) => continue,
            (Result::Set, Seen::Work) => return true,
            (Result::Set, Seen::Nothing) => state = Seen::Block,
            _ => (),
        }
        if (step.works && state == Seen::Block) || (at == entry && state == Seen::Work) {
            return true;
        }
        for &at in before.get(&at).into_iter().flatten() {
            if seen.insert((at, state)) {
                open.push((at, state));
            }
        }
    }
    false
}

/// Whether an instruction stores something that lasts longer than the call. What goes to the stack doesn't, and a constant
/// is no block's address: `errno = ENOMEM`.
fn writes_memory(instruction: &Instruction) -> bool {
    let mut info = InstructionInfoFactory::new();
    let lasting = |memory: &iced_x86::UsedMemory| {
        let writes = !matches!(
            memory.access(),
            OpAccess::None | OpAccess::Read | OpAccess::CondRead | OpAccess::NoMemAccess
        );
        let frame = memory.base() == Register::RBP && (memory.displacement() as i64) < 0;
        let stack = memory.base() == Register::RSP || frame;
        writes && !stack
    };
    let constant = instruction.mnemonic() == Mnemonic::Mov
        && matches!(
            instruction.op1_kind(),
            OpKind::Immediate8 | OpKind::Immediate16 | OpKind::Immediate32 | OpKind::Immediate32to64
        );
    !constant && info.info(instruction).used_memory().iter().any(lasting)
}

/// Whether a called function does nothing that lasts: it only looks.
fn is_harmless(
    text: &Text<'_>,
    goals: &Goals<'_, '_>,
    goal: Goal<'_>,
    known: &mut Harmless,
    depth: usize,
) -> bool {
    let entry = match goal {
        Goal::Imported(name) => return HARMLESS_IMPORTS.contains(&name),
        Goal::Inside(entry) if depth < MAX_DEPTH => entry,
        _ => return false,
    };
    if let Some(&known) = known.known.get(&entry) {
        return known;
    }
    // Recursion is no harm by itself.
    known.known.insert(entry, true);
    let answer = only_looks(text, goals, entry, known, depth);
    known.known.insert(entry, answer);
    answer
}

fn only_looks(
    text: &Text<'_>,
    goals: &Goals<'_, '_>,
    entry: u64,
    known: &mut Harmless,
    depth: usize,
) -> bool {
    let mut seen = HashSet::new();
    let mut open = vec![entry];
    while let Some(at) = open.pop() {
        if !seen.insert(at) {
            continue;
        }
        known.looked_at += 1;
        let Some(instruction) = text.decode(at).filter(|_| known.looked_at <= MAX_HARMLESS) else {
            return false;
        };
        let call = matches!(instruction.flow_control(), FlowControl::Call | FlowControl::IndirectCall);
        if is_branch(&instruction) {
            match goals.of(&instruction) {
                Goal::Inside(target) if !call => open.push(target),
                goal if is_harmless(text, goals, goal, known, depth + 1) => (),
                _ => return false,
            }
            if instruction.flow_control() == FlowControl::UnconditionalBranch {
                continue;
            }
        } else if call || writes_memory(&instruction) {
            return false;
        }
        let next = instruction.next_ip();
        if !ends_path(&instruction) && !text.is_start(next) {
            open.push(next);
        }
    }
    true
}
