//! Whatever is done to a spool, and whenever the machine crashes or the disk says no: what was appended is there, whole,
//! until it is removed or a stated limit is reached.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use proptest::{collection::vec, prelude::*};

use super::{
    super::{BatchId, Limits, Spool, TEMPORARY},
    at, lines,
    simulated::{Fault, Simulated},
};

#[derive(Clone, Debug)]
enum Step {
    Append { second: u64, points: u32 },
    Read(usize),
    Remove(usize),
    Expire { seconds: u64 },
    Reopen,
    Damage { batch: usize, how: usize },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..100_u64, 1..40_u32).prop_map(|(second, points)| Step::Append { second, points }),
        3 => any::<usize>().prop_map(Step::Read),
        2 => any::<usize>().prop_map(Step::Remove),
        1 => (0..40_u64).prop_map(|seconds| Step::Expire { seconds }),
        1 => Just(Step::Reopen),
        1 => (any::<usize>(), 0..4_usize).prop_map(|(batch, how)| Step::Damage { batch, how }),
    ];
    vec(step, 1..40)
}

/// The limit of ages, in seconds.
const AGE: i64 = 30;

/// How many calls after the last one, and what happens then.
fn faults() -> impl Strategy<Value = Vec<(usize, Fault)>> {
    let errno = prop::sample::select(vec![libc::ENOSPC, libc::EIO, libc::EROFS, libc::EDQUOT, libc::EINTR]);
    let fault = (errno, any::<bool>()).prop_map(|(errno, performed)| Fault { errno, performed });
    vec((0..60_usize, fault), 0..5)
}

/// What is on the disk: batches by their order, told by their names.
type Batches = Vec<(BatchId, u64)>;

struct World {
    disk: Simulated,
    limits: Limits,
    spool: Spool<Simulated>,
    /// Appended, and neither removed nor dropped.
    kept: Vec<(BatchId, String)>,
    /// Everything that was ever given to the spool, one per number.
    texts: BTreeSet<String>,
    /// In seconds by the clock that nobody sets: when ages began.
    born: BTreeMap<BatchId, i64>,
    /// Damaged by us, or on purpose unreadable.
    damaged: BTreeSet<BatchId>,
    /// Points dropped since opening: full, expired, corrupt.
    dropped: [u64; 3],
    /// More than one fault in one step: what was done isn't known to the spool.
    unsure: bool,
    crashes: Vec<usize>,
    seed: u64,
}

fn batches(disk: &Simulated) -> Batches {
    let number = |text: &str| text.parse::<u64>().unwrap();
    let mut batches: Batches = Vec::new();
    for (name, size) in disk.state().names() {
        let Some(stem) = name.strip_suffix(".lp.gz") else {
            assert!(name == TEMPORARY || name.ends_with(".lp.gz.bad"), "{name}");
            continue;
        };
        let parts: Vec<_> = stem.split('-').map(number).collect();
        let [time_ns, sequence, points] = parts[..] else { panic!("{name}") };
        let [sequence, points] = [sequence, points].map(|number| u32::try_from(number).unwrap());
        batches.push((BatchId { sequence, time_ns, points }, size));
    }
    batches.sort_by_key(|(id, _)| id.sequence);
    batches
}

fn points(batches: &[(BatchId, u64)]) -> u64 {
    batches.iter().map(|(id, _)| u64::from(id.points)).sum()
}

fn bytes(batches: &[(BatchId, u64)]) -> u64 {
    batches.iter().map(|(_, size)| size).sum()
}

impl World {
    fn new(limits: Limits, mut crashes: Vec<usize>, faults: Vec<(usize, Fault)>, seed: u64) -> Self {
        let disk = Simulated::default();
        let spool = Spool::with_disk(disk.clone(), limits).unwrap();
        let mut world = Self {
            disk,
            limits,
            spool,
            kept: Vec::new(),
            texts: BTreeSet::new(),
            born: BTreeMap::new(),
            damaged: BTreeSet::new(),
            dropped: [0; 3],
            unsure: false,
            crashes: {
                crashes.reverse();
                crashes
            },
            seed: seed | 1,
        };
        let mut call = world.disk.state().calls;
        for (gap, fault) in faults {
            call += gap + 1;
            world.disk.state().faults.insert(call, fault);
        }
        world.plan_crash();
        world
    }

    fn plan_crash(&mut self) {
        let mut state = self.disk.state();
        state.crash_at = self.crashes.pop().map(|gap| state.calls + gap);
    }

    fn uptime(&self) -> i64 {
        self.disk.state().uptime.as_secs().cast_signed()
    }

    /// What was found is as old as the times in the names say, but for what lies between two of them and is too much.
    fn find(&mut self, found: &[(BatchId, u64)]) {
        let second = |id: &BatchId| (id.time_ns / 1_000_000_000).cast_signed();
        let seconds: BTreeSet<_> = found.iter().map(|(id, _)| second(id)).collect();
        let seconds: Vec<_> = seconds.into_iter().collect();
        let age = |id: &BatchId| {
            let between =
                seconds.windows(2).filter(|pair| pair[0] >= second(id)).map(|pair| pair[1] - pair[0]);
            between.filter(|between| *between <= AGE).sum::<i64>()
        };
        self.born = found.iter().map(|(id, _)| (*id, self.uptime() - age(id))).collect();
    }

    /// Those that are gone must be the oldest, and no more than had to go.
    fn were_in_the_way(&self, missing: &Batches, all: &Batches, after: &Batches) {
        assert_eq!(missing[..], all[..missing.len()], "the oldest are dropped");
        if let Some((_, last)) = missing.last() {
            assert!(bytes(after) + last > self.limits.bytes, "{missing:?} was dropped without need");
        }
    }

    fn step(&mut self, number: usize, step: &Step) {
        let before = batches(&self.disk);
        let failed = self.disk.state().failed;
        let had_temporary = self.disk.state().names().contains_key(TEMPORARY);
        let chosen = |number: usize| before.get(number % before.len().max(1)).map(|(id, _)| *id);
        let mut appended = None;
        let (mut removed, mut expired, mut read) = (None, None, None);
        match *step {
            Step::Append { second, points } => {
                let text = lines(number, points);
                self.texts.insert(text.clone());
                appended = Some((self.spool.append(at(second), points, &text), text));
            }
            Step::Read(number) => read = chosen(number).map(|id| (id, self.spool.read(id))),
            Step::Remove(number) => removed = chosen(number).map(|id| (id, self.spool.remove(id))),
            Step::Expire { seconds } => {
                self.disk.state().uptime += Duration::from_secs(seconds);
                self.spool.expire();
                expired = Some(self.uptime());
            }
            Step::Reopen => return self.reopen(),
            Step::Damage { batch, how } => {
                if let Some(id) = chosen(batch) {
                    self.damage(id, how);
                }
            }
        }
        let faults = self.disk.state().failed - failed;
        let crashed = self.disk.state().crashed;
        let smooth = faults == 0 && !crashed && !self.unsure;
        self.unsure |= faults > 1;
        let after = batches(&self.disk);
        let new: Batches = after.iter().filter(|batch| !before.contains(batch)).copied().collect();
        let missing: Batches = before.iter().filter(|batch| !after.contains(batch)).copied().collect();
        let gone = points(&missing);
        let uptime = self.uptime();
        self.born.extend(new.iter().map(|(id, _)| (*id, uptime)));
        if let Some((result, text)) = appended {
            assert!(new.len() <= 1);
            self.were_in_the_way(&missing, &before, &after);
            self.dropped[0] += gone;
            match result {
                Ok(id) => {
                    assert_eq!((new[0].0, new[0].0.time_ns), (id, id.time_ns));
                    assert!(before.iter().all(|(other, _)| *other < id), "the new one is the newest");
                    assert!(bytes(&after) <= self.limits.bytes || !smooth);
                    self.kept.push((id, text));
                }
                Err(error) => {
                    assert!(!smooth, "{error}");
                    assert!(new.is_empty() || crashed || faults > 1, "nothing of it is left");
                }
            }
        } else {
            assert!(new.is_empty(), "{new:?}");
        }
        if let Some((id, result)) = read {
            match result {
                Ok(Some(text)) => self.is_right(id, &text),
                Ok(None) => assert!(self.damaged.contains(&id) || !smooth),
                Err(error) => assert!(!smooth, "{error}"),
            }
            assert!(missing.is_empty() || (missing.len() == 1 && missing[0].0 == id));
            self.dropped[2] += gone;
        } else if let Some((id, result)) = removed {
            assert!(missing.is_empty() || (missing.len() == 1 && missing[0].0 == id));
            assert!(if result.is_ok() { missing.len() == 1 || self.unsure } else { !smooth });
            if crashed {
                self.kept.retain(|(kept, _)| *kept != id);
            }
        } else if let Some(uptime) = expired {
            let old = |id: BatchId| uptime - self.born[&id] > AGE;
            assert!(missing.iter().all(|(id, _)| old(*id)));
            assert!(!smooth || after.iter().all(|(id, _)| !old(*id)));
            self.dropped[1] += gone;
        }
        self.kept.retain(|(id, _)| !missing.iter().any(|(missing, _)| missing == id));
        if crashed {
            return self.reboot();
        }
        assert!(had_temporary || faults > 1 || !self.disk.state().names().contains_key(TEMPORARY));
        self.figures_agree(&after);
    }

    /// What is read is what was appended under this name; what nobody knows the name of is one of those that were tried.
    fn is_right(&self, id: BatchId, text: &str) {
        match self.kept.iter().find(|(kept, _)| *kept == id) {
            Some((_, appended)) => assert_eq!(text, appended),
            None => assert!(self.texts.contains(text), "{text}"),
        }
    }

    fn figures_agree(&self, after: &Batches) {
        if self.unsure {
            return;
        }
        let figures = self.spool.figures();
        let told = (figures.batches, figures.points, figures.bytes, figures.oldest);
        let oldest = after.first().map(|(id, _)| at(0) + Duration::from_nanos(id.time_ns));
        assert_eq!(told, (after.len() as u64, points(after), bytes(after), oldest));
        assert_eq!([figures.dropped_full, figures.dropped_expired, figures.dropped_corrupt], self.dropped);
        let ids: Vec<_> = after.iter().map(|(id, _)| *id).collect();
        assert_eq!(self.spool.ids(usize::MAX), ids);
        assert_eq!((self.spool.oldest(), self.spool.newest()), (ids.first().copied(), ids.last().copied()));
    }

    fn damage(&mut self, id: BatchId, how: usize) {
        let name = self.disk.state().names().into_keys().find(|name| {
            name.ends_with(".gz") && name.contains(&format!("{:020}-{:010}", id.time_ns, id.sequence))
        });
        // Its blocks stay as many, so that figures can be compared.
        self.disk.state().damage(&name.unwrap(), |bytes| match how {
            0 => bytes.fill(0),
            1 => *bytes.last_mut().unwrap() ^= 1,
            2 => bytes[10] ^= 0x06,
            _ if bytes.len() % 512 == 1 => bytes.reverse(),
            _ => bytes.truncate(bytes.len() - 1),
        });
        self.damaged.insert(id);
    }

    fn random(&mut self, below: usize) -> usize {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        usize::try_from(self.seed >> 11).unwrap() % below
    }

    fn reboot(&mut self) {
        let disk = self.disk.clone();
        disk.state().reboot(&mut |below| self.random(below));
        let there = batches(&disk);
        for (id, _) in &self.kept {
            assert!(there.iter().any(|(there, _)| there == id), "{id:?} was appended and is lost");
        }
        self.plan_crash();
        self.reopen();
    }

    fn reopen(&mut self) {
        loop {
            let (before, failed) = (batches(&self.disk), self.disk.state().failed);
            self.find(&before);
            let opened = Spool::with_disk(self.disk.clone(), self.limits);
            let after = batches(&self.disk);
            let missing: Batches = before.iter().filter(|batch| !after.contains(batch)).copied().collect();
            self.were_in_the_way(&missing, &before, &after);
            self.kept.retain(|(id, _)| !missing.iter().any(|(missing, _)| missing == id));
            if self.disk.state().crashed {
                return self.reboot();
            }
            let faults = self.disk.state().failed - failed;
            match opened {
                Ok(spool) => {
                    self.spool = spool;
                    self.dropped = [points(&missing), 0, 0];
                    self.unsure = faults > 1;
                    assert!(faults > 0 || bytes(&after) <= self.limits.bytes);
                    assert!(faults > 0 || !self.disk.state().names().contains_key(TEMPORARY));
                    return self.figures_agree(&after);
                }
                Err(error) => assert!(faults > 0, "{error}"),
            }
        }
    }

    /// Everything that should be there can be read, and nothing else than what was appended.
    fn end(&mut self) {
        {
            let mut state = self.disk.state();
            state.crash_at = None;
            state.faults.clear();
        }
        self.reopen();
        let there = self.spool.ids(usize::MAX);
        for (id, _) in &self.kept {
            assert!(there.contains(id), "{id:?}");
        }
        for id in there {
            match self.spool.read(id).unwrap() {
                Some(text) => self.is_right(id, &text),
                None => assert!(self.damaged.contains(&id), "{id:?} is torn"),
            }
        }
        let bad = self.disk.state().names().into_keys().filter(|name| name.ends_with(".bad")).count();
        assert!(bad <= 16, "{bad}");
    }
}

fn run(steps: &[Step], crashes: Vec<usize>, faults: Vec<(usize, Fault)>, seed: u64, kilobytes: u64) {
    let limits = Limits { bytes: kilobytes << 10, age: Duration::from_secs(AGE.unsigned_abs()) };
    let mut world = World::new(limits, crashes, faults, seed);
    for (number, step) in steps.iter().enumerate() {
        world.step(number, step);
    }
    world.end();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_that_was_appended_is_lost_or_torn_by_a_crash(
        steps in steps(), crashes in vec(0..80_usize, 0..6), seed in any::<u64>(), kilobytes in 2..12_u64,
    ) {
        run(&steps, crashes, Vec::new(), seed, kilobytes);
    }

    #[test]
    fn nothing_is_lost_or_torn_when_the_disk_says_no_at_any_time(
        steps in steps(), crashes in vec(0..80_usize, 0..4), faults in faults(), seed in any::<u64>(),
        kilobytes in 2..12_u64,
    ) {
        run(&steps, crashes, faults, seed, kilobytes);
    }
}
