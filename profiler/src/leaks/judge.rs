//! What is said of a site, and why. The method, its guarantees and what it can't tell: docs/leaks.md, "Verdicts".

mod collected;
mod whole;

use std::time::{Duration, SystemTime};

use super::{
    Circumstances, Estimate, Evidence, Judgement, Verdict, chance, discovery,
    survival::Fates,
    trend::{self, Arrival, Course, Trend},
    wording::{bytes, duration, rate},
};

pub use whole::judge_whole;

/// Of the sites that are said to grow or to leak, at most this part doesn't, on average.
pub const FALSE_DISCOVERIES: f64 = 0.01;
/// A block that is pointed to is taken for lost, twice, with at most this probability. An assumption, not a measurement.
const MISSED_POINTER: f64 = 0.05;
/// Parts of a site's old blocks that may be lost, if some are: alternatives to [`MISSED_POINTER`].
const LOST_PARTS: [f64; 3] = [0.2, 0.5, 0.9];
/// Lost blocks prove a leak if they are certainly more than this part of the old ones.
const LOST_AT_LEAST: f64 = 0.2;
/// And if there are at least so many: two may be a coincidence of something else.
const LOST_BLOCKS: u32 = 3;
/// A site of mixed fate frees at least this part of its bytes. Two orders of magnitude: an error path or a forgotten case leaves
/// 1 in 1,000 or fewer behind; what goes into a cache is seldom allocated with the same stack as 99 times as much that doesn't.
const FREED_AT_LEAST: f64 = 0.99;
/// Where nobody could look for pointers, mixed fate needs this part of the patience (6 h: 30 min), so that what is freed
/// all at once, by a collector or a pool that is reset, gets its chance.
const MIXED_PATIENCE: u32 = 12;
/// What must have come in the second half of the time, of all that came, for a site not to slow down. A third: half as much as in
/// the first. Where most is freed and some never, that is less in doubt, and a quarter will do: a third as much.
const SECOND_HALF: f64 = 1.0 / 3.0;
const SECOND_HALF_OF_MIXED: f64 = 0.25;
/// Samples of which something can be said at all. 95 % of sites with a fate of "half are freed" show both fates in five.
const SAMPLES: u64 = 5;
/// Growth below this is called none: 4 KiB/s (14 MiB an hour) or, of a large site, 10 % of its live bytes an hour.
const NEGLIGIBLE: f64 = 4096.0;
const NEGLIGIBLE_PER_SECOND: f64 = 0.1 / 3600.0;
/// What a sample stands for where there is none to learn it from: the default distance of samples.
const TYPICAL: f64 = 524_288.0;
/// Nobody is ever sure: what the assumptions may be wrong by. Lost blocks are seen, mixed fates inferred, patience is a bet.
const SUREST: [f64; 3] = [0.999, 0.95, 0.9];
/// Stretches over which the trend of floors is taken.
const STRETCHES: usize = 16;

/// One site, looked at.
struct Site<'a> {
    evidence: &'a Evidence,
    begin_ns: u64,
    /// To here it is known.
    now_ns: u64,
    watched: Duration,
    fates: Fates,
    /// Samples drawn.
    drawn: u64,
    old_age_ns: Option<u64>,
    course: Course,
    live_bytes: f64,
    trend: Option<Trend>,
}

impl<'a> Site<'a> {
    fn of(evidence: &'a Evidence, now_ns: u64) -> Self {
        let told_ns = evidence.windows.last().map(|w| w.end_ns).filter(|_| evidence.collected);
        let now_ns = told_ns.map_or(now_ns, |told_ns| told_ns.min(now_ns));
        let begin_ns = evidence.windows.first().map_or(now_ns, |w| w.begin_ns.min(now_ns));
        let watched_ns = now_ns - begin_ns;
        let fates = Fates::of(evidence, now_ns);
        let old_age_ns = fates.old_age(watched_ns);
        let mut arrivals: Vec<Arrival> = (evidence.live.iter())
            .map(|s| Arrival { at_ns: s.at_ns, bytes: s.weight * s.bytes as f64, n: 1.0 })
            .chain(evidence.stays.iter().flat_map(collected::arrivals))
            .collect();
        arrivals.sort_by_key(|a| a.at_ns);
        let (mut drawn, mut drawn_bytes) = (0, 0.0);
        for window in &evidence.windows {
            drawn += window.allocated.n;
            drawn_bytes += window.allocated.bytes;
        }
        let typical = if drawn > 0 && drawn_bytes > 0.0 { drawn_bytes / drawn as f64 } else { TYPICAL };
        let until_ns = now_ns - old_age_ns.unwrap_or(watched_ns / 4);
        let mut course = Course::of(&arrivals, begin_ns, until_ns, typical);
        let mut live_bytes = arrivals.iter().map(|a| a.n * a.bytes).sum();
        if evidence.collected {
            collected::widen(&mut course, &evidence.windows);
            live_bytes = evidence.windows.last().map_or(0.0, |w| w.live_at_end.bytes);
        }
        Self {
            evidence,
            begin_ns,
            now_ns,
            watched: Duration::from_nanos(watched_ns),
            drawn,
            old_age_ns,
            course,
            live_bytes,
            trend: floors_trend(evidence, &fates, begin_ns, now_ns),
            fates,
        }
    }

    /// Natural logarithm of the e-value against "all old blocks are pointed to".
    fn ln_evidence_of_loss(&self) -> f64 {
        let Some((looked_for, lost)) = self.evidence.unreferenced else { return 0.0 };
        let (lost, found) = (f64::from(lost), f64::from(looked_for.saturating_sub(lost)));
        let ratio = |part: f64| {
            lost * (part / MISSED_POINTER).ln() + found * ((1.0 - part) / (1.0 - MISSED_POINTER)).ln()
        };
        chance::ln_mean(&LOST_PARTS.map(ratio))
    }

    /// Natural logarithm of the e-value against "old blocks go on being freed".
    fn ln_evidence_of_no_end(&self) -> f64 {
        self.old_age_ns.map_or(0.0, |age| self.fates.ln_evidence_of_no_end(age))
    }

    /// The part of old blocks that is lost, at least and as found, if it is enough to prove a leak.
    fn lost(&self) -> Option<(f64, f64)> {
        let (looked_for, lost) = self.evidence.unreferenced?;
        let found = looked_for.saturating_sub(lost);
        let least = chance::share_at_least(f64::from(lost), f64::from(found), chance::TAIL);
        (lost >= LOST_BLOCKS && least > LOST_AT_LEAST)
            .then(|| (least, f64::from(lost) / f64::from(lost + found)))
    }

    /// Somebody has looked for pointers to enough blocks to rely on it.
    fn looked_for(&self) -> Option<u32> {
        self.evidence.unreferenced.map(|(n, _)| n).filter(|n| *n >= LOST_BLOCKS)
    }

    /// The part of the bytes that is freed before it is old.
    fn freed_part(&self) -> f64 {
        let freed: f64 = self.evidence.lifetimes.freed.iter().map(|sum| sum.bytes).sum();
        let stays = self.course.rate.value * self.watched.as_secs_f64();
        if freed > 0.0 { freed / (freed + stays) } else { 0.0 }
    }

    /// Growth per second that is called none.
    fn negligible(&self) -> f64 {
        NEGLIGIBLE.max(self.live_bytes * NEGLIGIBLE_PER_SECOND)
    }

    /// Since when, as time of day.
    fn since(&self, circumstances: &Circumstances) -> Option<SystemTime> {
        let ago = circumstances.now_ns.saturating_sub(self.course.since_ns);
        circumstances.now.checked_sub(Duration::from_nanos(ago))
    }

    /// For how long its rate is as it is.
    fn lasted(&self) -> Duration {
        Duration::from_nanos(self.now_ns.saturating_sub(self.course.since_ns))
    }

    /// "since the watch began" or "for the last 5 min".
    fn for_how_long(&self) -> String {
        let past = self.lasted();
        if self.course.changed {
            format!("for the last {}", duration(past))
        } else {
            format!("ever since it is watched ({})", duration(past))
        }
    }
}

/// The trend of the floors in the second half of the watch, over stretches longer than nearly all lifetimes (so that they
/// hardly depend on each other). `None` if there is no time for that, or nothing was freed: then all is growth.
fn floors_trend(evidence: &Evidence, fates: &Fates, begin_ns: u64, now_ns: u64) -> Option<Trend> {
    let freed = fates.freed();
    let mut nearly_all = (20..63).find(|b| fates.freed_beyond(1 << b) * 100 <= freed)?;
    if evidence.collected {
        nearly_all = nearly_all.max(collected::nearly_all(&evidence.windows));
    }
    let middle = begin_ns + (now_ns - begin_ns) / 2;
    let stretches = (now_ns - middle) >> (nearly_all + 1);
    if freed == 0 || stretches < 8 {
        return None;
    }
    let series: Vec<(u64, f64)> = (evidence.windows.iter())
        .filter(|w| w.begin_ns >= middle)
        .map(|w| (w.begin_ns, w.floor.bytes))
        .collect();
    trend::trend(&trend::floors(&series, (stretches as usize).min(STRETCHES)))
}

/// Verdicts on all sites of a target, in their order. They are judged together: the more there are, the more each must show.
pub fn judge(sites: &[Evidence], circumstances: &Circumstances) -> Vec<Judgement> {
    let sites: Vec<Site<'_>> = sites.iter().map(|e| Site::of(e, circumstances.now_ns)).collect();
    let lost: Vec<f64> = sites.iter().map(Site::ln_evidence_of_loss).collect();
    let stays: Vec<f64> = sites.iter().map(Site::ln_evidence_of_no_end).collect();
    let trends: Vec<f64> = sites.iter().map(p_of_trend).collect();
    let found = (discovery::by_e_values(&lost).into_iter())
        .zip(discovery::by_e_values(&stays))
        .zip(discovery::by_p_values(&trends));
    let number = sites.len();
    (sites.iter().zip(found))
        .map(|(site, ((lost, stays), rises))| {
            decide(site, Found { lost, stays, rises, number }, circumstances)
        })
        .collect()
}

/// Rates of false discoveries at which each kind of evidence would just do, and among how many sites.
#[derive(Clone, Copy)]
struct Found {
    lost: f64,
    stays: f64,
    rises: f64,
    number: usize,
}

/// The rate allowed to each of the three kinds of evidence.
const EACH: f64 = FALSE_DISCOVERIES / 3.0;

/// The p-value of a rise of floors that matters, corrected for looking again and again: each doubling of the time watched is
/// a look of its own and spends less (a series that adds up to one).
fn p_of_trend(site: &Site<'_>) -> f64 {
    let Some(trend) = site.trend.filter(|t| t.slope.low > 0.0 && t.slope.value > site.negligible()) else {
        return 1.0;
    };
    let look = site.watched.as_secs_f64().max(1.0).log2().floor() + 1.0;
    (trend.p_rising * std::f64::consts::PI.powi(2) / 6.0 * look * look).min(1.0)
}

/// How sure, of a rate of false discoveries and the most that the assumptions are good for.
fn sure(false_discoveries: f64, most: f64) -> f64 {
    (1.0 - 3.0 * false_discoveries).clamp(0.0, most)
}

fn decide(site: &Site<'_>, found: Found, circumstances: &Circumstances) -> Judgement {
    if site.evidence.collected && site.evidence.windows.is_empty() {
        return unjudged(collected::NOT_YET.to_owned());
    }
    if site.drawn == 0 {
        return unjudged("nothing was sampled so far (it allocates little, or nothing)".to_owned());
    }
    let course = &site.course;
    let how_long = site.for_how_long();
    let leaking = |rate: Estimate, confidence: f64, reason: String| Judgement {
        verdict: Verdict::Leaking,
        rate: Some(rate),
        confidence,
        since: site.since(circumstances),
        reason,
    };
    let goes_on = course.goes_on() && course.n as u64 >= u64::from(LOST_BLOCKS);
    if let (Some((least, part)), true, true) = (site.lost(), found.lost <= EACH, goes_on) {
        let (looked_for, lost) = site.evidence.unreferenced.unwrap_or_default();
        // Where most are lost the rest is taken to be pointed to by chance: stale pointers in memory that isn't used any more.
        let value = if part >= 0.5 { course.rate.value } else { course.rate.value * part };
        let low = if lost == looked_for { course.rate.low } else { course.rate.low * least };
        let reason = format!(
            "nothing points to {lost} of {looked_for} old blocks that were looked for: they are lost, {how_long}"
        );
        return leaking(Estimate { value, low, ..course.rate }, sure(found.lost, SUREST[0]), reason);
    }
    let accumulates = found.stays <= EACH && course.n as u64 >= SAMPLES && course.goes_on();
    let lasted = site.lasted();
    if accumulates {
        let freed = site.freed_part();
        if let (None, Some(old)) = (site.looked_for(), site.old_age_ns)
            && !site.evidence.collected
            && freed >= FREED_AT_LEAST
            && lasted >= circumstances.patience / MIXED_PATIENCE
            && course.holds_its_rate(SECOND_HALF_OF_MIXED)
        {
            let reason = format!(
                "it frees {:.2} % of its bytes within {}, the rest never: {how_long}, without slowing down",
                freed * 100.0,
                duration(Duration::from_nanos(old)),
            );
            return leaking(course.rate, sure(found.stays, SUREST[1]), reason);
        }
        let may_be_load = site.evidence.collected && collected::may_be_load(course, &site.evidence.windows);
        if lasted >= circumstances.patience && course.holds_its_rate(SECOND_HALF) && !may_be_load {
            let reason = if site.evidence.collected {
                collected::leaking(&how_long)
            } else {
                format!(
                    "what stays of it is never freed, {how_long}, without slowing down; a cache that takes longer than that to fill would look the same"
                )
            };
            return leaking(course.rate, sure(found.stays, SUREST[2]), reason);
        }
        return Judgement {
            verdict: Verdict::Growing,
            rate: Some(course.rate),
            confidence: sure(found.stays, SUREST[0]),
            since: site.since(circumstances),
            reason: why_growing(site, (&how_long, lasted), may_be_load, circumstances.patience),
        };
    }
    if found.rises <= EACH
        && let Some(trend) = site.trend
    {
        let begin = site.begin_ns + site.watched.as_nanos() as u64 / 2;
        let ago = Duration::from_nanos(circumstances.now_ns.saturating_sub(begin));
        return Judgement {
            verdict: Verdict::Growing,
            rate: Some(trend.slope),
            confidence: sure(found.rises, SUREST[1]),
            since: circumstances.now.checked_sub(ago),
            reason: format!(
                "the least that lives has risen over the last {}; old blocks are still freed, so it may be load",
                duration(ago)
            ),
        };
    }
    steady_or_not(site, found)
}

/// Why a site that grows isn't said to leak.
fn why_growing(
    site: &Site<'_>,
    (how_long, lasted): (&str, Duration),
    may_be_load: bool,
    patience: Duration,
) -> String {
    let left = patience.saturating_sub(lasted);
    let until = if left.is_zero() {
        "; whether it slows down can't be told yet".to_owned()
    } else {
        format!("; called leaking if it goes on like this for {} more", duration(left))
    };
    if site.course.slows_down() {
        return format!("it grows {how_long}, but slows down: it may level off");
    }
    if site.evidence.collected {
        return collected::growing(how_long, may_be_load, &until);
    }
    match (site.looked_for(), site.evidence.unreferenced) {
        (Some(n), Some((_, 0))) => format!(
            "the process still points to all {n} old blocks that were looked for: a cache or a collection that fills{until}"
        ),
        (Some(n), Some((_, lost))) => format!(
            "nothing points to {lost} of {n} old blocks that were looked for: too few to prove a leak; it grows {how_long}{until}"
        ),
        _ => format!(
            "what it allocates stays, {how_long}; whether anything still points to it isn't known{until}"
        ),
    }
}

/// A site without proven growth.
fn steady_or_not(site: &Site<'_>, found: Found) -> Judgement {
    let course = &site.course;
    let more = |factor: f64| {
        let wait = site.watched.as_secs_f64() * (factor - 1.0).clamp(0.0, 1e6);
        duration(Duration::from_secs_f64(wait.clamp(1.0, 1e9)))
    };
    if site.drawn < SAMPLES {
        let wait = more(SAMPLES as f64 / site.drawn as f64);
        return unjudged(format!("only {} samples; enough in about {wait} at this rate", site.drawn));
    }
    let negligible = site.negligible();
    let steady = |rate: Estimate, reason: String| Judgement {
        verdict: Verdict::Steady,
        rate: Some(rate),
        // The upper end of the interval.
        confidence: 1.0 - chance::TAIL_OF_RATES,
        since: None,
        reason,
    };
    if site.evidence.collected && course.rate.high <= negligible {
        // What lives is known directly, whatever age it is freed at.
        return steady(course.rate, collected::steady(course.rate.high));
    }
    let stays = course.n as u64 >= SAMPLES && course.goes_on();
    if let (Some(old), false) = (site.old_age_ns, stays) {
        if course.rate.high <= negligible {
            let reason = if course.changed {
                format!("it has levelled off; if anything, it grows by less than {}", rate(course.rate.high))
            } else {
                format!(
                    "what it allocates is freed within {}; if anything, it grows by less than {}",
                    duration(Duration::from_nanos(old)),
                    rate(course.rate.high)
                )
            };
            return steady(course.rate, reason);
        }
        return unjudged(format!(
            "can't tell growth below {} yet: about {} more",
            rate(course.rate.high),
            more(course.rate.high / negligible)
        ));
    }
    if let Some(trend) = site.trend
        && trend.slope.high <= negligible
    {
        let reason = format!(
            "blocks of any age are still freed, and the least that lives doesn't rise: by less than {}",
            rate(trend.slope.high)
        );
        return steady(trend.slope, reason);
    }
    if stays {
        let needed = (found.number.max(1) as f64 / EACH).ln();
        let have = site.ln_evidence_of_no_end().max(0.5);
        return unjudged(format!(
            "{} samples of {} stay so far, too few to tell growth of {}: about {} more",
            course.n,
            bytes(site.live_bytes),
            rate(course.rate.value),
            more(needed / have)
        ));
    }
    unjudged("blocks of any age are still freed; longer watching will tell which stay".to_owned())
}

fn unjudged(reason: String) -> Judgement {
    Judgement { reason, ..Judgement::default() }
}

#[cfg(test)]
mod tests;
