//! How far the monitor confines itself before the guest runs.

/// How far the monitor confines itself before the guest runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SandboxPolicy {}
