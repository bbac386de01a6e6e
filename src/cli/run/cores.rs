//! Which of the host's CPUs the guest gets.

use clap::Args;

use crate::config::Placement;

/// Which of the host's CPUs the guest gets.
#[derive(Debug, Args)]
#[command(next_help_heading = "Cores")]
pub struct CoreArgs {}

impl CoreArgs {
    /// What was typed, checked.
    pub fn policy(&self) -> anyhow::Result<Placement> {
        Ok(Placement::default())
    }
}
