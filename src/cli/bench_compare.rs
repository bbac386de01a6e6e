//! `ringfence bench compare`: two reports beside each other.

use std::fmt::Write;
use std::path::PathBuf;

use clap::Args;

use super::ps::print;
use crate::bench::diff::{self, Report, Verdict};
use crate::bench::table::{WIDTH, wrap};

/// Tell what changed between two reports of bench boot, and whether it is real
///
/// Exit status: 0 nothing became slower, 1 something really did, 125 they cannot be compared. Whether it is real is told by a
/// permutation test of the medians, adjusted for the number of comparisons; five runs in each report are the least.
#[derive(Debug, Args)]
pub struct CompareArgs {
    /// The report before: a file that bench boot --json wrote
    #[arg(value_name = "A.json")]
    before: PathBuf,
    /// The report after
    #[arg(value_name = "B.json")]
    after: PathBuf,
}

/// Runs `ringfence bench compare`.
///
/// # Errors
/// When a file is no report, or they have nothing in common.
pub fn run(args: &CompareArgs) -> anyhow::Result<i32> {
    let (before, after) = (Report::read(&args.before)?, Report::read(&args.after)?);
    let changes = diff::compare(&before, &after)?;
    let mut out = diff::table(&changes).render() + "\n";
    let differences = diff::differences(&before, &after).into_iter().chain(diff::alike(&changes));
    let differences =
        differences.map(|text| format!("warning: {text}, so that the machine may have made the difference."));
    for text in changes.iter().map(diff::Change::words).chain(differences) {
        for (i, line) in wrap(&text, WIDTH).iter().enumerate() {
            let _ = writeln!(out, "{}{line}", if i == 0 { "" } else { "  " });
        }
    }
    print(&out)?;
    Ok(i32::from(changes.iter().any(|change| change.verdict == Verdict::Slower)))
}
