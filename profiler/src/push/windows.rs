//! The thread that closes windows: asks for figures, makes points of them, encodes them.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use super::{
    Source,
    board::{Batch, Board},
};
use crate::{
    config::Push,
    export::{
        families::{Context, Families},
        line_protocol::{Encoder, Options, Order},
        points::{self, Common, Verdicts},
    },
    push::policy::Api,
    snapshot::Snapshot,
};

/// Call sites of a target that have series of their own: more than at `/metrics`, where a series costs memory for ever.
const TOP_SITES: usize = 25;
/// Lines in a batch, and their size; what InfluxDB 1 and 2 recommend, and less than any of them refuses.
pub const BATCH_LINES: u32 = 5_000;
/// See [`BATCH_LINES`].
pub const BATCH_BYTES: usize = 1_000_000;
/// New figures are waited for this long; then the last ones are taken.
const PATIENCE: Duration = Duration::from_millis(500);
/// What is told once is told again after this.
const TOLD: Duration = Duration::from_secs(3600);
/// How often it is looked whether they are there.
const LOOK: Duration = Duration::from_millis(5);

/// See the module.
pub struct Windows {
    interval: Duration,
    source: Source,
    board: Arc<Board>,
    common: Common,
    encoder: Encoder,
    verdicts: Verdicts,
    /// When it was told that points are given up.
    full_told: Option<Instant>,
    /// The moment of the last window.
    last: Option<SystemTime>,
}

impl Windows {
    /// Prepares.
    pub fn new(config: &Push, source: Source, board: Arc<Board>) -> Self {
        // The first write to InfluxDB 3 decides the order of columns for ever: what is asked for most goes first there.
        let order = if config.server.api == Some(Api::V3) { Order::AsGiven } else { Order::Sorted };
        Self {
            interval: config.interval,
            source,
            board,
            common: Common { prefix: config.prefix.clone(), tags: config.tags.clone() },
            encoder: Encoder::new(Options { unsigned: config.unsigned, order }),
            verdicts: Verdicts::default(),
            full_told: None,
            last: None,
        }
    }

    /// Closes windows until the end.
    pub fn run(mut self) {
        let mut due = Instant::now() + self.interval;
        loop {
            if self.board.wait_for_window(due) {
                if let Some(last) = self.board.take_last() {
                    self.window(&last);
                }
                return;
            }
            self.fresh();
            let snapshot = Arc::clone(&self.source.latest.borrow());
            self.window(&snapshot);
            due += self.interval;
            let late = Instant::now().saturating_duration_since(due);
            if !late.is_zero() {
                // A machine that was suspended, or has no time: what wasn't measured can't be made up.
                let missed = late.as_nanos() / self.interval.as_nanos() + 1;
                let missed = u64::try_from(missed).unwrap_or(u64::MAX);
                self.board.count(|figures| figures.missed_windows += missed);
                due = Instant::now() + self.interval;
            }
        }
    }

    /// Asks for new figures, and waits for them a little.
    fn fresh(&mut self) {
        self.source.latest.mark_unchanged();
        (self.source.ask)();
        let until = Instant::now() + PATIENCE;
        while !self.source.latest.has_changed().unwrap_or(true) && Instant::now() < until {
            std::thread::sleep(LOOK);
        }
    }

    fn window(&mut self, snapshot: &Snapshot) {
        if self.last == Some(snapshot.taken_at) {
            // Nobody had new figures: the same points again would say nothing.
            self.board.count(|figures| figures.missed_windows += 1);
            return;
        }
        self.last = Some(snapshot.taken_at);
        let context = Context { top_sites: TOP_SITES, ..self.source.context };
        let families = Families::of(snapshot, context);
        let at_ns = points::unix_ns(snapshot.taken_at);
        let mut all = points::points(&families, at_ns, &self.common);
        if let Some(picture) = &snapshot.leaks {
            all.extend(self.verdicts.changes(picture, &self.common));
        }
        let empty = || Batch { time: snapshot.taken_at, after: None, points: 0, text: String::new() };
        let (mut batch, mut full) = (empty(), Vec::new());
        for point in all {
            if self.encoder.encode(point, &mut batch.text) {
                batch.points += 1;
            }
            if batch.points >= BATCH_LINES || batch.text.len() >= BATCH_BYTES {
                full.push(std::mem::replace(&mut batch, empty()));
            }
        }
        full.push(batch);
        full.into_iter().filter(|batch| batch.points > 0).for_each(|batch| self.add(batch));
        let left_out = self.encoder.left_out().map(|(reason, count)| (reason.name(), count)).collect();
        self.board.count(|figures| figures.left_out = left_out);
    }

    fn add(&mut self, batch: Batch) {
        let dropped = self.board.add(batch);
        if dropped > 0 && self.full_told.is_none_or(|told| told.elapsed() > TOLD) {
            self.full_told = Some(Instant::now());
            tracing::error!(
                "memory is full of points that neither disk nor server takes: the oldest {dropped} are given up, and more follow"
            );
        }
    }
}
