//! Points to InfluxDB: a window is closed every interval, kept in a spool on disk, sent, and deleted once it is acknowledged.
//!
//! Three threads, so that none of them holds up another one, and none of them is ever waited for by who collects or serves:
//! `profiler-points` closes windows and encodes them (`windows`), `profiler-spool` writes them to disk (`keep`),
//! `profiler-push` sends what is there (`send`). Between them is the `board`, whose lock is never held during I/O.
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
    /// Until the threads begin.
    sender: Mutex<Option<Sender>>,
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
        let quarantine = Quarantine::new(spool.clone());
        let place =
            config.spool.as_deref().map_or_else(|| "memory".to_owned(), |path| path.display().to_string());
        let sender = Sender::new(
            client,
            config.unsigned,
            spool.clone(),
            Arc::clone(&board),
            quarantine,
            place,
            backlog_rate,
        );
        Ok(Self { config: config.clone(), board, spool, sender: Mutex::new(Some(sender)) })
    }

    /// Begins to push, and to send what has waited since the last time.
    ///
    /// # Errors
    ///
    /// If there is no thread to be had.
    pub fn begin(&self, source: Source) -> std::io::Result<()> {
        let windows = Windows::new(&self.config, source, Arc::clone(&self.board));
        Builder::new().name("profiler-points".to_owned()).spawn(move || windows.run())?;
        if let Some(spool) = &self.spool {
            let (spool, board) = (Arc::clone(spool), Arc::clone(&self.board));
            self.board.keeps_on(true);
            Builder::new().name("profiler-spool".to_owned()).spawn(move || keep::run(&spool, &board))?;
        }
        let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(sender) = sender {
            Builder::new().name("profiler-push".to_owned()).spawn(move || sender.run())?;
        }
        Ok(())
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

    /// Closes the last window. Doesn't wait.
    pub fn close(&self, last: &Snapshot) {
        self.board.close(last.clone(), Instant::now() + LAST);
    }

    /// Waits until everything is acknowledged or the time is over; says what became of it.
    pub fn finish(&self) -> String {
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
        text
    }
}

/// The time of day, in nanoseconds.
fn now_ns() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}
