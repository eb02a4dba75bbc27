//! What happened when: a site's windows of time, few and small however long the watch.
//!
//! All sites share one grid: windows of equal length from the beginning of the watch, at most [`MOST`]. When time has
//! filled them, the length doubles and neighbours become one. Only windows in which something happened are kept.

use super::{Sum, Window};

/// Windows there are at most.
pub(super) const MOST: u64 = 64;

/// The length doubles so often at most: a window then has all of time.
const LONGEST: u8 = 63;

/// Where windows begin and end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grid {
    /// Where the first one begins.
    pub(super) since_ns: u64,
    /// Length before any doubling. Not zero.
    pub(super) first_ns: u64,
}

impl Grid {
    /// How often the length must have doubled for this moment to have a window.
    pub(super) fn shift(self, at_ns: u64) -> u8 {
        let index = at_ns.saturating_sub(self.since_ns) / self.first_ns;
        let mut shift = 0;
        while index >> shift >= MOST {
            shift += 1;
        }
        shift
    }

    /// The window of a moment.
    pub(super) fn index(self, at_ns: u64, shift: u8) -> u64 {
        (at_ns.saturating_sub(self.since_ns) / self.first_ns) >> shift.min(LONGEST)
    }

    /// Where a window begins.
    pub(super) fn begin_ns(self, index: u64, shift: u8) -> u64 {
        let length_ns = self.first_ns.saturating_mul(1 << shift.min(LONGEST));
        self.since_ns.saturating_add(length_ns.saturating_mul(index))
    }
}

/// A [`Sum`] that nothing is added to any more, in half the room.
#[derive(Clone, Copy, Debug, Default)]
struct Small {
    n: u32,
    objects: f32,
    bytes: f32,
    objects_variance: f32,
    bytes_variance: f32,
    unseen_bytes: f32,
}

impl From<&Sum> for Small {
    fn from(sum: &Sum) -> Self {
        Self {
            n: u32::try_from(sum.n).unwrap_or(u32::MAX),
            objects: sum.objects as f32,
            bytes: sum.bytes as f32,
            objects_variance: sum.objects_variance as f32,
            bytes_variance: sum.bytes_variance as f32,
            unseen_bytes: sum.unseen_bytes as f32,
        }
    }
}

impl From<&Small> for Sum {
    fn from(small: &Small) -> Self {
        Self {
            n: u64::from(small.n),
            objects: f64::from(small.objects),
            bytes: f64::from(small.bytes),
            objects_variance: f64::from(small.objects_variance),
            bytes_variance: f64::from(small.bytes_variance),
            unseen_bytes: f64::from(small.unseen_bytes),
        }
    }
}

/// A window that is over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cell {
    index: u32,
    allocated: Small,
    freed: Small,
    floor: Small,
    end: Small,
}

/// The window in which things happen.
#[derive(Clone, Copy, Debug, Default)]
struct Open {
    index: u64,
    allocated: Sum,
    freed: Sum,
    floor: Sum,
}

impl Open {
    /// Sums up two neighbours, or two halves of one window; `later` is the one whose end counts.
    fn with_earlier(&mut self, earlier: &Cell) {
        self.allocated.add(&(&earlier.allocated).into());
        self.freed.add(&(&earlier.freed).into());
        self.floor = least(self.floor, (&earlier.floor).into());
    }
}

/// The smaller one, by bytes.
fn least(one: Sum, other: Sum) -> Sum {
    if other.bytes < one.bytes { other } else { one }
}

/// The windows of one site.
#[derive(Clone, Debug, Default)]
pub(super) struct Track {
    shift: u8,
    /// In the order of time; never two of the same index, none of the open one's.
    closed: Vec<Cell>,
    open: Option<Open>,
}

impl Track {
    /// Makes sure that the window of this moment is the open one, before anything is booked. `live`: what lives so far. A
    /// moment that is past (events of several processors come a little out of order) belongs to the open window.
    /// Returns the moment to book at.
    pub(super) fn turn_to(&mut self, grid: Grid, shift: u8, at_ns: u64, live: &Sum) -> u64 {
        if shift > self.shift {
            self.coarsen(shift);
        }
        let index = grid.index(at_ns, self.shift);
        match &self.open {
            Some(open) if open.index >= index => {
                return at_ns.max(grid.begin_ns(open.index, self.shift));
            }
            Some(open) => {
                if self.closed.len() == self.closed.capacity() {
                    self.closed.reserve_exact(4);
                }
                self.closed.push(Cell {
                    index: u32::try_from(open.index).unwrap_or(u32::MAX),
                    allocated: (&open.allocated).into(),
                    freed: (&open.freed).into(),
                    floor: (&open.floor).into(),
                    end: live.into(),
                });
            }
            None => {}
        }
        self.open = Some(Open { index, floor: *live, ..Open::default() });
        at_ns.max(grid.since_ns)
    }

    /// This has lived all the time, but is heard of only now.
    pub(super) fn was_there(&mut self, sum: &Sum) {
        if let Some(open) = &mut self.open {
            open.floor.add(sum);
        }
    }

    /// Books an allocation into the open window.
    pub(super) fn allocated(&mut self, sum: &Sum) {
        if let Some(open) = &mut self.open {
            open.allocated.add(sum);
        }
    }

    /// Books a block given back.
    pub(super) fn freed(&mut self, sum: &Sum) {
        if let Some(open) = &mut self.open {
            open.freed.add(sum);
        }
    }

    /// Tells what lives after something has gone.
    pub(super) fn sunk(&mut self, live: &Sum) {
        if let Some(open) = &mut self.open {
            open.floor = least(open.floor, *live);
        }
    }

    /// What lived then, to the window; `live`: what lives now.
    pub(super) fn live_bytes_at(&self, grid: Grid, at_ns: u64, live: &Sum) -> f64 {
        let index = grid.index(at_ns, self.shift);
        if self.open.is_none_or(|open| open.index <= index) {
            return live.bytes;
        }
        let before = self.closed.iter().rev().find(|cell| u64::from(cell.index) <= index);
        before.map_or(0.0, |cell| f64::from(cell.end.bytes))
    }

    /// Cells that are held.
    pub(super) fn cells(&self) -> usize {
        self.closed.len()
    }

    /// Bytes that are held besides the struct itself.
    pub(super) fn heap_bytes(&self) -> usize {
        self.closed.capacity() * size_of::<Cell>()
    }

    /// Doubles the length of windows until it has doubled so often.
    pub(super) fn coarsen(&mut self, shift: u8) {
        let shift = shift.min(LONGEST);
        let by = shift.saturating_sub(self.shift);
        self.shift = self.shift.max(shift);
        if let Some(open) = &mut self.open {
            open.index >>= by;
        }
        let cells = std::mem::take(&mut self.closed);
        let mut kept: Vec<Cell> = Vec::new();
        for mut cell in cells {
            cell.index = cell.index.checked_shr(by.into()).unwrap_or(0);
            match (kept.last_mut(), &mut self.open) {
                (_, Some(open)) if open.index == u64::from(cell.index) => open.with_earlier(&cell),
                (Some(last), _) if last.index == cell.index => {
                    let mut both = Open {
                        index: 0,
                        allocated: (&cell.allocated).into(),
                        freed: (&cell.freed).into(),
                        floor: (&cell.floor).into(),
                    };
                    both.with_earlier(last);
                    last.allocated = (&both.allocated).into();
                    last.freed = (&both.freed).into();
                    last.floor = (&both.floor).into();
                    last.end = cell.end;
                }
                _ => kept.push(cell),
            }
        }
        kept.shrink_to_fit();
        self.closed = kept;
    }

    /// Makes windows coarser until no more than so many of the past are held.
    pub(super) fn thin_out(&mut self, most: usize) {
        while self.closed.len() > most && self.shift < LONGEST {
            self.coarsen(self.shift + 1);
        }
    }

    /// Every window from the beginning to now; `live`: what lives now. `surviving` is left at zero.
    pub(super) fn windows(&self, grid: Grid, now_ns: u64, live: &Sum) -> (u8, Vec<Window>) {
        let shift = grid.shift(now_ns).max(self.shift);
        let mut track = self.clone();
        track.coarsen(shift);
        let last = track.open.map_or(0, |open| open.index).max(grid.index(now_ns, shift)).min(MOST - 1);
        let mut windows = Vec::new();
        let mut carried = Sum::default();
        let quiet = |index: u64, carried: Sum| Window {
            begin_ns: grid.begin_ns(index, shift),
            end_ns: grid.begin_ns(index + 1, shift),
            floor: carried,
            live_at_end: carried,
            ..Window::default()
        };
        let closed = track.closed.iter().map(|cell| {
            let open = Open {
                index: u64::from(cell.index),
                allocated: (&cell.allocated).into(),
                freed: (&cell.freed).into(),
                floor: (&cell.floor).into(),
            };
            (open, (&cell.end).into())
        });
        for (cell, end) in closed.chain(track.open.map(|open| (open, *live))) {
            for index in windows.len() as u64..cell.index {
                windows.push(quiet(index, carried));
            }
            carried = end;
            windows.push(Window {
                allocated: cell.allocated,
                freed: cell.freed,
                floor: cell.floor,
                ..quiet(cell.index, end)
            });
        }
        for index in windows.len() as u64..=last {
            windows.push(quiet(index, carried));
        }
        if let Some(window) = windows.last_mut() {
            window.end_ns = now_ns.clamp(window.begin_ns, window.end_ns);
        }
        (shift, windows)
    }
}
