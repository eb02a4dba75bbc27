//! Children of observed processes that aren't observed themselves.
//!
//! A fork copies the breakpoints with the memory. Where probes are placed by one link, the kernel doesn't take them out of
//! the child, and its calls would go on costing it traps that nobody counts. Most children replace their program at once,
//! and their memory with it; those that don't are swept.

use std::time::{Duration, Instant};

use super::images::FileId;
use crate::{
    kernel::{Kernel, LoaderLink},
    target::{BREAKPOINT, Process},
};

/// How long a child gets to replace its program; also the shortest time between two sweeps, which make the kernel look
/// through all processes.
const PATIENCE: Duration = Duration::from_millis(250);
/// The same for a child that is gone when it is looked at: it may have left children of its own.
const DOUBT: Duration = Duration::from_secs(3);
/// So many are looked at one by one; a storm of forks is swept without looking.
const LOOKED_AT: usize = 32;

/// Children that haven't been looked at yet.
#[derive(Default)]
pub(super) struct Strays {
    children: Vec<u32>,
    more: bool,
    /// Some were gone when they were looked at.
    doubtful: bool,
    due: Option<Instant>,
    swept: Option<Instant>,
}

impl Strays {
    /// A child was forked just now.
    pub fn add(&mut self, child: u32) {
        if self.children.len() < LOOKED_AT {
            self.children.push(child);
        } else {
            self.more = true;
        }
        let soon = Instant::now() + PATIENCE;
        self.due = Some(self.due.map_or(soon, |due| due.min(soon)));
    }

    /// When they should be looked at.
    pub const fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Sweeps the children if that is due and any of them has breakpoints of its parent. `places`: where the parent has
    /// probes.
    /// Returns the probes by which it was done: taking them away is what sweeps.
    pub fn sweep(
        &mut self,
        kernel: &mut Kernel,
        parent: &Process,
        places: &[(FileId, &[u64])],
    ) -> Vec<LoaderLink> {
        let now = Instant::now();
        if self.due.is_none_or(|due| due > now) {
            return Vec::new();
        }
        let children = std::mem::take(&mut self.children);
        let sights: Vec<_> = children.iter().map(|child| has_breakpoint(*child, places)).collect();
        self.doubtful |= self.more || sights.contains(&None);
        self.more = false;
        let doubt_ends = self.swept.map_or(now, |swept| swept + DOUBT);
        if !sights.contains(&Some(true)) && (!self.doubtful || now < doubt_ends) {
            self.due = self.doubtful.then_some(doubt_ends);
            return Vec::new();
        }
        *self = Self { swept: Some(now), ..Self::default() };
        let mut probes = Vec::new();
        for object in parent.mapped_objects().unwrap_or_default() {
            let Some((_, file_offsets)) = places.iter().find(|(id, _)| *id == object.id()) else { continue };
            let Ok(pinned) = parent.pin(&object) else { continue };
            match kernel.sweep_forks(parent.pid(), &pinned.path(), file_offsets) {
                Ok(placed) => probes.extend(placed),
                Err(error) => tracing::warn!("process {}: {error}", parent.pid()),
            }
        }
        probes
    }
}

/// Whether a process has a breakpoint where its parent has probes; `None` if it has ended.
fn has_breakpoint(pid: u32, places: &[(FileId, &[u64])]) -> Option<bool> {
    let process = Process::open(pid).ok()?;
    let objects = process.mapped_objects().unwrap_or_default();
    Some(objects.iter().any(|object| {
        let offsets = places.iter().find(|(id, _)| *id == object.id()).map(|(_, offsets)| *offsets);
        let addresses = offsets.unwrap_or_default().iter().filter_map(|offset| object.address_of(*offset));
        addresses.into_iter().any(|address| process.byte_at(address) == Some(BREAKPOINT))
    }))
}
