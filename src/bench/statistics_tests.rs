use super::*;
use fastrand::Rng;
use proptest::prelude::*;

/// Proves quantiles by a published example: R's `quantile(c(...), type = 8)` of 1 to 10 at the quartiles (Hyndman and Fan's
/// definition 8: position q (n + 1/3) + 1/3).
#[test]
fn quantiles_are_definition_8() {
    let sample = Sample::new((1..=10).rev().map(f64::from).collect());
    for (q, expected) in [(0.0, 1.0), (0.25, 2.9167), (0.5, 5.5), (0.75, 8.0833), (1.0, 10.0)] {
        assert!((sample.quantile(q) - expected).abs() < 1e-3, "{q}: {}", sample.quantile(q));
    }
    assert!(Sample::default().quantile(0.5).is_nan() && Sample::default().summary().is_none());
}

/// Proves that a summary is of the whole sample and keeps its order.
#[test]
fn a_summary_says_what_the_sample_has() {
    let sample = Sample::new((0..10_000).map(|i| f64::from((i * 7919) % 10_000)).collect());
    let summary = sample.summary().unwrap();
    assert_eq!((summary.count, summary.min, summary.max), (10_000, 0.0, 9999.0));
    for (is, should) in [(summary.p50, 4999.5), (summary.p90, 8999.5), (summary.p99, 9899.5), (summary.p999, 9989.5)] {
        assert!((is - should).abs() < 1.0, "{is} {should}");
    }
    assert!((summary.mean.value - 4999.5).abs() < 1e-9 && summary.mean.interval.contains(4999.5));
    assert_eq!(sample.values()[1], 7919.0);
}

/// Draws of the normal distribution with mean 0 and deviation 1 (Box and Muller 1958).
fn normal(rng: &mut Rng) -> f64 {
    (-2.0 * (1.0 - rng.f64()).ln()).sqrt() * (std::f64::consts::TAU * rng.f64()).cos()
}

/// Proves that the interval of the mean holds the true mean about as often as it says: 95 in 100 of 300 samples.
#[test]
fn intervals_cover_at_their_level() {
    let mut rng = Rng::with_seed(1);
    let covered = (0..300)
        .filter(|_| {
            let sample = Sample::new((0..40).map(|_| 5.0 + normal(&mut rng)).collect());
            sample.estimate(|values| mean(values)).interval.contains(5.0)
        })
        .count();
    // The percentile bootstrap covers a little less than its level for 40 values.
    assert!((265..=297).contains(&covered), "{covered} of 300");
}

/// Proves that the interval of the mean is as wide as the normal theory says: 2 * 1.96 / sqrt(n).
#[test]
fn intervals_have_the_right_width() {
    let mut rng = Rng::with_seed(2);
    let sample = Sample::new((0..2500).map(|_| normal(&mut rng)).collect());
    let interval = sample.estimate(|values| mean(values)).interval;
    let width = (interval.high - interval.low) / (2.0 * 1.96 / 50.0);
    assert!((0.9..1.1).contains(&width), "{width}");
}

/// Proves that ratios pair by pair do not see a drift that both share, which the ratio of medians in turn survives only wider.
#[test]
fn ratios_by_pairs_cancel_drift() {
    let base = Sample::new((1..=50).map(f64::from).collect());
    let double = Sample::new((1..=50).map(|i| 2.0 * f64::from(i)).collect());
    let ratio = double.ratio_by_pairs(&base);
    assert_eq!((ratio.value, ratio.interval.low, ratio.interval.high), (2.0, 2.0, 2.0));
    let apart = double.ratio_of_quantiles(&base, 0.5);
    assert!((apart.value - 2.0).abs() < 1e-9 && apart.interval.contains(2.0));
    assert!(apart.interval.high - apart.interval.low > 0.3);
}

/// Proves that the test sees a real difference, and none between halves of the same.
#[test]
fn the_permutation_test_tells_apart() {
    let mut rng = Rng::with_seed(3);
    let mut make = |shift: f64| Sample::new((0..60).map(|_| shift + normal(&mut rng)).collect());
    let (a, same, other) = (make(0.0), make(0.0), make(1.0));
    let by_mean = |a: &Sample, b: &Sample| permutation_test(a, b, |values| mean(values), 2000);
    assert!(by_mean(&a, &other) < 0.001, "{}", by_mean(&a, &other));
    assert!(by_mean(&a, &same) > 0.05, "{}", by_mean(&a, &same));
    assert_eq!(by_mean(&a, &a.clone()), 1.0);
    assert_eq!(by_mean(&a, &Sample::default()), 1.0);
}

/// Proves the exact p-value of a small case: 3 against 3 values, wholly apart, is 2 of the 20 ways to divide six.
#[test]
fn the_permutation_test_is_right_for_a_small_case() {
    let (a, b) = (Sample::new(vec![1.0, 2.0, 3.0]), Sample::new(vec![11.0, 12.0, 13.0]));
    let p = permutation_test(&a, &b, |values| mean(values), 20_000);
    assert!((p - 0.1).abs() < 0.01, "{p}");
}

/// Proves that outliers are named by where they are.
#[test]
fn outliers_are_found() {
    let mut values: Vec<f64> = (0..100).map(f64::from).collect();
    values[40] = 1000.0;
    values[7] = -900.0;
    assert_eq!(Sample::new(values).outliers(), [7, 40]);
    assert!(Sample::new(vec![1.0; 5]).outliers().is_empty());
}

proptest! {
    /// Proves that quantiles are ordered, between the ends, and do not depend on the order of the measurements.
    #[test]
    fn quantiles_are_ordered(values in proptest::collection::vec(-1e9f64..1e9, 1..200), q in 0.0f64..=1.0, r in 0.0f64..=1.0) {
        let sample = Sample::new(values.clone());
        let (low, high) = (sample.quantile(q.min(r)), sample.quantile(q.max(r)));
        prop_assert!(low <= high + 1e-6);
        let sorted = sample.sorted();
        prop_assert!(sorted[0] <= low && high <= sorted[sorted.len() - 1]);
        prop_assert_eq!(Sample::new(sorted).quantile(q), sample.quantile(q));
    }

    /// Proves that the same sample always gives the same interval, and that it lies within the sample.
    #[test]
    fn intervals_are_reproducible(values in proptest::collection::vec(0f64..1e6, 1..50)) {
        let sample = Sample::new(values);
        let (first, second) = (sample.quantile_estimate(0.9), sample.quantile_estimate(0.9));
        prop_assert_eq!(first, second);
        let sorted = sample.sorted();
        prop_assert!(sorted[0] <= first.interval.low && first.interval.high <= sorted[sorted.len() - 1]);
        prop_assert!(first.interval.low <= first.interval.high);
    }
}
