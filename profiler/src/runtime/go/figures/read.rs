//! Reading the figures of a process that runs on meanwhile.
//!
//! All that is wanted is read by one call, from addresses that were learned before; the same call reads those addresses again.
//! What was read is believed only if the runtime's own sums agree ([`super::check`]): they don't for some nanoseconds whenever
//! the runtime has changed one of two numbers that belong together. Then it is read again.

use std::{
    thread,
    time::{Duration, Instant, SystemTime},
};

use crate::runtime::{Memory, go::GoError, go::attach::GoRuntime, u32_at, u64_at};

use super::{
    Figures, View,
    check::{Doubt, MOST_PROCESSORS, check, check_with_caches},
    formulas::{Totals, figures},
    raw::{Part, Raw},
};

/// A reading is tried again for so long: a thread that was preempted between two instructions goes on by then.
const PATIENCE: Duration = Duration::from_millis(50);
/// So often without a rest: most of what fails is over after some hundred nanoseconds.
const AT_ONCE: u32 = 16;
/// The first rest; the next ones are twice as long each.
const REST: Duration = Duration::from_micros(50);
/// The longest rest.
const LONGEST_REST: Duration = Duration::from_millis(4);
/// Readings whose sums never agreed, one behind the other, after which the table is taken for wrong.
const CHANCES: u32 = 3;
/// Such readings count as one unless they are so far apart: a thread that its cgroup stops in the middle of an update goes on
/// with the next period, which is a tenth of a second mostly (`cpu.max` in Documentation/admin-guide/cgroup-v2.rst).
pub(super) const APART: Duration = Duration::from_millis(500);

/// What a reading cost, with all that was read again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// System calls that read memory.
    pub calls: u32,
    /// Bytes.
    pub bytes: u64,
    /// How often it was begun: once, if all went well.
    pub tries: u32,
    /// From beginning to end.
    pub time: Duration,
}

/// The runtime's processors (`P`), as they were last seen. The runtime makes more of them and never frees one (`procresize` in
/// Go's src/runtime/proc.go).
#[derive(Clone, Debug, Default)]
pub struct Processors {
    /// Where their addresses are.
    pub(super) array: u64,
    pub(super) addresses: Vec<u64>,
    /// Where each has its cache.
    pub(super) caches: Vec<u64>,
    /// Something was read by them already.
    proven: bool,
}

/// What is wrong with one try.
#[derive(Debug)]
pub(super) enum Miss {
    /// It is worth another try at once: addresses were out of date, and are learned anew.
    Stale,
    /// The caches change faster than they can be read: that says nothing against the table.
    Moving,
    Doubt(Doubt),
    Fatal(GoError),
}

impl From<Doubt> for Miss {
    fn from(doubt: Doubt) -> Self {
        Self::Doubt(doubt)
    }
}

impl From<GoError> for Miss {
    fn from(error: GoError) -> Self {
        Self::Fatal(error)
    }
}

impl<M: Memory> GoRuntime<M> {
    /// The figures of now.
    ///
    /// # Errors
    ///
    /// If memory can't be read; [`GoError::Restless`] if its sums didn't agree once in all the time that is given; and
    /// [`GoError::Contradiction`] if that goes on, or a number can't be true.
    pub fn read(&mut self, view: View) -> Result<Figures, GoError> {
        let start = Instant::now();
        self.cost = Cost::default();
        let outcome = self.read_until(view, start + PATIENCE);
        self.cost.time = start.elapsed();
        outcome
    }

    fn read_until(&mut self, view: View, end: Instant) -> Result<Figures, GoError> {
        let mut rest = REST;
        loop {
            self.cost.tries = self.cost.tries.saturating_add(1);
            let doubt: Option<String> = match self.attempt(view) {
                Ok(figures) => {
                    (self.doubted, self.doubted_at) = (0, None);
                    return Ok(figures);
                }
                Err(Miss::Fatal(error)) => return Err(error),
                Err(Miss::Doubt(Doubt::Wrong(why))) => return Err(GoError::Contradiction(why)),
                Err(Miss::Doubt(Doubt::Torn(why))) => Some(why),
                Err(Miss::Stale | Miss::Moving) => None,
            };
            if Instant::now() >= end {
                let restless = GoError::Restless(self.cost.tries);
                let Some(why) = doubt else { return Err(restless) };
                if self.doubted_at.is_none_or(|at| at.elapsed() >= APART) {
                    self.doubted = self.doubted.saturating_add(1);
                    self.doubted_at = Some(Instant::now());
                }
                return Err(if self.doubted >= CHANCES { GoError::Contradiction(why) } else { restless });
            }
            // With caches each try has many rounds of its own.
            if self.cost.tries >= AT_ONCE || view == View::MemStats {
                thread::sleep(rest);
                rest = (rest * 2).min(LONGEST_REST);
            }
        }
    }

    fn attempt(&mut self, view: View) -> Result<Figures, Miss> {
        if self.processors.addresses.is_empty() {
            self.learn_processors()?;
        }
        match view {
            View::Metrics => {
                let (raw, _) = self.read_with(&mut Vec::new())?;
                let totals = self.checked(&raw)?;
                Ok(figures(&raw, totals, self.rules))
            }
            View::MemStats => self.with_caches(),
        }
    }

    /// Reads parts, and counts what that costs.
    pub(super) fn fetch(&mut self, parts: &[Part]) -> Result<Vec<u8>, GoError> {
        let bytes: usize = parts.iter().map(|(_, length)| length).sum();
        self.cost.calls =
            self.cost.calls.saturating_add(u32::try_from(parts.len().div_ceil(1024)).unwrap_or(u32::MAX));
        self.cost.bytes = self.cost.bytes.saturating_add(bytes as u64);
        let read = self.memory.read(parts)?;
        if read.len() == bytes {
            Ok(read)
        } else {
            Err(GoError::Memory("it is shorter than asked for".into()))
        }
    }

    /// Reads where the processors are, and where each has its cache.
    fn learn_processors(&mut self) -> Result<(), Miss> {
        let header = self.fetch(&[self.plan.allp()])?;
        let (array, count) = (u64_at(&header, 0), u64_at(&header, 8));
        if !(1..=MOST_PROCESSORS).contains(&count) {
            // The slice's words are written one behind the other, but its length is always one of a true slice.
            return Err(Doubt::Wrong(format!("there are {count} processors")).into());
        }
        let count = usize::try_from(count).unwrap_or(0);
        let bytes = self.fetch(&[(array, count * 8)])?;
        let addresses: Vec<u64> = (0..count).map(|number| u64_at(&bytes, number * 8)).collect();
        let caches = self.learn_caches(&addresses)?;
        self.processors = Processors { array, addresses, caches, proven: false };
        Ok(())
    }

    /// One call for `parts`, in front, and everything but the caches; also the bytes of `parts`. Nothing is checked but whether
    /// the processors are still those that were learned.
    pub(super) fn read_with(&mut self, parts: &mut Vec<Part>) -> Result<(Raw, Vec<u8>), Miss> {
        let own: usize = parts.iter().map(|(_, length)| length).sum();
        let count = self.processors.addresses.len();
        parts.push((self.processors.array, count * 8));
        let layout = &self.places.layout;
        let free = layout.p.g_free_size.or(layout.p.g_free_n);
        let lists = free
            .into_iter()
            .flat_map(|offset| self.processors.addresses.iter().map(move |p| (p.wrapping_add(offset), 4)));
        parts.extend(lists);
        parts.extend(self.plan.parts());
        let mut bytes = match self.fetch(parts) {
            Ok(bytes) => bytes,
            Err(error) => {
                // Addresses that were learned long ago may lead nowhere by now.
                let proven = std::mem::take(&mut self.processors).proven;
                return Err(if proven { Miss::Stale } else { error.into() });
            }
        };
        let rest = bytes.split_off(own);
        let (array, rest) = rest.split_at(count * 8);
        let (lists, rest) = rest.split_at(rest.len() - self.plan.length());
        let mut raw = self.plan.decode(&self.places, rest);
        let same = |(number, address): (usize, &u64)| u64_at(array, number * 8) == *address;
        let up_to_date = raw.allp == self.processors.array
            && raw.processors == count as u64
            && self.processors.addresses.iter().enumerate().all(same);
        if !up_to_date {
            self.processors = Processors::default();
            return Err(Miss::Stale);
        }
        self.processors.proven = true;
        let free = lists.chunks_exact(4).map(|list| i64::from(u32_at(list, 0).cast_signed()));
        raw.free_goroutines = raw.free_goroutines.saturating_add(free.sum());
        Ok((raw, bytes))
    }

    /// Totals without the caches, if all sums agree.
    pub(super) fn checked(&self, raw: &Raw) -> Result<Totals, Doubt> {
        let layout = &self.places.layout;
        let totals = Totals::of(&raw.heap, &layout.class_sizes);
        check(raw, totals, layout, self.rules, now())?;
        Ok(totals)
    }

    /// The same with what the caches hold back.
    fn with_caches(&mut self) -> Result<Figures, Miss> {
        let (raw, pending) = self.read_caches()?;
        let totals = self.checked(&raw)?;
        let totals = totals.with(&pending, &self.places.layout.class_sizes);
        check_with_caches(&raw, totals)?;
        Ok(figures(&raw, totals, self.rules))
    }
}

/// Nanoseconds since the unix epoch.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
