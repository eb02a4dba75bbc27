//! Many sites at once: how many false discoveries there may be among those that are called out.

/// Smallest rate of false discoveries at which each would be among those called out, for e-values given by their natural
/// logarithms: the procedure of Wang and Ramdas 2022 ("e-BH"). Holds however the sites depend on each other.
pub fn by_e_values(logarithms: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..logarithms.len()).collect();
    order.sort_by(|a, b| logarithms[*b].total_cmp(&logarithms[*a]));
    let mut rates = vec![1.0; logarithms.len()];
    let mut least: f64 = 1.0;
    // From the weakest up: one that is stronger is never worse off.
    for (rank, site) in order.into_iter().enumerate().rev() {
        let rate = logarithms.len() as f64 / (rank + 1) as f64 * (-logarithms[site]).exp();
        least = least.min(rate);
        rates[site] = least;
    }
    rates
}

/// The same for p-values: Benjamini and Yekutieli 2001, which holds for any dependence.
pub fn by_p_values(values: &[f64]) -> Vec<f64> {
    let harmonic: f64 = (1..=values.len()).map(|i| 1.0 / i as f64).sum();
    let logarithms: Vec<f64> = values.iter().map(|p| -(p * harmonic).max(f64::MIN_POSITIVE).ln()).collect();
    by_e_values(&logarithms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_site_alone_is_called_out_at_the_inverse_of_its_e_value() {
        assert!((by_e_values(&[100.0_f64.ln()])[0] - 0.01).abs() < 1e-12);
        assert!((by_p_values(&[0.01])[0] - 0.01).abs() < 1e-12);
        assert!(by_e_values(&[]).is_empty());
    }

    #[test]
    fn strong_ones_help_each_other_and_never_the_weak_ones() {
        // Four sites, two of them with e = 400: 4 / (2 * 400) = 0.005; alone one would have 0.01.
        let rates = by_e_values(&[400.0_f64.ln(), 0.0, 400.0_f64.ln(), -3.0]);
        assert!((rates[0] - 0.005).abs() < 1e-12 && (rates[2] - 0.005).abs() < 1e-12);
        assert!(rates[1] >= 1.0 && rates[3] >= 1.0);
    }

    #[test]
    fn yekutielis_procedure_pays_the_harmonic_number() {
        // Four p-values of 0.01: 0.01 * (1 + 1/2 + 1/3 + 1/4) * 4 / 4.
        for rate in by_p_values(&[0.01; 4]) {
            assert!((rate - 0.01 * 25.0 / 12.0).abs() < 1e-12);
        }
    }
}
