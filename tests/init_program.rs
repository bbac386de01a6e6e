//! The guest's programs (`kernels/init`, `kernels/work`) are compiled by `build.rs`, out of cargo's sight: here init's pure logic
//! is tested and the whole of both held to the same formatting and lints as the rest.

use std::path::Path;
use std::process::Command;

#[allow(dead_code, reason = "the guest's own source, of which the tests use a part")]
#[path = "../kernels/init/status.rs"]
mod status;

#[test]
fn statuses_are_those_a_shell_shows() {
    // wait(2): the exit code in bits 8 to 15, the signal in bits 0 to 6, bit 7 when it dumped core.
    assert_eq!(status::from_wait(0), 0);
    assert_eq!(status::from_wait(5 << 8), 5);
    assert_eq!(status::from_wait(255 << 8), 255);
    assert_eq!(status::from_wait(9), 128 + 9);
    assert_eq!(status::from_wait(11 | 0x80), 128 + 11);
}

#[test]
fn failures_to_execute_follow_the_container_convention() {
    for errno in [libc::ENOENT, libc::ENOTDIR] {
        assert_eq!(status::from_exec_error(errno), (127, "not found"));
    }
    for errno in [libc::EACCES, libc::ENOEXEC, libc::E2BIG, libc::EISDIR, libc::ELOOP, libc::ENAMETOOLONG, libc::EIO] {
        let (status, words) = status::from_exec_error(errno);
        assert!(status == 126 && !words.is_empty(), "{errno}: {status} {words}");
    }
}

#[test]
fn error_numbers_are_linux_s() {
    let ours = [
        (status::ENOENT, libc::ENOENT),
        (status::E2BIG, libc::E2BIG),
        (status::ENOEXEC, libc::ENOEXEC),
        (status::ENOMEM, libc::ENOMEM),
        (status::EACCES, libc::EACCES),
        (status::ENOTDIR, libc::ENOTDIR),
        (status::EISDIR, libc::EISDIR),
        (status::ELOOP, libc::ELOOP),
        (status::ENAMETOOLONG, libc::ENAMETOOLONG),
    ];
    for (ours, theirs) in ours {
        assert_eq!(ours, theirs);
    }
}

#[test]
fn path_search_goes_on_as_execvp_does() {
    assert!(status::search_goes_on(libc::ENOENT) && status::search_goes_on(libc::EACCES));
    assert!(!status::search_goes_on(libc::ENOEXEC) && !status::search_goes_on(libc::ENOMEM));
    let mut buffer = [0xff; 8];
    assert_eq!(status::candidate(&mut buffer, b"/bin", b"ls"), Some(&b"/bin/ls\0"[..]));
    assert_eq!(status::candidate(&mut buffer, b"", b"ls"), Some(&b"./ls\0"[..]), "an empty entry is here");
    assert_eq!(status::candidate(&mut buffer, b"/sbin", b"ls"), None, "never beyond the buffer");
}

#[test]
fn variables_are_found_by_their_whole_name() {
    assert_eq!(status::value_of(b"PATH=/bin:/x=y", b"PATH"), Some(&b"/bin:/x=y"[..]));
    assert_eq!(status::value_of(b"PATHS=/bin", b"PATH"), None);
    assert_eq!(status::value_of(b"PATH", b"PATH"), None);
    assert_eq!(status::value_of(b"PATH=", b"PATH"), Some(&b""[..]));
}

fn source(program: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels").join(program).join("main.rs").display().to_string()
}

/// Runs a tool of the toolchain; `false` when this toolchain has it not.
fn passes(tool: &str, arguments: &[&str]) -> bool {
    match Command::new(tool).args(arguments).output() {
        Ok(output) if String::from_utf8_lossy(&output.stderr).contains("is not installed") => false,
        Ok(output) => {
            assert!(output.status.success(), "{tool}: {}", String::from_utf8_lossy(&output.stderr));
            true
        }
        Err(_) => false,
    }
}

#[test]
fn programs_are_formatted() {
    for program in ["init", "work"] {
        if !passes("rustfmt", &["--edition", "2024", "--check", &source(program)]) {
            assert!(std::env::var_os("CI").is_none(), "rustfmt is needed in CI");
            println!("skipped: rustfmt is not installed; rustup component add rustfmt");
        }
    }
}

#[test]
fn programs_have_no_warnings() {
    let folder = tempfile::tempdir().unwrap();
    for program in ["init", "work"] {
        let output = folder.path().join(program).with_extension("rmeta").display().to_string();
        let name = format!("ringfence_{program}");
        let arguments = ["--edition", "2024", "--crate-type", "bin", "--crate-name", &name, "--emit", "metadata"];
        let rest = ["-C", "panic=abort", "-D", "warnings", "-o", &output, &source(program)];
        if !passes("clippy-driver", &[&arguments[..], &rest[..]].concat()) {
            assert!(std::env::var_os("CI").is_none(), "clippy is needed in CI");
            println!("skipped: clippy is not installed; rustup component add clippy");
        }
    }
}
