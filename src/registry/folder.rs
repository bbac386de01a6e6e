//! Where the records are: a folder for each user.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, fstat, openat};
use rustix::process::geteuid;

use super::RegistryError;

/// This user's folder: `$RINGFENCE_RUNTIME/machines`; else `$XDG_RUNTIME_DIR/ringfence` where that is this user's; else
/// `/run/ringfence` for root and `/tmp/ringfence-UID` for others.
pub fn own_folder() -> PathBuf {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let user = geteuid().as_raw();
    if let Some(folder) = set("RINGFENCE_RUNTIME") {
        return folder.join("machines");
    }
    match set("XDG_RUNTIME_DIR") {
        Some(folder) if fs::metadata(&folder).is_ok_and(|m| m.is_dir() && m.uid() == user) => folder.join("ringfence"),
        _ if user == 0 => PathBuf::from("/run/ringfence"),
        _ => PathBuf::from(format!("/tmp/ringfence-{user}")),
    }
}

/// The folders whose machines this user is shown: its own, and for root those of every user. With `$RINGFENCE_RUNTIME` only
/// that one.
pub fn folders() -> Vec<PathBuf> {
    let mut all = vec![own_folder()];
    if geteuid().as_raw() != 0 || std::env::var_os("RINGFENCE_RUNTIME").is_some_and(|value| !value.is_empty()) {
        return all;
    }
    all.push(PathBuf::from("/run/ringfence"));
    all.extend(entries("/run/user").map(|path| path.join("ringfence")));
    all.extend(entries("/tmp").filter(|path| is_a_users(path)));
    all.retain(|folder| folder.symlink_metadata().is_ok_and(|m| m.is_dir()));
    all.sort();
    all.dedup();
    all
}

/// Whether it is called `ringfence-UID`.
fn is_a_users(path: &Path) -> bool {
    let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
    name.strip_prefix("ringfence-").is_some_and(|user| user.parse::<u32>().is_ok())
}

fn entries(folder: &str) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path())
}

/// A folder that only its owner writes to.
pub(super) struct Folder {
    pub(super) path: PathBuf,
    pub(super) fd: OwnedFd,
    /// User id of its owner.
    pub(super) owner: u32,
}

impl Folder {
    /// Opens this user's folder, making it when it is missing.
    pub(super) fn make(path: &Path) -> Result<Self, RegistryError> {
        let failed = |attempted| move |source| RegistryError::Folder { attempted, folder: path.to_owned(), source };
        let folder = match Self::open(path) {
            Err(RegistryError::Folder { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed("make"))?;
                Self::open(path)?
            }
            other => other?,
        };
        if folder.owner == geteuid().as_raw() {
            return Ok(folder);
        }
        let problem = format!("it belongs to user {}, not to {}", folder.owner, geteuid().as_raw());
        Err(RegistryError::Unsafe { folder: folder.path, problem })
    }

    /// Opens a folder that is there.
    pub(super) fn open(path: &Path) -> Result<Self, RegistryError> {
        let failed = |source: rustix::io::Errno| RegistryError::Folder {
            attempted: "open",
            folder: path.to_owned(),
            source: source.into(),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(CWD, path, flags, Mode::empty()).map_err(failed)?;
        let stat = fstat(&fd).map_err(failed)?;
        if Mode::from_raw_mode(stat.st_mode).intersects(Mode::WGRP | Mode::WOTH) {
            let problem = "others than its owner may write to it".to_owned();
            return Err(RegistryError::Unsafe { folder: path.to_owned(), problem });
        }
        Ok(Self { path: path.to_owned(), fd, owner: stat.st_uid })
    }
}
