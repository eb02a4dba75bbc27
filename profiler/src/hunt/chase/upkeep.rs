//! What the hunt does now and then: keeping the pace, comparing the books with the kernel's map, searching memory.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use profiler_common::sample::{LARGEST_MEAN, LiveKey};

use super::{Chase, ENOUGH, SEARCH, SEARCH_PACE};
use crate::{
    hunt::search::{self, Found},
    leaks::Source,
};

impl Chase {
    /// Raises the mean of a target that has too many samples, and lowers it again.
    pub(super) fn keep_pace(&mut self) {
        let drawn = std::mem::take(&mut self.drawn);
        let all: u64 = drawn.values().sum();
        for hunted in self.processes.values() {
            let (mean, own) = (hunted.mean(), drawn.get(&hunted.subject.slot).copied().unwrap_or(0));
            let busy = own * (self.processes.len() as u64) >= all && own > 0;
            let new = if all > ENOUGH && busy {
                (mean * 2).min(LARGEST_MEAN)
            } else if all < ENOUGH / 4 && mean > hunted.base {
                (mean / 2).max(hunted.base)
            } else {
                continue;
            };
            if new == mean {
                continue;
            }
            hunted.subject.mean.store(new, Ordering::Relaxed);
            if let Some(books) = self.books.iter_mut().find(|books| books.name == hunted.subject.group) {
                books.mean = new;
                books.ledger.sampled_every(new);
            }
        }
    }

    /// Compares the books with the kernel's map: frees that weren't told, and blocks that nobody knows.
    pub(super) fn reconcile(&mut self) {
        let asked_ns = crate::kernel::now_ns();
        let entries = match self.live.entries() {
            Ok(entries) => entries,
            Err(error) => {
                tracing::debug!("{error}");
                return;
            }
        };
        // What was told before the walk is booked before the comparison.
        self.take_samples(usize::MAX);
        let known: HashSet<u64> = entries.iter().map(|(_, id)| *id).collect();
        let slots: HashMap<u32, u32> =
            self.processes.values().map(|hunted| (hunted.pid(), hunted.subject.slot)).collect();
        for books in self.books.iter_mut().filter(|books| books.source == Ok(Source::Allocator)) {
            for (id, pid, epoch, address, at_ns) in books.ledger.all_living() {
                if at_ns >= asked_ns || known.contains(&id) {
                    continue;
                }
                let Some(&slot) = slots.get(&pid) else { continue };
                let key = LiveKey { slot, epoch, address };
                if self.live.get(&key).is_ok_and(|there| there != Some(id)) {
                    books.ledger.gone(id, asked_ns);
                }
            }
            books.ledger.confirmed(asked_ns);
        }
        let booked: HashSet<u64> = self.books.iter().flat_map(|books| books.ledger.live_ids()).collect();
        for (key, id) in entries.iter().filter(|(_, id)| !booked.contains(id)) {
            if let Err(error) = self.live.remove(key, *id) {
                tracing::debug!("{error}");
            }
        }
    }

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
        let begun =
            search::begin(Arc::clone(&hunted.subject.process), candidates, move |order| handle.tell(order));
        match begun {
            Ok(()) => self.searching = true,
            Err(error) => tracing::debug!("can't start a thread: {error}"),
        }
    }

    pub(super) fn found(&mut self, found: &Found) {
        self.searching = false;
        self.searched.retain(|_, at| at.elapsed() < Duration::from_secs(3600));
        self.searched.insert(found.pid, Instant::now());
        self.due.search = Instant::now() + SEARCH.max(found.took * SEARCH_PACE);
        let group = self.processes.values().find(|hunted| hunted.pid() == found.pid);
        let Some(group) = group.map(|hunted| Arc::clone(&hunted.subject.group)) else { return };
        if let Some(books) = self.books.iter_mut().find(|books| books.name == group) {
            books.ledger.set_unreferenced(&found.looked, crate::kernel::now_ns());
            books.search_trouble.clone_from(&found.trouble);
        }
    }
}
