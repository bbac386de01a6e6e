//! The serial port in full flow: what KVM gathers comes out whole, in order and in time.

use std::io::Read;
use std::time::{Duration, Instant};

use iced_x86::IcedError;
use iced_x86::code_asm::{
    CodeAssembler, al, cl, cr3, dword_ptr, dx, ebx, ecx, ptr, qword_ptr, rax, rcx, rdi, rsi, rsp,
};

use super::guests::{Guest, Ran, TABLES, exit, finish, halt, idt, kvm_works, tables};
use super::ioapic;

/// Assembles `count` bytes to the serial port, the low bytes of `count` down to 1, without a look at the line status.
fn stream(a: &mut CodeAssembler, count: u32) -> Result<(), IcedError> {
    let mut again = a.create_label();
    a.mov(dx, 0x3f8)?;
    a.mov(ecx, count)?;
    a.set_label(&mut again)?;
    a.mov(al, cl)?;
    a.out(dx, al)?;
    a.dec(ecx)?;
    a.jnz(again)
}

fn streamed(count: u32) -> Vec<u8> {
    (1..=count).rev().map(|i| i as u8).collect()
}

/// Assembles a write of a register of the serial port.
fn set(a: &mut CodeAssembler, register: u32, value: u32) -> Result<(), IcedError> {
    a.mov(dx, 0x3f8 + register)?;
    a.mov(al, value)?;
    a.out(dx, al)
}

/// Runs the guest and gives its output, bytes and not text, and its report.
fn run(guest: &Guest, options: &[&str]) -> (Ran, Vec<u8>, serde_json::Value) {
    let report = tempfile::NamedTempFile::new().unwrap();
    let output = tempfile::NamedTempFile::new().unwrap();
    let console = format!("file:{}", output.path().display());
    let mut all = vec!["--console", &console, "--report", report.path().to_str().unwrap()];
    all.extend(options);
    let ran = guest.run(&all);
    let report = serde_json::from_slice(&std::fs::read(report.path()).unwrap()).unwrap_or_default();
    (ran, std::fs::read(output.path()).unwrap(), report)
}

/// Proves that a stream comes out whole and in order, that KVM gathers much of it (how soon it begins is
/// up to the event loop's turn on the host's CPUs), and that each byte is counted once: as an
/// exit or as gathered.
#[test]
fn a_stream_needs_few_exits() {
    if !kvm_works() {
        return;
    }
    const COUNT: u32 = 60_000;
    let guest = Guest::new(|a| {
        stream(a, COUNT)?;
        exit(a, 7)
    });
    let (ran, output, report) = run(&guest, &[]);
    assert_eq!(ran.status, Some(7), "{}", ran.stderr);
    assert!(output == streamed(COUNT), "{} bytes came", output.len());
    let (exits, gathered) = (report["exits"]["port_out"].as_u64().unwrap(), report["posted_writes"].as_u64().unwrap());
    assert_eq!(exits + gathered, u64::from(COUNT) + 1, "{report}");
    assert!(gathered > u64::from(COUNT) / 4, "{report}");
}

/// Proves that bytes which no exit follows are shown all the same, soon: after a stream the guest says a last word and then
/// halts, or spins, for ever.
#[test]
fn the_last_bytes_need_no_exit() {
    if !kvm_works() {
        return;
    }
    for halts in [true, false] {
        // Nominally 5 ms. The test's machine may be busy, but not each time.
        let times: Vec<_> = (0..5).map(|_| time_of_the_last_bytes(halts)).collect();
        assert!(times.iter().min() < Some(&Duration::from_millis(50)), "halts: {halts}: {times:?}");
    }
}

/// How long the last bytes of a stream take after those that come with exits, when the guest then makes no exit.
fn time_of_the_last_bytes(halts: bool) -> Duration {
    const COUNT: usize = 20_000;
    let mut child = Guest::new(|a| {
        stream(a, COUNT as u32)?;
        if halts {
            return halt(a);
        }
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        a.jmp(again)
    })
    .start(&[]);
    let mut output = vec![0; COUNT];
    let stdout = child.stdout.as_mut().unwrap();
    // More than the page can hold.
    let (early, last) = output.split_at_mut(COUNT - 400);
    stdout.read_exact(early).unwrap();
    let start = Instant::now();
    stdout.read_exact(last).unwrap();
    let took = start.elapsed();
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::TERM).unwrap();
    assert_eq!(finish(child).status, Some(128 + 15));
    assert!(output == streamed(COUNT as u32));
    took
}

/// Proves that what goes through the transmitter's port but is no output (divisor, loopback) stays in order with the stream
/// around it, and that LSR and IIR are true after each burst.
#[test]
fn registers_are_in_order_with_the_stream() {
    if !kvm_works() {
        return;
    }
    let guest = Guest::new(|a| {
        stream(a, 5_000)?;
        let (mut again, mut wrong) = (a.create_label(), a.create_label());
        a.mov(ebx, 100u32)?;
        a.set_label(&mut again)?;
        set(a, 0, u32::from(b'<'))?;
        set(a, 3, 0x83)?;
        set(a, 0, 12)?;
        set(a, 3, 0x03)?;
        set(a, 0, u32::from(b'-'))?;
        set(a, 4, 0x10)?;
        set(a, 0, 0x5a)?;
        a.in_(al, dx)?;
        a.cmp(al, 0x5a)?;
        a.jne(wrong)?;
        set(a, 4, 0)?;
        set(a, 0, u32::from(b'>'))?;
        a.mov(dx, 0x3fd)?;
        a.in_(al, dx)?;
        a.cmp(al, 0x60)?;
        a.jne(wrong)?;
        a.dec(ebx)?;
        a.jnz(again)?;
        // The divisor kept what was written to it.
        set(a, 3, 0x83)?;
        a.mov(dx, 0x3f8)?;
        a.in_(al, dx)?;
        a.cmp(al, 12)?;
        a.jne(wrong)?;
        exit(a, 3)?;
        a.set_label(&mut wrong)?;
        exit(a, 1)
    });
    let (ran, output, report) = run(&guest, &[]);
    assert_eq!(ran.status, Some(3), "{}", ran.stderr);
    assert!(report["posted_writes"].as_u64() > Some(0), "{report}");
    assert!(output == [streamed(5_000), b"<->".repeat(100)].concat(), "{} bytes came", output.len());
}

/// Proves that two vCPUs that stream at once lose nothing, and that each one's bytes keep their order.
#[test]
fn two_vcpus_stream_at_once() {
    if !kvm_works() {
        return;
    }
    const COUNT: u16 = 20_000;
    // Real mode at 0x8000: the counter's high byte with bit 7 set, COUNT times; then a flag at 0x8100.
    let [low, high] = COUNT.to_le_bytes();
    let code = [
        0x31, 0xc0, 0x8e, 0xd8, // xor ax, ax; mov ds, ax
        0xba, 0xf8, 0x03, // mov dx, 0x3f8
        0xb9, low, high, // mov cx, COUNT
        0x88, 0xc8, // mov al, cl
        0x0c, 0x80, // or al, 0x80
        0xee, // out dx, al
        0x49, 0x75, 0xf8, // dec cx; jnz back to mov al, cl
        0xc6, 0x06, 0x00, 0x81, 0x01, // mov byte [0x8100], 1
        0xfa, 0xf4, 0xeb, 0xfc, // cli; hlt; jmp back to cli
    ];
    let guest = Guest::new(|a| {
        a.mov(rax, TABLES)?;
        a.mov(cr3, rax)?;
        a.mov(rsi, 0x30_0000u64)?;
        a.mov(rdi, 0x8000u64)?;
        a.mov(ecx, code.len() as u32)?;
        a.rep().movsb()?;
        a.mov(dword_ptr(0x8100u64), 0)?;
        a.mov(rdi, 0xfee0_00f0u64)?;
        a.mov(dword_ptr(rdi), 0x1ff)?;
        a.mov(rdi, 0xfee0_0300u64)?;
        a.mov(dword_ptr(rdi), 0xc_4500u32)?;
        a.mov(dword_ptr(rdi), 0xc_4608u32)?;
        let (mut again, mut wait, mut done) = (a.create_label(), a.create_label(), a.create_label());
        a.mov(dx, 0x3f8)?;
        a.mov(ecx, u32::from(COUNT))?;
        a.set_label(&mut again)?;
        a.mov(al, cl)?;
        a.and(al, 0x7f)?;
        a.out(dx, al)?;
        a.dec(ecx)?;
        a.jnz(again)?;
        a.mov(rcx, 20_000_000u64)?;
        a.set_label(&mut wait)?;
        a.cmp(dword_ptr(0x8100u64), 1)?;
        a.je(done)?;
        a.dec(rcx)?;
        a.jnz(wait)?;
        exit(a, 1)?;
        a.set_label(&mut done)?;
        exit(a, 6)
    })
    .with(0x30_0000, code.to_vec())
    .with(TABLES, tables());
    let (ran, output, report) = run(&guest, &["--cpus", "2"]);
    assert_eq!(ran.status, Some(6), "{}", ran.stderr);
    assert!(report["posted_writes"].as_u64() > Some(0), "{report}");
    for bit in [0, 0x80] {
        let sent: Vec<u8> = output.iter().filter(|b| *b & 0x80 == bit).map(|b| b & 0x7f).collect();
        let expected: Vec<u8> = (1..=COUNT).rev().map(|i| i as u8 & 0x7f).collect();
        assert!(sent == expected, "{} of {COUNT} bytes with bit 7 {bit:#x}", sent.len());
    }
}

/// Proves that a driver which halts until the transmitter asks for more, and then sends sixteen bytes, is asked each time: by
/// an exit or, when its bytes were gathered, by the event loop.
#[test]
fn the_transmitter_wakes_a_halted_guest() {
    if !kvm_works() {
        return;
    }
    const BURSTS: u64 = 150;
    let (handler, count) = (0x30_0000u64, 0x32_0000u64);
    let mut code = CodeAssembler::new(64).unwrap();
    (|a: &mut CodeAssembler| {
        a.mov(dx, 0x3fa)?;
        a.in_(al, dx)?;
        // The transmitter may ask again before this handler returns, and the guest's loop look late.
        let mut enough = a.create_label();
        a.cmp(qword_ptr(count), BURSTS as i32)?;
        a.jae(enough)?;
        a.mov(dx, 0x3f8)?;
        a.mov(al, u32::from(b'.'))?;
        for _ in 0..16 {
            a.out(dx, al)?;
        }
        a.inc(qword_ptr(count))?;
        a.set_label(&mut enough)?;
        a.mov(rax, 0xfee0_00b0u64)?;
        a.mov(dword_ptr(rax), 0)?;
        a.iretq()
    })(&mut code)
    .unwrap();
    let guest = Guest::new(|a| {
        a.mov(rax, TABLES)?;
        a.mov(cr3, rax)?;
        a.mov(rsp, 0x38_0000u64)?;
        a.mov(rdi, 0x31_2000u64)?;
        a.lidt(ptr(rdi))?;
        a.mov(rdi, 0xfee0_00f0u64)?;
        a.mov(dword_ptr(rdi), 0x1ff)?;
        ioapic(a, 0x10 + 2 * 4, 0x40)?;
        stream(a, 3_000)?;
        set(a, 2, 0x01)?;
        let (mut again, mut done) = (a.create_label(), a.create_label());
        set(a, 1, 0x02)?;
        a.set_label(&mut again)?;
        // Interrupts wait from `cli` to `hlt`, so that none comes between the look and the sleep.
        a.cli()?;
        a.cmp(qword_ptr(count), BURSTS as i32)?;
        a.jae(done)?;
        a.sti()?;
        a.hlt()?;
        a.jmp(again)?;
        a.set_label(&mut done)?;
        exit(a, 8)
    })
    .with(handler, code.assemble(handler).unwrap())
    .with(0x31_0000, idt(handler, handler))
    .with(0x31_2000, [0xfffu16.to_le_bytes().to_vec(), 0x31_0000u64.to_le_bytes().to_vec()].concat())
    .with(count, vec![0; 8])
    .with(TABLES, tables());
    let (ran, output, report) = run(&guest, &["--timeout", "30"]);
    assert_eq!(ran.status, Some(8), "{} {report}", ran.stderr);
    assert!(report["posted_writes"].as_u64() > Some(0), "{report}");
    assert_eq!(output.len(), 3_000 + 16 * BURSTS as usize);
    assert!(output.starts_with(&streamed(3_000)) && output[3_000..].iter().all(|b| *b == b'.'));
}
