//! Stacks of goroutines that don't run, by their frame pointers.

use std::time::Instant;

use super::{
    PARTS,
    raw::{self, Raw, Status},
    syscall,
};
use crate::{
    binary::go::Layout,
    runtime::{Memory, go::GoError, u64_at},
    stack::MAX_FRAMES,
};

/// Bytes of one stack that are read at once; there may be more.
const WINDOW: u64 = 64 << 10;
/// Bytes of all stacks that are read at once.
const AT_ONCE: u64 = 8 << 20;

/// It isn't what it was.
#[derive(Debug)]
pub struct Changed;

/// A stack.
#[derive(Debug, Default)]
pub struct Walked {
    pub stack: Vec<u64>,
    pub first_is_exact: bool,
    pub trouble: Option<String>,
}

impl Walked {
    pub fn without(why: &str) -> Self {
        Self { trouble: Some(why.to_owned()), ..Self::default() }
    }
}

/// A chain being followed.
struct Chain {
    walked: Walked,
    /// The next frame; zero at the end.
    frame: u64,
    /// What of the stack led here: first and last address.
    extent: (u64, u64),
}

impl Chain {
    fn without(why: &str) -> Self {
        Self { walked: Walked::without(why), frame: 0, extent: (0, 0) }
    }

    fn start(memory: &impl Memory, raw: &Raw) -> Self {
        let ((pc, sp, bp), exact) = match raw.status {
            Status::Running => return Self::without("it runs"),
            Status::Copystack => return Self::without("its stack is being moved"),
            Status::Syscall => {
                let (pc, sp, bp) = raw.syscall;
                // Before Go 1.23 the frame isn't noted; where it is, the caller's code tells.
                ((pc, sp, bp.or_else(|| syscall::frame(memory, pc, sp)).unwrap_or(0)), false)
            }
            // A new one is at its first instruction.
            _ => (raw.sched, raw.sched.0 == raw.start),
        };
        let (low, high) = raw.stack;
        if pc == 0 || sp < low || sp > high || low >= high {
            return Self::without("where it goes on isn't in its stack");
        }
        let mut walked = Walked { stack: vec![pc], first_is_exact: exact, trouble: None };
        if raw.status == Status::Syscall && bp == 0 {
            walked.trouble = Some("before Go 1.23 frames aren't noted at system calls".to_owned());
        }
        Self { walked, frame: bp, extent: (sp, sp) }
    }

    /// Follows it through bytes of the stack that begin at `base`.
    fn follow(&mut self, raw: &Raw, base: u64, bytes: &[u8]) {
        while self.frame != 0 {
            let high = raw.stack.1;
            if self.frame < self.extent.1
                || !self.frame.is_multiple_of(8)
                || self.frame > high.saturating_sub(16)
            {
                self.stop("a frame isn't in its stack");
                return;
            }
            if self.walked.stack.len() >= MAX_FRAMES {
                self.stop("it has more frames than are shown");
                return;
            }
            let offset = (self.frame - base) as usize;
            if offset + 16 > bytes.len() {
                return;
            }
            let (next, back) = (u64_at(bytes, offset), u64_at(bytes, offset + 8));
            self.extent.1 = self.frame + 16;
            if back == 0 {
                self.frame = 0;
                return;
            }
            self.walked.stack.push(back);
            self.frame = next;
        }
    }

    fn stop(&mut self, why: &str) {
        self.frame = 0;
        self.walked.trouble = Some(why.to_owned());
    }
}

/// The stacks of some goroutines, at most 1024, in their order. From `until` on none is followed any further.
pub fn stacks(
    memory: &impl Memory,
    layout: &Layout,
    raws: &[Raw],
    until: Instant,
) -> Result<Vec<Result<Walked, Changed>>, GoError> {
    let mut chains: Vec<Chain> = raws.iter().map(|raw| Chain::start(memory, raw)).collect();
    // Each round reads on where the last one ended; a chain only goes up, so there is an end.
    let mut first = true;
    for _ in 0..MAX_FRAMES {
        let window = |(raw, chain): (&Raw, &Chain)| {
            let base = if first { chain.extent.0 } else { chain.frame };
            let length = raw.stack.1.saturating_sub(base).min(WINDOW) & !7;
            let wanted = chain.frame >= base && chain.frame != 0 && length >= 16;
            (base, if wanted { length } else { 0 })
        };
        let windows: Vec<_> = raws.iter().zip(&chains).map(window).collect();
        if windows.iter().all(|(_, length)| *length == 0) && !first {
            break;
        }
        if Instant::now() >= until {
            chains
                .iter_mut()
                .filter(|chain| chain.frame != 0)
                .for_each(|chain| chain.stop("it took too long"));
            break;
        }
        let read = read_all(memory, &windows);
        for (((raw, chain), (base, length)), bytes) in raws.iter().zip(&mut chains).zip(windows).zip(read) {
            match bytes {
                Some(bytes) if length > 0 => chain.follow(raw, base, &bytes),
                None => chain.stop("its stack can't be read"),
                Some(_) if chain.frame != 0 => chain.stop("a frame isn't in its stack"),
                Some(_) => {}
            }
        }
        first = false;
    }
    unchanged(memory, layout, raws, chains)
}

/// What is at some addresses; nothing where it can't be read.
fn read_all(memory: &impl Memory, windows: &[(u64, u64)]) -> Vec<Option<Vec<u8>>> {
    let mut all = Vec::with_capacity(windows.len());
    let mut rest = windows;
    while !rest.is_empty() {
        let mut sum = 0;
        let fits = |(_, length): &&(u64, u64)| {
            sum += *length;
            sum <= AT_ONCE
        };
        let count = rest.iter().take(PARTS).take_while(fits).count().max(1);
        let (now, later) = rest.split_at(count);
        rest = later;
        let parts: Vec<_> = now.iter().map(|(base, length)| (*base, *length as usize)).collect();
        let Ok(bytes) = memory.read(&parts) else {
            all.extend(parts.iter().map(|part| memory.read(&[*part]).ok()));
            continue;
        };
        let mut bytes = bytes.as_slice();
        for (_, length) in parts {
            let (mine, others) = bytes.split_at_checked(length).unwrap_or((bytes, &[]));
            bytes = others;
            all.push(Some(mine.to_vec()));
        }
    }
    all
}

/// Reads all once more. A goroutine that ran meanwhile and waits at the same place again would be missed by its state alone:
/// so the chain is followed again, too.
fn unchanged(
    memory: &impl Memory,
    layout: &Layout,
    raws: &[Raw],
    chains: Vec<Chain>,
) -> Result<Vec<Result<Walked, Changed>>, GoError> {
    let extent = |chain: &Chain| (chain.extent.0, (chain.extent.1 - chain.extent.0).min(WINDOW));
    let extents: Vec<_> = chains.iter().map(extent).collect();
    let again = read_all(memory, &extents);
    let addresses: Vec<u64> = raws.iter().map(|raw| raw.address).collect();
    let later = raw::read(memory, layout, &addresses)?;
    let results = raws.iter().zip(later).zip(chains).zip(again).map(|(((raw, later), chain), bytes)| {
        let first = chain.walked.stack.first().copied();
        let same = bytes.is_some_and(|bytes| {
            let mut second =
                Chain { frame: 0, walked: Walked::default(), extent: (chain.extent.0, chain.extent.0) };
            second.walked.stack.extend(first);
            second.frame = if bytes.is_empty() { 0 } else { chain.walked_from(raw, memory) };
            second.follow(raw, chain.extent.0, &bytes);
            chain.walked.stack.starts_with(&second.walked.stack)
                && (chain.extent.1 - chain.extent.0 > WINDOW
                    || second.walked.stack.len() == chain.walked.stack.len())
        });
        if raw.is_same(&later) && same { Ok(chain.walked) } else { Err(Changed) }
    });
    Ok(results.collect())
}

impl Chain {
    /// The frame at which it began.
    fn walked_from(&self, raw: &Raw, memory: &impl Memory) -> u64 {
        match raw.status {
            Status::Syscall => {
                let (pc, sp, bp) = raw.syscall;
                bp.or_else(|| syscall::frame(memory, pc, sp)).unwrap_or(0)
            }
            _ => raw.sched.2,
        }
    }
}
