//! Probabilities that the judge needs: intervals of arrivals, bounds of shares. The method: docs/leaks.md, "Verdicts".

use statrs::function::{beta::checked_beta_reg, gamma::checked_gamma_lr};

use super::Estimate;

/// Bounds of shares may be wrong in this part of all cases, at each end.
pub const TAIL: f64 = 0.025;
/// The same of rates. They are stated as 95 % intervals and made as 98 %: what is told of is chosen by the same data (from when
/// on, from which age on), which costs some certainty (simulations: about one per cent).
pub const TAIL_OF_RATES: f64 = 0.01;
/// Halvings of the range in which a quantile lies: enough for nine digits.
const HALVINGS: usize = 60;

/// The value below which `p` of a gamma distribution with this shape (and scale one) lie.
pub fn gamma_quantile(shape: f64, p: f64) -> f64 {
    if shape.is_nan() || shape <= 0.0 {
        return 0.0;
    }
    // Twelve standard deviations to each side; small shapes have their mass near zero and a tail like exp(-x).
    let reach = 12.0 * shape.sqrt();
    let (mut low, mut high) = ((shape - reach).max(0.0), shape + reach + 40.0);
    for _ in 0..HALVINGS {
        let middle = f64::midpoint(low, high);
        match checked_gamma_lr(shape, middle) {
            Ok(below) if below < p => low = middle,
            Ok(_) => high = middle,
            Err(_) => return shape,
        }
    }
    f64::midpoint(low, high)
}

/// What arrives: `sum` of amounts whose squares add up to `squares`, clustered `dispersion` times as much as independent
/// arrivals are (at least 1). `unit`: what one more would have added. Fay and Feuer 1997.
///
/// Unlike a sum over blocks that are there (`estimate`), chance is in the arrivals as well as in the sampling, so blocks that
/// are sampled for certain have their part in the width.
pub fn arrivals(sum: f64, squares: f64, unit: f64, dispersion: f64) -> Estimate {
    let squares = squares * dispersion;
    let low =
        if sum > 0.0 { gamma_quantile(sum * sum / squares, TAIL_OF_RATES) * squares / sum } else { 0.0 };
    let (more, more_squares) = (sum + unit, squares + unit * unit);
    let high = gamma_quantile(more * more / more_squares, 1.0 - TAIL_OF_RATES) * more_squares / more;
    Estimate { value: sum, low: low.min(sum), high: high.max(sum) }
}

/// The part of hits is at least this, but for `tail` of all cases. Clopper and Pearson 1934; numbers need not be whole.
pub fn share_at_least(hits: f64, misses: f64, tail: f64) -> f64 {
    if hits <= 0.0 {
        return 0.0;
    }
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..HALVINGS {
        let middle = f64::midpoint(low, high);
        match checked_beta_reg(hits, misses.max(0.0) + 1.0, middle) {
            Ok(below) if below < tail => low = middle,
            Ok(_) => high = middle,
            Err(_) => return 0.0,
        }
    }
    low
}

/// The part of hits is at most this, but for `tail` of all cases.
pub fn share_at_most(hits: f64, misses: f64, tail: f64) -> f64 {
    1.0 - share_at_least(misses, hits, tail)
}

/// How probable so few hits or fewer are among `all` if each is one with probability `p`.
pub fn so_few(hits: f64, all: f64, p: f64) -> f64 {
    if hits >= all {
        return 1.0;
    }
    checked_beta_reg(all - hits, hits + 1.0, 1.0 - p).unwrap_or(1.0)
}

/// How probable a standard normal value is that is at least this.
pub fn normal_tail(z: f64) -> f64 {
    statrs::function::erf::erfc(z / std::f64::consts::SQRT_2) / 2.0
}

/// Logarithm of the mean of values given by their logarithms.
pub fn ln_mean(logarithms: &[f64]) -> f64 {
    let most = logarithms.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if !most.is_finite() {
        return most;
    }
    most + (logarithms.iter().map(|l| (l - most).exp()).sum::<f64>() / logarithms.len() as f64).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gamma_quantiles_are_those_of_the_tables() {
        // Chi-squared with 2k degrees of freedom is twice a gamma of shape k: chi2(2; 0.95) = 5.991, chi2(20; 0.025) = 9.591,
        // chi2(200; 0.975) = 241.058 (any table).
        for (shape, p, want) in [(1.0, 0.95, 5.991), (10.0, 0.025, 9.591), (100.0, 0.975, 241.058)] {
            assert!((2.0 * gamma_quantile(shape, p) - want).abs() < 1e-3, "{shape} {p}");
        }
    }

    #[test]
    fn ten_equal_arrivals_have_the_exact_interval_of_a_poisson_count() {
        // Garwood 1936: 10 counted, 98 %: half of chi2(20; 0.01) = 8.260 and of chi2(22; 0.99) = 40.289.
        let e = arrivals(10.0 * 512.0, 10.0 * 512.0 * 512.0, 512.0, 1.0);
        assert!((e.low / 512.0 - 4.130).abs() < 1e-3 && (e.high / 512.0 - 20.145).abs() < 1e-3, "{e:?}");
        // None counted: up to -ln 0.01.
        assert!((arrivals(0.0, 0.0, 512.0, 1.0).high / 512.0 - 4.605).abs() < 1e-3);
        assert!(arrivals(10.0, 10.0, 1.0, 4.0).low < arrivals(10.0, 10.0, 1.0, 1.0).low);
    }

    #[test]
    fn bounds_of_shares_are_those_of_clopper_and_pearson() {
        // 3 of 3: 0.025^(1/3); 5 of 20: 8.66 % to 49.10 % (published tables).
        assert!((share_at_least(3.0, 0.0, TAIL) - 0.2924).abs() < 1e-4);
        assert!((share_at_least(5.0, 15.0, TAIL) - 0.0866).abs() < 1e-4);
        assert!((share_at_most(5.0, 15.0, TAIL) - 0.4910).abs() < 1e-4);
        assert!(share_at_least(0.0, 9.0, TAIL).abs() < 1e-12);
    }

    #[test]
    fn so_few_is_the_binomial_distribution() {
        // 2 or fewer of 10 fair coins: (1 + 10 + 45) / 1024.
        assert!((so_few(2.0, 10.0, 0.5) - 56.0 / 1024.0).abs() < 1e-9);
        assert!((so_few(10.0, 10.0, 0.5) - 1.0).abs() < 1e-12);
        assert!((normal_tail(1.959_964) - 0.025).abs() < 1e-6);
    }

    #[test]
    fn a_mean_of_logarithms_does_not_overflow() {
        assert!((ln_mean(&[1e4, 1e4]) - 1e4).abs() < 1e-9);
        assert!((ln_mean(&[0.0, 2.0_f64.ln()]) - 1.5_f64.ln()).abs() < 1e-12);
        assert!(ln_mean(&[f64::NEG_INFINITY]).is_infinite());
    }
}
