//! Fuzz targets as plain functions: one a parser and one a device model.
//!
//! Two drivers call them: libFuzzer's (`fuzz_targets/`, guided by coverage) and `tests/fuzz.rs`, which makes its own cases from
//! a fixed seed and runs in every `cargo test`.

pub mod devices;
mod input;
pub mod parsers;
pub mod text;

/// A target: its name, what is done with a case, and cases that it understands, to start from.
pub struct Target {
    /// As `cargo fuzz run` takes it.
    pub name: &'static str,
    /// Runs one case; panics when a promise is broken.
    pub run: fn(&[u8]),
    /// Whole inputs whose parts are worth changing.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

fn none() -> Vec<Vec<u8>> {
    Vec::new()
}

macro_rules! targets {
    ($($module:ident::$name:ident, $seeds:expr;)*) => {
        /// Every target.
        pub const ALL: &[Target] = &[$(Target { name: stringify!($name), run: $module::$name, seeds: $seeds },)*];
    };
}

targets! {
    parsers::elf, parsers::elf_seeds;
    parsers::bzimage, none;
    parsers::unpack, parsers::unpack_seeds;
    parsers::initrd, none;
    parsers::cache_record, parsers::cache_record_seeds;
    parsers::manifest, parsers::manifest_seeds;
    parsers::cpio, none;
    text::arguments, text::argument_seeds;
    text::cmdline, none;
    text::guest_spec, text::guest_spec_seeds;
    text::spec, none;
    devices::serial, devices::serial_seeds;
    devices::ioapic, none;
    devices::i8042, none;
    devices::acpi_power, none;
    devices::exit_port, none;
    devices::boot_timer, none;
    devices::window_size, none;
    devices::bus, none;
}
