//! Choosing the instruction on which a function is probed.
//!
//! The kernel emulates a few instructions when a uprobe sits on them and single-steps a copy of all others, which takes
//! a second trap and costs 2 to 20 times as much. Which ones: `arch/x86/kernel/uprobes.c`, `branch_setup_xol_ops` (since
//! Linux 3.16) and `push_setup_xol_ops` (since 5.1). Newer kernels emulate nops of any length as well (7.2: `insn_is_nop`), and
//! nothing else of a function's beginning.
//!
//! Never a nop of five bytes: Linux 6.18 to 7.1 make it a call at the first hit, which writes into what the function keeps below
//! its stack pointer, and which a forked child doesn't survive (decision 16).

use iced_x86::{
    FlowControl, Formatter, GasFormatter, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind,
};
use profiler_common::alloc::Register;
use serde::{Deserialize, Serialize};

use super::flow::Flow;
use super::text::{Text, ends_path};

/// How far behind the entry a site may lie, in bytes.
pub const MAX_BYTES: u64 = 64;
/// How many instructions may stand before a site.
pub const MAX_INSTRUCTIONS: usize = 16;

/// What the kernel does with the instruction under the probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum SiteKind {
    /// It is emulated: one trap per call.
    Emulated,
    /// A copy of it is single-stepped: two traps per call.
    SingleStepped,
}

impl SiteKind {
    /// The word for it, also the value of the `kind` label.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Emulated => "emulated",
            Self::SingleStepped => "single_stepped",
        }
    }
}

/// Where to probe a function: every call passes here exactly once, with all arguments that matter still in registers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Site {
    /// Bytes behind the function's entry.
    pub offset: u64,
    /// Where the instruction lies in the file; that is how the kernel is told.
    pub file_offset: u64,
    /// The instruction, in the syntax of the GNU assembler.
    pub instruction: String,
    /// What the kernel does with it.
    pub kind: SiteKind,
    /// Why this place, in a sentence.
    pub reason: String,
    /// Whether the stack pointer is as at the entry for certain: at the return address. Only there a return may be taken, as
    /// the kernel puts an address of its own where the stack pointer points.
    pub at_entry_depth: bool,
}

/// Why a function can't be probed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error, Serialize, Deserialize)]
pub enum SiteError {
    /// The entry isn't in an executable segment, or has no bytes in the file.
    #[error("its entry has no executable bytes in the file")]
    NoExecutableBytes,
    /// The bytes at the entry are no instruction.
    #[error("the bytes at its entry are no x86-64 instruction")]
    NotAnInstruction,
    /// The function jumps back to its own entry, so that one call can pass there many times.
    #[error("the jump at {from:#x} leads back to its entry, so that one call may pass it several times")]
    EntryRepeats {
        /// Where the jump is.
        from: u64,
    },
    /// There is nothing but nops on which no probe can be: some kernels make a call of one, which may end the program.
    #[error(
        "its first instruction is a nop of five bytes, where a probe could do harm, and no other will do"
    )]
    OnlyNops,
    /// The kernel accepts no uprobe on the instruction at the entry, and no other place will do.
    #[error("the kernel accepts no probe on its first instruction, `{instruction}`")]
    Refused {
        /// The instruction.
        instruction: String,
    },
}

/// Chooses the site in the function at `entry` that takes `arguments` integer arguments (at most 6), and tells which
/// registers hold them there, in the arguments' order.
///
/// It is the first emulated instruction on the straight way from the entry if nothing else leads there and each argument
/// is still in its register, or in another one to which it was copied; else the entry itself, behind any nop of five bytes that
/// is there. See the module for what is emulated.
pub fn choose(text: &Text<'_>, entry: u64, arguments: usize) -> Result<(Site, Vec<Register>), SiteError> {
    let arguments = &Register::ARGUMENTS[..arguments.min(Register::ARGUMENTS.len())];
    choose_in(text, &Flow::from(text, entry), entry, arguments, false)
}

/// [`choose`] for a function whose flow is known already and of which not all arguments matter: `arguments` are the
/// registers of those that do, at the entry. With `long_jumps_back`, jumps of five bytes back to the entry are
/// accepted: one call passes the site once more for each, which a probe on the jump tells ([`is_long_jump`]).
pub(super) fn choose_in(
    text: &Text<'_>,
    flow: &Flow,
    entry: u64,
    arguments: &[Register],
    long_jumps_back: bool,
) -> Result<(Site, Vec<Register>), SiteError> {
    text.bytes_at(entry).ok_or(SiteError::NoExecutableBytes)?;
    text.decode(entry).ok_or(SiteError::NotAnInstruction)?;
    let mut back = flow.branches.iter().filter(|branch| !branch.call && branch.target == entry);
    if let Some(branch) = back.find(|branch| !(long_jumps_back && is_long_jump(text, branch.source))) {
        return Err(SiteError::EntryRepeats { from: branch.source });
    }
    let site = |address: u64, instruction: &Instruction, kind, reason, at_entry_depth| {
        let file_offset = text.file_offset_of(address).ok_or(SiteError::NoExecutableBytes)?;
        let instruction = disassemble(instruction);
        Ok(Site { offset: address - entry, file_offset, instruction, kind, reason, at_entry_depth })
    };
    let mut at_entry_depth = true;
    let intruder = first_intruder(text, flow, entry);
    let mut info = InstructionInfoFactory::new();
    let mut places = Places::new(arguments);
    let mut at = entry;
    let mut why_not = format!("no emulated instruction among the first {MAX_INSTRUCTIONS}");
    for _ in 0..=MAX_INSTRUCTIONS {
        if at - entry > MAX_BYTES {
            why_not = format!("no emulated instruction within {MAX_BYTES} bytes");
            break;
        }
        if let Some((target, why)) = intruder.as_ref().filter(|(target, _)| *target <= at) {
            why_not = format!("at +{} {why}", target - entry);
            break;
        }
        let (Some(instruction), Some(bytes)) = (text.decode(at), text.bytes_at(at)) else {
            why_not = format!("the bytes at +{} are no instruction", at - entry);
            break;
        };
        if is_emulated(&bytes[..instruction.len()]) {
            let mut reason = match at - entry {
                0 => "the first instruction is emulated by the kernel".to_string(),
                _ => "the first instruction that the kernel emulates; all calls pass it, arguments intact"
                    .to_string(),
            };
            if !flow.complete {
                reason.push_str(" (as far as the function could be followed)");
            }
            if places.moved() {
                reason = reason.replace("arguments intact", "arguments intact or copied");
            }
            let site = site(at, &instruction, SiteKind::Emulated, reason, at_entry_depth)?;
            return Ok((site, places.registers()));
        }
        if instruction.flow_control() != FlowControl::Next || ends_path(&instruction) {
            why_not = format!("`{}` at +{} leaves the straight way", disassemble(&instruction), at - entry);
            break;
        }
        at_entry_depth &= !moves_stack(&mut info, &instruction);
        if let Some(argument) = places.follow(&mut info, &instruction) {
            let number =
                Register::ARGUMENTS.iter().position(|&register| register == argument).unwrap_or(0) + 1;
            why_not =
                format!("`{}` at +{} overwrites argument {number}", disassemble(&instruction), at - entry);
            break;
        }
        at = instruction.next_ip();
    }
    let free = intruder.as_ref().map_or(u64::MAX, |(target, _)| *target);
    let (address, instruction) = behind_nops(text, entry, free).ok_or(SiteError::OnlyNops)?;
    let bytes = text.bytes_at(address).ok_or(SiteError::NoExecutableBytes)?;
    if is_refused(&bytes[..instruction.len()], &instruction) {
        return Err(SiteError::Refused { instruction: disassemble(&instruction) });
    }
    let place = if address == entry { "the entry" } else { "behind the nop at the entry" };
    let reason = format!("{place}, single-stepped by the kernel: {why_not}");
    Ok((site(address, &instruction, SiteKind::SingleStepped, reason, true)?, arguments.to_vec()))
}

/// The first instruction from the entry on that is no nop of five bytes, and stands before `end`.
fn behind_nops(text: &Text<'_>, entry: u64, end: u64) -> Option<(u64, Instruction)> {
    let mut at = entry;
    while at < end && at - entry <= MAX_BYTES {
        let instruction = text.decode(at)?;
        if !is_nop5(&instruction) {
            return Some((at, instruction));
        }
        at = instruction.next_ip();
    }
    None
}

/// A nop of five bytes, as Linux 6.18 to 7.1 make calls of (`arch/x86/kernel/uprobes.c`, `can_optimize`).
fn is_nop5(instruction: &Instruction) -> bool {
    instruction.mnemonic() == Mnemonic::Nop && instruction.len() == 5
}

/// Whether the instruction at an address is a `jmp` of five bytes: always taken, and emulated by the kernel.
pub(super) fn is_long_jump(text: &Text<'_>, address: u64) -> bool {
    text.bytes_at(address).is_some_and(|bytes| bytes.first() == Some(&0xe9))
}

/// The lowest address behind the entry, within reach of a site, at which something else comes in or begins.
fn first_intruder(text: &Text<'_>, flow: &Flow, entry: u64) -> Option<(u64, String)> {
    let range = entry.saturating_add(1)..entry.saturating_add(MAX_BYTES + 1);
    let near = text.branches_into(range.clone()).iter().map(|branch| (branch.target, Some(branch.source)));
    let short = text.short_branches_into(range.clone());
    let short = short.iter().map(|branch| (branch.target, Some(branch.source)));
    let own = flow.branches.iter().filter(|branch| range.contains(&branch.target));
    let own = own.map(|branch| (branch.target, Some(branch.source)));
    let start = text.start_behind(entry).filter(|start| range.contains(start)).map(|start| (start, None));
    let (target, source) = near.chain(short).chain(own).chain(start).min_by_key(|&(target, _)| target)?;
    let why = match source {
        Some(source) => format!("the branch at {source:#x} leads in"),
        None => "another function begins".to_string(),
    };
    Some((target, why))
}

/// Splits an instruction into its prefixes and the bytes from the opcode on.
fn split_prefixes(bytes: &[u8]) -> (&[u8], &[u8]) {
    let legacy = |byte: &u8| matches!(byte, 0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3);
    bytes.split_at(bytes.iter().position(|byte| !legacy(byte)).unwrap_or(bytes.len()))
}

/// `is_prefix_bad` in `arch/x86/kernel/uprobes.c`: no probe may sit on an instruction with such a prefix.
fn has_bad_prefix(prefixes: &[u8]) -> bool {
    prefixes.iter().any(|byte| matches!(byte, 0x26 | 0x2e | 0x36 | 0x3e | 0xf0))
}

/// Whether the kernel emulates the instruction of exactly these bytes.
///
/// A branch with a REX prefix would be emulated as well, but no compiler writes one; a `nop` with a REX prefix may be
/// an `xchg` (`41 90`) that the kernel takes for a `nop`. Multi-byte `nop`s are emulated by the newest kernels only.
pub fn is_emulated(bytes: &[u8]) -> bool {
    let (prefixes, rest) = split_prefixes(bytes);
    if has_bad_prefix(prefixes) || prefixes.contains(&0x66) {
        return false;
    }
    match *rest {
        // push_setup_xol_ops: one byte, or two with exactly the REX prefix 41
        [0x50..=0x57] | [0x41, 0x50..=0x57] => prefixes.is_empty(),
        // branch_setup_xol_ops
        [0x90] => true,
        [0xeb | 0x70..=0x7f, _] | [0xe8 | 0xe9, _, _, _, _] | [0x0f, 0x80..=0x8f, _, _, _, _] => true,
        _ => false,
    }
}

/// Whether the kernel refuses a probe on the instruction, or would execute something else in its place.
fn is_refused(bytes: &[u8], instruction: &Instruction) -> bool {
    let (prefixes, rest) = split_prefixes(bytes);
    let rex = rest.first().is_some_and(|byte| byte & 0xf0 == 0x40);
    let opcode = &rest[usize::from(rex)..];
    let branch = matches!(*opcode, [0xe8 | 0xe9 | 0xeb | 0x70..=0x7f | 0x90, ..] | [0x0f, 0x80..=0x8f, ..]);
    has_bad_prefix(prefixes)
        || (branch && prefixes.contains(&0x66))
        || (rex && opcode == [0x90])
        || matches!(instruction.flow_control(), FlowControl::Interrupt | FlowControl::Exception)
        || instruction.mnemonic() == Mnemonic::Hlt
}

/// Which registers hold the arguments, on the way from the entry.
struct Places {
    /// For each argument: where it was at the entry, and where it is, oldest place first.
    held: Vec<(Register, Vec<Register>)>,
}

impl Places {
    fn new(arguments: &[Register]) -> Self {
        Self { held: arguments.iter().map(|&register| (register, vec![register])).collect() }
    }

    /// Takes in what an instruction does. An argument that is nowhere any more is returned (as its register at the entry).
    fn follow(&mut self, info: &mut InstructionInfoFactory, instruction: &Instruction) -> Option<Register> {
        // Only a move of all 64 bits is a copy; what it overwrites is gone.
        let copied = whole_move(instruction).map(|(to, from)| {
            let holds = |(_, places): &(Register, Vec<Register>)| places.contains(&from);
            (to, self.held.iter().map(holds).collect::<Vec<_>>())
        });
        let used = info.info(instruction).used_registers();
        let written = |register: Register| {
            used.iter().any(|used| general(used.register()) == Some(register) && writes(used.access()))
        };
        for (index, (_, places)) in self.held.iter_mut().enumerate() {
            places.retain(|&register| !written(register));
            if let Some((to, _)) = copied.as_ref().filter(|(_, holds)| holds[index])
                && !places.contains(to)
            {
                places.push(*to);
            }
        }
        self.held.iter().find(|(_, places)| places.is_empty()).map(|(argument, _)| *argument)
    }

    fn registers(&self) -> Vec<Register> {
        self.held.iter().map(|(argument, places)| places.first().copied().unwrap_or(*argument)).collect()
    }

    fn moved(&self) -> bool {
        self.held.iter().any(|(argument, places)| places.first() != Some(argument))
    }
}

/// `mov` from one 64 bit register to another: where to, and where from.
fn whole_move(instruction: &Instruction) -> Option<(Register, Register)> {
    let registers = instruction.op0_kind() == OpKind::Register && instruction.op1_kind() == OpKind::Register;
    if instruction.mnemonic() != Mnemonic::Mov || !registers || !instruction.op0_register().is_gpr64() {
        return None;
    }
    Some((general(instruction.op0_register())?, general(instruction.op1_register())?))
}

/// The general register that a register is a part of; `None` for the stack pointer and all that isn't general.
fn general(register: iced_x86::Register) -> Option<Register> {
    use iced_x86::Register as R;
    Some(match register.full_register() {
        R::RAX => Register::Rax,
        R::RCX => Register::Rcx,
        R::RDX => Register::Rdx,
        R::RBX => Register::Rbx,
        R::RBP => Register::Rbp,
        R::RSI => Register::Rsi,
        R::RDI => Register::Rdi,
        R::R8 => Register::R8,
        R::R9 => Register::R9,
        R::R10 => Register::R10,
        R::R11 => Register::R11,
        R::R12 => Register::R12,
        R::R13 => Register::R13,
        R::R14 => Register::R14,
        R::R15 => Register::R15,
        _ => return None,
    })
}

/// Whether an instruction writes the stack pointer, or may.
fn moves_stack(info: &mut InstructionInfoFactory, instruction: &Instruction) -> bool {
    let used = info.info(instruction).used_registers();
    let is_pointer = |register: iced_x86::Register| register.full_register() == iced_x86::Register::RSP;
    used.iter().any(|used| is_pointer(used.register()) && writes(used.access()))
        || instruction.stack_pointer_increment() != 0
}

fn writes(access: OpAccess) -> bool {
    matches!(access, OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite)
}

/// The instruction, in the syntax of the GNU assembler.
pub(super) fn disassemble(instruction: &Instruction) -> String {
    let mut text = String::new();
    let mut formatter = GasFormatter::new();
    formatter.options_mut().set_uppercase_hex(false);
    formatter.options_mut().set_branch_leading_zeros(false);
    formatter.format(instruction, &mut text);
    text
}
