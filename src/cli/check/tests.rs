use super::*;
use crate::host::limits::Limit;
use crate::host::ram::{HugePagePool, NumaNode};
use crate::host::software::Kind;
use crate::units::CpuList;

/// A report on a host that is made up whole, so that the pictures of it are the same everywhere.
fn report(flavour: Flavour, ask: impl Fn(u32) -> i32) -> Report {
    let list = |text| CpuList::parse(text).unwrap();
    let pool = |total, free| HugePagePool { page_bytes: 2 << 20, total, free, reserved: Some(0) };
    let node = |id, cpus| NumaNode {
        id,
        cpus: list(cpus),
        total_bytes: 8 << 30,
        free_bytes: (3 << 30) + (1 << 29),
        huge_pages: vec![pool(256, 128)],
    };
    let cpus = Cpus {
        model: Some("Example CPU\u{1b}[31m @ 3 GHz".to_owned()),
        online: list("0-7"),
        sockets: 2,
        cores: 4,
        smt: true,
        isolated: list("6-7"),
        nohz_full: list("6-7"),
        allowed: list("0-7"),
    };
    Report {
        schema: SCHEMA,
        ringfence: "0.0.0",
        linux: Some("6.12.0-example".to_owned()),
        can_run: true,
        problems: Vec::new(),
        kvm: KvmReport {
            device: kvm::DEVICE.into(),
            flavour,
            module: flavour.module(),
            usable: true,
            api_version: Some(kvm::API_VERSION),
            nested: (!flavour.emulates_ring_0()).then_some(true),
            machine_ms: Some(2.25),
            cmdline_added: flavour.emulates_ring_0().then_some(PAGE_TABLE_CMDLINE),
            capabilities: Some(Capabilities::from_answers(ask)),
        },
        cpu_map: topology::tests::example(&cpus),
        cpus,
        memory: Ram {
            total_bytes: 16 << 30,
            available_bytes: 7 << 30,
            huge_pages: vec![pool(512, 256)],
            transparent_huge_pages: Some("madvise".to_owned()),
            nodes: vec![node(0, "0-3"), node(1, "4-7")],
        },
        cgroup: CgroupVersion::V2,
        landlock_abi: Some(6),
        limits: Limits {
            memlock_bytes: Some(Limit { soft: Some(8 << 20), hard: None }),
            open_files: Some(Limit { soft: Some(1024), hard: Some(1024) }),
        },
        software: vec![Program {
            name: "crun",
            kind: Kind::ContainerRuntime,
            path: "/usr/bin/crun".into(),
            version: Some("1.14".to_owned()),
        }],
    }
}

fn picture(name: &str, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("../../../tests/snapshots");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, text));
}

const WIDE_80: Style = Style { width: 80, colour: false };

/// Proves what a person reads on each flavour of KVM, and that it fits 80 columns.
#[test]
fn the_table_on_each_flavour() {
    for (name, flavour) in [("check_vmx", Flavour::Vmx), ("check_page_table", Flavour::PageTable)] {
        let text = text::render(&report(flavour, |_| 6), WIDE_80);
        picture(name, &text);
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{line}");
            assert!(!line.contains(char::is_control), "{line:?}");
        }
    }
}

/// Proves that a KVM that lacks something required is refused with a remedy, in the table and in the exit status.
#[test]
fn a_lacking_kvm_is_a_problem_with_a_remedy() {
    let mut report = report(Flavour::Svm, |number| i32::from(number != kvm_bindings::KVM_CAP_IRQCHIP));
    let missing: Vec<_> = report.kvm.capabilities.as_ref().unwrap().missing().map(missing_problem).collect();
    assert_eq!(missing.len(), 1);
    report.problems = missing;
    report.can_run = can_run(&report.problems);
    assert!(!report.can_run);
    picture("check_lacking", &text::render(&report, WIDE_80));
}

/// Proves that the fields of the JSON report are those documented, so that scripts can depend on them.
#[test]
fn the_json_schema_is_stable() {
    let mut value = serde_json::to_value(report(Flavour::PageTable, |_| 1)).unwrap();
    // One capability tells the shape of all.
    value["kvm"]["capabilities"].as_array_mut().unwrap().truncate(1);
    picture("check_json", &serde_json::to_string_pretty(&value).unwrap());
}

/// Proves that wide and narrow terminals are made use of, and that only a coloured style has escape sequences.
#[test]
fn the_table_suits_the_terminal() {
    let report = report(Flavour::PageTable, |_| 1);
    for width in [70, 80, 100, 120] {
        let plain = text::render(&report, Style { width, colour: false });
        assert!(plain.lines().all(|line| line.chars().count() <= width), "{width}:\n{plain}");
        let coloured = text::render(&report, Style { width, colour: true });
        assert!(coloured.contains("\x1b[32mok"));
        assert!(!coloured.contains("Example CPU\x1b"), "what the host says must not reach the terminal as is");
    }
}

/// Proves that warnings name the CPUs and the memory they are about, and don't make the host unusable.
#[test]
fn a_small_host_is_warned_about() {
    let mut report = report(Flavour::Vmx, |_| 1);
    report.cpus.allowed = CpuList::parse("2").unwrap();
    report.memory.available_bytes = 100 << 20;
    host_problems(&report.cpus, &report.memory, &mut report.problems);
    let whats: Vec<_> = report.problems.iter().map(|problem| problem.what.as_str()).collect();
    assert!(whats[0].contains("100 MiB") && whats[1].contains("CPUs 2 only"), "{whats:?}");
    assert!(can_run(&report.problems));
}

/// Proves that KVM refusing to make a machine is told with a remedy of its own.
#[test]
fn a_busy_kvm_names_the_other_hypervisor() {
    let problem = machine_problem(&io::Error::from_raw_os_error(libc::EBUSY));
    assert_eq!(problem.severity, Severity::Error);
    assert!(problem.remedy.contains("VirtualBox"));
}
