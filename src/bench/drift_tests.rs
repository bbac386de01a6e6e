use super::*;
use crate::bench::statistics::{mean, permutation_test};

/// Draws of the normal distribution with mean 0 and deviation 1 (Box and Muller 1958).
fn normal(rng: &mut Rng) -> f64 {
    (-2.0 * (1.0 - rng.f64()).ln()).sqrt() * (std::f64::consts::TAU * rng.f64()).cos()
}

/// Runs of a start of 2 ms, with a tenth of noise, on a machine whose speed drifts by a tenth: an autoregression that forgets half in
/// `half` runs. Beside each the run of a subject that takes 1.4 ms there, in the same turn.
fn drifting(rng: &mut Rng, runs: usize, half: f64) -> [Sample; 2] {
    let keep = 0.5f64.powf(1.0 / half);
    let mut speed = normal(rng);
    let (mut ours, mut other) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        speed = keep * speed + (1.0 - keep * keep).sqrt() * normal(rng);
        let drift = (0.1 * speed).exp();
        ours.push(2000.0 * drift * (0.1 * normal(rng)).exp());
        other.push(1400.0 * drift * (0.1 * normal(rng)).exp());
    }
    [Sample::new(ours), Sample::new(other)]
}

/// Proves that on a machine whose speed drifts within a report the interval holds the truth about as often as it says, and that the
/// one which takes each run for independent does so far less often.
#[test]
fn intervals_hold_the_truth_where_the_machine_drifts() {
    let mut rng = Rng::with_seed(5);
    let (mut few, mut independent) = (0, 0);
    for _ in 0..100 {
        let [sample, _] = drifting(&mut rng, 40, 4.0);
        few += usize::from(median(&sample).interval.contains(2000.0));
        independent += usize::from(sample.quantile_estimate(0.5).interval.contains(2000.0));
    }
    assert!((86..=99).contains(&few) && independent < 80, "{few} and {independent} of 100");
}

/// Proves that three reports made one after the other, their runs spread over as long as the machine drifts, agree within their
/// intervals, which they seldom do by intervals that take each run for independent.
#[test]
fn three_reports_agree() {
    let mut rng = Rng::with_seed(6);
    let agree = |samples: &[Sample], of: fn(&Sample) -> Estimate| {
        let intervals: Vec<_> = samples.iter().map(|sample| of(sample).interval).collect();
        intervals.iter().all(|a| intervals.iter().all(|b| a.overlaps(*b)))
    };
    let (mut few, mut independent) = (0, 0);
    for _ in 0..50 {
        let [all, _] = drifting(&mut rng, 120, 6.0);
        let reports: Vec<_> = all.values().chunks(40).map(|runs| Sample::new(runs.to_vec())).collect();
        few += usize::from(agree(&reports, median));
        independent += usize::from(agree(&reports, |sample| sample.quantile_estimate(0.5)));
    }
    assert!(few >= 46 && independent < 35, "{few} and {independent} of 50");
}

/// Proves that where nothing drifts the interval holds the truth as often too, though it is wider than need be.
#[test]
fn intervals_hold_the_truth_where_nothing_drifts() {
    let mut rng = Rng::with_seed(7);
    let held = (0..300).filter(|_| {
        let sample = Sample::new((0..40).map(|_| (0.1 * normal(&mut rng)).exp()).collect());
        // The mean of a lognormal distribution.
        estimate(&sample, |values| mean(values)).interval.contains(0.005f64.exp())
    });
    let held = held.count();
    assert!((270..=297).contains(&held), "{held} of 300");
}

/// Proves that two reports of one start, between which the machine became a fifth slower, are told apart by times, and not by
/// ratios turn by turn; and that a start which became a fifth slower by itself is.
#[test]
fn ratios_tell_the_machine_from_the_subject() {
    let mut rng = Rng::with_seed(8);
    let (mut by_time, mut by_ratio, mut real) = (0, 0, 0);
    for _ in 0..20 {
        let [[a, base_a], [b, base_b]] = [0; 2].map(|_| drifting(&mut rng, 40, 4.0));
        let times = |sample: &Sample, by: f64| Sample::new(sample.values().iter().map(|us| us * by).collect());
        let ratios =
            |a: &Sample, b: &Sample| Sample::new(a.values().iter().zip(b.values()).map(|(a, b)| a / b).collect());
        let slower = times(&b, 1.2);
        let before = ratios(&a, &base_a);
        by_time += usize::from(permutation_test(&a, &slower, |values| quantile(values, 0.5), 1000) < 0.05);
        by_ratio += usize::from(shift(&before, &ratios(&slower, &times(&base_b, 1.2))).p < 0.05);
        real += usize::from(shift(&before, &ratios(&slower, &base_b)).p < 0.05);
    }
    assert!(by_time > 12 && by_ratio <= 3 && real >= 19, "{by_time}, {by_ratio} and {real} of 20");
}

/// Proves that the interval is Student's of the stretches' logarithms: 3.182 deviations over the root of four, and that a change's
/// is Welch's.
#[test]
fn intervals_are_students() {
    let sample = Sample::new([1.0f64, 2.0, 3.0, 4.0].iter().flat_map(|log| [log.exp(); 3]).collect());
    let found = median(&sample);
    let half = 3.182_446 * (5.0f64 / 3.0 / 4.0).sqrt();
    assert!((found.value.ln() - 2.5).abs() < 0.2, "{found:?}");
    assert!(((found.interval.high / found.value).ln() - half).abs() < 1e-5, "{found:?}");
    assert!(((found.value / found.interval.low).ln() - half).abs() < 1e-5, "{found:?}");
    let eight = |by: f64| Sample::new((0..8).map(|i| by * f64::from(i % 2).exp()).collect());
    let shift = shift(&eight(1.0), &eight(2.0));
    // Logarithms of 0 and 1 by turns: a variance of 2/7, of eight, twice, with seven degrees of freedom.
    let half = 2.364_624 * (2.0f64 * 2.0 / 7.0 / 8.0).sqrt();
    assert!(((shift.ratio.interval.high / shift.ratio.value).ln() - half).abs() < 1e-5, "{shift:?}");
    assert!((shift.ratio.value - 2.0).abs() < 1e-9);
}

/// Proves that few runs get the bootstrap's interval, that no run is lost from the stretches, and that nothing is found in nothing.
#[test]
fn few_runs_have_no_stretches() {
    let few = Sample::new(vec![1.0, 2.0, 3.0]);
    assert_eq!(median(&few), few.quantile_estimate(0.5));
    let zero = Sample::new(vec![0.0; 20]);
    assert_eq!(median(&zero), zero.quantile_estimate(0.5));
    let values: Vec<f64> = (0..19).map(f64::from).collect();
    let cut = stretches(&values, 4);
    assert_eq!(cut.iter().map(|stretch| stretch.len()).collect::<Vec<_>>(), [4, 5, 5, 5]);
    assert_eq!(cut.concat(), values);
    assert!((shift(&few, &few).p - 1.0).abs() < 1e-9 && (shift(&few, &Sample::default()).p - 1.0).abs() < 1e-9);
}
