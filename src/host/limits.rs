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
}
