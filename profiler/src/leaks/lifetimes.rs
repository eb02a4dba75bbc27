//! How old blocks become: what was given back, by age; and the part that is still alive at an age.

use std::time::Duration;

use super::{Lifetimes, Sum};

/// What is younger than `2^20` ns (a millisecond) shares bucket 0: nothing is asked of it.
const YOUNG: u32 = 20;
/// Cells that a site may always have.
const ALWAYS: usize = 2;

/// One bucket of ages.
#[derive(Clone, Copy, Debug, Default)]
struct Cell {
    bucket: u8,
    freed: Sum,
    /// Blocks that were this old when their process ended: what would have become of them nobody knows.
    ended: f64,
}

/// The buckets that aren't empty, in order.
#[derive(Clone, Debug, Default)]
pub(super) struct Ages {
    cells: Vec<Cell>,
}

/// The bucket of an age.
fn bucket(age_ns: u64) -> u8 {
    match age_ns.checked_ilog2() {
        Some(power) if power >= YOUNG => u8::try_from(power).unwrap_or(63),
        _ => 0,
    }
}

impl Ages {
    /// Books blocks given back at this age. `room`: whether there may be a further cell.
    pub(super) fn freed(&mut self, age_ns: u64, sum: &Sum, room: bool) {
        if let Some(cell) = self.cell(bucket(age_ns), room) {
            cell.freed.add(sum);
        }
    }

    /// Books blocks whose process ended when they had this age.
    pub(super) fn ended(&mut self, age_ns: u64, sum: &Sum, room: bool) {
        if let Some(cell) = self.cell(bucket(age_ns), room) {
            cell.ended += sum.objects;
        }
    }

    /// Cells that are held.
    pub(super) fn cells(&self) -> usize {
        self.cells.len()
    }

    /// Bytes that are held besides the struct itself.
    pub(super) fn heap_bytes(&self) -> usize {
        self.cells.capacity() * size_of::<Cell>()
    }

    /// The cell of a bucket; without room for it the nearest one.
    fn cell(&mut self, bucket: u8, room: bool) -> Option<&mut Cell> {
        let at = self.cells.partition_point(|cell| cell.bucket < bucket);
        if self.cells.get(at).is_some_and(|cell| cell.bucket == bucket) {
            return self.cells.get_mut(at);
        }
        if room || self.cells.len() < ALWAYS {
            if self.cells.len() == self.cells.capacity() {
                self.cells.reserve_exact(2);
            }
            self.cells.insert(at, Cell { bucket, ..Cell::default() });
            return self.cells.get_mut(at);
        }
        self.cells.iter_mut().min_by_key(|cell| cell.bucket.abs_diff(bucket))
    }

    /// All buckets, as the judge has them.
    pub(super) fn lifetimes(&self) -> Lifetimes {
        let mut lifetimes = Lifetimes::default();
        for cell in &self.cells {
            if let Some(freed) = lifetimes.freed.get_mut(usize::from(cell.bucket)) {
                *freed = cell.freed;
            }
        }
        lifetimes
    }

    /// The part of the blocks that is alive after one second, ten, a hundred and so on, as far as blocks became so old.
    /// `living`: age in nanoseconds and weight of those that live.
    ///
    /// Kaplan and Meier's estimate on buckets a factor of two wide (a life table: blocks that live or whose process ended
    /// count half in the bucket in which they were last seen), interpolated evenly in the logarithm of age.
    pub(super) fn survival(&self, living: impl Iterator<Item = (u64, f64)>) -> Vec<(Duration, f64)> {
        let mut died = [0.0; 64];
        let mut left = [0.0; 64];
        let mut oldest_ns = 0;
        for cell in &self.cells {
            let at = usize::from(cell.bucket).min(63);
            died[at] += cell.freed.objects;
            left[at] += cell.ended;
            oldest_ns = oldest_ns.max(((1_u128 << (at + 1)) - 1).min(u128::from(u64::MAX)) as u64);
        }
        for (age_ns, weight) in living {
            left[usize::from(bucket(age_ns)).min(63)] += weight;
            oldest_ns = oldest_ns.max(age_ns);
        }
        let mut at_risk: f64 = died.iter().chain(&left).sum();
        let mut alive = 1.0;
        let mut next_ns = 1_000_000_000_u64;
        let mut survival = Vec::new();
        for at in 0..64 {
            let exposed = at_risk - left[at] / 2.0;
            let survives =
                if died[at] <= 0.0 { 1.0 } else { (1.0 - died[at] / exposed.max(died[at])).max(0.0) };
            // Bucket 0 reaches up to 2^20.
            while next_ns <= oldest_ns && next_ns.ilog2() as usize == at {
                let within = (next_ns as f64).log2() - at as f64;
                survival.push((Duration::from_nanos(next_ns), alive * f64::powf(survives, within)));
                let Some(later) = next_ns.checked_mul(10) else { return survival };
                next_ns = later;
            }
            alive *= survives;
            at_risk = (at_risk - died[at] - left[at]).max(0.0);
        }
        survival
    }
}
