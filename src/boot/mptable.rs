//! MP floating pointer structure and configuration table (MultiProcessor Specification 1.4, chapter 4).
//!
//! For kernels without ACPI. What they say: N processors with APIC IDs 0 to N-1, one ISA bus, one I/O APIC to which
//! interrupt n goes by pin n (there is no 8254 timer and so no override), NMI at LINT1.

use crate::layout;

/// Most processors the table can describe: APIC IDs are 8 bits, 255 is the broadcast, and the I/O APIC has one too
/// (section 4.3.1).
pub const MAX_CPUS: u32 = 254;

/// The two structures, each with the guest-physical address it belongs at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MpTable {
    /// Floating pointer structure, for [`layout::MP_FLOATING_POINTER`].
    pub pointer: [u8; POINTER_SIZE],
    /// Configuration table, for [`layout::MP_TABLE`].
    pub table: Vec<u8>,
}

/// Size of the floating pointer structure in bytes.
const POINTER_SIZE: usize = 16;
/// Size of the configuration table's header in bytes.
const HEADER_SIZE: usize = 44;
/// Size of a processor entry; every other entry has [`ENTRY_SIZE`].
const PROCESSOR_SIZE: usize = 20;
const ENTRY_SIZE: usize = 8;

/// Version 1.4 of the specification, as both structures say it.
const SPEC_REVISION: u8 = 4;

/// Entry types (section 4.3, table 4-3).
mod entry {
    pub const PROCESSOR: u8 = 0;
    pub const BUS: u8 = 1;
    pub const IO_APIC: u8 = 2;
    pub const IO_INTERRUPT: u8 = 3;
    pub const LOCAL_INTERRUPT: u8 = 4;
}

/// Interrupt types (section 4.3.4, table 4-11).
mod interrupt {
    pub const INT: u8 = 0;
    pub const NMI: u8 = 1;
    pub const EXT_INT: u8 = 3;
}

/// CPU flags (section 4.3.1): usable, and the bootstrap processor.
const CPU_ENABLED: u8 = 1 << 0;
const CPU_BOOTSTRAP: u8 = 1 << 1;
/// CPUID.1:EDX bits the table repeats: on-chip FPU and APIC.
const CPU_FEATURES: u32 = 1 << 0 | 1 << 9;
/// Version of an on-chip local APIC (section 4.3.1; Intel SDM vol. 3A, section 11.4.8).
const LAPIC_VERSION: u8 = 0x14;
/// I/O APIC flag: usable (section 4.3.3).
const IO_APIC_ENABLED: u8 = 1 << 0;
/// The only bus.
const ISA_BUS: u8 = 0;
/// Polarity and trigger mode as the bus has them: ISA is active high, edge (section 4.3.4).
const CONFORMS_TO_BUS: [u8; 2] = [0, 0];
/// Every local APIC (section 4.3.5).
const ALL_LOCAL_APICS: u8 = 0xff;

/// The tables for `cpus` processors; `None` when there are none or more than [`MAX_CPUS`], which the format cannot say.
pub fn build(cpus: u32) -> Option<MpTable> {
    if !(1..=MAX_CPUS).contains(&cpus) {
        return None;
    }
    let table = configuration_table(cpus as u8);
    Some(MpTable { pointer: floating_pointer(), table })
}

/// Section 4.1.
fn floating_pointer() -> [u8; POINTER_SIZE] {
    let mut pointer = [0; POINTER_SIZE];
    pointer[..4].copy_from_slice(b"_MP_");
    pointer[4..8].copy_from_slice(&(layout::MP_TABLE as u32).to_le_bytes());
    pointer[8] = (POINTER_SIZE / 16) as u8;
    pointer[9] = SPEC_REVISION;
    // Feature bytes 1 and 2 stay zero: a configuration table is present, and there is no IMCR.
    pointer[10] = checksum(&pointer);
    pointer
}

/// Section 4.2 and 4.3.
fn configuration_table(cpus: u8) -> Vec<u8> {
    let others = 2 + layout::IOAPIC_PINS as usize + 2;
    let entries = usize::from(cpus) + others;
    let len = HEADER_SIZE + usize::from(cpus) * PROCESSOR_SIZE + others * ENTRY_SIZE;
    let mut table = Vec::with_capacity(len);
    header(&mut table, len as u16, entries as u16);
    for id in 0..cpus {
        processor(&mut table, id);
    }
    table.extend([entry::BUS, ISA_BUS]);
    table.extend(b"ISA   ");
    table.extend([entry::IO_APIC, layout::IOAPIC_ID, layout::IOAPIC_VERSION, IO_APIC_ENABLED]);
    table.extend((layout::IOAPIC as u32).to_le_bytes());
    // ISA has 16 interrupts; the pins above are given to it too, since a kernel uses only pins that an entry names.
    for pin in 0..layout::IOAPIC_PINS as u8 {
        let destination = [ISA_BUS, pin, layout::IOAPIC_ID, pin];
        assignment(&mut table, entry::IO_INTERRUPT, interrupt::INT, destination);
    }
    for (lint, kind) in [(0, interrupt::EXT_INT), (1, interrupt::NMI)] {
        assignment(&mut table, entry::LOCAL_INTERRUPT, kind, [ISA_BUS, 0, ALL_LOCAL_APICS, lint]);
    }
    debug_assert_eq!(table.len(), len);
    table[7] = checksum(&table);
    table
}

/// Section 4.2.
fn header(table: &mut Vec<u8>, len: u16, entries: u16) {
    table.extend(b"PCMP");
    table.extend(len.to_le_bytes());
    // Revision, and the checksum's place.
    table.extend([SPEC_REVISION, 0]);
    table.extend(b"RINGFENC");
    table.extend(b"MICROVM     ");
    // No OEM table: pointer and size.
    table.extend([0; 6]);
    table.extend(entries.to_le_bytes());
    table.extend((layout::LAPIC as u32).to_le_bytes());
    // No extended table: length, checksum, and a reserved byte.
    table.extend([0; 4]);
}

/// Section 4.3.1.
fn processor(table: &mut Vec<u8>, id: u8) {
    let flags = if id == 0 { CPU_ENABLED | CPU_BOOTSTRAP } else { CPU_ENABLED };
    table.extend([entry::PROCESSOR, id, LAPIC_VERSION, flags]);
    // The signature is CPUID's to tell.
    table.extend([0; 4]);
    table.extend(CPU_FEATURES.to_le_bytes());
    table.extend([0; 8]);
}

/// Sections 4.3.4 and 4.3.5, which have the same form: source bus and interrupt, destination APIC and input.
fn assignment(table: &mut Vec<u8>, kind: u8, interrupt: u8, destination: [u8; 4]) {
    table.extend([kind, interrupt]);
    table.extend(CONFORMS_TO_BUS);
    table.extend(destination);
}

/// The byte that makes the sum of all bytes zero, where `bytes` has a zero in its place.
fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)).wrapping_neg()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, b| sum.wrapping_add(*b))
    }

    /// Splits the table after its header into entries, by the lengths section 4.3 gives each type.
    fn entries(table: &[u8]) -> Vec<&[u8]> {
        let mut rest = &table[HEADER_SIZE..];
        let mut entries = Vec::new();
        while !rest.is_empty() {
            let (entry, after) = rest.split_at(if rest[0] == 0 { 20 } else { 8 });
            entries.push(entry);
            rest = after;
        }
        entries
    }

    /// Proves that the floating pointer leads to the table and that both sum to zero, for every number of CPUs.
    #[test]
    fn checksums_lengths_and_counts_hold() {
        for cpus in 1..=MAX_CPUS {
            let MpTable { pointer, table } = build(cpus).unwrap();
            assert_eq!(sum(&pointer), 0);
            assert_eq!(&pointer[..4], b"_MP_");
            assert_eq!(u32::from_le_bytes(pointer[4..8].try_into().unwrap()), layout::MP_TABLE as u32);
            assert_eq!(sum(&table), 0);
            assert_eq!(usize::from(u16::from_le_bytes([table[4], table[5]])), table.len());
            assert_eq!(usize::from(u16::from_le_bytes([table[34], table[35]])), entries(&table).len());
            assert!(layout::MP_TABLE + table.len() as u64 <= layout::ACPI_TABLES);
        }
    }

    /// Proves that APIC IDs count from zero, that only the first is the bootstrap processor, and that IRQ n is pin n.
    #[test]
    fn entries_describe_the_machine() {
        let table = build(5).unwrap().table;
        let entries = entries(&table);
        for (id, entry) in entries[..5].iter().enumerate() {
            assert_eq!(entry[..4], [0, id as u8, 0x14, if id == 0 { 3 } else { 1 }]);
        }
        assert_eq!(entries[5], b"\x01\x00ISA   ");
        assert_eq!(entries[6], [2, layout::IOAPIC_ID, layout::IOAPIC_VERSION, 1, 0, 0, 0xc0, 0xfe]);
        for (pin, entry) in entries[7..31].iter().enumerate() {
            assert_eq!(**entry, [3, 0, 0, 0, 0, pin as u8, layout::IOAPIC_ID, pin as u8]);
        }
        assert_eq!(entries[31], [4, 3, 0, 0, 0, 0, 0xff, 0]);
        assert_eq!(entries[32], [4, 1, 0, 0, 0, 0, 0xff, 1]);
        assert_eq!(entries.len(), 33);
    }

    /// Proves that a number of CPUs the format cannot hold gives no table rather than a wrong one.
    #[test]
    fn refuses_what_eight_bits_cannot_say() {
        assert_eq!(build(0), None);
        assert_eq!(build(MAX_CPUS + 1), None);
        assert_eq!(build(u32::MAX), None);
    }
}
