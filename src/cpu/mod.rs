//! CPUID, MSRs, registers, page tables and the local APIC: what a vCPU is before its first instruction.

pub mod cpuid;
pub mod lapic;
pub mod msrs;
pub mod paging;
pub mod regs;

pub use cpuid::{CpuidError, Topology};
