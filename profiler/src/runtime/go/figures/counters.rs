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
    /// Takes a reading, and another one if a counter went back or jumped absurdly far. `elapsed`: since the last reading.
    ///
    /// # Errors
    ///
    /// Those of reading again.
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
        if !likely(&last, &counters(&figures), elapsed) {
            self.held.jumps += 1;
            figures = again()?;
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

    /// What was not shown so far.
    pub const fn held_back(&self) -> HeldBack {
        self.held
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

fn likely(last: &[u64; 6], now: &[u64; 6], elapsed: Duration) -> bool {
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
    (0..last.len()).all(|number| advance(number, last[number], now[number]) <= most[number])
}
