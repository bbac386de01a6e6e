//! The guest that comes with ringfence: kernel recipe and store, initramfs, command hand-over.

pub mod build;
pub mod cpio;
mod elf;
pub mod initramfs;
pub mod manifest;
pub mod recipe;
mod run;
pub mod source;
pub mod spec;
pub mod store;
pub mod toolchain;
