//! What a run took: phases by the host's clock, and exits by reason.

use std::sync::{Mutex, PoisonError};

use serde::Serialize;

/// A point in the machine's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The monitor's `main` was entered.
    Start,
    /// The command line was read and found valid.
    Configured,
    /// KVM made the virtual machine, its interrupt controllers and vCPUs.
    VmCreated,
    /// Kernel, initrd and boot tables lie in guest RAM.
    Loaded,
    /// KVM knows the guest's RAM.
    MemoryMapped,
    /// vCPU 0 is about to enter KVM_RUN for the first time.
    FirstRun,
    /// The guest's init runs (it rang the boot timer with 1).
    Userspace,
    /// The guest's payload is about to be executed (boot timer 2).
    Payload,
    /// The machine has ended.
    Ended,
    /// Everything is given back; the process is about to exit.
    Done,
}

/// Exits of all vCPUs by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ExitCounts {
    /// Port reads.
    pub port_in: u64,
    /// Port writes.
    pub port_out: u64,
    /// Reads of emulated memory.
    pub mmio_read: u64,
    /// Writes to emulated memory.
    pub mmio_write: u64,
    /// Ends of level-triggered interrupts.
    pub ioapic_eoi: u64,
    /// Returns for a signal.
    pub interrupted: u64,
    /// Any other.
    pub other: u64,
}

impl ExitCounts {
    /// Adds another vCPU's counts.
    pub fn add(&mut self, other: &Self) {
        self.port_in += other.port_in;
        self.port_out += other.port_out;
        self.mmio_read += other.mmio_read;
        self.mmio_write += other.mmio_write;
        self.ioapic_eoi += other.ioapic_eoi;
        self.interrupted += other.interrupted;
        self.other += other.other;
    }

    /// All exits.
    pub fn total(&self) -> u64 {
        self.port_in
            + self.port_out
            + self.mmio_read
            + self.mmio_write
            + self.ioapic_eoi
            + self.interrupted
            + self.other
    }
}

/// What a run took.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// CLOCK_MONOTONIC, in nanoseconds, when each phase was reached, in that order.
    pub phases: Vec<(Phase, u64)>,
    /// Bytes that the guest rang the boot timer with, and CLOCK_MONOTONIC in nanoseconds at each: the first 64.
    pub rings: Vec<(u8, u64)>,
    /// Exits by reason.
    pub exits: ExitCounts,
    /// Port writes that KVM gathered, so that they needed no exit.
    pub posted_writes: u64,
    /// Time before the first KVM_RUN in which any thread was inside one of KVM's ioctls, in nanoseconds.
    pub kvm_setup_ns: u64,
}

/// When each phase was reached, noted by whichever thread reaches it.
#[derive(Debug, Default)]
pub struct Timeline(Mutex<Vec<(Phase, u64)>>);

impl Timeline {
    /// Notes that `phase` is reached now.
    pub fn reach(&self, phase: Phase) {
        self.reached(phase, now_ns());
    }

    /// Notes that `phase` was reached at `at` nanoseconds of CLOCK_MONOTONIC.
    pub fn reached(&self, phase: Phase, at: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((phase, at));
    }

    /// All phases, in the order of time.
    pub fn phases(&self) -> Vec<(Phase, u64)> {
        let mut phases = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        phases.sort_by_key(|(_, at)| *at);
        phases
    }
}

/// How much is covered by intervals that may lie over each other. Sorts them.
pub fn covered(intervals: &mut [(u64, u64)]) -> u64 {
    intervals.sort_unstable();
    let (mut end, mut total) = (0, 0);
    for (from, to) in intervals {
        total += to.saturating_sub(end.max(*from));
        end = end.max(*to);
    }
    total
}

/// CLOCK_MONOTONIC in nanoseconds: comparable between processes of one host.
pub fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves that time counts once, however many threads spent it.
    #[test]
    fn time_counts_once() {
        assert_eq!(covered(&mut []), 0);
        assert_eq!(covered(&mut [(30, 40), (10, 20), (12, 15), (18, 25)]), 25);
    }
}
