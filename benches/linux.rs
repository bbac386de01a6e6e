//! How long `ringfence run -- true` takes with the default guest, beside QEMU with the same kernel and initramfs, in turn.
//!
//! `cargo bench --bench linux -- [--runs N] [--json FILE] [--alone]`, on a machine with /dev/kvm and the default kernel
//! (`ringfence kernel build`; RINGFENCE_TEST_KERNEL names another). One vCPU and 256 MiB each, no warm-up. Measured are exec to
//! exit of both, and ringfence's phases from its report; `--alone` leaves QEMU out.

#[path = "nested/table.rs"]
mod table;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ringfence::bench::statistics::Sample;
use ringfence::guest::initramfs::default_initramfs;
use ringfence::guest::spec::{self, Spec, spec_overlay};
use ringfence::guest::store::cache_folder;
use ringfence::host::{PAGE_TABLE_CMDLINE, is_page_table_based};

/// A boot of seconds that takes so long hangs.
const PATIENCE: Duration = Duration::from_secs(180);
/// What isa-debug-exit makes of the status 0.
const QEMU_STATUS: i32 = 1;

fn argument<T: std::str::FromStr>(name: &str) -> Option<T> {
    let mut arguments = std::env::args();
    arguments.find(|a| a == name)?;
    arguments.next()?.parse().ok()
}

fn default_kernel() -> PathBuf {
    if let Some(path) = std::env::var_os("RINGFENCE_TEST_KERNEL") {
        return path.into();
    }
    let found = Command::new(env!("CARGO_BIN_EXE_ringfence")).args(["kernel", "path"]).output().expect("it starts");
    assert!(found.status.success(), "no default kernel: {}", String::from_utf8_lossy(&found.stderr));
    String::from_utf8_lossy(&found.stdout).trim().into()
}

/// What the default guest's init finds when ringfence starts it: the default initramfs and the command `true`.
fn initramfs() -> tempfile::NamedTempFile {
    let default = default_initramfs(&cache_folder().expect("a cache folder")).expect("the default initramfs");
    let mut archive = std::fs::read(default).expect("it can be read");
    archive.resize(archive.len().next_multiple_of(4), 0);
    let spec = Spec {
        stdio: spec::Stdio::Pipe,
        term: "vt100".into(),
        window: spec::WindowSize::default(),
        hostname: "ringfence".to_owned(),
        loglevel: None,
        env: Vec::new(),
        args: vec!["true".into()],
    };
    archive.extend(spec_overlay(&spec).expect("a short command"));
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(&archive).expect("room for the initramfs");
    file
}

fn ringfence(kernel: &Path, report: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringfence"));
    command.args(["run", "--cmdline", "quiet", "--kernel"]).arg(kernel).arg("--report").arg(report);
    command.args(["--", "true"]);
    command
}

fn qemu(kernel: &Path, initrd: &Path) -> Command {
    // What ringfence gives a kernel on such a KVM, and the feature it takes away there.
    let (words, cpu) = if is_page_table_based() { (PAGE_TABLE_CMDLINE, "host,-cx16") } else { ("", "host") };
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args("-accel kvm -M microvm,x-option-roms=off,pit=off,pic=off,rtc=off -m 256 -smp 1 -nodefaults".split(' '));
    command.args("-no-user-config -display none -serial stdio -no-reboot".split(' '));
    // The port by which the guest's init gives its status.
    command.args(["-device", "isa-debug-exit,iobase=0x614,iosize=4", "-cpu", cpu]);
    command.arg("-append").arg(format!("console=ttyS0 reboot=k panic=-1 quiet {words}"));
    command.arg("-kernel").arg(kernel).arg("-initrd").arg(initrd);
    command
}

/// From just before the child is made until it has been waited for. It must end with `status`.
fn time(command: &mut Command, status: i32) -> Result<Duration, String> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let start = Instant::now();
    let mut child = command.spawn().map_err(|e| e.to_string())?;
    loop {
        if let Some(ended) = child.try_wait().map_err(|e| e.to_string())? {
            let took = start.elapsed();
            return if ended.code() == Some(status) { Ok(took) } else { Err(format!("{ended}")) };
        }
        if start.elapsed() > PATIENCE {
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!("it did not end within {} s", PATIENCE.as_secs()));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Seconds between two phases of a report.
fn between(report: &Path, from: &str, to: &str) -> Option<f64> {
    let report: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(report).ok()?).ok()?;
    let at = |name: &str| {
        report["phases"].as_array()?.iter().find(|phase| phase[0] == name).and_then(|phase| phase[1].as_u64())
    };
    Some((at(to)? - at(from)?) as f64 / 1e9)
}

fn main() {
    let runs: usize = argument("--runs").unwrap_or(20);
    let kernel = default_kernel();
    let (initrd, report) = (initramfs(), tempfile::NamedTempFile::new().expect("a temporary file"));
    let mut beside_qemu = !std::env::args().any(|a| a == "--alone");
    let [mut ours, mut theirs, mut userspace, mut payload] = [(); 4].map(|()| Sample::default());
    let mut failed = 0;
    for run in 1..=runs {
        match time(&mut ringfence(&kernel, report.path()), 0) {
            Ok(took) => {
                ours.push(took.as_secs_f64());
                userspace.push(between(report.path(), "first_run", "userspace").expect("the report is whole"));
                payload.push(between(report.path(), "userspace", "payload").expect("the report is whole"));
            }
            Err(reason) => {
                failed += 1;
                println!("run {run}: ringfence: {reason}");
            }
        }
        if beside_qemu {
            match time(&mut qemu(&kernel, initrd.path()), QEMU_STATUS) {
                Ok(took) => theirs.push(took.as_secs_f64()),
                Err(reason) => {
                    println!("not run any more: qemu microvm: {reason}");
                    beside_qemu = false;
                }
            }
        }
        eprint!("\rrun {run} of {runs}");
    }
    eprintln!();
    println!("kernel: {}; 1 vCPU, 256 MiB; {failed} of {runs} runs failed", kernel.display());
    table::print_table("exec to exit", "ms", &[("ringfence run -- true", &ours), ("qemu microvm", &theirs)]);
    table::print_table("first KVM_RUN to userspace", "ms", &[("ringfence", &userspace)]);
    table::print_table("userspace to the command", "ms", &[("ringfence", &payload)]);
    if let Some(path) = argument::<String>("--json") {
        let samples = serde_json::json!({
            "exec_to_exit_s": { "ringfence": ours.values(), "qemu microvm": theirs.values() },
            "first_run_to_userspace_s": userspace.values(),
            "userspace_to_payload_s": payload.values(),
        });
        std::fs::write(&path, format!("{samples:#}\n")).unwrap_or_else(|e| panic!("cannot write {path}: {e}"));
    }
    assert_eq!(failed, 0, "runs failed");
}
