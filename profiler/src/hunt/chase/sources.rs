//! Whose samples are booked. A target's books know one source: bytes of blocks and bytes of pages can't be added up.
//!
//! It is the source of those of its living processes that hold most anonymous memory; once there are books, they change only
//! when the others hold more than twice as much, and then they begin anew. Samples of processes with the other source are
//! counted (`other_source`).

use std::sync::Arc;

use profiler_common::sample::LiveKey;

use super::Chase;
use crate::{
    hunt::{hunted::Hunted, sites::SiteNumber, this_moment},
    leaks::Source,
};

/// See the text above.
const MUCH_MORE: u64 = 2;

/// The source of those that hold most; the present one, unless those of another hold much more than its own.
fn choose(present: Option<Source>, holds: &[(Source, u64)]) -> Option<Source> {
    // Of equal ones the first.
    let most = holds.iter().rev().max_by_key(|(_, held)| held).filter(|(_, held)| *held > 0)?;
    let of_present = holds.iter().find(|(source, _)| Some(*source) == present).map_or(0, |(_, held)| *held);
    match present {
        Some(present) if of_present > 0 && most.1 <= MUCH_MORE.saturating_mul(of_present) => Some(present),
        _ => Some(most.0),
    }
}

impl Chase {
    pub(in crate::hunt) fn replaced(&mut self, slot: u32, epoch: u32) {
        let Some(hunted) = self.processes.get_mut(&slot) else { return };
        if hunted.epoch == epoch {
            return;
        }
        let (pid, before) = (hunted.pid(), hunted.epoch);
        let group = Arc::clone(&hunted.subject.group);
        self.names.forget(pid);
        self.forget_pages(slot);
        self.forget_blocks(slot, pid, &group, Some(before));
        if let Some(hunted) = self.processes.get_mut(&slot) {
            hunted.epoch = epoch;
            let before = std::mem::take(&mut hunted.before_bytes);
            if let Some(books) = self.books.iter_mut().find(|books| books.name == group) {
                books.forget_before(before);
            }
            hunted.changed();
        }
    }

    /// What lived in a process, or in its program of one epoch, lives no more.
    pub(super) fn forget_blocks(&mut self, slot: u32, pid: u32, group: &Arc<str>, epoch: Option<u32>) {
        let Some(books) = self.books.iter_mut().find(|books| books.name == *group) else { return };
        for (id, epoch, address) in books.ledger.living_in(pid, epoch) {
            if let Some(live) = &mut self.live
                && let Err(error) = live.remove(&LiveKey { slot, epoch, address }, id)
            {
                tracing::debug!("{error}");
            }
        }
        books.ledger.process_ended(pid, epoch, crate::kernel::now_ns());
    }

    /// A process's samples come from there now.
    pub(super) fn change_source(
        &mut self,
        slot: u32,
        source: Result<Source, String>,
        not_sampled: &[&'static str],
    ) {
        let known = self.processes.get(&slot);
        if known.is_some_and(|hunted| hunted.subject.source.is_ok() && hunted.subject.source != source) {
            // What it did before belongs to the source before.
            self.take_samples(usize::MAX);
        }
        let Some(hunted) = self.processes.get_mut(&slot) else { return };
        let (pid, group) = (hunted.pid(), Arc::clone(&hunted.subject.group));
        let before = std::mem::replace(&mut hunted.subject.source, source);
        let same = before == hunted.subject.source;
        if before.is_ok() && !same {
            // Nobody tells of their ends any more.
            self.forget_pages(slot);
            self.forget_blocks(slot, pid, &group, None);
        }
        let Some(index) = self.books.iter().position(|books| books.name == group) else { return };
        self.books[index].not_sampled.extend(not_sampled);
        self.settle_source(index);
    }

    /// Decides what a target's books hold.
    pub(in crate::hunt) fn settle_source(&mut self, index: usize) {
        let Some(books) = self.books.get(index) else { return };
        let of_target: Vec<&Hunted> =
            self.processes.values().filter(|hunted| hunted.subject.group == books.name).collect();
        let have = |source: Source| of_target.iter().any(|one| one.subject.source == Ok(source));
        let several = Source::ALL.into_iter().filter(|source| have(*source)).count() > 1;
        let held = |source: Source| -> u64 {
            let theirs = of_target.iter().filter(|one| one.subject.source == Ok(source));
            let each = theirs.map(|one| match several {
                // Whoever is there counts, however little it holds.
                true => one.subject.process.usage().map_or(0, |usage| usage.anonymous_memory_bytes) + 1,
                false => 1,
            });
            each.sum()
        };
        if of_target.is_empty() {
            return;
        }
        let holds = Source::ALL.map(|source| (source, held(source)));
        let (present, booked) = (books.source.as_ref().ok().copied(), books.booked);
        let chosen = choose(present, &holds).ok_or_else(|| {
            let reason = of_target.iter().find_map(|hunted| hunted.subject.source.clone().err());
            reason.unwrap_or_default()
        });
        if chosen == books.source {
            return;
        }
        let mean = chosen.as_ref().ok().map(|source| self.settings.mean(*source));
        if booked.is_some_and(|booked| chosen.as_ref().is_ok_and(|chosen| *chosen != booked)) {
            self.begin_books_anew(index);
        }
        let books = &mut self.books[index];
        books.booked = chosen.as_ref().ok().copied().or(books.booked);
        books.source = chosen;
        if let Some(mean) = mean {
            books.mean = mean;
            books.ledger.sampled_every(mean);
            self.sample_at_its_mean(index);
        }
    }

    /// What is on the books was told by another source.
    fn begin_books_anew(&mut self, index: usize) {
        for (id, pid, epoch, address, _) in self.books[index].ledger.all_living() {
            let Some(hunted) = self.processes.values_mut().find(|hunted| hunted.pid() == pid) else {
                continue;
            };
            let key = LiveKey { slot: hunted.subject.slot, epoch, address };
            hunted.forget_page(address, id);
            self.forget_live(&key, id);
        }
        for (site, _) in self.books[index].ledger.sites() {
            self.sites.release(SiteNumber(site.0), true);
        }
        let limits = self.settings.limits();
        let of_target =
            self.processes.values().filter(|hunted| hunted.subject.group == self.books[index].name);
        let processes = of_target.map(|hunted| Arc::clone(&hunted.subject.process)).collect::<Vec<_>>();
        self.books[index].begin_anew(&processes, this_moment(), limits);
    }

    /// A sample, block or page, isn't to be told of any more.
    pub(super) fn forget_live(&mut self, key: &LiveKey, id: u64) {
        if let Some(pages) = &mut self.live_pages
            && let Err(error) = pages.remove(key, id)
        {
            tracing::debug!("{error}");
        }
        self.forget_block(key, id);
    }

    /// The same of a block.
    pub(in crate::hunt) fn forget_block(&mut self, key: &LiveKey, id: u64) {
        if let Some(live) = &mut self.live
            && let Err(error) = live.remove(key, id)
        {
            tracing::debug!("{error}");
        }
    }
}
