//! Rows of unwind tables whose rules are expressions that read memory. framehop 0.16 doesn't evaluate these, and would go on
//! with a guess that is wrong one frame later. Two kinds are common: functions that align their frame (gcc keeps the caller's
//! stack pointer in the frame then), and the frame that the kernel makes for a signal.

use gimli::{
    BaseAddresses, CfaRule, EhFrame, EhFrameHdr, Encoding, EndianSlice, EvaluationResult, Expression, Format,
    LittleEndian, Location, Register, RegisterRule, UnwindContext, UnwindExpression, UnwindSection as _,
    UnwindTableRow, Value, X86_64,
};

use super::elf::Image;

type Slice<'a> = EndianSlice<'a, LittleEndian>;
type Row = UnwindTableRow<usize>;

/// Steps of one expression. They are short; a damaged one may jump in circles.
const STEPS: u32 = 256;
const ENCODING: Encoding = Encoding { address_size: 8, format: Format::Dwarf32, version: 4 };

/// Instruction, stack and frame pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pointers {
    /// Instruction pointer.
    pub ip: u64,
    /// Stack pointer.
    pub sp: u64,
    /// Frame pointer.
    pub bp: u64,
}

/// What a row says of the calling frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Its rules are simple ones, or there is no row: framehop knows better.
    Simple,
    /// The calling frame. `interrupted`: it has not called, but was interrupted by a signal.
    Caller {
        /// Its registers.
        pointers: Pointers,
        /// Whether `pointers.ip` is no return address.
        interrupted: bool,
    },
    /// A word that can't be read is needed.
    Unreadable(u64),
    /// It makes no sense.
    Nonsense,
}

/// Looks up the row for an address (as the file states addresses) and evaluates it if it is not simple.
pub fn evaluate(
    image: &Image,
    address: u64,
    pointers: Pointers,
    read: &dyn Fn(u64) -> Option<u64>,
) -> Answer {
    let Some(tables) = &image.tables else { return Answer::Simple };
    let mut section = EhFrame::new(&tables.bytes, LittleEndian);
    section.set_address_size(8);
    let mut bases = BaseAddresses::default().set_eh_frame(tables.address);
    let index = image.index.as_ref();
    if let Some(index) = index {
        bases = bases.set_eh_frame_hdr(index.address);
    }
    let parsed = index.and_then(|index| EhFrameHdr::new(&index.bytes, LittleEndian).parse(&bases, 8).ok());
    let entry = match parsed.as_ref().and_then(gimli::ParsedEhFrameHdr::table) {
        Some(table) => table.fde_for_address(&section, &bases, address, EhFrame::cie_from_offset),
        None => section.fde_for_address(&bases, address, EhFrame::cie_from_offset),
    };
    let Ok(entry) = entry else { return Answer::Simple };
    let mut context = UnwindContext::new();
    let Ok(row) = entry.unwind_info_for_address(&section, &bases, &mut context, address) else {
        return Answer::Simple;
    };
    if is_simple(row) {
        return Answer::Simple;
    }
    let evaluation = Evaluation { section: &section, pointers, read };
    match evaluation.caller(row) {
        Ok(pointers) => Answer::Caller { pointers, interrupted: entry.is_signal_trampoline() },
        Err(Failure::Unreadable(place)) => Answer::Unreadable(place),
        Err(Failure::Nonsense) => Answer::Nonsense,
    }
}

/// Whether framehop evaluates it: places at fixed distances from the stack or frame pointer.
fn is_simple(row: &Row) -> bool {
    let fixed = |register: Register| {
        matches!(
            row.register(register),
            None | Some(RegisterRule::Undefined | RegisterRule::SameValue | RegisterRule::Offset(_))
        )
    };
    matches!(row.cfa(), CfaRule::RegisterAndOffset { .. }) && fixed(X86_64::RBP) && fixed(X86_64::RA)
}

enum Failure {
    Unreadable(u64),
    Nonsense,
}

impl From<gimli::Error> for Failure {
    fn from(_: gimli::Error) -> Self {
        Self::Nonsense
    }
}

struct Evaluation<'a, 'r> {
    section: &'r EhFrame<Slice<'a>>,
    pointers: Pointers,
    read: &'r dyn Fn(u64) -> Option<u64>,
}

impl Evaluation<'_, '_> {
    fn caller(&self, row: &Row) -> Result<Pointers, Failure> {
        let frame = match row.cfa() {
            CfaRule::RegisterAndOffset { register, offset } => {
                self.register(*register)?.wrapping_add_signed(*offset)
            }
            CfaRule::Expression(expression) => self.expression(expression, None)?,
        };
        let ip = self.rule(row.register(X86_64::RA).as_ref(), frame)?.ok_or(Failure::Nonsense)?;
        let bp = self.rule(row.register(X86_64::RBP).as_ref(), frame)?.unwrap_or(self.pointers.bp);
        let sp = self.rule(row.register(X86_64::RSP).as_ref(), frame)?.unwrap_or(frame);
        Ok(Pointers { ip, sp, bp })
    }

    /// The caller's value of a register; `None` if it is the same.
    fn rule(&self, rule: Option<&RegisterRule<usize>>, frame: u64) -> Result<Option<u64>, Failure> {
        Ok(Some(match rule {
            None | Some(RegisterRule::Undefined | RegisterRule::SameValue) => return Ok(None),
            Some(RegisterRule::Offset(offset)) => self.word(frame.wrapping_add_signed(*offset))?,
            Some(RegisterRule::ValOffset(offset)) => frame.wrapping_add_signed(*offset),
            Some(RegisterRule::Register(register)) => self.register(*register)?,
            Some(RegisterRule::Expression(expression)) => {
                self.word(self.expression(expression, Some(frame))?)?
            }
            Some(RegisterRule::ValExpression(expression)) => self.expression(expression, Some(frame))?,
            Some(_) => return Err(Failure::Nonsense),
        }))
    }

    fn expression(&self, expression: &UnwindExpression<usize>, initial: Option<u64>) -> Result<u64, Failure> {
        let expression: Expression<Slice<'_>> = expression.get(self.section)?;
        let mut evaluation = expression.evaluation(ENCODING);
        evaluation.set_max_iterations(STEPS);
        if let Some(initial) = initial {
            evaluation.set_initial_value(initial);
        }
        let mut state = evaluation.evaluate()?;
        loop {
            state = match state {
                EvaluationResult::Complete => break,
                EvaluationResult::RequiresMemory { address, size: 8, .. } => {
                    evaluation.resume_with_memory(Value::Generic(self.word(address)?))?
                }
                EvaluationResult::RequiresRegister { register, .. } => {
                    evaluation.resume_with_register(Value::Generic(self.register(register)?))?
                }
                _ => return Err(Failure::Nonsense),
            };
        }
        match evaluation.result().as_slice() {
            [piece] => match piece.location {
                Location::Address { address } => Ok(address),
                _ => Err(Failure::Nonsense),
            },
            _ => Err(Failure::Nonsense),
        }
    }

    fn word(&self, place: u64) -> Result<u64, Failure> {
        (self.read)(place).ok_or(Failure::Unreadable(place))
    }

    fn register(&self, register: Register) -> Result<u64, Failure> {
        match register {
            X86_64::RSP => Ok(self.pointers.sp),
            X86_64::RBP => Ok(self.pointers.bp),
            X86_64::RA => Ok(self.pointers.ip),
            // Not carried from frame to frame.
            _ => Err(Failure::Nonsense),
        }
    }
}
