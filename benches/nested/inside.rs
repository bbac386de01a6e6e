//! The measuring, inside the emulated machine.

use std::process::{Command, Stdio};
use std::time::Instant;

use serde::{Deserialize, Serialize};

/// The argument that makes the benchmark measure.
pub const WORD: &str = "inside";
/// Where things lie in the emulated machine.
pub const SELF: &str = "/bin/nested-bench";
pub const TRIVIAL: &str = "/guest/trivial";
pub const KERNEL: &str = "/guest/kernel";

const REPORT: &str = "/tmp/report.json";
/// QEMU's software emulation loses interrupt shadows; with a periodic tick a guest that has lost one goes on (docs/hosts.md).
const LINUX: [&str; 11] =
    ["run", "--kernel", KERNEL, "--timeout", "30", "--report", REPORT, "--cmdline", "quiet nohz=off", "--", "true"];

/// Subjects that took turns.
#[derive(Serialize, Deserialize)]
pub struct Group {
    pub title: String,
    pub subjects: Vec<Subject>,
}

/// What one subject's runs gave.
#[derive(Serialize, Deserialize)]
pub struct Subject {
    pub name: String,
    pub seconds: Vec<f64>,
    pub failures: Vec<String>,
}

impl Subject {
    fn new(name: &str) -> Self {
        Self { name: name.to_owned(), seconds: Vec::new(), failures: Vec::new() }
    }

    fn take(&mut self, turn: usize, result: Result<f64, String>) {
        match result {
            Ok(seconds) if turn > 0 => self.seconds.push(seconds),
            Ok(_) => {}
            Err(reason) => self.failures.push(format!("{}, run {turn}: {reason}", self.name)),
        }
    }
}

/// Runs a program to its end; seconds from just before it is made until it has been waited for.
fn time(program: &str, arguments: &[&str]) -> Result<f64, String> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
    let start = Instant::now();
    let status = command.status().map_err(|e| format!("{program}: {e}"))?;
    let took = start.elapsed();
    if status.success() { Ok(took.as_secs_f64()) } else { Err(format!("{program} {}: {status}", arguments.join(" "))) }
}

/// Measures and leaves the samples in /out.
pub fn measure(runs: usize, linux_runs: usize, large: bool) {
    let mut groups = vec![small_guests(runs, large)];
    groups.extend(linux(linux_runs));
    let json = serde_json::to_string(&groups).expect("numbers and text are JSON");
    std::fs::write("/out/samples.json", json).expect("/out takes it");
}

fn small_guests(runs: usize, large: bool) -> Group {
    fn run(memory: &'static str) -> Vec<&'static str> {
        vec!["run", "--initrd", "none", "--kernel", TRIVIAL, "--memory", memory]
    }
    let mut wanted = vec![
        ("ringfence", "/bin/ringfence", run("128M")),
        ("KVM's calls alone", "/bin/ringfence", vec!["bench", "floor", "--memory", "128M"]),
        ("/bin/true", "/bin/true", vec![]),
    ];
    if large {
        wanted.insert(1, ("ringfence 8 GiB", "/bin/ringfence", run("8G")));
        wanted.insert(3, ("KVM's calls alone 8 GiB", "/bin/ringfence", vec!["bench", "floor", "--memory", "8G"]));
    }
    let mut subjects: Vec<Subject> = wanted.iter().map(|(name, ..)| Subject::new(name)).collect();
    for turn in 0..=runs {
        for ((_, program, arguments), subject) in wanted.iter().zip(&mut subjects) {
            subject.take(turn, time(program, arguments));
        }
    }
    Group { title: "exec to exit".to_owned(), subjects }
}

/// Linux to its end, and the part that the guest answers for.
fn linux(runs: usize) -> [Group; 2] {
    let (mut whole, mut boot) = (Subject::new("ringfence run -- true"), Subject::new("default kernel"));
    for turn in 0..=runs {
        let took = time("/bin/ringfence", &LINUX);
        let booted = took.as_ref().map_err(Clone::clone).and_then(|_| first_run_to_userspace());
        boot.take(turn, booted);
        whole.take(turn, took);
    }
    [("exec to exit", whole), ("first KVM_RUN to userspace", boot)]
        .map(|(title, subject)| Group { title: title.to_owned(), subjects: vec![subject] })
}

fn first_run_to_userspace() -> Result<f64, String> {
    let text = std::fs::read_to_string(REPORT).map_err(|e| e.to_string())?;
    let report: serde_json::Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
    let at = |name: &str| {
        let phases = report["phases"].as_array().into_iter().flatten();
        phases.filter(|phase| phase[0] == name).find_map(|phase| phase[1].as_u64()).ok_or(format!("no {name}: {text}"))
    };
    Ok((at("userspace")? - at("first_run")?) as f64 / 1e9)
}
