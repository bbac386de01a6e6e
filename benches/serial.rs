//! Serial output from a guest's userspace, bytes a second, beside QEMU, in turn.
//!
//! `cargo bench --bench serial -- [--bytes N] [--runs N] [--nested]`; `--nested` does it inside the nested bed (docs/hosts.md). Both boot the same kernel (`ringfence kernel path`, or
//! RINGFENCE_TEST_KERNEL) and the same initramfs, whose init writes N bytes to a raw serial line. The time runs on the host from
//! the line before the first of them to the line behind the last; the monitors' CPU time, guest included, is told apart, since
//! a busy host disturbs it less. ringfence's exits are counted from its report, less those of a run with no bytes.

#[path = "serial/nested.rs"]
mod nested;

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use ringfence::bench::statistics::Sample;
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

/// What the bytes took: time on the host's clock, and time of the monitor's threads on its CPUs, guest included.
struct Took {
    wall: f64,
    cpu: f64,
}

/// Seconds that the process's threads have been on a CPU; the kernel counts in hundredths.
fn cpu_seconds(child: &Child) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).expect("it runs");
    // Fields 14 and 15, counted from behind the name, which may hold anything (proc_pid_stat(5)).
    let fields = stat.rsplit(')').next().expect("a name").split_whitespace().skip(11).take(2);
    fields.map(|ticks| ticks.parse::<f64>().expect("a number")).sum::<f64>() / 100.0
}

/// Times what lies between the lines BEGIN and END on the child's output; checks that all bytes came.
fn time(mut child: Child, bytes: usize) -> Took {
    let mut output = BufReader::new(child.stdout.take().expect("it is piped"));
    let mut line = Vec::new();
    while !line.starts_with(b"BEGIN") {
        line.clear();
        assert_ne!(output.read_until(b'\n', &mut line).expect("readable"), 0, "the guest never began");
    }
    let (start, cpu) = (Instant::now(), cpu_seconds(&child));
    let mut all = vec![0; bytes];
    output.read_exact(&mut all).expect("every byte comes");
    let took = Took { wall: start.elapsed().as_secs_f64(), cpu: cpu_seconds(&child) - cpu };
    assert!(all.iter().all(|b| *b == 0), "other bytes came");
    let _ = std::io::copy(&mut output, &mut std::io::sink());
    let _ = child.wait();
    took
}

fn start(mut command: Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it starts")
}

/// Inside the nested bed the binary lies elsewhere than where it was built.
fn binary() -> std::ffi::OsString {
    std::env::var_os("RINGFENCE_BENCH_BINARY").unwrap_or_else(|| env!("CARGO_BIN_EXE_ringfence").into())
}

fn ringfence(kernel: &str, initrd: &Path, report: &Path) -> Command {
    let mut command = Command::new(binary());
    command.args(["run", "--memory", "256M", "--cmdline", "quiet", "--kernel", kernel, "--report"]).arg(report);
    command.arg("--initrd").arg(initrd);
    command
}

fn qemu(kernel: &str, initrd: &Path, cmdline: &str) -> Command {
    // Inside the nested bed it is started by its own loader: several words.
    let qemu = std::env::var("RINGFENCE_BENCH_QEMU").unwrap_or_else(|_| "qemu-system-x86_64".into());
    let mut words = qemu.split(' ');
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words);
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
    let runs: usize = argument("--runs").unwrap_or(3).max(1);
    let kernel = std::env::var("RINGFENCE_TEST_KERNEL").unwrap_or_else(|_| {
        let path = Command::new(env!("CARGO_BIN_EXE_ringfence")).args(["kernel", "path"]).output().expect("it starts");
        String::from_utf8_lossy(&path.stdout).trim().to_owned()
    });
    if std::env::args().any(|a| a == "--nested") {
        nested::run(&binary(), bytes, runs, &kernel);
    }
    // What ringfence tells the kernel by itself on such a host.
    let page_tables = Path::new("/sys/module/kvm_pvm").exists();
    let host = if page_tables { ringfence::host::PAGE_TABLE_CMDLINE } else { "" };
    let cmdline = format!("console=ttyS0 reboot=k panic=-1 quiet {host}");
    let (full, empty) = (initramfs(bytes), initramfs(0));
    let report = tempfile::NamedTempFile::new().expect("a temporary file");
    time(start(ringfence(&kernel, empty.path(), report.path())), 0);
    let idle = exits(report.path());
    let ours = || {
        let took = time(start(ringfence(&kernel, full.path(), report.path())), bytes);
        (took, exits(report.path()).saturating_sub(idle) as f64 / bytes as f64)
    };
    let theirs = || time(start(qemu(&kernel, full.path(), &cmdline)), bytes);
    let (mut wall, mut cpu) = (Sample::new(Vec::new()), Sample::new(Vec::new()));
    for run in 1..=runs {
        // Whoever goes first has the machine as the other left it: they take turns at that, too.
        let ((ours, exits), theirs) = if run % 2 == 1 {
            let ours = ours();
            (ours, theirs())
        } else {
            let theirs = theirs();
            (ours(), theirs)
        };
        let line = |took: &Took| {
            format!("{:.1} kB/s, {:.1} us of CPU a byte", bytes as f64 / took.wall / 1e3, took.cpu * 1e6 / bytes as f64)
        };
        println!(
            "run {run}, {bytes} bytes: ringfence {}, {exits:.3} exits a byte; QEMU {}",
            line(&ours),
            line(&theirs)
        );
        wall.push(theirs.wall / ours.wall);
        cpu.push(theirs.cpu / ours.cpu);
    }
    for (what, sample) in [("bytes a second", wall), ("bytes a second of CPU", cpu)] {
        let sorted = sample.sorted();
        println!(
            "{what}: ringfence's are {:.2} times QEMU's (median of {runs}; {:.2} to {:.2})",
            sample.median(),
            sorted[0],
            sorted[runs - 1]
        );
    }
}
