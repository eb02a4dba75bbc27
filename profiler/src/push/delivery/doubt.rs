//! Lines on which the server fails (500) while it stores others.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    time::{Duration, Instant},
};

/// So often the server may fail on a line while it stores others, until the line is set aside.
const TRIES: u32 = 5;
/// A line's failure counts at most so often: a server that is overloaded for a while fails on good lines, too.
pub const COUNTS: Duration = Duration::from_secs(60);
/// So many lines are remembered. Others are tried as if they had never failed.
const REMEMBERED: usize = 1_024;
/// Nobody has sent a line for so long: it may make room for another.
const STALE: Duration = Duration::from_secs(3_600);

/// By hash of the line.
#[derive(Debug, Default)]
pub struct Doubt(HashMap<u64, Failures>);

#[derive(Debug)]
struct Failures {
    count: u32,
    /// When the last one was counted.
    counted: Instant,
}

impl Doubt {
    /// Whether the server failed on this line.
    pub fn has(&self, line: &str) -> bool {
        !self.0.is_empty() && self.0.contains_key(&hash(line))
    }

    /// The server failed on this line, and stored others in the same run. True: often enough, set it aside.
    pub fn failed(&mut self, line: &str, now: Instant) -> bool {
        let line = hash(line);
        if let Some(failures) = self.0.get_mut(&line) {
            if now.saturating_duration_since(failures.counted) >= COUNTS {
                *failures = Failures { count: failures.count + 1, counted: now };
            }
            let enough = failures.count >= TRIES;
            if enough {
                self.0.remove(&line);
            }
            return enough;
        }
        if self.0.len() >= REMEMBERED {
            self.0.retain(|_, failures| now.saturating_duration_since(failures.counted) < STALE);
        }
        if self.0.len() < REMEMBERED {
            self.0.insert(line, Failures { count: 1, counted: now });
        }
        false
    }

    /// This line is stored, or refused.
    pub fn forget(&mut self, line: &str) {
        if !self.0.is_empty() {
            self.0.remove(&hash(line));
        }
    }
}

fn hash(line: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    line.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_given_up_after_four_minutes_at_least_and_others_are_remembered_meanwhile() {
        let begin = Instant::now();
        let mut doubt = Doubt::default();
        let tries = (0..).find(|second| doubt.failed("a", begin + Duration::from_secs(*second)));
        assert_eq!(tries, Some(240));
        assert!(!doubt.has("a"));
        let line = |at: usize| format!("line {at}");
        for at in 0..REMEMBERED + 10 {
            assert!(!doubt.failed(&line(at), begin));
        }
        assert!(doubt.has(&line(0)) && !doubt.has(&line(REMEMBERED)), "the first ones get their tries");
        assert!(!doubt.failed("new", begin + STALE));
        assert!(doubt.has("new") && !doubt.has(&line(0)), "nobody has sent the old ones any more");
    }
}
