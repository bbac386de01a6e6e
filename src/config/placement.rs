//! On which of the host's CPUs a machine's threads run, and how.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::units::CpuList;

/// How firmly the vCPUs are held to their CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pin {
    /// One CPU for each vCPU, locked against other guests, verified before the guest runs.
    Strict,
    /// The list only bounds where the vCPUs run, as a container's does; without a list nothing is bounded.
    #[default]
    Off,
}

/// Who may run on the other threads of the vCPUs' cores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Smt {
    /// Anybody.
    #[default]
    Share,
    /// This machine's vCPUs only.
    Isolate,
}

/// Who waits when the guest has nothing to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Halt {
    /// The host, as its KVM is set up: KVM may look for an interrupt a while before it gives the CPU away.
    #[default]
    Default,
    /// The host, with this limit to how long KVM looks for an interrupt before it gives the CPU away
    /// (KVM_CAP_HALT_POLL, nanoseconds).
    Host(u32),
    /// The guest: `hlt` does not leave it (KVM_CAP_X86_DISABLE_EXITS).
    Guest,
}

/// A priority of SCHED_FIFO, 1 to 99.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RealtimePriority(u8);

/// On which of the host's CPUs a machine's threads run, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// The vCPUs' CPUs, in the order of the vCPUs when they are pinned.
    pub cpus: Option<CpuList>,
    /// How firmly.
    pub pin: Pin,
    /// CPUs of every other thread; none: those that are left.
    pub vmm_cpus: Option<CpuList>,
    /// The other threads of the vCPUs' cores.
    pub smt: Smt,
    /// The vCPUs' real-time priority.
    pub realtime: Option<RealtimePriority>,
    /// Who waits when the guest has nothing to do.
    pub halt: Halt,
    /// The machine's name, for who finds its CPUs taken; may be empty.
    pub holder: String,
}

/// What a machine was given: plain data, for whoever compares it with what is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Granted {
    /// CPUs of each vCPU, by the vCPU's number: one when pinned, the whole list when not.
    pub vcpus: Vec<CpuList>,
    /// CPUs of every other thread.
    pub vmm: CpuList,
    /// How firmly.
    pub pin: Pin,
    /// The other threads of the vCPUs' cores.
    pub smt: Smt,
    /// The vCPUs' real-time priority.
    pub realtime: Option<RealtimePriority>,
    /// Who waits when a vCPU has nothing to do.
    pub halt: Halt,
}

/// Wishes that contradict each other.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlacementError {
    /// More vCPUs than CPUs to pin them to.
    #[error(
        "--cpus {vcpus} needs a CPU for each vCPU, and --cpuset-cpus {list} names {count}; name more, or let the vCPUs \
         share them with --pin off"
    )]
    TooFewCpus {
        /// How many vCPUs.
        vcpus: u32,
        /// The list.
        list: CpuList,
        /// Its length.
        count: usize,
    },
    /// A wish that makes no sense for vCPUs that wander.
    #[error("{0} needs vCPUs that stay on their CPUs: add --pin strict, or name their CPUs with --cpuset-cpus LIST")]
    NotPinned(&'static str),
}

impl Granted {
    /// The CPUs of all vCPUs.
    pub fn vcpu_cpus(&self) -> CpuList {
        self.vcpus.iter().flat_map(CpuList::iter).collect()
    }
}

impl Placement {
    /// Whether nothing is asked of the host's scheduler.
    pub fn is_free(&self) -> bool {
        self.pin == Pin::Off && self.cpus.is_none() && self.vmm_cpus.is_none()
    }

    /// Checks what can be checked without asking the host.
    ///
    /// # Errors
    /// See [`PlacementError`].
    pub fn check(&self, vcpus: u32) -> Result<(), PlacementError> {
        if self.pin == Pin::Off {
            return match (self.smt, self.realtime) {
                (Smt::Isolate, _) => Err(PlacementError::NotPinned("--smt isolate")),
                (_, Some(_)) => Err(PlacementError::NotPinned("--realtime")),
                _ => Ok(()),
            };
        }
        match &self.cpus {
            Some(list) if list.len() < vcpus as usize => {
                Err(PlacementError::TooFewCpus { vcpus, count: list.len(), list: list.clone() })
            }
            _ => Ok(()),
        }
    }
}

impl RealtimePriority {
    /// The number, 1 to 99.
    pub fn get(self) -> u8 {
        self.0
    }
}

impl FromStr for RealtimePriority {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.parse().ok().filter(|n| (1..=99).contains(n));
        number.map(Self).ok_or_else(|| "use a priority from 1 (lowest) to 99".to_owned())
    }
}

impl FromStr for Pin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "strict" => Ok(Self::Strict),
            "off" => Ok(Self::Off),
            _ => Err("use strict or off".to_owned()),
        }
    }
}

impl FromStr for Smt {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "share" => Ok(Self::Share),
            "isolate" => Ok(Self::Isolate),
            _ => Err("use share or isolate".to_owned()),
        }
    }
}

impl FromStr for Halt {
    type Err = String;

    /// Reads `guest`, `host`, or `host:MICROSECONDS`.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || "use guest, host, or host: and the microseconds to poll for, such as host:0 or host:200".to_owned();
        match text.split_once(':') {
            None if text == "guest" => Ok(Self::Guest),
            None if text == "host" => Ok(Self::Default),
            Some(("host", microseconds)) => {
                let nanoseconds = microseconds.parse::<u32>().ok().and_then(|us| us.checked_mul(1000));
                nanoseconds.map(Self::Host).ok_or_else(wrong)
            }
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Halt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("host"),
            Self::Host(ns) => write!(f, "host, polling up to {:?}", Duration::from_nanos(u64::from(*ns))),
            Self::Guest => f.write_str("guest"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pinned(list: &str) -> Placement {
        Placement { cpus: CpuList::parse(list), pin: Pin::Strict, ..Placement::default() }
    }

    /// Proves that a vCPU without a CPU of its own is refused with both numbers, and that a list that is long enough is not.
    #[test]
    fn every_vcpu_needs_a_cpu() {
        let error = pinned("0-2").check(4).unwrap_err().to_string();
        assert!(error.contains("--cpus 4") && error.contains("0-2 names 3"), "{error}");
        assert_eq!(pinned("0-2").check(3), Ok(()));
        assert_eq!(Placement { pin: Pin::Off, ..pinned("0") }.check(4), Ok(()));
    }

    /// Proves that wishes that only pinned vCPUs can have are refused for others, and name the remedy.
    #[test]
    fn wandering_vcpus_have_no_core_and_no_priority() {
        let free = Placement::default();
        for wish in
            [Placement { smt: Smt::Isolate, ..free.clone() }, Placement { realtime: "5".parse().ok(), ..free.clone() }]
        {
            assert!(wish.check(1).unwrap_err().to_string().contains("--pin strict"));
            assert_eq!(Placement { pin: Pin::Strict, ..wish }.check(1), Ok(()));
        }
        assert!(free.is_free() && free.check(1).is_ok());
    }

    /// Proves the spellings of --halt and --realtime, and that nonsense is refused.
    #[test]
    fn halts_and_priorities_are_read() {
        assert_eq!("guest".parse(), Ok(Halt::Guest));
        assert_eq!("host".parse(), Ok(Halt::Default));
        assert_eq!("host:200".parse(), Ok(Halt::Host(200_000)));
        assert_eq!("host:0".parse(), Ok(Halt::Host(0)));
        for text in ["", "host:", "host:-1", "host:5000000", "guest:1", "Host"] {
            assert!(text.parse::<Halt>().is_err(), "{text}");
        }
        assert_eq!("99".parse::<RealtimePriority>().map(RealtimePriority::get), Ok(99));
        for text in ["0", "100", "-1", "x", ""] {
            assert!(text.parse::<RealtimePriority>().is_err(), "{text}");
        }
    }
}
