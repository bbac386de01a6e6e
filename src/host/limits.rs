//! This process's resource limits that matter to a monitor.

use super::Root;
use serde::Serialize;

/// A soft and a hard limit; `None` is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Limit {
    /// What is in force.
    pub soft: Option<u64>,
    /// Up to where the soft limit can be raised.
    pub hard: Option<u64>,
}

/// The limits (getrlimit(2)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// Memory that can be locked, in bytes (RLIMIT_MEMLOCK).
    pub memlock_bytes: Option<Limit>,
    /// Open files (RLIMIT_NOFILE).
    pub open_files: Option<Limit>,
}

impl Limits {
    /// Reads `/proc/self/limits` below `root`.
    pub fn of(root: &Root) -> Self {
        let text = root.read("/proc/self/limits").unwrap_or_default();
        Self { memlock_bytes: limit(&text, "Max locked memory"), open_files: limit(&text, "Max open files") }
    }
}

/// Whether this process may lock memory beyond RLIMIT_MEMLOCK (CAP_IPC_LOCK, capabilities(7)), by its effective capabilities.
pub fn locks_without_limit(root: &Root) -> bool {
    const CAP_IPC_LOCK: u32 = 14;
    let status = root.read("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0);
    effective & 1 << CAP_IPC_LOCK != 0
}

fn limit(text: &str, name: &str) -> Option<Limit> {
    let mut values = text.lines().find_map(|line| line.strip_prefix(name))?.split_ascii_whitespace();
    let mut next = || match values.next()? {
        "unlimited" => Some(None),
        number => number.parse().ok().map(Some),
    };
    Some(Limit { soft: next()?, hard: next()? })
}

#[cfg(test)]
mod tests {
    use super::super::root::fake;
    use super::*;

    /// Proves that numbers and `unlimited` are read, and that a missing or odd line is not made up.
    #[test]
    fn reads_the_kernels_table() {
        let text = "Limit                     Soft Limit           Hard Limit           Units     \n\
                    Max open files            1024                 524288               files     \n\
                    Max locked memory         8388608              unlimited            bytes     \n";
        let (_dir, root) = fake::root(&[("proc/self/limits", text)]);
        let limits = Limits::of(&root);
        assert_eq!(limits.open_files, Some(Limit { soft: Some(1024), hard: Some(524_288) }));
        assert_eq!(limits.memlock_bytes, Some(Limit { soft: Some(8_388_608), hard: None }));
        let (_dir, root) = fake::root(&[("proc/self/limits", "Max open files   x  y\n")]);
        assert_eq!(Limits::of(&root), Limits::default());
    }

    /// Proves that only the capability's own bit counts.
    #[test]
    fn the_capability_to_lock() {
        for (status, expected) in [
            ("Name:\tx\nCapEff:\t000001ffffffffff\n", true),
            ("CapEff:\t0000000000004000\n", true),
            ("CapPrm:\t0000000000004000\nCapEff:\t000001ffffffbfff\n", false),
            ("CapEff:\tx\n", false),
            ("", false),
        ] {
            let (_dir, root) = fake::root(&[("proc/self/status", status)]);
            assert_eq!(locks_without_limit(&root), expected, "{status}");
        }
    }
}
