//! Ratios of rounds: the median, the range, and how far the median may be off.

/// How one way compares with another, round by round: what disturbs a round disturbs both sides of it.
pub struct Ratio {
    pub median: f64,
    pub least: f64,
    pub most: f64,
    /// Two standard errors of the median, from the median absolute deviation; nothing is known of a single round.
    pub noise: f64,
}

impl Ratio {
    /// Of the ratios of all rounds; none of no rounds.
    pub fn of(ratios: &[f64]) -> Option<Self> {
        let median = median(ratios)?;
        let deviations: Vec<f64> = ratios.iter().map(|ratio| (ratio - median).abs()).collect();
        // 1.4826: from the median absolute deviation to the standard deviation; 1.2533: from the mean's standard error to the median's;
        // both of a normal distribution.
        let error = 1.2533 * 1.4826 * self::median(&deviations)? / (ratios.len() as f64).sqrt();
        let noise = if ratios.len() < 2 { f64::INFINITY } else { 2.0 * error };
        let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
        let most = ratios.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        Some(Self { median, least, most, noise })
    }

    /// Median and range, as changes.
    pub fn change(&self) -> String {
        format!("{} {}..{}", change(self.median, true), change(self.least, false), change(self.most, false))
    }
}

/// The median; none of nothing.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() % 2 {
        0 => Some((sorted.get(middle.checked_sub(1)?)? + sorted.get(middle)?) / 2.0),
        _ => sorted.get(middle).copied(),
    }
}

/// A ratio as a change in percent, or as times where that is easier to read.
fn change(ratio: f64, exact: bool) -> String {
    let percent = (ratio - 1.0) * 100.0;
    match ratio {
        _ if ratio >= 4.0 => format!("x{ratio:.0}"),
        _ if exact || percent.abs() < 9.95 => format!("{percent:+.1}"),
        _ => format!("{percent:+.0}"),
    }
}

/// What is to be said of a limit.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Kept,
    Broken,
    /// Neither can be told, as the noise is larger than the difference.
    Unknown,
}

/// Whether a ratio stays below `1 + limit`: a line for people, and the verdict. `control` compares two turns that don't differ: what is
/// seen there is noise, too, which the few rounds of a way may not show.
pub fn judge(what: &str, ratio: &Ratio, control: &Ratio, limit: f64) -> (String, Verdict) {
    let cost = ratio.median - 1.0;
    let noise = ratio.noise.max(control.noise).max((control.median - 1.0).abs());
    let verdict = match () {
        () if cost <= limit => Verdict::Kept,
        () if cost - noise > limit => Verdict::Broken,
        () => Verdict::Unknown,
    };
    let mut said = match verdict {
        Verdict::Kept => "kept".to_owned(),
        Verdict::Broken => "BROKEN".to_owned(),
        Verdict::Unknown => "can't be told: the noise is larger than the difference".to_owned(),
    };
    if verdict == Verdict::Kept && noise > limit {
        said += ", but the noise is larger than the limit";
    }
    let (cost, noise, limit) = (cost * 100.0, noise * 100.0, limit * 100.0);
    (format!("{what} costs {cost:+.2} % (noise {noise:.2}), limit {limit} %: {said}"), verdict)
}
