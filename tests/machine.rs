//! The machine, tried on /dev/kvm with guests assembled here: each path out of the guest, and each thing a guest may touch.

#[allow(dead_code, reason = "not all of it is used here")]
mod guests;
#[path = "machine/serial.rs"]
mod serial;
#[path = "machine/surroundings.rs"]
mod surroundings;

use std::time::{Duration, Instant};

use guests::{
    Guest, TABLES, exit, expect, finish, halt, idt, kvm_works, ring_0_is_emulated, say, start_kernel, tables,
};
use iced_x86::code_asm::{
    CodeAssembler, al, ax, cr3, dword_ptr, dx, eax, ecx, ptr, qword_ptr, rax, rcx, rdi, rdx, rsi, rsp,
};

/// Proves that serial output comes out on stdout and that a 32-bit write to the exit port is the status.
#[test]
fn serial_output_and_exit_status() {
    if !kvm_works() {
        return;
    }
    let ran = Guest::new(|a| {
        say(a, "hello\n")?;
        exit(a, 42)
    })
    .run(&[]);
    assert_eq!((ran.status, ran.stdout.as_str()), (Some(42), "hello\n"), "{}", ran.stderr);
    assert_eq!(ran.stderr, "", "success is quiet");
}

/// Proves that the status can be given byte by byte, as /dev/port writes it, and that the last byte completes it.
#[test]
fn exit_status_in_bytes() {
    if !kvm_works() {
        return;
    }
    let ran = Guest::new(|a| {
        for (port, byte) in [(0x614, 7), (0x615, 0), (0x616, 0), (0x617, 0)] {
            a.mov(dx, port)?;
            a.mov(al, byte)?;
            a.out(dx, al)?;
        }
        halt(a)
    })
    .run(&[]);
    assert_eq!(ran.status, Some(7), "{}", ran.stderr);
}

/// Proves that power-off by ACPI, reset by ACPI and reset by the keyboard controller each end the process with status 0.
#[test]
fn power_off_and_resets() {
    if !kvm_works() {
        return;
    }
    // Sleep control: SLP_EN (bit 5) with SLP_TYP 5 (bits 4:2).
    for (what, port, byte) in [("ACPI S5", 0x600, 0x20 | 5 << 2), ("ACPI reset", 0x602, 1), ("i8042", 0x64, 0xfe)] {
        let ran = Guest::new(|a| {
            a.mov(dx, port)?;
            a.mov(al, byte)?;
            a.out(dx, al)?;
            halt(a)
        })
        .run(&[]);
        assert_eq!(ran.status, Some(0), "{what}: {}", ran.stderr);
    }
}

/// Proves that string output reaches the port item by item, and that absent ports and memory read as all ones.
#[test]
fn string_io_and_empty_addresses() {
    if !kvm_works() {
        return;
    }
    let text = b"a string of bytes\n";
    let ran = Guest::new(|a| {
        a.mov(dx, 0x3f8)?;
        a.mov(rsi, 0x30_0000u64)?;
        a.mov(ecx, text.len() as u32)?;
        a.rep().outsb()?;
        let mut wrong = a.create_label();
        a.mov(dx, 0x1234)?;
        a.in_(eax, dx)?;
        a.cmp(eax, -1)?;
        a.jne(wrong)?;
        a.in_(ax, dx)?;
        a.in_(al, dx)?;
        a.cmp(eax, -1)?;
        a.jne(wrong)?;
        exit(a, 9)?;
        a.set_label(&mut wrong)?;
        exit(a, 1)
    })
    .with(0x30_0000, text.to_vec())
    .run(&[]);
    assert_eq!((ran.status, ran.stdout.as_bytes()), (Some(9), &text[..]), "{}", ran.stderr);
}

/// Proves that the first and last words of every RAM region can be written and read back, that the regions are apart, and
/// that the hole between them and the memory behind the last read as all ones.
#[test]
fn memory_at_the_edges_of_each_region() {
    if !kvm_works() {
        return;
    }
    let edges = [0x0u64, 0x9_fff8, 0xf_fff8, 0x10_0000, 0xbfff_fff8, 0x1_0000_0000, 0x1_3fff_fff8];
    let holes = [0xc000_0000u64, 0xd000_0000, 0xfdff_fff8, 0x1_4000_0000, 0x1_5000_0000];
    let ran = Guest::new(|a| {
        a.mov(rax, TABLES)?;
        a.mov(cr3, rax)?;
        for (i, edge) in edges.into_iter().enumerate() {
            a.mov(rdi, edge)?;
            a.mov(rax, 0x1234_5678_9abc_0000 + i as u64)?;
            a.mov(qword_ptr(rdi), rax)?;
        }
        for (i, edge) in edges.into_iter().enumerate() {
            a.mov(rdi, edge)?;
            expect(a, qword_ptr(rdi), 0x1234_5678_9abc_0000 + i as u64, 10 + i as u32)?;
        }
        for (i, hole) in holes.into_iter().enumerate() {
            a.mov(rdi, hole)?;
            a.mov(qword_ptr(rdi), rdi)?;
            expect(a, qword_ptr(rdi), u64::MAX, 20 + i as u32)?;
        }
        exit(a, 5)
    })
    .with(TABLES, tables())
    .run(&["--memory", "4G"]);
    assert_eq!(ran.status, Some(5), "status 1x names the edge that failed, 2x the hole: {}", ran.stderr);
}

/// Proves that RAM of which KVM may learn only now serves a guest's first access as any RAM does: a string of stores with the
/// code that they left there, and a locked read, change and write.
#[test]
fn ram_is_whole_from_the_first_instruction() {
    if !kvm_works() {
        return;
    }
    // In the low part behind what the guest starts with, at its end, and above the 32-bit hole.
    for place in [0x0800_0ff0u64, 0xbfff_f000, 0x1_4000_0ff0] {
        let code = Guest::new(|a| {
            a.mov(rax, TABLES)?;
            a.mov(cr3, rax)?;
            // mov eax, 77; ret, two bytes of padding.
            a.mov(rsi, 0x30_0000u64)?;
            a.mov(rax, 0x9090_c300_0000_4db8u64)?;
            a.mov(qword_ptr(rsi), rax)?;
            a.mov(rdi, place)?;
            a.mov(ecx, 8u32)?;
            a.rep().movsb()?;
            a.mov(rsp, 0x38_0000u64)?;
            a.mov(rdx, place)?;
            a.call(rdx)?;
            a.mov(rdi, 0x31_0000u64)?;
            a.mov(qword_ptr(rdi), rax)?;
            expect(a, qword_ptr(rdi), 77, 1)?;
            exit(a, 5)
        });
        let locked = Guest::new(|a| {
            a.mov(rax, TABLES)?;
            a.mov(cr3, rax)?;
            a.mov(rdi, place)?;
            for value in [5u64, 6] {
                a.mov(rax, value)?;
                a.lock().xadd(qword_ptr(rdi), rax)?;
            }
            expect(a, qword_ptr(rdi), 11, 2)?;
            exit(a, 5)
        });
        for guest in [code, locked] {
            let ran = guest.with(TABLES, tables()).run(&["--memory", "5G"]);
            assert_eq!(ran.status, Some(5), "at {place:#x}: {}", ran.stderr);
        }
    }
}

/// Proves that a guest may run code from RAM of which KVM may learn only now: a jump into zeros, which are `add [rax], al`,
/// comes to the end of that RAM, and dies there and not before. The guest is too early in about half of the starts, so there are
/// several.
#[test]
fn code_runs_from_all_ram_at_once() {
    if !kvm_works() || !ring_0_is_emulated() {
        return;
    }
    let guest = Guest::new(|a| {
        a.mov(rax, TABLES)?;
        a.mov(cr3, rax)?;
        a.mov(rax, 0x31_0000u64)?;
        a.mov(rdx, 0xbfff_ffe0u64)?;
        a.jmp(rdx)
    });
    let guest = guest.with(TABLES, tables()).with(0x31_0000, vec![0; 8]);
    for _ in 0..40 {
        let ran = guest.run(&["--memory", "5G"]);
        assert_eq!(ran.status, Some(125), "{}", ran.stderr);
        assert!(ran.stderr.contains("at rip 0xc0000000 "), "{}", ran.stderr);
    }
}

/// Proves that the guest has exactly the RAM asked for: the last word is there, the next one is not.
#[test]
fn memory_ends_where_it_was_asked_to() {
    if !kvm_works() {
        return;
    }
    let ran = Guest::new(|a| {
        a.mov(rdi, (64u64 << 20) - 8)?;
        a.mov(qword_ptr(rdi), rdi)?;
        expect(a, qword_ptr(rdi), (64 << 20) - 8, 1)?;
        a.mov(rdi, 64u64 << 20)?;
        a.mov(qword_ptr(rdi), rdi)?;
        expect(a, qword_ptr(rdi), u64::MAX, 2)?;
        exit(a, 5)
    })
    .run(&["--memory", "64M"]);
    assert_eq!(ran.status, Some(5), "{}", ran.stderr);
}

/// Assembles a write to an I/O APIC register.
fn ioapic(a: &mut CodeAssembler, register: u32, value: u32) -> Result<(), iced_x86::IcedError> {
    a.mov(rdi, 0xfec0_0000u64)?;
    a.mov(dword_ptr(rdi), register)?;
    a.mov(dword_ptr(rdi + 0x10), value)
}

/// Proves that an interrupt of the UART goes through our I/O APIC and KVM's local APIC to the guest's handler, edge and level:
/// with a level-triggered pin the second interrupt only comes after KVM has told us of the first one's end.
#[test]
fn interrupts_reach_the_guest() {
    if !kvm_works() {
        return;
    }
    let handler = 0x30_0000u64;
    let mut code = CodeAssembler::new(64).unwrap();
    // Count at 0x320000, read IIR (which takes back "transmitter empty"), end the interrupt, return.
    let count = 0x32_0000u64;
    (|a: &mut CodeAssembler| {
        a.push(rax)?;
        a.push(rdx)?;
        a.inc(qword_ptr(count))?;
        a.mov(dx, 0x3fa)?;
        a.in_(al, dx)?;
        a.mov(rax, 0xfee0_00b0u64)?;
        a.mov(dword_ptr(rax), 0)?;
        a.pop(rdx)?;
        a.pop(rax)?;
        a.iretq()
    })(&mut code)
    .unwrap();
    let handler_code = code.assemble(handler).unwrap();
    for (kind, mode) in [("edge", 0u32), ("level", 1 << 15)] {
        let ran = Guest::new(|a| {
            // The boot tables end below the interrupt controllers.
            a.mov(rax, TABLES)?;
            a.mov(cr3, rax)?;
            a.mov(rsp, 0x38_0000u64)?;
            a.mov(rdi, 0x31_2000u64)?;
            a.lidt(ptr(rdi))?;
            // Software-enable the local APIC: spurious vector register.
            a.mov(rdi, 0xfee0_00f0u64)?;
            a.mov(dword_ptr(rdi), 0x1ff)?;
            ioapic(a, 0x10 + 2 * 4, 0x40 | mode)?;
            a.sti()?;
            for i in 1..=3 {
                // Turning the transmitter's interrupt on while it is empty asks for one.
                a.mov(dx, 0x3f9)?;
                a.mov(al, 0)?;
                a.out(dx, al)?;
                a.mov(al, 2)?;
                a.out(dx, al)?;
                let mut wait = a.create_label();
                a.mov(rcx, 3_000_000u64)?;
                a.set_label(&mut wait)?;
                let mut done = a.create_label();
                a.cmp(qword_ptr(count), i)?;
                a.je(done)?;
                a.dec(rcx)?;
                a.jnz(wait)?;
                exit(a, 100 + i as u32)?;
                a.set_label(&mut done)?;
            }
            exit(a, 3)
        })
        .with(handler, handler_code.clone())
        .with(0x31_0000, idt(handler, handler))
        .with(0x31_2000, [0xfffu16.to_le_bytes().to_vec(), 0x31_0000u64.to_le_bytes().to_vec()].concat())
        .with(count, vec![0; 8])
        .with(TABLES, tables())
        .run(&[]);
        assert_eq!(ran.status, Some(3), "{kind}: status 10x: interrupt x did not come: {}", ran.stderr);
    }
}

/// Proves that each application processor waits for INIT and SIPI, starts in real mode at the vector's page, and is its own
/// CPU with its own APIC id.
#[test]
fn application_processors_start() {
    if !kvm_works() {
        return;
    }
    // Real mode at 0x8000: lock or byte [0x8100], 1 << APIC id; hlt. The id is read by CPUID leaf 1, EBX[31:24].
    let code: [u8; 26] = [
        0x31, 0xc0, 0x8e, 0xd8, // xor ax, ax; mov ds, ax
        0x66, 0xb8, 1, 0, 0, 0, // mov eax, 1
        0x0f, 0xa2, // cpuid
        0x66, 0xc1, 0xeb, 24, // shr ebx, 24
        0xf0, 0x0f, 0xab, 0x1e, 0x00, 0x81, // lock bts [0x8100], bx
        0xfa, 0xf4, 0xeb, 0xfc, // cli; hlt; jmp back to cli
    ];
    let ran = Guest::new(|a| {
        a.mov(rax, TABLES)?;
        a.mov(cr3, rax)?;
        a.mov(rsi, 0x30_0000u64)?;
        a.mov(rdi, 0x8000u64)?;
        a.mov(ecx, code.len() as u32)?;
        a.rep().movsb()?;
        a.mov(dword_ptr(0x8100u64), 0)?;
        a.mov(rdi, 0xfee0_00f0u64)?;
        a.mov(dword_ptr(rdi), 0x1ff)?;
        // Interrupt command register: INIT, then SIPI with vector 8, to all but this one.
        a.mov(rdi, 0xfee0_0300u64)?;
        a.mov(dword_ptr(rdi), 0xc_4500u32)?;
        a.mov(dword_ptr(rdi), 0xc_4608u32)?;
        let mut wait = a.create_label();
        let mut done = a.create_label();
        a.mov(rcx, 5_000_000u64)?;
        a.set_label(&mut wait)?;
        a.cmp(dword_ptr(0x8100u64), 0b1110)?;
        a.je(done)?;
        a.dec(rcx)?;
        a.jnz(wait)?;
        a.mov(eax, dword_ptr(0x8100u64))?;
        a.add(eax, 100)?;
        a.mov(dx, 0x614)?;
        a.out(dx, eax)?;
        halt(a)?;
        a.set_label(&mut done)?;
        exit(a, 4)
    })
    .with(0x30_0000, code.to_vec())
    .with(TABLES, tables())
    .run(&["--cpus", "4"]);
    assert_eq!(ran.status, Some(4), "status 100 + the bits of the CPUs that started: {}", ran.stderr);
}

/// Proves that a guest that dies is told of in full: the instruction, its bytes, its address, the mode, the KVM, and what to
/// do; and that -v adds the registers.
#[test]
fn a_dying_guest_is_explained() {
    if !kvm_works() {
        return;
    }
    let guest = if ring_0_is_emulated() {
        Guest::new(|a| {
            a.mov(rdi, 0x30_0000u64)?;
            a.cmpxchg16b(iced_x86::code_asm::xmmword_ptr(rdi))?;
            exit(a, 1)
        })
    } else {
        Guest::new(|a| {
            a.lidt(ptr(0x30_0000u64))?;
            a.ud2()
        })
    };
    let guest = guest.with(0x30_0000, vec![0; 16]);
    let ran = guest.run(&[]);
    assert_eq!(ran.status, Some(125));
    if std::path::Path::new("/sys/module/kvm_amd").exists() {
        assert!(ran.stderr.contains("triple fault") && ran.stderr.contains("KVM on AMD resets"), "{}", ran.stderr);
        return;
    }
    for part in ["vCPU 0", "instruction: ", "64-bit mode, ring 0", "rip 0x2000", "KVM: ", "-v shows the registers"] {
        assert!(ran.stderr.contains(part), "\"{part}\" is missing from:\n{}", ran.stderr);
    }
    let instruction = if ring_0_is_emulated() { "cmpxchg16b [rdi]  [48 0f c7 0f]" } else { "ud2  [0f 0b]" };
    assert!(ran.stderr.contains(instruction), "{}", ran.stderr);
    let ran = guest.run(&["-v"]);
    assert!(ran.stderr.contains("cr3  0x0000000000009000"), "{}", ran.stderr);
}

/// Proves that neither an endless loop nor an endless halt keeps the machine from ending at its time limit, with status 124.
#[test]
fn time_limit_ends_any_guest() {
    if !kvm_works() {
        return;
    }
    let spin = Guest::new(|a| {
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        a.jmp(again)
    });
    for (what, guest) in [("loop", spin), ("halt", Guest::new(halt))] {
        let start = Instant::now();
        let ran = guest.run(&["--timeout", "0.3", "--cpus", "2"]);
        assert_eq!(ran.status, Some(124), "{what}");
        assert!(ran.stderr.contains("time limit"), "{}", ran.stderr);
        assert!(start.elapsed() >= Duration::from_millis(300));
    }
}

/// Proves that SIGINT, SIGTERM and SIGHUP end the machine in order, with status 128 + n, and that a guest that only
/// halts has its output shown before.
#[test]
fn signals_end_the_machine() {
    if !kvm_works() {
        return;
    }
    // A shell starts background jobs with SIGINT ignored, and nohup with SIGHUP: children inherit it, and so does ringfence.
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let ignored = status.lines().find_map(|l| l.strip_prefix("SigIgn:")).unwrap().trim();
    let ignored = u64::from_str_radix(ignored, 16).unwrap();
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP].into_iter().filter(|s| ignored >> (s - 1) & 1 == 0) {
        let mut child = Guest::new(|a| {
            say(a, "here\n")?;
            halt(a)
        })
        .start(&[]);
        let mut said = [0; 5];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut said).unwrap();
        assert_eq!(&said, b"here\n");
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::from_named_raw(signal).unwrap()).unwrap();
        let ran = finish(child);
        assert_eq!((ran.status, ran.stdout.as_str()), (Some(128 + signal), ""), "{}", ran.stderr);
    }
}

/// Proves that an allocation that cannot be given is refused before anything is made, naming what could be.
#[test]
fn impossible_allocations_are_refused() {
    if !kvm_works() {
        return;
    }
    let guest = Guest::new(halt);
    for (options, message) in [
        (["--memory", "1M"], "at least 2 MiB"),
        (["--memory", "100T"], "more than this host has free"),
        (["--memory", "268435457"], "262144K or"),
        (["--cpus", "0"], "at least 1 vCPU"),
        (["--cpus", "100000"], "this host's KVM allows"),
    ] {
        let ran = guest.run(&options);
        assert_eq!(ran.status, Some(125), "{options:?}");
        assert!(ran.stderr.contains(message), "{options:?}: {}", ran.stderr);
    }
}

/// Proves that the boot timer's rings stand in the report by the host's clock, in order, with the exits counted.
#[test]
fn report_has_phases_and_counts() {
    if !kvm_works() {
        return;
    }
    let ran = Guest::new(|a| {
        for phase in [1, 2] {
            a.mov(dx, 0x610)?;
            a.mov(al, phase)?;
            a.out(dx, al)?;
        }
        exit(a, 0)
    })
    .run(&["--report", "-"]);
    let report: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    let phases: Vec<_> = report["phases"].as_array().unwrap().iter().map(|p| p[0].as_str().unwrap()).collect();
    assert_eq!(phases.first(), Some(&"start"));
    assert_eq!(phases[phases.len() - 5..], ["first_run", "userspace", "payload", "ended", "done"]);
    let times: Vec<_> = report["phases"].as_array().unwrap().iter().map(|p| p[1].as_u64().unwrap()).collect();
    assert!(times.is_sorted(), "{times:?}");
    assert_eq!(report["exits"]["port_out"], 3);
}

/// Proves that a start which fails says so where its report would have been, keeps a report that was there, and never leaves an
/// empty file.
#[test]
fn a_failed_start_in_the_report() {
    if !kvm_works() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (kernel, report) = (folder.path().join("kernel"), folder.path().join("report.json"));
    std::fs::write(&kernel, "no kernel").unwrap();
    let run = || {
        let ran = finish(start_kernel(&kernel, &["--report", report.to_str().unwrap()], &[]));
        assert_eq!(ran.status, Some(125), "{}", ran.stderr);
        (std::fs::read_to_string(&report).unwrap(), ran.stderr)
    };
    let (written, said) = run();
    let written: serde_json::Value = serde_json::from_str(&written).unwrap();
    assert!(said.contains(written["error"].as_str().unwrap()), "{written} {said}");
    std::fs::write(&report, "of an earlier run").unwrap();
    assert_eq!(run().0, "of an earlier run");
}
