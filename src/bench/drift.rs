//! Statistics of samples made one after the other on a machine whose speed drifts.
//!
//! Runs of the same minute are alike: a resampling that takes each for independent gives intervals that the next report, some
//! minutes later, is outside of. Here a sample is cut into a few stretches of consecutive runs, and only the stretches are taken
//! for independent.
//!
//! - Intervals: Student's t of the statistic in four stretches, Ibragimov and Mueller, "t-Statistic Based Correlation and
//!   Heterogeneity Robust Inference", Journal of Business & Economic Statistics 28 (2010); the older method of batch means,
//!   Schmeiser, "Batch Size Effects in the Analysis of Simulation Output", Operations Research 30 (1982), is the same for the
//!   mean. Few stretches are long ones, which slow drifts leave independent, and t pays for their number. On a scale of
//!   logarithms, as drift multiplies times.
//! - Changes between two samples: Welch's interval of the same statistics with the smaller number of stretches less one as degrees
//!   of freedom (Ibragimov and Mueller, "Inference with Few Heterogeneous Clusters", Review of Economics and Statistics 98, 2016),
//!   and a permutation test that shuffles stretches whole (Good, "Permutation Tests" (2000), on restricted shuffles).
//!
//! A drift slower than the whole sample no method can see in it: so runs are spread over minutes, and reports are compared by
//! ratios to what was measured in the same turns.

use fastrand::Rng;
use statrs::distribution::{ContinuousCDF, StudentsT};

use super::statistics::{Estimate, Interval, LEVEL, SEED, SHUFFLES, Sample, quantile};

/// Stretches of an interval.
pub const STRETCHES: usize = 4;
/// Stretches of each sample in a comparison: four could be shuffled in 70 ways only.
const SHUFFLED: usize = 8;
/// Fewest runs for an interval by stretches: two in each, for a stretch to tell more than its one run.
pub const RUNS_MIN: usize = 2 * STRETCHES;

/// What became of a figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shift {
    /// The median after over the median before.
    pub ratio: Estimate,
    /// The probability of a difference at least so large where there is none; 1 when a sample is empty.
    pub p: f64,
}

/// `count` stretches of consecutive values, as equal as can be; fewer when there are fewer values.
fn stretches(values: &[f64], count: usize) -> Vec<&[f64]> {
    let (len, count) = (values.len(), count.min(values.len()));
    (0..count).map(|i| &values[i * len / count..(i + 1) * len / count]).collect()
}

/// A statistic with an interval that holds though the machine drifted. Samples of fewer than eight values, too few for stretches,
/// get the bootstrap's ([`Sample::estimate`]); so do statistics that are not above zero.
pub fn estimate(sample: &Sample, statistic: impl Fn(&mut [f64]) -> f64) -> Estimate {
    let logs = |count| logs_of(sample.values(), count, &statistic);
    if sample.len() < RUNS_MIN || logs(STRETCHES).iter().any(|log| !log.is_finite()) {
        return sample.estimate(statistic);
    }
    let value = statistic(&mut sample.values().to_vec());
    let half = student(STRETCHES - 1) * (variance(&logs(STRETCHES)) / STRETCHES as f64).sqrt();
    // The whole sample's statistic need not be the middle of its stretches', but is never outside of its interval.
    Estimate { value, interval: Interval { low: value * (-half).exp(), high: value * half.exp() } }
}

/// The median with its interval.
pub fn median(sample: &Sample) -> Estimate {
    estimate(sample, |values| quantile(values, 0.5))
}

/// What became of the median. Values are above zero.
pub fn shift(before: &Sample, after: &Sample) -> Shift {
    let value = after.median() / before.median();
    let of = |sample: &Sample| logs_of(sample.values(), SHUFFLED, |values| quantile(values, 0.5));
    let (a, b) = (of(before), of(after));
    let error = |logs: &[f64]| variance(logs) / logs.len() as f64;
    let half = match a.len().min(b.len()) {
        0 | 1 => f64::INFINITY,
        fewest => student(fewest - 1) * (error(&a) + error(&b)).sqrt(),
    };
    let interval = Interval { low: value * (-half).exp(), high: value * half.exp() };
    Shift { ratio: Estimate { value, interval }, p: shuffled(before.values(), after.values()) }
}

/// The permutation test of the difference of medians of logarithms, stretches staying whole.
fn shuffled(before: &[f64], after: &[f64]) -> f64 {
    let (before, after) = (stretches(before, SHUFFLED), stretches(after, SHUFFLED));
    if before.is_empty() || after.is_empty() {
        return 1.0;
    }
    let median_of = |stretches: &[&[f64]]| quantile(&mut stretches.concat(), 0.5).ln();
    let difference = |all: &[&[f64]]| (median_of(&all[..before.len()]) - median_of(&all[before.len()..])).abs();
    let mut all: Vec<&[f64]> = before.iter().chain(&after).copied().collect();
    let observed = difference(&all);
    let tolerance = observed * 1e-12;
    let mut rng = Rng::with_seed(SEED);
    let extreme = (0..SHUFFLES).filter(|_| {
        rng.shuffle(&mut all);
        difference(&all) >= observed - tolerance
    });
    (extreme.count() + 1) as f64 / (SHUFFLES + 1) as f64
}

/// Logarithms of a statistic of each stretch.
fn logs_of(values: &[f64], count: usize, statistic: impl Fn(&mut [f64]) -> f64) -> Vec<f64> {
    stretches(values, count).into_iter().map(|stretch| statistic(&mut stretch.to_vec()).ln()).collect()
}

/// The sample variance.
fn variance(values: &[f64]) -> f64 {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (values.len() as f64 - 1.0)
}

/// How many deviations of Student's distribution with so many degrees of freedom are as likely as [`LEVEL`].
fn student(freedom: usize) -> f64 {
    StudentsT::new(0.0, 1.0, freedom as f64).map_or(f64::INFINITY, |t| t.inverse_cdf(f64::midpoint(1.0, LEVEL)))
}

#[cfg(test)]
#[path = "drift_tests.rs"]
mod tests;
