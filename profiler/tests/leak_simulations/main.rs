//! The judge against simulated programs whose truth is known. `cargo test --release -p profiler --test leak_simulations --
//! --ignored --nocapture` plays 1,000 hours of programs that don't leak and 100 of each that does.

mod families;
mod loads;
mod world;

use std::time::{Duration, UNIX_EPOCH};

use families::{Family, Leak, deceptive, harmless, leaking};
use profiler::leaks::{
    Circumstances, Evidence, Judgement, Verdict,
    judge::{judge, judge_whole},
};
use world::{World, ns, run};

fn circumstances(second: f64) -> Circumstances {
    Circumstances {
        now_ns: ns(second),
        now: UNIX_EPOCH + Duration::from_secs_f64(1e6 + second),
        process_age: Duration::from_secs_f64(second + 1.0),
        patience: Duration::from_secs(6 * 3600),
    }
}

/// Looks every 5 seconds at first, then every hundredth of the time watched.
fn next_look(second: f64) -> f64 {
    second + (second / 100.0).max(5.0)
}

fn add_up(sites: &[Evidence]) -> Evidence {
    let mut total = Evidence::default();
    for site in sites {
        total.live.extend_from_slice(&site.live);
        for (sum, more) in total.lifetimes.freed.iter_mut().zip(&site.lifetimes.freed) {
            sum.n += more.n;
            sum.bytes += more.bytes;
        }
        total.windows.resize(total.windows.len().max(site.windows.len()), Default::default());
        for (sum, more) in total.windows.iter_mut().zip(&site.windows) {
            (sum.begin_ns, sum.end_ns) = (more.begin_ns, more.end_ns);
            sum.allocated.n += more.allocated.n;
            sum.allocated.bytes += more.allocated.bytes;
            sum.floor.bytes += more.floor.bytes;
        }
        if let Some((looked_for, lost)) = site.unreferenced {
            let (a, b) = total.unreferenced.unwrap_or_default();
            total.unreferenced = Some((a + looked_for, b + lost));
        }
    }
    total
}

#[derive(Default)]
struct Seen {
    hours: f64,
    looks: usize,
    /// By verdict on the first site, in the order of `Verdict::ALL`.
    verdicts: [usize; 4],
    /// Runs with a false leak in any site, or on the whole.
    false_leaks: usize,
    reasons: Vec<String>,
}

/// One program that doesn't leak, watched for so long, judged with and without somebody who looks for pointers.
fn watch_harmless(family: &Family, seed: u64, watch: f64, seen: &mut Seen) {
    let mut world = World::new(seed);
    let mut loads = (family.make)(&mut world);
    let (mut second, mut accused) = (0.0, false);
    while second < watch {
        second = next_look(second).min(watch);
        run(&mut world, &mut loads, second);
        for looked in [false, true] {
            let evidence = world.evidence(looked);
            let verdicts = judge(&evidence, &circumstances(second));
            let whole = judge_whole(&add_up(&evidence), &verdicts, &[], &circumstances(second));
            seen.looks += 1;
            seen.verdicts[verdicts[0].verdict as usize] += 1;
            for (i, said) in verdicts.iter().chain([&whole]).enumerate() {
                if said.verdict == Verdict::Leaking {
                    accused = true;
                    if seen.reasons.len() < 2 {
                        seen.reasons.push(format!(
                            "seed {seed}, {second:.0} s, site {i}: {} {:?}",
                            said.reason, said.rate
                        ));
                    }
                }
            }
        }
    }
    if std::env::var_os("SHOW").is_some() {
        let last = judge(&world.evidence(false), &circumstances(second));
        println!("    {second:.0} s: {} because {}", last[0].verdict.name(), last[0].reason);
    }
    seen.hours += watch / 3600.0;
    seen.false_leaks += usize::from(accused);
}

/// Plays harmless programs for so many hours altogether; gives the number of runs with a false leak.
fn play_harmless(families: &[Family], hours: f64, longest: f64, seed: u64) -> usize {
    let mut all = 0;
    let mut played = 0.0;
    println!(
        "{:<38} {:>6} {:>7} {:>7} {:>7} {:>7}  false",
        "harmless", "hours", "growing", "steady", "unjudg.", "leaking"
    );
    for (place, family) in families.iter().enumerate() {
        let mut seen = Seen::default();
        let mut chance = world::Chance(seed + place as u64);
        let mut round = 0;
        while seen.hours < hours / families.len() as f64 {
            let watch = chance.between(30.0, longest);
            round += 1;
            watch_harmless(family, seed + round * 1000 + place as u64, watch, &mut seen);
        }
        let share = |i: usize| 100.0 * seen.verdicts[i] as f64 / seen.looks.max(1) as f64;
        println!(
            "{:<38} {:>6.1} {:>6.1}% {:>6.1}% {:>6.1}% {:>6.1}%  {}/{round}",
            family.name,
            seen.hours,
            share(1),
            share(2),
            share(3),
            share(0),
            seen.false_leaks
        );
        seen.reasons.iter().for_each(|reason| println!("    {reason}"));
        all += seen.false_leaks;
        played += seen.hours;
    }
    println!("{played:.0} hours, {all} runs with a false leak");
    all
}

/// What was said of a leak.
#[derive(Default)]
struct Hunt {
    found: usize,
    first: usize,
    times: Vec<f64>,
    covered: usize,
    errors: Vec<f64>,
}

fn watch_leak(leak: &Leak, seed: u64, looks: f64, hunt: &mut Hunt) {
    let mut world = World::new(seed);
    let mut loads = (leak.family.make)(&mut world);
    let (mut second, mut time, mut last) = (0.0, None, Vec::<Judgement>::new());
    while second < leak.watch {
        second = (next_look(second).max(second + looks)).min(leak.watch);
        run(&mut world, &mut loads, second);
        last = judge(&world.evidence(leak.looked), &circumstances(second));
        if last[0].verdict == Verdict::Leaking && time.is_none() {
            time = Some(second);
        }
    }
    if let (Verdict::Leaking, Some(time), Some(rate)) = (last[0].verdict, time, last[0].rate) {
        hunt.found += 1;
        hunt.times.push(time);
        hunt.first += usize::from(last[1..].iter().all(|other| other.verdict != Verdict::Leaking));
        hunt.covered += usize::from(rate.low <= leak.rate && leak.rate <= rate.high);
        hunt.errors.push(rate.value / leak.rate - 1.0);
    } else if std::env::var_os("SHOW").is_some() {
        println!("    seed {seed}: {} {:?}", last[0].reason, last[0].rate);
    }
}

fn play_leaking(runs: u64, looks: f64) -> Vec<(&'static str, Hunt)> {
    println!("{:<42} {:>5} {:>5} {:>8} {:>7} {:>7}", "leaking", "found", "alone", "time", "covered", "error");
    (leaking().into_iter())
        .map(|leak| {
            let mut hunt = Hunt::default();
            (0..runs).for_each(|seed| watch_leak(&leak, seed * 7907 + 500_011, looks, &mut hunt));
            hunt.times.sort_by(f64::total_cmp);
            let time = hunt.times.get(hunt.times.len() / 2).copied().unwrap_or(f64::NAN);
            let error = hunt.errors.iter().sum::<f64>() / hunt.errors.len().max(1) as f64;
            println!(
                "{:<42} {:>5} {:>5} {:>6.0} s {:>3}/{:<3} {:>+6.1}%",
                leak.family.name,
                hunt.found,
                hunt.first,
                time,
                hunt.covered,
                hunt.found,
                100.0 * error
            );
            (leak.family.name, hunt)
        })
        .collect()
}

#[test]
fn in_some_hours_of_harmless_programs_none_is_said_to_leak() {
    assert_eq!(play_harmless(&harmless(), 4.0, 3600.0, 1), 0);
}

#[test]
fn planted_leaks_are_found_and_nothing_else_is() {
    for (name, hunt) in play_leaking(2, 300.0) {
        assert!(hunt.found > 0 && hunt.found == hunt.first, "{name}");
    }
}

#[test]
// Minutes, and only with --release.
fn in_a_thousand_hours_of_harmless_programs_none_is_said_to_leak() {
    if std::env::var_os("PROFILER_LONG_TESTS").is_none() {
        println!("left out: set PROFILER_LONG_TESTS to run it");
        return;
    }
    assert_eq!(play_harmless(&harmless(), 1000.0, 43_200.0, 990_017), 0);
}

#[test]
// A figure for docs/leaks.md, not a promise.
fn what_nobody_can_tell_from_a_leak_is_mistaken_for_one() {
    if std::env::var_os("PROFILER_LONG_TESTS").is_none() {
        println!("left out: set PROFILER_LONG_TESTS to run it");
        return;
    }
    assert!(play_harmless(&deceptive(), 200.0, 43_200.0, 5) > 0);
}

#[test]
// Minutes, and only with --release.
fn rates_of_leaks_lie_within_their_intervals_in_95_of_100_runs() {
    if std::env::var_os("PROFILER_LONG_TESTS").is_none() {
        println!("left out: set PROFILER_LONG_TESTS to run it");
        return;
    }
    let runs = std::env::var("RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(100);
    for (name, hunt) in play_leaking(runs, 20.0) {
        assert!(hunt.found >= 95 && hunt.first >= 95, "{name}: {} found", hunt.found);
        assert!(hunt.covered * 100 >= hunt.found * 95, "{name}: {} of {}", hunt.covered, hunt.found);
    }
}
