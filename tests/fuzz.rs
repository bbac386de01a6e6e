//! Every fuzz target with cases of our own making: the short run that each `cargo test` does.
//!
//! RINGFENCE_FUZZ_CASES=N runs N cases a target in place of 2000, RINGFENCE_FUZZ_SEED=N makes others. `cargo fuzz run TARGET` runs
//! the same targets guided by coverage (docs/testing.md).

#[path = "../fuzz/src/lib.rs"]
mod targets;

use std::time::{Duration, Instant};

/// Longest case in bytes: larger than every header that a parser reads.
const LONGEST: u64 = 5000;
/// A case that takes longer hangs, also on a machine that has much else to do.
const PATIENCE: Duration = Duration::from_secs(20);

/// A xorshift generator (Marsaglia 2003, 64 bits): the same cases on every machine.
struct Cases(u64);

impl Cases {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// Short ones more often than long ones.
    fn length(&mut self) -> usize {
        let bits = self.below(64 - u64::from(LONGEST.leading_zeros())) + 1;
        self.below(1 << bits).min(LONGEST) as usize
    }

    /// A byte as formats like them: zero, all ones, a small number, a letter, any.
    fn byte(&mut self) -> u8 {
        let any = self.next() as u8;
        match self.below(8) {
            0 | 1 => 0,
            2 => 0xff,
            3 => any % 16,
            4 => any % 95 + 32,
            _ => any,
        }
    }

    /// Bytes from nothing, or one of the seeds with some of it changed.
    fn case(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        if seeds.is_empty() || self.below(3) == 0 {
            let length = self.length();
            return (0..length).map(|_| self.byte()).collect();
        }
        let mut case = seeds[self.below(seeds.len() as u64) as usize].clone();
        for _ in 0..self.below(8) {
            let at = self.below(case.len() as u64 + 1) as usize;
            match self.below(4) {
                0 => case.truncate(at),
                1 => case.insert(at, self.byte()),
                2 if at < case.len() => case[at] = self.byte(),
                3 if at < case.len() => case[at] ^= 1 << self.below(8),
                _ => {}
            }
        }
        case
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")))
}

/// Runs a target's cases; a panic comes with the case that caused it.
fn run(name: &str) {
    let target = targets::ALL.iter().find(|t| t.name == name).unwrap_or_else(|| panic!("no target {name}"));
    let (seeds, count) = ((target.seeds)(), number("RINGFENCE_FUZZ_CASES").unwrap_or(2000));
    let mut cases = Cases(number("RINGFENCE_FUZZ_SEED").unwrap_or(1).wrapping_mul(0x9e37_79b9_7f4a_7c15).max(1));
    seeds.iter().for_each(|seed| (target.run)(seed));
    for index in 0..count {
        let case = cases.case(&seeds);
        let start = Instant::now();
        if let Err(panic) = std::panic::catch_unwind(|| (target.run)(&case)) {
            eprintln!("{name}, case {index}: {}", case.escape_ascii().take(2000).map(char::from).collect::<String>());
            std::panic::resume_unwind(panic);
        }
        assert!(start.elapsed() < PATIENCE, "{name}, case {index} hangs");
    }
}

/// A test for each target, named like it: proves what the target's own description says, on some thousand cases.
macro_rules! tests {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            run(stringify!($name));
        })*

        /// Proves that no target is forgotten: neither here nor by cargo-fuzz.
        #[test]
        fn every_target_is_run() {
            let here = [$(stringify!($name)),*];
            let manifest = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/Cargo.toml")).expect("it is there");
            for target in targets::ALL {
                assert!(here.contains(&target.name), "no test for {}", target.name);
                assert!(manifest.contains(&format!("name = \"{}\"", target.name)), "fuzz/Cargo.toml lacks {}", target.name);
            }
        }
    };
}

tests! {
    elf bzimage unpack initrd cache_record manifest cpio
    arguments cmdline guest_spec spec
    serial ioapic i8042 acpi_power exit_port boot_timer window_size bus
}
