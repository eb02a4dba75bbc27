//! How long blocks live: which age is "old" at a site, and whether old blocks are ever freed.
//!
//! The null hypothesis is that blocks older than some age go on being freed: that their hazard at age `a` is at least
//! [`HAZARD`] `/ a`, which a tail of lifetimes like `a^-HAZARD` has, and any lighter tail more. Against it stands an e-value
//! (Vovk and Wang 2021; Grünwald, de Heide and Koolen 2024): the likelihood ratio of counting processes (Andersen et al.
//! 1993, II.7), a martingale in time, so that one may look as often as one likes (Ville's inequality).

use super::{Evidence, chance::ln_mean};

/// Tails of lifetimes up to this heavy don't count as living for ever. A site whose tail is heavier than `a^-0.5` has live
/// bytes that grow like the square root of time or faster, though nothing of it is lost: that is growth in its own right.
const HAZARD: f64 = 0.5;
/// Hazards of the alternative, as parts of the null's. Near zero, with some room for the few that do get freed.
const ALTERNATIVES: [f64; 3] = [0.01, 0.1, 0.3];
/// Ages from which survival is looked at: 2^20 ns (1 ms) to 2^52 ns (52 days), by powers of two. Fixed beforehand, equal weights:
/// so choosing one of them costs a factor of 33, which is paid for.
const AGES: std::ops::RangeInclusive<usize> = 20..=52;
/// Blocks freed at or beyond half of an age, as part of those that live beyond it, for the age to be old: what is not lost but
/// merely not freed yet makes up no more of the rate than this.
const STILL_FREED: f64 = 0.02;

/// How many blocks live or were freed, by the power of two of nanoseconds that their age is in.
pub struct Fates {
    alive: [u64; 64],
    /// Sum of natural logarithms of the ages of those that live.
    ln_ages: [f64; 64],
    freed: [u64; 64],
}

/// The bucket of an age.
fn bucket(age_ns: u64) -> usize {
    age_ns.max(1).ilog2() as usize
}

impl Fates {
    /// Of a site's samples.
    pub fn of(evidence: &Evidence, now_ns: u64) -> Self {
        let mut fates = Self { alive: [0; 64], ln_ages: [0.0; 64], freed: [0; 64] };
        for sample in &evidence.live {
            let age = now_ns.saturating_sub(sample.at_ns).max(1);
            fates.alive[bucket(age)] += 1;
            fates.ln_ages[bucket(age)] += (age as f64).ln();
        }
        for stay in &evidence.stays {
            // In the middle: they may have come at any time between two readings.
            let age = now_ns.saturating_sub(u64::midpoint(stay.from_ns, stay.to_ns)).max(1);
            fates.alive[bucket(age)] = fates.alive[bucket(age)].saturating_add(stay.n);
            fates.ln_ages[bucket(age)] += stay.n as f64 * (age as f64).ln();
        }
        for (freed, sum) in fates.freed.iter_mut().zip(&evidence.lifetimes.freed) {
            *freed = sum.n;
        }
        fates
    }

    /// Samples freed.
    pub fn freed(&self) -> u64 {
        self.freed.iter().sum()
    }

    /// Samples freed at this age or later (a power of two).
    pub fn freed_beyond(&self, age_ns: u64) -> u64 {
        self.freed[bucket(age_ns)..].iter().sum()
    }

    /// The age beyond which blocks are hardly ever freed (a power of two); at most half of the time watched. `None` if there is
    /// none yet.
    pub fn old_age(&self, watched_ns: u64) -> Option<u64> {
        let most = bucket(watched_ns / 2);
        AGES.filter(|b| *b <= most)
            .find(|b| {
                let alive: u64 = self.alive[*b..].iter().sum();
                let freed: u64 = self.freed[b - 1..].iter().sum();
                freed as f64 <= STILL_FREED * alive as f64
            })
            .map(|b| 1 << b)
    }

    /// Natural logarithm of the e-value against "blocks beyond this age (a power of two) go on being freed".
    ///
    /// The age may have been chosen by the same data: the e-value is divided by the number of ages that could have been, which
    /// makes it less than the mean of all of theirs, and such a mean is an e-value whichever was chosen.
    pub fn ln_evidence_of_no_end(&self, age_ns: u64) -> f64 {
        let from = bucket(age_ns);
        let (mut exposure, mut freed) = (0.0, 0.0);
        for b in from..64 {
            exposure += self.ln_ages[b] - self.alive[b] as f64 * from as f64 * std::f64::consts::LN_2;
            // Freed ones were at risk up to some age in their bucket: at least up to its beginning.
            exposure += self.freed[b] as f64 * (b - from) as f64 * std::f64::consts::LN_2;
            freed += self.freed[b] as f64;
        }
        let ratio = |part: f64| freed * part.ln() + (1.0 - part) * HAZARD * exposure;
        ln_mean(&ALTERNATIVES.map(ratio)) - (AGES.count() as f64).ln()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::leaks::{LiveSample, Sum};

    const SECOND: u64 = 1_000_000_000;

    fn evidence(alive_ages: &[u64], freed_ages: &[u64]) -> Evidence {
        let mut evidence = Evidence::default();
        for age in alive_ages {
            evidence.live.push(LiveSample { at_ns: 10_000 * SECOND - age, bytes: 64, weight: 8192.0 });
        }
        for age in freed_ages {
            let sum = &mut evidence.lifetimes.freed[age.ilog2() as usize];
            *sum = Sum { n: sum.n + 1, ..*sum };
        }
        evidence
    }

    fn of(alive_ages: &[u64], freed_ages: &[u64]) -> Fates {
        Fates::of(&evidence(alive_ages, freed_ages), 10_000 * SECOND)
    }

    #[test]
    fn what_outlives_all_that_is_freed_is_old_from_twice_the_longest_life() {
        let alive: Vec<u64> = (1..=40).map(|i| i * 100 * SECOND).collect();
        // Lives of up to 3 s (bucket of 2^31 ns): half of 2^33 is the first power of two beyond them.
        let fates = of(&alive, &[SECOND, 2 * SECOND, 3 * SECOND]);
        assert_eq!(fates.old_age(4000 * SECOND), Some(1 << 33));
        assert_eq!(fates.old_age(10 * SECOND), None, "no time for it to be seen");
    }

    #[test]
    fn where_old_ones_are_freed_as_well_no_age_is_old() {
        let alive: Vec<u64> = (1..=10).map(|i| i * 100 * SECOND).collect();
        assert_eq!(of(&alive, &[900 * SECOND; 3]).old_age(1000 * SECOND), None);
    }

    #[test]
    fn survivors_count_as_evidence_and_deaths_against_it() {
        let alive: Vec<u64> = (1..=30).map(|i| i * 20 * SECOND).collect();
        let [never, few, many] =
            [0, 1, 100].map(|freed| of(&alive, &vec![300 * SECOND; freed]).ln_evidence_of_no_end(1 << 34));
        assert!(never > few && few > 0.0 && many < 0.0, "{never} {few} {many}");
        // 30 blocks that lived from 17 s to up to 600 s, by hand: half the sum of ln(20 i / 17.18) for i = 1..30, times 0.99 for
        // the strongest of three alternatives, less ln 3 + ln 33.
        let sum: f64 = (1..=30).map(|i| (20.0 * f64::from(i) / 17.179_869).ln()).sum();
        assert!((never - (0.99 * 0.5 * sum - 99.0_f64.ln())).abs() < 0.1, "{never} {sum}");
    }

    #[test]
    fn tails_as_heavy_as_the_null_are_hardly_ever_mistaken_for_living_for_ever() {
        // Lives with exactly the null's tail, P(life > a) = (1 ms / a)^0.5, watched for 2^40 ns: at most one series in twenty may
        // have an e-value of 20 or more (Ville).
        let mut state = 7_u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
        };
        let mut exceeded = 0;
        for _ in 0..400 {
            let (mut alive, mut freed) = (Vec::new(), Vec::new());
            for i in 1..=200_u64 {
                let age = i * (1 << 40) / 200;
                let life = (1e6 * next().powi(-2)).min(1e18) as u64;
                if life < age { freed.push(life) } else { alive.push(age) }
            }
            let mut fates = Fates::of(&evidence(&[], &freed), 0);
            for age in alive {
                fates.alive[bucket(age)] += 1;
                fates.ln_ages[bucket(age)] += (age as f64).ln();
            }
            let ages = AGES.map(|b| fates.ln_evidence_of_no_end(1 << b));
            exceeded += u32::from(ages.fold(f64::MIN, f64::max) >= 20.0_f64.ln());
        }
        assert!(exceeded <= 20, "{exceeded}");
    }
}
