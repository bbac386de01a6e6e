//! Order statistics of a sample, and ratios pair by pair.

/// Measurements in the order they were made.
#[derive(Default)]
pub struct Sample(Vec<f64>);

impl Sample {
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn values(&self) -> &[f64] {
        &self.0
    }

    /// The `q` quantile, by linear interpolation between order statistics (Hyndman and Fan 1996, definition 7).
    pub fn quantile(&self, q: f64) -> f64 {
        quantile(&self.0, q)
    }

    /// Median and quartiles of this sample's ratios to `base`, run by run.
    pub fn ratio_to(&self, base: &Self) -> (f64, f64, f64) {
        let ratios: Vec<f64> = self.0.iter().zip(&base.0).map(|(a, b)| a / b).collect();
        (quantile(&ratios, 0.5), quantile(&ratios, 0.25), quantile(&ratios, 0.75))
    }
}

fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let position = q * last as f64;
    let (low, high) = (sorted[position.floor() as usize], sorted[position.ceil() as usize]);
    low + (high - low) * position.fract()
}
