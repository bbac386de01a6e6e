//! A virtual machine's construction and life.
//!
//! [`Machine::build`] follows a numbered recipe; [`Machine::run`] starts the vCPU threads and serves console, signals and
//! timers on the calling thread until the machine has ended.

mod build;
mod diagnose;
mod events;
#[allow(unsafe_code)]
mod exit;
mod interrupts;
mod load;
mod outcome;
mod power;
mod report;
#[allow(unsafe_code)]
mod signals;
mod vcpu;
#[allow(unsafe_code)]
mod vm;
mod wake;

pub use build::{Machine, MachineError};
pub use diagnose::Diagnosis;
pub use events::Limits;
pub use outcome::Outcome;
pub use report::{ExitCounts, Phase, Report, now_ns};
