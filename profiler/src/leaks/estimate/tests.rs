use profiler_common::sample::{Sampling, threshold, weight};

use super::*;

const MEAN: u64 = 512 << 10;

/// A generator of its own (xorshift64*), so that every run is the same.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32
    }

    fn part(&mut self) -> f64 {
        f64::from(self.roll()) / f64::from(u32::MAX)
    }
}

#[derive(Default, Debug)]
struct Score {
    runs: f64,
    error: f64,
    covered: f64,
    too_high: f64,
    too_low: f64,
    width: f64,
    ideal: f64,
    samples: f64,
}

impl Score {
    fn add(&mut self, got: Estimate, truth: f64, deviation: f64, samples: u64) {
        self.runs += 1.0;
        self.error += got.value - truth;
        // What is exact may differ by the rounding of sums.
        let rounding = truth * 1e-12;
        if got.low > truth + rounding {
            self.too_high += 1.0;
        } else if got.high < truth - rounding {
            self.too_low += 1.0;
        } else {
            self.covered += 1.0;
        }
        self.width += got.high - got.low;
        self.ideal += 2.0 * 1.96 * deviation;
        self.samples += samples as f64;
    }

    fn show(&self, name: &str, truth: f64) {
        println!(
            "{name:40} samples {:7.1} bias {:+.3}% cover {:.2}% (above {:.2}% below {:.2}%) width/ideal {:.3}",
            self.samples / self.runs,
            100.0 * self.error / self.runs / truth,
            100.0 * self.covered / self.runs,
            100.0 * self.too_high / self.runs,
            100.0 * self.too_low / self.runs,
            self.width / self.ideal,
        );
    }
}

/// Draws from a population again and again.
fn simulate(name: &str, sizes: &[u64], runs: u32, seed: u64) -> (Score, Score) {
    let sampling = Sampling::with_mean(MEAN);
    let drawn: Vec<(u64, u64)> = sizes.iter().map(|bytes| (*bytes, threshold(*bytes, sampling))).collect();
    let total: f64 = sizes.iter().map(|bytes| *bytes as f64).sum();
    let (mut variance, mut objects_variance) = (0.0, 0.0);
    for (bytes, threshold) in &drawn {
        let odds = weight(*threshold) - 1.0;
        variance += (*bytes as f64).powi(2) * odds;
        objects_variance += odds;
    }
    let mut dice = Dice(seed);
    let (mut of_bytes, mut of_objects) = (Score::default(), Score::default());
    for _ in 0..runs {
        let (mut sum, mut missed) = (Sum::default(), Missed::default());
        for (bytes, threshold) in &drawn {
            if u64::from(dice.roll()) < *threshold {
                sum.add(&Sum::of(weight(*threshold), *bytes));
                missed.learn(weight(*threshold), *bytes);
            }
        }
        if sum.n == 0 {
            missed = Missed::by_mean(MEAN);
        }
        of_bytes.add(bytes(&sum, missed), total, variance.sqrt(), sum.n);
        of_objects.add(objects(&sum, missed), sizes.len() as f64, objects_variance.sqrt(), sum.n);
    }
    of_bytes.show(&format!("{name}, bytes"), total);
    of_objects.show(&format!("{name}, objects"), sizes.len() as f64);
    (of_bytes, of_objects)
}

fn mixed(count: usize, seed: u64) -> Vec<u64> {
    let mut dice = Dice(seed);
    (0..count).map(|_| (16.0 * f64::powf(262_144.0, dice.part())) as u64).collect()
}

#[test]
fn explore() {
    simulate("64 B, 3 samples", &vec![64; 3 * 8192], 2000, 1);
    simulate("64 B, 1 sample", &vec![64; 8192], 4000, 1);
    simulate("64 B, 10 samples", &vec![64; 10 * 8192], 2000, 2);
    simulate("4 KiB, 3", &vec![4096; 3 * 128], 20000, 1);
    simulate("4 KiB, 10", &vec![4096; 10 * 128], 20000, 1);
    simulate("4 KiB, 100", &vec![4096; 100 * 128], 5000, 1);
    simulate("mean/2, 10", &vec![MEAN / 2; 10], 20000, 1);
    simulate("mean, 3", &vec![MEAN; 3], 50000, 1);
    simulate("mean, 10", &vec![MEAN; 10], 50000, 1);
    simulate("2 mean, 5", &vec![2 * MEAN; 5], 50000, 1);
    simulate("4 mean, 5", &vec![4 * MEAN; 5], 50000, 1);
    simulate("4 mean, 50", &vec![4 * MEAN; 50], 50000, 1);
    simulate("mixed 3", &mixed(6, 3), 50000, 1);
    simulate("mixed 10", &mixed(30, 3), 50000, 1);
    simulate("mixed 30", &mixed(100, 3), 50000, 1);
    simulate("mixed 1000", &mixed(5000, 3), 5000, 1);
    let mut both = vec![2 * MEAN; 20];
    both.extend(vec![40 * MEAN; 5]);
    simulate("40 mean x 5 and 2 mean x 20", &both, 50000, 1);
    let mut both = vec![64; 8192];
    both.extend(vec![4 * MEAN; 5]);
    simulate("64 B x 8192 and 4 mean x 5", &both, 5000, 1);
    simulate("certain", &vec![24 * MEAN; 7], 100, 1);
}
