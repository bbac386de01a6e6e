//! Compiles the guest's init (`kernels/init`), so that the installed binary carries it.
//!
//! It is its own freestanding program (no libc, own entry point), built with the same `rustc` and
//! with flags of its own: none of the main crate's profile or target flags belong in it.

use std::env;
use std::path::PathBuf;
use std::process::{Command, exit};

const SOURCE: &str = "kernels/init";

fn main() {
    println!("cargo::rerun-if-changed={SOURCE}");
    println!("cargo::rerun-if-changed=build.rs");
    let output = PathBuf::from(required("OUT_DIR")).join("ringfence-init");
    let mut rustc = Command::new(required("RUSTC"));
    rustc
        .arg(format!("{SOURCE}/main.rs"))
        .args(["--crate-name", "ringfence_init", "--crate-type", "bin", "--edition", "2024"])
        .args(["--target", "x86_64-unknown-linux-gnu"])
        // The x86-64 baseline only: nothing a small or old guest CPU might lack.
        .args(["-C", "target-cpu=x86-64", "-C", "opt-level=s", "-C", "panic=abort"])
        .args(["-C", "lto=fat", "-C", "codegen-units=1", "-C", "strip=symbols"])
        .args(["-C", "relocation-model=static", "-C", "target-feature=+crt-static"])
        .args(["-C", "link-arg=-nostartfiles", "-C", "link-arg=-nostdlib", "-C", "link-arg=-static"])
        // Few pages, few faults: no padding between segments, no tables nobody reads.
        .args(["-C", "link-arg=-Wl,-z,noseparate-code,-z,norelro,--build-id=none,--no-eh-frame-hdr"])
        .arg("-o")
        .arg(&output);
    match rustc.status() {
        Ok(status) if status.success() => {}
        Ok(status) => fail(&format!("compiling {SOURCE} failed ({status}); the command was {rustc:?}")),
        Err(error) => fail(&format!("{rustc:?} could not be started: {error}")),
    }
    println!("cargo::rustc-env=RINGFENCE_INIT={}", output.display());
}

fn required(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| fail(&format!("cargo did not set {name}")))
}

fn fail(message: &str) -> ! {
    println!("cargo::error={message}");
    exit(1)
}
