//! How far ringfence confines itself.

use clap::Args;

use crate::config::SandboxPolicy;

/// How far ringfence confines itself.
#[derive(Debug, Args)]
#[command(next_help_heading = "Isolation")]
pub struct SandboxArgs {}

impl SandboxArgs {
    /// What was typed, checked.
    pub fn policy(&self) -> anyhow::Result<SandboxPolicy> {
        Ok(SandboxPolicy::default())
    }
}
