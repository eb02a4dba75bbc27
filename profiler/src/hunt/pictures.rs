//! The making of pictures.

use std::{
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use super::{books::Tools, chase::Chase, this_moment};
use crate::leaks::{Picture, Source, TargetReport};

/// The kernel's maps have room for 65,536 (kernel/sample.rs, `LIVE_SAMPLES`); some of them are on their way.
const LIVE_ENOUGH: usize = 64_000;

impl Chase {
    /// The report of a target. `ended`: how it has ended, if it has.
    pub(super) fn report_of(
        &mut self,
        index: usize,
        ended: Option<String>,
        naming: Duration,
    ) -> TargetReport {
        self.settle_source(index);
        let now = this_moment();
        let name = Arc::clone(&self.books[index].name);
        if ended.is_none() {
            // What is left of one that is just ending says nothing of what it had.
            let of_target = self.processes.values().filter(|hunted| hunted.subject.group == name);
            self.books[index].read_memory(of_target, now.1);
        }
        let of_target = self.processes.values().filter(|hunted| hunted.subject.group == name);
        let processes = of_target.map(|hunted| Arc::clone(&hunted.subject.process)).collect();
        let full = self.is_full(&self.books[index].source);
        let mut tools = Tools {
            full,
            worker: &mut self.worker,
            files: &self.files,
            names: &mut self.names,
            sites: &self.sites,
            settings: &self.settings,
            processes,
            now,
            until: Instant::now() + naming,
        };
        match ended {
            Some(_) => self.books[index].report_now(&mut tools, ended),
            None => self.books[index].report(&mut tools),
        }
    }

    /// Reads how much anonymous memory the processes have.
    pub(super) fn read_memory(&mut self) {
        let now_ns = this_moment().1;
        for books in self.books.iter_mut().filter(|books| books.living > 0) {
            let name = Arc::clone(&books.name);
            let of_target = self.processes.values().filter(|hunted| hunted.subject.group == name);
            books.read_memory(of_target, now_ns);
        }
    }

    /// Whether the kernel's map of live samples of this source refuses new ones, or nearly: all targets share it.
    fn is_full(&self, source: &Result<Source, String>) -> bool {
        let same = self.books.iter().filter(|books| books.source == *source);
        source.is_ok() && same.map(|books| books.ledger.live_ids().count()).sum::<usize>() >= LIVE_ENOUGH
    }

    /// Makes a picture and hands it out.
    pub(super) fn publish(&mut self, naming: Duration) -> Arc<Picture> {
        let (taken_at, until) = (this_moment().0, Instant::now() + naming);
        let targets = (0..self.books.len())
            .map(|index| self.report_of(index, None, until.saturating_duration_since(Instant::now())))
            .collect();
        let picture = Arc::new(Picture { taken_at, targets });
        *self.handle.worker.lock().unwrap_or_else(PoisonError::into_inner) = self.worker.figures();
        *self.handle.latest.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&picture);
        picture
    }
}
