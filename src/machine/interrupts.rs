//! How interrupts reach the guest: from our own I/O APIC as messages, or by KVM's.

use std::sync::{Arc, Mutex};

use kvm_bindings::{
    KVM_IRQ_ROUTING_MSI, KvmIrqRouting, kvm_irq_routing_entry, kvm_irq_routing_entry__bindgen_ty_1,
    kvm_irq_routing_msi, kvm_msi,
};
use kvm_ioctls::VmFd;

use crate::bus::InterruptLine;
use crate::devices::{Msi, MsiSink};
use crate::layout::IOAPIC_PINS;

/// Sends the I/O APIC's messages to the local APICs in KVM.
pub(super) struct Messages {
    vm: Arc<VmFd>,
    /// What KVM was last told of each level-triggered pin, so that it hands their ends of interrupt to us.
    routes: Mutex<[Option<Msi>; IOAPIC_PINS as usize]>,
}

impl Messages {
    pub(super) fn new(vm: Arc<VmFd>) -> Self {
        Self { vm, routes: Mutex::new([None; IOAPIC_PINS as usize]) }
    }
}

impl MsiSink for Messages {
    fn signal(&self, msi: Msi) {
        let message = kvm_msi {
            address_lo: msi.address as u32,
            address_hi: (msi.address >> 32) as u32,
            data: msi.data,
            ..Default::default()
        };
        // The guest may name an APIC that is not there; as on real hardware, that interrupt is lost.
        let _ = self.vm.signal_msi(message);
    }

    /// KVM only looks at its routing table to learn which vectors' ends it must pass on (those of level-triggered pins).
    fn route(&self, pin: u32, msi: Msi, level: bool) {
        let mut routes = self.routes.lock().unwrap_or_else(|e| e.into_inner());
        let Some(slot) = routes.get_mut(pin as usize) else { return };
        let wanted = level.then_some(msi);
        if *slot == wanted {
            return;
        }
        *slot = wanted;
        let entries: Vec<_> =
            routes.iter().enumerate().filter_map(|(pin, msi)| msi.map(|msi| route_entry(pin as u32, msi))).collect();
        if let Ok(routing) = KvmIrqRouting::from_entries(&entries) {
            // Refused only for entries that are malformed, which these are not; without it level interrupts would stay pending.
            let _ = self.vm.set_gsi_routing(&routing);
        }
    }
}

fn route_entry(pin: u32, msi: Msi) -> kvm_irq_routing_entry {
    let msi = kvm_irq_routing_msi {
        address_lo: msi.address as u32,
        address_hi: (msi.address >> 32) as u32,
        data: msi.data,
        ..Default::default()
    };
    kvm_irq_routing_entry {
        gsi: pin,
        type_: KVM_IRQ_ROUTING_MSI,
        u: kvm_irq_routing_entry__bindgen_ty_1 { msi },
        ..Default::default()
    }
}

/// A pin of the interrupt controllers in KVM.
pub(super) struct KernelLine {
    vm: Arc<VmFd>,
    gsi: u32,
    level: Mutex<bool>,
}

impl KernelLine {
    pub(super) fn new(vm: Arc<VmFd>, gsi: u32) -> Self {
        Self { vm, gsi, level: Mutex::new(false) }
    }
}

impl InterruptLine for KernelLine {
    fn set_level(&self, high: bool) {
        let mut level = self.level.lock().unwrap_or_else(|e| e.into_inner());
        if *level != high {
            *level = high;
            // Fails only without an interrupt controller in KVM, and then this line is not made.
            let _ = self.vm.set_irq_line(self.gsi, high);
        }
    }
}
