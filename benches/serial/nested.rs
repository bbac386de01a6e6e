//! The same comparison inside the nested bed (docs/hosts.md): upstream KVM on AMD-V, whose guests run their kernel natively.
//! Virtual time counts instructions there, one a nanosecond, so that nothing else on the host disturbs it.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// What QEMU's microvm loads from its share folder.
const FIRMWARE: [&str; 3] = ["bios-microvm.bin", "linuxboot_dma.bin", "pvh.bin"];
/// Where Debian keeps QEMU's firmware.
const SHARES: [&str; 2] = ["/usr/share/qemu", "/usr/share/seabios"];

/// Runs this benchmark inside the bed and exits as it does.
pub fn run(binary: &OsStr, bytes: usize, runs: usize, kernel: &str) -> ! {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let loader = copy_qemu(folder.path());
    let script = folder.path().join("job");
    let job = format!(
        "export RINGFENCE_BENCH_BINARY=/bin/ringfence RINGFENCE_TEST_KERNEL=/bench/kernel\n\
         export RINGFENCE_BENCH_QEMU='/bench/qemu/{loader} --library-path /bench/qemu /bench/qemu/qemu -L /bench/qemu'\n\
         exec /bench/serial --bytes {bytes} --runs {runs}\n"
    );
    std::fs::write(&script, job).expect("room for the job");
    let this = std::env::current_exe().expect("this program's path");
    let mut bed = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bed2/bed2"));
    bed.args(["--icount", "--timeout", "1800", "--ringfence"]).arg(binary).arg("--script").arg(&script);
    for (host, inside) in [(this.as_path(), "/bench/serial"), (Path::new(kernel), "/bench/kernel")] {
        bed.arg("--file").arg(format!("{}:{inside}", host.display()));
    }
    bed.arg("--file").arg(format!("{}:/bench/qemu", folder.path().display()));
    let status = bed.status().expect("tests/bed2/bed2 starts");
    drop(folder);
    std::process::exit(status.code().unwrap_or(1));
}

/// Copies QEMU, its libraries and its firmware into a folder; returns the name of its dynamic loader.
fn copy_qemu(to: &Path) -> String {
    let qemu = ["/usr/bin/qemu-system-x86_64", "/usr/local/bin/qemu-system-x86_64"];
    let qemu = qemu.into_iter().find(|path| Path::new(path).exists()).expect("apt-get install qemu-system-x86");
    let target = to.join("qemu");
    std::fs::copy(qemu, &target).expect("room for QEMU");
    std::fs::set_permissions(&target, PermissionsExt::from_mode(0o755)).expect("it is ours");
    let needs = Command::new("ldd").arg(qemu).output().expect("ldd starts");
    let needs = String::from_utf8_lossy(&needs.stdout).into_owned();
    let mut loader = None;
    for library in needs.split_whitespace().filter(|word| word.starts_with('/')) {
        let name = library.rsplit('/').next().expect("a name");
        std::fs::copy(library, to.join(name)).expect("room for QEMU's libraries");
        if name.starts_with("ld-") {
            loader = Some(name.to_owned());
        }
    }
    for name in FIRMWARE {
        let found = SHARES.iter().map(|share| Path::new(share).join(name)).find(|path| path.exists());
        std::fs::copy(found.expect("QEMU's firmware"), to.join(name)).expect("room for QEMU's firmware");
    }
    loader.expect("QEMU has a dynamic loader")
}
