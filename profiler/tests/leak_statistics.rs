//! How often a hunt is right: many runs of every planted leak, and of programs that don't leak. Half an hour and more, so
//! only with PROFILER_LONG_TESTS set; a number there is the number of runs.

mod common;

use std::time::Duration;

use common::{
    can_observe,
    hunt::{Deeds, Hunt, Planted, distance, hunt, hunt_each, names_function, report},
    planted::{Compared, KINDS, Kind, SMALL, Scale, compare, told},
};
use profiler::leaks::Verdict;

/// Programs at a time under one profiler. Their samples are drawn independently, so each is a run of its own.
const AT_A_TIME: usize = 20;

/// How many runs are wanted; `None` (and the test is left out) if nobody asked.
fn runs(usual: usize) -> Option<usize> {
    let Some(wanted) = std::env::var_os("PROFILER_LONG_TESTS") else {
        println!("left out: set PROFILER_LONG_TESTS to run it");
        return None;
    };
    let number = wanted.to_str().and_then(|text| text.parse().ok()).filter(|number| *number > 1);
    can_observe().then(|| number.unwrap_or(usual))
}

/// The part of all for which something holds, in percent.
fn percent<T>(all: &[T], holds: impl Fn(&T) -> bool) -> f64 {
    100.0 * all.iter().filter(|one| holds(one)).count() as f64 / all.len() as f64
}

/// Of every kind, so many programs at a time, with a profiler each.
const OF_A_KIND: usize = 2;

/// Found, ranked first, and its rate told rightly.
fn is_right(site: &Compared) -> bool {
    site.found && site.first && site.rate <= 1.0
}

/// Hunts again and again, in all kinds at the same time, and counts how often all is right.
fn count(runs: usize, scale: Scale) {
    // Some are the same at both.
    let kinds: Vec<&Kind> =
        KINDS.iter().filter(|kind| scale == Scale::Small || kind.length(scale) > SMALL).collect();
    let mut compared: Vec<Vec<Compared>> = kinds.iter().map(|_| Vec::new()).collect();
    let numbers: Vec<usize> = (0..kinds.len()).flat_map(|kind| [kind; OF_A_KIND]).collect();
    let lengths: Vec<_> = numbers.iter().map(|kind| kinds[*kind].length(scale)).collect();
    for done in 1..=runs.div_ceil(OF_A_KIND) {
        let programs = numbers.iter().map(|kind| kinds[*kind].start(scale));
        let Some(mut programs) = programs.collect::<Option<Vec<_>>>() else { return };
        let pictures = hunt_each(&mut programs, &lengths, &["--sample-bytes", "16384"]);
        for ((kind, program), picture) in numbers.iter().zip(&programs).zip(&pictures) {
            let of_this = compare(picture, kinds[*kind], program);
            for site in of_this.iter().filter(|site| !is_right(site) || !site.stack || site.live > 1.0) {
                println!("{}, {}: {}", kinds[*kind].name, site.function, site.told);
            }
            compared[*kind].extend(of_this);
        }
        if done % 10 == 0 || done * OF_A_KIND >= runs {
            kinds.iter().zip(&compared).for_each(|(kind, compared)| tell(kind, compared));
        }
    }
    let wrong = |(_, compared): &(&&Kind, &Vec<Compared>)| percent(compared, is_right) < 95.0;
    let wrong: Vec<_> = kinds.iter().zip(&compared).filter(wrong).map(|(kind, _)| kind.name).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}

fn tell(kind: &Kind, compared: &[Compared]) {
    println!(
        "{}: {} runs with {} sites each: found {:.1} %, first {:.1} %, stack {:.1} %, true rate inside {:.1} %, true live \
         bytes inside {:.1} %, live bytes told by true ones {:.4} on average; found, first and rate inside {:.1} %",
        kind.name,
        compared.len() / kind.sites.len(),
        kind.sites.len(),
        percent(compared, |site| site.found),
        percent(compared, |site| site.first),
        percent(compared, |site| site.stack),
        percent(compared, |site| site.rate <= 1.0),
        percent(compared, |site| site.live <= 1.0),
        compared.iter().map(|site| site.live_ratio).sum::<f64>() / compared.len() as f64,
        percent(compared, is_right)
    );
}

#[test]
fn leaks_are_found_first_with_the_true_rate_inside_the_interval_in_95_of_100_runs() {
    let Some(runs) = runs(100) else { return };
    count(runs, Scale::Small);
}

#[test]
fn leaks_are_found_in_the_same_way_among_many_more_calls() {
    let Some(runs) = runs(20) else { return };
    count(runs, Scale::Full);
}

#[test]
fn estimates_are_unbiased_and_their_intervals_hold_what_they_promise() {
    let Some(runs) = runs(200) else { return };
    let mut ratios: [Vec<f64>; 4] = Default::default();
    let mut distances: [Vec<f64>; 4] = Default::default();
    const NAMES: [&str; 4] = ["live bytes", "live objects", "allocated bytes", "allocated objects"];
    while ratios[0].len() < runs {
        // Half of them free most of what they allocate.
        let start = |number: usize| match number % 2 {
            0 => Planted::start("leaks.c", &["leak", "rate=100000"]),
            _ => Planted::start("steady.c", &["cache", "capacity=2e6", "rate=100"]),
        };
        let wanted = (0..AT_A_TIME.min(runs - ratios[0].len())).map(start);
        let Some(mut programs) = wanted.collect::<Option<Vec<_>>>() else { return };
        let length = Duration::from_secs(30);
        let hunt = Hunt::begin(&mut programs, length, &["--sample-bytes", "16384"]);
        std::thread::sleep(length - Duration::from_secs(5));
        // From here on nothing changes, so the picture and the truth are of one moment.
        programs.iter_mut().for_each(|program| program.tell("pause"));
        let picture = hunt.finish(&mut programs, Duration::from_secs(60));
        for (number, program) in programs.iter().enumerate() {
            let (name, function) =
                [("leak_records", "leak_record"), ("cache_item", "cache_one_item")][number % 2];
            let report = report(&picture, program);
            let site = report.sites.iter().find(|site| names_function(site, function));
            let site = site.unwrap_or_else(|| panic!("{function}: {}", told(report)));
            let deeds: Deeds = program.last(name);
            let pairs = [
                (site.live_bytes, deeds.live_bytes()),
                (site.live_objects, deeds.live_objects()),
                (site.allocated_bytes, deeds.allocated_bytes as f64),
                (site.allocated_objects, deeds.allocated_objects as f64),
            ];
            for (at, (estimate, truth)) in pairs.into_iter().enumerate() {
                ratios[at].push(estimate.value / truth);
                distances[at].push(distance(&estimate, truth));
            }
        }
    }
    let mut wrong = String::new();
    for (at, name) in NAMES.into_iter().enumerate() {
        let count = ratios[at].len() as f64;
        let mean = ratios[at].iter().sum::<f64>() / count;
        let variance = ratios[at].iter().map(|ratio| (ratio - mean).powi(2)).sum::<f64>() / (count - 1.0);
        let inside = percent(&distances[at], |distance| *distance <= 1.0);
        println!(
            "{name}: mean error {:+.2} % (standard error {:.2} %) over {count} runs; true value inside {inside:.1} %",
            (mean - 1.0) * 100.0,
            (variance / count).sqrt() * 100.0
        );
        // Three standard errors of a part of 95 %.
        let least = 95.0 - 300.0 * (0.95 * 0.05 / count).sqrt();
        if (mean - 1.0).abs() >= 0.02 || inside < least {
            wrong += &format!("{name}: mean {mean}, inside {inside} %\n");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn what_does_not_leak_is_not_called_leaking_for_long_either() {
    let Some(runs) = runs(20) else { return };
    const PROGRAMS: [&[&str]; 5] = [
        &["cache", "capacity=8e6", "rate=500"],
        &["arena", "arenas=200", "warm=60"],
        &["holes", "rate=2000", "period=10"],
        &["bursts", "period=7", "connections=300"],
        &["idle"],
    ];
    let wanted = (0..runs.min(AT_A_TIME)).map(|number| Planted::start("steady.c", PROGRAMS[number % 5]));
    let Some(mut programs) = wanted.collect::<Option<Vec<_>>>() else { return };
    let picture = hunt(&mut programs, Duration::from_secs(600), &["--sample-bytes", "16384"]);
    for program in &programs {
        let report = report(&picture, program);
        let accused = report.sites.iter().find(|site| site.judgement.verdict == Verdict::Leaking);
        assert!(accused.is_none(), "{}: {}", program.name, told(report));
        assert_ne!(report.judgement.verdict, Verdict::Leaking, "{}: {}", program.name, told(report));
    }
}
