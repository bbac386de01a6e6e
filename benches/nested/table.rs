//! A table of samples, with the ratios of those that were measured in the same turns.

use ringfence::bench::statistics::Sample;

/// Prints a row for each subject that has measurements, with its ratio to the first one, turn by turn, and that
/// ratio's 95 % interval. `unit` is what a thousandth of a
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
        let ratio = sample.ratio_by_pairs(base);
        let (low, high) = (ratio.interval.low, ratio.interval.high);
        println!("{}", if compared { format!("   {:.2} [{low:.2}, {high:.2}]", ratio.value) } else { String::new() });
    }
}
