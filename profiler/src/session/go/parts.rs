//! A target's Go processes together, with what those that have ended leave behind.

use std::sync::Arc;

use profiler_common::{sched::StallCounts, stops::StopCounts};

use super::stops;
use crate::{
    runtime::go::totals::{self, Totals},
    snapshot::{GoLosses, GoSnapshot, ProgramDescription},
};

/// Tables that are told of one target: more than there are.
const TABLES_LIMIT: usize = 128;

/// What is told of one process.
#[derive(Clone, Debug, Default)]
pub(in crate::session) struct GoPart {
    /// `None` if it isn't Go's, as far as is known.
    pub go: Option<GoSnapshot>,
    /// Its counters as they were read last, with those of earlier programs.
    pub totals: Totals,
    /// See [`GoSnapshot::pauses`], of its earlier programs, too.
    pub pauses: StallCounts,
    /// See [`GoSnapshot::losses`], of its earlier programs, too.
    pub losses: GoLosses,
    /// What its program was built from, once that is known.
    pub program: Option<Arc<ProgramDescription>>,
}

/// What ended processes leave behind.
#[derive(Clone, Debug, Default)]
pub(in crate::session) struct GoEnded {
    totals: Totals,
    pauses: StallCounts,
    losses: GoLosses,
    stops: Option<Vec<(&'static str, StopCounts)>>,
}

impl GoEnded {
    pub fn add(&mut self, part: &GoPart) {
        self.totals = self.totals.with(&part.totals.of_ended());
        self.pauses.add(&part.pauses);
        self.losses.add(&part.losses);
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
        let (mut pauses, mut losses) = (self.pauses, self.losses);
        for part in parts {
            if part.go.as_ref().is_none_or(|go| go.figures.is_none()) {
                silent = silent.with(&part.totals);
            }
            pauses.add(&part.pauses);
            losses.add(&part.losses);
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
            (go.pauses, go.losses) = (pauses, losses);
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
    for table in other.tables {
        if let Err(at) = sum.tables.binary_search(&table)
            && sum.tables.len() < TABLES_LIMIT
        {
            sum.tables.insert(at, table);
        }
    }
    sum.read_seconds += other.read_seconds;
    sum.programs.extend(other.programs);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::moment;

    /// A process in which each thing was lost another number of times.
    fn losses(times: u64) -> GoLosses {
        GoLosses {
            pauses_missed: times,
            readings_repeated: 2 * times,
            counters_held_back: 3 * times,
            readers_lost: 4 * times,
        }
    }

    fn part(go: Option<GoSnapshot>, times: u64) -> GoPart {
        GoPart { go, losses: losses(times), ..GoPart::default() }
    }

    #[test]
    fn what_was_lost_of_a_worker_that_ended_stays_beside_that_of_the_living() {
        let mut ended = GoEnded::default();
        let both = vec![part(Some(moment::go()), 100), part(Some(moment::go()), 10)];
        let before = ended.together(both.clone()).0.unwrap();
        assert_eq!(before.losses, losses(110));
        ended.add(&both[0]);
        let after = ended.together(vec![both[1].clone()]).0.unwrap();
        assert_eq!(after.losses, before.losses, "a counter doesn't fall");
        // It runs something else by now, or can't be described any more.
        let after = ended.together(vec![part(None, 5), both[1].clone()]).0.unwrap();
        assert_eq!(after.losses, losses(115));
    }

    #[test]
    fn tables_of_several_versions_are_told_once_each_and_sorted() {
        let of = |table: &str, exact| {
            part(Some(GoSnapshot { tables: vec![(table.to_owned(), exact)], ..moment::go() }), 0)
        };
        let parts = vec![of("1.27.3", true), of("1.23.1", true), of("1.27.3", true), of("1.23.1", false)];
        let together = GoEnded::default().together(parts).0.unwrap();
        let told: Vec<_> = together.tables.iter().map(|(table, exact)| (table.as_str(), *exact)).collect();
        assert_eq!(told, [("1.23.1", false), ("1.23.1", true), ("1.27.3", true)]);
        let many = (0..1000).map(|number| of(&number.to_string(), true)).collect();
        let together = GoEnded::default().together(many).0.unwrap();
        assert_eq!(together.tables.len(), TABLES_LIMIT, "whatever programs say");
    }
}
