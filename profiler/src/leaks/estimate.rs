//! Figures with intervals, made of weighted samples. The method, its sources and what was measured: docs/leaks.md, "Estimates".
//!
//! A block that was chosen with probability `p` stands for `1 / p` blocks (Horvitz and Thompson 1952): itself, which was
//! seen, and `1 / p - 1` that were not. Only the second part is uncertain. Its interval is that of a gamma distribution with
//! the same mean and variance, the upper end with one more sample than there is (Fay and Feuer 1997, there for sums of
//! weighted Poisson counts). For equal weights that is the continuous form of the exact interval of a binomial's size.

use statrs::function::gamma::{checked_gamma_lr, ln_gamma};

use super::{Estimate, Sum};

/// Each end of an interval may be wrong in this part of all cases.
const TAIL: f64 = 0.025;

/// Size of the smallest block that allocators give out, for sites of which nothing is known (glibc: 24 usable bytes).
const SMALLEST_BLOCK: f64 = 16.0;

/// Blocks whose sizes differ by this factor at most are of one size.
const SAME_SIZE: u64 = 4;

impl Sum {
    /// One sample.
    pub fn of(weight: f64, bytes: u64) -> Self {
        let (weight, bytes) = (weight.max(1.0), bytes as f64);
        let unseen = weight - 1.0;
        Self {
            n: 1,
            objects: weight,
            bytes: weight * bytes,
            objects_variance: weight * unseen,
            bytes_variance: bytes * bytes * weight * unseen,
            unseen_bytes: bytes * unseen,
        }
    }

    /// So many samples that are all alike.
    pub fn times(&self, n: u64) -> Self {
        let many = n as f64;
        Self {
            n: self.n.saturating_mul(n),
            objects: self.objects * many,
            bytes: self.bytes * many,
            objects_variance: self.objects_variance * many,
            bytes_variance: self.bytes_variance * many,
            unseen_bytes: self.unseen_bytes * many,
        }
    }

    /// Adds the other's samples.
    pub fn add(&mut self, other: &Self) {
        self.n = self.n.saturating_add(other.n);
        self.objects += other.objects;
        self.bytes += other.bytes;
        self.objects_variance += other.objects_variance;
        self.bytes_variance += other.bytes_variance;
        self.unseen_bytes += other.unseen_bytes;
    }

    /// Takes samples away that were added before. Without any left, all is exactly zero: what rounding left behind goes.
    pub fn remove(&mut self, other: &Self) {
        if self.n <= other.n {
            *self = Self::default();
            return;
        }
        self.n -= other.n;
        self.objects = (self.objects - other.objects).max(0.0);
        self.bytes = (self.bytes - other.bytes).max(0.0);
        self.objects_variance = (self.objects_variance - other.objects_variance).max(0.0);
        self.bytes_variance = (self.bytes_variance - other.bytes_variance).max(0.0);
        self.unseen_bytes = (self.unseen_bytes - other.unseen_bytes).max(0.0);
    }
}

/// What chance may have hidden: what one more sample could have added.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Missed {
    /// The mean distance of sample points in bytes: whatever the size of a block, it adds no more. Zero: every sample so far
    /// was certain.
    mean: f64,
    /// Sizes of the blocks that were seen: the smallest, and the largest.
    sizes: Option<(u64, u64)>,
}

impl Missed {
    /// Of a place where nothing was seen and one point per `mean` bytes is drawn.
    pub fn by_mean(mean: u64) -> Self {
        Self { mean: mean as f64, sizes: None }
    }

    /// Learns from a sample. One that was certain doesn't tell that anything can be missed.
    pub fn learn(&mut self, weight: f64, bytes: u64) {
        if weight > 1.0 {
            // weight = 1 / (1 - exp(-bytes / mean))
            self.mean = self.mean.max(bytes as f64 / -(-1.0 / weight).ln_1p());
        }
        self.sizes = Some(widest(self.sizes, Some((bytes, bytes))).unwrap_or((bytes, bytes)));
    }

    /// What of either hides more.
    pub fn max(self, other: Self) -> Self {
        Self { mean: self.mean.max(other.mean), sizes: widest(self.sizes, other.sizes) }
    }

    /// Blocks: depends on the smallest ones. Where sizes vary, smaller ones than those seen must be reckoned with.
    fn objects(self) -> f64 {
        let smallest = match self.sizes {
            Some((smallest, largest)) if largest <= smallest.saturating_mul(SAME_SIZE) => {
                smallest.max(1) as f64
            }
            _ => SMALLEST_BLOCK,
        };
        if self.mean > 0.0 { 1.0 / (smallest / self.mean).exp_m1() } else { 0.0 }
    }
}

/// The range that has both.
fn widest(one: Option<(u64, u64)>, other: Option<(u64, u64)>) -> Option<(u64, u64)> {
    match (one, other) {
        (Some(one), Some(other)) => Some((one.0.min(other.0), one.1.max(other.1))),
        (one, other) => one.or(other),
    }
}

/// Bytes, with the 95 % interval.
pub fn bytes(sum: &Sum, missed: Missed) -> Estimate {
    let seen = sum.bytes - sum.unseen_bytes;
    // Blocks come whole: the lower end leaves room for half of one. (The upper end has more than enough.)
    let typical = if sum.n > 0 { seen / sum.n as f64 } else { 0.0 };
    let uncertain = if sum.unseen_bytes > 0.0 { sum.bytes_variance / sum.unseen_bytes } else { 0.0 };
    let half = typical.min(uncertain) / 2.0;
    let more = (missed.mean, missed.mean * missed.mean);
    interval(seen, sum.unseen_bytes, sum.bytes_variance, more, (half, 0.0))
}

/// Blocks, with the 95 % interval: of a place whose blocks are of one size or nearly so. Where sizes vary widely, the few
/// samples that small blocks get stand for many, and no interval of use can be given; this one is then wide.
pub fn objects(sum: &Sum, missed: Missed) -> Estimate {
    let more = missed.objects();
    let unseen = sum.objects - sum.n as f64;
    let half = if more > 0.0 { 0.5 } else { 0.0 };
    interval(sum.n as f64, unseen, sum.objects_variance, (more, more * (more + 1.0)), (half, half))
}

/// `seen` for certain and `unseen` with `variance`; `more`: mean and variance of one more sample; `lump`: what either end
/// leaves room for because blocks come whole.
fn interval(seen: f64, unseen: f64, variance: f64, more: (f64, f64), lump: (f64, f64)) -> Estimate {
    let (seen, unseen) = (seen.max(0.0), unseen.max(0.0));
    let low = gamma_by_moments(unseen, variance, TAIL) - lump.0;
    let high = gamma_by_moments(unseen + more.0, variance + more.1, 1.0 - TAIL) + lump.1;
    Estimate { value: seen + unseen, low: seen + low.clamp(0.0, unseen), high: seen + high.max(unseen) }
}

/// The interval of `plus - minus`, which must come of different blocks (growth between two moments: what came and stayed,
/// what was there and went). Zou and Donner 2008.
pub fn difference(plus: Estimate, minus: Estimate) -> Estimate {
    let value = plus.value - minus.value;
    Estimate {
        value,
        low: value - (plus.value - plus.low).hypot(minus.high - minus.value),
        high: value + (plus.high - plus.value).hypot(minus.value - minus.low),
    }
}

/// The estimate divided by something that is known exactly and above zero: per second, or as part of.
pub fn per(estimate: Estimate, divisor: f64) -> Estimate {
    Estimate { value: estimate.value / divisor, low: estimate.low / divisor, high: estimate.high / divisor }
}

/// How much of the growth of anonymous memory the live bytes explain; `None` while it hasn't grown by 1 MiB.
pub fn explained(live: Estimate, anon_before: u64, anon_now: u64) -> Option<Estimate> {
    let growth = anon_now.checked_sub(anon_before).filter(|growth| *growth >= 1 << 20)?;
    Some(per(live, growth as f64))
}

/// Quantile of the gamma distribution with this mean and variance.
fn gamma_by_moments(mean: f64, variance: f64, part: f64) -> f64 {
    if mean <= 0.0 || variance <= 0.0 {
        return mean.max(0.0);
    }
    gamma_quantile(mean * mean / variance, part) * (variance / mean)
}

/// Quantile of the gamma distribution of this shape with scale one, to about five digits; at one of the two tails.
fn gamma_quantile(shape: f64, part: f64) -> f64 {
    if !shape.is_finite() || shape <= 0.0 {
        return 0.0;
    }
    if shape >= 1000.0 {
        return wilson_hilferty(shape, part);
    }
    // Below the quantile for sure, and close to it if it is small: the distribution is less than x^shape / gamma(shape + 1).
    let least = ((part.ln() + ln_gamma(shape + 1.0)) / shape).exp();
    if least < 1e-100 {
        return 0.0;
    }
    let below = |x: f64| checked_gamma_lr(shape, x).unwrap_or(1.0) < part;
    let (mut low, mut high) = (least, (2.0 * least).max(shape + 1.0));
    while below(high) {
        low = high;
        high *= 2.0;
    }
    let density = |x: f64| ((shape - 1.0) * x.ln() - x - ln_gamma(shape)).exp();
    let mut x = wilson_hilferty(shape, part);
    // Newton's steps within brackets that close in: ends whatever the functions' rounding.
    for _ in 0..100 {
        if !(x > low && x < high) {
            x = if high > 4.0 * low { (low * high).sqrt() } else { f64::midpoint(low, high) };
        }
        let distance = checked_gamma_lr(shape, x).unwrap_or(1.0) - part;
        if distance < 0.0 {
            low = x;
        } else {
            high = x;
        }
        let step = distance / density(x);
        if step.abs() <= 1e-7 * x || high - low <= 1e-9 * high {
            return x;
        }
        x -= step;
    }
    x
}

/// Wilson and Hilferty 1931: the cube root is nearly normal. To 1e-5 for shapes of 1000 and more (to 1e-4 from 50 on).
fn wilson_hilferty(shape: f64, part: f64) -> f64 {
    // Quantile of the normal distribution: the two that are needed.
    let z = if part < 0.5 { -NORMAL } else { NORMAL };
    let ninth = 1.0 / (9.0 * shape);
    shape * (1.0 - ninth + z * ninth.sqrt()).max(0.0).powi(3)
}

/// What 2.5 % of a standard normal distribution exceed.
const NORMAL: f64 = 1.959_963_984_540_054;

#[cfg(test)]
mod tests;
