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
