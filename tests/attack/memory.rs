//! Memory that is not there: the holes, the I/O APIC's page, the ends of RAM, by every width and misaligned.

use iced_x86::IcedError;
use iced_x86::code_asm::{
    CodeAssembler, CodeLabel, al, ax, byte_ptr, cr3, dword_ptr, eax, ecx, qword_ptr, r13, r15, rax, rcx, rdi, rsi, rsp,
    word_ptr,
};

use crate::guests::{Guest, TABLES, exit, kvm_works, tables};
use crate::random::{Random, plant, seeds, step};
use crate::watch::attack;

/// A power of two of bytes, in which random addresses lie.
struct Place {
    what: &'static str,
    start: u64,
    len: u64,
}

const RAM: u64 = 16 << 20;
const IOAPIC: u64 = 0xfec0_0000;
/// Bytes of real RAM that string moves go to and from.
const BUFFER: u64 = 0x30_0000;
const COUNT: u64 = 0x38_0000;

const PLACES: [Place; 6] = [
    Place { what: "I/O APIC's registers", start: IOAPIC, len: 0x80 },
    Place { what: "I/O APIC's page and its ends", start: IOAPIC - 0x800, len: 0x2000 },
    Place { what: "end of RAM", start: RAM - 16, len: 32 },
    Place { what: "hole above RAM", start: RAM, len: 1 << 30 },
    Place { what: "end of the 32-bit hole", start: 0xffff_fff0, len: 16 },
    Place { what: "above 4 GiB", start: 1 << 32, len: 1 << 30 },
];

/// Assembles one access of a random kind at rdi, chosen by bits of r15 from 8 up. `past` is behind it.
fn access(a: &mut CodeAssembler, past: CodeLabel) -> Result<(), IcedError> {
    type Kind = fn(&mut CodeAssembler) -> Result<(), IcedError>;
    let kinds: [Kind; 16] = [
        |a| a.mov(al, byte_ptr(rdi)),
        |a| a.mov(ax, word_ptr(rdi)),
        |a| a.mov(eax, dword_ptr(rdi)),
        |a| a.mov(rax, qword_ptr(rdi)),
        |a| a.mov(byte_ptr(rdi), al),
        |a| a.mov(word_ptr(rdi), ax),
        |a| a.mov(dword_ptr(rdi), eax),
        |a| a.mov(qword_ptr(rdi), rax),
        |a| a.add(dword_ptr(rdi), eax),
        |a| a.xchg(qword_ptr(rdi), rax),
        |a| a.lock().cmpxchg(dword_ptr(rdi), ecx),
        |a| a.lock().inc(qword_ptr(rdi)),
        // String moves towards it and from it.
        |a| a.rep().stosb(),
        |a| a.rep().stosq(),
        |a| {
            a.mov(rsi, BUFFER)?;
            a.rep().movsb()
        },
        |a| {
            a.mov(rsi, rdi)?;
            a.mov(rdi, BUFFER)?;
            a.rep().movsq()
        },
    ];
    for (number, kind) in (0u32..).zip(kinds) {
        let mut next = a.create_label();
        a.mov(rax, r15)?;
        a.shr(rax, 8)?;
        a.and(eax, 15)?;
        a.cmp(eax, number)?;
        a.jne(next)?;
        a.mov(rax, r15)?;
        a.mov(rcx, r15)?;
        a.shr(rcx, 16)?;
        a.and(ecx, 31)?;
        kind(a)?;
        a.jmp(past)?;
        a.set_label(&mut next)?;
        a.nop()?;
    }
    Ok(())
}

/// A guest that makes `count` random accesses in the place, counts them, and ends with status 7.
fn hammer(place: &Place, seed: u64, count: u64) -> Guest {
    assert!(place.len.is_power_of_two());
    let guest = Guest::new(|a| {
        a.mov(rax, TABLES)?;
        a.mov(cr3, rax)?;
        a.mov(rsp, 0x2f_0000u64)?;
        a.cld()?;
        plant(a, seed)?;
        let (mut again, mut past) = (a.create_label(), a.create_label());
        a.set_label(&mut again)?;
        step(a)?;
        a.mov(rdi, r15)?;
        a.shr(rdi, 24)?;
        a.mov(rax, place.len - 1)?;
        a.and(rdi, rax)?;
        a.mov(rax, place.start)?;
        a.add(rdi, rax)?;
        access(a, past)?;
        a.set_label(&mut past)?;
        a.inc(qword_ptr(COUNT))?;
        a.cmp(qword_ptr(COUNT), count as i32)?;
        a.jb(again)?;
        exit(a, 7)
    });
    guest.with(TABLES, tables()).with(BUFFER, Random(seed).bytes(0x1000)).with(COUNT, vec![0; 8])
}

/// Proves that accesses of every width and kind, aligned or not, within and across the ends of RAM, of the I/O APIC's page and
/// of the holes, harm nothing, and that the machine works afterwards.
#[test]
fn memory_that_is_not_there() {
    if !kvm_works() {
        return;
    }
    for seed in seeds("memory", 1) {
        for place in &PLACES {
            let done = attack(&hammer(place, seed, 4000), &["--memory", "16M", "--timeout", "60"], false);
            println!("{}: {done}", place.what);
            done.assert_harmless(1, &[7]);
        }
    }
}

/// Proves that code that is fetched from where no memory is, and a stack that is there, end as a guest that died: told of, with
/// status 125, and at once.
#[test]
fn code_and_stacks_that_are_not_there() {
    if !kvm_works() {
        return;
    }
    for (what, address) in [("the I/O APIC", IOAPIC), ("the hole", 0xd000_0000), ("above 4 GiB", 0x1_4000_0000)] {
        let code = Guest::new(|a| {
            a.mov(rax, TABLES)?;
            a.mov(cr3, rax)?;
            a.mov(rax, address)?;
            a.jmp(rax)
        });
        let done = attack(&code.with(TABLES, tables()), &["--memory", "16M", "--timeout", "5"], false);
        // Emulators read all ones and take the exception that those are, or say that they can't; no handler: triple fault.
        done.assert_harmless(1, &[125]);
        assert!(done.ran.stderr.contains("vCPU 0"), "{what}: {done}");
        let stack = Guest::new(|a| {
            a.mov(rax, TABLES)?;
            a.mov(cr3, rax)?;
            a.mov(rsp, address + 0x800)?;
            a.push(rax)?;
            a.pop(r13)?;
            a.xor(eax, eax)?;
            // A fault whose frame goes to the same stack: there is no handler either.
            a.ud2()
        });
        let done = attack(&stack.with(TABLES, tables()), &["--memory", "16M", "--timeout", "5"], false);
        done.assert_harmless(1, &[125]);
        assert!(done.ran.stderr.contains("vCPU 0"), "{what}: {done}");
    }
}
