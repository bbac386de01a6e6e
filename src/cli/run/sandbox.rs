//! How far ringfence confines itself.

use clap::Args;

use crate::config::SandboxPolicy;

/// How far ringfence confines itself.
#[derive(Debug, Args)]
#[command(next_help_heading = "Isolation")]
pub struct SandboxArgs {
    /// How far ringfence confines itself before the guest runs: strict, or off for debugging
    #[arg(long, value_name = "HOW", default_value = "strict")]
    sandbox: SandboxPolicy,
}

impl SandboxArgs {
    /// What was typed, checked.
    pub fn policy(&self) -> anyhow::Result<SandboxPolicy> {
        Ok(self.sandbox)
    }
}
