//! Every port, by every width, one by one and by string instructions.

use iced_x86::IcedError;
use iced_x86::code_asm::{CodeAssembler, CodeLabel, al, ax, dx, eax, ebx, ecx, edx, r12, r15, rcx, rdi, rsi, word_ptr};

use crate::guests::{Guest, exit, kvm_works};
use crate::random::{Random, plant, seeds, step};
use crate::watch::attack;

/// Where string instructions read and write.
const BUFFER: u64 = 0x30_0000;
/// Ports whose writes end the machine (docs/memory-map.md), with what a wider access reaches from below: first and last.
const ENDING: [(u32, u32); 3] = [(0x5d, 0x64), (0x5d0, 0x602), (0x611, 0x617)];

/// Assembles a jump to `past` when edx is a port that ends the machine.
fn spare(a: &mut CodeAssembler, past: CodeLabel) -> Result<(), IcedError> {
    for (first, last) in ENDING {
        a.mov(ebx, edx)?;
        a.sub(ebx, first)?;
        a.cmp(ebx, last - first)?;
        a.jbe(past)?;
    }
    Ok(())
}

/// A guest that reads and writes every port below `count` by 8, 16 and 32 bits with random values, and then ends with status 7.
fn sweep(seed: u64, count: u32) -> Guest {
    Guest::new(|a| {
        plant(a, seed)?;
        a.xor(edx, edx)?;
        let (mut again, mut past) = (a.create_label(), a.create_label());
        a.set_label(&mut again)?;
        a.in_(al, dx)?;
        a.in_(ax, dx)?;
        a.in_(eax, dx)?;
        spare(a, past)?;
        step(a)?;
        a.mov(iced_x86::code_asm::rax, r15)?;
        a.out(dx, al)?;
        a.out(dx, ax)?;
        a.out(dx, eax)?;
        a.set_label(&mut past)?;
        a.inc(edx)?;
        a.cmp(edx, count)?;
        a.jb(again)?;
        exit(a, 7)
    })
}

/// A guest that without end does string input and output of random width and length at random ports.
fn strings(seed: u64) -> Guest {
    Guest::new(|a| {
        plant(a, seed)?;
        let (mut again, mut input) = (a.create_label(), a.create_label());
        let mut ends = [a.create_label(), a.create_label(), a.create_label(), a.create_label()];
        a.set_label(&mut again)?;
        step(a)?;
        // Half of them near the devices, half anywhere.
        a.mov(rcx, r15)?;
        a.shr(rcx, 20)?;
        a.movzx(edx, iced_x86::code_asm::cx)?;
        a.bt(r15, 1)?;
        let mut anywhere = a.create_label();
        a.jc(anywhere)?;
        a.and(edx, 0x3ff)?;
        a.set_label(&mut anywhere)?;
        spare(a, again)?;
        a.mov(rcx, r15)?;
        a.shr(rcx, 40)?;
        a.and(ecx, 0x7ff)?;
        a.mov(rsi, BUFFER + 0x4000)?;
        a.mov(rdi, BUFFER + 0x4000)?;
        // Sometimes downwards.
        a.cld()?;
        a.bt(r15, 2)?;
        let mut upwards = a.create_label();
        a.jc(upwards)?;
        a.std()?;
        a.set_label(&mut upwards)?;
        a.bt(r15, 3)?;
        a.jc(input)?;
        a.bt(r15, 4)?;
        a.jc(ends[0])?;
        a.bt(r15, 5)?;
        a.jc(ends[1])?;
        a.rep().outsb()?;
        a.jmp(again)?;
        a.set_label(&mut ends[0])?;
        a.rep().outsw()?;
        a.jmp(again)?;
        a.set_label(&mut ends[1])?;
        a.rep().outsd()?;
        a.jmp(again)?;
        a.set_label(&mut input)?;
        a.bt(r15, 4)?;
        a.jc(ends[2])?;
        a.bt(r15, 5)?;
        a.jc(ends[3])?;
        a.rep().insb()?;
        a.jmp(again)?;
        a.set_label(&mut ends[2])?;
        a.rep().insw()?;
        a.jmp(again)?;
        a.set_label(&mut ends[3])?;
        a.rep().insd()?;
        a.jmp(again)
    })
    .with(BUFFER, Random(seed).bytes(0x8000))
}

/// Proves that reads and writes of every port by every width harm nothing (with KVM's own PIC and PIT: of those ports that can
/// be wired to something on a PC), and that the machine works afterwards.
#[test]
fn every_port_by_every_width() {
    if !kvm_works() {
        return;
    }
    for seed in seeds("every port", 1) {
        for (irqchip, count) in [("split", 0x1_0000), ("kernel", 0x1000)] {
            let done =
                attack(&sweep(seed, count), &["--irqchip", irqchip, "--memory", "16M", "--timeout", "60"], false);
            done.assert_harmless(1, &[7]);
            println!("{irqchip}: {done}");
        }
    }
}

/// Proves that string input and output of any width, length and direction at any port harm nothing.
#[test]
fn strings_at_any_port() {
    if !kvm_works() {
        return;
    }
    for seed in seeds("strings", 2) {
        let done = attack(&strings(seed), &["--memory", "16M", "--timeout", "1.5"], false);
        done.assert_harmless(1, &[124]);
        assert!(done.looks() > 3, "{done}");
        println!("{done}");
    }
}

/// Proves that random writes to the ports that end a machine end it as documented, with a status and without a word of harm,
/// or leave it running.
#[test]
fn ports_that_end_a_machine() {
    if !kvm_works() {
        return;
    }
    for seed in seeds("ending ports", 12) {
        let (first, last) = ENDING[seed as usize % ENDING.len()];
        let guest = Guest::new(|a| {
            plant(a, seed)?;
            let mut again = a.create_label();
            a.set_label(&mut again)?;
            step(a)?;
            a.mov(edx, iced_x86::code_asm::r15d)?;
            a.and(edx, 0xff)?;
            a.cmp(edx, last - first)?;
            a.ja(again)?;
            a.add(edx, first)?;
            a.mov(iced_x86::code_asm::rax, r15)?;
            a.shr(iced_x86::code_asm::rax, 32)?;
            a.bt(r15, 9)?;
            let (mut wide, mut next) = (a.create_label(), a.create_label());
            a.jc(wide)?;
            a.out(dx, al)?;
            a.jmp(next)?;
            a.set_label(&mut wide)?;
            a.out(dx, eax)?;
            a.set_label(&mut next)?;
            // A machine whose power is off goes no further than the exits that are under way.
            a.inc(word_ptr(BUFFER))?;
            a.xor(r12, r12)?;
            a.jmp(again)
        });
        let done = attack(&guest.with(BUFFER, vec![0; 8]), &["--memory", "16M", "--timeout", "30"], false);
        let any: Vec<i32> = (0..256).collect();
        done.assert_harmless(1, &any);
        assert_ne!(done.ran.status, Some(124), "the time limit passed: {done}");
        assert_eq!(done.ran.stderr, "", "{done}");
    }
}
