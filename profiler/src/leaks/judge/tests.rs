use std::time::UNIX_EPOCH;

use super::*;
use crate::leaks::{LiveSample, Sum, Window};

const SECOND: u64 = 1_000_000_000;
const NOW: u64 = 1_000_000 * SECOND;

/// The evidence of a site that was watched for so many seconds, with samples of 512 KiB: alive since so many seconds, and freed
/// after so many seconds, evenly spread.
fn evidence(watched: u64, alive: impl IntoIterator<Item = u64>, freed: &[u64]) -> Evidence {
    let mut evidence = Evidence::default();
    for i in 0..32 {
        let at = |part: u64| NOW - watched * SECOND + watched * SECOND / 32 * part;
        evidence.windows.push(Window { begin_ns: at(i), end_ns: at(i + 1), ..Window::default() });
    }
    let mut allocate = |i: usize| {
        let sum = &mut evidence.windows[i % 32].allocated;
        (sum.n, sum.bytes) = (sum.n + 1, sum.bytes + 524_288.0);
    };
    for (i, age) in alive.into_iter().enumerate() {
        allocate(i);
        evidence.live.push(LiveSample { at_ns: NOW - age * SECOND, bytes: 64, weight: 8192.0 });
    }
    for (i, age) in freed.iter().enumerate() {
        allocate(i);
        let sum: &mut Sum = &mut evidence.lifetimes.freed[(age * SECOND).max(1).ilog2() as usize];
        (sum.n, sum.bytes) = (sum.n + 1, sum.bytes + 524_288.0);
    }
    evidence
}

fn circumstances() -> Circumstances {
    Circumstances {
        now_ns: NOW,
        now: UNIX_EPOCH + Duration::from_secs(1_000_000),
        process_age: Duration::from_secs(100_000),
        patience: Duration::from_secs(6 * 3600),
    }
}

fn alone(evidence: Evidence) -> Judgement {
    judge(&[evidence], &circumstances()).remove(0)
}

#[test]
fn nothing_is_said_of_what_was_not_seen() {
    assert!(judge(&[], &circumstances()).is_empty());
    for evidence in [Evidence::default(), evidence(600, [], &[])] {
        let said = alone(evidence);
        assert_eq!((said.verdict, said.rate, said.since), (Verdict::Unjudged, None, None));
        assert_eq!(said.reason, "nothing was sampled so far (it allocates little, or nothing)");
    }
    assert_eq!(
        alone(evidence(600, [100, 300], &[])).reason,
        "only 2 samples; enough in about 15 min at this rate"
    );
}

#[test]
fn lost_blocks_prove_a_leak_within_minutes() {
    let site = Evidence { unreferenced: Some((8, 8)), ..evidence(600, (1..=10).map(|i| i * 60), &[]) };
    let said = alone(site.clone());
    assert_eq!(said.verdict, Verdict::Leaking, "{said:?}");
    let rate = said.rate.unwrap();
    let truth = 524_288.0 / 60.0;
    assert!(rate.low < truth && truth < rate.high && (rate.value / truth - 1.0).abs() < 0.05, "{rate:?}");
    assert!(said.confidence > 0.99 && said.confidence < 1.0);
    assert_eq!(
        said.reason,
        "nothing points to 8 of 8 old blocks that were looked for: they are lost, ever since it is watched (10 min)"
    );
    // Among a thousand sites the same few blocks must show more.
    let mut many = vec![evidence(600, [], &[1; 20]); 1000];
    many[7] = Evidence { unreferenced: Some((3, 3)), ..site };
    assert_ne!(judge(&many, &circumstances())[7].verdict, Verdict::Leaking);
    assert_eq!(alone(many.swap_remove(7)).verdict, Verdict::Leaking);
}

#[test]
fn what_was_lost_once_and_is_not_lost_any_more_is_no_leak() {
    let once = evidence(6000, (0..20).map(|i| 5800 + i * 10), &[1; 300]);
    let said = alone(Evidence { unreferenced: Some((20, 20)), ..once });
    assert_eq!(said.verdict, Verdict::Steady, "{said:?}");
    assert!(said.reason.starts_with("it has levelled off"), "{}", said.reason);
}

#[test]
fn what_is_pointed_to_grows_until_patience_is_over() {
    let filling = |hours: u64, seen| Evidence {
        unreferenced: seen,
        ..evidence(hours * 3600, (1..hours * 60).map(|i| i * 60), &[])
    };
    let said = alone(filling(1, Some((40, 0))));
    assert_eq!(said.verdict, Verdict::Growing);
    assert_eq!(
        said.reason,
        "the process still points to all 40 old blocks that were looked for: a cache or a collection that fills; called leaking if it goes on like this for 5 h more"
    );
    assert_eq!(alone(filling(5, None)).verdict, Verdict::Growing);
    for seen in [None, Some((40, 0))] {
        let said = alone(filling(7, seen));
        assert_eq!(said.verdict, Verdict::Leaking, "{said:?}");
        assert!(said.confidence <= 0.9, "patience is a bet: {}", said.confidence);
    }
}

#[test]
fn growth_that_slows_down_is_never_a_leak_by_patience() {
    // Arrivals like the square root of time over 9 h.
    let slowing = evidence(32_400, (1..400_u64).map(|i| 32_400 - 32_400 * i * i / 160_000), &[]);
    let said = alone(slowing);
    assert_eq!(said.verdict, Verdict::Growing, "{said:?}");
}

#[test]
fn mixed_fate_is_a_leak_if_nobody_could_look_and_a_question_if_all_are_pointed_to() {
    let mixed =
        |seen| Evidence { unreferenced: seen, ..evidence(3600, (1..60).map(|i| i * 60), &vec![1; 20_000]) };
    let said = alone(mixed(None));
    assert_eq!(said.verdict, Verdict::Leaking, "{said:?}");
    assert!(said.reason.contains("it frees 99.7"), "{}", said.reason);
    assert_eq!(alone(mixed(Some((30, 0)))).verdict, Verdict::Growing);
    // Where only half is freed it may as well be a cache.
    assert_eq!(alone(evidence(3600, (1..60).map(|i| i * 60), &[1; 60])).verdict, Verdict::Growing);
}

#[test]
fn churn_is_steady_as_soon_as_growth_would_have_been_seen() {
    assert_eq!(alone(evidence(3600, [1, 2], &[2; 3000])).verdict, Verdict::Steady);
    let said = alone(evidence(120, [1, 2], &[2; 100]));
    assert_eq!(said.verdict, Verdict::Unjudged);
    assert!(said.reason.starts_with("can't tell growth below "), "{}", said.reason);
}

#[test]
fn a_leak_that_begins_is_dated() {
    let said = alone(Evidence {
        unreferenced: Some((20, 20)),
        ..evidence(3600, (1..=40).map(|i| i * 20), &[1; 500])
    });
    assert_eq!(said.verdict, Verdict::Leaking);
    let ago = circumstances().now.duration_since(said.since.unwrap()).unwrap().as_secs_f64();
    assert!((700.0..1000.0).contains(&ago), "began 800 s ago, said {ago}");
    assert!((said.rate.unwrap().value * 20.0 / 524_288.0 - 1.0).abs() < 0.15, "{said:?}");
}

#[test]
fn nonsense_is_survived() {
    let mut site = evidence(600, [1, 2, 3], &[1; 10]);
    site.live.push(LiveSample { at_ns: u64::MAX, bytes: u64::MAX, weight: f64::INFINITY });
    site.live.push(LiveSample { at_ns: 0, bytes: 0, weight: f64::NAN });
    site.unreferenced = Some((1, u32::MAX));
    site.windows[3].begin_ns = u64::MAX;
    judge(&[site.clone()], &Circumstances { now_ns: 0, ..circumstances() });
    let sites = judge(&[site.clone()], &circumstances());
    judge_whole(&site, &sites, &[(5, 3), (1, u64::MAX)], &circumstances());
}

#[test]
fn sites_whose_blocks_die_as_slowly_as_may_be_are_hardly_ever_said_to_grow() {
    // 2,000 sites whose lifetimes have exactly the heaviest tail that doesn't count as growth (see `survival`).
    let mut state = 3_u64;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    };
    let sites: Vec<Evidence> = (0..2000)
        .map(|_| {
            let (mut alive, mut freed) = (Vec::new(), Vec::new());
            for age in 1..=120 {
                let life = 0.01 * uniform().powi(-2);
                if life < age as f64 * 30.0 { freed.push(life as u64) } else { alive.push(age * 30) }
            }
            evidence(3600, alive, &freed)
        })
        .collect();
    let said = judge(&sites, &circumstances());
    let grown = said.iter().filter(|s| s.verdict <= Verdict::Growing).count();
    assert_eq!(grown, 0);
}

#[test]
fn the_whole_leaks_if_a_site_does_by_the_sum_of_rates() {
    let leak = |rate: f64| Judgement {
        verdict: Verdict::Leaking,
        rate: Some(Estimate { value: rate, low: rate - 3.0, high: rate + 4.0 }),
        confidence: 0.99,
        ..Judgement::default()
    };
    let sites = [leak(10.0), Judgement::default(), leak(20.0)];
    let said = judge_whole(&Evidence::default(), &sites, &[], &circumstances());
    assert_eq!((said.verdict, said.reason.as_str()), (Verdict::Leaking, "2 call sites leak"));
    let rate = said.rate.unwrap();
    assert!(
        (rate.value - 30.0).abs() < 1e-9 && (rate.low - (30.0 - 18.0_f64.sqrt())).abs() < 1e-9,
        "{rate:?}"
    );
}

#[test]
fn anonymous_memory_tells_of_what_no_sample_does() {
    let series = |slope: u64| -> Vec<(u64, u64)> {
        (0..600).map(|i| (NOW - (600 - i) * SECOND, (1 << 30) + slope * i + (i * 7919 % 13) * 100)).collect()
    };
    let churn = evidence(3600, [1], &[1; 3000]);
    let whole = |total: &Evidence, slope| judge_whole(total, &[], &series(slope), &circumstances());
    assert_eq!(whole(&churn, 0).verdict, Verdict::Steady);
    let said = whole(&churn, 1 << 20);
    assert_eq!(said.verdict, Verdict::Growing);
    assert!(
        said.reason.contains("grows by 1.0 MiB/s, which the sampled blocks don't explain"),
        "{}",
        said.reason
    );
    // A cache that was full before: what comes takes the place of what was there.
    let replaced = evidence(3600, (1..1000).map(|i| i * 3), &[]);
    assert_eq!(judge_whole(&replaced, &[], &[], &circumstances()).verdict, Verdict::Growing);
    assert_eq!(whole(&replaced, 0).verdict, Verdict::Steady);
}

#[test]
fn in_all_sites_together_a_mixed_fate_is_no_leak() {
    // One site fills a cache, others free what they take.
    let together = evidence(3600, (1..60).map(|i| i * 60), &vec![1; 20_000]);
    let said = judge_whole(&together, &[], &[], &circumstances());
    assert_eq!(said.verdict, Verdict::Growing, "{said:?}");
}
