//! Kernels on disk: those built by the recipe and those imported, each in a folder with its manifest.
//!
//! ```text
//! CACHE/kernels/built/FLAVOUR-RECIPE-SOURCE/{vmlinux,config,System.map,build.log,manifest.json}
//! CACHE/kernels/imported/NAME/{image,manifest.json}
//! CACHE/kernels/default/FLAVOUR -> ../built/FLAVOUR-RECIPE-SOURCE
//! CACHE/kernels/work/         trees being built, folders being filled; kernels appear by rename(2)
//! ```
//!
//! The link's target names the recipe, so one readlink(2) tells whether the default kernel is this binary's.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::manifest::{Manifest, ManifestError, SCHEMA};
use super::recipe::{Era, Flavour};

/// File name of a built kernel's image.
pub const VMLINUX: &str = "vmlinux";

/// Largest file that is taken as a kernel, in bytes.
const MAX_IMAGE: u64 = 1 << 30;

/// Why the store could not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No default kernel of this flavour.
    #[error("there is no {0} kernel yet: build it with `ringfence kernel build{option}`", option = option(*.0))]
    NotBuilt(Flavour),
    /// The default kernel was built by another recipe than this binary's.
    #[error(
        "the {flavour} kernel is out of date, this ringfence has another recipe: run `ringfence kernel build{option}`",
        option = option(*.flavour)
    )]
    OutOfDate {
        /// The kernel asked for.
        flavour: Flavour,
        /// Where the older one is.
        path: PathBuf,
    },
    /// A name that the store does not hold.
    #[error("the store has no kernel \"{0}\": see `ringfence kernel list`")]
    NoSuchKernel(String),
    /// A name that cannot be given to an imported kernel.
    #[error(
        "\"{0}\" cannot name a kernel: use 1 to 64 letters, digits, dots, hyphens and underscores, a letter or digit \
         first; micro and full are taken"
    )]
    BadName(String),
    /// The name is in use.
    #[error("there already is a kernel named \"{0}\": choose another with --name, or `ringfence kernel rm {0}` first")]
    Exists(String),
    /// The file to import is no regular file, or too large to be a kernel.
    #[error("{path} is {1}", path = .0.display())]
    NotAKernel(PathBuf, &'static str),
    /// Not even `~` is known.
    #[error("nowhere to keep kernels: set HOME, XDG_CACHE_HOME or RINGFENCE_CACHE to a folder")]
    NoCache,
    /// The manifest of a kernel that is needed.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The file system said no.
    #[error("cannot {0} {path}", path = .1.display())]
    Io(&'static str, PathBuf, #[source] io::Error),
}

/// The option that names a flavour which is not the default.
fn option(flavour: Flavour) -> &'static str {
    match flavour {
        Flavour::Micro => "",
        Flavour::Full => " --flavour full",
    }
}

fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    move |e| StoreError::Io(what, path.to_owned(), e)
}

/// The folder for everything that can be made again: `$RINGFENCE_CACHE`, else `$XDG_CACHE_HOME/ringfence`, else
/// `~/.cache/ringfence`. Variables that are empty count as unset, and XDG_CACHE_HOME only when it is absolute (XDG Base
/// Directory Specification).
///
/// # Errors
/// When none of the variables is set.
pub fn cache_folder() -> Result<PathBuf, StoreError> {
    cache_folder_from(|name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from))
}

fn cache_folder_from(var: impl Fn(&str) -> Option<PathBuf>) -> Result<PathBuf, StoreError> {
    let xdg = || var("XDG_CACHE_HOME").filter(|p| p.is_absolute()).map(|p| p.join("ringfence"));
    let home = || var("HOME").map(|p| p.join(".cache/ringfence"));
    var("RINGFENCE_CACHE").or_else(xdg).or_else(home).ok_or(StoreError::NoCache)
}

/// The kernel `ringfence run` boots when none is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DefaultKernel {
    /// An uncompressed ELF image.
    pub path: PathBuf,
}

/// Finds the default kernel of a flavour, by one readlink(2) and one stat(2).
///
/// # Errors
/// [`StoreError::NotBuilt`], [`StoreError::OutOfDate`], or the file system's.
pub fn default_kernel(cache: &Path, flavour: Flavour) -> Result<DefaultKernel, StoreError> {
    let link = cache.join("kernels/default").join(flavour.name());
    let target = match fs::read_link(&link) {
        Ok(target) => target,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(StoreError::NotBuilt(flavour)),
        Err(e) => return Err(StoreError::Io("read the link", link, e)),
    };
    let id = target.file_name().and_then(OsStr::to_str).unwrap_or_default();
    let path = cache.join("kernels/built").join(id).join(VMLINUX);
    if !path.is_file() {
        return Err(StoreError::NotBuilt(flavour));
    }
    match recipe_of(id) {
        Some((of, recipe)) if of == flavour && flavour.has_recipe(recipe) => Ok(DefaultKernel { path }),
        _ => Err(StoreError::OutOfDate { flavour, path }),
    }
}

/// The flavour and the recipe's fingerprint in a built kernel's name.
fn recipe_of(id: &str) -> Option<(Flavour, &str)> {
    let mut parts = id.splitn(3, '-');
    let flavour = parts.next()?.parse().ok()?;
    Some((flavour, parts.next()?))
}

/// A kernel in the store.
#[derive(Debug, Serialize)]
pub struct Entry {
    /// What it is called in `kernel path` and `kernel rm`.
    pub name: String,
    /// Its image; the folder when the manifest is damaged.
    pub path: PathBuf,
    /// Whether `ringfence run` takes it when no kernel is named (micro), or `--flavour` names it (full).
    pub default: bool,
    /// Whether this binary's recipe would build another.
    pub out_of_date: bool,
    /// What it is; none when the manifest is damaged.
    pub manifest: Option<Manifest>,
    /// What is wrong with the manifest or the image.
    pub damage: Option<String>,
}

/// The kernels below a cache folder.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    /// The store in this cache folder, which need not exist yet.
    pub fn new(cache: &Path) -> Self {
        Self { root: cache.join("kernels") }
    }

    /// Where built kernels are.
    pub(super) fn built(&self) -> PathBuf {
        self.root.join("built")
    }

    fn imported(&self) -> PathBuf {
        self.root.join("imported")
    }

    /// Where what is not finished lives.
    pub(super) fn work(&self) -> PathBuf {
        self.root.join("work")
    }

    /// Makes a folder of the store.
    pub(super) fn make(&self, folder: PathBuf) -> Result<PathBuf, StoreError> {
        fs::create_dir_all(&folder).map_err(io_error("make the folder", &folder))?;
        Ok(folder)
    }

    /// Every kernel: built ones, then imported ones, each by name. A damaged one is listed with what is wrong.
    ///
    /// # Errors
    /// When a folder of the store cannot be read; one that is not there is empty.
    pub fn list(&self) -> Result<Vec<Entry>, StoreError> {
        let mut entries = Vec::new();
        for folder in [self.built(), self.imported()] {
            for name in names(&folder)? {
                entries.push(self.entry(&folder.join(&name), name));
            }
        }
        Ok(entries)
    }

    fn entry(&self, folder: &Path, name: String) -> Entry {
        let built = folder.starts_with(self.built());
        let recipe = recipe_of(&name).filter(|_| built);
        let default = recipe.is_some_and(|(flavour, _)| self.default_id(flavour).is_some_and(|id| id == name));
        let (manifest, damage) = match Manifest::read(folder) {
            Ok(manifest) => (Some(manifest), None),
            Err(error) => (None, Some(causes(&error))),
        };
        // The version says which era's recipe it has to be; without one, any will do.
        let version = manifest.as_ref().and_then(|manifest| manifest.version.as_deref());
        let current = recipe.is_none_or(|(flavour, recipe)| match version {
            Some(version) => Era::of(version).fingerprint(flavour).to_string() == recipe,
            None => flavour.has_recipe(recipe),
        });
        let path = manifest.as_ref().map_or_else(|| folder.to_owned(), |m| folder.join(&m.image));
        let damage = damage.or_else(|| image_damage(&path, manifest.as_ref()?.size));
        Entry { name, path, default, out_of_date: !current, manifest, damage }
    }

    /// The name of the build that is a flavour's default, whatever its recipe.
    pub(super) fn default_id(&self, flavour: Flavour) -> Option<String> {
        let target = fs::read_link(self.root.join("default").join(flavour.name())).ok()?;
        target.file_name()?.to_str().map(str::to_owned)
    }

    /// The image of the kernel with this name: a flavour, a built kernel's full name, or an imported kernel's.
    ///
    /// # Errors
    /// [`StoreError::NoSuchKernel`], what [`default_kernel`] says of a flavour, or a damaged manifest.
    pub fn find(&self, name: &str) -> Result<PathBuf, StoreError> {
        if let Ok(flavour) = name.parse() {
            let cache = self.root.parent().unwrap_or(&self.root);
            return default_kernel(cache, flavour).map(|kernel| kernel.path);
        }
        let folder = self.folder(name)?;
        Ok(folder.join(Manifest::read(&folder)?.image))
    }

    /// The folder of a kernel that is there.
    fn folder(&self, name: &str) -> Result<PathBuf, StoreError> {
        let there = |parent: PathBuf| Some(parent.join(name)).filter(|folder| folder.is_dir());
        let folder = is_plain(name).then(|| there(self.built()).or_else(|| there(self.imported()))).flatten();
        folder.ok_or_else(|| StoreError::NoSuchKernel(name.to_owned()))
    }

    /// Copies a kernel image into the store. The caller has looked at what it is.
    ///
    /// # Errors
    /// [`StoreError::BadName`], [`StoreError::Exists`], [`StoreError::NotAKernel`], or the file system's.
    pub fn import(&self, file: &Path, name: &str, version: Option<String>) -> Result<Entry, StoreError> {
        if !is_plain(name) || name.parse::<Flavour>().is_ok() {
            return Err(StoreError::BadName(name.to_owned()));
        }
        let home = self.make(self.imported())?.join(name);
        if home.exists() || self.built().join(name).exists() {
            return Err(StoreError::Exists(name.to_owned()));
        }
        let meta = fs::metadata(file).map_err(io_error("read", file))?;
        if !meta.is_file() {
            return Err(StoreError::NotAKernel(file.to_owned(), "not a regular file"));
        }
        if meta.len() > MAX_IMAGE {
            return Err(StoreError::NotAKernel(file.to_owned(), "larger than 1 GiB, which no kernel is"));
        }
        let filling = self.filling(name)?;
        let image = filling.path().join("image");
        let mut source = File::open(file).map_err(io_error("open", file))?;
        let mut copy = File::create(&image).map_err(io_error("make", &image))?;
        let size = io::copy(&mut source, &mut copy).map_err(io_error("copy into the store", file))?;
        copy.sync_all().map_err(io_error("write", &image))?;
        let manifest = Manifest {
            schema: SCHEMA,
            version,
            image: "image".to_owned(),
            size,
            blake3: hash_file(&image).map_err(io_error("read", &image))?,
            created_unix: now(),
            cmdline: None,
            build: None,
            imported_from: Some(fs::canonicalize(file).unwrap_or_else(|_| file.to_owned())),
        };
        manifest.write(filling.path()).map_err(io_error("write the manifest in", filling.path()))?;
        match fs::rename(filling.path(), &home) {
            Ok(()) => Ok(self.entry(&home, name.to_owned())),
            Err(_) if home.exists() => Err(StoreError::Exists(name.to_owned())),
            Err(e) => Err(StoreError::Io("move into place", home, e)),
        }
    }

    /// A folder to fill, gone when dropped unless it was renamed.
    pub(super) fn filling(&self, name: &str) -> Result<Scratch, StoreError> {
        let path = self.make(self.work())?.join(format!("{name}.new-{}", std::process::id()));
        Scratch::new(path)
    }

    /// Puts a filled folder in place as the built kernel `id` and makes it its flavour's default.
    pub(super) fn install(&self, filled: &Path, id: &str, flavour: Flavour) -> Result<PathBuf, StoreError> {
        let home = self.make(self.built())?.join(id);
        // An older build of the same name moves aside in the same step, so that the name is never without a kernel.
        let exchange = rustix::fs::RenameFlags::EXCHANGE;
        let here = rustix::fs::CWD;
        let moved = match rustix::fs::renameat_with(here, filled, here, &home, exchange) {
            Ok(()) => Ok(()),
            Err(rustix::io::Errno::NOENT) => fs::rename(filled, &home),
            // Not every file system can exchange.
            Err(_) => fs::remove_dir_all(&home).and_then(|()| fs::rename(filled, &home)),
        };
        moved.map_err(io_error("move into place", &home))?;
        self.set_default(flavour, id)?;
        Ok(home)
    }

    /// Points a flavour's default at a built kernel.
    pub(super) fn set_default(&self, flavour: Flavour, id: &str) -> Result<(), StoreError> {
        let folder = self.make(self.root.join("default"))?;
        let link = folder.join(flavour.name());
        let fresh = folder.join(format!(".{flavour}-{}", std::process::id()));
        let _ = fs::remove_file(&fresh);
        symlink(Path::new("../built").join(id), &fresh)
            .and_then(|()| fs::rename(&fresh, &link))
            .map_err(io_error("make the link", &link))
    }

    /// Removes the kernel with this name (as in [`Store::find`], out of date or not) and returns its full name.
    ///
    /// # Errors
    /// [`StoreError::NoSuchKernel`], or the file system's.
    pub fn remove(&self, name: &str) -> Result<String, StoreError> {
        let name = match name.parse() {
            Ok(flavour) => self.default_id(flavour).ok_or_else(|| StoreError::NoSuchKernel(name.to_owned()))?,
            Err(_) => name.to_owned(),
        };
        let folder = self.folder(&name)?;
        // Aside first: a folder half removed would still look like a kernel.
        let aside = self.filling(&name)?;
        fs::rename(&folder, aside.path()).map_err(io_error("remove", &folder))?;
        for flavour in Flavour::ALL {
            if self.default_id(flavour).is_some_and(|id| id == name) {
                let link = self.root.join("default").join(flavour.name());
                fs::remove_file(&link).map_err(io_error("remove", &link))?;
            }
        }
        Ok(name)
    }
}

/// Names of the folders in `folder`, sorted; none when it is not there.
fn names(folder: &Path) -> Result<Vec<String>, StoreError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(StoreError::Io("read the folder", folder.to_owned(), e)),
    };
    let mut names: Vec<_> = entries
        .filter_map(Result::ok)
        .filter(|entry| entry.path().is_dir())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| is_plain(name))
        .collect();
    names.sort();
    Ok(names)
}

/// Whether a name is safe as a file name and in a terminal.
fn is_plain(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    (1..=64).contains(&name.len()) && name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(plain)
}

/// An error and its causes on one line.
pub(super) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Seconds since 1970 began.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// BLAKE3 of a file's content in hexadecimal.
pub(super) fn hash_file(path: &Path) -> io::Result<String> {
    let mut hash = blake3::Hasher::new();
    hash.update_reader(File::open(path)?)?;
    Ok(hash.finalize().to_hex().to_string())
}

/// BLAKE3 of bytes in hexadecimal.
pub(super) fn hash(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

/// What a look at the image's length tells is wrong with it.
fn image_damage(image: &Path, size: u64) -> Option<String> {
    match fs::metadata(image) {
        Ok(meta) if meta.is_file() && meta.len() == size => None,
        Ok(meta) if meta.is_file() => Some(format!("its image has {} of {size} bytes", meta.len())),
        Ok(_) => Some("its image is not a regular file".to_owned()),
        Err(error) => Some(format!("its image cannot be read: {error}")),
    }
}

/// A folder that is removed with everything in it when this is dropped.
#[derive(Debug)]
pub(super) struct Scratch {
    path: PathBuf,
    keep: bool,
}

impl Scratch {
    /// Makes the folder, empty.
    pub(super) fn new(path: PathBuf) -> Result<Self, StoreError> {
        if path.exists() {
            fs::remove_dir_all(&path).map_err(io_error("remove what is left of", &path))?;
        }
        fs::create_dir_all(&path).map_err(io_error("make the folder", &path))?;
        Ok(Self { path, keep: false })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves the folder where it is.
    pub(super) fn keep(&mut self) {
        self.keep = true;
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.keep {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
