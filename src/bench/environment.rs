//! The machine that is measured on, and what makes its figures doubtful.

use std::hint::black_box;

use serde::Serialize;

use super::clock::Instant;
use super::statistics::Sample;
use crate::host::cgroup::CgroupVersion;
use crate::host::cpus::Cpus;
use crate::host::ram::{self, Ram};
use crate::host::{Flavour, Root, flavour};

/// Turns of one spin of the noise probe: about 100 microseconds.
const SPIN_TURNS: u64 = 60_000;
/// Spins of a probe: about a tenth of a second.
const SPINS: usize = 1000;
/// A quiet machine's 99th percentile of spins is at most this many times the median.
const NOISY: f64 = 1.2;
/// A steady machine's median spin before and after differ by at most this factor.
const DRIFT: f64 = 1.05;
/// Load averages count tasks that want a CPU: more than this share of the CPUs taken is not idle.
const BUSY: f64 = 0.3;

/// Something about the machine that the reader of its figures must know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Warning {
    /// What was seen, and what it means for the figures.
    pub what: String,
    /// What the user can do.
    pub advice: String,
}

impl Warning {
    /// A warning.
    pub fn new(what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { what: what.into(), advice: advice.into() }
    }
}

/// Times of one fixed spin, over and over: what the machine did meanwhile shows in their spread.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Noise {
    /// Median of a spin, in microseconds.
    pub p50_us: f64,
    /// 99 in 100 take at most this, in microseconds.
    pub p99_us: f64,
    /// The longest, in microseconds.
    pub max_us: f64,
}

impl Noise {
    /// Spins for about a tenth of a second.
    pub fn probe() -> Self {
        let mut times = Sample::default();
        for _ in 0..SPINS {
            let start = Instant::now();
            black_box(spin());
            times.push(start.elapsed().as_secs_f64() * 1e6);
        }
        Self { p50_us: times.median(), p99_us: times.quantile(0.99), max_us: times.quantile(1.0) }
    }

    /// How many times the median the 99th percentile is.
    pub fn spread(self) -> f64 {
        self.p99_us / self.p50_us
    }
}

/// A chain of operations, each of which waits for the one before: its time depends on the CPU's clock alone.
fn spin() -> u64 {
    let mut x = black_box(0x9e37_79b9_7f4a_7c15u64);
    for turn in 0..SPIN_TURNS {
        x = (x ^ turn).rotate_left(7).wrapping_mul(0x2545_f491_4f6c_dd1d);
    }
    x
}

/// The machine measured on.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Environment {
    /// Version of ringfence.
    pub ringfence: &'static str,
    /// Release of the host's kernel.
    pub linux: Option<String>,
    /// Its build.
    pub linux_build: Option<String>,
    /// The CPUs.
    pub cpus: Cpus,
    /// Memory in bytes.
    pub memory_total_bytes: u64,
    /// What could be had of it when the run began, in bytes.
    pub memory_available_bytes: u64,
    /// Transparent huge pages: `always`, `madvise` or `never`.
    pub transparent_huge_pages: Option<String>,
    /// How the CPUs' frequency is governed (cpufreq); `None` where the host does not tell, as virtual machines don't.
    pub governor: Option<String>,
    /// Whether the CPU may exceed its base frequency; `None` where the host does not tell.
    pub turbo: Option<bool>,
    /// The kernel's clock source.
    pub clocksource: Option<String>,
    /// The flavour of KVM.
    pub kvm: Flavour,
    /// Whether this machine is itself a virtual one.
    pub virtual_machine: bool,
    /// Version of control groups.
    pub cgroup: CgroupVersion,
    /// Load average over a minute when the run began.
    pub load: Option<f64>,
    /// Whether the run was made as root.
    pub root: bool,
}

impl Environment {
    /// What the files below `root` say.
    pub fn of(root: &Root) -> Self {
        let (memory_total_bytes, memory_available_bytes) = ram::amounts(root);
        let cpuinfo = root.read("/proc/cpuinfo").unwrap_or_default();
        Self {
            ringfence: env!("CARGO_PKG_VERSION"),
            linux: root.read("/proc/sys/kernel/osrelease"),
            linux_build: root.read("/proc/sys/kernel/version"),
            cpus: Cpus::of(root),
            memory_total_bytes,
            memory_available_bytes,
            transparent_huge_pages: Ram::of(root).transparent_huge_pages,
            governor: root.read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            turbo: turbo(root),
            clocksource: root.read("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
            kvm: flavour::flavour_in(root),
            virtual_machine: cpuinfo
                .lines()
                .find(|line| line.starts_with("flags"))
                .is_some_and(|line| line.split_ascii_whitespace().any(|flag| flag == "hypervisor")),
            cgroup: CgroupVersion::of(root),
            load: root.read("/proc/loadavg").and_then(|text| text.split(' ').next()?.parse().ok()),
            root: rustix::process::geteuid().is_root(),
        }
    }

    /// One line for each thing worth knowing, name and value.
    pub fn rows(&self) -> Vec<(&'static str, String)> {
        let unknown = || "not told by this host".to_owned();
        let gib = |bytes: u64| format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30));
        let cpus = format!(
            "{} ({} may be used: {}), {} cores, SMT {}",
            self.cpus.online.len(),
            self.cpus.allowed.len(),
            self.cpus.allowed,
            self.cpus.cores,
            if self.cpus.smt { "on" } else { "off" }
        );
        let turbo = self.turbo.map_or_else(unknown, |on| if on { "on" } else { "off" }.to_owned());
        vec![
            ("ringfence", self.ringfence.to_owned()),
            ("Linux", format!("{} {}", text(&self.linux), text(&self.linux_build))),
            ("CPU", text(&self.cpus.model)),
            ("CPUs", cpus),
            ("governor", self.governor.clone().unwrap_or_else(unknown)),
            ("turbo", turbo),
            ("memory", format!("{}, {} available", gib(self.memory_total_bytes), gib(self.memory_available_bytes))),
            (
                "huge pages",
                self.transparent_huge_pages.clone().map_or_else(unknown, |thp| format!("transparent: {thp}")),
            ),
            ("KVM", self.kvm.to_string()),
            ("virtual machine", if self.virtual_machine { "yes, this host is one" } else { "no" }.to_owned()),
            ("clock source", text(&self.clocksource)),
            ("control groups", self.cgroup.to_string()),
            ("load", self.load.map_or_else(unknown, |load| format!("{load:.2} when the run began"))),
            ("root", if self.root { "yes" } else { "no" }.to_owned()),
        ]
    }

    /// What makes figures from this machine doubtful, with advice. `noise` are the probes made, in their order.
    pub fn warnings(&self, noise: &[Noise]) -> Vec<Warning> {
        let mut warnings = Vec::new();
        let mut warn = |what: String, advice: &str| warnings.push(Warning::new(what, advice));
        if let Some(governor) = self.governor.as_ref().filter(|governor| *governor != "performance") {
            warn(
                format!(
                    "the CPUs' frequency follows the load (governor {governor}), so that times depend on what ran before"
                ),
                "cpupower frequency-set --governor performance",
            );
        }
        if self.turbo == Some(true) {
            warn(
                "turbo is on: a CPU is faster while its neighbours idle".to_owned(),
                "Turn it off: echo 1 > /sys/devices/system/cpu/intel_pstate/no_turbo, or 0 > /sys/devices/system/cpu/cpufreq/boost.",
            );
        }
        if self.kvm.emulates_ring_0() {
            warn(
                "this KVM emulates a guest's kernel instruction by instruction: a guest's programs run at full speed, but its \
                 boot, its system calls and its timer interrupts take hundreds of times longer than under VMX or SVM"
                    .to_owned(),
                "Measure guests on a machine with VMX or SVM for figures of their kernel.",
            );
        } else if self.virtual_machine {
            warn(
                "this host is a virtual machine: its guests are nested, and its own CPUs are shared with machines it can't see"
                    .to_owned(),
                "Measure on bare metal for absolute figures.",
            );
        }
        let cpus = self.cpus.online.len().max(1) as f64;
        if let Some(load) = self.load.filter(|load| *load > BUSY * cpus) {
            warn(
                format!("the machine was not idle: load {load:.2} on {cpus} CPUs when the run began"),
                "End what else runs, and try again.",
            );
        }
        warnings.extend(noise_warnings(noise));
        warnings
    }
}

fn text(value: &Option<String>) -> String {
    value.clone().unwrap_or_else(|| "?".to_owned())
}

fn noise_warnings(noise: &[Noise]) -> Vec<Warning> {
    let mut warnings = Vec::new();
    if let Some(worst) = noise.iter().copied().max_by(|a, b| a.spread().total_cmp(&b.spread()))
        && worst.spread() > NOISY
    {
        warnings.push(Warning::new(
            format!(
                "the machine is noisy: a fixed spin of {:.0} us had a 99th percentile of {:.0} us ({:.1} times)",
                worst.p50_us,
                worst.p99_us,
                worst.spread()
            ),
            "End what else runs; if this is a virtual machine, its host may be busy: try again at another time.",
        ));
    }
    let medians = || noise.iter().map(|noise| noise.p50_us);
    let (slow, fast) = (medians().fold(0.0, f64::max), medians().fold(f64::INFINITY, f64::min));
    if slow > fast * DRIFT {
        warnings.push(Warning::new(
            format!("the machine's speed drifted: the same spin took {fast:.1} us and {slow:.1} us at different times"),
            "Fix the CPUs' frequency, or compare only what was measured in turns.",
        ));
    }
    warnings
}

/// Whether frequencies above the base may be used, by whichever driver tells.
fn turbo(root: &Root) -> Option<bool> {
    let off = root.read_number("/sys/devices/system/cpu/intel_pstate/no_turbo").map(|off| off == 0);
    off.or_else(|| root.read_number("/sys/devices/system/cpu/cpufreq/boost").map(|on| on == 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(files: &[(&str, &str)]) -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let root = Root::new(dir.path());
        (dir, root)
    }

    const QUIET: Noise = Noise { p50_us: 100.0, p99_us: 105.0, max_us: 300.0 };

    /// Proves that each doubtful setting is seen and that every warning says what to do.
    #[test]
    fn doubtful_machines_are_warned_of() {
        let (_dir, root) = root(&[
            ("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "powersave\n"),
            ("sys/devices/system/cpu/intel_pstate/no_turbo", "0\n"),
            ("sys/devices/system/cpu/online", "0-3\n"),
            ("proc/loadavg", "3.20 1 1 5/100 123\n"),
            ("proc/cpuinfo", "model name : A CPU\nflags : fpu hypervisor sse\n"),
        ]);
        let environment = Environment::of(&root);
        assert_eq!((environment.turbo, environment.load, environment.virtual_machine), (Some(true), Some(3.2), true));
        let noisy = Noise { p99_us: 900.0, ..QUIET };
        let slower = Noise { p50_us: 120.0, p99_us: 121.0, ..QUIET };
        let warnings = environment.warnings(&[QUIET, noisy, slower]);
        for (i, word) in ["governor", "turbo", "virtual machine", "idle", "noisy", "drifted"].iter().enumerate() {
            assert!(warnings[i].what.contains(word) && !warnings[i].advice.is_empty(), "{word}: {:?}", warnings[i]);
        }
        assert_eq!(warnings.len(), 6);
    }

    /// Proves that a quiet machine with fixed frequencies is not warned of.
    #[test]
    fn quiet_machines_are_not_warned_of() {
        let (_dir, root) = root(&[
            ("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "performance\n"),
            ("sys/devices/system/cpu/cpufreq/boost", "0\n"),
            ("sys/devices/system/cpu/online", "0-3\n"),
            ("proc/loadavg", "0.20 1 1 5/100 123\n"),
        ]);
        let environment = Environment::of(&root);
        assert_eq!(environment.warnings(&[QUIET, QUIET]), []);
        assert!(environment.rows().iter().all(|(_, value)| !value.is_empty()));
    }

    /// Proves that the probe measures something of the intended size.
    #[test]
    fn the_probe_spins() {
        let noise = Noise::probe();
        assert!(noise.p50_us > 5.0 && noise.p50_us <= noise.p99_us && noise.p99_us <= noise.max_us, "{noise:?}");
    }
}
