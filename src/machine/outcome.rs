//! How a machine ended.

use super::diagnose::Diagnosis;

/// How a machine ended.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// The guest powered off by ACPI.
    PoweredOff,
    /// The guest reset the machine, by the i8042 or the ACPI reset register.
    Reset,
    /// The guest's init gave this status to the exit port.
    Exited(u32),
    /// A vCPU shut down: a triple fault.
    TripleFault(Box<Diagnosis>),
    /// KVM could not go on.
    KvmGaveUp(Box<Diagnosis>),
    /// This signal was sent to the monitor.
    Signalled(i32),
    /// The time limit passed.
    TimedOut,
    /// The user asked to quit at the console.
    Quit,
}
