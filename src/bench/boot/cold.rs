//! A start with nothing of the subject in the page cache.

use std::fs::File;
use std::path::PathBuf;

use rustix::fs::{Advice, fadvise};

/// How caches are emptied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chill {
    /// The whole page cache, dentries and inodes too (proc_sys_vm(5), drop_caches).
    DropCaches,
    /// The subject's own files (posix_fadvise(2), POSIX_FADV_DONTNEED), as far as nobody else has them mapped.
    Advise,
}

impl Chill {
    /// The best this user may do.
    pub fn best() -> Self {
        if rustix::process::geteuid().is_root() { Self::DropCaches } else { Self::Advise }
    }

    /// For reports.
    pub const fn describe(self) -> &'static str {
        match self {
            Self::DropCaches => "everything, by /proc/sys/vm/drop_caches",
            Self::Advise => "the subject's own files, by posix_fadvise; others stay cached",
        }
    }

    /// Empties the caches.
    ///
    /// # Errors
    /// A sentence that names the file.
    pub fn apply(self, files: &[PathBuf]) -> Result<(), String> {
        match self {
            Self::DropCaches => {
                const FILE: &str = "/proc/sys/vm/drop_caches";
                rustix::fs::sync();
                std::fs::write(FILE, "3").map_err(|e| format!("cannot write {FILE}: {e}"))
            }
            Self::Advise => files.iter().try_for_each(|path| {
                let failed = |e: &dyn std::fmt::Display| format!("cannot drop {} from the cache: {e}", path.display());
                let file = File::open(path).map_err(|e| failed(&e))?;
                // What was written and not yet stored cannot be dropped.
                let _ = file.sync_data();
                fadvise(&file, 0, None, Advice::DontNeed).map_err(|e| failed(&e))
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves that advice takes files that are there, and names one that is not.
    #[test]
    fn files_are_dropped_or_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), vec![1; 1 << 16]).unwrap();
        Chill::Advise.apply(&[file.path().to_owned()]).unwrap();
        let error = Chill::Advise.apply(&["/nonexistent".into()]).unwrap_err();
        assert!(error.contains("/nonexistent"), "{error}");
    }
}
