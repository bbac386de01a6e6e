//! podman, docker and nerdctl: Docker's command line, and an image imported from the root file system.

use std::process::Command;

use super::{ContainerError, Dialect, Limits, PATIENCE, RootFs, Runtime};
use crate::bench::child::{self, Stop};
use crate::bench::footprint;

impl Runtime {
    /// Arguments to try, in this order, until a container runs.
    pub(super) fn attempts(&self) -> Vec<Vec<String>> {
        let strings = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
        // A host may forbid raising the limits that podman sets by default; its own OCI runtime may refuse mixed control groups.
        const LIMITS: [&str; 4] = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"];
        match self.name {
            "podman" => vec![
                strings(&[]),
                strings(&LIMITS),
                strings(&["--runtime", "runc"]),
                [strings(&["--runtime", "runc"]), strings(&LIMITS)].concat(),
            ],
            _ => vec![strings(&[])],
        }
    }

    /// Makes the root file system an image of the engine's.
    pub(super) fn import(&mut self, rootfs: &RootFs, stop: &Stop) -> Result<(), ContainerError> {
        let tar = self.work.join("rootfs.tar");
        rootfs.write_tar(&tar).map_err(|source| ContainerError::File(tar.clone(), source))?;
        let image = format!("ringfence-bench:{}", std::process::id());
        let mut command = self.program();
        // A daemon reads it over the socket, so that it is not a path that it would have to see.
        command.arg("import").arg(&tar).arg(&image);
        let imported = child::run(&mut command, PATIENCE, stop)?.success();
        let _ = std::fs::remove_file(&tar);
        imported?;
        self.image = Some(image);
        Ok(())
    }

    pub(super) fn remove_image(&mut self) {
        if let (Dialect::Engine, Some(image)) = (self.dialect, self.image.take()) {
            let mut command = self.program();
            command.args(["rmi", "--force", &image]);
            let _ = child::run(&mut command, PATIENCE, &Stop::default());
        }
    }

    pub(super) fn engine_command(&self, id: &str, arguments: &[&str], limits: &Limits) -> Command {
        let mut command = self.program();
        if let [runtime, name, ..] = &self.extra[..]
            && runtime == "--runtime"
        {
            command.args([runtime, name]);
        }
        command.args(["run", "--rm", "--name", id, "--network", "none", "--pull", "never", "--read-only"]);
        command.args(self.extra.iter().skip(if self.extra.first().is_some_and(|word| word == "--runtime") {
            2
        } else {
            0
        }));
        if let Some(shares) = limits.cpu_shares {
            command.arg("--cpu-shares").arg(shares.to_string());
        }
        if let Some(cpus) = &limits.cpuset {
            command.arg("--cpuset-cpus").arg(cpus.to_string());
        }
        if let Some(bytes) = limits.memory {
            command.arg("--memory").arg(bytes.to_string());
        }
        command.arg(self.image.as_deref().unwrap_or_default()).args(arguments);
        command
    }

    pub(super) fn engine_inspect(&self, id: &str) -> Command {
        let mut command = self.program();
        command.args(["inspect", "--format", "{{.State.Pid}}", id]);
        command
    }

    pub(super) fn engine_remove(&self, id: &str) -> Command {
        let mut command = self.program();
        command.args(["rm", "--force", id]);
        command
    }
}

/// The parents of a container's first process that are there for it alone: `conmon`, `containerd-shim`.
pub(super) fn shims_of(pid: u32) -> Vec<u32> {
    let parent = footprint::parent_of(pid);
    let is_shim = |pid: &u32| {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        ["conmon", "containerd-shim"].iter().any(|shim| name.starts_with(shim))
    };
    parent.filter(is_shim).into_iter().collect()
}
