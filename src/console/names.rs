//! Names made in the file system: sockets and links, removed when the console ends.

use std::cell::Cell;
use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// A name of ours. Removed when dropped, unless another file has taken its place meanwhile.
#[derive(Debug)]
pub(super) struct Name {
    made: Made,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Made {
    /// Ready for the kernel, so that a signal's handler can remove it without allocating.
    path: CString,
    folder: PathBuf,
    device: u64,
    inode: u64,
}

/// All names there are now, for the paths that run no destructor.
static NAMES: Mutex<Vec<Made>> = Mutex::new(Vec::new());

thread_local! {
    /// Whether this thread has made a name. Only such a thread removes all: others may be confined more closely.
    static MAKER: Cell<bool> = const { Cell::new(false) };
}

impl Name {
    /// Takes charge of the name `path`, just made.
    pub(super) fn adopt(path: &Path) -> io::Result<Self> {
        // The process may change its directory later.
        let path = std::path::absolute(path)?;
        let folder = path.parent().unwrap_or(Path::new("/")).to_owned();
        let path = CString::new(path.as_os_str().as_bytes())?;
        let about = rustix::fs::lstat(&path)?;
        let made = Made { path, folder, device: about.st_dev, inode: about.st_ino };
        MAKER.set(true);
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
        rustix::fs::lstat(&self.path).is_ok_and(|now| (now.st_dev, now.st_ino) == (self.device, self.inode))
    }

    fn remove(&self) {
        if self.is_ours() {
            let _ = rustix::fs::unlink(&self.path);
        }
    }
}

/// The folders of all names there are now.
pub(super) fn folders() -> Vec<PathBuf> {
    NAMES.lock().unwrap_or_else(PoisonError::into_inner).iter().map(|made| made.folder.clone()).collect()
}

/// Removes every name there is, at exit, in a panic or in a signal's handler. A name just being made or removed is left to who
/// does it. Allocates and frees nothing.
pub(super) fn remove_all() {
    if MAKER.get()
        && let Ok(names) = NAMES.try_lock()
    {
        names.iter().for_each(Made::remove);
    }
}
