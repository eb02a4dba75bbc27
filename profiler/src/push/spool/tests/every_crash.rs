//! A short story, with a crash at every call of it and after that every state that a disk may be in.

use std::time::Duration;

use super::{
    super::{BatchId, Limits, Spool},
    at, lines,
    simulated::Simulated,
};

const LIMITS: Limits = Limits { bytes: 3 * 512, age: Duration::from_secs(100) };

/// What is known of a batch when the machine crashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Nobody was told that it is safe.
    Unsure,
    /// `append` has returned.
    Safe,
    /// Its end has begun.
    Ending,
}

/// Four batches where three have room, one that is acknowledged and one that is too old. Returns what is known of each; it
/// is over when the machine crashes.
fn story(disk: &Simulated) -> Vec<Fate> {
    let mut fates = Vec::new();
    let Ok(spool) = Spool::with_disk(disk.clone(), LIMITS) else { return fates };
    let mut ids: Vec<BatchId> = Vec::new();
    for number in 0..4 {
        fates.push(Fate::Unsure);
        if number == 3 {
            // There is no room for it beside the other one.
            fates[0] = Fate::Ending;
        }
        disk.state().uptime = Duration::from_secs(number as u64);
        let Ok(id) = spool.append(at(1000 + number as u64), 2, &lines(number, 2)) else {
            return fates;
        };
        fates[number] = Fate::Safe;
        ids.push(id);
    }
    fates[2] = Fate::Ending;
    if spool.remove(ids[2]).is_err() {
        return fates;
    }
    fates[1] = Fate::Ending;
    disk.state().uptime = Duration::from_secs(102);
    spool.expire();
    if disk.state().crashed {
        return fates;
    }
    fates.push(Fate::Unsure);
    if spool.append(at(1102), 3, &lines(4, 3)).is_ok() {
        fates[4] = Fate::Safe;
    }
    fates
}

/// Every answer to every question, one after the other.
#[derive(Default)]
struct Choices {
    /// What was said, of how many possible answers.
    said: Vec<(usize, usize)>,
    next: usize,
}

impl Choices {
    fn choose(&mut self, below: usize) -> usize {
        if self.next == self.said.len() {
            self.said.push((0, below));
        }
        self.next += 1;
        self.said[self.next - 1].0
    }

    /// Begins again, with other answers. False if there are none.
    fn again(&mut self) -> bool {
        self.next = 0;
        while let Some((said, below)) = self.said.pop() {
            if said + 1 < below {
                self.said.push((said + 1, below));
                return true;
            }
        }
        false
    }
}

#[test]
fn a_crash_at_every_call_leaves_every_batch_that_was_safe_and_no_torn_one() {
    let whole = Simulated::default();
    assert_eq!(story(&whole), [Fate::Ending, Fate::Ending, Fate::Ending, Fate::Safe, Fate::Safe]);
    let calls = whole.state().calls;
    let mut states = 0;
    for crash_at in 0..=calls {
        let disk = Simulated::default();
        disk.state().crash_at = Some(crash_at);
        let fates = story(&disk);
        let crashed = disk.state().clone();
        assert_eq!(crashed.crashed, crash_at < calls);
        let mut choices = Choices::default();
        loop {
            let disk = Simulated::of(crashed.clone());
            // Any byte may be the one at which a write is torn, but a few of them show as much as all do.
            disk.state().reboot(&mut |below| match below {
                ..=8 => choices.choose(below),
                _ => [0, 1, below / 2, below - 2, below - 1][choices.choose(5)],
            });
            states += 1;
            let spool =
                Spool::with_disk(disk.clone(), LIMITS).expect("a spool can be opened after any crash");
            let texts: Vec<_> = spool
                .ids(usize::MAX)
                .into_iter()
                .map(|id| {
                    spool
                        .read(id)
                        .expect("the disk is well")
                        .unwrap_or_else(|| panic!("{id:?} is torn at {crash_at}"))
                })
                .collect();
            let count = |number: usize| {
                let text = lines(number, if number == 4 { 3 } else { 2 });
                texts.iter().filter(|found| **found == text).count()
            };
            assert!(
                fates.is_empty() || count(0) + count(3) > 0 || fates == [Fate::Unsure],
                "dropped for nothing"
            );
            for (number, fate) in fates.iter().enumerate() {
                let there = count(number);
                assert!(
                    there <= 1 && (*fate != Fate::Safe || there == 1),
                    "{number} at {crash_at}: {fates:?}"
                );
            }
            let figures = spool.figures();
            assert!(figures.batches == texts.len() as u64 && figures.bytes <= LIMITS.bytes);
            let names = disk.state().names();
            assert_eq!(names.len(), texts.len(), "nothing else is left: {names:?}");
            if !choices.again() {
                break;
            }
        }
    }
    assert!(states > 500, "{states}");
    println!("{calls} calls, {states} states of the disk");
}
