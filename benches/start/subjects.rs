//! The monitors that are compared, and the guest they boot.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::PATIENCE;

/// A monitor with its arguments.
pub struct Subject {
    pub name: &'static str,
    program: PathBuf,
    arguments: Vec<String>,
}

/// 1 MiB above the start of high memory, where no monitor keeps tables of its own.
const ENTRY: u64 = 0x20_0000;

/// The guest: `mov al, 0xfe; out 0x64, al; hlt; jmp` to the hlt. These bytes mean the same in 32-bit and 64-bit mode, so that
/// every monitor may enter as it likes.
const CODE: [u8; 7] = [0xb0, 0xfe, 0xe6, 0x64, 0xf4, 0xeb, 0xfd];

/// An ELF file of one page with the guest and a PVH note (type 18, owner "Xen").
pub fn trivial_kernel() -> tempfile::NamedTempFile {
    let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for (value, size) in [(2, 2), (62, 2), (1, 4), (ENTRY, 8), (64, 8), (0, 8), (0, 4), (64, 2), (56, 2), (2, 2)] {
        file.extend_from_slice(&u64::to_le_bytes(value)[..size]);
    }
    file.resize(64, 0);
    let (code_at, note_at) = (0x1000, 0x200);
    for (kind, offset, address, size) in [(1u32, code_at, ENTRY, CODE.len() as u64), (4, note_at, 0, 24)] {
        file.extend_from_slice(&kind.to_le_bytes());
        file.extend_from_slice(&7u32.to_le_bytes());
        for value in [offset, address, address, size, size, 4] {
            file.extend_from_slice(&value.to_le_bytes());
        }
    }
    file.resize(note_at as usize, 0);
    for value in [4u32, 8, 18] {
        file.extend_from_slice(&value.to_le_bytes());
    }
    file.extend_from_slice(b"Xen\0");
    file.extend_from_slice(&ENTRY.to_le_bytes());
    file.resize(code_at as usize, 0);
    file.extend_from_slice(&CODE);
    let mut out = tempfile::NamedTempFile::new().expect("a temporary file");
    out.write_all(&file).expect("room for a page");
    out
}

/// The subjects that can run here, ours first, and the others with the reason.
pub fn all(kernel: &Path) -> (Vec<Subject>, Vec<(&'static str, String)>) {
    let kernel = kernel.to_str().expect("temporary files have plain names");
    let ours = PathBuf::from(env!("CARGO_BIN_EXE_ringfence"));
    let own = ["run", "--initrd", "none", "--memory", "128M", "--kernel", kernel];
    let mut subjects = vec![Subject { name: "ringfence", program: ours, arguments: strings(&own) }];
    let mut absent = Vec::new();
    // Without option ROMs, old timers and defaults: what QEMU's documentation advises for a quick microvm. A write to the
    // keyboard controller's port ends it, as the reset does elsewhere.
    let qemu = [
        "-accel",
        "kvm",
        "-M",
        "microvm,x-option-roms=off,pit=off,pic=off,rtc=off",
        "-cpu",
        "host",
        "-m",
        "128",
        "-smp",
        "1",
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-serial",
        "stdio",
        "-no-reboot",
        "-device",
        "isa-debug-exit,iobase=0x64,iosize=1",
        "-kernel",
        kernel,
    ];
    let others: [(&str, &str, &[&str]); 2] = [
        ("qemu microvm", "qemu-system-x86_64", &qemu),
        ("kvmtool", "lkvm", &["run", "-c", "1", "-m", "128", "--kernel", kernel]),
    ];
    for (name, program, arguments) in others {
        match find(program) {
            Some(program) => {
                let subject = Subject { name, program, arguments: strings(arguments) };
                match subject.try_once() {
                    Ok(()) => subjects.push(subject),
                    Err(reason) => absent.push((name, reason)),
                }
            }
            None => absent.push((name, format!("{program} is not installed"))),
        }
    }
    (subjects, absent)
}

fn strings(words: &[&str]) -> Vec<String> {
    words.iter().map(ToString::to_string).collect()
}

fn find(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).map(|dir| dir.join(program)).find(|path| path.is_file())
}

impl Subject {
    /// What a user would type.
    pub fn command_line(&self) -> String {
        format!("{} {}", self.program.display(), self.arguments.join(" "))
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// Runs it once; returns the time from just before the child is made until it has been waited for.
    pub fn run(&self) -> Duration {
        let start = Instant::now();
        let mut child = self.command().spawn().unwrap_or_else(|e| panic!("cannot start {}: {e}", self.name));
        child.wait().unwrap_or_else(|e| panic!("cannot wait for {}: {e}", self.name));
        start.elapsed()
    }

    /// Whether the guest ends at all under this monitor.
    fn try_once(&self) -> Result<(), String> {
        let mut child = self.command().spawn().map_err(|e| e.to_string())?;
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if child.try_wait().map_err(|e| e.to_string())?.is_some() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = child.kill();
        let _ = child.wait();
        Err(format!("the guest did not end within {} s", PATIENCE.as_secs()))
    }
}
