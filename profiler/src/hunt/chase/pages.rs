//! Samples that are pages.

use std::time::Duration;

use profiler_common::sample::{LiveKey, SampleHeader};

use super::Chase;
use crate::{hunt::hunted::Look, kernel::now_ns, leaks::Source, target::PAGE};

/// A page is there so long after the fault at the latest, usually: 2 MiB may have to be zeroed first, by a thread that others
/// hold up. Samples that have waited longer in the ring aren't waited for.
const MADE_NS: u64 = 20_000_000;
/// What is waited between two looks.
const MAKING: Duration = Duration::from_millis(1);

impl Chase {
    /// A page was touched. What it is shows only now: the kernel side is told of a touch before the page is made.
    pub(super) fn page(&mut self, header: &SampleHeader, stack: &[u8]) {
        let mut header = *header;
        header.address &= !(PAGE - 1);
        let known = self.hunted(&header).is_some();
        if known {
            self.keep_pace(&header);
        }
        if !known || !self.keeps(&mut header) || !self.book(&header, stack, Source::Growth) {
            let key = LiveKey { slot: header.slot, epoch: header.epoch, address: header.address };
            if let Some(hunted) = self.processes.get_mut(&header.slot) {
                hunted.forget_page(header.address, header.id);
            }
            self.forget_live(&key, header.id);
        }
    }

    /// Whether a page is one that makes its process grow. Its bytes are those that the touch has brought: all of a huge page,
    /// unless parts of that were touched before one by one. (That any one of its small pages would have been chosen was as
    /// likely as for a small page alone, so that the weight is the same.)
    fn keeps(&mut self, header: &mut SampleHeader) -> bool {
        let Some(hunted) = self.processes.get_mut(&header.slot) else { return false };
        if !hunted.grows_at(header.address) {
            return false;
        }
        let mut look = hunted.look_at_page(header.address);
        while look == Look::Gone && now_ns().saturating_sub(header.at_ns) < MADE_NS {
            std::thread::sleep(MAKING);
            look = hunted.look_at_page(header.address);
        }
        match look {
            Look::Shared => return false,
            Look::Huge(bytes) => header.bytes = bytes,
            // What is gone by now was there for a moment: the next look at all pages says so.
            Look::Small | Look::Gone => (),
        }
        if let Some(earlier) = hunted.pages.insert(header.address, header.id)
            && let Some(books) = self.books_of(header.slot)
        {
            // It was given back and touched anew between two looks.
            books.ledger.gone(earlier, header.at_ns);
        }
        true
    }

    pub(super) fn look_up_pages(&mut self) {
        let now_ns = now_ns();
        let mut gone = Vec::new();
        let mut silent = Vec::new();
        for hunted in self.processes.values_mut().filter(|hunted| !hunted.pages.is_empty()) {
            let Some(books) = self.books.iter_mut().find(|books| books.name == hunted.subject.group) else {
                continue;
            };
            let addresses: Vec<u64> = hunted.pages.keys().copied().collect();
            let states =
                hunted.subject.process.pagemap().ok().and_then(|pages| pages.states(&addresses).ok());
            // Without an answer nothing is known.
            let Some(states) = states else {
                silent.push(std::sync::Arc::clone(&books.name));
                continue;
            };
            for (address, _) in addresses.iter().zip(&states).filter(|(_, state)| !state.is_own()) {
                if let Some(id) = hunted.pages.remove(address) {
                    books.ledger.gone(id, now_ns);
                    let (slot, epoch) = (hunted.subject.slot, hunted.epoch);
                    gone.push((LiveKey { slot, epoch, address: *address }, id));
                }
            }
        }
        // Only when all of it is booked, and only where everybody has answered.
        for books in self.books.iter_mut().filter(|books| books.source == Ok(Source::Growth)) {
            if !silent.contains(&books.name) {
                books.ledger.confirmed(now_ns);
            }
        }
        for (key, id) in gone {
            self.forget_live(&key, id);
        }
    }

    /// The pages of a process's present program aren't samples any more.
    pub(super) fn forget_pages(&mut self, slot: u32) {
        let Some(hunted) = self.processes.get_mut(&slot) else { return };
        let epoch = hunted.epoch;
        for (address, id) in std::mem::take(&mut hunted.pages) {
            self.forget_live(&LiveKey { slot, epoch, address }, id);
        }
    }
}
