//! Programs under a simulated runtime: as many as show whether estimates and verdicts are right.

use std::{
    f64::consts::TAU,
    time::{Duration, UNIX_EPOCH},
};

use crate::leaks::{
    Circumstances, Estimate, Judgement, Verdict,
    judge::judge,
    ledger::{Ledger, Limits, SiteIndex, Told},
};

/// One sample per so many bytes: Go's default.
const RATE: f64 = 524_288.0;
/// The program has run for so long before the watch begins.
const BEFORE: f64 = 10_000.0;
const FOR_EVER: f64 = 1e12;

/// SplitMix64 (Steele, Lea and Flood 2014).
struct Chance(u64);

impl Chance {
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (((z ^ (z >> 31)) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    }

    fn exponential(&mut self, mean: f64) -> f64 {
        -mean * self.uniform().ln()
    }

    fn between(&mut self, low: f64, high: f64) -> f64 {
        low * (high / low).powf(self.uniform())
    }
}

/// The sampled objects of a site: their size, and the seconds at which any came and went.
#[derive(Default)]
struct Objects {
    size: u64,
    came: Vec<f64>,
    went: Vec<f64>,
}

impl Objects {
    /// Allocated and freed before a moment.
    fn counts(&self, at: f64) -> (u64, u64) {
        let before = |all: &[f64]| all.partition_point(|moment| *moment < at) as u64;
        (before(&self.came), before(&self.went))
    }
}

fn chosen(size: u64) -> f64 {
    -(-(size as f64) / RATE).exp_m1()
}

/// Objects that come at `rate` bytes a second (as a function of the second, at most `most`) from a second to another.
fn come(
    objects: &mut Objects,
    chance: &mut Chance,
    (from, to, most): (f64, f64, f64),
    rate: impl Fn(f64) -> f64,
    mut life: impl FnMut(&mut Chance, f64) -> f64,
) {
    let distance = objects.size as f64 / chosen(objects.size) / most;
    let mut at = from + chance.exponential(distance);
    while at < to {
        if chance.uniform() * most < rate(at) {
            objects.came.push(at);
            let ends = at + life(chance, at);
            objects.went.push(ends);
        }
        at += chance.exponential(distance);
    }
    objects.came.sort_by(f64::total_cmp);
    objects.went.sort_by(f64::total_cmp);
}

/// What a site's objects do during a watch from second 0 on.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// Bytes per second that stay, beside so many that come and live for so long.
    Leak(f64, f64, f64),
    Churn,
    HeavyTail,
    /// Fills within this part of the watch; then an old one goes for every new one, in order or by lot.
    Cache(f64, bool),
    FullCache,
    DayAndNight,
    Bursts,
    Sessions,
    Sawtooth,
    /// Five times as much load at the end as at the beginning.
    RisingLoad,
    /// Last in, first out, as high as a random walk.
    Stack,
}

fn site(kind: Kind, chance: &mut Chance, watch: f64) -> Objects {
    let mut objects = Objects { size: chance.between(16.0, 65_536.0) as u64, ..Objects::default() };
    let rate = chance.between(20e3, 1e6);
    let (all, o) = ((-BEFORE, watch, rate), &mut objects);
    match kind {
        Kind::Leak(leak, churn, life) => {
            let begin = if chance.uniform() < 0.5 { -BEFORE } else { 0.0 };
            come(o, chance, (begin, watch, leak), |_| leak, |_, _| FOR_EVER);
            if churn > 0.0 {
                come(o, chance, (-BEFORE, watch, churn), |_| churn, |c, _| c.exponential(life));
            }
        }
        Kind::Churn => {
            let life = chance.between(0.1, watch / 4.0);
            come(o, chance, all, |_| rate, |c, _| c.exponential(life));
        }
        Kind::HeavyTail => {
            come(o, chance, all, |_| rate, |c, _| 0.01 * c.uniform().powf(-1.0 / 0.7));
        }
        Kind::Cache(part, in_order) => {
            let fill = watch * part;
            come(
                o,
                chance,
                (0.0, watch, rate),
                |_| rate,
                |c, at| match in_order {
                    true => fill,
                    false => (fill - at).max(0.0) + c.exponential(fill),
                },
            );
        }
        Kind::FullCache => {
            let life = chance.between(watch / 10.0, 3.0 * watch).min(BEFORE);
            come(o, chance, all, |_| rate, |_, _| life);
        }
        Kind::DayAndNight => {
            let (phase, length) = (chance.uniform() * TAU, chance.between(600.0, 86_400.0));
            let life = chance.between(0.1, length / 10.0);
            let load = |at: f64| rate * (0.5 + 0.4 * (phase + TAU * at / length).sin());
            come(o, chance, all, load, |c, _| c.exponential(life));
        }
        Kind::Bursts => {
            let length = chance.between(10.0, 600.0);
            let load = |at: f64| if at.rem_euclid(length) < length / 10.0 { rate } else { 0.0 };
            come(o, chance, all, load, |c, _| c.exponential(length / 5.0));
        }
        Kind::Sessions => come(o, chance, all, |_| rate, |c, _| c.exponential(1800.0)),
        Kind::Sawtooth => {
            let length = chance.between(30.0, watch / 3.0);
            come(o, chance, all, |_| rate, |_, at| length - at.rem_euclid(length));
        }
        Kind::RisingLoad => {
            let load = |at: f64| 2e6 * (0.2 + 0.8 * at.max(0.0) / watch);
            come(o, chance, (-BEFORE, watch, 2e6), load, |c, _| c.exponential(600.0));
        }
        Kind::Stack => {
            let step = chance.between(0.1, 10.0);
            let (mut at, mut height) = (-BEFORE, 0);
            while at < watch {
                at += chance.exponential(step);
                if height > 0 && chance.uniform() < 0.5 {
                    height -= 1;
                    o.went.push(at);
                } else {
                    height += 1;
                    o.came.push(at);
                }
            }
        }
    }
    objects
}

/// What is said of sites at twenty moments of a watch; `as_of`: the moment of which the last profile told.
fn watch(
    sites: &[Objects],
    seconds: f64,
    chance: &mut Chance,
    mut look: impl FnMut(f64, &Ledger, Vec<Judgement>),
) {
    let ns = |second: f64| ((BEFORE + 1000.0 + second) * 1e9) as u64;
    let mut ledger = Ledger::new(ns(0.0), Limits::default());
    // The runtime collects every two minutes at the latest; more often, if there is much to do.
    let period = chance.between(1.0, 100.0);
    let mut collected = -period * chance.uniform();
    let mut as_of = collected - period;
    let (mut first, mut next_look) = (true, seconds / 20.0);
    loop {
        let next = collected + period * (0.8 + 0.4 * chance.uniform());
        if next > 0.0 {
            // When the watch begins, what there is; then what is new, within a second. What a collection publishes is how
            // it was at the one before.
            let at = if first { 0.0 } else { collected + 0.9 * chance.uniform() };
            first = false;
            ledger.begin_reading(1, RATE as u64, ns(at));
            for (number, objects) in sites.iter().enumerate() {
                let (allocs, frees) = objects.counts(as_of);
                let weight = 1.0 / chosen(objects.size);
                let told = Told { record: number as u64, size: objects.size, weight, allocs, frees };
                if ledger.is_news(&told) {
                    ledger.tell(&told, SiteIndex(number as u32));
                }
            }
            ledger.end_reading();
        }
        if next > next_look {
            let now = Circumstances {
                now_ns: ns(next_look.max(collected + 1.0)),
                now: UNIX_EPOCH + Duration::from_secs_f64(1e6 + next_look),
                process_age: Duration::from_secs_f64(BEFORE + next_look),
                patience: Duration::from_secs(6 * 3600),
            };
            let evidence: Vec<_> = (0..sites.len())
                .filter_map(|site| ledger.evidence(SiteIndex(site as u32), now.now_ns))
                .collect();
            look(as_of, &ledger, judge(&evidence, &now));
            next_look += seconds / 20.0;
        }
        if next > seconds {
            return;
        }
        (as_of, collected) = (collected, next);
    }
}

/// What was said of the first site in many runs.
#[derive(Debug, Default)]
struct Seen {
    runs: usize,
    /// Called leaking at any look.
    ever: usize,
    /// At the last look, in the order of `Verdict::ALL`.
    last: [usize; 4],
    /// The true rate lay inside the interval, of so many.
    covered: usize,
    errors: Vec<f64>,
}

fn play(kind: Kind, runs: u64, seconds: impl Fn(&mut Chance) -> f64, seed: u64) -> Seen {
    let mut seen = Seen::default();
    for run in 0..runs {
        let mut chance = Chance(seed + run * 7919);
        let seconds = seconds(&mut chance);
        let sites = [site(kind, &mut chance, seconds), site(Kind::Churn, &mut chance, seconds)];
        let (mut ever, mut last) = (false, Judgement::default());
        watch(&sites, seconds, &mut chance, |_, _, mut said| {
            if said.is_empty() {
                return;
            }
            last = said.swap_remove(0);
            ever |= last.verdict == Verdict::Leaking;
        });
        seen.runs += 1;
        seen.ever += usize::from(ever);
        seen.last[last.verdict as usize] += 1;
        if let (Kind::Leak(truth, ..), Some(rate)) = (kind, last.rate) {
            seen.covered += usize::from(rate.low <= truth && truth <= rate.high);
            seen.errors.push(rate.value / truth - 1.0);
        }
        if std::env::var_os("SHOW").is_some() {
            println!("  {seconds:.0} s: {} {:?} {}", last.verdict.name(), last.rate, last.reason);
        }
    }
    let mean = seen.errors.iter().sum::<f64>() / seen.errors.len().max(1) as f64;
    println!(
        "{kind:?}: {runs} runs, ever leaking {}, at the end (leaking, growing, steady, unjudged) {:?}, covered {} of {}, error {mean:+.3}",
        seen.ever,
        seen.last,
        seen.covered,
        seen.errors.len(),
    );
    seen
}

/// More runs than usual, if that is asked for.
fn runs(usual: u64) -> u64 {
    let asked = std::env::var("PROFILER_LONG_TESTS").ok().and_then(|text| text.parse().ok());
    asked.filter(|number| *number > 1).unwrap_or(usual)
}

#[test]
fn planted_leaks_are_found_with_their_rates_inside_the_intervals() {
    let kinds = [
        Kind::Leak(20e3, 0.0, 1.0),
        Kind::Leak(20e3, 1e6, 1.0),
        Kind::Leak(50e3, 200e3, 60.0),
        Kind::Leak(20e3, 20e3, 600.0),
    ];
    for (place, kind) in (1..).zip(kinds) {
        let seen = play(kind, runs(10), |_| 8.0 * 3600.0, place * 1_000_003);
        assert!(seen.last[0] * 100 >= 90 * seen.runs, "{kind:?}: {seen:?}");
        assert!(seen.covered * 100 >= 90 * seen.errors.len(), "{kind:?}: {seen:?}");
    }
}

#[test]
fn programs_that_do_not_leak_are_not_accused() {
    let kinds = [
        Kind::Churn,
        Kind::HeavyTail,
        Kind::Cache(0.2, true),
        Kind::Cache(0.35, false),
        Kind::FullCache,
        Kind::DayAndNight,
        Kind::Bursts,
        Kind::Sessions,
        Kind::Sawtooth,
        Kind::Stack,
    ];
    for (place, kind) in (1..).zip(kinds) {
        let seen = play(kind, runs(3), |chance| chance.between(600.0, 40_000.0), place * 100_003);
        assert_eq!(seen.ever, 0, "{kind:?}: {seen:?}");
    }
}

#[test]
fn load_that_rises_for_longer_than_the_patience_is_not_called_a_leak() {
    let seen = play(Kind::RisingLoad, runs(5), |_| 12.0 * 3600.0, 9_999_991);
    assert_eq!(seen.ever, 0, "{seen:?}");
    assert!(seen.last[Verdict::Growing as usize] > 0, "it does grow: {seen:?}");
}

#[test]
fn intervals_of_what_lives_and_was_allocated_hold_what_they_promise() {
    let (mut live, mut allocated, mut all) = (0, 0, 0);
    let inside =
        |estimate: Estimate, truth: f64| usize::from(estimate.low <= truth && truth <= estimate.high);
    for run in 0..runs(150) {
        let mut chance = Chance(run * 104_729);
        // 3 to 300 samples live on average. Exact truth: all objects of a site that churns, of which few are chosen.
        let size = chance.between(64.0, 262_144.0) as u64;
        let (life, many) = (chance.between(1.0, 300.0), chance.between(3.0, 300.0) / chosen(size));
        let (distance, from, to) = (life / many, -5.0 * life, 3.0 * life + 600.0);
        let mut objects = Objects { size, ..Objects::default() };
        let mut whole: Vec<(f64, f64)> = Vec::new();
        let steps = ((to - from) / distance) as u64;
        if steps > 300_000 {
            continue;
        }
        for _ in 0..steps {
            let came = from + (to - from) * chance.uniform();
            let went = came + chance.exponential(life);
            whole.push((came, went));
            if chance.uniform() < chosen(size) {
                objects.came.push(came);
                objects.went.push(went);
            }
        }
        objects.came.sort_by(f64::total_cmp);
        objects.went.sort_by(f64::total_cmp);
        let mut last = None;
        watch(&[objects], to - 1.0, &mut chance, |as_of, ledger, _| {
            last = ledger.figures(SiteIndex(0), u64::MAX / 2).map(|figures| (as_of, figures));
        });
        let Some((as_of, figures)) = last else { continue };
        let truth = whole.iter().filter(|(came, went)| *came < as_of && *went >= as_of).count();
        all += 1;
        live += inside(figures.live_bytes, truth as f64 * size as f64);
        allocated += usize::from(figures.allocated_bytes.low <= figures.allocated_bytes.high);
    }
    println!("live bytes inside {live} of {all}");
    assert!(all > 50 && live * 100 >= 92 * all && allocated == all, "{live} of {all}");
}
