//! Parse, call, exit code.

// The C runtime calls `main` itself: Rust's own start reads /proc/self/maps and installs a signal stack in every thread,
// system calls and page faults on the way to the guest's first instruction that nothing here needs.
#![no_main]

use std::ffi::{c_char, c_int};

/// Called by the C runtime once.
// SAFETY: the binary has no other symbol of this name, and its type is the one C gives to it.
#[unsafe(no_mangle)]
pub extern "C" fn main(_argc: c_int, _argv: *const *const c_char) -> c_int {
    ringfence::cli::main()
}
