//! The thread that uses the disk: it writes batches to the spool, reads what of the backlog goes out next, and does away
//! with what is acknowledged. A disk that is full or hangs holds up nobody else.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    board::{Batch, Board, Chunk, Order, Work},
    quarantine::Quarantine,
    spool::{BatchId, Spool, SpoolError},
    windows::{BATCH_BYTES, BATCH_LINES},
};

/// How often it is looked for points that are too old, and for files that could not be read or removed.
const TEND: Duration = Duration::from_secs(60);
/// Files of the spool that are looked at for one request.
const GATHERED: usize = 512;

/// The spool and what goes with it.
pub struct Keeper {
    spool: Arc<Spool>,
    board: Arc<Board>,
    quarantine: Quarantine,
    /// Acknowledged, and could not be removed: never sent again by this process.
    acknowledged: HashSet<BatchId>,
    /// Not sent before: could not be read, or the server fails on them.
    left_alone: HashMap<BatchId, Instant>,
    /// Those on which the server fails.
    doubtful: HashSet<BatchId>,
    tend: Instant,
}

impl Keeper {
    /// Prepares.
    pub fn new(spool: Arc<Spool>, board: Arc<Board>, quarantine: Quarantine) -> Self {
        Self {
            spool,
            board,
            quarantine,
            acknowledged: HashSet::new(),
            left_alone: HashMap::new(),
            doubtful: HashSet::new(),
            tend: Instant::now(),
        }
    }

    /// Works until sending is over and everything is done.
    pub fn run(&mut self) {
        while let Some(work) = self.board.next_for_disk(self.tend) {
            match work {
                Work::Carry(order) => self.carry(order),
                Work::Append(batch) => self.append(&batch),
                Work::Read(taken) => {
                    let chunk = self.read(&taken);
                    self.board.offer(chunk);
                }
                Work::Tend => self.tend(),
            }
        }
    }

    fn append(&mut self, batch: &Arc<Batch>) {
        match self.spool.append(batch.time, batch.points, &batch.text) {
            Ok(id) => {
                if !self.board.kept(batch, id) {
                    // It has been acknowledged already.
                    self.remove(id);
                }
            }
            Err(error @ (SpoolError::Unfit { .. } | SpoolError::TooLarge { .. })) => {
                // No disk will ever take it, and others wait behind it.
                tracing::error!("{error}: {} points are given up", batch.points);
                self.board.give_up(batch);
            }
            Err(error) => {
                if self.board.disk_failed() {
                    tracing::error!(
                        "{error}: points wait in memory, where a kill loses them, and are sent from there"
                    );
                }
            }
        }
    }

    fn carry(&mut self, order: Order) {
        match order {
            Order::SetAside(lines) => {
                let lost =
                    lines.iter().filter(|(line, reason)| !self.quarantine.keep(line, reason)).count() as u64;
                self.quarantine.sync();
                self.board.count(|figures| {
                    figures.quarantined += lines.len() as u64 - lost;
                    figures.dropped.quarantine_full += lost;
                });
            }
            Order::Remove(ids) => ids.into_iter().for_each(|id| self.remove(id)),
            Order::Replace(ids, rest) => match self.spool.append(rest.time, rest.points, &rest.text) {
                Ok(id) => {
                    if let Some(after) = rest.after {
                        self.left_alone.insert(id, after);
                        self.doubtful.insert(id);
                    }
                    ids.into_iter().for_each(|id| self.remove(id));
                }
                // The whole is sent again, which changes nothing.
                Err(error) => {
                    tracing::debug!("{error}");
                    if let Some(after) = rest.after {
                        self.left_alone.extend(ids.into_iter().map(|id| (id, after)));
                    }
                }
            },
        }
    }

    fn remove(&mut self, id: BatchId) {
        self.doubtful.remove(&id);
        if let Err(error) = self.spool.remove(id) {
            if self.acknowledged.is_empty() {
                tracing::warn!("{error}; it is acknowledged, and tried again every {} s", TEND.as_secs());
            }
            self.acknowledged.insert(id);
        }
    }

    /// As many of the oldest files as go into one request.
    fn read(&mut self, taken: &[BatchId]) -> Option<Chunk> {
        let now = Instant::now();
        self.left_alone.retain(|_, after| *after > now);
        let passed = taken.len() + self.acknowledged.len() + self.left_alone.len();
        let mut chunk = Chunk::default();
        for id in self.spool.ids(GATHERED + passed) {
            if taken.contains(&id) || self.acknowledged.contains(&id) || self.left_alone.contains_key(&id) {
                continue;
            }
            let points = chunk.points + u64::from(id.points);
            if !chunk.ids.is_empty() && points > u64::from(BATCH_LINES) {
                break;
            }
            match self.spool.read(id) {
                // One request rather than a full one and a tiny one.
                Ok(Some(lines)) if !chunk.ids.is_empty() && chunk.text.len() + lines.len() > BATCH_BYTES => {
                    break;
                }
                Ok(Some(lines)) => {
                    chunk.points = points;
                    chunk.text.push_str(&lines);
                    // Two lines would become one that nobody can read.
                    if !chunk.text.ends_with('\n') {
                        chunk.text.push('\n');
                    }
                    chunk.ids.push(id);
                }
                // It was dropped meanwhile, or was damaged and set aside.
                Ok(None) => {}
                // A disk that can't be read now may be later; the others needn't wait for that.
                Err(error) => {
                    tracing::warn!("{error}");
                    self.left_alone.insert(id, now + TEND);
                }
            }
        }
        chunk.doubtful = chunk.ids.iter().all(|id| self.doubtful.contains(id));
        (!chunk.ids.is_empty()).then_some(chunk)
    }

    fn tend(&mut self) {
        self.tend = Instant::now() + TEND;
        self.spool.expire();
        for id in std::mem::take(&mut self.acknowledged) {
            self.remove(id);
        }
    }
}
