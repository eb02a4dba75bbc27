//! A target's Go processes together, with what those that have ended leave behind.

use std::sync::Arc;

use profiler_common::{sched::StallCounts, stops::StopCounts};

use super::stops;
use crate::{
    runtime::go::totals::{self, Totals},
    snapshot::{GoSnapshot, ProgramDescription},
};

/// What is told of one process.
#[derive(Clone, Debug, Default)]
pub(in crate::session) struct GoPart {
    /// `None` if it isn't Go's, as far as is known.
    pub go: Option<GoSnapshot>,
    /// Its counters as they were read last, with those of earlier programs.
    pub totals: Totals,
    /// See [`GoSnapshot::pauses`], of its earlier programs, too.
    pub pauses: StallCounts,
    /// See [`GoSnapshot::pauses_missed`].
    pub pauses_missed: u64,
    /// What its program was built from, once that is known.
    pub program: Option<Arc<ProgramDescription>>,
}

/// What ended processes leave behind.
#[derive(Clone, Debug, Default)]
pub(in crate::session) struct GoEnded {
    totals: Totals,
    pauses: StallCounts,
    missed: u64,
    stops: Option<Vec<(&'static str, StopCounts)>>,
}

impl GoEnded {
    pub fn add(&mut self, part: &GoPart) {
        self.totals = self.totals.with(&part.totals.of_ended());
        self.pauses.add(&part.pauses);
        self.missed = self.missed.saturating_add(part.pauses_missed);
        if let Some(go) = &part.go {
            stops::add(&mut self.stops, go.stops.clone());
        }
    }

    /// The living processes' parts with this: what runs Go, and the programs of all, each once.
    pub fn together(&self, parts: Vec<GoPart>) -> (Option<GoSnapshot>, Vec<Arc<ProgramDescription>>) {
        let mut programs: Vec<Arc<ProgramDescription>> = Vec::new();
        let mut together: Option<GoSnapshot> = None;
        // What has been counted stays counted while a process can't be read.
        let mut silent = self.totals;
        let (mut pauses, mut missed) = (self.pauses, self.missed);
        for part in parts {
            if part.go.as_ref().is_none_or(|go| go.figures.is_none()) {
                silent = silent.with(&part.totals);
            }
            pauses.add(&part.pauses);
            missed = missed.saturating_add(part.pauses_missed);
            if let Some(program) = part.program
                && !programs.iter().any(|known| Arc::ptr_eq(known, &program) || *known == program)
            {
                programs.push(program);
            }
            match (&mut together, part.go) {
                (Some(sum), Some(one)) => add(sum, one),
                (none, one) => *none = none.take().or(one),
            }
        }
        if let Some(go) = &mut together {
            go.figures = go.figures.take().map(|figures| silent.added_to(figures));
            (go.pauses, go.pauses_missed) = (pauses, missed);
            stops::add(&mut go.stops, self.stops.clone());
        }
        (together, programs)
    }
}

fn add(sum: &mut GoSnapshot, other: GoSnapshot) {
    for version in other.versions {
        if !sum.versions.contains(&version) {
            sum.versions.push(version);
        }
    }
    match (&mut sum.figures, other.figures) {
        (Some(sum), Some(one)) => totals::add(sum, &one),
        (none, one) => *none = none.take().or(one),
    }
    sum.processes += other.processes;
    for trouble in other.trouble {
        if !sum.trouble.contains(&trouble) {
            sum.trouble.push(trouble);
        }
    }
    stops::add(&mut sum.stops, other.stops);
    sum.table = sum.table.take().or(other.table);
    sum.read_seconds += other.read_seconds;
    sum.programs.extend(other.programs);
}
