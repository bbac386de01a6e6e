//! Whether this process may have a real-time priority, and what that does to the host.

use crate::config::RealtimePriority;
use crate::host::Root;

/// The bit of CAP_SYS_NICE (linux/capability.h).
const CAP_SYS_NICE: u32 = 23;

/// The highest priority that this process may give its threads (sched(7), "Privileges and resource limits"): 99 with
/// CAP_SYS_NICE, else RLIMIT_RTPRIO, 0 for none.
pub(super) fn highest(root: &Root) -> u8 {
    let status = root.read("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    if effective & (1 << CAP_SYS_NICE) != 0 {
        return 99;
    }
    let limits = root.read("/proc/self/limits").unwrap_or_default();
    let soft = limits.lines().find_map(|line| line.strip_prefix("Max realtime priority")?.split_whitespace().next());
    match soft {
        Some("unlimited") => 99,
        soft => soft.and_then(|soft| soft.parse().ok()).unwrap_or(0).min(99),
    }
}

/// What a user of real-time priorities should know of this host.
pub(super) fn warning(priority: RealtimePriority, root: &Root) -> String {
    let number = |name: &str| root.read(format!("/proc/sys/kernel/{name}")).and_then(|text| text.parse::<i64>().ok());
    let priority = priority.get();
    match (number("sched_rt_runtime_us"), number("sched_rt_period_us")) {
        (Some(runtime), Some(period)) if runtime >= 0 && runtime < period => format!(
            "--realtime {priority}: a vCPU that is always busy may be taken off its CPU for {} µs of every {} ms, so that \
             other tasks there are not starved (/proc/sys/kernel/sched_rt_runtime_us)",
            period - runtime,
            period / 1000
        ),
        _ => format!(
            "--realtime {priority}: nothing limits real-time tasks on this host (/proc/sys/kernel/sched_rt_runtime_us), so a \
             vCPU that is always busy starves the kernel's own threads on its CPU"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(files: &[(&str, &str)]) -> (tempfile::TempDir, Root) {
        let dir = tempfile::TempDir::new().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let root = Root::new(dir.path());
        (dir, root)
    }

    /// Proves that the capability or the limit, whichever gives more, is what is told, and that odd files give nothing.
    #[test]
    fn a_capability_or_a_limit_gives_the_right() {
        let limits = "Max realtime priority     10                   20                   \n";
        for (files, expected) in [
            (&[("proc/self/status", "CapEff:\t000001ffffffffff\n")][..], 99),
            (&[("proc/self/status", "CapEff:\t0000000000800000\n"), ("proc/self/limits", limits)], 99),
            (&[("proc/self/status", "CapEff:\t0000000000400000\n"), ("proc/self/limits", limits)], 10),
            (&[("proc/self/limits", "Max realtime priority     unlimited  unlimited\n")], 99),
            (&[("proc/self/limits", "Max realtime priority     x\n"), ("proc/self/status", "CapEff:\tzz\n")], 0),
            (&[], 0),
        ] {
            let (_dir, root) = root(files);
            assert_eq!(highest(&root), expected, "{files:?}");
        }
    }

    /// Proves that the limit of real-time tasks is told in numbers, and that its absence is told too.
    #[test]
    fn the_limit_of_real_time_tasks_is_told() {
        let priority = "5".parse().unwrap();
        let with = |runtime: &str| {
            let (_dir, root) = root(&[
                ("proc/sys/kernel/sched_rt_runtime_us", runtime),
                ("proc/sys/kernel/sched_rt_period_us", "1000000"),
            ]);
            warning(priority, &root)
        };
        assert!(with("950000").contains("50000 µs of every 1000 ms"), "{}", with("950000"));
        assert!(with("-1").contains("nothing limits") && with("1000000").contains("nothing limits"));
    }
}
