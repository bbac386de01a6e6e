//! Container runtimes and other monitors on this host, to compare with.

use super::Root;
use serde::Serialize;
use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What a program is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Runs containers.
    ContainerRuntime,
    /// Runs virtual machines.
    Monitor,
}

/// The programs looked for, the container runtimes first.
pub const PROGRAMS: &[(&str, Kind)] = &[
    ("runc", Kind::ContainerRuntime),
    ("crun", Kind::ContainerRuntime),
    ("youki", Kind::ContainerRuntime),
    ("podman", Kind::ContainerRuntime),
    ("docker", Kind::ContainerRuntime),
    ("nerdctl", Kind::ContainerRuntime),
    ("qemu-system-x86_64", Kind::Monitor),
    ("firecracker", Kind::Monitor),
    ("cloud-hypervisor", Kind::Monitor),
    ("crosvm", Kind::Monitor),
    ("lkvm", Kind::Monitor),
];

/// Directories searched besides PATH: runtimes live in `sbin`, which a user's PATH may lack.
const MORE_DIRS: [&str; 5] = ["/usr/local/bin", "/usr/local/sbin", "/usr/bin", "/usr/sbin", "/snap/bin"];

/// How long a program may take to tell its version, and how much it may say.
const VERSION_TIMEOUT: Duration = Duration::from_millis(1500);
const VERSION_BYTES: u64 = 4096;

/// A program that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Program {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// Where it is.
    pub path: PathBuf,
    /// What it says its version is; `None` when it does not say, or not soon.
    pub version: Option<String>,
}

/// The programs of [`PROGRAMS`] that are in `path` (the PATH variable) or the usual directories, below `root`.
///
/// Each is asked for its version, all at once, for 1.5 seconds at most.
pub fn find(root: &Root, path: Option<&OsStr>) -> Vec<Program> {
    let dirs: Vec<PathBuf> = path.map(|path| std::env::split_paths(path).collect()).unwrap_or_default();
    let dirs: Vec<PathBuf> = dirs.into_iter().chain(MORE_DIRS.iter().map(PathBuf::from)).collect();
    let found: Vec<_> = PROGRAMS
        .iter()
        .filter_map(|(name, kind)| {
            let path = dirs.iter().map(|dir| root.join(dir).join(name)).find(|path| is_executable(path))?;
            Some((*name, *kind, path))
        })
        .collect();
    std::thread::scope(|scope| {
        let asked: Vec<_> = found
            .into_iter()
            .map(|(name, kind, path)| {
                let asked = scope.spawn({
                    let path = path.clone();
                    move || version(&path)
                });
                (name, kind, path, asked)
            })
            .collect();
        let answered = asked.into_iter();
        answered
            .map(|(name, kind, path, asked)| Program { name, kind, path, version: asked.join().ok().flatten() })
            .collect()
    })
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// What `program --version` says its version is.
fn version(program: &Path) -> Option<String> {
    let mut child = Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let deadline = Instant::now() + VERSION_TIMEOUT;
    let ended = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status.success(),
            Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(2)),
            _ => {
                // It may be wedged: nothing is to be had from it, and it must not outlive the question.
                let _ = child.kill();
                let _ = child.wait();
                return None;
            }
        }
    };
    let mut text = Vec::new();
    child.stdout.take()?.take(VERSION_BYTES).read_to_end(&mut text).ok()?;
    if ended { version_in(&String::from_utf8_lossy(&text)) } else { None }
}

/// The first word that starts with a digit, or with `v` and a digit, and has a dot.
fn version_in(text: &str) -> Option<String> {
    let words = text.split(|c: char| c.is_whitespace() || c == ',' || c == '(' || c == ')');
    words
        .map(|word| word.strip_prefix('v').unwrap_or(word))
        .find(|word| word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.'))
        .map(|word| word.chars().filter(|c| c.is_ascii_graphic()).take(40).collect())
}

#[cfg(test)]
mod tests {
    use super::super::root::fake;
    use super::*;
    use std::fs;

    /// Proves that versions are found in what these programs really print.
    #[test]
    fn versions_are_found_in_prose() {
        for (text, expected) in [
            ("runc version 1.1.5+ds1\ncommit: 1.1.5\n", Some("1.1.5+ds1")),
            ("QEMU emulator version 7.2.17 (Debian 1:7.2+dfsg-7)\n", Some("7.2.17")),
            ("Docker version 28.2.2, build e6534b4\n", Some("28.2.2")),
            ("Firecracker v1.10.1\n", Some("1.10.1")),
            ("no version here", None),
        ] {
            assert_eq!(version_in(text).as_deref(), expected, "{text}");
        }
    }

    fn script(root: &Root, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Proves that a program is found where it is executable, and asked for its version; a hanging one costs 1.5 s.
    #[test]
    fn finds_programs_and_does_not_hang() {
        let (_dir, root) = fake::root(&[("usr/bin/crun", "not executable"), ("opt/x/youki/", "a directory")]);
        script(&root, "usr/sbin/runc", "#!/bin/sh\necho runc version 9.8.7\n");
        script(&root, "opt/x/podman", "#!/bin/sh\nexec sleep 60\n");
        script(&root, "usr/bin/docker", "#!/bin/sh\necho 1.2.3; exit 1\n");
        let start = Instant::now();
        let found = find(&root, Some(OsStr::new("/opt/x:/nowhere")));
        assert!(start.elapsed() < Duration::from_secs(10));
        let found: Vec<_> = found.iter().map(|p| (p.name, p.version.as_deref())).collect();
        assert_eq!(found, [("runc", Some("9.8.7")), ("podman", None), ("docker", None)]);
    }
}
