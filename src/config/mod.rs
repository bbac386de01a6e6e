//! What was typed, made valid once; immutable after.

pub mod console;
mod machine;

pub use console::ConsoleSpec;
pub use machine::{BootEntry, ConfigError, IrqChip, KernelFile, MIN_RAM, MachineConfig};
