//! Floods: interrupts between vCPUs, the I/O APIC programmed anew without end, serial output that nobody reads.

use iced_x86::IcedError;
use iced_x86::code_asm::{
    CodeAssembler, al, cr3, dword_ptr, dx, eax, ecx, ptr, qword_ptr, r15, rax, rdi, rdx, rsi, rsp,
};

use crate::guests::{Guest, TABLES, exit, idt, kvm_works, say, tables};
use crate::random::{plant, seeds, step};
use crate::watch::attack;

const HANDLER: u64 = 0x30_0000;
const IDT: u64 = 0x31_0000;
const IDT_POINTER: u64 = 0x31_2000;
const COUNT: u64 = 0x32_0000;
const AP_CODE: u64 = 0x33_0000;
const STACK: u64 = 0x38_0000;
const IOAPIC: u64 = 0xfec0_0000;
const LAPIC: u64 = 0xfee0_0000;

/// Real mode at 0x8000, for processors that a SIPI starts there: enables its local APIC's software bit by no means, and counts
/// and writes to a port without end.
const AP: [u8; 15] = [
    0x31, 0xc0, 0x8e, 0xd8, // xor ax, ax; mov ds, ax
    0xfb, // sti
    0xf0, 0xff, 0x06, 0x00, 0x82, // lock inc word [0x8200]
    0xe6, 0x80, // out 0x80, al
    0xeb, 0xf7, // back to the count
    0xf4, // hlt
];

/// A guest with a handler that ends interrupts and counts them, and `body` in an endless loop.
fn flood(seed: u64, body: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> Guest {
    let mut handler = CodeAssembler::new(64).expect("64 bits");
    (|a: &mut CodeAssembler| -> Result<(), IcedError> {
        a.push(rax)?;
        a.push(rdx)?;
        a.inc(qword_ptr(COUNT))?;
        a.mov(dx, 0x3fa)?;
        a.in_(al, dx)?;
        a.mov(rax, LAPIC + 0xb0)?;
        a.mov(dword_ptr(rax), 0)?;
        a.pop(rdx)?;
        a.pop(rax)?;
        a.iretq()
    })(&mut handler)
    .expect("it assembles");
    let guest = Guest::new(|a| {
        a.mov(rax, TABLES)?;
        a.mov(cr3, rax)?;
        a.mov(rsp, STACK)?;
        a.mov(rdi, IDT_POINTER)?;
        a.lidt(ptr(rdi))?;
        a.cld()?;
        a.mov(rsi, AP_CODE)?;
        a.mov(rdi, 0x8000u64)?;
        a.mov(ecx, AP.len() as u32)?;
        a.rep().movsb()?;
        a.mov(rdi, LAPIC + 0xf0)?;
        a.mov(dword_ptr(rdi), 0x1ff)?;
        plant(a, seed)?;
        a.sti()?;
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        step(a)?;
        body(a)?;
        a.jmp(again)
    });
    let pointer = [0xfffu16.to_le_bytes().to_vec(), IDT.to_le_bytes().to_vec()].concat();
    guest
        .with(TABLES, tables())
        .with(HANDLER, handler.assemble(HANDLER).expect("it assembles"))
        .with(IDT, idt(HANDLER, HANDLER))
        .with(IDT_POINTER, pointer)
        .with(COUNT, vec![0; 8])
        .with(AP_CODE, AP.to_vec())
}

/// Assembles a random entry into the I/O APIC's table, level and edge, with vectors from 32 up.
fn reprogram(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.mov(rdi, IOAPIC)?;
    a.mov(rax, r15)?;
    a.and(eax, 0x3f)?;
    a.mov(dword_ptr(rdi), eax)?;
    a.mov(rax, r15)?;
    a.shr(rax, 12)?;
    a.or(eax, 0x20)?;
    a.mov(dword_ptr(rdi + 0x10), eax)?;
    // The serial port's own pin, so that there is always something to interrupt.
    a.mov(dword_ptr(rdi), 0x10 + 2 * 4)?;
    a.and(eax, 0x8000)?;
    a.or(eax, 0x40)?;
    a.mov(dword_ptr(rdi + 0x10), eax)?;
    // End of interrupt, by the I/O APIC's own register.
    a.mov(rax, r15)?;
    a.shr(rax, 30)?;
    a.mov(dword_ptr(rdi + 0x40), eax)
}

/// Assembles a toggle of the serial port's interrupt for an empty transmitter.
fn toggle(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.mov(dx, 0x3f9)?;
    a.mov(al, 0)?;
    a.out(dx, al)?;
    a.mov(al, 2)?;
    a.out(dx, al)
}

/// Proves that an I/O APIC that is programmed anew without end, edge and level, with interrupts in flight, harms nothing.
#[test]
fn an_io_apic_that_never_rests() {
    if !kvm_works() {
        return;
    }
    for seed in seeds("I/O APIC", 2) {
        let guest = flood(seed, |a| {
            reprogram(a)?;
            toggle(a)
        });
        let done = attack(&guest, &["--memory", "16M", "--cpus", "2", "--timeout", "1.5"], false);
        println!("{done}");
        // An NMI or INIT that it asks for may end the guest itself.
        done.assert_harmless(2, &[124, 125]);
    }
}

/// Assembles a write to the interrupt command register (Intel SDM vol. 3A, section 11.6.1).
fn command(a: &mut CodeAssembler, value: u32) -> Result<(), IcedError> {
    a.mov(rdi, LAPIC + 0x300)?;
    a.mov(dword_ptr(rdi), value)
}

/// Proves that interrupts of every delivery mode to the other processors (fixed, SMI, NMI, INIT and SIPI, whether they run or
/// wait), and fixed ones to itself, harm nothing.
#[test]
fn interrupts_between_processors() {
    if !kvm_works() {
        return;
    }
    for seed in seeds("IPIs", 4) {
        let guest = flood(seed, |a| {
            // To all but itself, in any mode and level; vector 8 in a SIPI starts the code at 0x8000.
            a.mov(rdi, LAPIC + 0x300)?;
            a.mov(rax, r15)?;
            a.shr(rax, 32)?;
            a.and(eax, 0xcf00)?;
            a.or(eax, 0xc_0008)?;
            a.mov(dword_ptr(rdi), eax)?;
            // Fixed, to itself.
            command(a, 0x4_0040)?;
            // To one by its number, that may not exist.
            a.mov(rdi, LAPIC + 0x310)?;
            a.mov(rax, r15)?;
            a.and(eax, 0x0700_0000)?;
            a.or(eax, 0x0100_0000)?;
            a.mov(dword_ptr(rdi), eax)?;
            command(a, 0x4608)
        });
        let done = attack(&guest, &["--memory", "16M", "--cpus", "4", "--timeout", "1"], false);
        println!("{done}");
        // A processor that an NMI meets without a handler ends the machine.
        done.assert_harmless(4, &[124, 125]);
    }
}

/// Proves that a boot processor that sends INIT to itself is told of for what it is: it comes out of reset with no firmware.
#[test]
fn a_processor_that_resets_itself() {
    if !kvm_works() {
        return;
    }
    let guest = flood(1, |a| command(a, 0x4_4500));
    let done = attack(&guest, &["--memory", "16M", "--timeout", "5"], false);
    done.assert_harmless(1, &[125]);
    assert!(done.ran.stderr.contains("INIT"), "{done}");
}

/// A guest that writes to the serial port without end, waiting for nothing, or for the transmitter as drivers do.
fn chatter(polite: bool) -> Guest {
    Guest::new(|a| {
        say(a, "chatter\n")?;
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        if polite {
            a.mov(dx, 0x3fd)?;
            a.in_(al, dx)?;
            a.test(al, 0x20)?;
            a.jz(again)?;
        }
        a.mov(dx, 0x3f8)?;
        a.mov(al, 0x2e)?;
        a.out(dx, al)?;
        a.jmp(again)
    })
}

/// Proves that output without end takes no more memory, whether it is read as fast as it comes or not at all, and that the time
/// limit ends it either way.
#[test]
fn output_without_end() {
    if !kvm_works() {
        return;
    }
    for (polite, deaf) in [(false, false), (false, true), (true, false), (true, true)] {
        let done = attack(&chatter(polite), &["--memory", "16M", "--timeout", "1.2"], deaf);
        println!("polite {polite}, deaf {deaf}: {done}");
        done.assert_harmless(1, &[124]);
        assert!(done.ran.stdout.starts_with("chatter\n..."), "{done}");
    }
}

/// Proves that a reader that goes away, in the midst of output without end, ends nothing but the output.
#[test]
fn a_reader_that_leaves() {
    if !kvm_works() {
        return;
    }
    let guest = Guest::new(|a| {
        say(a, "x")?;
        a.mov(ecx, 80_000)?;
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        a.mov(dx, 0x3f8)?;
        a.out(dx, al)?;
        a.dec(ecx)?;
        a.jnz(again)?;
        exit(a, 7)
    });
    let mut child = guest.start(&["--memory", "16M", "--timeout", "60"]);
    drop(child.stdout.take());
    let stderr = std::io::read_to_string(child.stderr.take().expect("piped")).expect("text");
    assert_eq!(child.wait().expect("it ends").code(), Some(7), "{stderr}");
    assert!(!stderr.contains("panicked") && !stderr.contains("this is a bug"), "{stderr}");
}
