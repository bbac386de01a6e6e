//! The local APIC's local vector table (Intel SDM vol. 3A, section 11.5.1).

use kvm_bindings::kvm_lapic_state;

const LVT_LINT0: usize = 0x350;
const LVT_LINT1: usize = 0x360;
const DELIVERY_MODE: u32 = 0b111 << 8;
const DELIVERY_NMI: u32 = 0b100 << 8;
const DELIVERY_EXTINT: u32 = 0b111 << 8;
const MASKED: u32 = 1 << 16;

/// Sets LINT0 to external interrupts and LINT1 to NMI, unmasked, as firmware leaves them and the MP and ACPI tables say.
pub fn set_local_interrupts(lapic: &mut kvm_lapic_state) {
    set(lapic, LVT_LINT0, DELIVERY_EXTINT);
    set(lapic, LVT_LINT1, DELIVERY_NMI);
}

fn set(lapic: &mut kvm_lapic_state, register: usize, mode: u32) {
    let bytes = &mut lapic.regs[register..register + 4];
    let old = bytes.iter().rev().fold(0u32, |value, byte| value << 8 | u32::from(*byte as u8));
    let new = old & !(DELIVERY_MODE | MASKED) | mode;
    for (byte, value) in bytes.iter_mut().zip(new.to_le_bytes()) {
        *byte = value as _;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves that only mode and mask change, in the right registers.
    #[test]
    fn sets_mode_and_unmasks() {
        let mut lapic = kvm_lapic_state::default();
        lapic.regs[LVT_LINT0 + 2] = 1;
        lapic.regs[LVT_LINT1] = 0x22;
        set_local_interrupts(&mut lapic);
        assert_eq!(lapic.regs[LVT_LINT0..LVT_LINT0 + 4], [0, 7, 0, 0]);
        assert_eq!(lapic.regs[LVT_LINT1..LVT_LINT1 + 4], [0x22, 4, 0, 0]);
    }
}
