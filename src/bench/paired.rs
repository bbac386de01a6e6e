//! Statistics of two conditions measured in turns: short slices of time, each pair with one slice of either.
//!
//! Measurements of one slice are alike: they share what else the machine did. So not measurements but pairs of slices are
//! resampled, whole and with replacement: the bootstrap of blocks that do not overlap, Carlstein, "The Use of Subseries Values for
//! Estimating the Variance of a General Statistic from a Stationary Sequence", The Annals of Statistics 14 (1986), and Davison and
//! Hinkley, "Bootstrap Methods and their Application" (1997), section 8.2.3. A pair stays together, so that what slowed both of its
//! slices stays in both conditions. Intervals are percentile intervals, as in [`super::statistics`].

use fastrand::Rng;

use super::statistics::{Estimate, Interval, RESAMPLES, SEED, Sample, middle};

/// What was measured in one slice of each condition, one right after the other.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pair {
    /// Without the treatment.
    pub base: Vec<f64>,
    /// With it.
    pub treated: Vec<f64>,
}

/// Pairs of slices.
#[derive(Clone, Debug)]
pub struct Pairs<'a> {
    pairs: &'a [Pair],
    base: Ordered,
    treated: Ordered,
}

/// Measurements from small to large, each with the pair it comes from, and how many each pair has.
#[derive(Clone, Debug)]
struct Ordered {
    values: Vec<(f64, usize)>,
    sizes: Vec<usize>,
}

impl Ordered {
    fn of<'s>(slices: impl Iterator<Item = &'s Vec<f64>>) -> Self {
        let (mut values, mut sizes) = (Vec::new(), Vec::new());
        for (pair, slice) in slices.enumerate() {
            values.extend(slice.iter().map(|value| (*value, pair)));
            sizes.push(slice.len());
        }
        values.sort_by(|a, b| a.0.total_cmp(&b.0));
        Self { values, sizes }
    }

    /// The `q` quantile (Hyndman and Fan's definition 8) when each pair is there as many times as `times` says; NaN for none.
    fn quantile(&self, q: f64, times: &[usize]) -> f64 {
        let count: usize = self.sizes.iter().zip(times).map(|(size, times)| size * times).sum();
        if count == 0 {
            return f64::NAN;
        }
        let third = 1.0 / 3.0;
        let position = ((count as f64 + third) * q + third).clamp(1.0, count as f64);
        let (low, high) = self.neighbours(position.floor() as usize, count, times);
        low + position.fract() * (high - low)
    }

    /// The `n`th of `count` measurements, from 1 up, and the one after, found from whichever end is nearer.
    fn neighbours(&self, n: usize, count: usize, times: &[usize]) -> (f64, f64) {
        let there = |(_, pair): &&(f64, usize)| times[*pair] > 0;
        let next = (n + 1).min(count);
        let (mut low, mut high, mut seen) = (None, None, 0);
        if n <= count / 2 {
            for (value, pair) in self.values.iter().filter(there) {
                seen += times[*pair];
                low = low.or((seen >= n).then_some(*value));
                if seen >= next {
                    high = Some(*value);
                    break;
                }
            }
        } else {
            for (value, pair) in self.values.iter().rev().filter(there) {
                seen += times[*pair];
                high = high.or((count - seen < next).then_some(*value));
                if count - seen < n {
                    low = Some(*value);
                    break;
                }
            }
        }
        (low.unwrap_or(f64::NAN), high.unwrap_or(f64::NAN))
    }
}

impl<'a> Pairs<'a> {
    /// The given pairs.
    pub fn new(pairs: &'a [Pair]) -> Self {
        let base = Ordered::of(pairs.iter().map(|pair| &pair.base));
        let treated = Ordered::of(pairs.iter().map(|pair| &pair.treated));
        Self { pairs, base, treated }
    }

    /// The ratio of the `q` quantile of all treated measurements to that of all others.
    pub fn ratio_of_quantiles(&self, q: f64) -> Estimate {
        self.estimate(|times| self.treated.quantile(q, times) / self.base.quantile(q, times))
    }

    /// The median of the ratios of `q` quantiles pair by pair: a machine whose speed drifts treats both of a pair alike, and a
    /// slice in which it stood still is one of many.
    pub fn median_of_ratios(&self, q: f64) -> Estimate {
        self.ratios(q).quantile_estimate(0.5)
    }

    /// The ratio of `q` quantiles of each pair.
    pub fn ratios(&self, q: f64) -> Sample {
        let of = |values: &[f64]| Sample::new(values.to_vec()).quantile(q);
        Sample::new(self.pairs.iter().map(|pair| of(&pair.treated) / of(&pair.base)).collect())
    }

    /// The means of both conditions, the treated one last.
    pub fn means(&self) -> [Estimate; 2] {
        let sums = |of: fn(&Pair) -> &Vec<f64>| -> Vec<(f64, usize)> {
            self.pairs.iter().map(|pair| (of(pair).iter().sum(), of(pair).len())).collect()
        };
        [sums(|pair| &pair.base), sums(|pair| &pair.treated)].map(|sums| {
            self.estimate(|times| {
                let of = |(total, count), ((sum, len), times): (&(f64, usize), &usize)| {
                    (total + sum * *times as f64, count + len * times)
                };
                let (total, count) = sums.iter().zip(times).fold((0.0, 0), of);
                total / count as f64
            })
        })
    }

    /// A statistic of the pairs, each taken as many times as it is told, with its interval.
    fn estimate(&self, statistic: impl Fn(&[usize]) -> f64) -> Estimate {
        let count = self.pairs.len();
        let value = statistic(&vec![1; count]);
        if count == 0 {
            return Estimate { value, interval: Interval { low: f64::NAN, high: f64::NAN } };
        }
        let mut rng = Rng::with_seed(SEED);
        let replicates = (0..RESAMPLES).map(|_| {
            let mut times = vec![0; count];
            (0..count).for_each(|_| times[rng.usize(..count)] += 1);
            statistic(&times)
        });
        Estimate { value, interval: middle(replicates.collect()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::statistics::quantile;

    /// Proves that a quantile with each pair counted so and so often is that of the measurements written out so often.
    #[test]
    fn counted_quantiles_are_those_written_out() {
        let mut rng = Rng::with_seed(7);
        let pairs: Vec<Pair> =
            (0..6).map(|i| Pair { base: (0..20 + i).map(|_| rng.f64()).collect(), treated: vec![1.0] }).collect();
        let measured = Pairs::new(&pairs);
        for times in [[1; 6], [0, 3, 1, 0, 2, 0], [0, 0, 0, 0, 0, 6]] {
            let mut all: Vec<f64> = Vec::new();
            for (pair, times) in pairs.iter().zip(times) {
                (0..times).for_each(|_| all.extend(&pair.base));
            }
            for q in [0.0, 0.01, 0.5, 0.9, 0.99, 0.999, 1.0] {
                let (is, should) = (measured.base.quantile(q, &times), quantile(&mut all, q));
                assert!((is - should).abs() < 1e-9, "{q} {times:?}: {is} {should}");
            }
        }
        assert!(Pairs::new(&[]).ratio_of_quantiles(0.5).value.is_nan());
    }

    /// Pairs with a common factor of their own, as a busy machine makes, and a true ratio of `effect`.
    fn drifting(rng: &mut Rng, effect: f64) -> Vec<Pair> {
        let slice = |rng: &mut Rng, scale: f64| (0..30).map(|_| scale * (1.0 + rng.f64())).collect();
        (0..25)
            .map(|_| {
                let drift = 1.0 + 4.0 * rng.f64();
                Pair { base: slice(rng, drift), treated: slice(rng, drift * effect) }
            })
            .collect()
    }

    /// Proves on a machine whose speed changes five-fold from pair to pair, where the ratio of conditions is known, that the interval
    /// of blocks holds it as often as it says (within what 60 tries tell), and that the one that takes measurements as
    /// independent holds the truth of such a mean far less often.
    #[test]
    fn intervals_hold_the_truth_where_the_machine_drifts() {
        let mut rng = Rng::with_seed(11);
        let (mut medians, mut pooled, mut blocks, mut independent) = (0, 0, 0, 0);
        // Of the drift's uniform 1 to 5, and 1 to 2 within a slice.
        let mean = 3.0 * 1.5;
        for _ in 0..60 {
            let pairs = drifting(&mut rng, 1.25);
            let measured = Pairs::new(&pairs);
            medians += usize::from(measured.median_of_ratios(0.5).interval.contains(1.25));
            pooled += usize::from(measured.ratio_of_quantiles(0.5).interval.contains(1.25));
            blocks += usize::from(measured.means()[0].interval.contains(mean));
            let all = Sample::new(pairs.iter().flat_map(|pair| &pair.base).copied().collect());
            let taken = all.estimate(|values| values.iter().sum::<f64>() / values.len() as f64);
            independent += usize::from(taken.interval.contains(mean));
        }
        let told = format!("{medians} {pooled} {blocks} {independent} of 60");
        assert!(medians >= 51 && pooled >= 51 && blocks >= 51 && independent < 30, "{told}");
    }
}
