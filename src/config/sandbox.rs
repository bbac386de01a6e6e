//! How far the monitor confines itself before the guest runs.

use std::str::FromStr;

/// How far the monitor confines itself before the guest runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SandboxPolicy {
    /// Every layer that the host's kernel has; seccomp and dropped capabilities are not optional.
    #[default]
    Strict,
    /// None: for debuggers and tracers.
    Off,
}

impl FromStr for SandboxPolicy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "strict" => Ok(Self::Strict),
            "off" => Ok(Self::Off),
            _ => Err("use strict or off".to_owned()),
        }
    }
}
