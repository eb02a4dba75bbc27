//! Stops of a process's world, measured by probes, if that is asked for.

use profiler_common::stops::{REASONS, StopCounts, StopReason};

use crate::{
    binary::go::{GoImage, Places},
    describe::{Described, FileState},
    kernel::{Kernel, KernelError, StopPlaces, StopsLink},
    target::{Process, TargetError},
};

/// The first version whose runtime says why it stops the world.
const TELLS_REASON_FROM: (u32, u32) = (1, 21);

/// By reason, in the order of their numbers.
pub(in crate::session) type Stops = [StopCounts; REASONS];

/// The probes on a process, and what they have counted.
#[derive(Default)]
pub(super) struct StopsWatch {
    link: Option<StopsLink>,
    /// Its program has been looked at, and is or isn't probed.
    settled: bool,
    /// What was in the slot before the first probe was placed.
    base: Option<Stops>,
    /// What was counted since, by all programs of the process.
    counts: Option<Stops>,
    pub trouble: Option<String>,
}

/// Why a program isn't probed.
#[derive(Debug, thiserror::Error)]
enum NoProbes {
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error(transparent)]
    Target(#[from] TargetError),
    #[error("where its runtime is isn't known: {0}")]
    Unknown(String),
    #[error("the functions that stop its world weren't found")]
    NotFound,
    #[error("it runs another program by now")]
    Replaced,
}

impl StopsWatch {
    /// Places the probes, once it is known where.
    pub fn place(&mut self, kernel: &mut Kernel, process: &Process, slot: u32, described: &Described) {
        let Some(image) = described.go.as_ref().filter(|_| !self.settled) else { return };
        self.settled = true;
        match self.try_to_place(kernel, (process, slot), image, described.state) {
            Ok(()) => self.trouble = None,
            // Later it is described again, or has ended.
            Err(NoProbes::Replaced | NoProbes::Target(_)) => {}
            Err(error) => {
                tracing::warn!("process {}: stops of its world aren't measured: {error}", process.pid());
                self.trouble = Some(error.to_string());
            }
        }
    }

    fn try_to_place(
        &mut self,
        kernel: &mut Kernel,
        (process, slot): (&Process, u32),
        image: &GoImage,
        state: FileState,
    ) -> Result<(), NoProbes> {
        let places = image.runtime.as_ref().map_err(|why| NoProbes::Unknown(why.clone()))?;
        let sites = sites(places).ok_or(NoProbes::NotFound)?;
        if self.base.is_none() {
            self.base = Some(kernel.go_stops(slot)?);
        }
        // In another file, a probe would sit in the middle of an instruction.
        let pinned = process.pin_exe()?;
        if FileState::of(&pinned) != state {
            return Err(NoProbes::Replaced);
        }
        let link = kernel.attach_go_stops(process.pid(), slot, &pinned.path(), sites)?;
        if !process.is_alive() {
            // They may be for another process that has got its id.
            return Err(TargetError::Gone(process.pid()).into());
        }
        self.link = Some(link);
        self.counts.get_or_insert_default();
        Ok(())
    }

    /// Reads what was counted.
    ///
    /// # Errors
    ///
    /// If the map can't be read.
    pub fn read(&mut self, kernel: &Kernel, slot: u32) -> Result<(), KernelError> {
        if let (Some(base), Some(counts)) = (&self.base, &mut self.counts) {
            *counts = kernel.go_stops(slot)?;
            counts.iter_mut().zip(base).for_each(|(now, before)| now.subtract(before));
        }
        Ok(())
    }

    /// The process runs another program from now on: its probes are gone, or have to go.
    pub fn replaced(&mut self) -> Self {
        Self { base: self.base, counts: self.counts, ..Self::default() }
    }

    /// The probes, to be taken away.
    pub const fn take_link(&mut self) -> Option<StopsLink> {
        self.link.take()
    }

    pub const fn counts(&self) -> Option<&Stops> {
        self.counts.as_ref()
    }
}

/// Where the program of a table is probed.
fn sites(places: &Places) -> Option<StopPlaces> {
    let (stop, start) = places.world_sites?;
    Some(StopPlaces { stop, start, tells_reason: minor_of(&places.table)? >= TELLS_REASON_FROM })
}

/// `1.21.13` or `go1.21.13`: of a table, which there is for known versions only.
fn minor_of(version: &str) -> Option<(u32, u32)> {
    let version = version.strip_prefix("go").unwrap_or(version);
    let mut numbers = version.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// As they are told: those reasons that there were.
pub(in crate::session) fn told(stops: &Stops) -> Vec<(&'static str, StopCounts)> {
    let all = StopReason::ALL.into_iter().zip(stops);
    all.filter(|(_, counts)| counts.count() > 0).map(|(reason, counts)| (reason.name(), *counts)).collect()
}

/// Adds another process's stops; `None` are those of a process in which they aren't measured.
pub(in crate::session) fn add(
    sum: &mut Option<Vec<(&'static str, StopCounts)>>,
    other: Option<Vec<(&'static str, StopCounts)>>,
) {
    let Some(other) = other else { return };
    let sum = sum.get_or_insert_default();
    for (reason, counts) in other {
        match sum.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, known)) => known.add(&counts),
            None => sum.push((reason, counts)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(total_ns: u64, first: u64) -> StopCounts {
        let mut counts = StopCounts { total_ns, ..StopCounts::default() };
        counts.buckets[0] = first;
        counts
    }

    #[test]
    fn versions_from_1_21_on_tell_the_reason() {
        let places = |table: &str| Places {
            table: table.to_owned(),
            world_sites: Some((4, 104)),
            ..Places::default()
        };
        for (table, tells) in [("1.19.8", false), ("1.20", false), ("1.21.0", true), ("go1.27.3", true)] {
            let found = sites(&places(table)).unwrap();
            assert_eq!((found.stop, found.start, found.tells_reason), (4, 104, tells), "{table}");
        }
        assert_eq!(sites(&places("devel")), None);
        assert_eq!(sites(&Places { world_sites: None, ..places("1.27.3") }), None);
    }

    #[test]
    fn those_reasons_are_told_that_there_were() {
        let mut stops = Stops::default();
        assert_eq!(told(&stops), []);
        stops[StopReason::ReadMemStats as usize] = counts(500, 1);
        assert_eq!(told(&stops), [("read mem stats", counts(500, 1))]);
    }

    #[test]
    fn stops_of_several_processes_are_added_by_reason() {
        let mut sum = None;
        add(&mut sum, None);
        assert_eq!(sum, None, "nobody measures them");
        add(&mut sum, Some(vec![("unknown", counts(1, 1))]));
        add(&mut sum, Some(vec![("GOMAXPROCS", counts(2, 2)), ("unknown", counts(4, 4))]));
        assert_eq!(sum, Some(vec![("unknown", counts(5, 5)), ("GOMAXPROCS", counts(2, 2))]));
    }
}
