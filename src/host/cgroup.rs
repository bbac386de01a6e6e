//! Control groups: which version the host has mounted, and what this process's own ones leave it of memory.

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

/// A limit of memory on a control group that this process is in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Ceiling {
    /// The file that holds the limit.
    pub file: String,
    /// The limit in bytes.
    pub limit: u64,
    /// What the group and those below it have, in bytes, without what the kernel would take back before it refuses more.
    pub used: u64,
}

impl Ceiling {
    /// What can still be had, in bytes.
    pub fn room(&self) -> u64 {
        self.limit.saturating_sub(self.used)
    }

    /// Limits of ordinary memory, of the process's own group and every one above that can be seen (memory.max, or
    /// memory.limit_in_bytes). Beyond one the kernel ends a process of the group.
    pub fn of_memory(root: &Root) -> Vec<Self> {
        let Some((folders, unified)) = folders(root, "memory") else { return Vec::new() };
        let names = if unified {
            ("memory.max", "memory.current", ["inactive_file", "active_file"])
        } else {
            ("memory.limit_in_bytes", "memory.usage_in_bytes", ["total_inactive_file", "total_active_file"])
        };
        let ceiling = |folder: &String| {
            let (limit, used, cached) = names;
            let mut ceiling = Self::read(root, folder, limit, used)?;
            let stat = root.read(format!("{folder}/memory.stat")).unwrap_or_default();
            let cached = stat.lines().filter_map(|line| line.split_once(' ')).filter(|(key, _)| cached.contains(key));
            let cached = cached.filter_map(|(_, bytes)| bytes.parse::<u64>().ok()).fold(0, u64::saturating_add);
            ceiling.used = ceiling.used.saturating_sub(cached);
            Some(ceiling)
        };
        folders.iter().filter_map(ceiling).collect()
    }

    /// Limits of pages of the pool of `page_bytes` pages: of those used, and of those set apart.
    pub fn of_pool(root: &Root, page_bytes: u64) -> Vec<Self> {
        let Some((folders, unified)) = folders(root, "hugetlb") else { return Vec::new() };
        let size =
            if page_bytes >= 1 << 30 { format!("{}GB", page_bytes >> 30) } else { format!("{}MB", page_bytes >> 20) };
        let (limit, used) = if unified { ("max", "current") } else { ("limit_in_bytes", "usage_in_bytes") };
        let both = |folder: &String| {
            ["", "rsvd."]
                .into_iter()
                .filter_map(|kind| {
                    let name = |what: &str| format!("hugetlb.{size}.{kind}{what}");
                    Self::read(root, folder, &name(limit), &name(used))
                })
                .collect::<Vec<_>>()
        };
        folders.iter().flat_map(both).collect()
    }

    /// `None` where there is no limit.
    fn read(root: &Root, folder: &str, limit: &str, used: &str) -> Option<Self> {
        /// Version 1 has no word for "none": it is the largest number of whole pages.
        const NONE: u64 = 1 << 62;
        let file = format!("{folder}/{limit}");
        let limit = root.read_number(&file).filter(|limit| *limit < NONE)?;
        Some(Self { file, limit, used: root.read_number(format!("{folder}/{used}")).unwrap_or(0) })
    }
}

/// The folders of this process's group for `controller` and of the groups above, the own one first, and whether the hierarchy
/// is the unified one (cgroups(7), "/proc files").
fn folders(root: &Root, controller: &str) -> Option<(Vec<String>, bool)> {
    let groups = root.read("/proc/self/cgroup")?;
    let group = |wanted: &dyn Fn(&str, &str) -> bool| {
        groups.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':');
            let (id, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
            wanted(id, controllers).then(|| path.to_owned())
        })
    };
    let v1 = group(&|_, controllers| controllers.split(',').any(|name| name == controller));
    let unified = v1.is_none();
    let path = v1.or_else(|| group(&|id, _| id == "0"))?;
    let mounts = root.read("/proc/self/mountinfo")?;
    let (shown, mount) = mounts.lines().find_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        let mut kind = kind.split(' ');
        let (kind, options) = (kind.next()?, kind.nth(1)?);
        let right =
            if unified { kind == "cgroup2" } else { kind == "cgroup" && options.split(',').any(|o| o == controller) };
        let mut place = place.split(' ').skip(3);
        right.then_some((place.next()?, place.next()?))
    })?;
    // A container may see only its own group's part of the hierarchy, below another name.
    let below = path.strip_prefix(shown.trim_end_matches('/')).filter(|rest| rest.is_empty() || rest.starts_with('/'));
    let mut below = below.unwrap_or_default().trim_end_matches('/');
    let mut folders = vec![format!("{mount}{below}")];
    while let Some((above, _)) = below.rsplit_once('/') {
        folders.push(format!("{mount}{above}"));
        below = above;
    }
    Some((folders, unified))
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

    /// Proves that limits are found in the own group and above, that "max" is none, and that cached files count as free.
    #[test]
    fn ceilings_of_the_unified_hierarchy() {
        let (_dir, root) = fake::root(&[
            ("proc/self/cgroup", "0::/a/b\n"),
            (
                "proc/self/mountinfo",
                "25 1 0:2 / /proc rw - proc proc rw\n30 1 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw\n",
            ),
            ("sys/fs/cgroup/a/b/memory.max", "max\n"),
            ("sys/fs/cgroup/a/memory.max", "1000\n"),
            ("sys/fs/cgroup/a/memory.current", "700\n"),
            ("sys/fs/cgroup/a/memory.stat", "anon 100\ninactive_file 300\nactive_file 100\nfile 400\n"),
            ("sys/fs/cgroup/a/hugetlb.1GB.max", "0\n"),
            ("sys/fs/cgroup/a/b/hugetlb.2MB.rsvd.max", "4194304\n"),
            ("sys/fs/cgroup/a/b/hugetlb.2MB.rsvd.current", "2097152\n"),
        ]);
        let file = |name: &str| format!("/sys/fs/cgroup/a/{name}");
        assert_eq!(Ceiling::of_memory(&root), [Ceiling { file: file("memory.max"), limit: 1000, used: 300 }]);
        assert_eq!(Ceiling::of_memory(&root)[0].room(), 700);
        let pool = Ceiling { file: file("b/hugetlb.2MB.rsvd.max"), limit: 4 << 20, used: 2 << 20 };
        assert_eq!(Ceiling::of_pool(&root, 2 << 20), [pool]);
        assert_eq!(Ceiling::of_pool(&root, 1 << 30), [Ceiling { file: file("hugetlb.1GB.max"), limit: 0, used: 0 }]);
    }

    /// Proves that the controller's own hierarchy is used where there is one, that a container's part of it is found, and that
    /// a host without any, or with nonsense, has no limit.
    #[test]
    fn ceilings_of_a_controllers_hierarchy() {
        let mounts =
            "31 1 0:27 /docker/x /cg/memory rw - cgroup cgroup rw,memory\n30 1 0:26 / /cg/u rw - cgroup2 cgroup2 rw\n";
        let files = [
            ("proc/self/cgroup", "4:cpu,memory:/docker/x/y\n0::/other\n"),
            ("proc/self/mountinfo", mounts),
            ("cg/memory/y/memory.limit_in_bytes", "9223372036854771712\n"),
            ("cg/memory/memory.limit_in_bytes", "4096\n"),
            ("cg/memory/memory.usage_in_bytes", "8192\n"),
            ("cg/memory/memory.stat", "inactive_file 5000\ntotal_inactive_file 1\n"),
            ("cg/u/other/memory.max", "1\n"),
        ];
        let (_dir, root) = fake::root(&files);
        let found = Ceiling::of_memory(&root);
        assert_eq!(found, [Ceiling { file: "/cg/memory/memory.limit_in_bytes".into(), limit: 4096, used: 8191 }]);
        assert_eq!(found[0].room(), 0);
        for (groups, mounts) in [("", mounts), ("4:memory:/docker/x\n", "nonsense"), ("x", " - \n - cgroup\n")] {
            let (_dir, root) = fake::root(&[("proc/self/cgroup", groups), ("proc/self/mountinfo", mounts)]);
            assert_eq!(Ceiling::of_memory(&root), [], "{groups} {mounts}");
        }
    }
}
