//! What the runtime keeps of a goroutine (`runtime.g`), as far as it is wanted.

use crate::{
    binary::go::Layout,
    runtime::{Memory, go::GoError, u32_at, u64_at},
};

/// A larger structure is none of ours.
const LARGEST: u64 = 4096;
/// Set while the garbage collector looks at the stack (`_Gscan`).
const SCAN: u32 = 0x1000;

/// What a goroutine is doing (`_Gidle` and so on; 10 and 11 from Go 1.26).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Idle,
    Runnable,
    Running,
    Syscall,
    Waiting,
    Dead,
    Copystack,
    Preempted,
    Leaked,
    DeadExtra,
}

impl Status {
    fn of(number: u32) -> Option<Self> {
        Some(match number & !SCAN {
            0 => Self::Idle,
            1 => Self::Runnable,
            2 => Self::Running,
            3 => Self::Syscall,
            4 => Self::Waiting,
            6 => Self::Dead,
            8 => Self::Copystack,
            9 => Self::Preempted,
            10 => Self::Leaked,
            11 => Self::DeadExtra,
            _ => return None,
        })
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Runnable => "runnable",
            Self::Running => "running",
            Self::Syscall => "syscall",
            Self::Waiting => "waiting",
            Self::Dead | Self::DeadExtra => "dead",
            Self::Copystack => "copystack",
            Self::Preempted => "preempted",
            Self::Leaked => "leaked",
        }
    }
}

/// A goroutine as it was read. Equal ones have not run meanwhile, as far as this tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Raw {
    pub address: u64,
    pub status: Status,
    pub id: u64,
    pub reason: u8,
    pub start: u64,
    pub go_pc: u64,
    pub parent: Option<u64>,
    pub m: u64,
    pub locked: Option<u64>,
    /// The stack's first address, and the one behind its last.
    pub stack: (u64, u64),
    /// Where it will go on: the instruction's address, the stack's and the frame's.
    pub sched: (u64, u64, u64),
    /// The same of the caller of a system call; the frame's from Go 1.23.
    pub syscall: (u64, u64, Option<u64>),
    since: u64,
}

impl Raw {
    /// Whether there is such a goroutine, or only room for one.
    pub fn is_there(&self) -> bool {
        !matches!(self.status, Status::Idle | Status::Dead | Status::DeadExtra)
    }

    pub fn has_in_stack(&self, address: u64) -> bool {
        (self.stack.0..self.stack.1).contains(&address)
    }

    pub fn is_same(&self, later: &Self) -> bool {
        // When it began to wait is noted by the collector, while it waits.
        let later = Self { since: self.since, ..*later };
        *self == later
    }

    /// As a panic prints it.
    pub fn state(&self, layout: &Layout) -> String {
        let waits = matches!(self.status, Status::Waiting | Status::Leaked);
        let reason = layout.wait_reasons.get(usize::from(self.reason)).filter(|reason| waits && !reason.is_empty());
        let state = reason.map_or(self.status.word(), String::as_str);
        if self.status == Status::Leaked { format!("{state} (leaked)") } else { state.to_owned() }
    }

    pub fn waiting_since(&self) -> u64 {
        if matches!(self.status, Status::Waiting | Status::Syscall) { self.since } else { 0 }
    }
}

/// Reads those at some addresses, at most 1024.
pub fn read(memory: &impl Memory, layout: &Layout, addresses: &[u64]) -> Result<Vec<Raw>, GoError> {
    let size = layout.g.size;
    if size == 0 || size > LARGEST {
        return Err(GoError::Contradiction(format!("a goroutine has {size} bytes")));
    }
    let parts: Vec<_> = addresses.iter().map(|address| (*address, size as usize)).collect();
    let bytes = memory.read(&parts)?;
    addresses.iter().zip(bytes.chunks_exact(size as usize)).map(|(at, bytes)| decode(layout, *at, bytes)).collect()
}

pub fn decode(layout: &Layout, address: u64, bytes: &[u8]) -> Result<Raw, GoError> {
    let g = &layout.g;
    let word = |offset: u64| u64_at(bytes, offset as usize);
    let number = u32_at(bytes, g.status as usize);
    let status = Status::of(number)
        .ok_or_else(|| GoError::Contradiction(format!("a goroutine is in state {number}")))?;
    Ok(Raw {
        address,
        status,
        id: word(g.goid),
        reason: bytes.get(g.wait_reason as usize).copied().unwrap_or(0),
        start: word(g.start_pc),
        go_pc: word(g.go_pc),
        parent: g.parent_goid.map(word).filter(|id| *id != 0),
        m: word(g.m),
        locked: g.lockedm.map(word),
        stack: (word(g.stack_lo), word(g.stack_hi)),
        sched: (word(g.sched_pc), word(g.sched_sp), word(g.sched_bp)),
        syscall: (word(g.syscall_pc), word(g.syscall_sp), g.syscall_bp.map(word)),
        since: word(g.wait_since),
    })
}
