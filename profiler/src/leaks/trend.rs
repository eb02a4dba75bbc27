//! How something grows: arrivals that stay, by when they came, and the trend of floors.

use super::{Estimate, chance};

/// Parts into which the time of arrivals is cut. A change is seen to a 32nd of the time.
const PARTS: usize = 32;
/// What a change must gain, as twice the logarithm of the ratio of likelihoods: of series without a change, few in a thousand
/// have one that gains more (a chi-squared value of one degree is above 16 once in 16,000, at each of about 31 places).
const CHANGE: f64 = 16.0;
/// A change is sought again behind each change, at most so often.
const CHANGES: usize = 8;

/// Something that came and stayed.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// When: nanoseconds of `CLOCK_MONOTONIC`.
    pub at_ns: u64,
    /// How much: estimated bytes of one.
    pub bytes: f64,
    /// How many at once; need not be whole.
    pub n: f64,
}

/// How arrivals went on since they last changed their rate.
#[derive(Clone, Copy, Debug)]
pub struct Course {
    /// Since when the rate is as it is. The beginning of the watch if it has always been so.
    pub since_ns: u64,
    /// To when arrivals are counted.
    pub until_ns: u64,
    /// Whether it was different before.
    pub changed: bool,
    /// Samples.
    pub n: usize,
    /// Bytes per second.
    pub rate: Estimate,
    /// How much more clustered than independent arrivals: at least 1.
    pub dispersion: f64,
    /// Arrivals in the two halves and in the last quarter of the time, in clusters as if they were independent.
    halves: (f64, f64),
    last_quarter: f64,
}

impl Course {
    /// Of arrivals between two moments. `typical`: bytes that a sample stands for, in case that there is none.
    pub fn of(arrivals: &[Arrival], begin_ns: u64, end_ns: u64, typical: f64) -> Self {
        let within = |from: u64| arrivals.iter().filter(move |a| a.at_ns >= from && a.at_ns <= end_ns);
        let length = end_ns.saturating_sub(begin_ns).max(1) as f64;
        let (mut sum, mut squares) = (0.0, 0.0);
        for arrival in within(begin_ns) {
            sum += arrival.n * arrival.bytes;
            squares += arrival.n * arrival.bytes * arrival.bytes;
        }
        let unit = if sum > 0.0 { squares / sum } else { typical };
        let mut parts = [0.0; PARTS];
        for arrival in within(begin_ns) {
            let part = (arrival.at_ns - begin_ns) as f64 / length * PARTS as f64;
            parts[(part as usize).min(PARTS - 1)] += arrival.n * arrival.bytes / unit;
        }
        let first = last_change(&parts);
        let since_ns = begin_ns + (length * first as f64 / PARTS as f64) as u64;
        let parts = &parts[first..];
        let dispersion = dispersion(&[parts], 1);
        let (mut n, mut sum, mut squares) = (0.0, 0.0, 0.0);
        let middle = since_ns + (end_ns.saturating_sub(since_ns)) / 2;
        let quarter = since_ns + (end_ns.saturating_sub(since_ns)) / 4 * 3;
        let (mut second, mut last) = (0.0, 0.0);
        for arrival in within(since_ns) {
            let bytes = arrival.n * arrival.bytes;
            n += arrival.n;
            sum += bytes;
            squares += bytes * arrival.bytes;
            second += if arrival.at_ns >= middle { bytes } else { 0.0 };
            last += if arrival.at_ns >= quarter { bytes } else { 0.0 };
        }
        let seconds = (end_ns.saturating_sub(since_ns).max(1)) as f64 / 1e9;
        let total = chance::arrivals(sum, squares, unit, dispersion);
        let cluster = unit * dispersion;
        Self {
            since_ns,
            until_ns: end_ns,
            changed: first > 0,
            n: n.round() as usize,
            rate: Estimate {
                value: total.value / seconds,
                low: total.low / seconds,
                high: total.high / seconds,
            },
            dispersion,
            halves: ((sum - second).max(0.0) / cluster, second / cluster),
            last_quarter: last / cluster,
        }
    }

    /// It hasn't stopped: the second half has some, and not far fewer than the first.
    pub fn goes_on(&self) -> bool {
        let (first, second) = self.halves;
        second > 0.0 && (second >= first / 4.0 || chance::so_few(second, first + second, 0.5) >= 0.01)
    }

    /// It is shown not to slow down: of all that came at least `share` (below a half) came in the second half, with 95 %
    /// certainty, and the last quarter is not conspicuously small.
    pub fn holds_its_rate(&self, share: f64) -> bool {
        let (first, second) = self.halves;
        let all = first + second;
        chance::share_at_least(second, first, 0.05) >= share
            && chance::so_few(self.last_quarter, all, 0.25) >= 0.001
    }

    /// It is shown to slow down.
    pub fn slows_down(&self) -> bool {
        let (first, second) = self.halves;
        chance::so_few(second, first + second, 0.5) < 0.01
    }
}

/// How much more the numbers scatter around the means of their segments than independent arrivals would (Pearson's
/// statistic for `means` fitted means; at least 1).
fn dispersion(segments: &[&[f64]], means: usize) -> f64 {
    let (mut chi, mut n) = (0.0, 0);
    for segment in segments {
        let mean = segment.iter().sum::<f64>() / segment.len().max(1) as f64;
        n += segment.len();
        if mean > 0.0 {
            chi += segment.iter().map(|x| (x - mean) * (x - mean) / mean).sum::<f64>();
        }
    }
    if n <= means { 1.0 } else { (chi / (n - means) as f64).max(1.0) }
}

/// The part from which on the rate is as it is now (binary segmentation, always going on behind the last change).
fn last_change(parts: &[f64]) -> usize {
    let mut first = 0;
    for _ in 0..CHANGES {
        let rest = &parts[first..];
        let all: f64 = rest.iter().sum();
        let part = |sum: f64, length: usize| {
            if sum > 0.0 { sum * (sum * rest.len() as f64 / (all * length as f64)).ln() } else { 0.0 }
        };
        let best = (1..rest.len())
            .map(|at| {
                let before: f64 = rest[..at].iter().sum();
                (at, 2.0 * (part(before, at) + part(all - before, rest.len() - at)))
            })
            .max_by(|a, b| a.1.total_cmp(&b.1));
        let Some((at, gain)) = best else { break };
        if gain / dispersion(&[&rest[..at], &rest[at..]], 2) < CHANGE {
            break;
        }
        first += at;
    }
    first
}

/// The trend of a series.
#[derive(Clone, Copy, Debug)]
pub struct Trend {
    /// How probable a rise like this would be without a trend (Mann 1945, Kendall 1975, with ties).
    pub p_rising: f64,
    /// Slope, per second (Theil 1950, Sen 1968) with its 95 % interval (Gilbert 1987, 16.5).
    pub slope: Estimate,
}

/// The trend of at least eight values at moments in seconds; `None` of fewer. Takes quadratic time: at most 64 are given.
pub fn trend(points: &[(f64, f64)]) -> Option<Trend> {
    let n = points.len();
    if n < 8 {
        return None;
    }
    let mut slopes = Vec::with_capacity(n * (n - 1) / 2);
    let mut score = 0.0;
    for (i, a) in points.iter().enumerate() {
        for b in &points[i + 1..] {
            if b.0 > a.0 {
                slopes.push((b.1 - a.1) / (b.0 - a.0));
            }
            score += f64::from(u8::from(b.1 > a.1)) - f64::from(u8::from(b.1 < a.1));
        }
    }
    if slopes.is_empty() {
        return None;
    }
    let mut values: Vec<f64> = points.iter().map(|p| p.1).collect();
    values.sort_by(f64::total_cmp);
    let moment = |k: f64| k * (k - 1.0) * (2.0 * k + 5.0);
    let ties: f64 = values.chunk_by(|a, b| a == b).map(|tie| moment(tie.len() as f64)).sum();
    let deviation = ((moment(n as f64) - ties) / 18.0).max(0.0).sqrt();
    let p_rising =
        if score > 0.0 && deviation > 0.0 { chance::normal_tail((score - 1.0) / deviation) } else { 1.0 };
    slopes.sort_by(f64::total_cmp);
    let at = |rank: f64| slopes[(rank.round().max(0.0) as usize).min(slopes.len() - 1)];
    let (middle, reach) = ((slopes.len() - 1) as f64 / 2.0, 1.96 * deviation / 2.0);
    let value = f64::midpoint(at(middle.floor()), at(middle.ceil()));
    let slope = Estimate { value, low: at(middle - reach).min(value), high: at(middle + reach).max(value) };
    Some(Trend { p_rising, slope })
}

/// The least value of each of at most `count` stretches of equal length of a series, in seconds after its first moment, with
/// the middle of the stretch. Empty stretches are left out.
pub fn floors(series: &[(u64, f64)], count: usize) -> Vec<(f64, f64)> {
    let (Some(first), Some(last)) = (series.first(), series.last()) else { return Vec::new() };
    let length = last.0.saturating_sub(first.0).max(1) as f64 / 1e9;
    let mut least = vec![f64::INFINITY; count.max(1)];
    for (at, value) in series {
        let part = at.saturating_sub(first.0) as f64 / 1e9 / length * least.len() as f64;
        let place = (part as usize).min(least.len() - 1);
        least[place] = least[place].min(*value);
    }
    let width = length / least.len() as f64;
    (least.iter().enumerate())
        .filter(|(_, value)| value.is_finite())
        .map(|(i, value)| ((i as f64 + 0.5) * width, *value))
        .collect()
}
