//! ACPI tables (ACPI 6.5): RSDP, XSDT, MADT, hardware-reduced FADT, DSDT.
