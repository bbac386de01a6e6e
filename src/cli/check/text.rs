//! The report as a table for a person.

use super::{KvmReport, Report, Severity};
use crate::cli::table::{Mark, Section, Style, wrap};
use crate::host::capabilities::{Answer, Need};
use crate::host::limits::Limit;
use crate::host::ram::{HugePagePool, Ram};
use crate::host::software::{Kind, Program};
use crate::host::{Flavour, PAGE_TABLE_CMDLINE};
use crate::units::{ByteSize, CpuList};

/// The whole report, at most `style.width` columns wide.
pub(super) fn render(report: &Report, style: Style) -> String {
    let linux = report.linux.as_deref().unwrap_or("(unknown version)");
    let mut out = format!("ringfence {} on Linux {linux}\n\n", report.ringfence);
    let mut sections = vec![kvm(&report.kvm)];
    if let Some(capabilities) = &report.kvm.capabilities {
        sections.push(capability_section(&capabilities.answers));
    }
    sections.push(host(report));
    sections.push(report.cpu_map.section());
    sections.push(programs("Container runtimes", Kind::ContainerRuntime, &report.software));
    sections.push(programs("Other monitors", Kind::Monitor, &report.software));
    if !report.problems.is_empty() {
        sections.push(problems(report));
    }
    for section in &sections {
        out.push_str(&section.render(style));
        out.push('\n');
    }
    for line in wrap(verdict(report), style.width) {
        out.push_str(&line);
        out.push('\n');
    }
    out
}

/// One sentence: can `run` work?
fn verdict(report: &Report) -> &'static str {
    match (report.can_run, report.kvm.flavour) {
        (false, _) => "`ringfence run` can't work here: see the problems above.",
        (true, Flavour::PageTable) => {
            "`ringfence run` can work here, with kernels that have ringfence's patches (`ringfence kernel build`)."
        }
        (true, _) => "`ringfence run` can work here.",
    }
}

fn kvm(kvm: &KvmReport) -> Section {
    let mut section = Section::new("KVM");
    match kvm.api_version {
        Some(version) => section.row(Mark::Ok, "device", format!("{}, API version {version}", kvm.device.display())),
        None => section.row(Mark::Error, "device", format!("{}: not usable, see the problems", kvm.device.display())),
    };
    let mark = if kvm.flavour == Flavour::Unknown { Mark::Absent } else { Mark::Ok };
    let module = kvm.module.map_or("no vendor module of KVM is loaded".to_owned(), |module| format!("module {module}"));
    section.row(mark, "flavour", format!("{}, {module}", kvm.flavour));
    section.row(Mark::None, "guest kernels", kernels(kvm.flavour));
    if kvm.cmdline_added.is_some() {
        section.row(Mark::None, "applied by itself", applied());
    }
    if kvm.usable {
        match kvm.machine_ms {
            Some(ms) => section.row(Mark::Ok, "machine", format!("VM with one vCPU made and destroyed in {ms} ms")),
            None => section.row(Mark::Error, "machine", "none can be made, see the problems"),
        };
    }
    if let Some(capabilities) = &kvm.capabilities {
        let (most, recommended) = (capabilities.max_vcpus, capabilities.recommended_vcpus);
        section.row(Mark::None, "vCPUs", format!("at most {most} a guest, {recommended} recommended"));
    }
    match kvm.nested {
        Some(true) => section.row(Mark::None, "nested", "on: guests may run guests"),
        Some(false) => section.row(Mark::None, "nested", "off"),
        None => &mut section,
    };
    section
}

/// What a flavour means for the choice of a kernel.
fn kernels(flavour: Flavour) -> &'static str {
    match flavour {
        Flavour::Vmx | Flavour::Svm => "any x86_64 Linux, unmodified; it runs natively",
        Flavour::PageTable => {
            "this host has no virtualization hardware. Programs in the guest run natively, its kernel is emulated \
             instruction by instruction (some 2 million a second), and the emulator lacks a few instructions. \
             So: kernels with ringfence's patches here (`ringfence kernel build`), any kernel on VMX and SVM hosts"
        }
        Flavour::Unknown => "not known before KVM is",
    }
}

/// What the monitor does by itself on a page-table based KVM.
fn applied() -> String {
    format!("CPUID: CX16 cleared, XSAVEERPTR kept; kernel command line: {PAGE_TABLE_CMDLINE}")
}

fn capability_section(answers: &[Answer]) -> Section {
    let mut section = Section::new("KVM's capabilities (KVM_CAP_...)");
    for answer in answers {
        let name = answer.name.strip_prefix("KVM_CAP_").unwrap_or(answer.name);
        let mark = match (answer.is_there(), answer.need) {
            (true, _) => Mark::Ok,
            (false, Need::Required) => Mark::Error,
            (false, Need::Useful) => Mark::Absent,
        };
        let text = match answer.reading.as_str() {
            "yes" | "no" => answer.purpose.to_owned(),
            reading => format!("{} ({reading})", answer.purpose),
        };
        section.row(mark, name, text);
    }
    section
}

fn host(report: &Report) -> Section {
    let mut section = Section::new("Host");
    let cpus = &report.cpus;
    if let Some(model) = &cpus.model {
        section.row(Mark::None, "CPU", model);
    }
    let smt = if cpus.smt { "SMT on" } else { "no SMT" };
    let (sockets, cores) = (count(cpus.sockets, "socket"), count(cpus.cores, "core"));
    let online = format!("{} online ({}): {sockets}, {cores}, {smt}", cpus.online.len(), cpus.online);
    section.row(Mark::None, "CPUs", if cpus.online.is_empty() { "not told".to_owned() } else { online });
    section.row(Mark::None, "isolated CPUs", list(&cpus.isolated));
    section.row(Mark::None, "tickless CPUs", list(&cpus.nohz_full));
    memory(&mut section, &report.memory);
    section.row(Mark::None, "cgroups", report.cgroup.to_string());
    let limits = &report.limits;
    section.row(Mark::None, "locked memory", limit(limits.memlock_bytes, bytes));
    match report.landlock_abi {
        Some(abi) => {
            section.row(Mark::Ok, "landlock", format!("version {abi}: no path is open to a guest that breaks out"))
        }
        None => section.row(Mark::Absent, "landlock", "not found in the kernel: the sandbox does without"),
    };
    section.row(Mark::None, "open files", limit(limits.open_files, |n| n.to_string()));
    section
}

fn memory(section: &mut Section, ram: &Ram) {
    let amount = format!("{}, {} available", bytes(ram.total_bytes), bytes(ram.available_bytes));
    section.row(Mark::None, "memory", amount);
    let pools = if ram.huge_pages.is_empty() {
        "none: this kernel has no pools".to_owned()
    } else {
        ram.huge_pages.iter().map(pool).collect::<Vec<_>>().join("; ")
    };
    section.row(Mark::None, "huge pages", pools);
    section.row(Mark::None, "transparent", ram.transparent_huge_pages.as_deref().unwrap_or("not in this kernel"));
    if ram.nodes.len() <= 1 {
        section.row(Mark::None, "NUMA", "one node");
    }
    for node in ram.nodes.iter().filter(|_| ram.nodes.len() > 1) {
        let pools: Vec<_> = node.huge_pages.iter().filter(|p| p.total > 0).map(pool).collect();
        let pools = if pools.is_empty() { String::new() } else { format!("; huge pages: {}", pools.join("; ")) };
        let amount = format!("{}, {} free", bytes(node.total_bytes), bytes(node.free_bytes));
        section.row(
            Mark::None,
            format!("NUMA node {}", node.id),
            format!("CPUs {}; {amount}{pools}", list(&node.cpus)),
        );
    }
}

fn pool(pool: &HugePagePool) -> String {
    format!("{} pages: {} of {} free", bytes(pool.page_bytes), pool.free, pool.total)
}

fn programs(title: &'static str, kind: Kind, software: &[Program]) -> Section {
    let mut section = Section::new(title);
    for program in software.iter().filter(|program| program.kind == kind) {
        let version = program.version.as_deref().unwrap_or("version not told");
        section.row(Mark::None, program.name, format!("{version}, {}", program.path.display()));
    }
    if !software.iter().any(|program| program.kind == kind) {
        section.row(Mark::Absent, "none found", "");
    }
    section
}

fn problems(report: &Report) -> Section {
    let mut section = Section::new("Problems");
    for problem in &report.problems {
        let mark = match problem.severity {
            Severity::Error => Mark::Error,
            Severity::Warning => Mark::Warning,
        };
        section.row(mark, "what", &problem.what).row(Mark::None, "remedy", &problem.remedy);
    }
    section
}

fn count(n: usize, noun: &str) -> String {
    if n == 1 { format!("{n} {noun}") } else { format!("{n} {noun}s") }
}

fn list(list: &CpuList) -> String {
    if list.is_empty() { "none".to_owned() } else { list.to_string() }
}

fn limit(limit: Option<Limit>, show: impl Fn(u64) -> String) -> String {
    let show = |value: Option<u64>| value.map_or("no limit".to_owned(), &show);
    match limit {
        None => "not told".to_owned(),
        Some(Limit { soft, hard }) if soft == hard => show(soft),
        Some(Limit { soft, hard }) => format!("{}, can be raised to {}", show(soft), show(hard)),
    }
}

/// A size in the largest unit that leaves a number of at least 1, with one digit after the point where it is not whole.
pub(super) fn bytes(n: u64) -> String {
    ByteSize::bytes(n).rounded()
}
