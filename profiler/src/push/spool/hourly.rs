//! Telling people of what goes on for days.

use std::time::Duration;

/// What goes on is told again after this.
const AGAIN: Duration = Duration::from_secs(3600);

/// Decides when people are told of something: the first time at once, then once an hour if there is more of it.
#[derive(Debug, Default)]
pub struct Hourly {
    /// By a clock that nobody sets.
    at: Option<Duration>,
    told: u64,
}

impl Hourly {
    /// How many are to be told of now, of so many in all. The time is that of any clock that nobody sets.
    pub fn due(&mut self, all: u64, now: Duration) -> Option<u64> {
        let new = all.saturating_sub(self.told);
        if new == 0 || self.at.is_some_and(|at| now.saturating_sub(at) < AGAIN) {
            return None;
        }
        (self.at, self.told) = (Some(now), all);
        Some(new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_told_at_once_and_the_others_together_an_hour_later() {
        let mut hourly = Hourly::default();
        let mut due = |all, second| hourly.due(all, Duration::from_secs(second));
        assert_eq!([due(0, 0), due(7, 10), due(9, 11), due(20, 3609)], [None, Some(7), None, None]);
        assert_eq!([due(20, 3610), due(20, 9000), due(21, 9001)], [Some(13), None, Some(1)]);
    }
}
