//! Names made in the file system: sockets and links, removed when the console ends.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// A name of ours. Removed when dropped, unless another file has taken its place meanwhile.
#[derive(Debug)]
pub(super) struct Name {
    made: Made,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Made {
    path: PathBuf,
    device: u64,
    inode: u64,
}

/// All names there are now, for the paths that run no destructor.
static NAMES: Mutex<Vec<Made>> = Mutex::new(Vec::new());

impl Name {
    /// Takes charge of the name `path`, just made.
    pub(super) fn adopt(path: &Path) -> io::Result<Self> {
        let about = fs::symlink_metadata(path)?;
        // The process may change its directory later.
        let made = Made { path: std::path::absolute(path)?, device: about.dev(), inode: about.ino() };
        NAMES.lock().unwrap_or_else(PoisonError::into_inner).push(made.clone());
        super::terminal::install_guards();
        Ok(Self { made })
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        NAMES.lock().unwrap_or_else(PoisonError::into_inner).retain(|made| *made != self.made);
        self.made.remove();
    }
}

impl Made {
    fn is_ours(&self) -> bool {
        fs::symlink_metadata(&self.path).is_ok_and(|now| (now.dev(), now.ino()) == (self.device, self.inode))
    }

    fn remove(&self) {
        if self.is_ours() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Removes every name there is, at exit or in a panic. A name just being made or removed is left to who does it.
pub(super) fn remove_all() {
    if let Ok(mut names) = NAMES.try_lock() {
        for made in names.drain(..) {
            made.remove();
        }
    }
}
