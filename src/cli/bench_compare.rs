//! `ringfence bench compare`: two reports beside each other.

use std::fmt::Write;
use std::path::PathBuf;

use clap::Args;

use super::ps::print;
use crate::bench::diff::{self, Report, Verdict};
use crate::bench::table::{WIDTH, wrap};

/// Tell what changed between two reports of bench boot, and whether it is real
///
/// Between two reports a machine's own speed drifts: what decides is each subject's ratio to a reference measured in the same
/// turns. Exit status: 0 nothing became slower by it, 1 something really did, 125 they cannot be compared. Whether it is real
/// is told by a permutation test of the medians, adjusted for the number of comparisons; five runs in each report are the
/// least.
#[derive(Debug, Args)]
pub struct CompareArgs {
    /// The report before: a file that bench boot --json wrote
    #[arg(value_name = "A.json")]
    before: PathBuf,
    /// The report after
    #[arg(value_name = "B.json")]
    after: PathBuf,
    /// The subject that others are compared with [default: kvm-calls, else process, else another]
    #[arg(long, value_name = "NAME")]
    reference: Option<String>,
}

/// Runs `ringfence bench compare`.
///
/// # Errors
/// When a file is no report, or they have nothing in common.
pub fn run(args: &CompareArgs) -> anyhow::Result<i32> {
    let (before, after) = (Report::read(&args.before)?, Report::read(&args.after)?);
    let changes = diff::compare(&before, &after, args.reference.as_deref())?;
    let mut out: String = diff::tables(&changes).iter().map(|table| table.render() + "\n").collect();
    let doubtful = diff::differences(&before, &after).into_iter();
    let doubtful = doubtful.map(|text| format!("{text}, so that the machine may have made a difference"));
    let warnings = doubtful.chain(diff::alike(&changes)).map(|text| format!("warning: {text}."));
    for text in diff::summary(&changes).into_iter().chain(warnings) {
        for (i, line) in wrap(&text, WIDTH).iter().enumerate() {
            let _ = writeln!(out, "{}{line}", if i == 0 { "" } else { "  " });
        }
    }
    print(&out)?;
    Ok(i32::from(changes.iter().any(|change| change.verdict == Verdict::Slower)))
}
