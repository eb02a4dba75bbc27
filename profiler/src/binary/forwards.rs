//! Telling who passes calls on through a pointer from who has calls through pointers among its own work.
//!
//! A library that stands before another `malloc` looks that one up (`RTLD_NEXT` in dlsym(3)), calls it with what it was
//! called with, and returns what comes back, both perhaps changed by some bytes. The pointers of an allocator itself are
//! those of hooks and callbacks: they get other arguments, or their result is not what the program gets. So what matters
//! is where an argument goes, and where a result does: both are followed through registers and the stack.

use std::collections::{BTreeSet, HashMap, VecDeque};

use iced_x86::{FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register};

use super::goals::{Goal, Goals};
use super::text::{Text, ends_path};

/// Instructions that are looked at for one file, some of them more than once. All of jemalloc takes 13,000.
const MAX_STEPS: usize = 1 << 16;
/// How deep functions are looked into that get the argument.
const MAX_DEPTH: usize = 3;
/// Places of one function's stack that are kept in mind: compilers make one or two of an argument.
const MAX_PLACES: usize = 32;
/// What a called function leaves as it was (System V ABI for x86-64, 3.2.1).
const KEPT_BY_CALLS: [Register; 6] =
    [Register::RBX, Register::RBP, Register::R12, Register::R13, Register::R14, Register::R15];

/// Where the value may be.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Held {
    registers: BTreeSet<Register>,
    /// Of the stack, by distance from where the return address lies.
    places: BTreeSet<i64>,
    /// Where the stack pointer is, by the same measure.
    stack: i64,
    /// Where `rbp` points to, if it is in the stack.
    frame: Option<i64>,
}

/// A call or jump with the value in the argument's register.
struct Site {
    goal_inside: Option<u64>,
    next: u64,
    call: bool,
    held: Held,
}

/// Follows values through the functions of one file.
pub(super) struct Forwards<'x, 't, 'a> {
    text: &'t Text<'a>,
    goals: &'x Goals<'t, 'a>,
    /// Functions that aren't looked into: they are judged on their own.
    others: &'x dyn Fn(u64) -> bool,
    known: HashMap<(u64, Register), bool>,
    steps: usize,
}

impl<'x, 't, 'a> Forwards<'x, 't, 'a> {
    pub fn new(text: &'t Text<'a>, goals: &'x Goals<'t, 'a>, others: &'x dyn Fn(u64) -> bool) -> Self {
        Self { text, goals, others, known: HashMap::new(), steps: 0 }
    }

    /// Whether a function may hand its `argument` to something behind a pointer and return what comes back. True if the file
    /// is too large to tell.
    pub fn may(&mut self, entry: u64, argument: profiler_common::alloc::Register) -> bool {
        use profiler_common::alloc::Register as Argument;
        let argument = match argument {
            Argument::Rsi => Register::RSI,
            Argument::Rdx => Register::RDX,
            _ => Register::RDI,
        };
        self.passes_on(entry, argument, MAX_DEPTH) || self.steps >= MAX_STEPS
    }

    fn passes_on(&mut self, entry: u64, argument: Register, depth: usize) -> bool {
        if let Some(&known) = self.known.get(&(entry, argument)) {
            return known;
        }
        self.known.insert((entry, argument), false);
        let start =
            Held { registers: BTreeSet::from([argument]), places: BTreeSet::new(), stack: 0, frame: None };
        let (sites, _) = self.follow(entry, start, Some(argument));
        let answer = sites.into_iter().any(|site| {
            let passes = match site.goal_inside {
                None => true,
                Some(callee) => depth > 0 && self.passes_on(callee, argument, depth - 1),
            };
            passes && (!site.call || self.returns(&site))
        });
        self.known.insert((entry, argument), answer);
        answer
    }

    /// Whether what a call has returned may be returned in turn.
    fn returns(&mut self, site: &Site) -> bool {
        let held =
            Held { registers: BTreeSet::from([Register::RAX]), places: BTreeSet::new(), ..site.held.clone() };
        self.follow(site.next, held, None).1
    }

    /// Follows a value from an address to the ends of the function: the calls that get it as `argument`, and whether it may
    /// be returned.
    fn follow(&mut self, from: u64, held: Held, argument: Option<Register>) -> (Vec<Site>, bool) {
        let mut info = InstructionInfoFactory::new();
        let mut before: HashMap<u64, Held> = HashMap::from([(from, held)]);
        let mut open = VecDeque::from([from]);
        let mut sites: HashMap<u64, Site> = HashMap::new();
        let mut returned = false;
        while let Some(at) = open.pop_front() {
            self.steps += 1;
            if self.steps >= MAX_STEPS {
                break;
            }
            let (Some(instruction), Some(held)) = (self.text.decode(at), before.get(&at)) else { continue };
            let flow = instruction.flow_control();
            let near = flow == FlowControl::Call && instruction.is_call_near();
            let call = near || flow == FlowControl::IndirectCall;
            let mut next = [None; 2];
            if call || matches!(flow, FlowControl::IndirectBranch | FlowControl::UnconditionalBranch) {
                let goal = self.goals.of(&instruction);
                let goal_inside = match goal {
                    Goal::Inside(target) => Some(target),
                    _ => None,
                };
                let passed = argument.is_some_and(|argument| held.registers.contains(&argument));
                // Where the stack isn't as it was at the entry, a jump through a register is a `switch`.
                let leaves = call || (goal == Goal::Unknown && held.stack == 0);
                let judged = matches!(goal, Goal::Imported(_)) || goal_inside.is_some_and(self.others);
                if passed && leaves && !judged {
                    let next = instruction.next_ip();
                    sites.insert(at, Site { goal_inside, next, call, held: held.clone() });
                }
                next[0] = goal_inside.filter(|_| !call && !judged);
            } else if flow == FlowControl::ConditionalBranch {
                next[0] = Some(instruction.near_branch_target());
            }
            returned |= flow == FlowControl::Return && held.registers.contains(&Register::RAX);
            let ends = ends_path(&instruction) || flow == FlowControl::UnconditionalBranch;
            next[1] = Some(instruction.next_ip()).filter(|&at| !ends && !self.text.is_start(at));
            let held = behind(held.clone(), &instruction, &mut info);
            for at in next.into_iter().flatten() {
                match before.get_mut(&at) {
                    None => {
                        before.insert(at, held.clone());
                        open.push_back(at);
                    }
                    Some(there) => {
                        let known = (there.registers.len(), there.places.len());
                        there.registers.extend(&held.registers);
                        there.places.extend(&held.places);
                        if known != (there.registers.len(), there.places.len()) {
                            open.push_back(at);
                        }
                    }
                }
            }
        }
        (sites.into_values().collect(), returned)
    }
}

/// Where the value may be behind an instruction.
fn behind(mut held: Held, instruction: &Instruction, info: &mut InstructionInfoFactory) -> Held {
    let place = place_of(&held, instruction);
    let from_stack = |held: &Held| place.is_some_and(|place| held.places.contains(&place));
    match instruction.mnemonic() {
        Mnemonic::Call => {
            held.registers.retain(|register| KEPT_BY_CALLS.contains(register));
            return held;
        }
        Mnemonic::Push => {
            held.stack = held.stack.wrapping_sub(8);
            let pushed = held.registers.contains(&instruction.op0_register().full_register());
            let place = held.stack;
            held.store(place, pushed);
            return held;
        }
        Mnemonic::Pop => {
            let popped = held.places.contains(&held.stack);
            held.stack = held.stack.wrapping_add(8);
            held.load(instruction.op0_register(), popped);
            return held;
        }
        Mnemonic::Leave => {
            held.stack = held.frame.map_or(held.stack, |frame| frame.wrapping_add(8));
            held.load(Register::RBP, false);
            return held;
        }
        Mnemonic::Add | Mnemonic::Sub if instruction.op0_register() == Register::RSP => {
            let bytes = instruction.try_immediate(1).unwrap_or(0).cast_signed();
            let down = instruction.mnemonic() == Mnemonic::Sub;
            held.stack = held.stack.wrapping_add(if down { bytes.wrapping_neg() } else { bytes });
            return held;
        }
        Mnemonic::Lea if instruction.op0_register() == Register::RSP => {
            held.stack = place.unwrap_or(held.stack);
            return held;
        }
        Mnemonic::Mov
            if instruction.op0_register() == Register::RBP && instruction.op1_register() == Register::RSP =>
        {
            held.load(Register::RBP, false);
            held.frame = Some(held.stack);
            return held;
        }
        Mnemonic::Mov if instruction.op0_kind() == OpKind::Memory => {
            if let Some(place) = place {
                let stored = instruction.op1_kind() == OpKind::Register
                    && held.registers.contains(&instruction.op1_register().full_register());
                held.store(place, stored);
            }
            return held;
        }
        _ => (),
    }
    // Of the same twice, nothing is left, and what comes from memory in exchange is something else.
    let exchanged = matches!(instruction.mnemonic(), Mnemonic::Xadd | Mnemonic::Xchg | Mnemonic::Cmpxchg)
        && instruction.op0_kind() == OpKind::Memory;
    let cleared = matches!(instruction.mnemonic(), Mnemonic::Xor | Mnemonic::Sub)
        && instruction.op0_kind() == OpKind::Register
        && instruction.op1_kind() == OpKind::Register
        && instruction.op0_register() == instruction.op1_register();
    let used = info.info(instruction);
    let reads = |access| !matches!(access, OpAccess::Write | OpAccess::None | OpAccess::NoMemAccess);
    let has = |held: &Held, register: Register| held.registers.contains(&register.full_register());
    let result = !(exchanged || cleared)
        && (0..instruction.op_count()).any(|number| match instruction.op_kind(number) {
            OpKind::Register => {
                // A conditional move leaves what was there.
                let kept = used.op_access(number) == OpAccess::CondWrite;
                (kept || reads(used.op_access(number))) && has(&held, instruction.op_register(number))
            }
            OpKind::Memory if instruction.mnemonic() == Mnemonic::Lea => {
                has(&held, instruction.memory_base()) || has(&held, instruction.memory_index())
            }
            OpKind::Memory => from_stack(&held),
            _ => false,
        });
    for register in used.used_registers() {
        if !matches!(register.access(), OpAccess::Read | OpAccess::CondRead | OpAccess::None) {
            held.load(register.register(), result);
        }
    }
    held
}

impl Held {
    fn store(&mut self, place: i64, it: bool) {
        if it && self.places.len() < MAX_PLACES {
            self.places.insert(place);
        } else {
            self.places.remove(&place);
        }
    }

    fn load(&mut self, register: Register, it: bool) {
        let register = register.full_register();
        if register == Register::RBP {
            self.frame = None;
        }
        if it && register.is_gpr64() {
            self.registers.insert(register);
        } else {
            self.registers.remove(&register);
        }
    }
}

/// The place of the stack that an instruction's memory operand names.
fn place_of(held: &Held, instruction: &Instruction) -> Option<i64> {
    let displacement = instruction.memory_displacement64().cast_signed();
    let base = match instruction.memory_base() {
        _ if instruction.memory_index() != Register::None => None,
        Register::RSP => Some(held.stack),
        Register::RBP => held.frame,
        _ => None,
    };
    base.map(|base| base.wrapping_add(displacement))
}
