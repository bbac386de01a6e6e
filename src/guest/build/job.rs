//! The steps of a build, from the source to the store.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use super::patching::{Patches, file_with_error};
use super::{BuildError, Built, Phase, Plan, Progress, Request, io_error};
use crate::guest::elf;
use crate::guest::manifest::{Build, Manifest, SCHEMA};
use crate::guest::recipe::{self, Era, Patch, Untaken};
use crate::guest::run::{RunError, Runner};
use crate::guest::source::{Source, version_in};
use crate::guest::store::{self, Scratch, Store, VMLINUX};
use crate::guest::toolchain::{self, Missing, MissingList};

/// Fewer steps than this in a dry run mean that it told nothing.
const FEWEST_STEPS: u64 = 100;

/// A build under way.
pub(super) struct Job<'a> {
    pub(super) plan: Plan,
    pub(super) runner: Runner<'a>,
    pub(super) progress: &'a mut dyn Progress,
    pub(super) started: Instant,
}

/// What configuring and patching found.
struct Findings {
    version: String,
    patches: Patches,
    untaken: Vec<Untaken>,
}

impl Job<'_> {
    pub(super) fn run(&mut self, store: &Store, request: &Request) -> Result<Built, BuildError> {
        let mut scratch = store.filling(&format!("{}.tree", self.plan.work_name()))?;
        let tree = self.unpack(scratch.path())?;
        let mut findings = self.prepare(&tree, request.jobs)?;
        let steps = self.compile(&tree, request.jobs, &mut findings)?;
        self.progress.phase(Phase::Store);
        let id = self.plan.id(Era::of(&findings.version));
        let filling = store.filling(&id)?;
        let manifest = self.finish(&tree, filling.path(), findings, steps, request.jobs)?;
        let home = store.install(filling.path(), &id, self.plan.flavour)?;
        let tree = request.keep.then(|| keep(&mut scratch, tree));
        Ok(Built { path: home.join(VMLINUX), manifest, fresh: true, tree })
    }

    fn unpack(&mut self, into: &Path) -> Result<PathBuf, BuildError> {
        self.progress.phase(Phase::Unpack);
        let Self { plan, runner, progress, .. } = self;
        let tree = plan.source.unpack(into, &mut |done, total| {
            progress.at(done, total);
            !runner.stopped()
        })?;
        if matches!(plan.source, Source::Folder(_)) {
            // A tree that was built in may hold more than its source.
            self.make(&tree, 1, &["mrproper"], &mut |_| ())?;
        }
        Ok(tree)
    }

    /// Patches and configures.
    fn prepare(&mut self, tree: &Path, jobs: usize) -> Result<Findings, BuildError> {
        self.progress.phase(Phase::Configure);
        let version = version_in(tree)?;
        let patches = self.apply(tree, &version)?;
        let untaken = self.configure(tree, &Era::of(&version).fragment(self.plan.flavour))?;
        if !untaken.is_empty() {
            let list: Vec<_> = untaken.iter().map(ToString::to_string).collect();
            self.progress.warn(&format!("Linux {version} did not take these settings: {}", list.join(", ")));
        }
        self.make(tree, jobs, &["prepare"], &mut |_| ())?;
        Ok(Findings { version, patches, untaken })
    }

    fn configure(&mut self, tree: &Path, fragment: &str) -> Result<Vec<Untaken>, BuildError> {
        let path = tree.join(".config");
        let read = || fs::read_to_string(&path).map_err(io_error("read", &path));
        self.make(tree, 1, &["tinyconfig"], &mut |_| ())?;
        fs::write(&path, recipe::merge(&read()?, fragment)).map_err(io_error("write", &path))?;
        self.make(tree, 1, &["olddefconfig"], &mut |_| ())?;
        let config = read()?;
        let objtool = recipe::symbols(&config).contains_key("OBJTOOL");
        if objtool && !toolchain::has_header("gelf.h") {
            let missing = Missing { what: "gelf.h".to_owned(), package: toolchain::LIBELF };
            return Err(BuildError::Missing(MissingList(vec![missing])));
        }
        Ok(recipe::untaken(fragment, &config))
    }

    /// Compiles, and returns how many steps it took. A patch that a file does not compile with is taken out again.
    fn compile(&mut self, tree: &Path, jobs: usize, findings: &mut Findings) -> Result<u64, BuildError> {
        let total = self.count_steps(tree)?;
        self.progress.phase(Phase::Compile);
        self.progress.at(0, total);
        let mut done = 0;
        loop {
            let mut broken = BTreeSet::new();
            let Self { runner, progress, .. } = self;
            let result = runner.run(&mut make(tree, jobs, &[VMLINUX]), &mut |line| {
                if is_step(line) {
                    done += 1;
                    progress.at(done, if total == 0 { 0 } else { total.max(done) });
                }
                broken.extend(file_with_error(line).map(str::to_owned));
            });
            match result {
                Ok(()) => return Ok(done),
                Err(error @ RunError::Failed { .. }) if !self.runner.stopped() => {
                    if !self.take_out(tree, &findings.version, &mut findings.patches, &broken)? {
                        return Err(self.explain(error));
                    }
                }
                Err(error) => return Err(self.explain(error)),
            }
        }
    }

    /// How many steps `make vmlinux` will take, by a dry run; 0 when that tells nothing.
    fn count_steps(&mut self, tree: &Path) -> Result<u64, BuildError> {
        let mut steps = 0;
        let result = self.runner.ask(&mut make(tree, 1, &["-n", "-k", VMLINUX]), &mut |line| {
            steps += u64::from(line.contains("echo '  "));
        });
        match result {
            // It ends early, where a makefile wants to read what a step would have made.
            Ok(()) | Err(RunError::Failed { .. }) => Ok(if steps < FEWEST_STEPS { 0 } else { steps }),
            Err(error) => Err(self.explain(error)),
        }
    }

    /// Puts the kernel and what belongs to it into `folder`.
    fn finish(
        &mut self,
        tree: &Path,
        folder: &Path,
        findings: Findings,
        steps: u64,
        jobs: usize,
    ) -> Result<Manifest, BuildError> {
        let image = folder.join(VMLINUX);
        let mut strip = Command::new("strip");
        strip.args(["--strip-debug", "--remove-section=.comment", "--remove-section=.rela*", "-o"]);
        strip.arg(&image).arg(tree.join(VMLINUX));
        self.runner.run(&mut strip, &mut |_| ()).map_err(|e| self.explain(e))?;
        check_image(&tree.join(VMLINUX), &image)?;
        sync(&image)?;
        for (from, to) in [(".config", "config"), ("System.map", "System.map")] {
            let (from, to) = (tree.join(from), folder.join(to));
            fs::copy(&from, &to).map_err(io_error("copy", &from))?;
        }
        let manifest = self.manifest(folder, findings, steps, jobs)?;
        let log = folder.join("build.log");
        fs::rename(self.runner.log_path(), &log).map_err(io_error("move the log to", &log))?;
        manifest.write(folder).map_err(io_error("write the manifest in", folder))?;
        Ok(manifest)
    }

    fn manifest(&self, folder: &Path, findings: Findings, steps: u64, jobs: usize) -> Result<Manifest, BuildError> {
        let (image, config) = (folder.join(VMLINUX), folder.join("config"));
        let recipe = Era::of(&findings.version).fingerprint(self.plan.flavour).to_string();
        Ok(Manifest {
            schema: SCHEMA,
            version: Some(findings.version),
            image: VMLINUX.to_owned(),
            size: fs::metadata(&image).map_err(io_error("read", &image))?.len(),
            blake3: store::hash_file(&image).map_err(io_error("read", &image))?,
            created_unix: store::now(),
            cmdline: None,
            build: Some(Build {
                flavour: self.plan.flavour,
                recipe,
                source: self.plan.record.clone(),
                config_blake3: store::hash_file(&config).map_err(io_error("read", &config))?,
                settings_not_taken: findings.untaken,
                patches: names(&findings.patches.applied),
                patches_left_out: names(&findings.patches.left_out),
                compiler: self.plan.compiler.clone(),
                steps,
                jobs,
                seconds: (self.started.elapsed().as_secs_f64() * 10.0).round() / 10.0,
            }),
            imported_from: None,
        })
    }

    fn make(
        &mut self,
        tree: &Path,
        jobs: usize,
        goals: &[&str],
        on_line: &mut dyn FnMut(&str),
    ) -> Result<(), BuildError> {
        self.runner.run(&mut make(tree, jobs, goals), on_line).map_err(|e| self.explain(e))
    }

    /// A program's failure with the log and what may be missing.
    pub(super) fn explain(&self, error: RunError) -> BuildError {
        match error {
            RunError::Failed { tail, .. } if self.runner.stopped() && tail.is_empty() => BuildError::Stopped,
            RunError::Failed { ref tail, .. } => BuildError::Failed {
                what: error.to_string(),
                log: self.runner.log_path().to_owned(),
                guess: toolchain::guess(&fs::read_to_string(self.runner.log_path()).unwrap_or_default()),
                tail: tail.clone(),
            },
            RunError::Stopped => BuildError::Stopped,
            error => BuildError::Run(error),
        }
    }
}

/// `make` in an environment of its own, so that the user's has no part in the kernel, nor has the time or the host.
pub(super) fn make(tree: &Path, jobs: usize, goals: &[&str]) -> Command {
    let mut command = Command::new("make");
    command.env_clear();
    for name in ["PATH", "HOME", "TMPDIR"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command.envs([
        ("LC_ALL", "C"),
        ("KBUILD_BUILD_TIMESTAMP", "Thu Jan  1 00:00:00 UTC 1970"),
        ("KBUILD_BUILD_USER", "ringfence"),
        ("KBUILD_BUILD_HOST", "ringfence"),
        ("KBUILD_BUILD_VERSION", "1"),
    ]);
    command.current_dir(tree).arg("ARCH=x86_64").arg(format!("-j{jobs}")).args(goals);
    command
}

/// Whether a line of make's output tells of a step: two spaces, a name in capitals, what it is done to.
pub(super) fn is_step(line: &str) -> bool {
    let Some(rest) = line.strip_prefix("  ") else { return false };
    let name = rest.split(' ').next().unwrap_or_default();
    let capital = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    name.starts_with(|c: char| c.is_ascii_uppercase()) && name.chars().all(capital) && rest.len() > name.len()
}

/// Sees that stripping changed no segment and that each can be mapped from the file.
pub(super) fn check_image(before: &Path, after: &Path) -> Result<(), BuildError> {
    let segments = |path: &Path| elf::segments(path).map_err(io_error("read the program headers of", path));
    let (before, stripped) = (segments(before)?, segments(after)?);
    let wrong = |why: &str| BuildError::Image(after.to_owned(), why.to_owned());
    if stripped.is_empty() {
        return Err(wrong("it has no loadable segment"));
    }
    if before.len() != stripped.len() || before.iter().zip(&stripped).any(|(a, b)| !a.same_in_memory(b)) {
        return Err(wrong("stripping changed its segments"));
    }
    if !stripped.iter().all(elf::Segment::can_be_mapped) {
        return Err(wrong("a segment's offset and its physical address differ within a page"));
    }
    Ok(())
}

fn names(patches: &[Patch]) -> Vec<String> {
    patches.iter().map(|patch| patch.name.to_owned()).collect()
}

fn sync(path: &Path) -> Result<(), BuildError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(io_error("write", path))
}

/// Leaves a tree where the next build does not sweep it away.
fn keep(scratch: &mut Scratch, tree: PathBuf) -> PathBuf {
    scratch.keep();
    let name = scratch.path().to_string_lossy().into_owned();
    let kept = PathBuf::from(name.rsplit_once(".new-").map_or(name.as_str(), |(kept, _)| kept));
    let _ = fs::remove_dir_all(&kept);
    match (tree.strip_prefix(scratch.path()).map(Path::to_owned), fs::rename(scratch.path(), &kept)) {
        (Ok(inner), Ok(())) => kept.join(inner),
        _ => tree,
    }
}
