//! Guests that do not want to end, and guests that end all the time.

use std::time::{Duration, Instant};

use iced_x86::code_asm::{al, dx, eax};

use crate::guests::{Guest, finish, halt, kvm_works, say};
use crate::watch::attack;

/// Longest that an end takes, on a busy host.
const PROMPT: Duration = Duration::from_secs(3);

/// A guest that leaves to the monitor without end: a port that nobody has.
fn exits() -> Guest {
    Guest::new(|a| {
        say(a, "up")?;
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        a.out(0x80, al)?;
        a.jmp(again)
    })
}

/// Proves that the time limit ends a guest that exits without end, promptly, on one vCPU and on four.
#[test]
fn the_time_limit_ends_a_loop_of_exits() {
    if !kvm_works() {
        return;
    }
    for cpus in ["1", "4"] {
        let done = attack(&exits(), &["--memory", "16M", "--cpus", cpus, "--timeout", "0.5"], false);
        println!("{done}");
        done.assert_harmless(cpus.parse().expect("a number"), &[124]);
        assert!(done.elapsed < Duration::from_millis(500) + PROMPT, "{done}");
    }
}

/// Proves that SIGTERM ends a guest that exits without end, one that spins and one that halts, promptly and with status 143.
#[test]
fn sigterm_ends_any_guest() {
    if !kvm_works() {
        return;
    }
    let spin = Guest::new(|a| {
        say(a, "up")?;
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        a.jmp(again)
    });
    let halted = Guest::new(|a| {
        say(a, "up")?;
        halt(a)
    });
    for (what, guest) in [("exits", exits()), ("spins", spin), ("halts", halted)] {
        let mut child = guest.start(&["--memory", "16M", "--timeout", "60"]);
        let mut word = [0; 2];
        std::io::Read::read_exact(child.stdout.as_mut().expect("piped"), &mut word).expect("the guest speaks");
        let start = Instant::now();
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it is there");
        let ran = finish(child);
        assert_eq!(ran.status, Some(143), "{what}: {}", ran.stderr);
        assert!(start.elapsed() < PROMPT, "{what}: {:?}", start.elapsed());
    }
}

/// Proves that of a flood of ends, on several vCPUs' worth of exits, the first counts.
#[test]
fn the_first_end_counts() {
    if !kvm_works() {
        return;
    }
    let guest = Guest::new(|a| {
        a.mov(eax, 42)?;
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        a.mov(dx, 0x614)?;
        a.out(dx, eax)?;
        a.mov(dx, 0x64)?;
        a.mov(al, 0xfe)?;
        a.out(dx, al)?;
        a.mov(dx, 0x600)?;
        a.mov(al, 0x34)?;
        a.out(dx, al)?;
        a.inc(eax)?;
        a.jmp(again)
    });
    for _ in 0..5 {
        let done = attack(&guest, &["--memory", "16M", "--timeout", "10"], false);
        done.assert_harmless(1, &[42]);
        assert_eq!(done.ran.stderr, "", "{done}");
    }
}

/// Proves that a guest that faults without a handler is told of as a triple fault, with status 125.
#[test]
fn a_triple_fault_is_told_of() {
    if !kvm_works() {
        return;
    }
    let guest = Guest::new(|a| {
        a.lidt(iced_x86::code_asm::ptr(0x30_0000u64))?;
        a.ud2()
    });
    let done = attack(&guest.with(0x30_0000, vec![0; 16]), &["--memory", "16M", "--timeout", "10"], false);
    done.assert_harmless(1, &[125]);
    assert!(done.ran.stderr.contains("triple fault"), "{done}");
}
