//! Goroutines and their stacks (Go's src/runtime/runtime2.go, traceback.go).
//!
//! A goroutine that doesn't run has its place saved, and Go's functions keep frame pointers: the stack is the chain of them.
//! The target runs on meanwhile. So everything is read twice, and what isn't the same both times is read again.

mod raw;
mod syscall;
mod walk;

use std::{
    collections::{BTreeMap, HashSet},
    time::Instant,
};

use serde::Serialize;

use super::GoError;
use crate::{
    binary::go::Places,
    runtime::{Memory, u64_at},
};

use raw::{Raw, Status};

/// Goroutines that are read.
const MOST: u64 = 1_000_000;
/// Parts that are read at once.
const PARTS: usize = 1024;
/// Frames of all stacks together: 128 MiB.
const MOST_FRAMES: usize = 16 << 20;
/// How often a goroutine is read that changes meanwhile.
const TRIES: u32 = 4;
/// Threads that are sampled at once.
pub const MOST_THREADS: usize = 64;

/// A goroutine at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Goroutine {
    /// Its id, as a panic prints it.
    pub id: u64,
    /// `running`, `runnable`, `syscall`, `waiting`, ... as a panic prints it; for those that wait, what for: `chan receive`.
    pub state: String,
    /// Since when it waits, in nanoseconds of the runtime's clock; zero: not known (the garbage collector notes it).
    pub waiting_since_ns: u64,
    /// The thread that it runs on, if any, by the id that the process itself gives it (in its own pid namespace).
    pub thread: Option<u32>,
    /// Whether it is locked to that thread (`runtime.LockOSThread`); nothing: not known.
    pub locked: Option<bool>,
    /// Whether it is the runtime's own.
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
    /// Goroutines that weren't read because there are too many, or it took too long.
    pub left_out: u64,
}

/// What a thread was doing at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ThreadSample {
    /// Its stack pointer.
    pub sp: u64,
    /// Where it was, and what its callers return to.
    pub stack: Vec<u64>,
}

/// What is known of threads, by their ids; or why nothing can be, in words.
pub type Samples = Result<BTreeMap<u32, ThreadSample>, String>;

/// What the caller knows of the process.
pub struct Options<'a> {
    /// Which of the functions at these addresses of the process, each of which is there once, are called `runtime.` something.
    /// Asked once, for all.
    pub runtimes: &'a dyn Fn(&[u64]) -> HashSet<u64>,
    /// What threads are doing, by the ids that the process itself says they have, as far as it could be seen: it may lie, so
    /// that they must be held against its real threads. At most [`MOST_THREADS`] are asked for.
    pub sample: &'a dyn Fn(&[u32]) -> Samples,
    /// When reading ends at the latest, but for what is being read just then: those that are missing are left out, and stacks
    /// that aren't at their end are cut.
    pub until: Instant,
}

/// Reads all goroutines. `bias` is what is added to the file's addresses.
///
/// # Errors
///
/// If memory can't be read, or what it holds contradicts itself.
pub fn read(
    memory: &impl Memory,
    places: &Places,
    bias: u64,
    options: &Options<'_>,
) -> Result<Goroutines, GoError> {
    let globals = &places.globals;
    // The length first: the runtime changes it last, so the list is never older than it.
    let head =
        memory.read(&[(globals.allglen.wrapping_add(bias), 8), (globals.allgs.wrapping_add(bias), 16)])?;
    let total = u64_at(&head, 0).min(u64_at(&head, 16));
    let mut reader =
        Reader { memory, places, bias, options, frames: 0, out: Goroutines::default(), running: Vec::new() };
    let count = total.min(MOST);
    reader.out.left_out = total;
    let array = u64_at(&head, 8);
    let mut done = 0;
    while done < count && Instant::now() < options.until {
        let now = (count - done).min(PARTS as u64);
        let bytes = memory.read(&[(array.wrapping_add(done * 8), now as usize * 8)])?;
        let addresses: Vec<u64> = bytes.chunks_exact(8).map(|word| u64_at(word, 0)).collect();
        if let Some(wrong) = addresses.iter().find(|address| **address == 0 || !address.is_multiple_of(8)) {
            return Err(GoError::Contradiction(format!("a goroutine lies at {wrong:#x}")));
        }
        reader.batch(addresses)?;
        done += now;
        reader.out.left_out -= now;
    }
    reader.running_ones()?;
    reader.tell_systems();
    let mut out = reader.out;
    out.list.sort_by_key(|goroutine| goroutine.id);
    Ok(out)
}

struct Reader<'a, M> {
    memory: &'a M,
    places: &'a Places,
    bias: u64,
    options: &'a Options<'a>,
    /// Frames that are kept so far.
    frames: usize,
    out: Goroutines,
    /// Those that run: their place in the list, and what was read of them.
    running: Vec<(usize, Raw)>,
}

impl<M: Memory> Reader<'_, M> {
    /// Reads goroutines of some addresses, those that change more than once.
    fn batch(&mut self, mut addresses: Vec<u64>) -> Result<(), GoError> {
        for attempt in 1..=TRIES {
            let raws = raw::read(self.memory, &self.places.layout, &addresses)?;
            let raws: Vec<Raw> = raws.into_iter().filter(Raw::is_there).collect();
            let stacks = walk::stacks(self.memory, &self.places.layout, &raws, self.options.until)?;
            let again = attempt < TRIES && Instant::now() < self.options.until;
            addresses.clear();
            for (raw, stack) in raws.into_iter().zip(stacks) {
                match stack {
                    Ok(stack) => self.add(raw, stack),
                    Err(walk::Changed) if again => addresses.push(raw.address),
                    Err(walk::Changed) => {
                        self.out.torn += 1;
                        self.add(raw, walk::Walked::without("it changed while it was read"));
                    }
                }
            }
            if addresses.is_empty() {
                break;
            }
        }
        Ok(())
    }

    fn add(&mut self, raw: Raw, mut walked: walk::Walked) {
        if self.frames + walked.stack.len() > MOST_FRAMES {
            walked = walk::Walked::without("there are too many frames in all");
        }
        self.frames += walked.stack.len();
        if raw.status == Status::Running {
            self.running.push((self.out.list.len(), raw));
        }
        self.out.list.push(Goroutine {
            id: raw.id,
            state: raw.state(&self.places.layout),
            waiting_since_ns: raw.waiting_since(),
            thread: None,
            locked: raw.locked.map(|thread| thread != 0),
            system: false,
            stack: walked.stack,
            first_is_exact: walked.first_is_exact,
            trouble: walked.trouble,
            created_by: (raw.go_pc != 0).then_some((raw.go_pc, raw.parent)),
            start: raw.start,
        });
    }

    /// Tells the runtime's own goroutines by their first functions.
    fn tell_systems(&mut self) {
        let list = &mut self.out.list;
        let user = |start: u64| self.places.user_starts.contains(&start.wrapping_sub(self.bias));
        let starts: HashSet<u64> =
            list.iter().map(|goroutine| goroutine.start).filter(|start| !user(*start)).collect();
        let starts: Vec<u64> = starts.into_iter().collect();
        let systems = (self.options.runtimes)(&starts);
        for goroutine in list {
            goroutine.system = systems.contains(&goroutine.start) && !user(goroutine.start);
        }
    }

    /// Stacks of those that run, by one sample of their threads. It is taken for a goroutine's if its thread ran that goroutine
    /// before and after, and if the stack pointer was in its stack.
    fn running_ones(&mut self) -> Result<(), GoError> {
        let running = std::mem::take(&mut self.running);
        let before = self.threads(&running)?;
        let mut wanted: Vec<u32> = before.iter().flatten().copied().collect();
        wanted.truncate(MOST_THREADS);
        let samples = if wanted.is_empty() { Ok(BTreeMap::new()) } else { (self.options.sample)(&wanted) };
        let after = self.threads(&running)?;
        for (((place, raw), before), after) in running.iter().zip(before).zip(after) {
            let Some(goroutine) = self.out.list.get_mut(*place) else { continue };
            goroutine.thread = before;
            let sample =
                before.filter(|_| before == after).and_then(|thread| samples.as_ref().ok()?.get(&thread));
            match sample {
                Some(sample) if raw.has_in_stack(sample.sp) => {
                    goroutine.stack = sample.stack.iter().copied().take(crate::stack::MAX_FRAMES).collect();
                    goroutine.first_is_exact = true;
                    goroutine.trouble = None;
                }
                Some(_) => goroutine.trouble = Some("it was in the runtime, on another stack".to_owned()),
                None => {
                    let why = samples.as_ref().err().map_or("there is no sample of it", String::as_str);
                    goroutine.trouble = Some(format!("it was running, and {why}"));
                }
            }
        }
        Ok(())
    }

    /// The threads that run these goroutines, as far as they still do.
    fn threads(&self, running: &[(usize, Raw)]) -> Result<Vec<Option<u32>>, GoError> {
        let m = &self.places.layout.m;
        let mut threads = Vec::with_capacity(running.len());
        for (_, raw) in running {
            if raw.m == 0 || Instant::now() >= self.options.until {
                threads.push(None);
                continue;
            }
            let parts = [(raw.m.wrapping_add(m.curg), 8), (raw.m.wrapping_add(m.procid), 8)];
            // Threads' structures are freed: that one isn't there is no failure of all.
            let Ok(bytes) = self.memory.read(&parts) else {
                threads.push(None);
                continue;
            };
            let thread = u32::try_from(u64_at(&bytes, 8)).ok().filter(|thread| *thread > 0);
            threads.push(thread.filter(|_| u64_at(&bytes, 0) == raw.address));
        }
        Ok(threads)
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    /// Every word is seven.
    struct Sevens;

    impl Memory for Sevens {
        fn read(&self, parts: &[(u64, usize)]) -> io::Result<Vec<u8>> {
            let words: usize = parts.iter().map(|(_, length)| length / 8).sum();
            Ok(7u64.to_le_bytes().repeat(words))
        }
    }

    #[test]
    fn goroutines_that_there_is_no_time_for_are_counted_as_left_out() {
        let options = Options {
            runtimes: &|_: &[u64]| HashSet::new(),
            sample: &|_: &[u32]| Ok(BTreeMap::new()),
            until: Instant::now(),
        };
        let read = read(&Sevens, &Places::default(), 0, &options);
        assert_eq!(read, Ok(Goroutines { left_out: 7, ..Goroutines::default() }));
    }
}
