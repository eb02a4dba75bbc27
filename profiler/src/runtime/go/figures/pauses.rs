//! Following the pauses of garbage collections: the runtime remembers the last [`RING`] cycles, so nothing is lost as long as
//! they are read often enough.

use std::time::Duration;

use super::{Figures, RING};

/// Cycles that are expected between two readings: a quarter of what is remembered.
const WANTED: f64 = RING as f64 / 4.0;
/// Never more often.
const SHORTEST: Duration = Duration::from_millis(10);

/// Which cycles have been seen, and how fast they come.
#[derive(Clone, Copy, Debug, Default)]
pub struct PauseFollower {
    /// The count of cycles at the last reading.
    seen: Option<u32>,
    /// Cycles a second, as the last readings had them.
    rate: f64,
}

/// What is new since the last reading.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewPauses {
    /// Each cycle's pause in nanoseconds, and when it ended in nanoseconds since the unix epoch; the newest last.
    pub pauses: Vec<(u64, u64)>,
    /// Cycles that were overwritten before they were read.
    pub missed: u64,
}

impl PauseFollower {
    /// Of a program that is observed from its beginning.
    pub fn of_new_program() -> Self {
        Self { seen: Some(0), rate: 0.0 }
    }

    /// Takes a reading. The first only tells what was before. `elapsed`: since the last one.
    pub fn follow(&mut self, figures: &Figures, elapsed: Duration) -> NewPauses {
        let Some(seen) = self.seen.replace(figures.num_gc) else { return NewPauses::default() };
        // The count has 32 bits and wraps.
        let cycles = figures.num_gc.wrapping_sub(seen);
        if cycles > u32::MAX / 2 {
            // It went back: another program, or a reading from before the last one.
            return NewPauses::default();
        }
        let measured = f64::from(cycles) / elapsed.as_secs_f64().max(1e-6);
        // Bursts end sooner than they are forgotten.
        self.rate = measured.max(self.rate / 2.0);
        let cycles = usize::try_from(cycles).unwrap_or(usize::MAX);
        let pauses = &figures.pauses[figures.pauses.len().saturating_sub(cycles)..];
        NewPauses { pauses: pauses.to_vec(), missed: cycles.saturating_sub(pauses.len()) as u64 }
    }

    /// After what time the next reading is due, so that few enough cycles are expected meanwhile. `sampling`: the time between
    /// readings where nothing is pressing.
    pub fn due(&self, sampling: Duration) -> Duration {
        let seconds = WANTED / self.rate.max(1e-9);
        let longest = sampling.max(SHORTEST);
        Duration::try_from_secs_f64(seconds).unwrap_or(longest).clamp(SHORTEST, longest)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The runtime's ring, naively: all cycles since the count was zero or any other number.
    fn figures(cycles: &[(u64, u64)], first: u32) -> Figures {
        let num_gc = first.wrapping_add(u32::try_from(cycles.len()).unwrap());
        let remembered = cycles.len().min(RING).min(num_gc as usize);
        Figures { num_gc, pauses: cycles[cycles.len() - remembered..].to_vec(), ..Figures::default() }
    }

    proptest! {
        #[test]
        fn each_cycle_is_told_once_or_counted_as_missed(
            steps in proptest::collection::vec((0usize..600, 1u64..5_000), 1..20),
            first in prop_oneof![Just(0u32), Just(u32::MAX - 500), any::<u32>()],
        ) {
            // What came before the follower: 256 cycles at most are remembered.
            let before = 300.min(first) as usize;
            let mut cycles: Vec<(u64, u64)> = (0..before as u64).map(|number| (number, 0)).collect();
            let first = first - before as u32;
            let mut follower = PauseFollower::default();
            prop_assert_eq!(follower.follow(&figures(&cycles, first), Duration::ZERO), NewPauses::default());
            let mut told = 0;
            for (count, millis) in steps {
                let from = cycles.len();
                cycles.extend((0..count as u64).map(|number| (number * 7, from as u64 + number)));
                let now = figures(&cycles, first);
                let new = follower.follow(&now, Duration::from_millis(millis));
                let expected = count.min(now.pauses.len());
                prop_assert_eq!(&new.pauses[..], &cycles[cycles.len() - expected..]);
                prop_assert_eq!(new.missed as usize, count - expected);
                prop_assert!(count > RING || new.missed == 0 || now.num_gc < RING as u32);
                told += new.pauses.len() + new.missed as usize;
            }
            prop_assert_eq!(told, cycles.len() - before);
        }

        #[test]
        fn the_next_reading_is_due_before_a_quarter_of_the_ring_is_new(cycles in 0u32..100_000, millis in 1u64..60_000) {
            let mut follower = PauseFollower::default();
            follower.follow(&Figures::default(), Duration::ZERO);
            let elapsed = Duration::from_millis(millis);
            follower.follow(&Figures { num_gc: cycles, ..Figures::default() }, elapsed);
            let sampling = Duration::from_secs(5);
            let due = follower.due(sampling);
            prop_assert!((SHORTEST..=sampling).contains(&due));
            let expected = f64::from(cycles) / elapsed.as_secs_f64() * due.as_secs_f64();
            prop_assert!(expected <= WANTED * 1.001 || due == SHORTEST);
        }
    }

    #[test]
    fn a_burst_is_remembered_for_some_readings_and_then_forgotten() {
        let mut follower = PauseFollower::default();
        let sampling = Duration::from_secs(10);
        let mut count = 0;
        let mut read = |follower: &mut PauseFollower, cycles: u32| {
            count += cycles;
            follower.follow(&Figures { num_gc: count, ..Figures::default() }, Duration::from_secs(1));
            follower.due(sampling)
        };
        assert_eq!(read(&mut follower, 0), sampling);
        assert_eq!(read(&mut follower, 0), sampling);
        assert_eq!(read(&mut follower, 640), Duration::from_millis(100));
        assert_eq!(read(&mut follower, 0), Duration::from_millis(200));
        for _ in 0..10 {
            read(&mut follower, 0);
        }
        assert_eq!(read(&mut follower, 0), sampling);
        // Another program has the number now.
        let new = follower.follow(&Figures { num_gc: 3, ..Figures::default() }, Duration::from_secs(1));
        assert_eq!(new, NewPauses::default());
    }
}
