//! A control group for a program that no container runtime starts, so that it competes for CPUs as a container does.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process};
use thiserror::Error;

use crate::host::Root;
use crate::host::cgroup::CgroupVersion;

/// Shares of a container that asks for nothing (Linux, cgroup v1, `cpu.shares`; Docker's `--cpu-shares`).
pub const SHARES: u64 = 1024;
/// Time for real-time threads in each second, in microseconds: less than the 950,000 that Linux gives to all.
const REAL_TIME_US: &str = "900000";
const V1: &str = "/sys/fs/cgroup/cpu";
const V2: &str = "/sys/fs/cgroup";

/// The folder of this process's groups in every hierarchy.
pub fn parent() -> String {
    format!("ringfence-bench-{}", std::process::id())
}

/// Why there is no group.
#[derive(Debug, Error)]
pub enum CgroupError {
    /// No hierarchy with the CPU controller.
    #[error("no control group hierarchy with the CPU controller is mounted; mount one, as systemd does")]
    NoHierarchy,
    /// A file of it.
    #[error("cannot use the control group {}; run as root", .0.display())]
    File(PathBuf, #[source] io::Error),
}

/// A group below [`parent`]; removed when let go.
#[derive(Debug)]
pub struct CpuGroup(PathBuf);

impl CpuGroup {
    /// Makes a group with the given CPU shares.
    ///
    /// # Errors
    /// [`CgroupError`], without root usually.
    pub fn new(name: &str, shares: u64) -> Result<Self, CgroupError> {
        let version = CgroupVersion::of(&Root::default());
        let (top, file, value) = match version {
            CgroupVersion::V2 => (V2, "cpu.weight", weight(shares)),
            CgroupVersion::V1 | CgroupVersion::Hybrid => (V1, "cpu.shares", shares),
            CgroupVersion::None => return Err(CgroupError::NoHierarchy),
        };
        let parent = Path::new(top).join(parent());
        let path = parent.join(name);
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| CgroupError::File(path, source)
        };
        fs::create_dir_all(&path).map_err(failed(&path))?;
        let group = Self(path);
        if version == CgroupVersion::V2 {
            for dir in [Path::new(top), &parent] {
                let _ = fs::write(dir.join("cgroup.subtree_control"), "+cpu +cpuset");
            }
        }
        let file = group.0.join(file);
        fs::write(&file, value.to_string()).map_err(failed(&file))?;
        Ok(group)
    }

    /// Lets threads in the group have real-time priority where that is accounted by group (CONFIG_RT_GROUP_SCHED, cgroup v1): there
    /// a group has no time for them unless it is given. Nothing is done elsewhere.
    ///
    /// # Errors
    /// [`CgroupError::File`] when the hierarchy has none left to give.
    pub fn allow_real_time(&self) -> Result<(), CgroupError> {
        for dir in self.0.ancestors().take(2).collect::<Vec<_>>().into_iter().rev() {
            let file = dir.join("cpu.rt_runtime_us");
            if file.exists() {
                fs::write(&file, REAL_TIME_US).map_err(|source| CgroupError::File(file, source))?;
            }
        }
        Ok(())
    }

    /// Moves a process with all its threads into the group.
    ///
    /// # Errors
    /// [`CgroupError::File`].
    pub fn add(&self, pid: u32) -> Result<(), CgroupError> {
        let file = self.0.join("cgroup.procs");
        fs::write(&file, pid.to_string()).map_err(|source| CgroupError::File(file, source))
    }
}

impl Drop for CpuGroup {
    fn drop(&mut self) {
        // A removed group keeps its real-time until the kernel frees it, which takes a while.
        for dir in self.0.ancestors().take(2).map(|dir| dir.join("cpu.rt_runtime_us")).filter(|file| file.exists()) {
            let _ = fs::write(dir, "0");
        }
        remove(&self.0);
        remove_parents();
    }
}

/// Removes a group. Its members have ended, but the kernel may take a moment to let go of the last.
fn remove(group: &Path) {
    for _ in 0..50 {
        match fs::remove_dir(group) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            _ => break,
        }
    }
}

fn hierarchies() -> impl Iterator<Item = PathBuf> {
    let below = fs::read_dir(V2).into_iter().flatten().flatten().map(|entry| entry.path());
    below.chain([PathBuf::from(V2)])
}

/// Removes the harness's own folder from every hierarchy, where no group is left in it.
pub fn remove_parents() {
    hierarchies().for_each(|hierarchy| drop(fs::remove_dir(hierarchy.join(parent()))));
}

/// Removes the groups of a container below [`parent`], which its runtime left when it was ended while it made them. What runs in
/// them is killed.
pub fn remove_container(id: &str) {
    let groups: Vec<_> = hierarchies().map(|hierarchy| hierarchy.join(parent()).join(id)).collect();
    for group in &groups {
        let members = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
        for member in members.lines().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)) {
            // One that has just ended is as good.
            let _ = kill_process(member, Signal::KILL);
        }
    }
    groups.iter().filter(|group| group.exists()).for_each(|group| remove(group));
}

/// Shares as a weight of cgroup v2, as OCI runtimes convert them: 2 to 262144 onto 1 to 10000.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// Groups of one parent share its real-time and go with it: one test at a time.
    static ALONE: Mutex<()> = Mutex::new(());

    /// Proves that the ends of both scales meet, and that Docker's default is in between.
    #[test]
    fn shares_become_weights() {
        assert_eq!([weight(0), weight(2), weight(1024), weight(262_144), weight(u64::MAX)], [1, 1, 39, 10_000, 10_000]);
    }

    /// Proves that a process is in the group and that nothing is left of it.
    #[test]
    fn a_group_holds_a_process_and_goes() {
        let _alone = ALONE.lock().unwrap();
        let group = match CpuGroup::new(&format!("test-{}", std::process::id()), SHARES) {
            Ok(group) => group,
            Err(error) => {
                println!("skipped: {error}");
                assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "CI has control groups");
                return;
            }
        };
        let mut child = std::process::Command::new("sleep").arg("30").spawn().unwrap();
        group.allow_real_time().unwrap();
        group.add(child.id()).unwrap();
        let groups = fs::read_to_string(format!("/proc/{}/cgroup", child.id())).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(groups.contains(&format!("/{}/test-", parent())), "{groups}");
        let path = group.0.clone();
        drop(group);
        assert!(!path.exists());
        for _ in 0..20 {
            let again = CpuGroup::new(&format!("test-{}", std::process::id()), SHARES).unwrap();
            again.allow_real_time().expect("a removed group has given its real-time back");
        }
    }

    /// Proves that the groups a stopped runtime left are removed, with what still runs in them: in each hierarchy where the
    /// container has one, and in no other container's.
    #[test]
    fn groups_of_a_stopped_container_are_removed() {
        let _alone = ALONE.lock().unwrap();
        let names = ["left", "other"].map(|name| format!("{name}-{}", std::process::id()));
        let groups = match names.each_ref().map(|name| CpuGroup::new(name, SHARES)) {
            [Ok(left), Ok(other)] => [left, other],
            [Err(error), _] | [_, Err(error)] => {
                println!("skipped: {error}");
                assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "CI has control groups");
                return;
            }
        };
        let mut children = groups.each_ref().map(|group| {
            let child = std::process::Command::new("sleep").arg("30").spawn().unwrap();
            group.add(child.id()).unwrap();
            child
        });
        remove_container(&names[0]);
        let ended = children[0].wait().unwrap();
        let there = groups.each_ref().map(|group| group.0.exists());
        let runs = children[1].try_wait().unwrap().is_none();
        children.iter_mut().for_each(|child| {
            let _ = child.kill();
            child.wait().unwrap();
        });
        use std::os::unix::process::ExitStatusExt;
        assert_eq!(ended.signal(), Some(libc::SIGKILL), "what ran in it is killed");
        assert!(there == [false, true] && runs, "{there:?} {runs}");
    }
}
