//! ringfence: a micro virtual machine monitor for x86_64 Linux on KVM.
//!
//! # The map
//!
//! | room | what it knows |
//! | --- | --- |
//! | [`layout`] | every guest-physical address, port and GSI |
//! | [`units`] | sizes with their unit |
//! | [`config`] | what was typed, made valid once |
//! | [`host`] | what this host's KVM can do |
//! | [`memory`] | guest RAM |
//! | [`bus`] | dispatch of port and memory accesses, the traits a device sees |
//! | [`cpu`] | CPUID, MSRs, registers, page tables, local APIC |
//! | [`boot`] | kernel images and the tables a kernel is handed |
//! | [`devices`] | register models: UART, I/O APIC, i8042, ACPI power, boot timer, exit port |
//! | [`console`] | where the serial port's bytes go to and come from |
//! | [`placement`] | which threads run on which of the host's CPUs, and how |
//! | [`guest`] | the guest that comes with ringfence: kernel recipe and store, initramfs, command hand-over |
//! | [`registry`] | the machines that run now, what each asked for and what it has |
//! | [`sandbox`] | what the monitor's own threads may ask of the host's kernel |
//! | [`machine`] | a virtual machine's construction and life |
//! | [`mod@bench`] | measuring guests beside containers |
//! | [`cli`] | one file a subcommand |
//!
//! Dependencies point one way: `cli -> bench -> machine -> {cpu, boot, devices, console, placement, sandbox, registry,
//! guest} -> {memory, bus, host, config} -> {layout, units}`; siblings do not import siblings. `tests/rooms.rs` guards it.

#![deny(unsafe_code)]
#![warn(missing_docs)]

pub mod bench;
pub mod boot;
pub mod bus;
pub mod cli;
pub mod config;
pub mod console;
pub mod cpu;
pub mod devices;
pub mod guest;
pub mod host;
pub mod layout;
pub mod machine;
pub mod memory;
pub mod placement;
pub mod registry;
pub mod sandbox;
pub mod units;
