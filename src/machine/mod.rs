//! A virtual machine's construction and life.
//!
//! [`Machine::build`] follows a numbered recipe; [`Machine::run`] lets the vCPUs go and serves console, signals and the time
//! limit on the calling thread until the machine has ended.

mod attach;
mod build;
mod diagnose;
mod events;
#[allow(unsafe_code)]
mod exit;
mod first;
mod interrupts;
mod late_ram;
mod listing;
mod load;
mod outcome;
mod posted;
mod power;
mod refusal;
mod report;
mod reserve;
#[allow(unsafe_code)]
mod signals;
mod threads;
#[allow(unsafe_code)]
mod trim;
mod vcpu;
#[allow(unsafe_code)]
mod vm;
mod wake;
#[allow(unsafe_code)]
mod write_ring;

pub use build::{Machine, MachineError, MachineRequest};
pub use diagnose::Diagnosis;
pub use events::RunOptions;
pub use first::HeadStart;
pub use outcome::Outcome;
pub use refusal::{Place, Refusal, Refusals};
pub use report::{ExitCounts, Phase, Report, Timeline, covered, now_ns};
pub use reserve::{ReserveError, overhead};
