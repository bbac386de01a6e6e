//! Which version of control groups the host has mounted.

use super::Root;
use serde::Serialize;
use std::fmt;

/// The version of control groups (Linux, Documentation/admin-guide/cgroup-v2.rst).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CgroupVersion {
    /// Only the unified hierarchy.
    V2,
    /// Only hierarchies of controllers.
    V1,
    /// Controllers in version 1, beside an empty version 2: some container runtimes refuse it.
    Hybrid,
    /// None mounted.
    None,
}

impl fmt::Display for CgroupVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V2 => "v2",
            Self::V1 => "v1",
            Self::Hybrid => "v1 and v2 (hybrid)",
            Self::None => "none mounted",
        })
    }
}

impl CgroupVersion {
    /// What is mounted, by `/proc/self/mounts` below `root`.
    pub fn of(root: &Root) -> Self {
        let mounts = root.read("/proc/self/mounts").unwrap_or_default();
        let has = |kind: &str| mounts.lines().any(|line| line.split(' ').nth(2) == Some(kind));
        match (has("cgroup"), has("cgroup2")) {
            (false, true) => Self::V2,
            (true, false) => Self::V1,
            (true, true) => Self::Hybrid,
            (false, false) => Self::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::root::fake;
    use super::*;

    /// Proves that the file system's type decides, not a name that looks like it.
    #[test]
    fn the_mounts_tell_the_version() {
        let v1 = "cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\n";
        let v2 = "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n";
        let other = "cgroup /cgroup tmpfs rw 0 0\n";
        for (mounts, expected) in [
            (v1.to_owned(), CgroupVersion::V1),
            (v2.to_owned(), CgroupVersion::V2),
            (format!("{other}{v1}{v2}"), CgroupVersion::Hybrid),
            (other.to_owned(), CgroupVersion::None),
        ] {
            let (_dir, root) = fake::root(&[("proc/self/mounts", &mounts)]);
            assert_eq!(CgroupVersion::of(&root), expected, "{mounts}");
        }
    }
}
