//! A guest that takes all the memory and all the time that it can get.

use std::collections::BTreeSet;

use iced_x86::code_asm::{cr3, dword_ptr, ecx, qword_ptr, rax, rbx, rcx, rdi, rsi};

use super::guests::{Guest, say};

/// A guest that takes what there is: its first vCPU starts the others and then touches every page of its RAM and 64 pages
/// beyond, again and again; the others never stop. It says "up" when it has touched everything once. At most 3 GiB.
pub fn greedy(ram: u64) -> Guest {
    const TABLES: u64 = 0x40_0000;
    const SPIN: u64 = 0x30_0000;
    // RAM, 64 pages beyond it and the fourth GiB, where the local APIC is, one to one, in pages of 2 MiB.
    let gibs: BTreeSet<usize> = (0..=(ram >> 30) as usize).chain([3]).collect();
    let mut tables = vec![0u64; (2 + gibs.len()) * 512];
    tables[0] = (TABLES + 0x1000) | 3;
    for (page, gib) in (2..).zip(gibs) {
        tables[512 + gib] = (TABLES + 0x1000 * page as u64) | 3;
        (0..512).for_each(|i| tables[512 * page + i] = ((512 * gib + i) as u64) << 21 | 0x83);
    }
    // Real mode at 0x8000: xor ax, ax; mov ds, ax; then lock inc word [0x8200], for ever.
    let spin = [0x31, 0xc0, 0x8e, 0xd8, 0xf0, 0xff, 0x06, 0x00, 0x82, 0xeb, 0xf9];
    Guest::new(|a| {
        a.mov(rax, TABLES)?;
        a.mov(cr3, rax)?;
        a.mov(rsi, SPIN)?;
        a.mov(rdi, 0x8000u64)?;
        a.mov(ecx, spin.len() as u32)?;
        a.rep().movsb()?;
        // The local APIC: on; INIT and then SIPI with vector 8, to all but this one.
        for (register, value) in [(0xfee0_00f0u64, 0x1ffu32), (0xfee0_0300, 0xc_4500), (0xfee0_0300, 0xc_4608)] {
            a.mov(rdi, register)?;
            a.mov(dword_ptr(rdi), value as i32)?;
        }
        a.mov(rbx, 0u64)?;
        let (mut all, mut inside, mut beyond) = (a.create_label(), a.create_label(), a.create_label());
        a.set_label(&mut all)?;
        a.mov(rdi, 0u64)?;
        a.mov(rcx, ram / 4096)?;
        a.set_label(&mut inside)?;
        a.or(qword_ptr(rdi), 0)?;
        a.add(rdi, 4096)?;
        a.dec(rcx)?;
        a.jnz(inside)?;
        a.mov(rcx, 64u64)?;
        a.set_label(&mut beyond)?;
        a.mov(qword_ptr(rdi), rdi)?;
        a.add(rdi, 4096)?;
        a.dec(rcx)?;
        a.jnz(beyond)?;
        a.test(rbx, rbx)?;
        a.jnz(all)?;
        a.mov(rbx, 1u64)?;
        say(a, "up\n")?;
        a.jmp(all)
    })
    .with(TABLES, tables.iter().flat_map(|word| word.to_le_bytes()).collect())
    .with(SPIN, spin.to_vec())
}
