//! Compiles the guest's programs, so that the installed binary carries them: its init (`kernels/init`) and what
//! `ringfence compare` runs in it (`kernels/work`).
//!
//! Each is its own freestanding program (no libc, own entry point), built with the same `rustc` and
//! with flags of its own: none of the main crate's profile or target flags belong in it.

use std::env;
use std::path::PathBuf;
use std::process::{Command, exit};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // Init is as small as can be; the work's loops are to be as the compiler makes fast code.
    compile("init", "s");
    compile("work", "2");
}

/// Compiles `kernels/NAME` and names the result to the crate as RINGFENCE_NAME.
fn compile(name: &str, level: &str) {
    let source = format!("kernels/{name}");
    println!("cargo::rerun-if-changed={source}");
    let output = PathBuf::from(required("OUT_DIR")).join(format!("ringfence-{name}"));
    let mut rustc = Command::new(required("RUSTC"));
    rustc
        .arg(format!("{source}/main.rs"))
        .args(["--crate-name", &format!("ringfence_{name}"), "--crate-type", "bin", "--edition", "2024"])
        .args(["--target", "x86_64-unknown-linux-gnu"])
        // The x86-64 baseline only: nothing a small or old guest CPU might lack.
        .args(["-C", "target-cpu=x86-64", "-C", &format!("opt-level={level}"), "-C", "panic=abort"])
        .args(["-C", "lto=fat", "-C", "codegen-units=1", "-C", "strip=symbols"])
        .args(["-C", "relocation-model=static", "-C", "target-feature=+crt-static"])
        .args(["-C", "link-arg=-nostartfiles", "-C", "link-arg=-nostdlib", "-C", "link-arg=-static"])
        // Few pages, few faults: no padding between segments, no tables nobody reads.
        .args(["-C", "link-arg=-Wl,-z,noseparate-code,-z,norelro,--build-id=none,--no-eh-frame-hdr"])
        .arg("-o")
        .arg(&output);
    match rustc.status() {
        Ok(status) if status.success() => {}
        Ok(status) => fail(&format!("compiling {source} failed ({status}); the command was {rustc:?}")),
        Err(error) => fail(&format!("{rustc:?} could not be started: {error}")),
    }
    println!("cargo::rustc-env=RINGFENCE_{}={}", name.to_uppercase(), output.display());
}

fn required(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| fail(&format!("cargo did not set {name}")))
}

fn fail(message: &str) -> ! {
    println!("cargo::error={message}");
    exit(1)
}
