//! Kernel images and the tables a kernel is handed.

pub mod acpi;
pub mod bzimage;
pub mod cache;
pub mod cmdline;
pub mod e820;
pub mod elf;
#[cfg(test)]
mod fixture;
pub mod image;
pub mod initrd;
pub mod mptable;
pub mod pvh;
pub mod source;
pub mod unpack;
pub mod zero_page;
