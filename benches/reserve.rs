//! What reserving RAM costs at the start, what taking it in parallel saves, and what a guest costs the host beside its RAM.
//!
//! `cargo bench --bench reserve -- [--runs N] [--largest MIB]`. Three tables: exec to exit of a guest that ends at once, with RAM
//! as it comes and with `--reserve`, in turn; taking RAM on one CPU and on all, in turn; and, for a guest that touches all of its
//! RAM, the proportional set and page tables of the process, and what its control group is charged, beside RAM.

#[path = "../tests/guests/greedy.rs"]
mod greedy;
#[path = "../tests/guests/mod.rs"]
#[allow(dead_code, reason = "only some of what guests do is done here")]
mod guests;

use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use guests::{Guest, exit};

fn argument<T: std::str::FromStr>(name: &str) -> Option<T> {
    let mut arguments = std::env::args();
    arguments.find(|a| a == name)?;
    arguments.next()?.parse().ok()
}

/// A command that runs `guest`, after the words of `before`, with these options.
fn command(before: &[&str], guest: &tempfile::NamedTempFile, mib: u64, options: &[&str]) -> Command {
    let mut words: Vec<std::ffi::OsString> = before.iter().map(Into::into).collect();
    words.push(env!("CARGO_BIN_EXE_ringfence").into());
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).args(["run", "--initrd", "none", "--memory", &format!("{mib}M"), "--kernel"]);
    command.arg(guest.path()).args(options).stdin(Stdio::null());
    command
}

fn file(guest: &Guest) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    fs::write(file.path(), guest.elf()).expect("room for a guest");
    file
}

/// Medians of two times of commands that run in turn: from exec to exit, and from the configuration to when all that is in RAM
/// at the start is there, by ringfence's report. Giving RAM back at the end is in the first one only.
fn medians<const N: usize>(runs: usize, mut commands: [Command; N]) -> [(Duration, Duration); N] {
    let mut times = [const { (Vec::new(), Vec::new()) }; N];
    for command in &mut commands {
        command.args(["--report", "-"]);
    }
    for run in 0..=runs {
        for (command, (whole, filling)) in commands.iter_mut().zip(&mut times) {
            let start = Instant::now();
            let output = command.output().expect("it can be run");
            // The first round warms up.
            if run > 0 {
                whole.push(start.elapsed());
                filling.push(between(&output.stdout, "configured", "loaded"));
            }
            assert_eq!(output.status.code(), Some(7), "{command:?}");
        }
    }
    let median = |mut times: Vec<Duration>| {
        times.sort();
        times[times.len() / 2]
    };
    times.map(|(whole, filling)| (median(whole), median(filling)))
}

/// The time between two phases of a report.
fn between(report: &[u8], first: &str, last: &str) -> Duration {
    let report: serde_json::Value = serde_json::from_slice(report).expect("the report is JSON");
    let phases = report["phases"].as_array().expect("phases are a list");
    let at = |name: &str| phases.iter().find(|phase| phase[0] == name).and_then(|phase| phase[1].as_u64());
    let nanoseconds = at(last).zip(at(first)).map(|(last, first)| last - first);
    Duration::from_nanos(nanoseconds.expect("both phases were reached"))
}

/// Megabytes of 10^6 bytes a second.
fn rate(mib: u64, time: Duration) -> f64 {
    (mib << 20) as f64 / 1e6 / time.as_secs_f64()
}

fn starts(sizes: &[u64], runs: usize) {
    let guest = file(&Guest::new(|a| exit(a, 7)));
    println!("exec to exit of a guest that ends at once, ms (median of {runs}, in turn)");
    println!("{:>9} {:>9} {:>12} {:>12} {:>14}", "RAM, MiB", "as it", "--reserve", "--reserve", "--reserve,");
    println!("{:>9} {:>9} {:>12} {:>12} {:>14}", "", "comes", "", "--thp never", "MB/s (4 KiB)");
    for mib in sizes {
        let of = |options: &[&str]| command(&[], &guest, *mib, options);
        let [(lazy, _), (huge, _), (small, filling)] =
            medians(runs, [of(&[]), of(&["--reserve"]), of(&["--reserve", "--thp", "never"])]);
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        let rate = rate(*mib, filling);
        println!("{mib:>9} {:>9.1} {:>12.1} {:>12.1} {rate:>14.0}", ms(lazy), ms(huge), ms(small));
    }
}

fn parallel(sizes: &[u64], runs: usize) {
    let guest = file(&Guest::new(|a| exit(a, 7)));
    let cpus = std::thread::available_parallelism().map_or(1, |n| n.get());
    println!("\ntaking and filling RAM on one CPU (taskset) and on {cpus}, ms (median of {runs}, in turn)");
    println!("{:>9} {:>14} {:>9} {:>9} {:>7}", "RAM, MiB", "pages", "one", "all", "ratio");
    for (mib, thp) in sizes.iter().flat_map(|mib| [(mib, "never"), (mib, "always")]) {
        let one = ["taskset", "-c", "0"];
        let options = ["--prefault", "--thp", thp];
        let commands = [command(&one, &guest, *mib, &options), command(&[], &guest, *mib, &options)];
        let [one, all] = medians(runs, commands).map(|(_, filling)| filling.as_secs_f64());
        let pages = if thp == "never" { "4 KiB" } else { "transparent" };
        println!("{mib:>9} {pages:>14} {:>9.1} {:>9.1} {:>7.2}", one * 1e3, all * 1e3, one / all);
    }
}

/// A control group of version 1 or 2, removed when dropped.
struct Group(PathBuf);

impl Group {
    fn new() -> Option<Self> {
        let parent = if std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
            PathBuf::from("/sys/fs/cgroup")
        } else {
            let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
            PathBuf::from(format!("/sys/fs/cgroup/memory{}", groups.lines().find_map(|l| l.split_once(":memory:"))?.1))
        };
        let group = Self(parent.join(format!("ringfence-bench-{}", std::process::id())));
        fs::create_dir(&group.0).ok()?;
        Some(group)
    }

    fn charged(&self) -> Option<u64> {
        let read = |file| fs::read_to_string(self.0.join(file)).ok()?.trim().parse().ok();
        read("memory.usage_in_bytes").or_else(|| read("memory.current"))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// A figure of a file of `key: 12 kB` lines, in KiB, added up.
fn kib(text: &str, key: &str) -> u64 {
    let values = text.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    values.filter_map(|value| value.trim().trim_end_matches(" kB").parse::<u64>().ok()).sum()
}

fn beside(sizes: &[u64]) {
    println!("\nbeside RAM that is all touched, KiB");
    println!("{:>9} {:>22} {:>7} {:>12} {:>16}", "RAM, MiB", "RAM", "PSS", "page tables", "charged in all");
    let ways = [&[][..], &["--thp", "never"], &["--reserve"], &["--reserve", "--thp", "never"]];
    for (mib, options) in sizes.iter().flat_map(|mib| ways.map(|way| (*mib, way))) {
        let guest = file(&greedy::greedy(mib << 20));
        let group = Group::new();
        let enter = group.as_ref().map(|group| format!("echo $$ > {}/cgroup.procs && exec \"$@\"", group.0.display()));
        let enter = enter.unwrap_or("exec \"$@\"".to_owned());
        let mut child = command(&["sh", "-c", &enter, "sh"], &guest, mib, options);
        let mut child = child.stdout(Stdio::piped()).spawn().expect("it can be run");
        let mut word = [0; 3];
        child.stdout.as_mut().expect("a pipe").read_exact(&mut word).expect("the guest says a word");
        let read = |name: &str| fs::read_to_string(format!("/proc/{}/{name}", child.id())).unwrap_or_default();
        let (rollup, status) = (read("smaps_rollup"), read("status"));
        let charged = group.as_ref().and_then(Group::charged);
        child.kill().expect("it runs");
        child.wait().expect("it can be waited for");
        let beside = |kib: u64| kib.saturating_sub(mib << 10);
        let charged = charged.map_or("no group".to_owned(), |bytes| beside(bytes >> 10).to_string());
        let how = if options.is_empty() { "as it comes".to_owned() } else { options.join(" ") };
        println!("{mib:>9} {how:>22} {:>7} {:>12} {charged:>16}", beside(kib(&rollup, "Pss")), kib(&status, "VmPTE"));
    }
}

fn main() {
    if !guests::kvm_works() {
        return;
    }
    let runs = argument("--runs").unwrap_or(11).max(1);
    let largest = argument("--largest").unwrap_or(2048);
    let sizes: Vec<u64> = [128, 512, 1024, 2048, 4096, 8192].into_iter().filter(|mib| *mib <= largest).collect();
    starts(&sizes, runs);
    parallel(&sizes, runs);
    let touched: Vec<u64> = sizes.into_iter().filter(|mib| *mib <= 2048).collect();
    beside(&touched);
}
