//! Where the interpreter calls a function through its table of allocators.
//!
//! A call of `PyObject_Malloc(n)` is `table.malloc(table.ctx, n)`. Compilers put that into the callers, and with a profile
//! to guide them the usual allocator's code as well: `if (table.malloc == usual) { its code } else table.malloc(ctx, n)`.
//! The public function then sees only a part of the calls, and so does the usual allocator's. What all calls pass is the
//! decision: the conditional jump behind the comparison, or, where nothing is compared, the call through the pointer.

use std::collections::HashSet;

use iced_x86::{
    FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register, RflagsBits,
};
use profiler_common::alloc::Register as Place;

use super::super::text::{Text, ends_path};

/// Instructions that are followed from one load of a pointer. The longest way seen in CPython 3.11 has about 20.
const MAX_STEPS: usize = 512;

/// Where a value is that the probe wants, when the instruction at the site is about to be executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Argument {
    /// In a register (64 bit).
    Register(Place),
    /// The compiler knew it.
    Constant(u64),
    /// It couldn't be found out, or it isn't in a register then.
    Unknown,
}

/// One place that every call through a pointer passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Dispatch {
    /// Address of the conditional jump, or of the call (or jump) through the pointer.
    pub at: u64,
    /// The second and third integer argument of the call that follows; the first is the allocator's context.
    pub arguments: [Argument; 2],
    /// A register that holds the pointer.
    pub pointer: Place,
}

/// What one load of the pointer leads to.
#[derive(Clone, Debug, Default)]
pub(super) struct Dispatches {
    pub found: Vec<Dispatch>,
    /// Whether all ways were followed to their ends.
    pub complete: bool,
}

/// A set of general purpose registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Registers(u16);

impl Registers {
    fn bit(register: Register) -> u16 {
        let full = register.full_register();
        if full.is_gpr64() { 1 << full.number() } else { 0 }
    }

    /// Only whole registers: a pointer isn't in half of one.
    fn has(self, register: Register) -> bool {
        register.is_gpr64() && self.0 & Self::bit(register) != 0
    }

    fn with(self, register: Register) -> Self {
        Self(self.0 | Self::bit(register))
    }

    /// The first of them that can be named.
    fn first(self) -> Option<Place> {
        Place::ALL.into_iter().find(|&place| self.0 & 1 << place as u8 != 0)
    }

    fn without(self, register: Register) -> Self {
        Self(self.0 & !Self::bit(register))
    }
}

/// A way through the code that still holds the pointer.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Way {
    at: u64,
    pointer: Registers,
    /// The flags tell whether the pointer equals something.
    compared: bool,
}

/// Follows code from places where a pointer of the table is loaded.
pub(super) struct Walker<'t, 'a> {
    text: &'t Text<'a>,
    info: InstructionInfoFactory,
}

impl<'t, 'a> Walker<'t, 'a> {
    pub fn new(text: &'t Text<'a>) -> Self {
        Self { text, info: InstructionInfoFactory::new() }
    }

    /// Follows all ways from the instruction at `load`, which reads the pointer at a fixed place.
    pub fn follow(&mut self, load: u64) -> Dispatches {
        let mut result = Dispatches { complete: true, ..Dispatches::default() };
        let Some(first) = self.text.decode(load) else { return result };
        if through_memory(&first) {
            result.found.push(Dispatch { at: load, arguments: IN_PLACE, pointer: Place::Rsi });
            return result;
        }
        let pointer = Registers::default().with(first.op0_register());
        let mut open = vec![Way { at: first.next_ip(), pointer, compared: false }];
        let mut seen = HashSet::new();
        while let Some(mut way) = open.pop() {
            while seen.insert(way) {
                if seen.len() > MAX_STEPS {
                    result.complete = false;
                    return result;
                }
                let Some(instruction) = self.text.decode(way.at) else { break };
                match instruction.flow_control() {
                    FlowControl::ConditionalBranch => {
                        if let Some(dispatch) = self.guard(&instruction, way) {
                            result.found.push(dispatch);
                            break;
                        }
                        open.push(Way { at: instruction.near_branch_target(), ..way });
                        way.at = instruction.next_ip();
                    }
                    FlowControl::UnconditionalBranch => way.at = instruction.near_branch_target(),
                    FlowControl::IndirectCall | FlowControl::IndirectBranch => {
                        if is_through(&instruction, way.pointer) {
                            result.found.push(Dispatch {
                                at: way.at,
                                arguments: IN_PLACE,
                                pointer: Place::Rsi,
                            });
                        }
                        break;
                    }
                    FlowControl::Next => {
                        way = self.step(&instruction, way);
                        if way.pointer == Registers::default() {
                            break;
                        }
                    }
                    // The callee may change the table, so that no compiler uses what was read before.
                    _ => break,
                }
            }
        }
        result.found.sort_unstable_by_key(|dispatch| dispatch.at);
        result.found.dedup();
        result
    }

    /// The way behind an instruction that doesn't branch.
    fn step(&mut self, instruction: &Instruction, way: Way) -> Way {
        let mut next = Way { at: instruction.next_ip(), ..way };
        if compares(instruction, way.pointer) {
            next.compared = true;
            return next;
        }
        if instruction.rflags_modified() != RflagsBits::NONE {
            next.compared = false;
        }
        let copies = instruction.mnemonic() == Mnemonic::Mov
            && instruction.op1_kind() == OpKind::Register
            && way.pointer.has(instruction.op1_register());
        for register in self.written(instruction) {
            next.pointer = next.pointer.without(register);
        }
        if copies && instruction.op0_kind() == OpKind::Register {
            next.pointer = next.pointer.with(instruction.op0_register());
        }
        next
    }

    fn written(&mut self, instruction: &Instruction) -> Vec<Register> {
        let used = self.info.info(instruction).used_registers().iter();
        let writes = used.filter(|used| !matches!(used.access(), OpAccess::Read | OpAccess::CondRead));
        writes.map(|used| used.register()).collect()
    }

    /// Whether a conditional jump decides between the usual allocator's code and a call through the pointer.
    fn guard(&mut self, jump: &Instruction, way: Way) -> Option<Dispatch> {
        let unequal = match jump.mnemonic() {
            _ if !way.compared => return None,
            Mnemonic::Jne => jump.near_branch_target(),
            Mnemonic::Je => jump.next_ip(),
            _ => return None,
        };
        let arguments = self.arguments(unequal, way.pointer)?;
        Some(Dispatch { at: jump.ip(), arguments, pointer: way.pointer.first()? })
    }

    /// Where the arguments of the call through the pointer come from, in terms of what the registers hold at `start`.
    /// `None` if no way leads to such a call.
    fn arguments(&mut self, start: u64, pointer: Registers) -> Option<[Argument; 2]> {
        let mut result: Option<[Argument; 2]> = None;
        let mut open = vec![(start, pointer, Values::default())];
        let mut steps = 0;
        let mut seen = HashSet::new();
        while let Some((mut at, mut pointer, mut values)) = open.pop() {
            while seen.insert((at, pointer, values)) {
                steps += 1;
                let Some(instruction) = self.text.decode(at).filter(|_| steps < MAX_STEPS) else { break };
                match instruction.flow_control() {
                    FlowControl::Next => {
                        let way = Way { at, pointer, compared: false };
                        pointer = self.step(&instruction, way).pointer;
                        let written = self.written(&instruction);
                        values.step(&instruction, &written);
                        at = instruction.next_ip();
                    }
                    FlowControl::UnconditionalBranch => at = instruction.near_branch_target(),
                    FlowControl::ConditionalBranch => {
                        open.push((instruction.near_branch_target(), pointer, values));
                        at = instruction.next_ip();
                    }
                    FlowControl::IndirectCall | FlowControl::IndirectBranch
                        if is_through(&instruction, pointer) =>
                    {
                        let here = [values.of(Register::RSI), values.of(Register::RDX)];
                        let merge = |(a, b): (Argument, Argument)| if a == b { a } else { Argument::Unknown };
                        result = Some(match result {
                            Some(other) => [merge((other[0], here[0])), merge((other[1], here[1]))],
                            None => here,
                        });
                        break;
                    }
                    _ => break,
                }
                if pointer == Registers::default() || ends_path(&instruction) {
                    break;
                }
            }
        }
        result
    }
}

/// At the call itself the arguments are where the calling convention wants them.
const IN_PLACE: [Argument; 2] = [Argument::Register(Place::Rsi), Argument::Register(Place::Rdx)];

/// What the registers hold, in terms of what they held before.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Values([Argument; 16]);

impl Default for Values {
    fn default() -> Self {
        let mut values = [Argument::Unknown; 16];
        for place in Place::ALL {
            values[place as usize] = Argument::Register(place);
        }
        Self(values)
    }
}

impl Values {
    fn of(&self, register: Register) -> Argument {
        self.0.get(register.full_register().number()).copied().unwrap_or(Argument::Unknown)
    }

    fn step(&mut self, instruction: &Instruction, written: &[Register]) {
        let target = instruction.op0_register();
        let same = instruction.op1_register() == target;
        let value = match instruction.mnemonic() {
            Mnemonic::Mov if instruction.op1_kind() == OpKind::Register && target.is_gpr64() => {
                self.of(instruction.op1_register())
            }
            // A write of the lower half clears the upper one; of 64 bits it may be sign-extended, which iced has done.
            Mnemonic::Mov if is_immediate(instruction.op1_kind()) && target.is_gpr64() => {
                Argument::Constant(instruction.immediate(1))
            }
            Mnemonic::Mov if is_immediate(instruction.op1_kind()) && target.is_gpr32() => {
                Argument::Constant(instruction.immediate(1) & u64::from(u32::MAX))
            }
            Mnemonic::Xor if same && (target.is_gpr32() || target.is_gpr64()) => Argument::Constant(0),
            _ => Argument::Unknown,
        };
        for register in written.iter().filter(|register| register.is_gpr()) {
            if let Some(slot) = self.0.get_mut(register.full_register().number()) {
                *slot = Argument::Unknown;
            }
        }
        if instruction.op0_kind() == OpKind::Register
            && target.is_gpr()
            && let Some(slot) = self.0.get_mut(target.full_register().number())
            && matches!(instruction.mnemonic(), Mnemonic::Mov | Mnemonic::Xor)
        {
            *slot = value;
        }
    }
}

fn is_immediate(kind: OpKind) -> bool {
    matches!(kind, OpKind::Immediate32 | OpKind::Immediate32to64 | OpKind::Immediate64)
}

/// A call or jump through a pointer in memory, at a fixed place.
fn through_memory(instruction: &Instruction) -> bool {
    matches!(instruction.flow_control(), FlowControl::IndirectCall | FlowControl::IndirectBranch)
}

fn is_through(instruction: &Instruction, pointer: Registers) -> bool {
    instruction.op0_kind() == OpKind::Register && pointer.has(instruction.op0_register())
}

fn compares(instruction: &Instruction, pointer: Registers) -> bool {
    let held = |kind, register| kind == OpKind::Register && pointer.has(register);
    instruction.mnemonic() == Mnemonic::Cmp
        && (held(instruction.op0_kind(), instruction.op0_register())
            || held(instruction.op1_kind(), instruction.op1_register()))
}
