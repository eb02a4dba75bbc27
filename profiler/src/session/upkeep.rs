//! What has to be done between samples, and when.

use std::time::{Duration, Instant};

use super::{DetailJob, DetailResult, Session, process::Watched};

impl Session {
    /// When a sample is due because a process has ended: until then it keeps its place.
    pub fn sample_due(&self) -> Option<Instant> {
        self.watched.iter().filter_map(Watched::over_at).min()
    }

    /// When there is something to be looked at again.
    pub fn due(&self) -> Option<Instant> {
        let of_alloc = |watched: &Watched| [watched.alloc.due(), watched.strays.due()];
        let of_go = |watched: &Watched| self.go.as_ref().and_then(|room| watched.go.due(room));
        let probed = self.kernel.is_some();
        let dues = self.watched.iter().flat_map(|watched| {
            let alloc = probed.then(|| of_alloc(watched)).into_iter().flatten().flatten();
            alloc.chain(of_go(watched))
        });
        dues.min()
    }

    /// Looks again at what is due.
    pub fn keep_up(&mut self) {
        self.read_rings();
        let news = self.images.news();
        let Some(kernel) = &mut self.kernel else { return };
        for watched in &mut self.watched {
            if news {
                watched.alloc.look_again();
            }
            let gone = watched.alloc.keep_up(kernel, &mut self.images, &watched.process);
            self.slots.drop_links(gone);
            if let Err(error) = self.hunt.judge(kernel, watched) {
                tracing::warn!("process {}: {error}", watched.info.pid);
            }
            for probes in watched.strays.sweep(kernel, &watched.process, &watched.alloc.places()) {
                self.slots.drop_links((Vec::new(), Some(probes)));
            }
        }
    }

    /// Readings of dear figures that are due. Run them anywhere and bring them back to [`Session::detail_done`].
    pub fn due_details(&mut self) -> Vec<DetailJob> {
        let now = Instant::now();
        self.watched.iter_mut().filter_map(|watched| watched.due_detail(now)).collect()
    }

    /// Takes a reading back in.
    pub fn detail_done(&mut self, result: DetailResult, interval: Duration) {
        let sharers = u32::try_from(self.watched.len()).unwrap_or(u32::MAX);
        if let Some(watched) = self.watched.iter_mut().find(|watched| watched.is_of(&result)) {
            watched.detail_done(result, interval, sharers);
        }
    }

    /// Reads the runtimes whose pauses would be overwritten soon.
    fn read_rings(&mut self) {
        let Some(room) = &mut self.go else { return };
        let now = Instant::now();
        for watched in &mut self.watched {
            if watched.go.due(room).is_some_and(|due| due <= now) {
                watched.go.read(room, &watched.process);
            }
        }
    }
}
