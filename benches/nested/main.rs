//! How long guests take on upstream kvm_amd, inside test bed 2 (tests/bed2/bed2: QEMU emulates the host, no KVM is needed).
//!
//! `cargo bench --bench nested -- [--runs N] [--linux-runs N] [--large] [--icount] [--json FILE]`.
//!
//! This program goes into the emulated machine, too, and measures there: the guest of a few bytes from exec to exit, in turn
//! with `/bin/true` and with a program that makes nothing but KVM's calls; then the default kernel, from its first KVM_RUN to
//! userspace, by ringfence's own report. A first turn of each is not counted. `--large` puts an 8 GiB guest beside the one of
//! 128 MiB. With `--icount` the emulated clock counts instructions, so that a figure hardly changes from run to run and stands
//! for work, not for time.

mod inside;
mod table;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ringfence::bench::boot::guest::Guest;
use ringfence::bench::statistics::Sample;

/// Seconds that the emulated machine may take to boot, and for a run of the small guests and of Linux.
const PATIENCE: (usize, usize, usize) = (120, 10, 40);

fn argument<T: std::str::FromStr>(name: &str) -> Option<T> {
    let mut arguments = std::env::args();
    arguments.find(|a| a == name)?;
    arguments.next()?.parse().ok()
}

fn flag(name: &str) -> bool {
    std::env::args().any(|a| a == name)
}

fn default_kernel() -> PathBuf {
    if let Some(path) = std::env::var_os("RINGFENCE_TEST_KERNEL") {
        return path.into();
    }
    let found = Command::new(env!("CARGO_BIN_EXE_ringfence")).args(["kernel", "path"]).output().expect("it starts");
    assert!(found.status.success(), "no default kernel: {}", String::from_utf8_lossy(&found.stderr));
    String::from_utf8_lossy(&found.stdout).trim().into()
}

fn main() {
    let words: Vec<String> = std::env::args().collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [_, inside::WORD, runs, linux_runs, large] => {
            inside::measure(runs.parse().expect("runs"), linux_runs.parse().expect("runs"), large == "large");
        }
        _ => outside(),
    }
}

/// Boots the bed, has this program measure inside, and prints what it found.
fn outside() {
    let runs: usize = argument("--runs").unwrap_or(20);
    let linux_runs: usize = argument("--linux-runs").unwrap_or(runs);
    let (icount, large) = (flag("--icount"), flag("--large"));
    let this = std::env::current_exe().expect("this program has a path");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let trivial = Guest::trivial(folder.path()).expect("a folder takes it");
    let results = tempfile::tempdir().expect("a temporary folder");
    let mut bed = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bed2/bed2"));
    let (boot, small, linux) = PATIENCE;
    let seconds = boot + small * (runs + 1) + linux * (linux_runs + 1);
    bed.args(["--memory", if large { "10240" } else { "2048" }, "--timeout", &seconds.to_string()]);
    bed.args(["--ringfence", env!("CARGO_BIN_EXE_ringfence"), "--out"]).arg(results.path());
    let inside =
        [(&*this, inside::SELF), (trivial.kernel(false), inside::TRIVIAL), (&*default_kernel(), inside::KERNEL)];
    for (file, at) in inside {
        bed.arg("--file").arg(format!("{}:{at}", file.display()));
    }
    if icount {
        bed.arg("--icount");
    }
    bed.args(["--", inside::SELF, inside::WORD, &runs.to_string(), &linux_runs.to_string()]);
    bed.arg(if large { "large" } else { "small" }).stdin(Stdio::null());
    let status = bed.status().expect("tests/bed2/bed2 starts");
    assert!(status.success(), "the bed's job failed: {status}");
    let json = std::fs::read_to_string(results.path().join("samples.json")).expect("the job left its samples");
    let groups: Vec<inside::Group> = serde_json::from_str(&json).expect("they are JSON");
    print(&groups, if icount { "million instructions" } else { "ms" });
    if let Some(path) = argument::<String>("--json") {
        std::fs::write(&path, json).unwrap_or_else(|e| panic!("cannot write {path}: {e}"));
    }
}

/// Prints a table for each group of subjects.
fn print(groups: &[inside::Group], unit: &str) {
    for group in groups {
        let rows: Vec<(&str, Sample)> =
            group.subjects.iter().map(|s| (&*s.name, Sample::new(s.seconds.clone()))).collect();
        let rows: Vec<_> = rows.iter().map(|(name, sample)| (*name, sample)).collect();
        table::print_table(&group.title, unit, &rows);
        group.subjects.iter().flat_map(|s| &s.failures).for_each(|failure| println!("failed: {failure}"));
    }
}
