//! Looks in processes' memory for what still points to old blocks. On a thread of its own: reading may take seconds.

use std::{
    collections::HashMap,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Order, chase::Chase};
use crate::{
    leaks::Source,
    leaks::ledger::{Candidate, Looked},
    target::{MemoryFiles, Process},
    worker::references::{Block, Memory, Pages, SearchRange, search},
};

/// How often a process's memory is searched, at most.
pub(super) const SEARCH: Duration = Duration::from_secs(5);
/// Between the searches of two processes.
const PAUSE: Duration = Duration::from_millis(100);
/// All searches together take this part of a CPU at most: one hundredth.
const SEARCH_PACE: u32 = 100;
/// After so many bytes,
const REST_AFTER: usize = 1 << 20;
/// the search rests so long, for the process's sake: while memory is read, it waits where it maps any.
const REST: Duration = Duration::from_millis(1);
/// A search that takes longer is given up: some 30 GiB.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a search came to.
pub struct Found {
    /// Whose memory.
    pub pid: u32,
    /// What was seen of each block; nothing if the search says nothing.
    pub looked: Vec<Looked>,
    /// Why it says nothing.
    pub trouble: Option<String>,
    /// CPU time that it took.
    pub took: Duration,
}

impl Chase {
    /// Begins to look for what points to old blocks, in the process that has most of them.
    pub(super) fn search(&mut self) {
        if self.searching || !self.settings.references {
            return;
        }
        let now_ns = crate::kernel::now_ns();
        let mut best: Option<(u32, Vec<_>, (u64, usize))> = None;
        for books in
            self.books.iter().filter(|books| books.source == Ok(Source::Allocator) && books.living > 0)
        {
            let mut by_pid: HashMap<u32, Vec<_>> = HashMap::new();
            for candidate in books.ledger.candidates(now_ns) {
                by_pid.entry(candidate.pid).or_default().push(candidate);
            }
            for (pid, candidates) in by_pid {
                let searched = self.searched.get(&pid).copied();
                if searched.is_some_and(|at| at.elapsed() < SEARCH) {
                    continue;
                }
                let rank =
                    (searched.map_or(u64::MAX, |at: Instant| at.elapsed().as_secs()), candidates.len());
                if best.as_ref().is_none_or(|(_, _, known)| rank > *known) {
                    best = Some((pid, candidates, rank));
                }
            }
        }
        let Some((pid, candidates, _)) = best else { return };
        let Some(hunted) = self.processes.values().find(|hunted| hunted.pid() == pid) else { return };
        let handle = self.handle.clone();
        let begun = begin(Arc::clone(&hunted.subject.process), candidates, move |order| handle.tell(order));
        match begun {
            Ok(()) => self.searching = true,
            Err(error) => tracing::debug!("can't start a thread: {error}"),
        }
    }

    pub(super) fn found(&mut self, found: &Found) {
        self.searching = false;
        self.searched.retain(|_, at| at.elapsed() < Duration::from_secs(3600));
        self.searched.insert(found.pid, Instant::now());
        self.due.search = Instant::now() + PAUSE.max(found.took * SEARCH_PACE);
        let group = self.processes.values().find(|hunted| hunted.pid() == found.pid);
        let Some(group) = group.map(|hunted| Arc::clone(&hunted.subject.group)) else { return };
        if let Some(books) = self.books.iter_mut().find(|books| books.name == group) {
            books.ledger.set_unreferenced(&found.looked, crate::kernel::now_ns());
            books.search_trouble.clone_from(&found.trouble);
        }
    }
}

/// Begins to search; the answer comes as an order.
fn begin(
    process: Arc<Process>,
    candidates: Vec<Candidate>,
    answers: impl Fn(Order) + Send + 'static,
) -> std::io::Result<()> {
    std::thread::Builder::new().name("profiler-search".to_owned()).spawn(move || {
        let (looked, trouble) = match look(&process, &candidates, Instant::now() + PATIENCE) {
            Ok(looked) => (looked, None),
            Err(trouble) => (Vec::new(), Some(trouble)),
        };
        // Since the thread began, so all of it is the search's. On a busy machine the time that passed would say nothing.
        let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        let took = Duration::new(cpu.tv_sec.unsigned_abs(), u32::try_from(cpu.tv_nsec).unwrap_or(0));
        answers(Order::Found(Found { pid: process.pid(), looked, trouble, took }));
    })?;
    Ok(())
}

/// Memory that is read with rests.
struct Paced {
    files: MemoryFiles,
    /// Bytes since the last rest.
    read: usize,
}

impl Memory for Paced {
    fn pages(&mut self, range: &SearchRange) -> io::Result<Option<Pages>> {
        Memory::pages(&mut self.files, range)
    }

    fn read(&mut self, address: u64, into: &mut [u8]) -> io::Result<usize> {
        if self.read >= REST_AFTER {
            self.read = 0;
            std::thread::sleep(REST);
        }
        let got = Memory::read(&mut self.files, address, into)?;
        self.read += got;
        Ok(got)
    }
}

fn look(process: &Process, candidates: &[Candidate], until: Instant) -> Result<Vec<Looked>, String> {
    let words = |error: &dyn std::error::Error| error.to_string();
    let plan = process.search_plan().map_err(|error| words(&error))?;
    if plan.ranges.is_empty() {
        // Its main thread has ended, and others go on.
        return Err("its memory can't be seen".to_owned());
    }
    let files = process.memory_files().map_err(|error| words(&error))?;
    let mut memory = Paced { files, read: 0 };
    let ranges: Vec<SearchRange> =
        plan.ranges.into_iter().map(|(addresses, shared)| SearchRange { addresses, shared }).collect();
    let blocks: Vec<Block> =
        candidates.iter().map(|one| Block { start: one.address, size: one.bytes }).collect();
    let found = search(&blocks, &ranges, &plan.roots, &mut memory, || Instant::now() < until)
        .map_err(|error| words(&error))?;
    let complete = found.is_complete();
    let looked = candidates.iter().zip(&found.referenced).zip(&found.doubtful);
    // What was found is true in any case; that nothing was found means something only if everything was searched.
    let looked: Vec<Looked> = looked
        .filter(|((_, referenced), doubtful)| **referenced || (complete && !**doubtful))
        .map(|((one, referenced), _)| Looked { id: one.id, referenced: *referenced })
        .collect();
    if complete {
        return Ok(looked);
    }
    Err(if found.swapped_pages > 0 {
        format!("{} pages of its memory are swapped out", found.swapped_pages)
    } else if found.ended_early {
        "its memory is too large to be searched in a minute".to_owned()
    } else {
        format!("{} bytes of its memory can't be read", found.unreadable)
    })
}
