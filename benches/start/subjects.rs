//! The monitors that are compared, and the guest they boot.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::{PATIENCE, bare, trivial};

/// A monitor with its arguments.
pub struct Subject {
    pub name: &'static str,
    program: PathBuf,
    arguments: Vec<String>,
}

/// QEMU's exit status when the guest ends it: isa-debug-exit makes it twice the byte that was written, plus one.
const QEMU_STATUS: i32 = (trivial::CODE[1] as i32 * 2 + 1) & 0xff;

/// The subjects that can run here, ours first, and the others with the reason. The large ones have 8 GiB of RAM, the others
/// 128 MiB.
pub fn all(kernel: &Path) -> (Vec<Subject>, Vec<(&'static str, String)>) {
    let kernel = kernel.to_str().expect("temporary files have plain names");
    let ours = env!("CARGO_BIN_EXE_ringfence");
    let this = std::env::current_exe().expect("this program has a path");
    let this = this.to_str().expect("cargo's folders have plain names");
    let wanted = [
        ("ringfence", ours, format!("run --initrd none --memory 128M --kernel {kernel}")),
        ("ringfence --sandbox off", ours, format!("run --sandbox off --initrd none --memory 128M --kernel {kernel}")),
        ("ringfence 8 GiB", ours, format!("run --initrd none --memory 8G --kernel {kernel}")),
        ("KVM's calls alone", this, format!("{} 128", bare::WORD)),
        ("KVM's calls alone 8 GiB", this, format!("{} 8192", bare::WORD)),
        ("qemu microvm", "qemu-system-x86_64", qemu(128, kernel)),
        ("qemu microvm 8 GiB", "qemu-system-x86_64", qemu(8192, kernel)),
        ("kvmtool", "lkvm", format!("run -c 1 -m 128 --kernel {kernel}")),
    ];
    let mut subjects = Vec::new();
    let mut absent = Vec::new();
    for (name, program, arguments) in wanted {
        let found = find(program).ok_or_else(|| format!("{program} is not installed"));
        let arguments = arguments.split(' ').map(ToOwned::to_owned).collect();
        let subject = found.map(|program| Subject { name, program, arguments });
        match subject.and_then(|subject| subject.try_once().map(|()| subject)) {
            Ok(subject) => subjects.push(subject),
            Err(reason) => absent.push((name, reason)),
        }
    }
    (subjects, absent)
}

/// Without option ROMs, old timers and defaults: what QEMU's documentation advises for a quick microvm. A write to the
/// keyboard controller's port ends it, as the reset does elsewhere.
fn qemu(mib: u32, kernel: &str) -> String {
    format!(
        "-accel kvm -M microvm,x-option-roms=off,pit=off,pic=off,rtc=off -cpu host -m {mib} -smp 1 -nodefaults \
         -no-user-config -display none -serial stdio -no-reboot -device isa-debug-exit,iobase=0x64,iosize=1 \
         -kernel {kernel}"
    )
}

/// The program's file: a path as it is, a name looked up in $PATH.
fn find(program: &str) -> Option<PathBuf> {
    if program.contains('/') {
        return Some(program.into());
    }
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

    /// Whether the guest ends at all under this monitor, other than by the monitor's failing.
    fn try_once(&self) -> Result<(), String> {
        let mut child = self.command().spawn().map_err(|e| e.to_string())?;
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if let Some(status) = child.try_wait().map_err(|e| e.to_string())? {
                let ended_by_guest = matches!(status.code(), Some(0 | QEMU_STATUS));
                return if ended_by_guest { Ok(()) } else { Err(format!("{status}: {}", self.command_line())) };
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = child.kill();
        let _ = child.wait();
        Err(format!("the guest did not end within {} s", PATIENCE.as_secs()))
    }
}
