//! Guests that attack the monitor: every port, every hole, every MSR, garbage in every table, floods of interrupts and output,
//! and machines made and destroyed by the thousand. Each is run by the real binary, and the host is watched meanwhile.
//!
//! Chance is seeded, the seeds are printed, and the same tests run on upstream kvm_amd (tests/bed2.rs).

#[allow(dead_code, reason = "not all of it is used here")]
#[path = "../guests/mod.rs"]
mod guests;

mod ends;
mod interrupts;
mod leaks;
mod memory;
mod msrs;
mod ports;
mod random;
mod tables;
mod watch;
