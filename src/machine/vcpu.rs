//! A vCPU's thread: enter the guest, do what it asks, again.

use std::sync::Arc;

use kvm_ioctls::VcpuFd;

use super::attach::Buses;
use super::diagnose::{self, Cause, Diagnosis};
use super::exit::{self, Exit};
use super::late_ram::LateRam;
use super::outcome::Outcome;
use super::posted::Posted;
use super::power::Power;
use super::report::ExitCounts;
use super::signals::Kickable;
use crate::host::Flavour;
use crate::memory::GuestRam;

/// What every vCPU thread shares.
pub(super) struct Shared {
    pub(super) buses: Buses,
    pub(super) posted: Posted,
    pub(super) power: Arc<Power>,
    pub(super) ram: Arc<GuestRam>,
    pub(super) late_ram: LateRam,
    pub(super) flavour: Flavour,
}

/// Runs the vCPU until the machine ends; returns its exits by reason.
pub(super) fn run(mut vcpu: VcpuFd, id: u32, shared: &Shared) -> ExitCounts {
    let _kickable = Kickable::new(&mut vcpu);
    let mut counts = ExitCounts::default();
    let mut tried_again = false;
    while shared.power.outcome().is_none() {
        let cause = match exit::enter(&mut vcpu) {
            Ok(exit) => match serve(exit, shared, &mut counts) {
                None => continue,
                Some(Cause::InternalError(_)) if shared.late_ram.try_again(&mut tried_again) => continue,
                Some(cause) => cause,
            },
            Err(error) => Cause::RunFailed(error),
        };
        let triple_fault = matches!(cause, Cause::Shutdown);
        let diagnosis: Box<Diagnosis> = Box::new(diagnose::diagnose(&vcpu, id, cause, shared));
        shared.power.end(if triple_fault { Outcome::TripleFault(diagnosis) } else { Outcome::KvmGaveUp(diagnosis) });
    }
    counts
}

/// Does what one exit asks for, after what KVM gathered before it. Returns why the vCPU cannot go on, if it cannot.
fn serve(exit: Exit<'_>, shared: &Shared, counts: &mut ExitCounts) -> Option<Cause> {
    shared.posted.before_exit(&shared.buses.ports);
    match exit {
        Exit::PortOut { port, size, data } => {
            counts.port_out += 1;
            for item in data.chunks_exact(size) {
                shared.buses.ports.write(u64::from(port), item);
            }
        }
        Exit::PortIn { port, size, data } => {
            counts.port_in += 1;
            for item in data.chunks_exact_mut(size) {
                shared.buses.ports.read(u64::from(port), item);
            }
        }
        Exit::MmioRead { address, data } => {
            counts.mmio_read += 1;
            if !shared.late_ram.read(address, data) {
                shared.buses.mmio.read(address, data);
            }
        }
        Exit::MmioWrite { address, data } => {
            counts.mmio_write += 1;
            if !shared.late_ram.write(address, data) {
                shared.buses.mmio.write(address, data);
            }
        }
        Exit::IoapicEoi { vector } => {
            counts.ioapic_eoi += 1;
            if let Some(ioapic) = &shared.buses.ioapic {
                ioapic.end_of_interrupt(vector);
            }
        }
        Exit::Interrupted => counts.interrupted += 1,
        Exit::Shutdown => return Some(Cause::Shutdown),
        Exit::SystemEvent { kind } => return Some(Cause::SystemEvent(kind)),
        Exit::FailEntry { reason, cpu } => return Some(Cause::FailEntry { reason, cpu }),
        Exit::InternalError(error) => return Some(Cause::InternalError(error)),
        Exit::Halt => return Some(Cause::Unexpected(kvm_bindings::KVM_EXIT_HLT)),
        Exit::Unexpected { reason } => return Some(Cause::Unexpected(reason)),
    }
    None
}
