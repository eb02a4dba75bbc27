//! Points to InfluxDB: a window is closed every interval, kept in a spool on disk, sent, and deleted once it is acknowledged.
//!
//! Three threads, so that none of them holds up another one, and none of them is ever waited for by who collects or serves:
//! `profiler-points` closes windows and encodes them (`windows`), `profiler-spool` alone uses the disk (`keep`),
//! `profiler-push` alone uses the network (`send`). Between them is the `board`, whose lock is never held during I/O.
//!
//! At least once, and idempotent: a point that is sent again overwrites itself, so what is doubtful is sent again.

mod board;
pub mod client;
pub mod delivery;
pub mod figures;
mod keep;
pub mod policy;
mod quarantine;
mod send;
pub mod spool;
mod windows;

use std::{
    fmt::Write as _,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError},
    thread::Builder,
    time::{Duration, Instant},
};

use thiserror::Error;
use tokio::sync::watch;

use self::{
    board::Board,
    client::{Client, ClientError, Timeouts},
    figures::{Dropped, PushFigures},
    keep::Keeper,
    quarantine::Quarantine,
    send::Sender,
    spool::{Limits, Spool, SpoolError},
    windows::Windows,
};
use crate::{config::Push, export::families::Context, snapshot::Snapshot};

/// At the end, what waits is sent for no longer than this; the rest stays in the spool.
const LAST: Duration = Duration::from_secs(5);

/// Why nothing can be pushed.
#[derive(Debug, Error)]
pub enum PushError {
    /// The spool.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// Address or credentials.
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// Pushes.
pub struct Pusher {
    config: Push,
    board: Arc<Board>,
    spool: Option<Arc<Spool>>,
    /// Until they begin.
    threads: Mutex<Option<(Sender, Option<Keeper>)>>,
}

/// Where snapshots come from.
pub struct Source {
    /// The newest one.
    pub latest: watch::Receiver<Arc<Snapshot>>,
    /// Asks for a new one, without waiting.
    pub ask: Box<dyn Fn() + Send>,
    /// What the points are made with.
    pub context: Context,
}

impl Pusher {
    /// Opens the spool and reads the credentials; nothing is sent yet.
    ///
    /// # Errors
    ///
    /// If the spool can't be used or the credentials can't be read.
    pub fn open(config: &Push) -> Result<Self, PushError> {
        Self::open_with_rate(config, send::BACKLOG_RATE)
    }

    /// The same, and the backlog is sent at this rate at most, in points per second.
    ///
    /// # Errors
    ///
    /// As [`Self::open`].
    pub fn open_with_rate(config: &Push, backlog_rate: f64) -> Result<Self, PushError> {
        let client = Client::new(config.server.clone(), Timeouts::default())?;
        let limits = Limits { bytes: config.spool_bytes, age: config.spool_age };
        let spool = config.spool.as_deref().map(|path| Spool::open(path, limits)).transpose()?.map(Arc::new);
        let board = Arc::new(Board::default());
        let place =
            config.spool.as_deref().map_or_else(|| "memory".to_owned(), |path| path.display().to_string());
        let keeper = spool.clone().map(|spool| {
            let quarantine = Quarantine::new(Some(Arc::clone(&spool)));
            Keeper::new(spool, Arc::clone(&board), quarantine)
        });
        let sender =
            Sender::new(client, config.unsigned, spool.clone(), Arc::clone(&board), place, backlog_rate);
        Ok(Self { config: config.clone(), board, spool, threads: Mutex::new(Some((sender, keeper))) })
    }

    /// Begins to push, and to send what has waited since the last time.
    ///
    /// # Errors
    ///
    /// If there is no thread to be had.
    pub fn begin(&self, source: Source) -> std::io::Result<()> {
        let threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some((mut sender, keeper)) = threads else { return Ok(()) };
        let windows = Windows::new(&self.config, source, Arc::clone(&self.board));
        self.spawn("profiler-points", Board::closed, move || windows.run())?;
        if let Some(mut keeper) = keeper {
            self.board.disk(true);
            self.spawn("profiler-spool", |board| board.disk(false), move || keeper.run())?;
        }
        self.spawn("profiler-push", Board::over, move || sender.run())
    }

    /// Starts a thread; `end` tells the others that it has ended, however it did. One that fails doesn't take the profiler with it:
    /// what is measured is still served, and `/-/ready` says what is wrong.
    fn spawn(
        &self,
        name: &'static str,
        end: fn(&Board),
        work: impl FnOnce() + Send + 'static,
    ) -> std::io::Result<()> {
        let board = Arc::clone(&self.board);
        let run = move || {
            if catch_unwind(AssertUnwindSafe(work)).is_err() {
                let trouble =
                    format!("the thread {name} has failed, which is a defect; start profiler again");
                tracing::error!("nothing is pushed any more: {trouble}");
                board.count(|figures| {
                    figures.up = false;
                    figures.trouble = Some(trouble);
                });
            }
            end(&board);
        };
        Builder::new().name(name.to_owned()).spawn(run).map(drop)
    }

    /// What became of the points so far. Never waits for a disk or a server.
    pub fn figures(&self) -> PushFigures {
        let mut figures = self.board.figures();
        if let Some(spool) = &self.spool {
            let there = spool.figures();
            figures.backlog_points += there.points;
            figures.backlog_bytes += there.bytes;
            figures.spool_limit = Some(self.config.spool_bytes);
            figures.dropped = Dropped {
                spool_full: there.dropped_full,
                expired: there.dropped_expired,
                corrupt: there.dropped_corrupt,
                ..figures.dropped
            };
            // A clock that was set back makes nothing older than it is.
            let age = there.oldest.and_then(|oldest| oldest.elapsed().ok()).unwrap_or_default();
            figures.backlog_age = figures.backlog_age.max(age);
        }
        figures
    }

    /// Closes the last window, if there is a last snapshot. Doesn't wait.
    pub fn close(&self, last: Option<&Snapshot>) {
        self.board.close(last.cloned(), Instant::now() + LAST);
    }

    /// Waits until everything is acknowledged or the time is over; says what became of it. `None` if it has never begun.
    pub fn finish(&self) -> Option<String> {
        if self.threads.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
            return None;
        }
        self.board.wait_until_over(LAST + Duration::from_secs(1));
        let spooled = self.spool.as_ref().map_or(0, |spool| spool.figures().points);
        let memory = self.board.figures();
        let mut text = format!("{} points are stored at {}", memory.stored, self.config.server.url);
        if let (1.., Some(spool)) = (spooled, &self.config.spool) {
            let _infallible = write!(
                text,
                ", {spooled} wait in {}; the next start with the same --influx sends them",
                spool.display()
            );
        }
        if memory.backlog_points > 0 {
            let why =
                if self.spool.is_some() { "the spool's disk didn't take them" } else { "there is no spool" };
            let _infallible = write!(text, ", {} are lost: {why}", memory.backlog_points);
        }
        let figures = self.figures();
        for (reason, count) in figures.dropped.named().into_iter().filter(|(_, count)| *count > 0) {
            let _infallible = write!(text, ", {count} were given up ({reason})");
        }
        if figures.quarantined > 0 {
            let _infallible = write!(text, ", {} were set aside for good", figures.quarantined);
        }
        Some(text)
    }
}

/// The time of day, in nanoseconds.
fn now_ns() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}
