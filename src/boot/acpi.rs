//! ACPI tables of a hardware-reduced platform (ACPI 6.5, sections 4.1 and 5.2): RSDP, XSDT, FADT, MADT, DSDT.
//!
//! There is no ACPI hardware but three registers (sleep control, sleep status, reset), no PIC, no PIT, no RTC, no VGA and no
//! PCI. The 8042 is said to be absent too, although its reset line is there: a kernel that is told so does not probe for it,
//! and `reboot=k` writes to it whatever the tables say.

use acpi_tables::aml::{Device, EISAName, IO, Interrupt, Name, Package, ResourceTemplate, Scope};
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, aml::Path};

use crate::layout;

/// The tables, one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcpiTables {
    /// What to write to guest memory at the address that was given to [`build`].
    pub bytes: Vec<u8>,
    /// Guest-physical address of the RSDP: the zero page and the PVH start info hold it, and kernels that are told nothing
    /// find it by its signature.
    pub rsdp: u64,
}

/// Why there are no tables.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum AcpiError {
    /// The area below 1 MiB is too small.
    #[error(
        "the ACPI tables for {cpus} CPUs take {needed} bytes at {base:#x} and {room} are free there; ask for fewer CPUs"
    )]
    TooLarge {
        /// Number of CPUs.
        cpus: u32,
        /// Where the tables were to be put.
        base: u64,
        /// Bytes the tables take.
        needed: u64,
        /// Bytes from `base` to the end of the BIOS area.
        room: u64,
    },
}

const OEM_ID: [u8; 6] = *b"RNGFNC";
const OEM_TABLE_ID: [u8; 8] = *b"RINGFENC";
const OEM_REVISION: u32 = 1;
/// Bytes of the header every table but the RSDP starts with (section 5.2.6).
const HEADER_SIZE: u32 = 36;
/// Tables start on this boundary: the RSDP must, the others may (section 5.2.5.1).
const ALIGNMENT: usize = 16;
/// Table revisions of ACPI 6.5 (sections 5.2.11.1 and 5.2.12). From revision 2 on, AML integers have 64 bits.
const DSDT_REVISION: u8 = 2;
const MADT_REVISION: u8 = 6;

/// APIC IDs from here on do not fit a local APIC structure (section 5.2.12.2: 255 is the broadcast).
const FIRST_X2APIC_ID: u32 = 255;

/// IA-PC boot architecture flags (section 5.2.9.3).
mod boot_arch {
    pub const VGA_NOT_PRESENT: u16 = 1 << 2;
    pub const CMOS_RTC_NOT_PRESENT: u16 = 1 << 5;
}

/// The tables for `cpus` processors with APIC IDs 0 to `cpus` - 1, to be put at guest-physical address `base`, a multiple of
/// 16 in [0xE0000, 0x100000) (section 5.2.5.1).
///
/// # Errors
/// [`AcpiError::TooLarge`] when they would reach past [`layout::HIGH_RAM_START`]. At [`layout::ACPI_TABLES`] more than 4096
/// CPUs fit.
pub fn build(cpus: u32, base: u64) -> Result<AcpiTables, AcpiError> {
    let room = layout::HIGH_RAM_START.saturating_sub(base);
    let too_large = |needed| AcpiError::TooLarge { cpus, base, needed, room };
    // Judged before anything of that size is allocated; the other tables are under a KiB.
    let madt_size = madt_size(cpus);
    if madt_size > room {
        return Err(too_large(madt_size));
    }
    let mut bytes = Vec::with_capacity(madt_size as usize + 1024);
    bytes.resize(Rsdp::len(), 0);
    let dsdt = append(&mut bytes, base, &dsdt());
    let fadt = append(&mut bytes, base, &fadt(dsdt));
    let madt = append(&mut bytes, base, &madt(cpus));
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    let xsdt = append(&mut bytes, base, &xsdt);
    let mut rsdp = Vec::with_capacity(Rsdp::len());
    Rsdp::new(OEM_ID, xsdt).to_aml_bytes(&mut rsdp);
    bytes[..rsdp.len()].copy_from_slice(&rsdp);
    let needed = bytes.len() as u64;
    if needed > room { Err(too_large(needed)) } else { Ok(AcpiTables { bytes, rsdp: base }) }
}

/// Appends a table on its boundary; returns its guest-physical address.
fn append(bytes: &mut Vec<u8>, base: u64, table: &dyn Aml) -> u64 {
    bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
    let address = base + bytes.len() as u64;
    table.to_aml_bytes(bytes);
    address
}

fn table(signature: [u8; 4], revision: u8, body: &[u8]) -> Sdt {
    let mut table = Sdt::new(signature, HEADER_SIZE, revision, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    table.append_slice(body);
    table
}

/// A byte-wide I/O port (section 5.2.3.2).
fn port(port: u16) -> GAS {
    GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, u64::from(port))
}

/// Fixed ACPI description table (section 5.2.9).
fn fadt(dsdt: u64) -> impl Aml {
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        .flag(Flags::Wbinvd)
        .flag(Flags::Headless)
        // Set means that there is no fixed-hardware button.
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton);
    fadt.iapc_boot_arch = (boot_arch::VGA_NOT_PRESENT | boot_arch::CMOS_RTC_NOT_PRESENT).into();
    fadt.reset_reg = port(layout::ACPI_RESET_PORT);
    fadt.reset_value = layout::ACPI_RESET_VALUE;
    fadt.sleep_control_reg = port(layout::ACPI_SLEEP_CONTROL_PORT);
    fadt.sleep_status_reg = port(layout::ACPI_SLEEP_STATUS_PORT);
    fadt.hypervisor_vendor_identity = u64::from_le_bytes(OEM_TABLE_ID).into();
    fadt.finalize()
}

/// Interrupt controller structures (sections 5.2.12.2 and following): their types, and the length each states.
mod structure {
    pub const LOCAL_APIC: [u8; 2] = [0, 8];
    pub const IO_APIC: [u8; 2] = [1, 12];
    pub const LOCAL_APIC_NMI: [u8; 2] = [4, 6];
    pub const LOCAL_X2APIC: [u8; 2] = [9, 16];
    pub const LOCAL_X2APIC_NMI: [u8; 2] = [10, 12];
}

/// Flag of a processor that is there (section 5.2.12.2).
const ENABLED: u32 = 1;
/// Local APIC input that takes the NMI.
const NMI_LINT: u8 = 1;
/// Polarity and trigger mode as the bus has them (section 5.2.12.5).
const CONFORMS_TO_BUS: [u8; 2] = [0, 0];

fn madt_size(cpus: u32) -> u64 {
    let x2apic = u64::from(cpus.saturating_sub(FIRST_X2APIC_ID));
    let lapic = u64::from(cpus) - x2apic;
    let nmi_x2apic = if x2apic == 0 { 0 } else { u64::from(structure::LOCAL_X2APIC_NMI[1]) };
    u64::from(HEADER_SIZE)
        + 8
        + lapic * u64::from(structure::LOCAL_APIC[1])
        + x2apic * u64::from(structure::LOCAL_X2APIC[1])
        + u64::from(structure::IO_APIC[1])
        + u64::from(structure::LOCAL_APIC_NMI[1])
        + nmi_x2apic
}

/// Multiple APIC description table (section 5.2.12).
///
/// Interrupt n of a PC is GSI n, edge and active high, so that no source override is true of this machine.
fn madt(cpus: u32) -> Sdt {
    let mut body = Vec::with_capacity(madt_size(cpus) as usize);
    body.extend((layout::LAPIC as u32).to_le_bytes());
    // Flags: PCAT_COMPAT clear, there are no 8259As.
    body.extend([0; 4]);
    for id in 0..cpus.min(FIRST_X2APIC_ID) {
        body.extend(structure::LOCAL_APIC);
        body.extend([id as u8, id as u8]);
        body.extend(ENABLED.to_le_bytes());
    }
    for id in FIRST_X2APIC_ID..cpus {
        body.extend(structure::LOCAL_X2APIC);
        body.extend([0; 2]);
        body.extend(id.to_le_bytes());
        body.extend(ENABLED.to_le_bytes());
        body.extend(id.to_le_bytes());
    }
    body.extend(structure::IO_APIC);
    body.extend([layout::IOAPIC_ID, 0]);
    body.extend((layout::IOAPIC as u32).to_le_bytes());
    // Its first pin is GSI 0.
    body.extend([0; 4]);
    // NMI at every processor: UID 0xFF, and 0xFFFFFFFF in the wider structure.
    body.extend(structure::LOCAL_APIC_NMI);
    body.push(0xff);
    body.extend(CONFORMS_TO_BUS);
    body.push(NMI_LINT);
    if cpus > FIRST_X2APIC_ID {
        body.extend(structure::LOCAL_X2APIC_NMI);
        body.extend(CONFORMS_TO_BUS);
        body.extend([0xff; 4]);
        body.extend([NMI_LINT, 0, 0, 0]);
    }
    table(*b"APIC", MADT_REVISION, &body)
}

/// Differentiated system description table (section 5.2.11.1): soft off, and the devices under `\_SB`.
fn dsdt() -> Sdt {
    let mut aml = Vec::with_capacity(256);
    // Section 7.4.2: values for PM1a_CNT and PM1b_CNT, of which a hardware-reduced platform uses the first, two reserved.
    let s5 = Package::new(vec![&layout::ACPI_S5_SLEEP_TYPE, &0u8, &0u8, &0u8]);
    Name::new(name("\\_S5_"), &s5).to_aml_bytes(&mut aml);
    let mut devices = Vec::with_capacity(128);
    serial_port(&mut devices);
    Scope::new(name("\\_SB_"), vec![&Encoded(&devices)]).to_aml_bytes(&mut aml);
    table(*b"DSDT", DSDT_REVISION, &aml)
}

/// COM1: a 16550A-compatible port (section 9.2 names the IDs; PNP0501 is of the Plug and Play ID list).
fn serial_port(aml: &mut Vec<u8>) {
    let hid = Name::new(name("_HID"), &EISAName::new("PNP0501"));
    let uid = Name::new(name("_UID"), &0u8);
    let io = IO::new(layout::COM1_PORT, layout::COM1_PORT, 1, layout::COM1_PORT_COUNT as u8);
    let (consumer, edge, active_low, shared) = (true, true, false, false);
    let interrupt = Interrupt::new(consumer, edge, active_low, shared, layout::COM1_GSI);
    let crs = Name::new(name("_CRS"), &ResourceTemplate::new(vec![&io, &interrupt]));
    Device::new(name("COM1"), vec![&hid, &uid, &crs]).to_aml_bytes(aml);
}

fn name(path: &str) -> Path {
    Path::new(path)
}

/// AML that is encoded already, so that each device can be a function that appends its own.
struct Encoded<'a>(&'a [u8]);

impl Aml for Encoded<'_> {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        sink.vec(self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: u64 = layout::ACPI_TABLES;

    fn u32_at(bytes: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
    }

    fn u64_at(bytes: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
    }

    fn assert_sums_to_zero(bytes: &[u8]) {
        assert_eq!(bytes.iter().fold(0u8, |sum, b| sum.wrapping_add(*b)), 0);
    }

    /// The table at a guest-physical address, its length as it says itself, its signature and checksum as they must be.
    fn table_at<'a>(tables: &'a AcpiTables, address: u64, signature: &[u8; 4]) -> &'a [u8] {
        let table = &tables.bytes[(address - BASE) as usize..];
        let table = &table[..u32_at(table, 4) as usize];
        assert_eq!(&table[..4], signature);
        assert_sums_to_zero(table);
        table
    }

    struct Found<'a> {
        fadt: &'a [u8],
        madt: &'a [u8],
        dsdt: &'a [u8],
    }

    /// Follows the pointers as a kernel does.
    fn walk(tables: &AcpiTables) -> Found<'_> {
        let rsdp = &tables.bytes[(tables.rsdp - BASE) as usize..][..36];
        assert_eq!(&rsdp[..8], b"RSD PTR ");
        assert_sums_to_zero(&rsdp[..20]);
        assert_sums_to_zero(rsdp);
        assert_eq!(rsdp[15], 2, "revision");
        let xsdt = table_at(tables, u64_at(rsdp, 24), b"XSDT");
        let entries: Vec<_> = xsdt[36..].chunks(8).map(|entry| u64_at(entry, 0)).collect();
        assert_eq!(entries.len(), 2);
        let fadt = table_at(tables, entries[0], b"FACP");
        Found { fadt, madt: table_at(tables, entries[1], b"APIC"), dsdt: table_at(tables, u64_at(fadt, 140), b"DSDT") }
    }

    /// Interrupt controller structures by their type.
    fn structures(madt: &[u8]) -> Vec<&[u8]> {
        let mut rest = &madt[44..];
        let mut found = Vec::new();
        while !rest.is_empty() {
            let (one, after) = rest.split_at(usize::from(rest[1]));
            found.push(one);
            rest = after;
        }
        found
    }

    /// Proves that pointers, lengths and checksums hold and that each processor is there once, around the x2APIC boundary.
    #[test]
    fn tables_are_whole_for_any_number_of_cpus() {
        for cpus in [1, 2, 4, 254, 255, 256, 257, 1024, 4096] {
            let tables = build(cpus, BASE).unwrap();
            assert!(BASE + tables.bytes.len() as u64 <= layout::HIGH_RAM_START);
            let madt = walk(&tables).madt;
            assert_eq!(madt.len() as u64, madt_size(cpus));
            assert_eq!(u32_at(madt, 36), layout::LAPIC as u32);
            let ids: Vec<u32> = structures(madt)
                .iter()
                .filter_map(|s| match s[0] {
                    0 => {
                        assert_eq!((s[2], u32_at(s, 4)), (s[3], 1));
                        Some(u32::from(s[3]))
                    }
                    9 => {
                        assert_eq!((u32_at(s, 4), u32_at(s, 8)), (u32_at(s, 12), 1));
                        Some(u32_at(s, 4))
                    }
                    _ => None,
                })
                .collect();
            assert_eq!(ids, (0..cpus).collect::<Vec<_>>());
        }
    }

    /// Proves that the MADT names the I/O APIC, the NMI input, and no override.
    #[test]
    fn the_madt_names_the_io_apic() {
        let tables = build(300, BASE).unwrap();
        let others: Vec<_> = structures(walk(&tables).madt)
            .into_iter()
            .filter(|s| ![0, 9].contains(&s[0]))
            .map(<[u8]>::to_vec)
            .collect();
        let io_apic = vec![1, 12, layout::IOAPIC_ID, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0];
        let nmi = vec![4, 6, 0xff, 0, 0, 1];
        let x2apic_nmi = vec![10, 12, 0, 0, 0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0];
        assert_eq!(others, [io_apic, nmi, x2apic_nmi]);
    }

    /// Proves that the FADT says hardware-reduced and where the three registers are, at the specification's offsets.
    #[test]
    fn the_fadt_says_hardware_reduced() {
        let tables = build(1, BASE).unwrap();
        let fadt = walk(&tables).fadt;
        assert_eq!((fadt.len(), fadt[8]), (276, 6));
        assert_eq!(u32_at(fadt, 112), 1 << 20 | 1 << 12 | 1 << 10 | 1 << 5 | 1 << 4 | 1);
        assert_eq!(fadt[109..111], [1 << 2 | 1 << 5, 0]);
        for (at, port) in [(116, 0x602u64), (244, 0x600), (256, 0x601)] {
            assert_eq!(fadt[at..at + 4], [1, 8, 0, 1], "a byte-wide I/O port");
            assert_eq!(u64_at(fadt, at + 4), port);
        }
        assert_eq!(fadt[128], layout::ACPI_RESET_VALUE);
        assert_eq!(u32_at(fadt, 40), 0, "the 64-bit pointer to the DSDT is the one");
    }

    /// Proves that soft off and the serial port are in the DSDT, by their encodings (sections 20.2 and 6.4).
    #[test]
    fn the_dsdt_has_soft_off_and_the_serial_port() {
        let tables = build(1, BASE).unwrap();
        let dsdt = walk(&tables).dsdt;
        let has = |needle: &[u8]| dsdt.windows(needle.len()).any(|w| w == needle);
        assert!(
            has(b"\x08\\_S5_\x12\x08\x04\x0a\x05\x0a\x00\x0a\x00\x0a\x00")
                || has(b"\x08\\_S5_\x12\x07\x04\x0a\x05\x00\x00\x00")
        );
        assert!(has(b"COM1"));
        assert!(has(&[0x0c, 0x41, 0xd0, 0x05, 0x01]), "PNP0501");
        assert!(has(&[0x47, 1, 0xf8, 3, 0xf8, 3, 1, 8]), "eight ports at 0x3f8");
        assert!(has(&[0x89, 6, 0, 0b0011, 1, 4, 0, 0, 0]), "GSI 4, edge, active high, exclusive");
    }

    /// Proves that too many CPUs are refused with the figures, and that an absurd number costs no memory.
    #[test]
    fn refuses_more_cpus_than_fit() {
        let error = build(8192, BASE).unwrap_err();
        assert!(matches!(error, AcpiError::TooLarge { cpus: 8192, room: 65536, .. }), "{error}");
        assert!(matches!(build(u32::MAX, BASE), Err(AcpiError::TooLarge { .. })));
        assert!(matches!(build(1, u64::MAX), Err(AcpiError::TooLarge { room: 0, .. })));
    }

    /// Proves, where iasl is installed, that ACPICA's disassembler reads every table without an error.
    #[test]
    fn iasl_reads_the_tables() {
        use std::process::Command;
        if Command::new("iasl").arg("-v").output().is_err() {
            eprintln!("skipped: iasl is not installed (apt-get install acpica-tools)");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let tables = build(300, BASE).unwrap();
        let found = walk(&tables);
        for (file, table) in [("facp", found.fadt), ("apic", found.madt), ("dsdt", found.dsdt)] {
            let path = dir.path().join(file).with_extension("aml");
            std::fs::write(&path, table).unwrap();
            let out = Command::new("iasl").arg("-d").arg(&path).output().unwrap();
            let said = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
            assert!(out.status.success(), "{said}");
            let text = std::fs::read_to_string(path.with_extension("dsl")).unwrap();
            for word in ["Invalid", "Error", "Unknown", "Incorrect", "unexpected"] {
                assert!(!said.contains(word) && !text.contains(word), "{file}: {said}\n{text}");
            }
        }
    }
}
