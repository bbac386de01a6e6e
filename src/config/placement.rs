//! On which of the host's CPUs a machine's threads run, and how.

/// On which of the host's CPUs a machine's threads run, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {}
