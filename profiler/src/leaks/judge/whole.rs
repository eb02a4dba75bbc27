//! The verdict on a whole target, and what its anonymous memory says of that.

use super::{
    super::{Circumstances, Estimate, Evidence, Judgement, Verdict, chance, trend, wording::rate},
    EACH, Found, NEGLIGIBLE, NEGLIGIBLE_PER_SECOND, STRETCHES, SUREST, Site, decide, p_of_trend, sure,
};

/// The verdict on a whole target: of all sites together (`total`, and the verdicts on `sites`), and of its anonymous memory
/// (`RssAnon` in bytes at moments of `CLOCK_MONOTONIC`, in order).
pub fn judge_whole(
    total: &Evidence,
    sites: &[Judgement],
    anon_series: &[(u64, u64)],
    circumstances: &Circumstances,
) -> Judgement {
    let leaking: Vec<&Judgement> = sites.iter().filter(|s| s.verdict == Verdict::Leaking).collect();
    if !leaking.is_empty() {
        let reason = match leaking.len() {
            1 => "one call site leaks".to_owned(),
            n => format!("{n} call sites leak"),
        };
        return Judgement {
            verdict: Verdict::Leaking,
            rate: Some(together(leaking.iter().filter_map(|s| s.rate))),
            confidence: leaking.iter().map(|s| s.confidence).fold(0.0, f64::max),
            since: leaking.iter().filter_map(|s| s.since).min(),
            reason,
        };
    }
    let site = Site::of(total, circumstances.now_ns);
    let found = Found {
        lost: (-site.ln_evidence_of_loss()).exp(),
        // Where blocks of many sites come together, some are freed and some stay without any leak: mixed fate says nothing.
        stays: (-site.ln_evidence_of_no_end()).exp(),
        rises: p_of_trend(&site),
        number: 1,
    };
    let patient = lasted_enough(&site, circumstances);
    let mut all = decide(&site, found, circumstances);
    if all.verdict == Verdict::Leaking && site.lost().is_none() && !patient {
        all.verdict = Verdict::Growing;
        all.reason =
            "what some of its call sites allocate stays, but none of them is known to leak".to_owned();
    }
    with_anonymous_memory(all, anon_series)
}

fn lasted_enough(site: &Site<'_>, circumstances: &Circumstances) -> bool {
    site.lasted() >= circumstances.patience
}

/// Tempers the verdict on all sites by what the process's anonymous memory does.
fn with_anonymous_memory(all: Judgement, anon_series: &[(u64, u64)]) -> Judgement {
    let later: Vec<(u64, f64)> =
        anon_series[anon_series.len() / 2..].iter().map(|(at, bytes)| (*at, *bytes as f64)).collect();
    let Some(trend) = trend::trend(&trend::floors(&later, STRETCHES)) else { return all };
    let anon = later.last().map_or(0.0, |(_, bytes)| *bytes);
    let negligible = NEGLIGIBLE.max(anon * NEGLIGIBLE_PER_SECOND);
    let flat = trend.slope.high <= negligible;
    let rises = trend.slope.low > 0.0 && trend.slope.value > negligible && trend.p_rising < EACH;
    let grows_slower =
        all.verdict == Verdict::Growing && all.rate.is_some_and(|rate| trend.slope.high < rate.low / 2.0);
    if flat && (grows_slower || all.verdict == Verdict::Unjudged) {
        return Judgement {
            verdict: Verdict::Steady,
            rate: Some(trend.slope),
            confidence: 1.0 - chance::TAIL,
            since: None,
            reason: format!(
                "its anonymous memory doesn't grow by more than {}; what stays takes the place of what was there before",
                rate(trend.slope.high.max(0.0))
            ),
        };
    }
    if rises && matches!(all.verdict, Verdict::Steady | Verdict::Unjudged) {
        return Judgement {
            verdict: Verdict::Growing,
            rate: Some(trend.slope),
            confidence: sure(trend.p_rising, SUREST[1]),
            since: None,
            reason: format!(
                "its anonymous memory grows by {}, which the sampled blocks don't explain: fragmentation, stacks, or an allocator that isn't watched",
                rate(trend.slope.value)
            ),
        };
    }
    all
}

/// The sum of independent estimates.
fn together(rates: impl Iterator<Item = Estimate>) -> Estimate {
    let (mut value, mut below, mut above) = (0.0, 0.0, 0.0);
    for rate in rates {
        value += rate.value;
        below += (rate.value - rate.low).powi(2);
        above += (rate.high - rate.value).powi(2);
    }
    Estimate { value, low: (value - below.sqrt()).max(0.0), high: value + above.sqrt() }
}
