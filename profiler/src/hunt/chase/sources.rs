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

impl Chase {
    pub(super) fn replaced(&mut self, slot: u32, epoch: u32) {
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
            if let Err(error) = self.live.remove(&LiveKey { slot, epoch, address }, id) {
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
        let theirs = |source: Source| of_target.iter().filter(move |one| one.subject.source == Ok(source));
        let both = theirs(Source::Allocator).count() > 0 && theirs(Source::Growth).count() > 0;
        let held = |source: Source| -> u64 {
            let each = theirs(source).map(|one| match both {
                // Whoever is there counts, however little it holds.
                true => one.subject.process.usage().map_or(0, |usage| usage.anonymous_memory_bytes) + 1,
                false => 1,
            });
            each.sum()
        };
        let (allocator, growth) = (held(Source::Allocator), held(Source::Growth));
        let (present, booked) = (books.source.as_ref().ok().copied(), books.booked);
        let chosen = match present {
            _ if of_target.is_empty() => return,
            _ if (allocator, growth) == (0, 0) => {
                let reason = of_target.iter().find_map(|hunted| hunted.subject.source.clone().err());
                Err(reason.unwrap_or_default())
            }
            Some(Source::Allocator) if allocator > 0 && growth <= MUCH_MORE * allocator => {
                Ok(Source::Allocator)
            }
            Some(Source::Growth) if growth > 0 && allocator <= MUCH_MORE * growth => Ok(Source::Growth),
            _ if growth > allocator => Ok(Source::Growth),
            _ => Ok(Source::Allocator),
        };
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
        let pages = self.live_pages.as_mut().map_or(Ok(()), |pages| pages.remove(key, id));
        if let Err(error) = self.live.remove(key, id).and(pages) {
            tracing::debug!("{error}");
        }
    }
}
