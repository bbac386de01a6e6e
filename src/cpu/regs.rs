//! Registers at the kernel's entry (Linux x86 boot protocol, "64-bit Boot Protocol"; Xen's PVH start of day state).

use bitflags::bitflags;
use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs};

use crate::layout;

bitflags! {
    /// Control register 0 (Intel SDM vol. 3A, section 2.5).
    pub struct Cr0: u64 {
        /// Protection enable.
        const PE = 1;
        /// Monitor coprocessor.
        const MP = 1 << 1;
        /// Extension type, always one.
        const ET = 1 << 4;
        /// Numeric error.
        const NE = 1 << 5;
        /// Write protect.
        const WP = 1 << 16;
        /// Paging.
        const PG = 1 << 31;
    }

    /// Control register 4.
    pub struct Cr4: u64 {
        /// Physical address extension.
        const PAE = 1 << 5;
    }

    /// IA32_EFER (Intel SDM vol. 3A, section 2.2.1).
    pub struct Efer: u64 {
        /// Long mode enable.
        const LME = 1 << 8;
        /// Long mode active.
        const LMA = 1 << 10;
    }
}

/// Bit 1 of RFLAGS is always one.
const RFLAGS_FIXED: u64 = 1 << 1;

/// Selector of the code segment that the 64-bit boot protocol asks for (`__BOOT_CS`).
const BOOT_CS: u16 = 0x10;
/// Selector of the data segments (`__BOOT_DS`).
const BOOT_DS: u16 = 0x18;
/// Selector of the task state segment.
const BOOT_TSS: u16 = 0x20;

/// The mode a kernel is entered in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// 64-bit, paging on, RSI points to the zero page.
    Long,
    /// 32-bit protected, paging off, EBX points to the PVH start of day structure.
    Protected,
}

/// General registers for a kernel's entry at `entry`.
pub fn general(mode: Mode, entry: u64) -> kvm_regs {
    let base = kvm_regs { rip: entry, rflags: RFLAGS_FIXED, rsp: layout::BOOT_STACK, ..Default::default() };
    match mode {
        Mode::Long => kvm_regs { rsi: layout::ZERO_PAGE, rbp: layout::BOOT_STACK, ..base },
        Mode::Protected => kvm_regs { rbx: layout::PVH_START_INFO, ..base },
    }
}

/// System registers for a kernel's entry: `sregs` is the reset state, of which only what must differ is changed.
pub fn system(mode: Mode, sregs: &mut kvm_sregs) {
    let code = segment(BOOT_CS, 0xb, mode == Mode::Long);
    let data = segment(BOOT_DS, 0x3, false);
    sregs.cs = code;
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.tr = kvm_segment { limit: 0x67, selector: BOOT_TSS, type_: 0xb, s: 0, g: 0, db: 0, ..data };
    sregs.gdt.base = layout::BOOT_GDT;
    sregs.gdt.limit = (gdt(mode).len() - 1) as u16;
    sregs.idt.base = layout::BOOT_IDT;
    sregs.idt.limit = 7;
    match mode {
        Mode::Long => {
            sregs.cr0 = (Cr0::PE | Cr0::MP | Cr0::ET | Cr0::NE | Cr0::WP | Cr0::PG).bits();
            sregs.cr3 = layout::BOOT_PML4;
            sregs.cr4 = Cr4::PAE.bits();
            sregs.efer = (Efer::LME | Efer::LMA).bits();
        }
        Mode::Protected => {
            sregs.cr0 = (Cr0::PE | Cr0::ET).bits();
            sregs.cr3 = 0;
            sregs.cr4 = 0;
            sregs.efer = 0;
        }
    }
}

/// A flat 4 GiB segment.
fn segment(selector: u16, type_: u8, long: bool) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector,
        type_,
        present: 1,
        dpl: 0,
        db: u8::from(!long),
        s: 1,
        l: u8::from(long),
        g: 1,
        ..Default::default()
    }
}

/// The descriptor table that matches [`system`], for `layout::BOOT_GDT` (Intel SDM vol. 3A, section 3.4.5).
pub fn gdt(mode: Mode) -> [u8; 48] {
    let code: u64 = if mode == Mode::Long { 0x00af_9b00_0000_ffff } else { 0x00cf_9b00_0000_ffff };
    let data: u64 = 0x00cf_9300_0000_ffff;
    // A 64-bit mode task state segment descriptor takes two slots; its upper half is zero.
    let tss: u64 = 0x0000_8b00_0000_0067;
    let mut bytes = [0; 48];
    for (slot, value) in bytes.chunks_exact_mut(8).zip([0, 0, code, data, tss, 0]) {
        slot.copy_from_slice(&value.to_le_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves that each descriptor in memory says what the hidden part of the register says, so a reload changes nothing.
    #[test]
    fn descriptors_match_the_segment_registers() {
        for mode in [Mode::Long, Mode::Protected] {
            let mut sregs = kvm_sregs::default();
            system(mode, &mut sregs);
            let table = gdt(mode);
            for segment in [sregs.cs, sregs.ds, sregs.ss] {
                let at = usize::from(segment.selector);
                let raw = u64::from_le_bytes(table[at..at + 8].try_into().unwrap());
                let flags = (raw >> 52) as u8 & 0xf;
                assert_eq!((raw >> 40) as u8, segment.type_ | segment.s << 4 | segment.dpl << 5 | segment.present << 7);
                assert_eq!(flags, segment.l << 1 | segment.db << 2 | segment.g << 3);
            }
            assert_eq!(usize::from(sregs.gdt.limit) + 1, table.len());
        }
    }
}
