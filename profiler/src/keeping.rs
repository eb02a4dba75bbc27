//! Keeping the pictures of a hunt: some in memory, all that are worth it in the history on disk, the last one of a target
//! that has died in the report, too.
//!
//! A thread of its own, because a disk may take its time, or never answer, and nobody who samples should wait for that.

mod ring;

use std::{
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{SyncSender, sync_channel},
    },
    time::{Duration, Instant, SystemTime},
};

use crate::{
    history::{History, HistoryError},
    hunt,
    leaks::Picture,
    own_file::Report,
    snapshot::HistoryFigures,
};
use ring::{Ring, distance};

/// A picture is kept this often.
const PACE: Duration = Duration::from_secs(10);
/// At the end, the disk is waited for no longer than this.
const LAST: Duration = Duration::from_secs(15);

/// What a report has in it, given the newest picture; `None`: nothing is known yet.
type Document = Box<dyn Fn(&Arc<Picture>) -> Option<String> + Send + Sync>;

/// Keeps pictures.
pub struct Keeper {
    history: Option<History>,
    report: Option<Mutex<Report>>,
    document: Mutex<Option<Document>>,
    ring: Mutex<Ring>,
    newest: Mutex<Option<hunt::Handle>>,
    orders: Mutex<Orders>,
    wake: Condvar,
    figures: Mutex<HistoryFigures>,
    failed: AtomicU64,
}

/// What the thread is to do.
#[derive(Default)]
struct Orders {
    /// To be kept at once. A newer one has all that an older one had.
    urgent: Option<Arc<Picture>>,
    /// Told when everything is done; nothing more comes.
    end: Option<SyncSender<()>>,
    running: bool,
}

impl Keeper {
    /// Keeps pictures in this history, if there is one, and in this report.
    pub fn new(history: Option<History>, report: Option<Report>) -> Self {
        let figures = history.as_ref().map(|history| figures(history, 0, HistoryFigures::default()));
        Self {
            history,
            report: report.map(Mutex::new),
            document: Mutex::new(None),
            ring: Mutex::default(),
            newest: Mutex::new(None),
            orders: Mutex::default(),
            wake: Condvar::new(),
            figures: Mutex::new(figures.unwrap_or_default()),
            failed: AtomicU64::new(0),
        }
    }

    /// Says what the report of a moment has in it, so that it can be written as soon as a target has died.
    pub fn describe(&self, document: impl Fn(&Arc<Picture>) -> Option<String> + Send + Sync + 'static) {
        *lock(&self.document) = Some(Box::new(document));
    }

    /// Begins to keep the pictures of a hunt.
    ///
    /// # Errors
    ///
    /// If there is no thread to be had.
    pub fn begin(self: &Arc<Self>, hunt: hunt::Handle) -> std::io::Result<()> {
        *lock(&self.newest) = Some(hunt.clone());
        let keeper = Arc::clone(self);
        std::thread::Builder::new()
            .name("profiler-history".to_owned())
            .spawn(move || keeper.keep_on(&hunt))?;
        lock(&self.orders).running = true;
        Ok(())
    }

    /// Keeps this picture at once, and writes it into the report: a target has died. Doesn't wait.
    pub fn at_once(&self, picture: &Arc<Picture>) {
        lock(&self.orders).urgent = Some(Arc::clone(picture));
        self.wake.notify_all();
    }

    /// Keeps the last picture and waits until that is done, if the disk allows.
    pub fn end(&self, last: Option<&Arc<Picture>>) {
        let (done, told) = sync_channel(1);
        {
            let mut orders = lock(&self.orders);
            if !orders.running {
                return;
            }
            orders.urgent = last.map(Arc::clone).or_else(|| orders.urgent.take());
            orders.end = Some(done);
        }
        self.wake.notify_all();
        if told.recv_timeout(LAST).is_err() {
            tracing::warn!("the disk of the history doesn't answer: its last picture may be lost");
        }
    }

    /// The picture that was taken nearest to a moment, among those that are kept. May wait for the disk.
    pub fn nearest(&self, at: SystemTime) -> Option<Arc<Picture>> {
        let newest = lock(&self.newest).as_ref().map(hunt::Handle::latest);
        let newest = newest.filter(|picture| !picture.targets.is_empty());
        let in_memory = lock(&self.ring).nearest(at);
        let on_disk = self.history.as_ref().and_then(|history| match history.picture_at(at) {
            Ok(picture) => picture.map(Arc::new),
            Err(error) => {
                tracing::debug!("{error}");
                None
            }
        });
        let all = [newest, in_memory, on_disk].into_iter().flatten();
        all.min_by_key(|picture| distance(picture.taken_at, at))
    }

    /// What the history has, as of the last picture; `None` if there is no history.
    pub fn figures(&self) -> Option<HistoryFigures> {
        self.history.as_ref()?;
        Some(*lock(&self.figures))
    }

    /// Writes the report.
    ///
    /// # Errors
    ///
    /// If that fails.
    pub fn write_report(&self, document: &str) -> std::io::Result<()> {
        let Some(report) = &self.report else { return Ok(()) };
        lock(report).replace(format!("{document}\n").as_bytes())
    }

    /// Nothing was observed: a report that holds nothing is not left behind.
    pub fn discard_report(&self) {
        if let Some(report) = &self.report {
            lock(report).discard();
        }
    }

    /// The thread.
    fn keep_on(&self, hunt: &hunt::Handle) {
        let mut kept = None;
        loop {
            let (urgent, end) = self.wait();
            let pressing = urgent.is_some();
            let picture = urgent.unwrap_or_else(|| hunt.latest());
            // The same picture needs to be kept once.
            if !picture.targets.is_empty() && kept != Some(picture.taken_at) {
                kept = Some(picture.taken_at);
                self.keep(&picture);
            }
            if pressing && end.is_none() {
                self.report_now(&picture);
            }
            if let Some(done) = end {
                // Whoever has stopped waiting doesn't want to know.
                let _told = done.try_send(());
                return;
            }
        }
    }

    /// Waits until something is to be done.
    fn wait(&self) -> (Option<Arc<Picture>>, Option<SyncSender<()>>) {
        let due = Instant::now() + PACE;
        let mut orders = lock(&self.orders);
        while orders.urgent.is_none() && orders.end.is_none() {
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            orders = self.wake.wait_timeout(orders, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        (orders.urgent.take(), orders.end.take())
    }

    fn keep(&self, picture: &Picture) {
        lock(&self.ring).push(picture);
        let Some(history) = &self.history else { return };
        let appended = history.append(picture);
        self.note(&appended);
        let mut known = lock(&self.figures);
        *known = figures(history, self.failed.load(Ordering::Relaxed), *known);
    }

    /// A disk that fails is told once; the rest is counted.
    fn note(&self, appended: &Result<(), HistoryError>) {
        let failed = self.failed.load(Ordering::Relaxed);
        if let Err(error) = appended {
            if failed == 0 {
                tracing::error!("{error}; tried again every {} s", PACE.as_secs());
            }
            self.failed.store(failed + 1, Ordering::Relaxed);
        }
    }

    fn report_now(&self, picture: &Arc<Picture>) {
        if self.report.is_none() {
            return;
        }
        let document = lock(&self.document).as_ref().and_then(|document| document(picture));
        if let Some(Err(error)) = document.map(|document| self.write_report(&document)) {
            tracing::error!("can't write the report: {error}");
        }
    }
}

/// What the history has now; what it had if it doesn't say.
fn figures(history: &History, failed: u64, before: HistoryFigures) -> HistoryFigures {
    let Ok(told) = history.told() else { return HistoryFigures { failed, ..before } };
    HistoryFigures {
        moments: told.moments,
        thinned_moments: told.thinned_moments,
        dropped_sites: told.dropped_sites,
        failed,
    }
}

/// What a thread that panicked has left is still only pictures.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
