//! Statistics of samples that are kept whole. Every method is named with its source.
//!
//! - Quantiles: by interpolation between order statistics, Hyndman and Fan, "Sample Quantiles in Statistical Packages", The
//!   American Statistician 50 (1996), definition 8, which they recommend; by the crate `statrs`.
//! - Confidence intervals: the percentile bootstrap, Efron and Tibshirani, "An Introduction to the Bootstrap" (1993),
//!   chapter 13, from a seeded generator, so that the same samples always give the same interval.
//! - Tests: a permutation test of the difference of two statistics, Good, "Permutation Tests" (2000), section 3.2, with the
//!   p-value (b + 1) / (m + 1) of Phipson and Smyth, "Permutation P-values Should Never Be Zero" (2010).
//! - Outliers: outside Tukey's outer fences, "Exploratory Data Analysis" (1977), section 2D. They are named, never dropped.

use fastrand::Rng;
use serde::Serialize;
use statrs::statistics::{Data, OrderStatistics};

/// The level of every interval here.
pub const LEVEL: f64 = 0.95;
/// Resamples of a bootstrap: Efron and Tibshirani ask for 1,000 or more for an interval.
pub const RESAMPLES: usize = 2000;
/// Shuffles of a permutation test.
pub const SHUFFLES: usize = 10_000;
/// Values drawn for bootstraps in all, at most: large samples get fewer resamples, as their intervals need fewer to settle.
const DRAWS_MAX: usize = 5_000_000;
/// Fewest resamples.
const RESAMPLES_MIN: usize = 200;
/// Where the generators start.
pub(super) const SEED: u64 = 0x7269_6e67_6665_6e63;

/// Measurements in the order they were made.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Sample(Vec<f64>);

/// Two ends between which a figure lies, at [`LEVEL`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Interval {
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

impl Interval {
    /// Whether `value` lies between the ends.
    pub fn contains(self, value: f64) -> bool {
        self.low <= value && value <= self.high
    }

    /// Whether any value lies in both.
    pub fn overlaps(self, other: Self) -> bool {
        self.low <= other.high && other.low <= self.high
    }
}

/// A figure and how far it can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// The figure.
    pub value: f64,
    /// Its bootstrap confidence interval.
    pub interval: Interval,
}

/// What a table shows of a sample, in the sample's unit.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// How many values there are.
    pub count: usize,
    /// The smallest.
    pub min: f64,
    /// Half are at most this.
    pub p50: f64,
    /// Nine in ten are at most this.
    pub p90: f64,
    /// 99 in 100 are at most this.
    pub p99: f64,
    /// 999 in 1,000 are at most this.
    pub p999: f64,
    /// The largest.
    pub max: f64,
    /// The arithmetic mean, with its interval.
    pub mean: Estimate,
}

impl Sample {
    /// A sample of the given values.
    pub fn new(values: Vec<f64>) -> Self {
        Self(values)
    }

    /// Adds a measurement.
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// Adds another sample's measurements after this one's.
    pub fn append(&mut self, other: &Self) {
        self.0.extend_from_slice(&other.0);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The measurements, in their order.
    pub fn values(&self) -> &[f64] {
        &self.0
    }

    /// The measurements from small to large.
    pub fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }

    /// The `q` quantile, `q` from 0 to 1 (Hyndman and Fan's definition 8); NaN for an empty sample.
    pub fn quantile(&self, q: f64) -> f64 {
        quantile(&mut self.0.clone(), q)
    }

    /// The median.
    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// The arithmetic mean; NaN for an empty sample.
    pub fn mean(&self) -> f64 {
        mean(&self.0)
    }

    /// What a table shows; `None` for an empty sample.
    pub fn summary(&self) -> Option<Summary> {
        let sorted = self.sorted();
        let (&min, &max) = (sorted.first()?, sorted.last()?);
        let mut sorted_mut = sorted.clone();
        let mut at = |q| quantile(&mut sorted_mut, q);
        Some(Summary {
            count: sorted.len(),
            min,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max,
            mean: self.estimate(|values| mean(values)),
        })
    }

    /// A statistic with its percentile bootstrap interval. The statistic may reorder what it is given.
    ///
    /// Resampling takes the measurements to be independent. Those of one process in a row rarely are, so that the true
    /// interval is somewhat wider; repeating whole runs shows by how much.
    pub fn estimate(&self, statistic: impl Fn(&mut [f64]) -> f64) -> Estimate {
        let value = statistic(&mut self.0.clone());
        let mut rng = Rng::with_seed(SEED);
        let mut drawn = vec![0.0; self.len()];
        let replicates = (0..resamples(self.len())).map(|_| {
            draw(&self.0, &mut drawn, &mut rng);
            statistic(&mut drawn)
        });
        Estimate { value, interval: middle(replicates.collect()) }
    }

    /// The `q` quantile with its interval.
    pub fn quantile_estimate(&self, q: f64) -> Estimate {
        self.estimate(|values| quantile(values, q))
    }

    /// The median of the ratios pair by pair, this sample's measurement over the one of `base` made in the same turn, with
    /// its interval. A machine whose speed drifts treats both of a pair alike.
    pub fn ratio_by_pairs(&self, base: &Self) -> Estimate {
        let ratios = Self(self.0.iter().zip(&base.0).map(|(a, b)| a / b).collect());
        ratios.quantile_estimate(0.5)
    }

    /// The ratio of this sample's `q` quantile to that of `base`, both resampled apart from each other.
    pub fn ratio_of_quantiles(&self, base: &Self, q: f64) -> Estimate {
        let value = self.quantile(q) / base.quantile(q);
        let mut rng = Rng::with_seed(SEED);
        let (mut a, mut b) = (vec![0.0; self.len()], vec![0.0; base.len()]);
        let replicates = (0..resamples(self.len() + base.len())).map(|_| {
            draw(&self.0, &mut a, &mut rng);
            draw(&base.0, &mut b, &mut rng);
            quantile(&mut a, q) / quantile(&mut b, q)
        });
        Estimate { value, interval: middle(replicates.collect()) }
    }

    /// Indices of the measurements outside Tukey's outer fences (three times the distance of the quartiles beyond them).
    pub fn outliers(&self) -> Vec<usize> {
        let (low, high) = (self.quantile(0.25), self.quantile(0.75));
        let fence = 3.0 * (high - low);
        let outside = |value: f64| value < low - fence || value > high + fence;
        (0..self.len()).filter(|&i| outside(self.0[i])).collect()
    }
}

/// The probability that two samples of one and the same distribution differ in `statistic` by at least as much as these do
/// (two-sided permutation test of `shuffles` shuffles); 1 when either is empty.
pub fn permutation_test(a: &Sample, b: &Sample, statistic: impl Fn(&mut [f64]) -> f64, shuffles: usize) -> f64 {
    if a.is_empty() || b.is_empty() {
        return 1.0;
    }
    let difference = |values: &mut [f64]| {
        let (left, right) = values.split_at_mut(a.len());
        (statistic(left) - statistic(right)).abs()
    };
    let mut pool: Vec<f64> = a.0.iter().chain(&b.0).copied().collect();
    let observed = difference(&mut pool.clone());
    // Sums in another order round differently: what differs by that alone is no less extreme.
    let tolerance = observed * 1e-12;
    let mut rng = Rng::with_seed(SEED);
    let extreme = (0..shuffles)
        .filter(|_| {
            rng.shuffle(&mut pool);
            difference(&mut pool.clone()) >= observed - tolerance
        })
        .count();
    (extreme + 1) as f64 / (shuffles + 1) as f64
}

/// The `q` quantile of values that may be reordered; NaN for none.
pub fn quantile(values: &mut [f64], q: f64) -> f64 {
    if values.is_empty() { f64::NAN } else { Data::new(values).quantile(q) }
}

/// The arithmetic mean; NaN for none.
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn resamples(values: usize) -> usize {
    (DRAWS_MAX / values.max(1)).clamp(RESAMPLES_MIN, RESAMPLES)
}

/// Draws with replacement.
fn draw(from: &[f64], into: &mut [f64], rng: &mut Rng) {
    for value in into {
        *value = from[rng.usize(..from.len())];
    }
}

/// The middle [`LEVEL`] of a statistic's replicates.
pub(super) fn middle(mut replicates: Vec<f64>) -> Interval {
    let tail = (1.0 - LEVEL) / 2.0;
    Interval { low: quantile(&mut replicates, tail), high: quantile(&mut replicates, 1.0 - tail) }
}

#[cfg(test)]
#[path = "statistics_tests.rs"]
mod tests;
