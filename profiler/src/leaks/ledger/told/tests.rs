//! A simulated runtime that samples objects and publishes counts when it collects, whose truth is known, against the books
//! and the judge. The truth is kept as a plain list of objects.

mod simulations;

use proptest::prelude::*;

use super::super::{Ledger, Limits, Placed, SiteIndex, Told};
use crate::leaks::Sum;

const SECOND: u64 = 1_000_000_000;

fn told(record: u64, allocs: u64, frees: u64) -> Told {
    Told { record, size: 64, weight: 8192.0, allocs, frees }
}

/// One reading, with these counts of records, at a second.
fn read(ledger: &mut Ledger, pid: u32, second: u64, counts: &[(u64, u64)]) {
    ledger.begin_reading(pid, 524_288, second * SECOND);
    for (record, (allocs, frees)) in counts.iter().enumerate() {
        let told = told(record as u64, *allocs, *frees);
        if ledger.is_news(&told) {
            ledger.tell(&told, SiteIndex(7));
        }
    }
    ledger.end_reading();
}

#[test]
fn what_was_there_before_lives_and_is_not_new() {
    let mut ledger = Ledger::new(0, Limits::default());
    read(&mut ledger, 1, 10, &[(5, 1)]);
    // When the first profile was published nobody knows: what came until the second one may have come before.
    read(&mut ledger, 1, 20, &[(8, 2)]);
    assert!(ledger.evidence(SiteIndex(7), 25 * SECOND).unwrap().windows.is_empty());
    read(&mut ledger, 1, 30, &[(11, 4)]);
    let figures = ledger.figures(SiteIndex(7), 35 * SECOND).unwrap();
    assert_eq!(figures.samples, (3, 7));
    let size = 64.0 * 8192.0;
    assert!((figures.live_bytes.value - 7.0 * size).abs() < 1.0);
    assert!((figures.allocated_bytes.value - 3.0 * size).abs() < 1.0);
    assert!(figures.survival.is_empty() && figures.ages.oldest.is_zero(), "nobody knows ages");
    let evidence = ledger.evidence(SiteIndex(7), 35 * SECOND).unwrap();
    assert!(evidence.collected && evidence.live.is_empty());
    assert_eq!(
        (evidence.windows[0].begin_ns, evidence.windows.last().unwrap().end_ns),
        (20 * SECOND, 30 * SECOND)
    );
    assert_eq!(evidence.stays.iter().map(|stay| stay.n).sum::<u64>(), 1, "7 live, 6 lived before");
    assert_eq!(evidence.windows.iter().map(|window| window.floor.n).min(), Some(6));
}

#[test]
fn counts_that_go_back_are_not_believed() {
    let mut ledger = Ledger::new(0, Limits::default());
    for (second, counts) in
        [(1, (50, 0)), (2, (20, 5)), (3, (55, 60)), (4, (u64::MAX, u64::MAX)), (5, (3, 9))]
    {
        read(&mut ledger, 1, second, &[counts]);
    }
    let figures = ledger.figures(SiteIndex(7), 6 * SECOND).unwrap();
    assert_eq!(figures.samples.1, 0);
    assert!(figures.allocated_bytes.value.is_finite());
}

#[test]
fn a_process_that_ends_takes_what_lived_there_and_nothing_else() {
    let mut ledger = Ledger::new(0, Limits::default());
    for second in 1..9 {
        read(&mut ledger, 1, second, &[(second * 10, second)]);
        read(&mut ledger, 2, second, &[(second * 20, second)]);
    }
    ledger.process_ended(1, None, 9 * SECOND);
    assert_eq!(ledger.figures(SiteIndex(7), 9 * SECOND).unwrap().samples.1, 8 * 19);
    ledger.process_ended(2, None, 10 * SECOND);
    assert_eq!(ledger.figures_of_all(10 * SECOND).samples.1, 0);
    assert!(ledger.evidence(SiteIndex(7), 10 * SECOND).unwrap().stays.is_empty());
}

#[test]
fn another_rate_begins_anew() {
    let mut ledger = Ledger::new(0, Limits::default());
    (1..5).for_each(|second| read(&mut ledger, 1, second, &[(second * 10, 0)]));
    assert!(ledger.begin_reading(1, 4096, 6 * SECOND), "the first one of this rate");
    ledger.tell(&Told { weight: 64.0, ..told(0, 60, 0) }, SiteIndex(7));
    ledger.end_reading();
    let live = ledger.figures(SiteIndex(7), 6 * SECOND).unwrap().live_bytes.value;
    assert!((live - 60.0 * 64.0 * 64.0).abs() < 1.0, "{live}");
}

#[test]
fn sites_without_a_place_are_summed_up_exactly() {
    let limits = Limits { sites: 10, records: 90, windows: 40, ..Limits::default() };
    let mut ledger = Ledger::new(0, limits);
    let counts = |record: u64, second: u64| ((record + 1) * second, record * second / 2);
    let mut refused = 0;
    for second in 1..200 {
        ledger.begin_reading(1, 524_288, second * SECOND);
        for record in 0..100 {
            let (allocs, frees) = counts(record, second);
            let placed = ledger.tell(&told(record, allocs, frees), SiteIndex(record as u32));
            refused += u64::from(placed == Placed::Refused);
        }
        ledger.end_reading();
        assert!(ledger.profiles.batches <= 90, "{}", ledger.profiles.batches);
    }
    assert_eq!((refused, ledger.counts().refused), (199 * 10, 199 * 10));
    let truth = |records: std::ops::Range<u64>| -> u64 {
        records.map(|record| counts(record, 199).0 - counts(record, 199).1).sum()
    };
    let size = 64.0 * 8192.0;
    assert!((ledger.other().1.value / size - truth(10..90) as f64).abs() < 1e-3);
    assert!((ledger.live_bytes().value / size - truth(0..90) as f64).abs() < 1e-3);
    assert_eq!(ledger.figures_of_all(0).samples.1, truth(0..90));
}

proptest! {
    /// Whatever is allocated and freed in whatever order: the sums are exact, and of what came after any reading at least
    /// as many live as the stacks say.
    #[test]
    fn stacks_never_say_that_more_stays_than_does(
        steps in prop::collection::vec((0_u64..4, prop::collection::vec((0_usize..3, any::<u16>()), 0..6)), 3..150),
    ) {
        let mut ledger = Ledger::new(0, Limits { windows: 30, ..Limits::default() });
        // Of each record: when the living objects came, and how many came and went.
        let mut living: [Vec<usize>; 3] = Default::default();
        let mut counts = [(0, 0); 3];
        for (step, (came, went)) in steps.iter().enumerate() {
            for record in 0..3 {
                let many = (came + record as u64) % 4;
                counts[record].0 += many;
                living[record].extend((0..many).map(|_| step));
            }
            for (record, which) in went {
                let place = usize::from(*which).checked_rem(living[*record].len());
                if let Some(place) = place {
                    living[*record].swap_remove(place);
                    counts[*record].1 += 1;
                }
            }
            read(&mut ledger, 1, 10 * (step as u64 + 1), &counts);
        }
        let now_ns = 10 * SECOND * steps.len() as u64;
        let figures = ledger.figures(SiteIndex(7), now_ns).unwrap_or_default();
        let alive: usize = living.iter().map(Vec::len).sum();
        prop_assert_eq!(figures.samples.1, alive as u64);
        let evidence = ledger.evidence_of_all(now_ns);
        for step in 2..steps.len() {
            let from_ns = 10 * SECOND * step as u64;
            let told: u64 = evidence.stays.iter().filter(|stay| stay.from_ns >= from_ns).map(|stay| stay.n).sum();
            let truth = living.iter().flatten().filter(|came| **came >= step).count();
            prop_assert!(told <= truth as u64, "of what came after {step}, {told} of {truth}");
        }
        let sum = |pick: fn(&crate::leaks::Window) -> Sum| evidence.windows.iter().map(|w| pick(w).n).sum::<u64>();
        let before: u64 = counts.iter().map(|(came, _)| came).sum::<u64>() - figures.samples.0;
        prop_assert_eq!(sum(|w| w.allocated) + before, counts.iter().map(|(came, _)| came).sum::<u64>());
    }
}
