//! Counters that never go back, whatever was read.

use std::time::Duration;

use serde::Serialize;

use crate::runtime::go::GoError;

use super::Figures;

/// Nobody allocates faster, in bytes a second: all memory of a large machine.
const BYTES_A_SECOND: u64 = 1 << 42;
/// The same in objects.
const OBJECTS_A_SECOND: u64 = 1 << 37;
/// The same in garbage collections.
const CYCLES_A_SECOND: u64 = 1 << 20;
/// What may be added to that, as short times are measured badly and pauses are told when they end, in seconds.
const ROOM: u64 = 60;

/// Keeps the totals of a process from going back. The sums that are checked at each reading leave no known way for that; this is
/// for the ways that aren't known.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    last: Option<[u64; 6]>,
    held: HeldBack,
}

/// What was not shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct HeldBack {
    /// Readings that were made again as a counter jumped.
    pub jumps: u64,
    /// Counters that were shown as they had been before, as they were less the second time, too.
    pub counters: u64,
}

impl Counters {
    /// Takes a reading, and another one if a counter went back or jumped absurdly far. `elapsed`: since the last reading. A counter
    /// that went back the second time, too, is held; one that jumped the second time, too, makes that there is no reading.
    ///
    /// # Errors
    ///
    /// Those of reading again; [`GoError::Restless`] if a counter jumped both times.
    pub fn admit(
        &mut self,
        figures: Figures,
        elapsed: Duration,
        again: impl FnOnce() -> Result<Figures, GoError>,
    ) -> Result<Figures, GoError> {
        let Some(last) = self.last else {
            self.last = Some(counters(&figures));
            return Ok(figures);
        };
        let mut figures = figures;
        if unlikely(&last, &counters(&figures), elapsed) {
            self.held.jumps += 1;
            figures = again()?;
            if jumped(&last, &counters(&figures), elapsed) {
                return Err(GoError::Restless(2));
            }
        }
        let now = counters(&figures);
        let kept: [u64; 6] = std::array::from_fn(|number| {
            if went_back(number, last[number], now[number]) { last[number] } else { now[number] }
        });
        self.held.counters += kept.iter().zip(&now).filter(|(kept, now)| kept != now).count() as u64;
        self.last = Some(kept);
        let [total_alloc, mallocs, frees, pause_total_ns, num_gc, num_forced_gc] = kept;
        Ok(Figures {
            total_alloc,
            mallocs,
            frees,
            pause_total_ns,
            num_gc: u32::try_from(num_gc).unwrap_or(figures.num_gc),
            num_forced_gc: u32::try_from(num_forced_gc).unwrap_or(figures.num_forced_gc),
            ..figures
        })
    }

    /// What was not shown since this was asked last.
    pub const fn take_held_back(&mut self) -> HeldBack {
        std::mem::replace(&mut self.held, HeldBack { jumps: 0, counters: 0 })
    }
}

fn counters(figures: &Figures) -> [u64; 6] {
    [
        figures.total_alloc,
        figures.mallocs,
        figures.frees,
        figures.pause_total_ns,
        u64::from(figures.num_gc),
        u64::from(figures.num_forced_gc),
    ]
}

/// How far it has come. Those behind the fourth have 32 bits and wrap.
fn advance(number: usize, last: u64, now: u64) -> u64 {
    if number < 4 { now.wrapping_sub(last) } else { u64::from((now as u32).wrapping_sub(last as u32)) }
}

fn went_back(number: usize, last: u64, now: u64) -> bool {
    let half = if number < 4 { u64::MAX / 2 } else { u64::from(u32::MAX / 2) };
    advance(number, last, now) > half
}

/// Whether a counter went back or jumped.
fn unlikely(last: &[u64; 6], now: &[u64; 6], elapsed: Duration) -> bool {
    (0..last.len()).any(|number| went_back(number, last[number], now[number])) || jumped(last, now, elapsed)
}

/// Whether a counter has grown more than any can in that time.
fn jumped(last: &[u64; 6], now: &[u64; 6], elapsed: Duration) -> bool {
    let seconds = elapsed.as_secs().saturating_add(ROOM);
    let nanoseconds = seconds.saturating_mul(1_000_000_000);
    let most = [
        seconds.saturating_mul(BYTES_A_SECOND),
        seconds.saturating_mul(OBJECTS_A_SECOND),
        seconds.saturating_mul(OBJECTS_A_SECOND),
        nanoseconds,
        seconds.saturating_mul(CYCLES_A_SECOND),
        seconds.saturating_mul(CYCLES_A_SECOND),
    ];
    (0..last.len()).any(|number| {
        let back = went_back(number, last[number], now[number]);
        !back && advance(number, last[number], now[number]) > most[number]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn figures(total_alloc: u64, mallocs: u64, num_gc: u32) -> Figures {
        Figures { total_alloc, mallocs, num_gc, heap_inuse: total_alloc / 2, ..Figures::default() }
    }

    fn never() -> Result<Figures, GoError> {
        panic!("there was no reason to read again")
    }

    #[test]
    fn what_grows_passes_as_it_is() {
        let mut counters = Counters::default();
        for step in 0..10 {
            let now = figures(step << 40, step * 1000, step as u32);
            assert_eq!(counters.admit(now.clone(), SECOND, never), Ok(now));
        }
        // 32 bits wrap.
        let mut counters = Counters::default();
        counters.admit(figures(1, 1, u32::MAX), SECOND, never).unwrap();
        assert_eq!(counters.admit(figures(1, 1, 2), SECOND, never).unwrap().num_gc, 2);
        assert_eq!(counters.take_held_back(), HeldBack::default());
    }

    #[test]
    fn what_went_back_is_read_again_and_held_if_it_stays_so() {
        let mut counters = Counters::default();
        counters.admit(figures(1000, 100, 7), SECOND, never).unwrap();
        let second = figures(1100, 110, 7);
        assert_eq!(counters.admit(figures(900, 110, 7), SECOND, || Ok(second.clone())), Ok(second));
        assert_eq!(counters.take_held_back(), HeldBack { jumps: 1, counters: 0 });
        let shown = counters.admit(figures(900, 120, 7), SECOND, || Ok(figures(901, 121, 6))).unwrap();
        assert_eq!((shown.total_alloc, shown.mallocs, shown.num_gc, shown.heap_inuse), (1100, 121, 7, 450));
        assert_eq!(counters.take_held_back(), HeldBack { jumps: 1, counters: 2 }, "each is told once");
        let lost = || Err(GoError::Restless(3));
        assert_eq!(counters.admit(figures(5, 5, 5), SECOND, lost), Err(GoError::Restless(3)));
        assert_eq!(counters.admit(figures(1101, 122, 8), SECOND, never).unwrap().total_alloc, 1101);
    }

    #[test]
    fn a_jump_that_nobody_can_make_is_read_again() {
        let mut counters = Counters::default();
        counters.admit(figures(1000, 100, 7), SECOND, never).unwrap();
        let second = figures(2000, 200, 7);
        assert_eq!(counters.admit(figures(1 << 59, 200, 7), SECOND, || Ok(second.clone())), Ok(second));
        let third = figures(3000, 300, 7);
        assert_eq!(counters.admit(figures(3000, 1 << 50, 7), SECOND, || Ok(third.clone())), Ok(third));
        assert_eq!(counters.take_held_back(), HeldBack { jumps: 2, counters: 0 });
    }

    #[test]
    fn a_jump_that_is_there_twice_is_not_shown_and_not_remembered() {
        let mut counters = Counters::default();
        counters.admit(figures(1000, 100, 7), SECOND, never).unwrap();
        let absurd = figures(1 << 59, 200, 7);
        let shown = counters.admit(absurd.clone(), SECOND, || Ok(absurd.clone()));
        assert_eq!(shown, Err(GoError::Restless(2)));
        let next = figures(1100, 110, 7);
        assert_eq!(counters.admit(next.clone(), SECOND, never), Ok(next));
    }
}
