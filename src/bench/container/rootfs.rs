//! The root file system that every container gets: a static busybox and the harness's own programs.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Where a static busybox is looked for, as for the default guest.
const BUSYBOX: [&str; 3] = ["/bin/busybox", "/usr/bin/busybox", "/usr/local/bin/busybox"];
const FOLDERS: [&str; 8] = ["bin", "dev", "etc", "proc", "root", "run", "sys", "tmp"];
/// The applets that containers are asked for; busybox's shell knows the rest by itself.
const APPLETS: [&str; 6] = ["sh", "true", "cat", "sleep", "uname", "echo"];

/// Why there is no root file system.
#[derive(Debug, Error)]
pub enum RootFsError {
    /// No busybox.
    #[error("containers need a static busybox and there is none at {}; install it: apt-get install busybox-static", BUSYBOX.join(" or "))]
    NoBusybox,
    /// A file.
    #[error("cannot write {}; is the disk full, or TMPDIR another's?", .0.display())]
    File(PathBuf, #[source] io::Error),
}

/// The host's busybox.
///
/// # Errors
/// [`RootFsError::NoBusybox`].
pub fn busybox() -> Result<PathBuf, RootFsError> {
    let mut candidates = BUSYBOX.iter().map(PathBuf::from);
    candidates.find(|path| path.is_file()).ok_or(RootFsError::NoBusybox)
}

/// A folder to be a container's root.
#[derive(Debug)]
pub struct RootFs(PathBuf);

impl RootFs {
    /// Makes it in the folder `path`, which must be empty or not there. `programs` are put at its top, by name.
    ///
    /// # Errors
    /// [`RootFsError`].
    pub fn make(path: &Path, programs: &[(&str, &[u8])]) -> Result<Self, RootFsError> {
        let busybox = busybox()?;
        let at = |path: PathBuf| move |source| RootFsError::File(path, source);
        for folder in FOLDERS {
            let folder = path.join(folder);
            fs::create_dir_all(&folder).map_err(at(folder))?;
        }
        let copy = path.join("bin/busybox");
        fs::copy(busybox, &copy).map_err(at(copy.clone()))?;
        for applet in APPLETS {
            let link = path.join("bin").join(applet);
            symlink("busybox", &link).map_err(at(link))?;
        }
        for (name, contents) in programs {
            let file = path.join(name);
            write_program(&file, contents).map_err(at(file))?;
        }
        // Containers whose root is another user see it too.
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).map_err(at(path.to_owned()))?;
        Ok(Self(path.to_owned()))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Packs it for `podman import` and its like.
    pub(super) fn write_tar(&self, to: &Path) -> io::Result<()> {
        let mut archive = tar::Builder::new(fs::File::create(to)?);
        archive.follow_symlinks(false);
        // All of it is root's, whoever makes it.
        archive.mode(tar::HeaderMode::Deterministic);
        archive.append_dir_all(".", &self.0)?;
        archive.into_inner()?.flush()
    }
}

/// Writes a program and closes it, so that it can be executed at once.
fn write_program(path: &Path, contents: &[u8]) -> io::Result<()> {
    fs::write(path, contents)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
}
