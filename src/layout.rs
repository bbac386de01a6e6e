//! Every guest-physical address, I/O port and GSI, in ascending order.
//!
//! No address, port or interrupt number is typed anywhere else. The assertions at the end keep ranges from overlapping.

/// Page size of the x86 base page.
pub const PAGE_SIZE: u64 = 4096;

// ---- Guest-physical memory below 1 MiB -------------------------------------------------------------------------

/// MP floating pointer structure (MultiProcessor Specification 1.4, section 4.1).
///
/// Kernels search the first KiB of memory first, so it is found at once. The configuration table lies in the BIOS area.
pub const MP_FLOATING_POINTER: u64 = 0x10;
/// Global descriptor table for the kernel's entry.
pub const BOOT_GDT: u64 = 0x500;
/// Empty interrupt descriptor table for the kernel's entry.
pub const BOOT_IDT: u64 = 0x560;
/// PVH start of day structure (`hvm_start_info`), its memory map and module list, one page.
pub const PVH_START_INFO: u64 = 0x6000;
/// The zero page, `struct boot_params` (Linux x86 boot protocol).
pub const ZERO_PAGE: u64 = 0x7000;
/// Initial stack pointer; grows down from here.
pub const BOOT_STACK: u64 = 0x8ff0;
/// Level-4 page table for the 64-bit entry.
pub const BOOT_PML4: u64 = 0x9000;
/// Page directory pointer table.
pub const BOOT_PDPT: u64 = 0xa000;
/// Page directories: 4 pages map the first 4 GiB with 2 MiB pages.
pub const BOOT_PD: u64 = 0xb000;
/// Number of page directories, one GiB each.
pub const BOOT_PD_PAGES: u64 = 4;
/// Kernel command line.
pub const CMDLINE: u64 = 0x20000;
/// Longest command line with its terminating NUL, in bytes. Linux x86 keeps 2048 (`COMMAND_LINE_SIZE`).
pub const CMDLINE_MAX_SIZE: u64 = 0x10000;
/// End of conventional memory; the kernel treats [640 KiB, 1 MiB) as the BIOS's and never uses it as RAM.
pub const LOW_RAM_END: u64 = 0xa0000;
/// Firmware tables: MP configuration table and ACPI, in the area kernels expect a BIOS in.
pub const MP_TABLE: u64 = 0xe0000;
/// ACPI tables, the RSDP first (ACPI 6.5, section 5.2.5.1: a 16-byte boundary in [0xE0000, 0xFFFFF]).
pub const ACPI_TABLES: u64 = 0xf0000;
/// Start of high memory; kernels are loaded from here.
pub const HIGH_RAM_START: u64 = 0x10_0000;

// ---- The 32-bit hole --------------------------------------------------------------------------------------------

/// Start of the 32-bit MMIO hole: RAM beyond 3 GiB continues at [`HIGH_RAM_64_START`].
pub const MMIO_HOLE_START: u64 = 0xc000_0000;
/// virtio-mmio windows.
pub const VIRTIO_MMIO_START: u64 = 0xd000_0000;
/// Size of the area for virtio-mmio windows.
pub const VIRTIO_MMIO_SIZE: u64 = 0x1_0000;
/// I/O APIC (Intel 82093AA).
pub const IOAPIC: u64 = 0xfec0_0000;
/// Size of the I/O APIC's register window.
pub const IOAPIC_SIZE: u64 = 0x1000;
/// Local APIC default base (Intel SDM vol. 3A, section 11.4.1).
pub const LAPIC: u64 = 0xfee0_0000;
/// Size of the local APIC's register window.
pub const LAPIC_SIZE: u64 = 0x1000;
/// One page KVM on VMX uses as identity map when the guest is in real mode.
pub const KVM_IDENTITY_MAP: u64 = 0xfffb_c000;
/// Three pages KVM on VMX uses as a task state segment.
pub const KVM_TSS: u64 = 0xfffb_d000;
/// End of the hole: RAM goes on here.
pub const HIGH_RAM_64_START: u64 = 0x1_0000_0000;

// ---- I/O ports --------------------------------------------------------------------------------------------------

/// i8042 keyboard controller, data port.
pub const I8042_DATA_PORT: u16 = 0x60;
/// i8042 keyboard controller, status (read) and command (write) port.
pub const I8042_COMMAND_PORT: u16 = 0x64;
/// First serial port (16550A).
pub const COM1_PORT: u16 = 0x3f8;
/// Ports of one 16550A.
pub const COM1_PORT_COUNT: u16 = 8;
/// ACPI sleep control register (ACPI 6.5, section 4.8.3.7).
pub const ACPI_SLEEP_CONTROL_PORT: u16 = 0x600;
/// ACPI sleep status register.
pub const ACPI_SLEEP_STATUS_PORT: u16 = 0x601;
/// ACPI reset register (ACPI 6.5, section 4.8.3.6).
pub const ACPI_RESET_PORT: u16 = 0x602;
/// Value that resets the machine when written to [`ACPI_RESET_PORT`].
pub const ACPI_RESET_VALUE: u8 = 1;
/// SLP_TYP that means S5, soft off, in the sleep control register and in `\_S5` (ACPI 6.5, section 7.4.2.6).
pub const ACPI_S5_SLEEP_TYPE: u8 = 5;
/// Boot timer: a byte written here is a milestone, timed by the host's clock.
pub const BOOT_TIMER_PORT: u16 = 0x610;
/// Exit status: a 32-bit value written here ends the machine with that status.
pub const EXIT_PORT: u16 = 0x614;
/// Ports of the exit status register.
pub const EXIT_PORT_COUNT: u16 = 4;
/// Terminal size: a 32-bit read gives columns << 16 | rows, 0 when not known.
pub const WINDOW_SIZE_PORT: u16 = 0x618;
/// Ports of the terminal size register.
pub const WINDOW_SIZE_PORT_COUNT: u16 = 4;

// ---- Interrupts -------------------------------------------------------------------------------------------------

/// GSI of the first serial port (ISA IRQ 4).
pub const COM1_GSI: u32 = 4;
/// GSI of the ACPI system control interrupt (unused by hardware-reduced ACPI, named by the tables).
pub const ACPI_SCI_GSI: u32 = 9;
/// First GSI of virtio-mmio devices.
pub const VIRTIO_GSI_BASE: u32 = 5;
/// Pins of the I/O APIC.
pub const IOAPIC_PINS: u32 = 24;
/// APIC ID of the I/O APIC at reset: the field has 4 bits, and the highest value is the last one a CPU takes.
pub const IOAPIC_ID: u8 = 0xf;
/// Version the I/O APIC reports.
pub const IOAPIC_VERSION: u8 = 0x20;

const _: () = {
    assert!(MP_FLOATING_POINTER + 16 <= BOOT_GDT);
    assert!(BOOT_GDT < BOOT_IDT && BOOT_IDT < PVH_START_INFO);
    assert!(PVH_START_INFO + PAGE_SIZE <= ZERO_PAGE);
    assert!(ZERO_PAGE + PAGE_SIZE <= BOOT_STACK);
    assert!(BOOT_STACK < BOOT_PML4);
    assert!(BOOT_PML4 + PAGE_SIZE <= BOOT_PDPT);
    assert!(BOOT_PDPT + PAGE_SIZE <= BOOT_PD);
    assert!(BOOT_PD + BOOT_PD_PAGES * PAGE_SIZE <= CMDLINE);
    assert!(CMDLINE + CMDLINE_MAX_SIZE <= LOW_RAM_END);
    assert!(LOW_RAM_END <= MP_TABLE && MP_TABLE < ACPI_TABLES && ACPI_TABLES < HIGH_RAM_START);
    assert!(MMIO_HOLE_START <= VIRTIO_MMIO_START);
    assert!(VIRTIO_MMIO_START + VIRTIO_MMIO_SIZE <= IOAPIC);
    assert!(IOAPIC + IOAPIC_SIZE <= LAPIC);
    assert!(LAPIC + LAPIC_SIZE <= KVM_IDENTITY_MAP);
    assert!(KVM_IDENTITY_MAP + PAGE_SIZE <= KVM_TSS);
    assert!(KVM_TSS + 3 * PAGE_SIZE <= HIGH_RAM_64_START);
};

const _: () = {
    assert!(I8042_DATA_PORT < I8042_COMMAND_PORT && I8042_COMMAND_PORT < COM1_PORT);
    assert!(COM1_PORT + COM1_PORT_COUNT <= ACPI_SLEEP_CONTROL_PORT);
    assert!(ACPI_SLEEP_CONTROL_PORT < ACPI_SLEEP_STATUS_PORT && ACPI_SLEEP_STATUS_PORT < ACPI_RESET_PORT);
    assert!(ACPI_RESET_PORT < BOOT_TIMER_PORT && BOOT_TIMER_PORT < EXIT_PORT);
    assert!(EXIT_PORT + EXIT_PORT_COUNT <= WINDOW_SIZE_PORT);
    assert!(COM1_GSI < VIRTIO_GSI_BASE && VIRTIO_GSI_BASE < ACPI_SCI_GSI && ACPI_SCI_GSI < IOAPIC_PINS);
};
