//! What the threads of the push know of each other. Nobody does I/O while holding its lock.

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use super::{figures::PushFigures, spool::BatchId};
use crate::snapshot::Snapshot;

/// What may wait in memory, while the disk takes nothing or there is no spool.
const MEMORY: usize = 16 << 20;
/// A disk that hasn't taken a batch by then hangs.
const PATIENCE: Duration = Duration::from_secs(10);
/// Batches that are sent before the backlog, at most: after that they are backlog, too.
pub const FRESH: usize = 64;

/// Points of one window, encoded.
#[derive(Debug, PartialEq, Eq)]
pub struct Batch {
    /// When the window was closed.
    pub time: SystemTime,
    /// The same, by the clock that never jumps.
    pub closed: Instant,
    /// Points: lines.
    pub points: u32,
    /// The lines.
    pub text: String,
}

/// How far the end is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stage {
    /// Far.
    #[default]
    Running,
    /// The last window is to be closed.
    Closing,
    /// The last window is closed: it is to be kept and sent, until then at most.
    Draining(Instant),
    /// Over.
    Over,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Arc<Batch>>,
    bytes: usize,
    fresh: VecDeque<BatchId>,
    disk_fails: bool,
    stage: Stage,
    /// Somebody writes batches to disk.
    keeping: bool,
    /// The last snapshot, to be closed.
    last: Option<Box<Snapshot>>,
    /// When sending ends.
    until: Option<Instant>,
    figures: PushFigures,
    /// How often something has happened.
    turn: u64,
}

/// See the module.
#[derive(Default)]
pub struct Board {
    state: Mutex<State>,
    changed: Condvar,
}

impl Board {
    /// Tells everybody that something has happened.
    fn tell(&self, mut state: MutexGuard<'_, State>) {
        state.turn += 1;
        drop(state);
        self.changed.notify_all();
    }

    /// A thread that panicked has left whole values.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What became of the points so far, but for those on disk.
    pub fn figures(&self) -> PushFigures {
        let state = self.lock();
        let points = state.waiting.iter().map(|batch| u64::from(batch.points)).sum();
        let oldest = state.waiting.front().and_then(|batch| batch.time.elapsed().ok());
        PushFigures {
            backlog_points: points,
            backlog_bytes: state.bytes as u64,
            backlog_age: oldest.unwrap_or_default(),
            memory_bytes: state.bytes as u64,
            ..state.figures.clone()
        }
    }

    /// Changes the counts.
    pub fn count(&self, change: impl FnOnce(&mut PushFigures)) {
        change(&mut self.lock().figures);
    }

    /// How far the end is.
    pub fn stage(&self) -> Stage {
        self.lock().stage
    }

    // ---- closing windows ----

    /// Waits until then; true if the end has come before.
    pub fn wait_for_window(&self, due: Instant) -> bool {
        let mut state = self.lock();
        loop {
            if state.stage != Stage::Running {
                return true;
            }
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// A window was closed. What was in memory longest gives way if there is no room.
    pub fn add(&self, batch: Batch) {
        let mut state = self.lock();
        state.bytes += batch.text.len();
        state.waiting.push_back(Arc::new(batch));
        while state.bytes > MEMORY
            && state.waiting.len() > 1
            && let Some(oldest) = state.waiting.pop_front()
        {
            state.bytes -= oldest.text.len();
            state.figures.dropped.memory_full += u64::from(oldest.points);
        }
        self.tell(state);
    }

    /// This snapshot is the last one; sending ends then.
    pub fn close(&self, last: Snapshot, until: Instant) {
        let mut state = self.lock();
        if state.stage == Stage::Running {
            state.stage = Stage::Closing;
            state.last = Some(Box::new(last));
            state.until = Some(until);
        }
        self.tell(state);
    }

    /// The last snapshot.
    pub fn take_last(&self) -> Option<Box<Snapshot>> {
        self.lock().last.take()
    }

    /// The last window is closed.
    pub fn closed(&self) {
        let mut state = self.lock();
        state.stage = Stage::Draining(state.until.unwrap_or_else(Instant::now));
        self.tell(state);
    }

    // ---- keeping ----

    /// Somebody begins to write batches to disk, or has ended.
    pub fn keeps_on(&self, keeping: bool) {
        self.lock().keeping = keeping;
        self.changed.notify_all();
    }

    /// The next batch that is to be written to disk; waits for one. `None`: there are no more.
    pub fn next_to_keep(&self) -> Option<Arc<Batch>> {
        let mut state = self.lock();
        loop {
            if let Some(batch) = state.waiting.front() {
                return Some(Arc::clone(batch));
            }
            if matches!(state.stage, Stage::Draining(_) | Stage::Over) {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The disk has taken a batch. False if it has been sent from memory meanwhile.
    pub fn kept(&self, batch: &Arc<Batch>, id: BatchId) -> bool {
        let mut state = self.lock();
        state.disk_fails = false;
        let waited = remove(&mut state, batch);
        if waited {
            state.fresh.push_back(id);
            if state.fresh.len() > FRESH {
                state.fresh.pop_front();
            }
        }
        self.tell(state);
        waited
    }

    /// The disk hasn't taken a batch: it is sent from memory. True if it took the one before.
    pub fn disk_failed(&self) -> bool {
        let mut state = self.lock();
        let before = std::mem::replace(&mut state.disk_fails, true);
        state.figures.spool_failures += 1;
        self.tell(state);
        !before
    }

    /// A batch that can't be kept.
    pub fn give_up(&self, batch: &Arc<Batch>) {
        let mut state = self.lock();
        if remove(&mut state, batch) {
            state.figures.dropped.unfit += u64::from(batch.points);
        }
    }

    // ---- sending ----

    /// Batches that have just been written to disk, oldest first.
    pub fn take_fresh(&self) -> Vec<BatchId> {
        self.lock().fresh.drain(..).collect()
    }

    /// A batch that only memory has, if the disk doesn't take it.
    pub fn only_in_memory(&self, without_spool: bool) -> Option<Arc<Batch>> {
        let state = self.lock();
        let batch = state.waiting.front()?;
        let only_here = without_spool || state.disk_fails || batch.closed.elapsed() > PATIENCE;
        only_here.then(|| Arc::clone(batch))
    }

    /// Whether batches wait that the disk may still take.
    pub fn keeps(&self) -> bool {
        !self.lock().waiting.is_empty()
    }

    /// A batch was sent from memory.
    pub fn sent(&self, batch: &Arc<Batch>) {
        remove(&mut self.lock(), batch);
    }

    /// Of a batch in memory, this is left to be sent.
    pub fn left_of(&self, batch: &Arc<Batch>, rest: Batch) {
        let mut state = self.lock();
        if remove(&mut state, batch) {
            state.bytes += rest.text.len();
            state.waiting.push_front(Arc::new(rest));
        }
    }

    /// How often something has happened: for [`Board::wait`].
    pub fn turn(&self) -> u64 {
        self.lock().turn
    }

    /// Waits until something happens that hadn't at that turn, or for so long.
    pub fn wait(&self, turn: u64, longest: Duration) {
        let end = Instant::now() + longest;
        let mut state = self.lock();
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if state.turn != turn || left.is_zero() {
                return;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Sending has ended.
    pub fn over(&self) {
        let mut state = self.lock();
        state.stage = Stage::Over;
        self.tell(state);
    }

    /// Waits until sending and writing to disk have ended, or for so long. Sending may end while the disk takes the last batch.
    pub fn wait_until_over(&self, longest: Duration) {
        let end = Instant::now() + longest;
        let mut state = self.lock();
        while state.stage != Stage::Over || state.keeping {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

fn remove(state: &mut State, batch: &Arc<Batch>) -> bool {
    let at = state.waiting.iter().position(|one| Arc::ptr_eq(one, batch));
    let Some(at) = at else { return false };
    state.waiting.remove(at);
    state.bytes -= batch.text.len();
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(points: u32, bytes: usize) -> Batch {
        Batch { time: SystemTime::now(), closed: Instant::now(), points, text: "x".repeat(bytes) }
    }

    fn id(sequence: u32) -> BatchId {
        BatchId { time_ns: 1, sequence, points: 1 }
    }

    #[test]
    fn a_full_memory_gives_up_the_oldest_and_counts_it() {
        let board = Board::default();
        for _ in 0..4 {
            board.add(batch(7, MEMORY / 3));
        }
        let figures = board.figures();
        assert_eq!((figures.backlog_points, figures.dropped.memory_full), (21, 7));
        assert!(figures.memory_bytes <= MEMORY as u64);
        board.add(batch(1, MEMORY + 1));
        assert_eq!(board.figures().backlog_points, 1, "one that is too large alone has its chance");
        assert_eq!(board.figures().dropped.memory_full, 28);
    }

    #[test]
    fn what_was_sent_from_memory_meanwhile_is_not_kept() {
        let board = Board::default();
        board.add(batch(1, 1));
        let first = board.next_to_keep().unwrap();
        assert!(board.only_in_memory(false).is_none(), "the disk takes it");
        assert!(board.disk_failed(), "it took the one before");
        assert!(!board.disk_failed());
        board.sent(&board.only_in_memory(false).unwrap());
        assert!(!board.kept(&first, id(1)));
        assert!(board.take_fresh().is_empty() && !board.keeps());
    }

    #[test]
    fn what_is_kept_is_sent_first_and_only_so_much_of_it() {
        let board = Board::default();
        for sequence in 0..FRESH as u32 + 2 {
            board.add(batch(1, 1));
            assert!(board.kept(&board.next_to_keep().unwrap(), id(sequence)));
        }
        let fresh = board.take_fresh();
        assert_eq!((fresh.len(), fresh[0].sequence), (FRESH, 2), "the older ones are backlog");
    }

    #[test]
    fn the_end_comes_in_order_and_wakes_everybody() {
        let board = Board::default();
        std::thread::scope(|scope| {
            let keeper = scope.spawn(|| board.next_to_keep());
            let waiter = scope.spawn(|| board.wait_for_window(Instant::now() + Duration::from_secs(60)));
            board.close(crate::test_support::moment::snapshot(Vec::new()), Instant::now());
            assert!(waiter.join().unwrap(), "woken long before its time");
            assert!(board.take_last().is_some() && board.take_last().is_none());
            board.closed();
            assert!(keeper.join().unwrap().is_none(), "nothing more comes");
        });
        assert!(matches!(board.stage(), Stage::Draining(_)));
        board.over();
        board.wait_until_over(Duration::from_secs(60));
    }

    #[test]
    fn the_end_waits_for_the_disk_but_not_for_ever() {
        const SLOW: Duration = Duration::from_millis(100);
        let board = Board::default();
        board.keeps_on(true);
        board.over();
        let began = Instant::now();
        board.wait_until_over(SLOW);
        assert!(began.elapsed() >= SLOW, "somebody still writes");
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(SLOW);
                board.keeps_on(false);
            });
            board.wait_until_over(SLOW * 600);
        });
        assert!(began.elapsed() >= SLOW * 2 && began.elapsed() < SLOW * 300, "{:?}", began.elapsed());
    }
}
