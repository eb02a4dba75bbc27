//! How many samples are taken: not more than is worth their price, whatever the targets do.
//!
//! Every sample takes from a bucket that fills at a steady rate. When it is empty, the target that has taken most is sampled
//! half as often, at once; each sample tells how likely it was, so that nothing has to be told to anybody but the kernel side
//! and the books. When all is quiet, rates come up again, slowly.

use std::time::Duration;

use profiler_common::sample::{LARGEST_MEAN, SampleHeader, Sampling};

use super::{books::Books, chase::Chase};
use crate::{kernel::SampleControl, leaks::Source};

/// So many samples a second are enough, of all targets together: each takes some 100 us of ours.
const ENOUGH: f64 = 300.0;
/// So many more may come at once.
const BURST: f64 = 100.0;
/// Rates come up again after so long with less than a quarter of [`ENOUGH`], a factor of two at a time.
pub(super) const QUIET: Duration = Duration::from_secs(10);

/// What all targets together may still draw.
pub(super) struct Pace {
    left: f64,
    at_ns: u64,
    /// Samples since rates were last looked at.
    drawn: u64,
}

/// What a target has drawn.
#[derive(Clone, Copy, Default)]
pub(super) struct Share {
    /// Samples since any rate was changed.
    drawn: u64,
    /// When its rate was changed: what was drawn before says nothing about the rate that it has now.
    changed_ns: u64,
}

impl Pace {
    pub const fn new() -> Self {
        Self { left: BURST, at_ns: 0, drawn: 0 }
    }

    /// A sample was drawn then. False if that was one too many; the count begins anew.
    fn spend(&mut self, at_ns: u64) -> bool {
        let passed = at_ns.saturating_sub(self.at_ns) as f64 / 1e9;
        self.at_ns = self.at_ns.max(at_ns);
        self.left = (self.left + passed * ENOUGH).min(BURST) - 1.0;
        let enough = self.left >= 0.0;
        if !enough {
            self.left = BURST;
        }
        enough
    }
}

impl Books {
    fn may_be_paced(&self) -> bool {
        self.living > 0 && self.source.as_ref().is_ok_and(|source| *source != Source::Runtime)
    }

    /// One sample per so many bytes from now on.
    fn change_mean(&mut self, mean: u64, now_ns: u64) {
        self.mean = mean;
        self.ledger.sampled_every(mean);
        self.share.changed_ns = now_ns;
    }
}

impl Chase {
    /// An allocation or a page was drawn: if that makes too many, less is drawn.
    pub(super) fn keep_pace(&mut self, header: &SampleHeader) {
        let Some(subject) = self.processes.get(&header.slot).map(|hunted| &hunted.subject) else { return };
        let Some(books) = self.books.iter_mut().find(|books| books.name == subject.group) else { return };
        let Ok(source) = books.source else { return };
        if subject.source != books.source {
            // Nobody books these: as few of them as possible, until the books change to them.
            if let Ok(theirs) = subject.source {
                change(self.control.as_ref(), header.slot, theirs, LARGEST_MEAN);
            }
            return;
        }
        // A process that has come later, or has another program now, begins with the rate that was asked for.
        change(self.control.as_ref(), header.slot, source, books.mean);
        if header.at_ns <= books.share.changed_ns {
            return;
        }
        books.share.drawn += 1;
        self.pace.drawn += 1;
        if self.pace.spend(header.at_ns) {
            return;
        }
        let busiest = self.books.iter_mut().enumerate().filter(|(_, books)| books.may_be_paced());
        let Some((index, busiest)) = busiest.max_by_key(|(_, books)| books.share.drawn) else { return };
        busiest.change_mean((busiest.mean * 2).min(LARGEST_MEAN), crate::kernel::now_ns());
        self.books.iter_mut().for_each(|books| books.share.drawn = 0);
        self.sample_at_its_mean(index);
    }

    /// Lets rates come up again that were lowered.
    pub(super) fn ease_pace(&mut self) {
        let drawn = std::mem::take(&mut self.pace.drawn) as f64;
        if drawn >= ENOUGH / 4.0 * QUIET.as_secs_f64() {
            return;
        }
        let now_ns = crate::kernel::now_ns();
        let quiet_ns = u64::try_from(QUIET.as_nanos()).unwrap_or(u64::MAX);
        for index in 0..self.books.len() {
            let books = &mut self.books[index];
            if !books.may_be_paced() {
                continue;
            }
            let Ok(source) = books.source else { continue };
            let least = self.settings.mean(source);
            if books.mean > least && now_ns.saturating_sub(books.share.changed_ns) >= quiet_ns {
                books.change_mean((books.mean / 2).max(least), now_ns);
                self.sample_at_its_mean(index);
            }
        }
    }

    /// All processes of a target are sampled as its books say.
    pub(super) fn sample_at_its_mean(&self, index: usize) {
        let books = &self.books[index];
        let Ok(source) = books.source else { return };
        let subjects = self.processes.values().map(|hunted| &hunted.subject);
        for subject in
            subjects.filter(|subject| subject.group == books.name && subject.source == books.source)
        {
            change(self.control.as_ref(), subject.slot, source, books.mean);
        }
    }
}

/// One sample per so many bytes from now on.
fn change(control: Option<&SampleControl>, slot: u32, source: Source, mean: u64) {
    let Some(control) = control else { return };
    match source {
        Source::Allocator => {
            control.change(slot, Sampling::with_mean(mean));
        }
        Source::Growth => {
            control.change_pages(slot, mean);
        }
        // It samples as it likes.
        Source::Runtime => (),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often it is said to be too much, of samples at even distances.
    fn too_many(rate: u64, seconds: u64) -> usize {
        let mut pace = Pace::new();
        (1..=rate * seconds)
            .filter(|number| !pace.spend(1_000_000_000 + number * 1_000_000_000 / rate))
            .count()
    }

    #[test]
    fn what_is_enough_goes_on_for_ever() {
        assert_eq!(too_many(299, 1000), 0);
    }

    #[test]
    fn more_than_enough_is_noticed_however_little_it_is() {
        assert!(too_many(330, 10) >= 1);
        // Of 600 a second, 300 are too many: 100 of these in a third of a second, nine times in three.
        assert_eq!(too_many(600, 3), 9);
    }

    #[test]
    fn a_burst_is_noticed_at_its_hundredth_sample_and_again_after_a_hundred_more() {
        let mut pace = Pace::new();
        let too_many: Vec<u64> = (1..=310).filter(|number| !pace.spend(1_000_000_000 + number)).collect();
        assert_eq!(too_many, [101, 202, 303]);
        // Other processors' times may lie before.
        assert!(pace.spend(999_999_999));
    }
}
