//! The zero page, struct boot_params (Linux x86 boot protocol).
