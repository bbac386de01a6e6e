//! Root is not needed, only /dev/kvm.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use super::guests::{Guest, exit, finish, kvm_works, say};

/// A user without rights (nobody).
const USER: u32 = 65534;

/// Proves that a user who has nothing but a /dev/kvm that may be opened runs a confined guest.
#[test]
fn an_unprivileged_user_runs_a_guest() {
    if !kvm_works() {
        return;
    }
    if !rustix::process::geteuid().is_root() {
        println!("skipped: the user is unprivileged already, as in every other test");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let kernel = folder.path().join("kernel");
    let guest = Guest::new(|a| {
        say(a, "from nobody\n")?;
        exit(a, 42)
    });
    fs::write(&kernel, guest.elf()).unwrap();
    let binary = folder.path().join("ringfence");
    // By a program of its own: a descriptor that is written to, inherited by what another test starts, would keep it busy.
    let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_ringfence")).arg(&binary).status().unwrap();
    assert!(copied.success());
    let device = fs::metadata("/dev/kvm").map(|about| std::os::unix::fs::MetadataExt::rdev(&about)).unwrap();
    let place = CString::new(folder.path().join("dev").as_os_str().as_bytes()).unwrap();
    fs::create_dir(folder.path().join("dev")).unwrap();
    let node = CString::new(folder.path().join("dev/kvm").as_os_str().as_bytes()).unwrap();
    let mut command = Command::new(&binary);
    command
        .args(["run", "--initrd", "none", "-v", "--kernel"])
        .arg(&kernel)
        .env("RINGFENCE_CACHE", folder.path().join("cache"))
        .env("RINGFENCE_RUNTIME", folder.path().join("run"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .current_dir(Path::new("/"));
    // SAFETY: only system calls with strings that were made before the fork.
    unsafe { command.pre_exec(move || become_nobody(&place, &node, device)) };
    let ran = finish(command.spawn().unwrap());
    assert_eq!((ran.status, ran.stdout.as_str()), (Some(42), "from nobody\n"), "{}", ran.stderr);
    assert!(ran.stderr.contains("sandbox: seccomp, no capabilities"), "{}", ran.stderr);
}

/// In a mount namespace of its own puts a /dev/kvm that anybody may open over the host's, and gives up all rights.
fn become_nobody(place: &CString, node: &CString, device: u64) -> io::Result<()> {
    let none: *const libc::c_char = std::ptr::null();
    let check = |result: libc::c_int| if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
    // SAFETY: strings that live as long as the calls.
    unsafe {
        check(libc::unshare(libc::CLONE_NEWNS))?;
        check(libc::mount(none.cast(), c"/".as_ptr(), none.cast(), libc::MS_REC | libc::MS_PRIVATE, none.cast()))?;
        check(libc::mount(c"none".as_ptr(), place.as_ptr(), c"tmpfs".as_ptr(), 0, none.cast()))?;
        check(libc::mknod(node.as_ptr(), libc::S_IFCHR | 0o666, device))?;
        check(libc::chmod(node.as_ptr(), 0o666))?;
        check(libc::mount(node.as_ptr(), c"/dev/kvm".as_ptr(), none.cast(), libc::MS_BIND, none.cast()))?;
        check(libc::setgroups(0, std::ptr::null()))?;
        check(libc::setresgid(USER, USER, USER))?;
        check(libc::setresuid(USER, USER, USER))
    }
}
