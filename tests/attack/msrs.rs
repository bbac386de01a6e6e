//! Every model-specific register, read and written with random values; a handler skips what faults.

use iced_x86::IcedError;
use iced_x86::code_asm::{CodeAssembler, cr3, eax, ecx, edx, ptr, qword_ptr, r12, r15, rax, rdi, rsp};

use crate::guests::{Guest, TABLES, exit, idt, kvm_works, tables};
use crate::random::{plant, seeds, step};
use crate::watch::attack;

const HANDLER: u64 = 0x30_0000;
const IDT: u64 = 0x31_0000;
const IDT_POINTER: u64 = 0x31_2000;
const FAULTS: u64 = 0x32_0000;
const STACK: u64 = 0x38_0000;

/// First register and number of registers: those of Intel and AMD, KVM's and other hypervisors' own, the 64-bit ones, AMD's.
const RANGES: [(u32, u32); 6] = [
    (0, 0x2000),
    (0x4000_0000, 0x200),
    (0x4b56_4d00, 0x100),
    (0xc000_0000, 0x400),
    (0xc001_0000, 0x400),
    (0xc001_1000, 0x100),
];

/// Registers that are left as they are, since the guest's own code stands on them: EFER (0xC0000080), the local APIC's base
/// (0x1B), the x2APIC's registers that send interrupts and INIT (0x830, 0x83F).
const KEPT: [u32; 4] = [0xc000_0080, 0x1b, 0x830, 0x83f];

/// Handlers of an exception without and with an error code: both skip the two bytes of `rdmsr` or `wrmsr`, and count.
fn handlers() -> (Vec<u8>, u64) {
    let assemble = |coded: bool, at: u64| {
        let mut a = CodeAssembler::new(64).expect("64 bits");
        (|a: &mut CodeAssembler| -> Result<(), IcedError> {
            if coded {
                a.add(rsp, 8)?;
            }
            a.inc(qword_ptr(FAULTS))?;
            a.add(qword_ptr(rsp), 2)?;
            a.iretq()
        })(&mut a)
        .expect("it assembles");
        a.assemble(at).expect("it assembles")
    };
    let mut code = assemble(false, HANDLER);
    code.resize(0x100, 0xf4);
    code.extend(assemble(true, HANDLER + 0x100));
    (code, HANDLER + 0x100)
}

/// A guest that reads and writes each register of a range `rounds` times, and ends with status 7.
fn hammer(range: (u32, u32), seed: u64, rounds: u32) -> Guest {
    let (code, coded) = handlers();
    let guest = Guest::new(|a| {
        a.mov(rax, TABLES)?;
        a.mov(cr3, rax)?;
        a.mov(rsp, STACK)?;
        a.mov(rdi, IDT_POINTER)?;
        a.lidt(ptr(rdi))?;
        plant(a, seed)?;
        a.mov(r12, u64::from(rounds))?;
        let (mut round, mut next, mut keep) = (a.create_label(), a.create_label(), a.create_label());
        a.set_label(&mut round)?;
        a.mov(ecx, range.0)?;
        a.set_label(&mut next)?;
        a.rdmsr()?;
        for kept in KEPT {
            a.cmp(ecx, kept)?;
            a.je(keep)?;
        }
        // What was read with a bit changed, or anything.
        step(a)?;
        let (mut whole, mut write) = (a.create_label(), a.create_label());
        a.bt(r15, 60)?;
        a.jc(whole)?;
        a.btc(eax, iced_x86::code_asm::r15d)?;
        a.jmp(write)?;
        a.set_label(&mut whole)?;
        a.mov(rax, r15)?;
        a.mov(iced_x86::code_asm::rdx, r15)?;
        a.shr(iced_x86::code_asm::rdx, 32)?;
        a.set_label(&mut write)?;
        a.wrmsr()?;
        a.set_label(&mut keep)?;
        a.xor(edx, edx)?;
        a.inc(ecx)?;
        a.cmp(ecx, range.0 + range.1)?;
        a.jne(next)?;
        a.dec(r12)?;
        a.jnz(round)?;
        exit(a, 7)
    });
    let pointer = [0xfffu16.to_le_bytes().to_vec(), IDT.to_le_bytes().to_vec()].concat();
    guest
        .with(TABLES, tables())
        .with(HANDLER, code)
        .with(IDT, idt(HANDLER, coded))
        .with(IDT_POINTER, pointer)
        .with(FAULTS, vec![0; 8])
}

/// Proves that reads and writes of every MSR of the ranges that exist, by values near what is there and by any, harm nothing;
/// the guest may lose itself, and then it is ended as a dead guest or by the time limit.
#[test]
fn every_msr() {
    if !kvm_works() {
        return;
    }
    for seed in seeds("MSRs", 2) {
        for range in RANGES {
            let done = attack(&hammer(range, seed, 2), &["--memory", "16M", "--timeout", "40"], false);
            println!("{:#x}..{:#x}: {done}", range.0, range.0 + range.1);
            done.assert_harmless(1, &[7, 124, 125]);
        }
    }
}
