//! `ringfence bench floor`: the subject `kvm-calls` of `bench boot`.

use std::path::PathBuf;

use clap::Args;

use crate::bench::boot::floor;
use crate::units::ByteSize;

/// Run a guest of a few instructions by nothing but KVM's calls: what bench boot compares monitors with
#[derive(Debug, Args)]
pub struct FloorArgs {
    /// Guest RAM
    #[arg(long, value_name = "SIZE", default_value = "128M")]
    memory: ByteSize,
    /// Stay after the guest's line
    #[arg(long)]
    hold: bool,
    /// Write when it came to the first KVM_RUN, and how long it was inside KVM's calls before
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

/// Runs `ringfence bench floor`.
///
/// # Errors
/// When one of KVM's calls fails.
pub fn run(args: &FloorArgs) -> anyhow::Result<i32> {
    floor::run(args.memory, args.hold, args.report.as_deref())?;
    Ok(0)
}
