//! Stops of the world of Go programs: a probe at the entry of each of the two functions that begin and end one.

use std::path::Path;

use profiler_common::stops::{PendingStop, REASONS, StopCounts, StopReason, TELLS_REASON};

use super::{
    Kernel, KernelError, Probes, Raw,
    loader::{map_error, sum_cpus},
    sys::Point,
};

/// The programs.
pub(super) const PROGRAMS: [&str; 2] = ["go_stop", "go_start"];

/// The probes on a process's Go runtime. They go away when this is dropped.
#[expect(dead_code, reason = "held, so that the probes stay")]
pub struct StopsLink(Probes, Probes);

/// Where a Go program stops its world, and where it lets it go on: offsets in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StopPlaces {
    /// In `runtime.stopTheWorldWithSema`.
    pub stop: u64,
    /// In `runtime.startTheWorldWithSema`.
    pub start: u64,
    /// Whether the former is called with a reason: from Go 1.21 on.
    pub tells_reason: bool,
}

impl Kernel {
    /// From now on, stops of a Go process's world are counted under `slot`.
    ///
    /// # Errors
    ///
    /// If the kernel refuses a probe.
    pub fn attach_go_stops(
        &mut self,
        pid: u32,
        slot: u32,
        file: &Path,
        places: StopPlaces,
    ) -> Result<StopsLink, KernelError> {
        // An earlier program may have ended while its world was stopped.
        self.go_stopped
            .set(slot, Raw(PendingStop::default()), 0)
            .map_err(|source| map_error("GO_STOPPED", source))?;
        let flag = if places.tells_reason { TELLS_REASON } else { 0 };
        let [stop, start] = PROGRAMS;
        let begins = Point { file_offset: places.stop, cookie: u64::from(slot) | flag };
        let begins = self.place(stop, pid, file, &[begins])?;
        let ends = Point { file_offset: places.start, cookie: u64::from(slot) };
        Ok(StopsLink(begins, self.place(start, pid, file, &[ends])?))
    }

    /// Stops that were counted under a slot, by reason, over all CPUs; those of earlier processes among them.
    ///
    /// # Errors
    ///
    /// If the map can't be read.
    pub fn go_stops(&self, slot: u32) -> Result<[StopCounts; REASONS], KernelError> {
        let mut by_reason = [StopCounts::default(); REASONS];
        for reason in StopReason::ALL {
            let sum = &mut by_reason[reason as usize];
            let key = slot * REASONS as u32 + reason as u32;
            sum_cpus(&self.go_stops, "GO_STOPS", key, |counts| sum.add(counts))?;
        }
        Ok(by_reason)
    }
}
