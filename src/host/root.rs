//! Where the host's files are looked up.

use std::fs;
use std::path::{Path, PathBuf};

/// The directory in which `/proc`, `/sys`, `/dev` and programs are looked up: `/`, or a stand-in for tests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root(PathBuf);

impl Default for Root {
    fn default() -> Self {
        Self(PathBuf::from("/"))
    }
}

impl Root {
    /// A root other than `/`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The path of `path` below this root; a leading `/` is allowed.
    pub fn join(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.0.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Whether a file is there.
    pub fn has(&self, path: impl AsRef<Path>) -> bool {
        self.join(path).exists()
    }

    /// A file's text without the white space around it, or `None` when it can't be read.
    pub fn read(&self, path: impl AsRef<Path>) -> Option<String> {
        let bytes = fs::read(self.join(path)).ok()?;
        Some(String::from_utf8_lossy(&bytes).trim().to_owned())
    }

    /// A file holding one whole number.
    pub fn read_number(&self, path: impl AsRef<Path>) -> Option<u64> {
        self.read(path)?.parse().ok()
    }

    /// Names in a directory, sorted; none when it can't be read.
    pub fn list(&self, path: impl AsRef<Path>) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.join(path)) else { return Vec::new() };
        let mut names: Vec<String> = entries.flatten().filter_map(|e| e.file_name().into_string().ok()).collect();
        names.sort();
        names
    }
}

#[cfg(test)]
pub(crate) mod fake {
    use super::Root;
    use std::fs;
    use tempfile::TempDir;

    /// A root made of the given files (path, content); a path that ends in `/` is a directory.
    pub(crate) fn root(files: &[(&str, &str)]) -> (TempDir, Root) {
        let dir = TempDir::new().unwrap();
        let root = Root::new(dir.path());
        for (path, content) in files {
            let full = root.join(path);
            if path.ends_with('/') {
                fs::create_dir_all(full).unwrap();
            } else {
                fs::create_dir_all(full.parent().unwrap()).unwrap();
                fs::write(full, content).unwrap();
            }
        }
        (dir, root)
    }
}
