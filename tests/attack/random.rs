//! Chance, the same in host and guest: a number that an attack starts from decides all that it does.

use iced_x86::IcedError;
use iced_x86::code_asm::{CodeAssembler, r14, r15};

/// Seeds of `count` runs, printed so that one that fails can be run again by RINGFENCE_ATTACK_SEED.
pub fn seeds(what: &str, count: u64) -> Vec<u64> {
    let chosen = std::env::var("RINGFENCE_ATTACK_SEED").ok();
    let first = match &chosen {
        Some(text) => text.parse().expect("RINGFENCE_ATTACK_SEED is a number"),
        None => 1,
    };
    let seeds: Vec<u64> = if chosen.is_some() { vec![first] } else { (first..first + count).collect() };
    println!("{what}: seeds {seeds:?} (RINGFENCE_ATTACK_SEED repeats one)");
    seeds
}

/// A generator for the host's side (splitmix64, Vigna 2015).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).take(count).collect()
    }
}

/// Assembles the guest's seed into r15.
pub fn plant(a: &mut CodeAssembler, seed: u64) -> Result<(), IcedError> {
    a.mov(r15, Random(seed).next() | 1)
}

/// Assembles a step of xorshift64 (Marsaglia 2003): the next number in r15; r14 and the flags are lost.
pub fn step(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.mov(r14, r15)?;
    a.shl(r14, 13)?;
    a.xor(r15, r14)?;
    a.mov(r14, r15)?;
    a.shr(r14, 7)?;
    a.xor(r15, r14)?;
    a.mov(r14, r15)?;
    a.shl(r14, 17)?;
    a.xor(r15, r14)
}
