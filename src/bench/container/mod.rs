//! Containers on this host: what can run one, and running one.
//!
//! All of them get the same root file system, made here from a static busybox and the harness's own programs; nothing is
//! fetched from a network. runc, crun and youki take it as it is, by a bundle with the `config.json` that `runc spec` would
//! write; podman, docker and nerdctl take it as an image, imported from a tar archive. What cannot run is listed with the
//! reason and the remedy.

mod engine;
mod oci;
mod rootfs;

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde::Serialize;
use thiserror::Error;

use super::cgroup;
use super::child::{self, ChildError, Stop};
use crate::host::Root;
use crate::host::software::{self, Kind};
use crate::units::CpuList;

pub use rootfs::{RootFs, RootFsError, busybox};

/// How long a runtime may take for anything but the payload itself.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why a container could not be run.
#[derive(Debug, Error)]
pub enum ContainerError {
    /// A file of the bundle or the runtime's state.
    #[error("cannot write {}; is the disk full, or TMPDIR another's?", .0.display())]
    File(PathBuf, #[source] io::Error),
    /// The runtime itself.
    #[error(transparent)]
    Child(#[from] ChildError),
    /// What a runtime says of its containers was not understood.
    #[error("{runtime} tells no process id for the container {id}: {said}")]
    NoPid {
        /// Its name.
        runtime: &'static str,
        /// The container.
        id: String,
        /// What it said.
        said: String,
    },
}

/// A subject that cannot be measured here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NotRun {
    /// Its name.
    pub name: String,
    /// Why.
    pub reason: String,
    /// What the user can do.
    pub remedy: String,
}

/// What a container may use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Its weight against others (Docker's `--cpu-shares`).
    pub cpu_shares: Option<u64>,
    /// The CPUs it may run on (Docker's `--cpuset-cpus`).
    pub cpuset: Option<CpuList>,
    /// Its memory in bytes (Docker's `--memory`).
    pub memory: Option<u64>,
}

/// How a runtime is talked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dialect {
    /// The OCI runtime command line: bundles.
    Oci,
    /// Docker's: images.
    Engine,
}

/// Something that runs containers, found to work here.
#[derive(Debug)]
pub struct Runtime {
    /// Its name.
    pub name: &'static str,
    /// What it says its version is.
    pub version: Option<String>,
    path: PathBuf,
    dialect: Dialect,
    /// Arguments without which it does not work on this host.
    extra: Vec<String>,
    rootfs: PathBuf,
    /// Bundles and state.
    work: PathBuf,
    image: Option<String>,
}

/// The runtimes that work here, and those that don't, in the order of [`software::PROGRAMS`]. `work` is an empty folder for
/// their bundles and state; it must outlive them.
///
/// Each is tried by running `/bin/true` in it.
///
/// # Errors
/// [`ChildError::Stopped`] only; a runtime that fails is no error but listed.
pub fn find(rootfs: &RootFs, work: &Path, stop: &Stop) -> Result<(Vec<Runtime>, Vec<NotRun>), ChildError> {
    let (mut working, mut absent) = (Vec::new(), Vec::new());
    let installed = software::find(&Root::default(), std::env::var_os("PATH").as_deref());
    let names = software::PROGRAMS.iter().filter(|(_, kind)| *kind == Kind::ContainerRuntime).map(|(name, _)| *name);
    for name in names {
        let not_run = |reason: String, remedy: String| NotRun { name: name.to_owned(), reason, remedy };
        let Some(program) = installed.iter().find(|program| program.name == name) else {
            absent.push(not_run("not installed".to_owned(), install_hint(name)));
            continue;
        };
        let dialect = if matches!(name, "runc" | "crun" | "youki") { Dialect::Oci } else { Dialect::Engine };
        if dialect == Dialect::Oci && !rustix::process::geteuid().is_root() {
            absent.push(not_run(
                "needs root to make a container's namespaces and groups".to_owned(),
                "Run as root.".into(),
            ));
            continue;
        }
        let runtime = Runtime {
            name,
            version: program.version.clone(),
            path: program.path.clone(),
            dialect,
            extra: Vec::new(),
            rootfs: rootfs.path().to_owned(),
            work: work.join(name),
            image: None,
        };
        match runtime.made_to_work(rootfs, stop) {
            Ok(runtime) => working.push(runtime),
            Err(ContainerError::Child(ChildError::Stopped)) => return Err(ChildError::Stopped),
            Err(error) => absent.push(not_run(one_line(&error), remedy(name, &one_line(&error)))),
        }
    }
    Ok((working, absent))
}

fn install_hint(name: &str) -> String {
    match name {
        "runc" | "crun" | "podman" => format!("Install it: apt-get install {name}."),
        "docker" => "Install it: apt-get install docker.io.".to_owned(),
        "youki" => "Install it: cargo install youki --features v1,v2.".to_owned(),
        _ => format!("Install {name} with containerd."),
    }
}

/// What to do about a runtime that is there and fails, by what it says.
fn remedy(name: &str, said: &str) -> String {
    let known = [
        ("Cannot connect to the Docker daemon", "Start the daemon: systemctl start docker."),
        ("failed to connect to the docker API", "Start the daemon: systemctl start docker."),
        ("cannot access containerd socket", "Start the daemon: systemctl start containerd."),
        (
            "was not enabled during compile time",
            "Build it for control groups of both versions: cargo install youki --features v1,v2.",
        ),
        ("RLIM_MEMLOCK", "It loads its filter of devices as BPF, in locked memory: run with CAP_SYS_RESOURCE."),
        (
            "cgroup",
            "This host's control groups may be mixed (v1 and v2): boot with systemd.unified_cgroup_hierarchy=1, or run all of this \
             with v2 alone: unshare -m sh -c 'umount -R /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup; exec \"$0\" \"$@\"' \
             ringfence bench boot.",
        ),
        ("permission denied", "Run as root."),
        ("Operation not permitted", "Run as root, outside of another container."),
    ];
    known.iter().find(|(text, _)| said.contains(text)).map_or_else(
        || format!("Make `{name} run` of any local image work, then try again."),
        |(_, remedy)| (*remedy).to_owned(),
    )
}

/// An error with its causes, on one line.
fn one_line(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

impl Runtime {
    /// Prepares it and runs `/bin/true`, with the arguments it turns out to need.
    fn made_to_work(mut self, rootfs: &RootFs, stop: &Stop) -> Result<Self, ContainerError> {
        std::fs::create_dir_all(&self.work).map_err(|e| ContainerError::File(self.work.clone(), e))?;
        if self.dialect == Dialect::Engine {
            self.import(rootfs, stop)?;
        }
        let mut first = None;
        for extra in self.attempts() {
            self.extra = extra;
            match self.try_true(stop) {
                Ok(()) => return Ok(self),
                Err(ContainerError::Child(ChildError::Stopped)) => return Err(ChildError::Stopped.into()),
                Err(error) => first = first.or(Some(error)),
            }
        }
        Err(first.unwrap_or(ContainerError::Child(ChildError::Stopped)))
    }

    fn try_true(&self, stop: &Stop) -> Result<(), ContainerError> {
        let mut container =
            self.container(&format!("rf-try-{}", std::process::id()), &["/bin/true"], &Limits::default())?;
        child::run(container.command(), PATIENCE, stop)?.success()?;
        Ok(())
    }

    /// A container with the name `id`, about to run `arguments` from the root file system.
    ///
    /// # Errors
    /// [`ContainerError::File`] when its bundle cannot be written.
    pub fn container<'a>(
        &'a self,
        id: &str,
        arguments: &[&str],
        limits: &Limits,
    ) -> Result<Container<'a>, ContainerError> {
        let command = match self.dialect {
            Dialect::Oci => self.oci_command(id, arguments, limits)?,
            Dialect::Engine => self.engine_command(id, arguments, limits),
        };
        Ok(Container { runtime: self, id: id.to_owned(), command })
    }

    fn program(&self) -> Command {
        Command::new(&self.path)
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        self.remove_image();
        cgroup::remove_parents();
    }
}

/// A container; deleted when let go, whatever became of it.
#[derive(Debug)]
pub struct Container<'a> {
    runtime: &'a Runtime,
    id: String,
    command: Command,
}

impl Container<'_> {
    /// Runs it in the foreground.
    pub fn command(&mut self) -> &mut Command {
        &mut self.command
    }

    /// The host's process id of its first process. The container must run.
    ///
    /// # Errors
    /// When the runtime does not tell.
    pub fn pid(&self, stop: &Stop) -> Result<u32, ContainerError> {
        let mut command = match self.runtime.dialect {
            Dialect::Oci => self.runtime.oci_state(&self.id),
            Dialect::Engine => self.runtime.engine_inspect(&self.id),
        };
        let said = child::run(&mut command, PATIENCE, stop)?.success()?.stdout;
        let pid = match self.runtime.dialect {
            Dialect::Oci => oci::pid_in(&said),
            Dialect::Engine => String::from_utf8_lossy(&said).trim().parse().ok(),
        };
        let no_pid = || ContainerError::NoPid {
            runtime: self.runtime.name,
            id: self.id.clone(),
            said: String::from_utf8_lossy(&said).trim().to_owned(),
        };
        pid.filter(|&pid| pid != 0).ok_or_else(no_pid)
    }

    /// The processes the runtime keeps for this container besides its own: `conmon`, a `containerd-shim`.
    pub fn shims(&self, pid: u32) -> Vec<u32> {
        engine::shims_of(pid)
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        let mut command = match self.runtime.dialect {
            Dialect::Oci => self.runtime.oci_delete(&self.id),
            Dialect::Engine => self.runtime.engine_remove(&self.id),
        };
        let _ = child::run(&mut command, PATIENCE, &Stop::default());
        if self.runtime.dialect == Dialect::Oci {
            cgroup::remove_container(&self.id);
        }
        let _ = std::fs::remove_dir_all(self.runtime.work.join(&self.id));
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
