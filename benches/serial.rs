//! Serial output from a guest's userspace, bytes a second, beside QEMU, in turn.
//!
//! `cargo bench --bench serial -- [--bytes N] [--runs N]`. Both boot the same kernel (`ringfence kernel path`, or
//! RINGFENCE_TEST_KERNEL) and the same initramfs, whose init writes N bytes to a raw serial line. The time runs on the host from
//! the line before the first of them to the line behind the last. ringfence's exits are counted from its report, less those of a
//! run with no bytes.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ringfence::guest::cpio::Archive;

const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
exec </dev/ttyS0 >/dev/ttyS0 2>&1
/bin/busybox stty raw -echo
echo BEGIN
/bin/busybox head -c BYTES /dev/zero
echo
echo END
/bin/busybox sleep 1
/bin/busybox reboot -f
"#;

fn argument<T: std::str::FromStr>(name: &str) -> Option<T> {
    let mut arguments = std::env::args();
    arguments.find(|a| a == name)?;
    arguments.next()?.parse().ok()
}

fn initramfs(bytes: usize) -> tempfile::NamedTempFile {
    let mut archive = Archive::new();
    let busybox =
        std::fs::read("/bin/busybox").expect("a static busybox at /bin/busybox (apt-get install busybox-static)");
    for folder in ["bin", "dev"] {
        archive.directory(folder, 0o755).expect("a plain name");
    }
    archive.file("bin/busybox", 0o755, &busybox).expect("it fits");
    archive.file("init", 0o755, INIT.replace("BYTES", &bytes.to_string()).as_bytes()).expect("it fits");
    archive.character_device("dev/console", 0o600, (5, 1)).expect("a plain name");
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(&archive.finish()).expect("room for the initramfs");
    file
}

/// Time between the lines BEGIN and END on the child's output; checks that all bytes came.
fn time(mut child: Child, bytes: usize) -> Duration {
    let mut output = BufReader::new(child.stdout.take().expect("it is piped"));
    let mut line = Vec::new();
    while !line.starts_with(b"BEGIN") {
        line.clear();
        assert_ne!(output.read_until(b'\n', &mut line).expect("readable"), 0, "the guest never began");
    }
    let start = Instant::now();
    let mut all = vec![0; bytes];
    output.read_exact(&mut all).expect("every byte comes");
    let took = start.elapsed();
    assert!(all.iter().all(|b| *b == 0), "other bytes came");
    let _ = std::io::copy(&mut output, &mut std::io::sink());
    let _ = child.wait();
    took
}

fn start(mut command: Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it starts")
}

fn ringfence(kernel: &str, initrd: &Path, report: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringfence"));
    command.args(["run", "--memory", "256M", "--cmdline", "quiet", "--kernel", kernel, "--report"]).arg(report);
    command.arg("--initrd").arg(initrd);
    command
}

fn qemu(kernel: &str, initrd: &Path, cmdline: &str) -> Command {
    let mut command = Command::new("qemu-system-x86_64");
    command.args("-accel kvm -M microvm,pit=off,pic=off,rtc=off -cpu host,-cx16 -m 256 -smp 1 -nodefaults".split(' '));
    // A write to the keyboard controller's port ends it, as the reset does in ringfence.
    command.args("-device isa-debug-exit,iobase=0x64,iosize=1".split(' '));
    command.args("-no-user-config -display none -serial stdio -no-reboot -kernel".split(' ')).arg(kernel);
    command.args(["-append", cmdline, "-initrd"]).arg(initrd);
    command
}

fn exits(report: &Path) -> u64 {
    let text = std::fs::read_to_string(report).expect("the report is there");
    let report: serde_json::Value = serde_json::from_str(&text).expect("it is JSON");
    report["exits"].as_object().into_iter().flat_map(|e| e.values()).filter_map(serde_json::Value::as_u64).sum()
}

fn main() {
    let bytes: usize = argument("--bytes").unwrap_or(64 * 1024);
    let runs: usize = argument("--runs").unwrap_or(3);
    let kernel = std::env::var("RINGFENCE_TEST_KERNEL").unwrap_or_else(|_| {
        let path = Command::new(env!("CARGO_BIN_EXE_ringfence")).args(["kernel", "path"]).output().expect("it starts");
        String::from_utf8_lossy(&path.stdout).trim().to_owned()
    });
    let cmdline = format!("console=ttyS0 reboot=k panic=-1 quiet {}", ringfence::host::PAGE_TABLE_CMDLINE);
    let (full, empty) = (initramfs(bytes), initramfs(0));
    let report = tempfile::NamedTempFile::new().expect("a temporary file");
    time(start(ringfence(&kernel, empty.path(), report.path())), 0);
    let idle = exits(report.path());
    let mut ratios = Vec::new();
    for run in 1..=runs {
        let ours = time(start(ringfence(&kernel, full.path(), report.path())), bytes).as_secs_f64();
        let exits = exits(report.path()).saturating_sub(idle);
        let theirs = time(start(qemu(&kernel, full.path(), &cmdline)), bytes).as_secs_f64();
        let rate = |seconds: f64| bytes as f64 / seconds / 1e3;
        println!(
            "run {run}: {bytes} bytes: ringfence {:.1} kB/s, {:.2} exits a byte; QEMU microvm {:.1} kB/s",
            rate(ours),
            exits as f64 / bytes as f64,
            rate(theirs)
        );
        ratios.push(theirs / ours);
    }
    ratios.sort_by(f64::total_cmp);
    println!("ringfence is {:.2} times as fast (median; {:.2?})", ratios[ratios.len() / 2], ratios);
}
