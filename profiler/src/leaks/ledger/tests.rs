use std::{collections::HashMap, time::Duration};

use profiler_common::sample::{CERTAIN, weight};
use proptest::prelude::*;

use super::*;
use crate::leaks::Window;

mod random;

const SECOND: u64 = 1_000_000_000;
/// A watch doesn't begin at zero.
const SINCE: u64 = 5_000 * SECOND;

fn sample(id: u64, site: u32, bytes: u64, threshold: u64, at_ns: u64) -> NewSample {
    NewSample {
        id,
        pid: 7,
        epoch: 1,
        site: SiteIndex(site),
        address: id << 4,
        bytes,
        threshold,
        at_ns: SINCE + at_ns,
    }
}

fn ledger(limits: Limits) -> Ledger {
    Ledger::new(SINCE, limits)
}

fn windows(ledger: &Ledger, site: u32, now_ns: u64) -> Vec<Window> {
    ledger.evidence(SiteIndex(site), SINCE + now_ns).unwrap().windows
}

#[test]
fn a_certain_block_is_exact_while_it_lives_and_nothing_afterwards() {
    let mut ledger = ledger(Limits::default());
    assert_eq!(ledger.allocated(sample(1, 3, 1000, CERTAIN, 0)), Placed::Site(None));
    let figures = ledger.figures(SiteIndex(3), SINCE + SECOND).unwrap();
    assert_eq!(figures.live_bytes, Estimate { value: 1000.0, low: 1000.0, high: 1000.0 });
    assert_eq!(figures.live_objects, Estimate { value: 1.0, low: 1.0, high: 1.0 });
    ledger.freed(1, SINCE + 2 * SECOND);
    let figures = ledger.figures(SiteIndex(3), SINCE + 3 * SECOND).unwrap();
    assert_eq!(figures.live_bytes, Estimate::default());
    assert_eq!(figures.allocated_bytes.value, 1000.0);
    assert_eq!(figures.samples, (1, 0));
    assert_eq!(figures.survival, vec![(Duration::from_secs(1), 1.0)]);
}

#[test]
fn windows_tell_what_came_went_stayed_and_the_least_that_lived() {
    let mut ledger = ledger(Limits::default());
    ledger.allocated(sample(1, 3, 100, CERTAIN, 0));
    ledger.allocated(sample(2, 3, 10, CERTAIN, SECOND / 2));
    ledger.freed(1, SINCE + 3 * SECOND);
    ledger.allocated(sample(3, 3, 1000, CERTAIN, 3 * SECOND + 1));
    let windows = windows(&ledger, 3, 5 * SECOND + 7);
    let bytes = |of: fn(&Window) -> f64| windows.iter().map(of).collect::<Vec<_>>();
    assert_eq!(bytes(|window| window.allocated.bytes), [110.0, 0.0, 0.0, 1000.0, 0.0, 0.0]);
    assert_eq!(bytes(|window| window.surviving.bytes), [10.0, 0.0, 0.0, 1000.0, 0.0, 0.0]);
    assert_eq!(bytes(|window| window.freed.bytes), [0.0, 0.0, 0.0, 100.0, 0.0, 0.0]);
    assert_eq!(bytes(|window| window.floor.bytes), [0.0, 110.0, 110.0, 10.0, 1010.0, 1010.0]);
    assert_eq!(bytes(|window| window.live_at_end.bytes), [110.0, 110.0, 110.0, 1010.0, 1010.0, 1010.0]);
    assert_eq!(windows[1].begin_ns, SINCE + SECOND);
    assert_eq!(windows[5].end_ns, SINCE + 5 * SECOND + 7);
}

#[test]
fn there_are_never_more_than_64_windows_and_the_history_has_as_many_points() {
    for seconds in [0, 1, 63, 64, 65, 127, 128, 1000, 86_400, 30 * 86_400] {
        let mut ledger = ledger(Limits::default());
        for id in 0..=seconds.min(5000) {
            let at_ns = id * SECOND * seconds.checked_div(5000).unwrap_or(0).max(1);
            ledger.allocated(sample(id, 3, 1, CERTAIN, at_ns));
        }
        let windows = windows(&ledger, 3, seconds * SECOND);
        assert!(windows.len() <= 64 && (seconds < 64 || windows.len() > 31), "{seconds}: {}", windows.len());
        let length = windows[0].end_ns - windows[0].begin_ns;
        for pair in windows.windows(2) {
            assert_eq!(pair[0].end_ns, pair[1].begin_ns);
            assert_eq!(pair[0].end_ns - pair[0].begin_ns, length);
        }
        let figures = ledger.figures(SiteIndex(3), SINCE + seconds * SECOND).unwrap();
        assert_eq!(figures.history.len(), windows.len());
    }
}

#[test]
fn what_is_told_in_the_wrong_order_is_booked_all_the_same() {
    let mut ledger = ledger(Limits::default());
    ledger.freed(1, SINCE + 5 * SECOND);
    ledger.gone(2, SINCE + 5 * SECOND);
    assert_eq!(ledger.counts().unknown, 2);
    ledger.allocated(sample(1, 3, 100, CERTAIN, 4 * SECOND));
    ledger.allocated(sample(2, 3, 100, CERTAIN, 4 * SECOND));
    assert_eq!(ledger.live_bytes().value, 0.0);
    assert_eq!(ledger.counts().early, 2);
    ledger.process_ended(7, Some(1), SINCE + 6 * SECOND);
    ledger.allocated(sample(3, 3, 100, CERTAIN, 6 * SECOND - 1));
    assert_eq!(ledger.live_bytes().value, 0.0);
    // A new process of the same number.
    ledger.allocated(sample(4, 3, 100, CERTAIN, 6 * SECOND + 1));
    assert_eq!(ledger.live_bytes().value, 100.0);
    // Some milliseconds back, over the border of a window.
    ledger.allocated(NewSample { pid: 9, ..sample(5, 3, 100, CERTAIN, 6 * SECOND - 3_000_000) });
    ledger.freed(5, SINCE + 6 * SECOND - 2_000_000);
    assert_eq!(ledger.live_bytes().value, 100.0);
    let windows = windows(&ledger, 3, 7 * SECOND);
    assert_eq!(windows[6].allocated.n, 2);
    assert_eq!(windows[6].freed.n, 1);
}

#[test]
fn early_ends_are_remembered_within_a_bound() {
    let mut ledger = ledger(Limits { early: 10, ..Limits::default() });
    for id in 0..1000 {
        ledger.freed(id, SINCE);
    }
    assert!(ledger.early.len() <= 10 && ledger.early_order.len() <= 10);
    ledger.allocated(sample(999, 3, 100, CERTAIN, 0));
    ledger.allocated(sample(0, 3, 10, CERTAIN, 0));
    assert_eq!(ledger.live_bytes().value, 10.0);
}

#[test]
fn a_process_that_ends_takes_its_blocks_along_without_a_word_about_lifetimes() {
    let mut ledger = ledger(Limits::default());
    for id in 0..10 {
        ledger.allocated(sample(id, 3, 100, CERTAIN, 0));
    }
    ledger.allocated(NewSample { pid: 8, ..sample(10, 3, 7, CERTAIN, 0) });
    ledger.allocated(NewSample { epoch: 2, ..sample(11, 3, 5, CERTAIN, 0) });
    ledger.process_ended(7, Some(1), SINCE + 20 * SECOND);
    assert_eq!(ledger.live_bytes().value, 12.0);
    let evidence = ledger.evidence(SiteIndex(3), SINCE + 20 * SECOND).unwrap();
    assert!(evidence.lifetimes.freed.iter().all(|sum| sum.n == 0));
    assert!(evidence.windows.iter().all(|window| window.freed.n == 0));
    assert_eq!(evidence.windows.last().unwrap().live_at_end.bytes, 12.0);
    let figures = ledger.figures(SiteIndex(3), SINCE + 20 * SECOND).unwrap();
    assert_eq!(figures.survival, vec![(Duration::from_secs(1), 1.0), (Duration::from_secs(10), 1.0)]);
    assert_eq!(ledger.counts().ended, 10);
    ledger.process_ended(7, None, SINCE + 20 * SECOND);
    assert_eq!(ledger.live_bytes().value, 7.0);
}

#[test]
fn a_block_whose_end_was_not_seen_lived_half_of_the_time_that_nobody_looked() {
    let mut ledger = ledger(Limits::default());
    ledger.allocated(sample(1, 3, 100, CERTAIN, 0));
    ledger.confirmed(SINCE + 64 * SECOND);
    ledger.gone(1, SINCE + 1024 * SECOND);
    let lifetimes = ledger.evidence(SiteIndex(3), SINCE + 1024 * SECOND).unwrap().lifetimes;
    // 64 s and half of 960 s: 544 s.
    assert_eq!(lifetimes.freed[(544 * SECOND).ilog2() as usize].n, 1);
}

#[test]
fn a_block_is_lost_when_two_searches_in_a_row_found_nothing() {
    let mut ledger = ledger(Limits::default());
    for id in 0..4 {
        ledger.allocated(sample(id, 3, 100, CERTAIN, 0));
    }
    let told = |ledger: &Ledger| ledger.evidence(SiteIndex(3), SINCE + 90 * SECOND).unwrap().unreferenced;
    assert_eq!(told(&ledger), None);
    let look = |id, referenced| Looked { id, referenced };
    ledger.set_unreferenced(&[look(0, false), look(1, false), look(2, true)], SINCE + 60 * SECOND);
    assert_eq!(told(&ledger), Some((1, 0)));
    // The same search told twice is no second one.
    ledger.set_unreferenced(&[look(0, false)], SINCE + 60 * SECOND);
    assert_eq!(told(&ledger), Some((1, 0)));
    ledger.set_unreferenced(&[look(0, false), look(1, true), look(2, false)], SINCE + 70 * SECOND);
    assert_eq!(told(&ledger), Some((2, 1)));
    ledger.set_unreferenced(&[look(0, true), look(99, false)], SINCE + 80 * SECOND);
    assert_eq!(told(&ledger), Some((2, 0)));
}

#[test]
fn blocks_that_are_freed_although_they_seemed_lost_prove_the_search_wrong() {
    let mut ledger = ledger(Limits::default());
    for id in 0..10 {
        ledger.allocated(sample(id, 3, 100, CERTAIN, 0));
    }
    let looks: Vec<Looked> = (0..10).map(|id| Looked { id, referenced: false }).collect();
    ledger.set_unreferenced(&looks, SINCE + 60 * SECOND);
    ledger.set_unreferenced(&looks, SINCE + 70 * SECOND);
    let told = |ledger: &Ledger| ledger.evidence(SiteIndex(3), SINCE + 90 * SECOND).unwrap().unreferenced;
    assert_eq!(told(&ledger), Some((10, 10)));
    ledger.freed(0, SINCE + 80 * SECOND);
    assert_eq!(told(&ledger), Some((9, 9)), "one may be a race");
    ledger.freed(1, SINCE + 81 * SECOND);
    assert_eq!(told(&ledger), None);
}

#[test]
fn sites_that_grow_are_looked_for_first_and_old_blocks_only() {
    let limits = Limits { candidates: 30, candidates_of_site: 20, ..Limits::default() };
    let mut ledger = ledger(limits);
    for id in 0..1000 {
        ledger.allocated(sample(id, 3, 1_000_000, CERTAIN, 0));
    }
    for second in 0..200 {
        ledger.allocated(sample(1000 + second, 4, 1000, CERTAIN, second * SECOND));
    }
    let candidates = ledger.candidates(SINCE + 200 * SECOND);
    let sites: Vec<_> = candidates.iter().map(|candidate| candidate.site.unwrap().0).collect();
    assert_eq!(sites, [vec![4; 20], vec![3; 10]].concat());
    assert!(candidates[..20].iter().all(|candidate| candidate.id <= 1140));
    let again = ledger.candidates(SINCE + 200 * SECOND);
    assert_eq!(candidates, again);
    assert!(ledger.candidates(SINCE + 59 * SECOND).is_empty());
}

#[test]
fn ages_are_by_bytes() {
    let mut ledger = ledger(Limits::default());
    ledger.allocated(sample(1, 3, 10, CERTAIN, 0));
    ledger.allocated(sample(2, 3, 100, CERTAIN, 10 * SECOND));
    ledger.allocated(sample(3, 3, 10, CERTAIN, 50 * SECOND));
    let ages = ledger.figures(SiteIndex(3), SINCE + 60 * SECOND).unwrap().ages;
    assert_eq!((ages.median, ages.oldest), (Duration::from_secs(50), Duration::from_secs(60)));
}

#[test]
fn rates_are_those_of_late() {
    let mut ledger = ledger(Limits::default());
    for second in 0..1000 {
        let bytes = if second < 500 { 1_000_000 } else { 1000 };
        ledger.allocated(sample(second, 3, bytes, CERTAIN, second * SECOND));
        ledger.freed(second.wrapping_sub(1), SINCE + second * SECOND);
    }
    let figures = ledger.figures(SiteIndex(3), SINCE + 1000 * SECOND).unwrap();
    assert!((figures.allocation_rate - 1000.0).abs() < 20.0, "{}", figures.allocation_rate);
    assert!((figures.free_rate - 1000.0).abs() < 20.0, "{}", figures.free_rate);
}

#[test]
fn further_sites_go_to_other_and_idle_ones_give_up_their_place() {
    let mut ledger = ledger(Limits { sites: 2, idle_ns: 100 * SECOND, ..Limits::default() });
    ledger.allocated(sample(1, 10, 1, CERTAIN, 0));
    ledger.allocated(sample(2, 11, 2, CERTAIN, 0));
    assert_eq!(ledger.allocated(sample(3, 12, 4, CERTAIN, 0)), Placed::Other);
    assert!(ledger.holds(SiteIndex(10)) && !ledger.holds(SiteIndex(12)));
    ledger.freed(1, SINCE + SECOND);
    assert_eq!(ledger.allocated(sample(4, 12, 8, CERTAIN, 100 * SECOND)), Placed::Other);
    assert_eq!(ledger.allocated(sample(5, 12, 16, CERTAIN, 102 * SECOND)), Placed::Site(Some(SiteIndex(10))));
    assert!(!ledger.holds(SiteIndex(10)) && ledger.holds(SiteIndex(12)));
    assert_eq!(ledger.live_bytes().value, 30.0);
    // Two of its own and the forgotten site's one.
    assert_eq!(ledger.other(), (3, Estimate { value: 12.0, low: 12.0, high: 12.0 }));
    assert_eq!(ledger.figures_of_all(SINCE + 102 * SECOND).allocated_bytes.value, 31.0);
    assert_eq!((ledger.counts().other, ledger.counts().forgotten), (2, 1));
}

#[test]
fn more_live_samples_than_there_is_room_for_are_refused_and_counted() {
    let mut ledger = ledger(Limits { live: 2, ..Limits::default() });
    ledger.allocated(sample(1, 3, 1, CERTAIN, 0));
    assert_eq!(ledger.allocated(sample(1, 3, 1, CERTAIN, 0)), Placed::Refused);
    ledger.allocated(sample(2, 3, 1, CERTAIN, 0));
    assert_eq!(ledger.allocated(sample(3, 3, 1, CERTAIN, 0)), Placed::Refused);
    assert_eq!((ledger.counts().refused, ledger.counts().repeated), (1, 1));
    ledger.freed(1, SINCE);
    assert_eq!(ledger.allocated(sample(3, 3, 1, CERTAIN, 0)), Placed::Site(None));
    assert_eq!(ledger.live_bytes().value, 2.0);
}

#[test]
fn any_numbers_are_survived() {
    for window_ns in [0, 1, SECOND, u64::MAX] {
        let mut ledger = ledger(Limits { window_ns, windows: 1, ..Limits::default() });
        for (id, number) in [0, 1, u64::MAX, u64::MAX / 2, CERTAIN, CERTAIN + 1].into_iter().enumerate() {
            let id = id as u64;
            ledger.allocated(NewSample {
                at_ns: number,
                address: number,
                ..sample(id, 3, number, number, 0)
            });
            ledger.evidence(SiteIndex(3), number).unwrap();
            ledger.figures(SiteIndex(3), number).unwrap();
            ledger.figures_of_all(0);
            ledger.candidates(u64::MAX);
            ledger.set_unreferenced(&[Looked { id, referenced: false }], number);
            ledger.gone(id, u64::MAX - number);
            ledger.confirmed(number);
            ledger.process_ended(7, None, number);
        }
        assert_eq!(ledger.live_bytes().value, 0.0);
    }
}

#[test]
fn windows_of_all_sites_together_stay_within_their_bound_however_sparse_they_are() {
    let mut ledger = ledger(Limits { windows: 5, ..Limits::default() });
    for id in 0..200 {
        ledger.allocated(sample(id, id as u32 % 20, 1, CERTAIN, id / 20 * 37 * SECOND));
        assert!(ledger.windows <= 5, "{}", ledger.windows);
    }
    assert_eq!(windows(&ledger, 3, 400 * SECOND).iter().map(|window| window.allocated.n).sum::<u64>(), 10);
}

#[test]
fn the_part_that_lives_on_is_that_of_kaplan_and_meier() {
    let mut ledger = ledger(Limits::default());
    // 1000 blocks of a lifetime that is exponential with a mean of 100 s (its quantiles, one by one), watched for 60 s
    // after the last one came; 1000 more of them belong to processes that end after 5 s.
    let lifetime_ns = |number: u64| (-(1.0 - (number as f64 + 0.5) / 1000.0).ln() * 100e9) as u64;
    for number in 0..1000 {
        ledger.allocated(sample(number, 3, 10, CERTAIN, 0));
        ledger.allocated(NewSample { pid: 8, ..sample(1000 + number, 3, 10, CERTAIN, 0) });
    }
    let mut ends: Vec<(u64, u64)> = (0..2000).map(|id| (lifetime_ns(id % 1000), id)).collect();
    ends.sort_unstable();
    for (at_ns, id) in ends {
        if at_ns < if id < 1000 { 60 } else { 5 } * SECOND {
            ledger.freed(id, SINCE + at_ns);
        }
    }
    ledger.process_ended(8, None, SINCE + 5 * SECOND);
    let survival = ledger.figures(SiteIndex(3), SINCE + 60 * SECOND).unwrap().survival;
    let ages: Vec<u64> = survival.iter().map(|(age, _)| age.as_secs()).collect();
    assert_eq!(ages, [1, 10]);
    for (age, part) in survival {
        let truth = (-age.as_secs_f64() / 100.0).exp();
        assert!((part - truth).abs() < 0.01, "{age:?}: {part} instead of {truth}");
    }
}

/// 24 hours of 100 samples a second: of a million stacks, most of them never seen again, and of 19,000 that are busy all day;
/// one block in 130 is never given back.
#[test]
// Takes some seconds; prints figures.
fn a_day_with_a_million_stacks_stays_below_the_cap() {
    if std::env::var_os("PROFILER_LONG_TESTS").is_none() {
        println!("left out: set PROFILER_LONG_TESTS to run it");
        return;
    }
    let mut ledger = ledger(Limits::default());
    ledger.sampled_every(512 << 10);
    let before = resident_bytes();
    let (mut most, mut state) = (0, 88_172_645_463_325_252_u64);
    let mut roll = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let samples = 24 * 3600 * 100;
    let mut live: Vec<u64> = Vec::new();
    for id in 0..samples {
        let at_ns = id * SECOND / 100;
        let site = if roll() % 10 < 3 { roll() % 1_000_000 } else { 1_000_000 + roll() % 19_000 } as u32;
        let placed =
            ledger.allocated(sample(id, site, 16 + roll() % 100_000, 1 << (10 + roll() % 22), at_ns));
        if placed != Placed::Refused && roll() % 130 != 0 {
            live.push(id);
        }
        // The others live for a thousand samples, on average.
        if live.len() > 1000 {
            let which = (roll() % live.len() as u64) as usize;
            ledger.freed(live.swap_remove(which), SINCE + at_ns);
        }
        if id % 65_536 == 0 {
            most = most.max(ledger.memory_bytes());
        }
    }
    let now_ns = SINCE + 24 * 3600 * SECOND;
    let resident = resident_bytes().saturating_sub(before);
    println!(
        "books {:.1} MiB at most, process grown by {:.1} MiB, windows {}, buckets {}, live {}, {:?}; block {} site {}",
        most as f64 / 1048576.0,
        resident as f64 / 1048576.0,
        ledger.windows,
        ledger.buckets,
        ledger.ids.len(),
        ledger.counts(),
        size_of::<Block>(),
        size_of::<Site>(),
    );
    let before = std::time::Instant::now();
    let sites: Vec<SiteIndex> = ledger.sites().map(|(site, _)| site).collect();
    for site in &sites {
        ledger.evidence(*site, now_ns).unwrap();
    }
    println!("evidence of {} sites: {:?}", sites.len(), before.elapsed());
    let before = std::time::Instant::now();
    for site in &sites {
        ledger.figures(*site, now_ns).unwrap();
    }
    println!("figures: {:?}", before.elapsed());
    let before = std::time::Instant::now();
    let candidates = ledger.candidates(now_ns).len();
    println!("{candidates} candidates: {:?}", before.elapsed());
    assert!(most.max(ledger.memory_bytes()) < CAP);
    assert!(resident < CAP);
    assert_eq!(ledger.all.live.n, ledger.ids.len() as u64);
    let parts: f64 = ledger.sites.iter().map(|site| site.live.bytes).sum();
    assert!(near_enough(parts, ledger.all.live.bytes));
    let parts: f64 = ledger.sites.iter().map(|site| site.allocated.bytes).sum();
    assert!(near_enough(parts, ledger.all.allocated.bytes));
}

/// What the books of one target take with the default limits, at most.
const CAP: usize = 64 << 20;

fn near_enough(one: f64, other: f64) -> bool {
    (one - other).abs() <= 1e-9 * one.abs().max(other.abs())
}

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 4096
}
