//! Goroutines and their stacks (Go's src/runtime/runtime2.go, `g`; src/runtime/traceback.go).
//!
//! A goroutine that doesn't run has its registers in its `g`; its callers are found by frame pointers within its stack, as Go
//! keeps them on amd64 and arm64. One that goes on while it is read is read again.

use serde::Serialize;

use super::{GoError, attach::Bias};
use crate::{
    binary::go::{Layout, Places},
    runtime::{Memory, u32_at, u64_at},
};

/// Goroutines that are read at most, dead ones included: the runtime never forgets one.
const MOST: u64 = 1_000_000;
/// Goroutines that are read together.
const BATCH: usize = 1024;
/// Frames of one stack.
const DEPTH: usize = 128;
/// Bytes of one stack that are read, from the innermost frame on.
const STACK_BYTES: u64 = 64 << 10;
/// Bytes of all stacks that are read together.
const BATCH_BYTES: u64 = 8 << 20;
/// How often a goroutine is read again that goes on meanwhile.
const TRIES: u32 = 4;
/// The mark of a stack that is being scanned (`_Gscan`).
const SCAN: u32 = 0x1000;
/// The size of a slice's header that is needed: address and length.
const SLICE: usize = 16;

const IDLE: u32 = 0;
const RUNNING: u32 = 2;
const SYSCALL: u32 = 3;
const WAITING: u32 = 4;
const DEAD: u32 = 6;
/// From Go 1.26: an extra thread's goroutine that isn't in use.
const DEAD_EXTRA: u32 = 11;

/// A goroutine at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Goroutine {
    /// Its id, as a panic prints it.
    pub id: u64,
    /// `running`, `runnable`, `syscall`, `waiting`, ... as a panic prints it; for those that wait, what for: `chan receive`.
    pub state: String,
    /// Since when it waits, in nanoseconds of the runtime's clock (`CLOCK_MONOTONIC`); zero: not known, the garbage collector
    /// notes it.
    pub waiting_since_ns: u64,
    /// The thread that it runs on or waits in the kernel with.
    pub thread: Option<u32>,
    /// Whether it is on a CPU, or about to be: its stack isn't in its `g`.
    pub running: bool,
    /// Whether it is the runtime's own; see [`read`].
    pub system: bool,
    /// Addresses in the process, innermost first: of callers, what the call returns to.
    pub stack: Vec<u64>,
    /// Whether the first address is where it is, not what a call returns to.
    pub first_is_exact: bool,
    /// Why the stack is cut or absent.
    pub trouble: Option<String>,
    /// The address behind the `go` statement that made it, and the goroutine that ran it.
    pub created_by: Option<(u64, Option<u64>)>,
    /// The address of its first function.
    pub start: u64,
}

/// All goroutines of a process, as far as they could be read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Goroutines {
    /// By id.
    pub list: Vec<Goroutine>,
    /// Goroutines that changed while they were read, every time: they are in the list without a stack.
    pub torn: u64,
    /// Goroutines that weren't read because there are too many.
    pub left_out: u64,
}

/// What is in a `g`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Raw {
    address: u64,
    status: u32,
    id: u64,
    wait_reason: u8,
    wait_since: u64,
    go_pc: u64,
    parent: Option<u64>,
    start: u64,
    thread: u64,
    low: u64,
    high: u64,
    registers: Registers,
}

/// Where it left off: program counter, stack pointer, frame pointer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Registers {
    pc: u64,
    sp: u64,
    bp: u64,
}

impl Raw {
    fn of(layout: &Layout, address: u64, bytes: &[u8]) -> Self {
        let g = &layout.g;
        let word = |offset: u64| u64_at(bytes, usize_of(offset));
        let status = u32_at(bytes, usize_of(g.status)) & !SCAN;
        let registers = if status == SYSCALL {
            // Before Go 1.23 the frame pointer of a system call isn't kept apart; it is below the stack pointer's frame then.
            let bp = g.syscall_bp.map_or(0, word);
            Registers { pc: word(g.syscall_pc), sp: word(g.syscall_sp), bp }
        } else {
            Registers { pc: word(g.sched_pc), sp: word(g.sched_sp), bp: word(g.sched_bp) }
        };
        Self {
            address,
            status,
            id: word(g.goid),
            wait_reason: bytes.get(usize_of(g.wait_reason)).copied().unwrap_or(0),
            wait_since: word(g.wait_since),
            go_pc: word(g.go_pc),
            parent: g.parent_goid.map(word),
            start: word(g.start_pc),
            thread: word(g.m),
            low: word(g.stack_lo),
            high: word(g.stack_hi),
            registers,
        }
    }

    const fn is_shown(&self) -> bool {
        !matches!(self.status, IDLE | DEAD | DEAD_EXTRA)
    }

    /// What of its stack is to be read; nothing if it runs, or its stack pointer isn't within its stack.
    fn stack(&self) -> Option<(u64, usize)> {
        let sp = self.registers.sp;
        let inside = self.status != RUNNING && self.low < sp && sp < self.high && sp.is_multiple_of(8);
        inside.then(|| (sp, usize_of((self.high - sp).min(STACK_BYTES))))
    }

    /// What must not have changed for its stack to be its own.
    fn stands_still(&self, later: &Self) -> bool {
        (self.status, self.id, self.registers, self.low) == (later.status, later.id, later.registers, later.low)
    }

    fn state(&self, layout: &Layout) -> String {
        let reason = || layout.wait_reasons.get(usize::from(self.wait_reason)).filter(|reason| !reason.is_empty());
        match self.status {
            1 => "runnable",
            RUNNING => "running",
            SYSCALL => "syscall",
            WAITING => return reason().map_or_else(|| "waiting".to_owned(), Clone::clone),
            8 => "copystack",
            9 => "preempted",
            10 => return reason().map_or_else(|| "leaked".to_owned(), |reason| format!("{reason} (leaked)")),
            _ => "???",
        }
        .to_owned()
    }
}

/// What `usize` and `u64` have in common here: lengths that are bounded.
fn usize_of(length: u64) -> usize {
    usize::try_from(length).unwrap_or(usize::MAX)
}

/// Reads all goroutines with their stacks. Which of them are the runtime's own is told by the names of where they began: that is
/// left to others.
///
/// # Errors
///
/// If memory can't be read, or what it holds can't be a list of goroutines.
pub fn read(
    memory: &impl Memory,
    places: &Places,
    bias: Bias,
) -> Result<Goroutines, GoError> {
    let globals = &places.globals;
    // The length first: the runtime changes it last, so the list is never older than it.
    let head =
        memory.read(&[(globals.allglen.wrapping_add(bias), 8), (globals.allgs.wrapping_add(bias), 16)])?;
    let total = u64_at(&head, 0).min(u64_at(&head, 16));
    let mut reader =
        Reader { memory, places, bias, options, frames: 0, out: Goroutines::default(), running: Vec::new() };
    let count = total.min(MOST);
    reader.out.left_out = total - count;
    let array = u64_at(&head, 8);
    let mut done = 0;
    while done < count {
        let now = (count - done).min(PARTS as u64);
        let bytes = memory.read(&[(array.wrapping_add(done * 8), now as usize * 8)])?;
        let addresses: Vec<u64> = bytes.chunks_exact(8).map(|word| u64_at(word, 0)).collect();
        if let Some(wrong) = addresses.iter().find(|address| **address == 0 || !address.is_multiple_of(8)) {
            return Err(GoError::Contradiction(format!("a goroutine lies at {wrong:#x}")));
        }
    }
    goroutines.list.sort_by_key(|goroutine| goroutine.id);
    Ok(goroutines)
}

/// The addresses of all `g`, and how many more there are than are read.
fn list(memory: &impl Memory, places: &Places, bias: Bias) -> Result<(Vec<u64>, u64), GoError> {
    let header = memory.read(&[(bias.live(places.globals.allgs), SLICE), (bias.live(places.globals.allglen), 8)])?;
    // The slice may have grown since the length was published, never the other way.
    let (start, length) = (u64_at(&header, 0), u64_at(&header, SLICE).min(u64_at(&header, 8)));
    let wanted = length.min(MOST);
    let mut addresses = Vec::new();
    let mut done = 0;
    while done < wanted {
        let count = (wanted - done).min(64 << 10);
        let bytes = memory.read(&[(start.wrapping_add(done * 8), usize_of(count * 8))])?;
        addresses.extend((0..usize_of(count)).map(|number| u64_at(&bytes, number * 8)));
        done += count;
    }
    if addresses.iter().any(|address| *address == 0 || !address.is_multiple_of(8)) {
        return Err(GoError::Contradiction("its list of goroutines holds what is no address".to_owned()));
    }
    Ok((addresses, length - wanted))
}

fn read_raws(memory: &impl Memory, layout: &Layout, addresses: &[u64]) -> Result<Vec<Raw>, GoError> {
    let size = usize_of(layout.g.size);
    let parts: Vec<_> = addresses.iter().map(|address| (*address, size)).collect();
    let bytes = memory.read(&parts)?;
    let each = addresses.iter().zip(bytes.chunks_exact(size.max(1)));
    Ok(each.map(|(address, bytes)| Raw::of(layout, *address, bytes)).collect())
}

/// The ids of the threads that the goroutines have, by the address of their `m`.
fn threads(memory: &impl Memory, layout: &Layout, raws: &[Raw]) -> Result<Vec<(u64, u32)>, GoError> {
    let mut addresses: Vec<u64> = raws.iter().map(|raw| raw.thread).filter(|address| *address != 0).collect();
    addresses.sort_unstable();
    addresses.dedup();
    let parts: Vec<_> = addresses.iter().map(|address| (address.wrapping_add(layout.m.procid), 8)).collect();
    let bytes = memory.read(&parts)?;
    let id = |number: usize| u32::try_from(u64_at(&bytes, number * 8)).unwrap_or(0);
    Ok(addresses.into_iter().enumerate().map(|(number, address)| (address, id(number))).collect())
}

/// A stack's addresses, or why there are none.
type Walked = Result<Vec<u64>, &'static str>;

/// The goroutines' stacks, and how many never stood still.
fn stacks(memory: &impl Memory, layout: &Layout, raws: Vec<Raw>) -> Result<(Vec<(Raw, Walked)>, u64), GoError> {
    let mut done = Vec::with_capacity(raws.len());
    let mut rest = raws;
    for _ in 0..TRIES {
        let mut moved = Vec::new();
        while !rest.is_empty() {
            // As many as there is room for, one at least.
            let mut bytes = 0;
            let fits = |raw: &Raw| {
                bytes += raw.stack().map_or(0, |(_, length)| length as u64);
                bytes <= BATCH_BYTES
            };
            let count = rest.iter().map(fits).take_while(|fits| *fits).count().max(1);
            let batch: Vec<Raw> = rest.drain(..count).collect();
            let walked = walk_all(memory, &batch);
            let addresses: Vec<u64> = batch.iter().map(|raw| raw.address).collect();
            let later = read_raws(memory, layout, &addresses)?;
            for ((raw, walked), later) in batch.into_iter().zip(walked).zip(later) {
                if raw.stands_still(&later) {
                    done.push((raw, walked));
                } else if later.is_shown() {
                    moved.push(later);
                }
            }
        }
        rest = moved;
        if rest.is_empty() {
            break;
        }
    }
    let torn = rest.len() as u64;
    done.extend(rest.into_iter().map(|raw| (raw, Err("it ran on while it was read, every time"))));
    Ok((done, torn))
}

fn walk_all(memory: &impl Memory, raws: &[Raw]) -> Vec<Walked> {
    let parts: Vec<_> = raws.iter().filter_map(Raw::stack).collect();
    let Ok(bytes) = memory.read(&parts) else {
        // One of them has been given back meanwhile: each alone then.
        return raws.iter().map(|raw| walk_alone(memory, raw)).collect();
    };
    let mut rest = bytes.as_slice();
    let each = raws.iter().map(|raw| match raw.stack() {
        Some((_, length)) => {
            let (own, others) = rest.split_at(length.min(rest.len()));
            rest = others;
            Ok(walk(raw, own))
        }
        None => without_stack(raw),
    });
    each.collect()
}

fn walk_alone(memory: &impl Memory, raw: &Raw) -> Walked {
    let Some(part) = raw.stack() else { return without_stack(raw) };
    let bytes = memory.read(&[part]).map_err(|_| "its stack can't be read")?;
    Ok(walk(raw, &bytes))
}

const fn without_stack(raw: &Raw) -> Walked {
    match raw.status {
        RUNNING => Err("it runs, and its registers are in a CPU"),
        _ => Err("its stack pointer isn't within its stack"),
    }
}

/// By frame pointers: each points to the caller's, and behind it is what the call returns to. They only go outwards.
fn walk(raw: &Raw, stack: &[u8]) -> Vec<u64> {
    let Registers { pc, sp, bp } = raw.registers;
    let mut addresses = vec![pc];
    let mut frame = bp;
    while addresses.len() < DEPTH {
        let Some(at) = frame.checked_sub(sp).map(usize_of) else { break };
        if frame.is_multiple_of(8) && at.checked_add(SLICE).is_some_and(|end| end <= stack.len()) {
            let (next, returns_to) = (u64_at(stack, at), u64_at(stack, at + 8));
            if returns_to == 0 {
                break;
            }
            addresses.push(returns_to);
            if next <= frame {
                break;
            }
            frame = next;
        } else {
            break;
        }
    }
    addresses
}

fn told(layout: &Layout, raw: &Raw, stack: Walked, thread: Option<u32>) -> Goroutine {
    let (stack, trouble) = match stack {
        Ok(stack) if raw.status == SYSCALL && layout.g.syscall_bp.is_none() => {
            (stack, Some("Go keeps no frame pointer of system calls before 1.23: its callers aren't known".to_owned()))
        }
        Ok(stack) => (stack, None),
        Err(why) => (Vec::new(), Some(why.to_owned())),
    };
    let waits = raw.status == WAITING || raw.status == SYSCALL;
    Goroutine {
        id: raw.id,
        state: raw.state(layout),
        waiting_since_ns: if waits { raw.wait_since } else { 0 },
        thread,
        running: raw.status == RUNNING,
        system: false,
        stack,
        // What a call of the scheduler or of the kernel returns to, as all others.
        first_is_exact: false,
        trouble,
        created_by: (raw.go_pc != 0).then_some((raw.go_pc, raw.parent)),
        start: raw.start,
    }
}
