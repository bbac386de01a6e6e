//! Applies the recipe's patches, and takes one out again that a tree does not compile with.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use super::job::Job;
use super::{BuildError, io_error};
use crate::guest::recipe::{Era, Patch};
use crate::guest::run::RunError;

/// What became of the recipe's patches.
#[derive(Default)]
pub(super) struct Patches {
    /// In the tree, in the order in which they were applied.
    pub(super) applied: Vec<Patch>,
    /// Not in the tree.
    pub(super) left_out: Vec<Patch>,
}

impl Job<'_> {
    /// Applies the patches for this version that fit, and warns of those that do not.
    pub(super) fn apply(&mut self, tree: &Path, version: &str) -> Result<Patches, BuildError> {
        let mut patches = Patches::default();
        for patch in Era::of(version).patches().filter(Patch::has_diff) {
            if self.patch(tree, &patch, &["--forward"])? {
                patches.applied.push(patch);
            } else {
                let text = format!("left out {}, which does not apply to Linux {version}", patch.name);
                self.progress.warn(&format!("{text}; it is needed {}", patch.needed()));
                patches.left_out.push(patch);
            }
        }
        Ok(patches)
    }

    /// Takes the last patch out of the tree that changes one of the `broken` files, warns of it, and tells whether there
    /// was one.
    pub(super) fn take_out(
        &mut self,
        tree: &Path,
        version: &str,
        patches: &mut Patches,
        broken: &BTreeSet<String>,
    ) -> Result<bool, BuildError> {
        let changes = |patch: &Patch| patch.files().find(|file| broken.contains(*file));
        let suspect = patches.applied.iter().enumerate().rev().find_map(|(at, patch)| Some((at, changes(patch)?)));
        let Some((at, file)) = suspect else { return Ok(false) };
        let patch = patches.applied[at];
        if !self.patch(tree, &patch, &["--reverse"])? {
            return Ok(false);
        }
        let text = format!("left out {}, with which {file} of Linux {version} does not compile", patch.name);
        self.progress.warn(&format!("{text}; it is needed {}", patch.needed()));
        patches.left_out.push(patches.applied.remove(at));
        Ok(true)
    }

    /// Applies a patch (`--forward`) or takes it out (`--reverse`) if it fits, and tells whether it did.
    pub(super) fn patch(&mut self, tree: &Path, patch: &Patch, way: &[&str]) -> Result<bool, BuildError> {
        let file = tree.join(format!(".{}", patch.name.replace('/', "-")));
        fs::write(&file, patch.text).map_err(io_error("write", &file))?;
        let command = |more: &[&str]| {
            let mut command = Command::new("patch");
            command.args(["-p1", "--batch", "--no-backup-if-mismatch"]).args(way).arg("-i").arg(&file).args(more);
            command.current_dir(tree);
            command
        };
        match self.runner.run(&mut command(&["--dry-run"]), &mut |_| ()) {
            Ok(()) => {}
            Err(RunError::Failed { .. }) => return Ok(false),
            Err(error) => return Err(self.explain(error)),
        }
        self.runner.run(&mut command(&[]), &mut |_| ()).map_err(|e| self.explain(e))?;
        Ok(true)
    }
}

/// The file in which the compiler found an error, if a line of make's output tells of one: `a/b.c:1:2: error: ...`.
pub(super) fn file_with_error(line: &str) -> Option<&str> {
    let (place, _) = line.split_once(": error: ").or_else(|| line.split_once(": fatal error: "))?;
    let mut parts = place.rsplitn(3, ':');
    let number = |part: Option<&str>| part.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    let numbered = number(parts.next()) && number(parts.next());
    parts.next().filter(|_| numbered).map(|file| file.strip_prefix("./").unwrap_or(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves that the compiler's own lines name a file, and what only talks of errors does not.
    #[test]
    fn reads_the_compilers_errors() {
        let error = "lib/kobject_uevent.c:562:17: error: wrong type argument to increment";
        assert_eq!(file_with_error(error), Some("lib/kobject_uevent.c"));
        assert_eq!(file_with_error("./include/a.h:1:2: fatal error: b.h: No such file"), Some("include/a.h"));
        for line in ["make[3]: *** [x.o] Error 1", "a.c:1:2: warning: error: x", "ld: error: x", "a.c: error: x", ""] {
            assert_eq!(file_with_error(line), None, "{line}");
        }
    }
}
