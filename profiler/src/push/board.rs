//! What the threads of the push know of each other. Nobody does I/O while holding its lock.
//!
//! `profiler-points` adds batches; `profiler-spool` alone uses the disk: it writes batches, reads the backlog, and carries
//! out what `profiler-push` orders, who alone uses the network. A disk that hangs holds up neither collecting nor sending.

#[cfg(test)]
mod tests;
mod work;

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

pub use self::work::{Batch, Chunk, Order, Stage, Work};
use super::{figures::PushFigures, spool::BatchId};
use crate::snapshot::Snapshot;

/// What may wait in memory, while the disk takes nothing or there is no spool.
const MEMORY: usize = 16 << 20;
/// A disk that is busy with one thing for longer hangs.
const PATIENCE: Duration = Duration::from_secs(5);
/// The same when the end has come.
const LAST_PATIENCE: Duration = Duration::from_secs(1);
/// A disk that has refused is tried again after this.
const AGAIN: Duration = Duration::from_secs(5);
/// The same when the end has come.
const LAST_AGAIN: Duration = Duration::from_millis(500);
/// Batches that are sent before the backlog, at most, and their size: after that they are backlog, too.
const FRESH: usize = 64;
/// See [`FRESH`].
const FRESH_BYTES: usize = 8 << 20;
/// Where nothing of the backlog could be read, it is looked again after this.
const LOOK: Duration = Duration::from_secs(1);

/// What is known of the backlog on disk.
#[derive(Default)]
enum Backlog {
    /// Nobody has asked.
    #[default]
    Unasked,
    /// The sender wants some.
    Wanted,
    /// There was nothing to be read, at that time.
    Nothing(Instant),
    /// This was read.
    Ready(Chunk),
}

#[derive(Default)]
struct State {
    /// What isn't on disk.
    waiting: VecDeque<Arc<Batch>>,
    /// Its size.
    bytes: usize,
    /// What is new and on disk, but wasn't sent yet.
    fresh: VecDeque<(BatchId, Arc<Batch>)>,
    fresh_bytes: usize,
    backlog: Backlog,
    /// What the sender has of what is on disk.
    in_flight: Vec<BatchId>,
    /// What the sender has of what is in memory.
    sending: Option<Arc<Batch>>,
    orders: VecDeque<Order>,
    /// What the disk is being given.
    keeping: Option<Arc<Batch>>,
    /// Somebody works for the disk.
    disk: bool,
    disk_fails: bool,
    /// The disk has been at work on one thing since then.
    busy_since: Option<Instant>,
    /// It was told that the disk hangs.
    hang_told: bool,
    disk_again: Option<Instant>,
    stage: Stage,
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

    /// Waits for something to happen, for so long at most.
    fn wait_on<'a>(&self, state: MutexGuard<'a, State>, longest: Duration) -> MutexGuard<'a, State> {
        self.changed.wait_timeout(state, longest).unwrap_or_else(PoisonError::into_inner).0
    }

    /// What became of the points so far, but for those on disk.
    pub fn figures(&self) -> PushFigures {
        let state = self.lock();
        let points = state.waiting.iter().map(|batch| u64::from(batch.points)).sum();
        let oldest = state.waiting.iter().filter_map(|batch| batch.time.elapsed().ok()).max();
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
            state = self.wait_on(state, left);
        }
    }

    /// A window was closed. What was in memory longest gives way if there is no room; returns how many points that were.
    pub fn add(&self, batch: Batch) -> u64 {
        let mut state = self.lock();
        state.bytes += batch.text.len();
        state.waiting.push_back(Arc::new(batch));
        let mut dropped = 0;
        while state.bytes > MEMORY && state.waiting.len() > 1 {
            // What somebody is at work on isn't lost yet.
            let held = |batch: &Arc<Batch>| {
                [&state.keeping, &state.sending].into_iter().flatten().any(|held| Arc::ptr_eq(held, batch))
            };
            let older = state.waiting.len() - 1;
            let Some(at) = state.waiting.iter().take(older).position(|batch| !held(batch)) else { break };
            let Some(oldest) = state.waiting.remove(at) else { break };
            state.bytes -= oldest.text.len();
            dropped += u64::from(oldest.points);
        }
        state.figures.dropped.memory_full += dropped;
        self.tell(state);
        dropped
    }

    /// This snapshot is the last one (`None`: there is none); sending ends then.
    pub fn close(&self, last: Option<Snapshot>, until: Instant) {
        let mut state = self.lock();
        if state.stage == Stage::Running {
            state.stage = Stage::Closing;
            state.last = last.map(Box::new);
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
        state.disk_again = None;
        self.tell(state);
    }

    // ---- the disk ----

    /// Somebody begins to work for the disk, or has ended.
    pub fn disk(&self, works: bool) {
        let mut state = self.lock();
        state.disk = works;
        state.busy_since = None;
        state.keeping = None;
        self.tell(state);
    }

    /// What the disk is to do next; waits for something, or until `tend`. `None`: everything is done, and sending is over.
    pub fn next_for_disk(&self, tend: Instant) -> Option<Work> {
        let mut state = self.lock();
        state.busy_since = None;
        state.keeping = None;
        loop {
            let now = Instant::now();
            if let Some(work) = next_work(&mut state, now) {
                state.busy_since = Some(now);
                return Some(work);
            }
            if state.stage == Stage::Over {
                return None;
            }
            if now >= tend {
                return Some(Work::Tend);
            }
            let again = state.disk_again.filter(|_| !state.waiting.is_empty());
            let due = again.map_or(tend, |again| again.min(tend));
            state = self.wait_on(state, due.saturating_duration_since(now));
        }
    }

    /// The disk has taken a batch. False if it has been sent from memory meanwhile.
    pub fn kept(&self, batch: &Arc<Batch>, id: BatchId) -> bool {
        let mut state = self.lock();
        state.disk_fails = false;
        state.hang_told = false;
        state.disk_again = None;
        let waited = remove(&mut state, batch);
        if waited {
            state.fresh_bytes += batch.text.len();
            state.fresh.push_back((id, Arc::clone(batch)));
            while state.fresh.len() > FRESH || (state.fresh_bytes > FRESH_BYTES && state.fresh.len() > 1) {
                let Some((_, oldest)) = state.fresh.pop_front() else { break };
                state.fresh_bytes -= oldest.text.len();
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
        let pause = if state.stage == Stage::Running { AGAIN } else { LAST_AGAIN };
        state.disk_again = Some(Instant::now() + pause);
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

    /// What of the backlog goes out next; `None` if nothing could be read.
    pub fn offer(&self, chunk: Option<Chunk>) {
        let mut state = self.lock();
        state.backlog = chunk.map_or(Backlog::Nothing(Instant::now()), Backlog::Ready);
        self.tell(state);
    }

    // ---- sending ----

    /// New batches, oldest first, as many as go into one request.
    pub fn take_fresh(&self, lines: u64, bytes: usize) -> Option<Chunk> {
        let mut state = self.lock();
        let mut chunk = Chunk::default();
        while let Some((id, batch)) = state.fresh.front() {
            let (id, batch) = (*id, Arc::clone(batch));
            let points = chunk.points + u64::from(batch.points);
            if !chunk.ids.is_empty() && (points > lines || chunk.text.len() + batch.text.len() > bytes) {
                break;
            }
            state.fresh.pop_front();
            state.fresh_bytes -= batch.text.len();
            chunk.ids.push(id);
            chunk.points = points;
            chunk.text.push_str(&batch.text);
        }
        if chunk.ids.is_empty() {
            return None;
        }
        if matches!(&state.backlog, Backlog::Ready(ready) if ready.doubtful)
            && let Backlog::Ready(doubtful) = std::mem::take(&mut state.backlog)
        {
            chunk.ids.extend(doubtful.ids);
            chunk.points += doubtful.points;
            chunk.text.push_str(&doubtful.text);
        }
        state.in_flight.clone_from(&chunk.ids);
        Some(chunk)
    }

    /// A batch that only memory has, if the disk doesn't take it. The second: the disk hangs, and this wasn't told yet.
    pub fn only_in_memory(&self) -> (Option<Arc<Batch>>, bool) {
        let mut state = self.lock();
        let now = Instant::now();
        let patience = if matches!(state.stage, Stage::Draining(_)) { LAST_PATIENCE } else { PATIENCE };
        let hangs = state.busy_since.is_some_and(|since| now.saturating_duration_since(since) > patience);
        let tell = hangs && !state.hang_told;
        if tell {
            state.hang_told = true;
            state.figures.spool_failures += 1;
        }
        if state.disk && !state.disk_fails && !hangs {
            return (None, false);
        }
        let ready = |batch: &&Arc<Batch>| batch.after.is_none_or(|after| after <= now);
        let batch = state.waiting.iter().find(ready).map(Arc::clone);
        state.sending.clone_from(&batch);
        (batch, tell)
    }

    /// The backlog that was read, if any was; what isn't there yet is asked for. What is doubtful goes with what is new.
    pub fn take_backlog(&self) -> Option<Chunk> {
        let mut state = self.lock();
        match std::mem::take(&mut state.backlog) {
            Backlog::Ready(chunk) if chunk.doubtful => {
                state.backlog = Backlog::Ready(chunk);
                None
            }
            Backlog::Ready(chunk) => {
                state.in_flight.clone_from(&chunk.ids);
                Some(chunk)
            }
            Backlog::Nothing(at) if at.elapsed() < LOOK => {
                state.backlog = Backlog::Nothing(at);
                None
            }
            Backlog::Wanted => {
                state.backlog = Backlog::Wanted;
                None
            }
            Backlog::Nothing(_) | Backlog::Unasked => {
                state.backlog = Backlog::Wanted;
                self.tell(state);
                None
            }
        }
    }

    /// What was taken of what is on disk has been dealt with: this is to be done. Nothing: it stays as it is.
    pub fn dealt_with(&self, orders: impl IntoIterator<Item = Order>) {
        let mut state = self.lock();
        state.in_flight.clear();
        state.orders.extend(orders);
        self.tell(state);
    }

    /// A batch was sent from memory, or `rest` is what is left of it; the disk may have taken it meanwhile.
    pub fn sent(&self, batch: &Arc<Batch>, rest: Option<Batch>) {
        let mut state = self.lock();
        state.sending = None;
        if remove(&mut state, batch) {
            if let Some(rest) = rest {
                // At the end: nobody waits for what the server doesn't like.
                state.bytes += rest.text.len();
                state.waiting.push_back(Arc::new(rest));
            }
        } else if let Some(at) = state.fresh.iter().position(|(_, one)| Arc::ptr_eq(one, batch))
            && let Some((id, _)) = state.fresh.remove(at)
        {
            state.fresh_bytes -= batch.text.len();
            state.orders.push_back(match rest {
                Some(rest) => Order::Replace(vec![id], rest),
                None => Order::Remove(vec![id]),
            });
        }
        self.tell(state);
    }

    /// A batch wasn't sent from memory.
    pub fn not_sent(&self) {
        self.lock().sending = None;
    }

    /// Whether something is in memory that has to be kept or sent.
    pub fn holds(&self) -> bool {
        let state = self.lock();
        !state.waiting.is_empty() || !state.fresh.is_empty()
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
            state = self.wait_on(state, left);
        }
    }

    /// Sending has ended.
    pub fn over(&self) {
        let mut state = self.lock();
        state.stage = Stage::Over;
        self.tell(state);
    }

    /// Waits until sending and the disk have ended, or for so long. Sending may end while the disk takes the last batch.
    pub fn wait_until_over(&self, longest: Duration) {
        let end = Instant::now() + longest;
        let mut state = self.lock();
        while state.stage != Stage::Over || state.disk {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = self.wait_on(state, left);
        }
    }
}

/// Orders first: what is acknowledged must not be read again. Then what only memory has.
fn next_work(state: &mut State, now: Instant) -> Option<Work> {
    if let Some(order) = state.orders.pop_front() {
        return Some(Work::Carry(order));
    }
    // At the very end, a disk that fails isn't tried any more.
    let tried = state.disk_again.is_none_or(|again| again <= now && state.stage != Stage::Over);
    if let Some(batch) = state.waiting.front().filter(|_| tried).map(Arc::clone) {
        state.keeping = Some(Arc::clone(&batch));
        return Some(Work::Append(batch));
    }
    if matches!(state.backlog, Backlog::Wanted) {
        let fresh = state.fresh.iter().map(|(id, _)| *id);
        return Some(Work::Read(state.in_flight.iter().copied().chain(fresh).collect()));
    }
    None
}

fn remove(state: &mut State, batch: &Arc<Batch>) -> bool {
    let at = state.waiting.iter().position(|one| Arc::ptr_eq(one, batch));
    let Some(at) = at else { return false };
    state.waiting.remove(at);
    state.bytes -= batch.text.len();
    true
}
