//! How the guest's RAM is backed.

use clap::Args;

use crate::config::RamPolicy;

/// How the guest's RAM is backed.
#[derive(Debug, Args)]
#[command(next_help_heading = "Memory")]
pub struct RamArgs {}

impl RamArgs {
    /// What was typed, checked.
    pub fn policy(&self) -> anyhow::Result<RamPolicy> {
        Ok(RamPolicy::default())
    }
}
