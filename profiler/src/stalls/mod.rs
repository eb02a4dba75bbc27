//! The ledger of thread time: pure arithmetic over what the kernel side recorded.

use std::collections::HashMap;

use profiler_common::sched::{
    Retired, STALL_BOUNDS, STATE_GONE, STATE_UNKNOWN, STATES, StallCounts, ThreadRecord, ThreadState,
    stall_bound_ns,
};

/// What a thread that has had no scheduler event since it is followed has been doing all the while.
///
/// Nobody but the scheduler could have changed it, so one look at `/proc` that lies between two readings of an
/// unchanged record is the truth for the whole time.
pub type Unseen = HashMap<u32, ThreadState>;

/// Seconds of all threads of a target by state; index with a [`ThreadState`] as number.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Ledger {
    /// Nanoseconds by state since the target is followed.
    pub spent_ns: [u64; STATES],
    /// Threads in it that live.
    pub living: u64,
    /// Threads in it that have ended.
    pub ended: u64,
}

impl Ledger {
    /// Seconds in one state.
    pub const fn seconds(&self, state: ThreadState) -> f64 {
        self.spent_ns[state as usize] as f64 / 1e9
    }

    /// Seconds in all states: the number of threads times the time they lived.
    pub fn total_seconds(&self) -> f64 {
        self.spent_ns.iter().sum::<u64>() as f64 / 1e9
    }

    /// Adds up a target's living threads, with the intervals that are still open at `now_ns`, and its ended ones.
    ///
    /// Returns `None` if a thread was just being moved from the living to the ended: read again.
    pub fn add_up(
        records: impl IntoIterator<Item = (u32, ThreadRecord)>,
        unseen: &Unseen,
        retired: &Retired,
        now_ns: u64,
    ) -> Option<Self> {
        let mut ledger = Self { spent_ns: retired.spent_ns, living: 0, ended: retired.threads };
        for (tid, record) in records {
            if record.state == STATE_GONE {
                return None;
            }
            ledger.living += 1;
            for (sum, spent) in ledger.spent_ns.iter_mut().zip(record.spent_ns) {
                *sum += spent;
            }
            let state = if record.state == STATE_UNKNOWN {
                unseen.get(&tid).copied()
            } else {
                ThreadState::from_number(record.state)
            };
            // A thread that can't be placed yet is left out until it can: never guessed, and made good later.
            if let Some(state) = state {
                ledger.spent_ns[state as usize] += now_ns.saturating_sub(record.since_ns);
            }
        }
        Some(ledger)
    }

    /// Adds another process's.
    pub fn add(&mut self, other: &Self) {
        self.spent_ns.iter_mut().zip(other.spent_ns).for_each(|(sum, spent)| *sum += spent);
        self.living += other.living;
        self.ended += other.ended;
    }

    /// Keeps every state from sinking below an earlier reading (which a guess in `unseen` could cause); returns how
    /// many nanoseconds were held back.
    pub fn hold(&mut self, earlier: &Self) -> u64 {
        let mut held = 0;
        for (now, before) in self.spent_ns.iter_mut().zip(earlier.spent_ns) {
            if *now < before {
                held += before - *now;
                *now = before;
            }
        }
        held
    }
}

/// Counts a stall of that length, as the kernel side counts those that it sees.
pub fn note(counts: &mut StallCounts, length_ns: u64) {
    counts.total_ns = counts.total_ns.saturating_add(length_ns);
    let bucket =
        (0..STALL_BOUNDS).find(|bucket| length_ns <= stall_bound_ns(*bucket)).unwrap_or(STALL_BOUNDS);
    counts.buckets[bucket] += 1;
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RUNNING: u32 = ThreadState::Running as u32;

    fn record(state: u32, since_ns: u64) -> ThreadRecord {
        ThreadRecord { state, since_ns, ..Default::default() }
    }

    #[test]
    fn a_thread_that_never_switches_still_fills_its_second() {
        let threads = [(1, record(RUNNING, 1_000)), (2, record(STATE_UNKNOWN, 1_000))];
        let unseen = Unseen::from([(2, ThreadState::Sleeping)]);
        let ledger = Ledger::add_up(threads, &unseen, &Retired::default(), 1_000_001_000).unwrap();
        assert_eq!(ledger.seconds(ThreadState::Running), 1.0);
        assert_eq!(ledger.seconds(ThreadState::Sleeping), 1.0);
        assert_eq!(ledger.total_seconds(), 2.0);
        assert_eq!(ledger.living, 2);
    }

    #[test]
    fn a_thread_that_cannot_be_placed_is_not_guessed() {
        let ledger =
            Ledger::add_up([(2, record(STATE_UNKNOWN, 0))], &Unseen::new(), &Retired::default(), 5).unwrap();
        assert_eq!(ledger.spent_ns, [0; STATES]);
    }

    #[test]
    fn a_thread_on_its_way_out_asks_for_another_reading() {
        assert!(
            Ledger::add_up([(2, record(STATE_GONE, 0))], &Unseen::new(), &Retired::default(), 5).is_none()
        );
    }

    #[test]
    fn a_record_from_after_the_reading_adds_nothing_open() {
        let ledger =
            Ledger::add_up([(1, record(RUNNING, 10))], &Unseen::new(), &Retired::default(), 5).unwrap();
        assert_eq!(ledger.spent_ns, [0; STATES]);
    }

    proptest! {
        /// Threads that walk through random states: whatever moment is read, the parts sum to thread time, and no part
        /// ever sinks.
        #[test]
        fn parts_sum_to_thread_time_and_never_sink(
            walks in prop::collection::vec(prop::collection::vec((0u32..STATES as u32, 1u64..1_000_000), 1..20), 1..8),
            reads in prop::collection::vec(0u64..25_000_000, 1..20),
        ) {
            let mut reads = reads;
            reads.sort_unstable();
            let mut earlier = Ledger::default();
            for now in reads {
                let threads = walks.iter().enumerate().map(|(tid, walk)| {
                    let mut record = record(walk[0].0, 0);
                    for (state, length) in walk {
                        if record.since_ns + length > now { break }
                        record.spent_ns[record.state as usize] += length;
                        record.since_ns += length;
                        record.state = *state;
                    }
                    (tid as u32, record)
                });
                let mut ledger = Ledger::add_up(threads, &Unseen::new(), &Retired::default(), now).unwrap();
                prop_assert_eq!(ledger.spent_ns.iter().sum::<u64>(), now * walks.len() as u64);
                prop_assert_eq!(ledger.hold(&earlier), 0);
                earlier = ledger;
            }
        }
    }
}
