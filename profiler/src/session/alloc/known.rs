//! What is known of the program that runs now.

use super::AllocWatch;
use crate::snapshot::AllocState;

/// After so many looks (64 ms), a program that has no allocator is taken for one that never will.
const SETTLED: usize = 4;

impl AllocWatch {
    /// What is known of the program of this epoch. `None` as long as nobody has looked at it, or it has not had the time to
    /// map an allocator, or nothing is counted for a while only.
    pub(in crate::session) fn known(&self, epoch: u32) -> Option<&AllocState> {
        if self.state == AllocState::Off {
            return Some(&self.state);
        }
        let counts = matches!(self.state, AllocState::Counting | AllocState::Partly(_));
        let fresh = self.looks.is_some_and(|(_, made)| made < SETTLED);
        let known = match self.uncounted_since {
            None => true,
            // Of the program before, if it says otherwise.
            Some(_) => !counts && !fresh,
        };
        (known && !self.paused && self.epoch == epoch).then_some(&self.state)
    }

    /// Functions that hand out blocks and aren't sampled, by name.
    pub(in crate::session) fn not_sampled(&self) -> Vec<&'static str> {
        let sites = self.objects.iter().flat_map(|object| &object.sites);
        let mut names: Vec<_> =
            sites.filter(|site| site.blind).map(|site| site.info.function.name()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}
