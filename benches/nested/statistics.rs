//! Order statistics of a sample, ratios pair by pair, and a table of them.

/// Measurements in the order they were made, in seconds.
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

impl<'a> FromIterator<&'a f64> for Sample {
    fn from_iter<I: IntoIterator<Item = &'a f64>>(values: I) -> Self {
        Self(values.into_iter().copied().collect())
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

/// Prints a row for each subject that has measurements, with its ratio to the first one. `unit` is what a thousandth of a
/// sample's values is: ms, where they are seconds.
pub fn print_table(title: &str, unit: &str, rows: &[(&str, &Sample)]) {
    let rows: Vec<_> = rows.iter().filter(|(_, sample)| !sample.is_empty()).collect();
    let Some((base_name, base)) = rows.first() else { return };
    let compared = rows.len() > 1;
    println!("\n{title}, {unit}");
    print!("{:<26}{:>5}", "", "runs");
    ["median", "p25", "p75", "min", "max"].iter().for_each(|name| print!("{name:>9}"));
    println!("{}", if compared { format!("   ratio to {base_name}") } else { String::new() });
    for (name, sample) in &rows {
        print!("{name:<26}{:>5}", sample.len());
        [0.5, 0.25, 0.75, 0.0, 1.0].iter().for_each(|q| print!("{:>9.2}", sample.quantile(*q) * 1e3));
        let (ratio, low, high) = sample.ratio_to(base);
        println!("{}", if compared { format!("   {ratio:.2} [{low:.2}, {high:.2}]") } else { String::new() });
    }
}
