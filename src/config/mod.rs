//! What was typed, made valid once; immutable after.

pub mod console;
mod listing;
mod machine;
mod placement;
mod ram_policy;
mod sandbox;

pub use console::ConsoleSpec;
pub use listing::{Listing, MachineName, ParseNameError};
pub use machine::{BootEntry, ConfigError, IrqChip, KernelFile, MIN_RAM, MachineConfig};
pub use placement::{Granted, Halt, Pin, Placement, PlacementError, RealtimePriority, Smt};
pub use ram_policy::{HugePage, NodeChoice, RamPolicy, Transparent};
pub use sandbox::SandboxPolicy;
