//! Children of observed processes that aren't observed themselves.
//!
//! A fork copies the breakpoints with the memory. Where probes are placed by one link, the kernel doesn't take them out of
//! the child, and its calls would go on costing it traps that nobody counts. Most children replace their program at once,
//! and their memory with it; those that don't are swept.

use std::time::{Duration, Instant};

use super::images::FileId;
use crate::{
    kernel::Kernel,
    target::{BREAKPOINT, Process},
};

/// How long a child gets to replace its program; also the shortest time between two sweeps, which make the kernel look
/// through all processes.
const PATIENCE: Duration = Duration::from_millis(250);
/// So many are looked at one by one; a storm of forks is swept without looking.
const LOOKED_AT: usize = 32;

/// Children that haven't been looked at yet.
#[derive(Default)]
pub(super) struct Strays {
    children: Vec<u32>,
    more: bool,
    due: Option<Instant>,
}

impl Strays {
    /// A child was forked just now.
    pub fn add(&mut self, child: u32) {
        if self.children.len() < LOOKED_AT {
            self.children.push(child);
        } else {
            self.more = true;
        }
        self.due.get_or_insert_with(|| Instant::now() + PATIENCE);
    }

    /// When they should be looked at.
    pub const fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Sweeps the children if that is due and any of them has breakpoints of its parent. `places`: where the parent has
    /// probes.
    pub fn sweep(&mut self, kernel: &mut Kernel, parent: &Process, places: &[(FileId, &[u64])]) {
        if self.due.is_none_or(|due| due > Instant::now()) {
            return;
        }
        let Self { children, more, .. } = std::mem::take(self);
        if !more && !children.iter().any(|child| has_breakpoint(*child, places)) {
            return;
        }
        for object in parent.mapped_objects().unwrap_or_default() {
            let Some((_, file_offsets)) = places.iter().find(|(id, _)| *id == object.id()) else { continue };
            let Ok(pinned) = parent.pin(&object) else { continue };
            if let Err(error) = kernel.sweep_forks(parent.pid(), &pinned.path(), file_offsets) {
                tracing::warn!("process {}: {error}", parent.pid());
            }
        }
    }
}

/// Whether a process has a breakpoint where its parent has probes. One that ended has none.
fn has_breakpoint(pid: u32, places: &[(FileId, &[u64])]) -> bool {
    let Ok(process) = Process::open(pid) else { return false };
    let objects = process.mapped_objects().unwrap_or_default();
    objects.iter().any(|object| {
        let offsets = places.iter().find(|(id, _)| *id == object.id()).map(|(_, offsets)| *offsets);
        let addresses = offsets.unwrap_or_default().iter().filter_map(|offset| object.address_of(*offset));
        addresses.into_iter().any(|address| process.byte_at(address) == Some(BREAKPOINT))
    })
}
