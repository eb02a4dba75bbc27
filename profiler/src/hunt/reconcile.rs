//! The books against the kernel's map of live samples: what the ring had no room to tell is found out here.

use std::collections::{HashMap, HashSet};

use profiler_common::sample::LiveKey;

use super::chase::Chase;
use crate::leaks::Source;

impl Chase {
    /// Compares the books with the kernel's map: frees that weren't told, and blocks that nobody knows.
    pub(super) fn reconcile(&mut self) {
        let asked_ns = crate::kernel::now_ns();
        let Some(live) = &self.live else { return };
        let entries = match live.entries() {
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
                if self.live.as_ref().is_some_and(|live| live.get(&key).is_ok_and(|there| there != Some(id)))
                {
                    books.ledger.gone(id, asked_ns);
                }
            }
            books.ledger.confirmed(asked_ns);
        }
        let booked: HashSet<u64> = self.books.iter().flat_map(|books| books.ledger.live_ids()).collect();
        for (key, id) in entries.iter().filter(|(_, id)| !booked.contains(id)) {
            self.forget_block(key, *id);
        }
    }
}
