//! One program with one number of processors, led through everything that changes what its runtime says, and compared at each
//! step.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use super::{
    Tally, dump,
    figures::{self, Moment},
    heap,
    outside::{Outside, View},
    target::Target,
};

/// How often a moment is tried. Between its answer and its stop the program's other threads run on for some microseconds: the
/// sweeper, the scavenger, one that goes to sleep. A wrong reader is wrong every time.
const TRIES: usize = 10;

/// Nothing of it takes longer than some seconds on a machine that isn't busy.
const LONGEST: Duration = Duration::from_secs(120);

/// What came out.
#[derive(Debug, Default)]
pub struct Cell {
    pub figures: Tally,
    pub goroutines: Tally,
    pub stacks: Tally,
    pub heap: Tally,
    /// Moments that were equal only when they were tried again.
    pub again: usize,
    /// Moments in all.
    pub moments: usize,
    /// How globals were found, and by which table.
    pub found: String,
}

impl Cell {
    pub fn all_equal(&self) -> bool {
        self.different().next().is_none() && self.figures.all_equal() && self.goroutines.all_equal()
    }

    /// What wasn't equal.
    pub fn different(&self) -> impl Iterator<Item = &String> {
        [&self.figures, &self.goroutines, &self.stacks, &self.heap]
            .into_iter()
            .flat_map(|tally| &tally.different)
    }
}

/// What the limit of memory does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Limit {
    Nothing,
    /// It makes the goal. `ReadMemStats` moves that by emptying the caches: what it says behind a stop was not true in it.
    MakesTheGoal,
    /// It is exceeded: every breath begins a collection, so that nothing stays as it was in the stop.
    Exceeded,
}

/// What it is told before it is looked at.
const STEPS: &[(&[&str], Limit)] = &[
    (&[], Limit::Nothing),
    (&["work 3000"], Limit::Nothing),
    (&["gc 3"], Limit::Nothing),
    (&["gor 48"], Limit::Nothing),
    (&["gogc 50", "work 6000"], Limit::Nothing),
    (&["gogc -1", "work 1000"], Limit::MakesTheGoal),
    (&["gogc 800", "limit 134217728", "work 4000"], Limit::MakesTheGoal),
    (&["limit 1048576", "work 100"], Limit::Exceeded),
    (&["nolimit", "gogc 100", "exitg", "free"], Limit::Nothing),
    (&["gc 300"], Limit::Nothing),
    (&["procs 5", "gor 7", "work 500"], Limit::Nothing),
];

/// Leads a program through all steps.
pub fn check(program: &Path, procs: u32) -> Cell {
    let mut cell = Cell::default();
    // Often enough sampled that the profile has something to say.
    let mut target = Target::start(program, procs, &[("MEM_PROFILE_RATE", "4096")]);
    let mut outside = match Outside::of(target.pid(), program) {
        Ok(outside) => outside,
        Err(reason) => {
            cell.figures.fail(format!("it isn't understood: {reason}"));
            return cell;
        }
    };
    cell.found = outside.found();
    if let (Err(reason), _) = target.stopped("post", || outside.figures(View::MemStats)) {
        cell.figures.fail(reason);
        return cell;
    }
    let began = Instant::now();
    for (commands, limit) in STEPS {
        if began.elapsed() > LONGEST {
            cell.figures.fail(format!("it took longer than {LONGEST:?}"));
            break;
        }
        for command in *commands {
            target.ask(command);
        }
        let step = commands.join(", ");
        let limited = *limit != Limit::Nothing;
        for moment in Moment::ALL {
            if *limit != Limit::Exceeded || moment != Moment::Pre {
                cell.figures(&step, moment, limited, &mut target, &mut outside);
            }
        }
        if !limited {
            cell.goroutines(&step, &mut target, &mut outside);
            cell.heap(&step, &mut target, &mut outside);
        }
    }
    target.end();
    cell
}

/// The best of some tries, and how many were needed.
fn best<T>(mut once: impl FnMut() -> T, wrong: impl Fn(&T) -> usize) -> (T, usize) {
    let mut best = once();
    let mut tries = 1;
    while wrong(&best) > 0 && tries < TRIES {
        let next = once();
        tries += 1;
        if wrong(&next) < wrong(&best) {
            best = next;
        }
    }
    (best, tries)
}

fn wrong(tally: &Tally) -> usize {
    tally.different.len()
}

/// The same, with where it was.
fn at(step: &str, moment: &str, mut tally: Tally) -> Tally {
    for line in &mut tally.different {
        *line = format!("after {step:?}, {moment}: {line}");
    }
    tally
}

impl Cell {
    fn count(&mut self, tries: usize) {
        self.moments += 1;
        self.again += usize::from(tries > 1);
    }

    fn figures(
        &mut self,
        step: &str,
        moment: Moment,
        limited: bool,
        target: &mut Target,
        outside: &mut Outside,
    ) {
        let view = if moment == Moment::Metrics { View::Metrics } else { View::MemStats };
        let once = || {
            let (seen, said) = target.stopped(moment.command(), || {
                let other = if moment == Moment::Post { Some(outside.figures(View::Metrics)) } else { None };
                (outside.figures(view), other)
            });
            let mut tally = Tally::default();
            // With empty caches, both views are the same.
            for figures in [Some(seen.0), seen.1].into_iter().flatten() {
                match figures {
                    Ok(figures) => tally.add(figures::compare(moment, limited, &figures, &said)),
                    Err(reason) => tally.fail(reason),
                }
            }
            tally
        };
        let (tally, tries) = best(once, wrong);
        self.count(tries);
        self.figures.add(at(step, moment.command(), tally));
    }

    fn goroutines(&mut self, step: &str, target: &mut Target, outside: &mut Outside) {
        let once = || {
            let (seen, said) = target.stopped("gorprof", || outside.goroutines());
            let theirs = dump::parse(said["text"].as_str().unwrap_or_default());
            match seen {
                Ok(ours) => dump::compare(&ours, &theirs),
                Err(reason) => {
                    let mut compared = dump::Compared::default();
                    compared.goroutines.fail(reason);
                    compared
                }
            }
        };
        let (compared, tries) = best(once, |compared| wrong(&compared.goroutines) + wrong(&compared.stacks));
        self.count(tries);
        self.goroutines.add(at(step, "goroutines", compared.goroutines));
        self.stacks.add(at(step, "goroutines", compared.stacks));
    }

    fn heap(&mut self, step: &str, target: &mut Target, outside: &mut Outside) {
        let once = || {
            let (seen, said) = target.stopped("heapstop", || outside.heap());
            let theirs = heap::parse(said["text"].as_str().unwrap_or_default());
            let mut tally = Tally::default();
            match seen {
                Ok((rate, ours)) => {
                    tally.add(heap::compare(rate, &ours, &theirs, |stack| outside.frames(stack)));
                    if said["before"] != said["behind"] {
                        tally.fail("it collected garbage while it wrote its profile");
                    }
                }
                Err(reason) => tally.fail(reason),
            }
            tally
        };
        let (tally, tries) = best(once, wrong);
        self.count(tries);
        self.heap.add(at(step, "heap profile", tally));
    }
}
