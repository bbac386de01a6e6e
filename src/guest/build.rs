//! Builds a kernel: source, patches, configuration, `make vmlinux`, into the store.
//!
//! 1. The source, the compiler and the recipe name the build; one that the store has already is used.
//! 2. One build of a flavour at a time: a lock, after which the store is looked at again.
//! 3. What is missing on the host, and the disk's free space.
//! 4. Unpack what is needed of the source.
//! 5. Apply the patches that fit.
//! 6. Configure: tinyconfig, the fragment on top, olddefconfig, and a check of what was taken.
//! 7. Count the steps by a dry run, then compile; a patch that a file does not compile with is taken out again.
//! 8. Strip, check that the image can be mapped, write the manifest, rename into place.

mod job;
mod patching;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;

use self::job::Job;
use super::manifest::{Manifest, SourceRecord};
use super::recipe::{Era, Flavour};
use super::run::{RunError, Runner};
use super::source::{Compression, Source, SourceError};
use super::store::{self, Store, StoreError};
use super::toolchain::{self, Missing, MissingList};

/// Free space a build wants, in bytes: the tree with its objects has 0.7 GB in micro, more in full.
const WANTED_SPACE: u64 = 2 << 30;

/// Why there is no kernel.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Tools or the source are not installed.
    #[error("building a kernel needs what is not on this host: {0}")]
    Missing(MissingList),
    /// The disk is too full.
    #[error(
        "a build needs {} MiB in {}, and {} MiB are free there: make room, or set RINGFENCE_CACHE to a folder elsewhere",
        WANTED_SPACE >> 20, .folder.display(), .free >> 20
    )]
    Space {
        /// Where the tree would be.
        folder: PathBuf,
        /// Free bytes there.
        free: u64,
    },
    /// A step failed.
    #[error(
        "{what}\n{tail}\nThe whole log: {}{hint}", log.display(),
        hint = guess.as_ref().map(|g| format!("\nProbably missing: {}", MissingList(vec![g.clone()]))).unwrap_or_default()
    )]
    Failed {
        /// Which program failed and how.
        what: String,
        /// The log's last lines.
        tail: String,
        /// The whole log.
        log: PathBuf,
        /// What the host may lack.
        guess: Option<Missing>,
    },
    /// The image cannot be mapped from its file.
    #[error("the kernel that was built cannot be mapped from its file {path}: {1}", path = .0.display())]
    Image(PathBuf, String),
    /// The user or the system asked to stop.
    #[error("stopped; nothing half-built is left")]
    Stopped,
    /// A program could not be run at all, or the log not be written.
    #[error(transparent)]
    Run(RunError),
    /// The source cannot be used.
    #[error(transparent)]
    Source(SourceError),
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The file system said no.
    #[error("cannot {0} {path}", path = .1.display())]
    Io(&'static str, PathBuf, #[source] io::Error),
}

impl From<SourceError> for BuildError {
    fn from(error: SourceError) -> Self {
        match error {
            SourceError::Stopped => Self::Stopped,
            error => Self::Source(error),
        }
    }
}

fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BuildError {
    move |e| BuildError::Io(what, path.to_owned(), e)
}

/// What a build is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Unpacking the source; counted in bytes of the tarball.
    Unpack,
    /// Patching and configuring.
    Configure,
    /// Compiling and linking; counted in steps of the makefiles.
    Compile,
    /// Stripping and storing.
    Store,
}

/// Who is told how a build goes.
pub trait Progress {
    /// A phase begins.
    fn phase(&mut self, phase: Phase);
    /// So much of the phase is done. A total of 0 is not known.
    fn at(&mut self, done: u64, total: u64);
    /// Something the user should know now.
    fn say(&mut self, text: &str);
    /// Something that may matter later.
    fn warn(&mut self, text: &str);
}

/// What to build.
#[derive(Clone, Debug)]
pub struct Request {
    /// Which kernel.
    pub flavour: Flavour,
    /// A tarball or folder; none takes the distribution's.
    pub source: Option<PathBuf>,
    /// Compilers at once, at least 1.
    pub jobs: usize,
    /// Whether to build what the store has already.
    pub force: bool,
    /// Whether to leave the tree where it was built.
    pub keep: bool,
}

/// A kernel that is in the store now.
#[derive(Debug)]
pub struct Built {
    /// Its image.
    pub path: PathBuf,
    /// What it is.
    pub manifest: Manifest,
    /// Whether it was built just now.
    pub fresh: bool,
    /// Where the tree was left.
    pub tree: Option<PathBuf>,
}

/// Builds a kernel unless the store has it, and makes it its flavour's default.
///
/// # Errors
/// See [`BuildError`]; nothing half-done is left behind, but for the log of a build that failed.
pub fn build(
    store: &Store,
    request: &Request,
    stop: &AtomicBool,
    progress: &mut dyn Progress,
) -> Result<Built, BuildError> {
    let started = Instant::now();
    let default = current_default(store, request.flavour);
    let plan = match Plan::new(request, default.as_ref()) {
        Ok(plan) => plan,
        // Without a compiler or a source the kernel of this recipe that is there is as good as it gets.
        Err(error) => match default {
            Some(built) if request.source.is_none() && !request.force && error.is_lack() => return Ok(built),
            _ => return Err(error),
        },
    };
    if let Some(built) = plan.stored(store, request)? {
        return Ok(built);
    }
    let _lock = lock(store, request.flavour, stop, progress)?;
    if let Some(built) = plan.stored(store, request)? {
        return Ok(built);
    }
    plan.check_host()?;
    sweep(&store.work());
    check_space(&store.work())?;
    let log = store.work().join(format!("{}.log", plan.work_name()));
    let mut job = Job { plan, runner: Runner::new(log, stop).map_err(BuildError::Run)?, progress, started };
    let result = job.run(store, request);
    if !matches!(result, Ok(_) | Err(BuildError::Failed { .. })) {
        // Only a program's failure can be read up in it.
        let _ = fs::remove_file(job.runner.log_path());
    }
    result
}

impl BuildError {
    /// Whether the host lacks something, as against something going wrong.
    fn is_lack(&self) -> bool {
        matches!(self, Self::Missing(_))
    }
}

/// The flavour's default kernel if it is of this binary's recipe.
fn current_default(store: &Store, flavour: Flavour) -> Option<Built> {
    let path = store.find(flavour.name()).ok()?;
    let manifest = Manifest::read(path.parent()?).ok()?;
    Some(Built { path, manifest, fresh: false, tree: None })
}

/// What names a build, but for the era of the source, which is known once it is unpacked.
struct Plan {
    flavour: Flavour,
    source: Source,
    record: SourceRecord,
    compiler: String,
    /// A hash of the source and the compiler's major version.
    made_of: String,
}

impl Plan {
    fn new(request: &Request, known: Option<&Built>) -> Result<Self, BuildError> {
        let source = match &request.source {
            Some(path) => Source::open(path)?,
            None => match Source::packaged() {
                Ok(source) => source,
                Err(SourceError::NotFound(_)) => return Err(lacking(None)),
                Err(error) => return Err(error.into()),
            },
        };
        let Some(compiler) = toolchain::compiler() else { return Err(lacking(Some(&source))) };
        let known = known.and_then(|built| built.manifest.build.as_ref()).map(|build| &build.source);
        let record = source.record(known)?;
        let made_of = made_of(&record, &compiler);
        Ok(Self { flavour: request.flavour, source, record, compiler, made_of })
    }

    /// The build's name: flavour, recipe, source and compiler.
    fn id(&self, era: Era) -> String {
        format!("{}-{}-{}", self.flavour, era.fingerprint(self.flavour), self.made_of)
    }

    /// What the build is called until the source's era is known.
    fn work_name(&self) -> String {
        format!("{}-{}", self.flavour, self.made_of)
    }

    /// Sees that the host has every tool. Whether objtool's library is needed depends on the configuration.
    fn check_host(&self) -> Result<(), BuildError> {
        let mut missing = toolchain::missing(self.source.compression());
        if missing.iter().all(|missing| missing.package == toolchain::LIBELF) {
            missing.clear()
        }
        if missing.is_empty() { Ok(()) } else { Err(BuildError::Missing(MissingList(missing))) }
    }

    /// This build's kernel if the store has it; it becomes the default.
    fn stored(&self, store: &Store, request: &Request) -> Result<Option<Built>, BuildError> {
        if request.force {
            return Ok(None);
        }
        for era in Era::all() {
            let id = self.id(era);
            let folder = store.built().join(&id);
            let there = |manifest: &Manifest| {
                manifest.version.as_deref().is_some_and(|version| Era::of(version) == era)
                    && fs::metadata(folder.join(&manifest.image)).is_ok_and(|meta| meta.len() == manifest.size)
            };
            let Some(manifest) = Manifest::read(&folder).ok().filter(there) else { continue };
            if store.default_id(self.flavour).as_deref() != Some(id.as_str()) {
                store.set_default(self.flavour, &id)?;
            }
            return Ok(Some(Built { path: folder.join(&manifest.image), manifest, fresh: false, tree: None }));
        }
        Ok(None)
    }
}

/// Everything the host lacks for a build from this source; from none, the source too.
fn lacking(source: Option<&Source>) -> BuildError {
    let mut missing = toolchain::missing(source.map_or(Some(Compression::Xz), Source::compression));
    if source.is_none() {
        missing.push(Missing { what: "the kernel's source".to_owned(), package: toolchain::LINUX_SOURCE });
    }
    BuildError::Missing(MissingList(missing))
}

/// What a build from this request would find missing on the host.
///
/// # Errors
/// When the source that was named cannot be used.
pub fn missing(source: Option<&Path>) -> Result<Vec<Missing>, BuildError> {
    let source = match source {
        Some(path) => Some(Source::open(path)?),
        None => Source::packaged().ok(),
    };
    match lacking(source.as_ref()) {
        BuildError::Missing(list) => Ok(list.0),
        error => Err(error),
    }
}

/// A hash of the source and the compiler's major version, which with flavour and recipe names a build.
fn made_of(source: &SourceRecord, compiler: &str) -> String {
    let version = compiler.split_whitespace().last().unwrap_or_default();
    let major = version.split('.').next().unwrap_or_default();
    store::hash(format!("{}\n{major}\n", source.blake3).as_bytes())[..8].to_owned()
}

/// Waits for the flavour's lock, which is given back when the file is closed.
fn lock(store: &Store, flavour: Flavour, stop: &AtomicBool, progress: &mut dyn Progress) -> Result<File, BuildError> {
    let path = store.make(store.work())?.join(format!("{flavour}.lock"));
    let file = File::create(&path).map_err(io_error("make the lock", &path))?;
    let mut said = false;
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) => {}
            Err(e) => return Err(BuildError::Io("take the lock", path, e.into())),
        }
        if !std::mem::replace(&mut said, true) {
            progress.say(&format!("another build of the {flavour} kernel is under way: waiting for it"));
        }
        if stop.load(Ordering::Relaxed) {
            return Err(BuildError::Stopped);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Removes what builds and imports left that were killed: their names end in the number of a process that is gone.
fn sweep(work: &Path) {
    let Ok(entries) = fs::read_dir(work) else { return };
    for entry in entries.filter_map(Result::ok) {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|n| n.rsplit_once(".new-")).and_then(|(_, pid)| pid.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn check_space(folder: &Path) -> Result<(), BuildError> {
    let free = toolchain::free_bytes(folder).map_err(io_error("ask for the free space of", folder))?;
    if free < WANTED_SPACE { Err(BuildError::Space { folder: folder.to_owned(), free }) } else { Ok(()) }
}

#[cfg(test)]
#[path = "build_tests.rs"]
mod tests;
