//! The guest that comes with ringfence: kernel recipe and store, initramfs, command hand-over.

pub mod cpio;
pub mod initramfs;
pub mod recipe;
pub mod spec;
pub mod store;
