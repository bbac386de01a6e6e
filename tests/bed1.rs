//! Linux end to end on this host's own KVM, whatever its flavour: the real binary, the default guest, as a user has them.
//!
//! A boot takes 5 to 20 seconds where ring 0 is emulated, and more on a busy machine: there is one boot a test, two at a time,
//! and many things are looked at in each. What a terminal adds is in tests/terminal.

#[path = "bed1/linux.rs"]
mod linux;
#[path = "bed1/watched.rs"]
mod watched;

#[path = "guests/mod.rs"]
#[allow(dead_code, reason = "small guests are not what is run here")]
mod guests;

use linux::{Done, Linux, kernel};
use watched::Watched;

/// Bytes of RAM that Linux never uses as such: the legacy hole from 640 KiB to 1 MiB, and the first page.
const LEGACY_HOLE: u64 = 384 << 10;
const FIRST_PAGE: u64 = 4 << 10;

/// Every byte value in every neighbourhood that a line discipline looks at: each alone, each after CR, and a run of the ones
/// that stop, interrupt and end.
fn awkward_bytes() -> Vec<u8> {
    let all = 0..=255u8;
    let after_returns = all.clone().flat_map(|byte| [b'\r', byte]);
    all.clone().chain(after_returns).chain(b"\x13\x11\x03\x04\x1a\x1c\x1d\x7f\0\xff\xff\0\n\r\n".repeat(20)).collect()
}

/// Proves that a command gets its exact arguments, that standard input reaches it and its output comes back byte for byte
/// (any byte, and then the end of input), that its status is the process's, that ringfence adds no word of its own, and that
/// the report tells when userspace and payload were reached and counts the exits.
#[test]
fn a_command_is_run_as_if_it_were_here() {
    let Some(kernel) = kernel() else { return };
    let odd: [&str; 10] = [
        "",
        "two  spaces",
        "it's",
        "a \"word\"",
        "$HOME `id` \\ * ~",
        "two\nlines\n",
        "\t",
        "über 🦀",
        "--help",
        "-- ;&|<>",
    ];
    let bytes = awkward_bytes();
    let name = format!("odd-guest-{}", std::process::id());
    let report = tempfile::NamedTempFile::new().expect("a temporary file");
    let path = report.path().to_str().expect("a temporary file's name is text");
    let script = r#"printf '%s\0' "$#" "$0" "$(hostname)" "$@"; cat; exit 37"#;
    let done = Linux::new(&kernel)
        .options(&["--name", &name, "--report", path])
        .input(&bytes)
        .command(&[&["sh", "-c", script, "ar gv"], &odd[..]].concat())
        .run();
    let mut expected: Vec<u8> =
        ["10", "ar gv", &name].iter().chain(&odd).flat_map(|w| [w.as_bytes(), b"\0"].concat()).collect();
    expected.extend_from_slice(&bytes);
    assert_eq!(done.stdout.escape_ascii().to_string(), expected.escape_ascii().to_string(), "{done}");
    assert_eq!(done.status, Some(37), "{done}");
    assert_eq!(done.stderr, "", "{done}");
    check_report(&std::fs::read_to_string(path).expect("the report is there"));
}

/// The report of a Linux guest: every phase once and in order, exits of the kinds that such a guest has.
fn check_report(json: &str) {
    let report: serde_json::Value = serde_json::from_str(json).expect("the report is JSON");
    let phases = report["phases"].as_array().expect("phases are a list");
    let (names, times): (Vec<_>, Vec<_>) =
        phases.iter().map(|p| (p[0].as_str().unwrap_or_default(), p[1].as_u64().unwrap_or_default())).unzip();
    let order = ["start", "configured", "first_run", "userspace", "payload", "ended", "done"];
    let places: Vec<_> = order.iter().map(|name| names.iter().position(|n| n == name)).collect();
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "a phase is missing or out of order: {json}");
    assert!(times.is_sorted() && names.len() == 10, "{json}");
    for exits in ["port_in", "port_out"] {
        assert!(report["exits"][exits].as_u64() > Some(0), "no {exits}: {json}");
    }
    assert!(report["kvm_setup_ns"].as_u64() > Some(0), "{json}");
}

/// Proves that a command that is not there ends with 127 and is named. Its relatives, 126 and 128 + n, need no machine:
/// tests/init_program.rs has them.
#[test]
fn a_command_that_is_not_there() {
    let Some(kernel) = kernel() else { return };
    let done = Linux::new(&kernel).command(&["no-such-command", "argument"]).run();
    assert_eq!(done.status, Some(127), "{done}");
    assert!(done.text().contains("ringfence: no-such-command: not found"), "{done}");
}

/// What the guest of `the_guest_sees_its_machine` tells, each under its own heading, before it powers off.
const TELL: &str = r#"
tell() { echo "== $1"; shift; "$@"; }
tell nproc nproc
for file in cpuinfo meminfo iomem interrupts; do tell $file cat /proc/$file; done
tell clock cat /sys/devices/system/clocksource/clocksource0/current_clocksource
tell dmesg dmesg
echo "== end"
poweroff
sleep 1000
"#;

/// Proves that the guest has exactly the vCPUs and the RAM that were asked for, every byte of which is accounted for as
/// docs/memory-map.md says; that its serial port's interrupt comes by the I/O APIC and its clock is the TSC or KVM's; that
/// the kernel found nothing wrong; and that a guest that goes down under a command is a failure.
#[test]
fn the_guest_sees_its_machine() {
    let Some(kernel) = kernel() else { return };
    let done = Linux::new(&kernel).options(&["--cpus", "2", "--memory", "300M"]).command(&["sh", "-c", TELL]).run();
    let told = |heading: &str| {
        let text = done.text().split_once(&format!("== {heading}\n")).map(|(_, rest)| rest.to_owned());
        let text = text.unwrap_or_else(|| panic!("nothing about {heading}: {done}"));
        text.split_once("== ").map_or(text.clone(), |(part, _)| part.to_owned())
    };
    assert_eq!(told("nproc"), "2\n");
    check_cpus(&told("cpuinfo"));
    check_ram(300 << 20, &told("meminfo"), &told("iomem"), &told("dmesg"));
    let interrupts = told("interrupts");
    let serial = interrupts.lines().find(|line| line.contains("ttyS0")).unwrap_or_default();
    let words: Vec<&str> = serial.split_whitespace().collect();
    assert!(words.contains(&"IO-APIC") && words.contains(&"4-edge"), "{interrupts}");
    let taken: u64 = words[1..=2].iter().map(|count| count.parse::<u64>().expect("a count")).sum();
    assert!(taken > 0, "{interrupts}");
    assert!(["tsc\n", "kvm-clock\n"].contains(&told("clock").as_str()), "{}", told("clock"));
    for wrong in ["WARNING", "BUG:", "Call Trace", "Oops"] {
        assert!(!told("dmesg").contains(wrong), "{wrong}: {done}");
    }
    assert_eq!(done.status, Some(125), "{done}");
    assert!(done.stderr.contains("the guest went down before the command had ended"), "{done}");
}

/// Two processors in one package, of two cores, with the APIC ids 0 and 1.
fn check_cpus(cpuinfo: &str) {
    let column = |name: &str| -> Vec<String> {
        let values = cpuinfo.lines().filter_map(|line| line.split_once(':'));
        values.filter(|(key, _)| key.trim() == name).map(|(_, value)| value.trim().to_owned()).collect()
    };
    for (name, expected) in [
        ("processor", ["0", "1"]),
        ("physical id", ["0", "0"]),
        ("siblings", ["2", "2"]),
        ("core id", ["0", "1"]),
        ("cpu cores", ["2", "2"]),
        ("apicid", ["0", "1"]),
        ("initial apicid", ["0", "1"]),
    ] {
        assert_eq!(column(name), expected, "{name}: {cpuinfo}");
    }
}

/// Every byte of `ram` is accounted for: in the map of physical memory, when the kernel first counts, and in MemTotal.
fn check_ram(ram: u64, meminfo: &str, iomem: &str, dmesg: &str) {
    let mut end = 0;
    let mut usable = 0;
    for line in iomem.lines().filter(|line| !line.starts_with(' ')) {
        let (range, what) = line.split_once(" : ").unwrap_or_else(|| panic!("{line:?}: {iomem}"));
        let (first, last) = range.split_once('-').unwrap_or_else(|| panic!("{line:?}: {iomem}"));
        let [first, last] = [first, last].map(|n| u64::from_str_radix(n, 16).expect("an address"));
        if first < ram {
            assert_eq!(first, end, "a gap in RAM before {line:?}: {iomem}");
            end = last + 1;
            usable += if what == "System RAM" { end - first } else { 0 };
        } else {
            assert_ne!(what, "System RAM", "RAM beyond the RAM: {iomem}");
        }
    }
    assert_eq!(end, ram, "RAM ends elsewhere: {iomem}");
    assert_eq!(usable, ram - LEGACY_HOLE - FIRST_PAGE, "{iomem}");

    let counted = dmesg.lines().find(|line| line.contains("] Memory: ")).unwrap_or_else(|| panic!("{dmesg}"));
    let kib_before = |text: &str, what: &str| -> u64 {
        let number = text.split(what).next().and_then(|t| t.rsplit([' ', '/', ',']).next()).unwrap_or_default();
        number.parse::<u64>().unwrap_or_else(|_| panic!("no number before {what:?}: {text}")) << 10
    };
    let offered = kib_before(counted, "K available");
    assert_eq!(offered, usable, "{counted}");
    let reserved = kib_before(counted, "K reserved");
    // Of the initrd most pages become files' pages, which is not told, and the others are freed.
    let (initrd, others): (Vec<_>, Vec<_>) =
        dmesg.lines().filter(|line| line.contains("] Freeing ")).partition(|line| line.contains(" initrd memory: "));
    let sum = |lines: &[&str]| -> u64 {
        lines.iter().filter_map(|line| line.split_once(" memory: ")).map(|(_, size)| kib_before(size, "K")).sum()
    };
    let range = dmesg.split_once("] RAMDISK: [mem 0x").and_then(|(_, rest)| rest.split_once(']')).expect("an initrd").0;
    let (first, last) = range.split_once("-0x").unwrap_or_else(|| panic!("{range:?}"));
    let [first, last] = [first, last].map(|n| u64::from_str_radix(n, 16).expect("an address"));
    let freed = sum(&others) + (last + 1 - first);
    assert!(sum(&initrd) < 256 << 10, "pages of the initrd were copied rather than taken: {dmesg}");
    let total = meminfo.lines().find(|line| line.starts_with("MemTotal:")).unwrap_or_else(|| panic!("{meminfo}"));
    let total = kib_before(total, " kB");
    assert_eq!(total + reserved - freed + FIRST_PAGE + LEGACY_HOLE, ram, "{total} {counted} {freed}: {dmesg}");
}

/// Proves, of the process beside an idle shell whose input is a pipe: what it keeps resident beside guest RAM, its threads
/// and its file descriptors; and that the shell's `poweroff` is a success.
///
/// The promise of 2 MiB is the release binary's, whose code is a third of the other's. So that one is run where it has been
/// built; where not, the memory that the process has for itself alone is held to what it takes in either.
#[test]
fn the_process_beside_a_shell_is_small() {
    let Some(kernel) = kernel() else { return };
    let release = linux::release_binary();
    let mut shell = Linux::of(&kernel, release.as_deref()).options(&["--memory", "200M"]).start();
    shell.say("echo re''ady\n");
    shell.expect("ready\n");
    let watched = Watched::of(shell.pid(), 200 << 20);
    assert_eq!(watched.threads, ["console", "ringfence", "vcpu0"], "{watched}");
    assert!(watched.descriptors.len() <= 16, "{watched}");
    for once in ["anon_inode:kvm-vm", "anon_inode:kvm-vcpu:0", "/dev/kvm"] {
        assert!(watched.descriptors.iter().filter(|name| *name == once).count() <= 1, "{once} twice: {watched}");
    }
    assert!(watched.guest_resident > 2 << 20, "this is not the guest's RAM: {watched}");
    assert!(watched.private_resident() <= 640 << 10, "{watched}");
    match release {
        Some(_) => assert!(watched.own_resident() <= 2 << 20, "{watched}"),
        None => println!("not compared with 2 MiB: no release binary (cargo build --release): {watched}"),
    }
    shell.say("poweroff\nsleep 1000\n");
    let done: Done = shell.finish();
    assert_eq!(done.status, Some(0), "{done}");
    assert_eq!(done.stderr, "", "{done}");
}

/// Proves that a kernel that panics ends the process, as a failure of the command that it should have run, and that the
/// last words are the kernel's.
#[test]
fn a_panic_ends_the_machine() {
    let Some(kernel) = kernel() else { return };
    let done = Linux::new(&kernel).cmdline("rdinit=/nothing").command(&["true"]).run();
    assert!(done.text().contains("Kernel panic - not syncing"), "{done}");
    assert_eq!(done.status, Some(125), "{done}");
    assert!(done.stderr.contains("the guest went down before the command had ended"), "{done}");
}
