//! runc, crun and youki: the OCI runtime's command line and its `config.json` (OCI runtime specification 1.0).

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use super::{ContainerError, Limits, Runtime};
use crate::bench::cgroup;

/// What `runc spec` gives a process: three capabilities.
const CAPABILITIES: [&str; 3] = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];
/// What `runc spec` hides of /proc and /sys.
const MASKED: [&str; 9] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/sys/firmware",
];
/// What `runc spec` makes read-only.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The configuration of `runc spec`, with our command, root and limits, and without a terminal. Like `runc spec`'s it has no
/// seccomp filter: engines such as podman and docker add theirs.
pub(super) fn config(rootfs: &str, id: &str, arguments: &[&str], limits: &Limits) -> Value {
    let mount = |destination: &str, kind: &str, source: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": source, "options": options});
    let mut resources = json!({"devices": [{"allow": false, "access": "rwm"}]});
    if let Some(shares) = limits.cpu_shares {
        resources["cpu"]["shares"] = json!(shares);
    }
    if let Some(cpus) = &limits.cpuset {
        resources["cpu"]["cpus"] = json!(cpus.to_string());
    }
    if let Some(bytes) = limits.memory {
        resources["memory"]["limit"] = json!(bytes);
    }
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": {"uid": 0, "gid": 0},
            "args": arguments,
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=dumb"],
            "cwd": "/",
            "capabilities": {"bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": true
        },
        "root": {"path": rootfs, "readonly": true},
        "hostname": "container",
        "mounts": [
            mount("/proc", "proc", "proc", &[]),
            mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]),
            mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        ],
        "linux": {
            "cgroupsPath": format!("/{}/{id}", cgroup::parent()),
            "resources": resources,
            "namespaces": [{"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}],
            "maskedPaths": MASKED,
            "readonlyPaths": READ_ONLY
        }
    })
}

/// The process id in what `state` says; `None` when there is none.
pub(super) fn pid_in(state: &[u8]) -> Option<u32> {
    let state: Value = serde_json::from_slice(state).ok()?;
    u32::try_from(state.get("pid")?.as_u64()?).ok()
}

impl Runtime {
    pub(super) fn oci_command(&self, id: &str, arguments: &[&str], limits: &Limits) -> Result<Command, ContainerError> {
        let bundle = self.work.join(id);
        fs::create_dir_all(&bundle).map_err(|e| ContainerError::File(bundle.clone(), e))?;
        let config = config(&self.rootfs.to_string_lossy(), id, arguments, limits);
        let file = bundle.join("config.json");
        fs::write(&file, format!("{config:#}\n")).map_err(|e| ContainerError::File(file, e))?;
        let mut command = self.started();
        command.arg("run").arg("--bundle").arg(bundle).arg(id);
        Ok(command)
    }

    /// [`Self::oci`] for a run in the foreground. youki 0.7 blocks SIGCHLD only once its container runs, and waits forever for the
    /// end of a payload that was quicker: env blocks it from the beginning.
    fn started(&self) -> Command {
        if self.name != "youki" {
            return self.oci();
        }
        let mut command = Command::new("env");
        command.arg("--block-signal=CHLD").arg(&self.path).arg("--root").arg(self.work.join("state"));
        command
    }

    /// The runtime with a state folder of our own, so that nothing of ours shows among the user's containers.
    fn oci(&self) -> Command {
        let mut command = self.program();
        command.arg("--root").arg(self.work.join("state"));
        command
    }

    pub(super) fn oci_state(&self, id: &str) -> Command {
        let mut command = self.oci();
        command.args(["state", id]);
        command
    }

    pub(super) fn oci_delete(&self, id: &str) -> Command {
        let mut command = self.oci();
        command.args(["delete", "--force", id]);
        command
    }
}
