//! `ringfence check`: what this host and its KVM can do, in a table or as JSON.

mod text;
mod topology;

use self::topology::CpuMap;
use super::table::Style;
use crate::host::capabilities::{Answer, Capabilities};
use crate::host::cgroup::CgroupVersion;
use crate::host::cpus::Cpus;
use crate::host::limits::Limits;
use crate::host::ram::Ram;
use crate::host::software::{self, Program};
use crate::host::topology::Topology;
use crate::host::{Flavour, OpenError, PAGE_TABLE_CMDLINE, Root, flavour, kvm};
use crate::placement;
use crate::sandbox;
use anyhow::Context;
use clap::Args;
use kvm_ioctls::Kvm;
use serde::Serialize;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Version of the JSON report's schema; fields may be added under the same number, none is taken away or changed.
const SCHEMA: u32 = 1;

/// Exit status when `ringfence run` can't work here.
const CANNOT_RUN: i32 = 1;

/// Show what this host and its KVM can do
///
/// Tells the flavour of KVM, its capabilities and what each is for, permissions, CPUs, memory, huge pages, NUMA, cgroup
/// version, container runtimes and other monitors. Each problem comes with its remedy.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit status: 0 `ringfence run` can work here, 1 it can't, 125 check itself failed or the arguments are wrong."
)]
pub struct CheckArgs {
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,

    /// Propose host CPUs for a guest of so many vCPUs, for `run --cpuset-cpus`
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=8192))]
    cpus: u32,

    /// KVM's device file
    #[arg(long, value_name = "FILE", default_value = kvm::DEVICE)]
    device: PathBuf,

    /// Look up the host's files below this folder, for tests and for another machine's saved files
    #[arg(long, value_name = "DIR", hide = true, default_value = "/")]
    root: PathBuf,
}

/// How bad a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Severity {
    /// `ringfence run` can't work.
    Error,
    /// It works, with less than the user may expect.
    Warning,
}

/// Something that is wrong, and what the user can do.
#[derive(Clone, Debug, Serialize)]
struct Problem {
    severity: Severity,
    what: String,
    remedy: String,
}

/// What was found out about KVM.
#[derive(Clone, Debug, Serialize)]
struct KvmReport {
    device: PathBuf,
    flavour: Flavour,
    module: Option<&'static str>,
    /// Whether `device` could be opened and answered as KVM does.
    usable: bool,
    api_version: Option<i32>,
    /// Whether the vendor's module lets guests run guests (its parameter `nested`).
    nested: Option<bool>,
    /// How long it took to make and destroy a VM with one vCPU, in milliseconds.
    machine_ms: Option<f64>,
    /// What the monitor adds to a kernel's command line on this flavour.
    cmdline_added: Option<&'static str>,
    #[serde(flatten)]
    capabilities: Option<Capabilities>,
}

/// Everything `check` tells.
#[derive(Clone, Debug, Serialize)]
struct Report {
    schema: u32,
    ringfence: &'static str,
    linux: Option<String>,
    can_run: bool,
    problems: Vec<Problem>,
    kvm: KvmReport,
    cpus: Cpus,
    cpu_map: CpuMap,
    memory: Ram,
    cgroup: CgroupVersion,
    limits: Limits,
    /// Version of landlock in the running kernel; none without it.
    landlock_abi: Option<u32>,
    software: Vec<Program>,
}

/// Runs `ringfence check`: 0 when `ringfence run` can work here, 1 when it can't.
///
/// # Errors
/// When the report can't be written; a host without KVM is no error but a result.
pub fn run(args: &CheckArgs) -> anyhow::Result<i32> {
    let report = Report::of(args);
    let mut output = if args.json {
        serde_json::to_string_pretty(&report).context("cannot put the report into JSON")?
    } else {
        text::render(&report, Style::of_stdout())
    };
    if !output.ends_with('\n') {
        output.push('\n');
    }
    super::print(output)?;
    Ok(if report.can_run { 0 } else { CANNOT_RUN })
}

impl Report {
    fn of(args: &CheckArgs) -> Self {
        let root = Root::new(&args.root);
        let mut problems = Vec::new();
        let kvm = KvmReport::of(args, &root, &mut problems);
        let (cpus, memory) = (Cpus::of(&root), Ram::of(&root));
        host_problems(&cpus, &memory, &mut problems);
        // The locks are this host's, whatever other host's files are looked at.
        let taken = if args.root == Path::new("/") { placement::holders() } else { Vec::new() };
        let cpu_map = CpuMap::new(Topology::of(&root), &cpus, taken, args.cpus);
        Self {
            schema: SCHEMA,
            ringfence: env!("CARGO_PKG_VERSION"),
            linux: root.read("/proc/sys/kernel/osrelease"),
            can_run: can_run(&problems),
            problems,
            kvm,
            cpus,
            cpu_map,
            memory,
            cgroup: CgroupVersion::of(&root),
            limits: Limits::of(&root),
            // The kernel is asked, which can only be this host's.
            landlock_abi: if args.root == Path::new("/") { sandbox::landlock_abi() } else { None },
            software: software::find(&root, std::env::var_os("PATH").as_deref()),
        }
    }
}

impl KvmReport {
    fn of(args: &CheckArgs, root: &Root, problems: &mut Vec<Problem>) -> Self {
        let flavour = flavour::flavour_in(root);
        let device = std::path::absolute(&args.device).unwrap_or_else(|_| args.device.clone());
        let mut report = Self {
            device: device.clone(),
            flavour,
            module: flavour.module(),
            usable: false,
            api_version: None,
            nested: flavour.module().and_then(|module| nested(root, module)),
            machine_ms: None,
            cmdline_added: flavour.emulates_ring_0().then_some(PAGE_TABLE_CMDLINE),
            capabilities: None,
        };
        match kvm::open_at(&device, root) {
            Ok(kvm) => report.ask(&kvm, problems),
            Err(error) => problems.push(open_problem(&error)),
        }
        report
    }

    /// Asks an open KVM for its capabilities, and for a machine.
    fn ask(&mut self, kvm: &Kvm, problems: &mut Vec<Problem>) {
        self.usable = true;
        self.api_version = Some(kvm::API_VERSION);
        let capabilities = Capabilities::of(kvm);
        problems.extend(capabilities.missing().map(missing_problem));
        self.capabilities = Some(capabilities);
        let start = Instant::now();
        match kvm::try_machine(kvm) {
            Ok(()) => self.machine_ms = Some((start.elapsed().as_secs_f64() * 1e5).round() / 1e2),
            Err(error) => problems.push(machine_problem(&error)),
        }
    }
}

fn can_run(problems: &[Problem]) -> bool {
    problems.iter().all(|problem| problem.severity != Severity::Error)
}

fn missing_problem(answer: &Answer) -> Problem {
    Problem {
        severity: Severity::Error,
        what: format!("this KVM lacks {}: {}", answer.name, answer.purpose),
        remedy: "Use a newer kernel on the host.".to_owned(),
    }
}

/// The module's parameter `nested`: `Y`/`N`, or `1`/`0` in older kernels.
fn nested(root: &Root, module: &str) -> Option<bool> {
    match root.read(format!("/sys/module/{module}/parameters/nested"))?.as_str() {
        "Y" | "1" => Some(true),
        "N" | "0" => Some(false),
        _ => None,
    }
}

fn open_problem(error: &OpenError) -> Problem {
    let (what, remedy) = error.parts();
    Problem { severity: Severity::Error, what, remedy }
}

fn machine_problem(error: &io::Error) -> Problem {
    let remedy = match error.raw_os_error() {
        Some(libc::EBUSY) => {
            "Stop the other hypervisor that holds the CPU's virtualization (VirtualBox, VMware), and try again."
        }
        Some(libc::ENOMEM) => "Free some memory on the host, and try again.",
        _ => "See the kernel's log (dmesg) for what KVM says.",
    };
    Problem {
        severity: Severity::Error,
        what: format!("KVM answers but makes no machine: {error}"),
        remedy: remedy.to_owned(),
    }
}

/// What is not wrong with KVM but with the rest of the host.
fn host_problems(cpus: &Cpus, memory: &Ram, problems: &mut Vec<Problem>) {
    /// RAM of a guest when `--memory` is not given, in bytes.
    const DEFAULT_GUEST: u64 = 256 << 20;
    if memory.total_bytes > 0 && memory.available_bytes < DEFAULT_GUEST {
        problems.push(Problem {
            severity: Severity::Warning,
            what: format!(
                "only {} of memory can be had, a guest gets 256 MiB if not told otherwise",
                text::bytes(memory.available_bytes)
            ),
            remedy: "Free some, or give `ringfence run --memory` a smaller size.".to_owned(),
        });
    }
    if !cpus.allowed.is_empty() && cpus.allowed.len() < cpus.online.len() {
        problems.push(Problem {
            severity: Severity::Warning,
            what: format!("this process may run on CPUs {} only, of {} online", cpus.allowed, cpus.online),
            remedy: "More vCPUs than that share CPUs; widen the process's affinity or cpuset to change it.".to_owned(),
        });
    }
}

#[cfg(test)]
mod tests;
