//! The history of a hunt on disk: pictures of weeks in one file that stays small.
//!
//! One record for each moment: the picture without its stacks, which are kept once per site. The file is a redb database, so
//! that whatever ends us or the machine, everything up to the last commit is there. It is read from a copy in memory, which
//! needs no lock: one profiler may write while others look. `thin` says what is kept for how long, `compare` puts two moments
//! or two builds side by side.

mod compare;
mod moment;
mod record;
#[cfg(test)]
pub(crate) mod samples;
mod store;
#[cfg(test)]
mod tests;
mod thin;

use std::{
    collections::{HashMap, HashSet},
    ops::{Bound, RangeBounds},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use redb::{Database, ReadableDatabase as _, ReadableTable as _, WriteTransaction};
use thiserror::Error;

pub use compare::{Change, Comparison, Identity, Row, TargetComparison, compare};
pub use moment::{Moment, MomentError};

use crate::{leaks::Picture, stack::Stack};
use record::{Damage, Record};
use store::{MOMENTS, STACKS};

/// What went wrong with a history. It is told in one line, with the way out.
#[derive(Debug, Error)]
pub enum HistoryError {
    /// The file can't be opened.
    #[error("can't open the history {}: {source}", path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Another profiler writes it.
    #[error(
        "the history {} is being written by another profiler: give --history another file, or end that one \
         (`profiler leaks --history FILE` can look at it meanwhile)", path.display()
    )]
    Locked {
        /// Which.
        path: PathBuf,
    },
    /// It is something else.
    #[error("{} is no history of profiler ({what}); nothing in it was changed: give --history another file", path.display())]
    Foreign {
        /// Which.
        path: PathBuf,
        /// What it is instead.
        what: &'static str,
    },
    /// It was written by another version.
    #[error("the history {} has format {found}, this profiler knows {known}: use the profiler that wrote it, or another file", path.display())]
    Format {
        /// Which.
        path: PathBuf,
        /// The file's.
        found: u64,
        /// Ours.
        known: u64,
    },
    /// Its contents were changed or lost.
    #[error(
        "the history {} is damaged ({what}); nothing in it was changed: move it away to begin a new one, or give --history \
         another file", path.display()
    )]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What was found.
        what: String,
    },
    /// It is too large to be one.
    #[error("the history {} has {bytes} bytes, a history has at most {}: give --history another file", path.display(), HIGHEST_BYTES * 2)]
    TooLarge {
        /// Which.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// It can't be written or read any more.
    #[error("can't use the history {}: {what}", path.display())]
    Storage {
        /// Which.
        path: PathBuf,
        /// Why.
        what: String,
    },
    /// It was opened for reading.
    #[error("the history {} was opened for reading", path.display())]
    ReadOnly {
        /// Which.
        path: PathBuf,
    },
}

/// The smallest size that can be asked for.
pub const LOWEST_BYTES: u64 = 2 << 20;
/// The largest.
pub const HIGHEST_BYTES: u64 = 1 << 30;

/// How large it may get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The file's size in bytes, between [`LOWEST_BYTES`] and [`HIGHEST_BYTES`].
    pub bytes: u64,
}

/// What there is, and what was left out to keep it small.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Moments.
    pub moments: u64,
    /// The first one, and the last.
    pub range: Option<(SystemTime, SystemTime)>,
    /// Moments that were left out as they aged.
    pub thinned_moments: u64,
    /// Small sites that were left out of moments, each counted once per moment.
    pub dropped_sites: u64,
}

/// A history, open. `append` belongs to one thread, everybody may read meanwhile.
pub struct History {
    path: PathBuf,
    limits: Limits,
    writable: bool,
    /// `None` after a failure of the disk: the next append opens it again.
    database: RwLock<Option<Database>>,
    state: Mutex<State>,
}

/// Stacks by site.
type Stacks = HashMap<Arc<str>, Arc<Stack>>;

/// What the writer remembers.
#[derive(Default)]
struct State {
    /// Sites whose stack is stored.
    stacks: HashSet<Arc<str>>,
    /// Targets whose end has been told.
    ended: HashSet<Arc<str>>,
}

impl History {
    /// Opens a history for writing, or makes it.
    ///
    /// # Errors
    ///
    /// If it can't be opened, is in use, or is no history: nothing that was in the file is changed then.
    pub fn open(path: &Path, limits: Limits) -> Result<Self, HistoryError> {
        let bytes = limits.bytes.clamp(LOWEST_BYTES, HIGHEST_BYTES);
        let database = store::open(path)?;
        let history = Self {
            path: path.to_owned(),
            limits: Limits { bytes },
            writable: true,
            database: RwLock::new(Some(database)),
            state: Mutex::default(),
        };
        history.remember_stacks()?;
        Ok(history)
    }

    /// Reads a history as it is now, from a copy in memory; who writes it isn't disturbed, and nothing is changed.
    ///
    /// # Errors
    ///
    /// If it can't be read, or is none.
    pub fn read(path: &Path) -> Result<Self, HistoryError> {
        Ok(Self {
            path: path.to_owned(),
            limits: Limits { bytes: HIGHEST_BYTES },
            writable: false,
            database: RwLock::new(Some(store::copy(path)?)),
            state: Mutex::default(),
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Adds a picture and makes it durable, then leaves out what is too old or too much. May take as long as the disk does:
    /// some milliseconds, and a second or two where it has to make room.
    ///
    /// # Errors
    ///
    /// If it can't be written: the picture is lost, those before are not, and the next append tries again.
    pub fn append(&self, picture: &Picture) -> Result<(), HistoryError> {
        if !self.writable {
            return Err(HistoryError::ReadOnly { path: self.path.clone() });
        }
        self.reopen()?;
        let mut state = self.state();
        let result = self.append_to(&mut state, picture);
        if result.is_err() {
            // redb takes nothing more after a failure. Closing it unlocks the file, too.
            self.write_lock().take();
        }
        result
    }

    fn append_to(&self, state: &mut State, picture: &Picture) -> Result<(), HistoryError> {
        let key = millis(picture.taken_at);
        let ended: HashSet<Arc<str>> = picture
            .targets
            .iter()
            .filter(|target| target.ended.is_some())
            .map(|target| Arc::clone(&target.target))
            .collect();
        let last = ended.iter().any(|target| !state.ended.contains(target));
        let (record, dropped) = Record::of(picture);
        let mut new: HashMap<&Arc<str>, &Stack> = HashMap::new();
        for site in picture.targets.iter().flat_map(|target| &target.sites) {
            if record.has(&site.id) && !state.stacks.contains(&site.id) {
                new.insert(&site.id, &site.stack);
            }
        }
        let bytes = record.encode(last).map_err(|damage| self.damaged(damage))?;
        self.change(|transaction| {
            let mut used = store::used(transaction)?;
            store::remove(transaction, key, &mut used)?;
            store::insert(transaction, key, &bytes, &mut used)?;
            for (id, stack) in &new {
                store::insert_stack(transaction, id, &record::encode_stack(stack), &mut used)?;
            }
            store::add(transaction, store::DROPPED_SITES, dropped)?;
            thin::thin(transaction, key, &mut used)?;
            store::set_used(transaction, used)
        })?;
        state.stacks.extend(new.into_keys().cloned());
        state.ended = ended;
        if self.used()? > thin::budget(self.limits) { self.make_room(state) } else { Ok(()) }
    }

    /// The moments that are kept, in their order.
    ///
    /// # Errors
    ///
    /// If the file can't be read.
    pub fn moments(&self, range: impl RangeBounds<SystemTime>) -> Result<Vec<SystemTime>, HistoryError> {
        let from = match range.start_bound() {
            Bound::Included(at) => millis(*at),
            Bound::Excluded(at) => millis(*at).saturating_add(1),
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(at) => millis(*at).saturating_add(1),
            Bound::Excluded(at) => millis(*at),
            Bound::Unbounded => u64::MAX,
        };
        Ok(self.keys(from, to)?.into_iter().map(time).collect())
    }

    /// The picture whose moment is nearest; `None` if there is none at all.
    ///
    /// # Errors
    ///
    /// If the file can't be read.
    pub fn picture_at(&self, at: SystemTime) -> Result<Option<Picture>, HistoryError> {
        let at = millis(at);
        let keys = self.look(|database| {
            let transaction = database.begin_read()?;
            let table = transaction.open_table(MOMENTS)?;
            let before = table.range(..=(at, u16::MAX))?.next_back().transpose()?;
            let after = table.range((at, 0)..)?.next().transpose()?;
            Ok([before, after].map(|entry| entry.map(|(key, _)| key.value().0)))
        })?;
        let Some(key) = keys.into_iter().flatten().min_by_key(|key| key.abs_diff(at)) else {
            return Ok(None);
        };
        let (record, mut stacks) = self.record(key)?;
        let picture = record.into_picture(time(key), |id| {
            // A stack that isn't there (it always is) is one without frames.
            stacks.remove(id).unwrap_or_else(record::no_stack)
        });
        Ok(Some(picture))
    }

    /// The first moment and the last, and what was left out.
    ///
    /// # Errors
    ///
    /// If the file can't be read.
    pub fn told(&self) -> Result<Told, HistoryError> {
        let keys = self.keys(0, u64::MAX)?;
        let range = keys.first().zip(keys.last()).map(|(first, last)| (time(*first), time(*last)));
        let counted = |name| self.look(|database| store::count(&database.begin_read()?, name));
        Ok(Told {
            moments: keys.len() as u64,
            range,
            thinned_moments: counted(store::THINNED_MOMENTS)?,
            dropped_sites: counted(store::DROPPED_SITES)?,
        })
    }

    fn keys(&self, from: u64, to: u64) -> Result<Vec<u64>, HistoryError> {
        self.look(|database| {
            let table = database.begin_read()?.open_table(MOMENTS)?;
            let mut keys = Vec::new();
            if from < to {
                for entry in table.range((from, 0)..(to, 0))? {
                    let (key, part) = entry?.0.value();
                    if part == 0 {
                        keys.push(key);
                    }
                }
            }
            Ok(keys)
        })
    }

    fn record(&self, key: u64) -> Result<(Record, Stacks), HistoryError> {
        let bytes = self.look(|database| {
            let table = database.begin_read()?.open_table(MOMENTS)?;
            store::bytes_of(&table, key)
        })?;
        let (record, _) = Record::decode(&bytes).map_err(|damage| self.damaged(damage))?;
        let ids: Vec<_> = record.ids().cloned().collect();
        let encoded = self.look(|database| {
            let table = database.begin_read()?.open_table(STACKS)?;
            ids.iter()
                .map(|id| Ok((Arc::clone(id), table.get(&**id)?.map(|bytes| bytes.value().to_vec()))))
                .collect::<Result<Vec<_>, redb::Error>>()
        })?;
        let mut stacks = HashMap::new();
        for (id, bytes) in encoded {
            if let Some(bytes) = bytes {
                let stack = record::decode_stack(&bytes).map_err(|damage| self.damaged(damage))?;
                stacks.insert(id, Arc::new(stack));
            }
        }
        Ok((record, stacks))
    }

    fn used(&self) -> Result<u64, HistoryError> {
        self.look(|database| store::count(&database.begin_read()?, store::USED))
    }

    /// Leaves out what is worth least until there is room again; see `thin`.
    fn make_room(&self, state: &mut State) -> Result<(), HistoryError> {
        const BATCH: usize = 64;
        let budget = thin::budget(self.limits);
        while self.used()? > budget {
            let mut left_out = 0;
            for batch in thin::old(&self.keys(0, u64::MAX)?).chunks(BATCH) {
                left_out += self.change(|transaction| thin::halve_sites(transaction, batch))?;
            }
            let kept = self.sites_in_use()?;
            left_out += self.change(|transaction| thin::drop_stacks(transaction, &kept))?;
            if left_out == 0 || self.used()? > budget {
                let every_other: Vec<u64> =
                    thin::old(&self.keys(0, u64::MAX)?).iter().copied().step_by(2).collect();
                if every_other.is_empty() && left_out == 0 {
                    // One picture, as small as it gets.
                    break;
                }
                for batch in every_other.chunks(BATCH) {
                    self.change(|transaction| thin::drop_moments(transaction, batch))?;
                }
            }
        }
        state.stacks.clear();
        self.load_stacks(state)
    }

    fn sites_in_use(&self) -> Result<HashSet<Arc<str>>, HistoryError> {
        let mut used = HashSet::new();
        for key in self.keys(0, u64::MAX)? {
            let bytes =
                self.look(|database| store::bytes_of(&database.begin_read()?.open_table(MOMENTS)?, key))?;
            let (record, _) = Record::decode(&bytes).map_err(|damage| self.damaged(damage))?;
            used.extend(record.ids().cloned());
        }
        Ok(used)
    }

    fn remember_stacks(&self) -> Result<(), HistoryError> {
        self.load_stacks(&mut self.state())
    }

    fn load_stacks(&self, state: &mut State) -> Result<(), HistoryError> {
        state.stacks = self.look(|database| {
            let table = database.begin_read()?.open_table(STACKS)?;
            table.iter()?.map(|entry| Ok(entry?.0.value().into())).collect()
        })?;
        Ok(())
    }

    /// One transaction: all of it or nothing.
    fn change<T>(
        &self,
        work: impl FnOnce(&WriteTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, HistoryError> {
        self.look(|database| {
            let transaction = database.begin_write()?;
            let value = work(&transaction)?;
            transaction.commit()?;
            Ok(value)
        })
    }

    fn look<T>(&self, work: impl FnOnce(&Database) -> Result<T, redb::Error>) -> Result<T, HistoryError> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let Some(database) = database.as_ref() else {
            return Err(HistoryError::Storage {
                path: self.path.clone(),
                what: "an earlier write has failed".to_owned(),
            });
        };
        work(database).map_err(|error| store::told(&self.path, error))
    }

    /// Opens the file again after a failure.
    fn reopen(&self) -> Result<(), HistoryError> {
        let mut database = self.write_lock();
        if database.is_none() {
            *database = Some(store::open(&self.path)?);
            drop(database);
            self.remember_stacks()?;
        }
        Ok(())
    }

    fn damaged(&self, damage: Damage) -> HistoryError {
        HistoryError::Damaged { path: self.path.clone(), what: damage.to_string() }
    }

    fn write_lock(&self) -> std::sync::RwLockWriteGuard<'_, Option<Database>> {
        self.database.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The key of a moment: milliseconds since 1970.
fn millis(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX - 1)
}

/// The moment of a key. No file makes a time that can't be told: four thousand years are the end.
fn time(key: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(key.min(1 << 46))
}
