//! Garbage where the CPU expects tables: descriptors, page tables, control registers, instructions.

use iced_x86::IcedError;
use iced_x86::code_asm::{
    CodeAssembler, ax, cr0, cr3, cr4, eax, ecx, ptr, qword_ptr, rax, rbx, rcx, rdi, rdx, rsp, ss,
};

use crate::guests::{Guest, TABLES, exit, kvm_works, tables};
use crate::random::{Random, seeds};
use crate::watch::attack;

/// Random bytes, of which the pointers in [`POINTER`] make tables.
const GARBAGE: u64 = 0x30_0000;
const GARBAGE_LEN: usize = 0x2_0000;
/// Ten bytes for `lgdt` and `lidt`: a limit and a base.
const POINTER: u64 = 0x36_0000;
const STACK: u64 = 0x38_0000;

/// A guest with garbage of `seed` at hand, and code that makes use of it.
fn guest(seed: u64, code: impl FnOnce(&mut CodeAssembler, &mut Random) -> Result<(), IcedError>) -> Guest {
    let mut random = Random(seed);
    let garbage = random.bytes(GARBAGE_LEN);
    let pointer =
        [0xffffu16.to_le_bytes().to_vec(), (GARBAGE + (random.next() & 0xfff)).to_le_bytes().to_vec()].concat();
    let guest = Guest::new(|a| {
        a.mov(rax, TABLES)?;
        a.mov(cr3, rax)?;
        a.mov(rsp, STACK)?;
        code(a, &mut random)?;
        exit(a, 7)
    });
    guest.with(TABLES, tables()).with(GARBAGE, garbage).with(POINTER, pointer)
}

/// Runs a guest for each seed. It may survive, die and be told of, loop until the time limit, or find the way to a port that ends
/// the machine; whatever it does, the host is unharmed.
fn run(what: &str, count: u64, code: impl Fn(&mut CodeAssembler, &mut Random) -> Result<(), IcedError>) {
    if !kvm_works() {
        return;
    }
    let any: Vec<i32> = (0..256).collect();
    let mut statuses = std::collections::BTreeMap::new();
    for seed in seeds(what, count) {
        let done = attack(&guest(seed, &code), &["--memory", "16M", "--timeout", "0.3"], false);
        done.assert_harmless(1, &any);
        if done.ran.status == Some(125) && !done.ran.stderr.is_empty() {
            assert!(done.ran.stderr.contains("vCPU 0"), "seed {seed}: {done}");
        }
        *statuses.entry(done.ran.status).or_insert(0) += 1;
    }
    println!("{what}: how often each status: {statuses:?}");
}

/// Proves that a garbage IDT harms nothing when an exception, an interrupt or an NMI goes through it.
#[test]
fn interrupt_descriptors() {
    run("IDT", 16, |a, random| {
        a.lidt(ptr(POINTER))?;
        a.sti()?;
        match random.next() % 4 {
            0 => a.ud2(),
            1 => {
                a.xor(ecx, ecx)?;
                a.div(rcx)
            }
            2 => a.int((random.next() & 0xff) as i32),
            _ => {
                // An NMI to itself.
                a.mov(rdi, 0xfee0_0300u64)?;
                a.mov(iced_x86::code_asm::dword_ptr(rdi), 0x4_4400)?;
                a.nop()
            }
        }
    });
}

/// Proves that a garbage GDT harms nothing when segments, a task or a local table are loaded from it.
#[test]
fn segment_descriptors() {
    run("GDT", 16, |a, random| {
        a.lgdt(ptr(POINTER))?;
        let selector = (random.next() & 0xfffc) as u32;
        a.mov(eax, selector)?;
        match random.next() % 5 {
            0 => a.mov(ss, ax),
            1 => a.ltr(ax),
            2 => a.lldt(ax),
            3 => {
                a.push(rax)?;
                a.lea(rbx, ptr(GARBAGE))?;
                a.push(rbx)?;
                a.retf()
            }
            _ => {
                // A whole frame: ss, rsp, flags, cs, rip.
                for _ in 0..5 {
                    a.mov(rbx, random.next() & 0x7fff_ffff)?;
                    a.push(rbx)?;
                }
                a.iretq()
            }
        }
    });
}

/// Proves that garbage page tables harm nothing: tables anywhere, in holes and in the interrupt controllers too.
#[test]
fn page_tables() {
    run("page tables", 16, |a, random| {
        let root = match random.next() % 4 {
            0 | 1 => GARBAGE + (random.next() & 0xf000),
            2 => 0xfec0_0000,
            _ => random.next() & 0xf_ffff_ffff_f000,
        };
        // The guest's own code stays mapped in one case, to go on by the garbage.
        if random.next() % 2 == 0 {
            a.mov(rax, TABLES | 0x3)?;
            a.mov(rbx, (TABLES + 0x1000) | 3)?;
            a.mov(rdi, GARBAGE)?;
            a.mov(qword_ptr(rdi), rbx)?;
            a.mov(rax, GARBAGE)?;
        } else {
            a.mov(rax, root)?;
        }
        a.mov(cr3, rax)?;
        for _ in 0..8 {
            a.mov(rdi, random.next() & 0xffff_ffff_ffff)?;
            a.mov(rax, qword_ptr(rdi))?;
            a.mov(qword_ptr(rdi), rax)?;
        }
        Ok(())
    });
}

/// Proves that random bits in CR0, CR4 and EFER harm nothing: with no handler each that faults is a triple fault.
#[test]
fn control_registers() {
    run("control registers", 24, |a, random| {
        match random.next() % 4 {
            0 => {
                a.mov(rax, cr0)?;
                a.mov(rbx, random.next() & 0xe005_003f)?;
                a.xor(rax, rbx)?;
                a.mov(cr0, rax)?;
            }
            1 => {
                a.mov(rax, cr4)?;
                a.mov(rbx, random.next() & 0x01ff_ffff)?;
                a.xor(rax, rbx)?;
                a.mov(cr4, rax)?;
            }
            2 => {
                a.mov(ecx, 0xc000_0080u32)?;
                a.rdmsr()?;
                a.mov(rbx, random.next() & 0xffff)?;
                a.xor(rax, rbx)?;
                a.xor(rdx, rdx)?;
                a.wrmsr()?;
            }
            _ => {
                a.mov(rax, random.next())?;
                a.mov(cr0, rax)?;
            }
        }
        a.push(rax)?;
        a.pop(rbx)?;
        a.hlt()
    });
}

/// Proves that random instructions, with random registers, harm nothing.
#[test]
fn instructions() {
    run("instructions", 40, |a, random| {
        for register in [rax, rbx, rcx, rdx, iced_x86::code_asm::rsi, rdi] {
            // Now and then an address of something.
            let value = match random.next() % 3 {
                0 => random.next(),
                1 => GARBAGE + (random.next() & 0xffff),
                _ => random.next() & 0xffff,
            };
            a.mov(register, value)?;
        }
        a.mov(iced_x86::code_asm::r8, GARBAGE + (random.next() & 0xffff))?;
        a.jmp(iced_x86::code_asm::r8)
    });
}
