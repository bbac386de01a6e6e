//! Where the kernel's source comes from: a distribution's `linux-source` tarball, any 6.x tarball, or a folder.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::manifest::SourceRecord;
use super::store::{hash, hash_file};

/// Where distributions put their kernel's source.
const PACKAGED: &str = "/usr/src";

/// Most that a source may unpack to, in bytes, and most files: several times what Linux is.
const MAX_UNPACKED: u64 = 8 << 30;
const MAX_FILES: u64 = 1_000_000;

/// Why a source cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// No `linux-source` package is installed.
    #[error("no kernel source in {}: install linux-source, or name a tarball or folder with --source", .0.display())]
    NotFound(PathBuf),
    /// A file whose content is no compressed tarball that is known.
    #[error("{} is no tarball compressed by xz, gzip, bzip2 or zstd", .0.display())]
    NotATarball(PathBuf),
    /// The folder or tarball holds something else.
    #[error("{path} is no Linux source: {1}", path = .0.display())]
    NotLinux(PathBuf, String),
    /// The tarball holds far more than Linux does.
    #[error("{} holds more than {MAX_UNPACKED} bytes or {MAX_FILES} files, which no kernel source does", .0.display())]
    TooLarge(PathBuf),
    /// The tarball is cut off or damaged.
    #[error("{path} cannot be unpacked: it is cut off or damaged ({1})", path = .0.display())]
    Damaged(PathBuf, String),
    /// The user or the system asked to stop.
    #[error("stopped")]
    Stopped,
    /// The file system said no.
    #[error("cannot {0} {path}", path = .1.display())]
    Io(&'static str, PathBuf, #[source] io::Error),
}

fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SourceError {
    move |e| SourceError::Io(what, path.to_owned(), e)
}

/// How a tarball is compressed, known by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// The .xz File Format 1.2.1, section 2.1.1.1.
    Xz,
    /// RFC 1952, section 2.3.1.
    Gzip,
    /// `BZh`.
    Bzip2,
    /// RFC 8878, section 3.1.1.
    Zstd,
}

impl Compression {
    fn of(head: &[u8]) -> Option<Self> {
        let magics: [(&[u8], Self); 4] = [
            (b"\xfd7zXZ\0", Self::Xz),
            (b"\x1f\x8b", Self::Gzip),
            (b"BZh", Self::Bzip2),
            (b"\x28\xb5\x2f\xfd", Self::Zstd),
        ];
        magics.into_iter().find(|(magic, _)| head.starts_with(magic)).map(|(_, compression)| compression)
    }

    /// The program that unpacks it.
    pub const fn program(self) -> &'static str {
        match self {
            Self::Xz => "xz",
            Self::Gzip => "gzip",
            Self::Bzip2 => "bzip2",
            Self::Zstd => "zstd",
        }
    }

    /// The Debian package that holds the program.
    pub const fn package(self) -> &'static str {
        match self {
            Self::Xz => "xz-utils",
            Self::Gzip => "gzip",
            Self::Bzip2 => "bzip2",
            Self::Zstd => "zstd",
        }
    }
}

/// A kernel's source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A compressed tarball.
    Tarball(PathBuf, Compression),
    /// A tree; it is copied, never changed.
    Folder(PathBuf),
}

impl Source {
    /// The source at a path: a folder, or a tarball known by its content.
    ///
    /// # Errors
    /// When it can't be read or is neither.
    pub fn open(path: &Path) -> Result<Self, SourceError> {
        let path = fs::canonicalize(path).map_err(io_error("read", path))?;
        if path.is_dir() {
            version_in(&path)?;
            return Ok(Self::Folder(path));
        }
        let mut head = Vec::new();
        let file = open_regular(&path)?;
        file.take(8).read_to_end(&mut head).map_err(io_error("read", &path))?;
        match Compression::of(&head) {
            Some(compression) => Ok(Self::Tarball(path, compression)),
            None => Err(SourceError::NotATarball(path)),
        }
    }

    /// The newest source that the distribution's package installed.
    ///
    /// # Errors
    /// [`SourceError::NotFound`] when there is none.
    pub fn packaged() -> Result<Self, SourceError> {
        Self::open(&newest(Path::new(PACKAGED))?)
    }

    /// The tarball or folder.
    pub fn path(&self) -> &Path {
        match self {
            Self::Tarball(path, _) | Self::Folder(path) => path,
        }
    }

    /// How it is compressed; none for a folder.
    pub fn compression(&self) -> Option<Compression> {
        match self {
            Self::Tarball(_, compression) => Some(*compression),
            Self::Folder(_) => None,
        }
    }

    /// Size and time of the tarball with no hash yet; nothing for a folder, whose files say more than it does.
    fn unhashed(&self) -> Result<SourceRecord, SourceError> {
        let mut record = SourceRecord { path: self.path().to_owned(), size: 0, modified_ns: 0, blake3: String::new() };
        if let Self::Tarball(path, _) = self {
            let meta = fs::metadata(path).map_err(io_error("read", path))?;
            record.size = meta.len();
            record.modified_ns = i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec());
        }
        Ok(record)
    }

    /// What is recorded of the source, so that the same one is known again. A tarball with the path, size and time of
    /// `known` is taken for the same without being read.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn record(&self, known: Option<&SourceRecord>) -> Result<SourceRecord, SourceError> {
        let mut record = self.unhashed()?;
        record.blake3 = match self {
            Self::Tarball(path, _) => {
                let same = |k: &&SourceRecord| {
                    (&k.path, k.size, k.modified_ns) == (&record.path, record.size, record.modified_ns)
                };
                match known.filter(same) {
                    Some(known) => known.blake3.clone(),
                    None => hash_file(path).map_err(io_error("read", path))?,
                }
            }
            Self::Folder(path) => hash_folder(path)?,
        };
        Ok(record)
    }

    /// Puts what a build needs of the source into `into` and returns the tree's top. `progress` is called with the
    /// bytes of the source done and their total; it stops the unpacking when it returns false.
    ///
    /// # Errors
    /// When the source is damaged, too large or no Linux, when the disk is full, or when asked to stop.
    pub fn unpack(&self, into: &Path, progress: &mut dyn FnMut(u64, u64) -> bool) -> Result<PathBuf, SourceError> {
        fs::create_dir_all(into).map_err(io_error("make the folder", into))?;
        let tree = match self {
            Self::Tarball(path, compression) => untar(path, *compression, into, progress)?,
            Self::Folder(path) => {
                let tree = into.join("linux");
                copy_tree(path, Path::new(""), &tree, &mut || progress(0, 0))?;
                tree
            }
        };
        version_in(&tree)?;
        Ok(tree)
    }
}

/// The newest `linux-source-*` tarball or unpacked folder.
fn newest(folder: &Path) -> Result<PathBuf, SourceError> {
    let entries = fs::read_dir(folder).map_err(|_| SourceError::NotFound(folder.to_owned()))?;
    let names = entries.filter_map(Result::ok).filter_map(|entry| entry.file_name().into_string().ok());
    let newest = names.filter_map(|name| Some((packaged_version(&name)?, name))).max();
    newest.map(|(_, name)| folder.join(name)).ok_or_else(|| SourceError::NotFound(folder.to_owned()))
}

/// The version in a tarball's name: `linux-source-6.1.tar.xz` is [6, 1].
fn packaged_version(name: &str) -> Option<Vec<u32>> {
    let (version, ending) = name.strip_prefix("linux-source-")?.split_once(".tar.")?;
    let numbers: Option<Vec<u32>> = version.split('.').map(|part| part.parse().ok()).collect();
    numbers.filter(|numbers| numbers[0] >= 6 && ["xz", "gz", "bz2", "zst"].contains(&ending))
}

/// Linux's version, such as `6.1.192`, from the first lines of the tree's Makefile.
///
/// # Errors
/// When there is no such Makefile, or the version is older than 6.0.
pub fn version_in(tree: &Path) -> Result<String, SourceError> {
    let not_linux = |why: &str| SourceError::NotLinux(tree.to_owned(), why.to_owned());
    let mut text = Vec::new();
    let makefile = tree.join("Makefile");
    let read = File::open(&makefile).and_then(|f| f.take(1 << 16).read_to_end(&mut text));
    read.map_err(|e| not_linux(&format!("its Makefile cannot be read, {e}")))?;
    let text = String::from_utf8_lossy(&text);
    let value = |name: &str| {
        let lines = text.lines().take(20);
        let mut values = lines.filter_map(|line| line.split_once('=').filter(|(n, _)| n.trim() == name));
        values.next().map(|(_, value)| value.trim().to_owned())
    };
    let number = |name: &str| value(name)?.parse::<u32>().ok();
    let (Some(major), Some(minor), Some(patch)) = (number("VERSION"), number("PATCHLEVEL"), number("SUBLEVEL")) else {
        return Err(not_linux("its Makefile does not begin with VERSION, PATCHLEVEL and SUBLEVEL"));
    };
    let extra: String = value("EXTRAVERSION").unwrap_or_default();
    let plain = extra.chars().all(|c| c.is_ascii_alphanumeric() || ".-_+~".contains(c));
    if major < 6 {
        return Err(not_linux(&format!("version {major}.{minor} is older than 6.0, for which the recipe is")));
    }
    Ok(format!("{major}.{minor}.{patch}{}", if plain { extra.as_str() } else { "" }))
}

/// Whether a build of the recipe's kernels reads this file (a path in the tree). The rest, two thirds of the source, is
/// not unpacked: documentation, other architectures, and code of drivers no micro VM has. Kconfig files and makefiles
/// stay, since they include each other across the tree.
fn is_needed(path: &Path) -> bool {
    const NO_CODE: [&str; 7] = [
        "drivers/gpu/drm",
        "drivers/infiniband",
        "drivers/media",
        "drivers/net/ethernet",
        "drivers/net/wireless",
        "drivers/staging",
        "sound",
    ];
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let for_make = ["Kconfig", "Makefile", "Kbuild"].iter().any(|kept| name.starts_with(kept));
    if for_make {
        return true;
    }
    if path.starts_with("Documentation") || path.starts_with("tools/testing") || path.starts_with("tools/perf") {
        return false;
    }
    if let Ok(rest) = path.strip_prefix("arch") {
        let of_another = rest.components().nth(1).is_some() && !rest.starts_with("x86");
        return !of_another;
    }
    let is_code = matches!(path.extension().and_then(OsStr::to_str), Some("c" | "h"));
    !(is_code && NO_CODE.iter().any(|folder| path.starts_with(folder)))
}

/// The program that unpacks, ended when dropped.
struct Unpacker(Child);

impl Drop for Unpacker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Opens a regular file; never waits, not even on a named pipe.
fn open_regular(path: &Path) -> Result<File, SourceError> {
    let mut options = fs::OpenOptions::new();
    let file = options.read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(io_error("open", path))?;
    match file.metadata().map_err(io_error("read", path))?.is_file() {
        true => Ok(file),
        false => Err(SourceError::NotATarball(path.to_owned())),
    }
}

/// Unpacks a tarball's needed files; every one lies in one top folder, which is returned.
fn untar(
    path: &Path,
    compression: Compression,
    into: &Path,
    progress: &mut dyn FnMut(u64, u64) -> bool,
) -> Result<PathBuf, SourceError> {
    let mut file = open_regular(path)?;
    let total = file.metadata().map_err(io_error("read", path))?.len();
    // The child shares the open file description, so its offset tells how far the child has read.
    let theirs = file.try_clone().map_err(io_error("open", path))?;
    let mut command = Command::new(compression.program());
    command.arg("-dc").stdin(theirs).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut unpacker = Unpacker(command.spawn().map_err(io_error("run the unpacker for", path))?);
    let output = unpacker.0.stdout.take().ok_or_else(|| SourceError::NotATarball(path.to_owned()))?;

    let mut archive = tar::Archive::new(BufReader::with_capacity(1 << 20, output));
    archive.set_preserve_mtime(false);
    let damaged = |e: io::Error| SourceError::Damaged(path.to_owned(), e.to_string());
    let (mut top, mut bytes, mut files): (Option<PathBuf>, u64, u64) = (None, 0, 0);
    for entry in archive.entries().map_err(damaged)? {
        let mut entry = entry.map_err(damaged)?;
        files += 1;
        bytes = bytes.saturating_add(entry.size());
        if bytes > MAX_UNPACKED || files > MAX_FILES {
            return Err(SourceError::TooLarge(path.to_owned()));
        }
        if files % 256 == 0 && !progress(file.stream_position().unwrap_or(0), total) {
            return Err(SourceError::Stopped);
        }
        let name = entry.path().map_err(damaged)?.into_owned();
        let mut components = name.components().filter(|c| *c != Component::CurDir);
        let Some(Component::Normal(first)) = components.next() else { continue };
        let inner: PathBuf = components.collect();
        let kind = entry.header().entry_type();
        if kind.is_pax_global_extensions() || (!inner.as_os_str().is_empty() && !is_needed(&inner)) {
            continue;
        }
        if top.get_or_insert_with(|| first.into()).as_os_str() != first {
            return Err(SourceError::NotLinux(path.to_owned(), "it has more than one top folder".to_owned()));
        }
        entry.unpack_in(into).map_err(|e| unpack_error(e, path, &into.join(&name)))?;
    }
    let status = unpacker.0.wait().map_err(io_error("unpack", path))?;
    if !status.success() {
        return Err(SourceError::Damaged(path.to_owned(), format!("{} failed", compression.program())));
    }
    top.map(|top| into.join(top)).ok_or_else(|| SourceError::NotLinux(path.to_owned(), "it is empty".to_owned()))
}

/// Tells a full disk from a damaged tarball.
fn unpack_error(error: io::Error, tarball: &Path, file: &Path) -> SourceError {
    // The tar crate wraps the system's error; it is the last of the chain.
    let mut cause: &(dyn std::error::Error + 'static) = &error;
    let mut kind = error.kind();
    while let Some(next) = cause.source() {
        kind = next.downcast_ref::<io::Error>().map_or(kind, io::Error::kind);
        cause = next;
    }
    match kind {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::PermissionDenied => {
            SourceError::Io("write", file.to_owned(), io::Error::from(kind))
        }
        _ => SourceError::Damaged(tarball.to_owned(), cause.to_string()),
    }
}

/// Files of a tree that belong to a checkout or an earlier build, not to the source.
fn is_left_over(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    [".git", ".config", "vmlinux", "vmlinux.o", "System.map"].contains(&&*name)
        || [".o", ".a", ".ko", ".cmd"].iter().any(|ending| name.ends_with(ending))
}

/// Copies a tree's needed files; the links in it are copied as links.
fn copy_tree(from: &Path, inner: &Path, to: &Path, go_on: &mut dyn FnMut() -> bool) -> Result<(), SourceError> {
    fs::create_dir_all(to).map_err(io_error("make the folder", to))?;
    for entry in fs::read_dir(from).map_err(io_error("read the folder", from))? {
        let entry = entry.map_err(io_error("read the folder", from))?;
        let (name, path) = (entry.file_name(), entry.path());
        let (inner, target) = (inner.join(&name), to.join(&name));
        let kind = entry.file_type().map_err(io_error("read", &path))?;
        if is_left_over(&name) || inner == Path::new("include/generated") || inner == Path::new("include/config") {
            continue;
        }
        if !go_on() {
            return Err(SourceError::Stopped);
        }
        if kind.is_dir() {
            copy_tree(&path, &inner, &target, go_on)?;
        } else if kind.is_symlink() {
            let link = fs::read_link(&path).map_err(io_error("read the link", &path))?;
            std::os::unix::fs::symlink(link, &target).map_err(io_error("make the link", &target))?;
        } else if kind.is_file() && is_needed(&inner) {
            fs::copy(&path, &target).map_err(io_error("copy", &path))?;
        }
    }
    Ok(())
}

/// Hashes names, sizes and times of the files that a build would copy.
fn hash_folder(folder: &Path) -> Result<String, SourceError> {
    let (mut lines, mut folders) = (Vec::new(), vec![PathBuf::new()]);
    while let Some(inner) = folders.pop() {
        let here = folder.join(&inner);
        for entry in fs::read_dir(&here).map_err(io_error("read the folder", &here))?.filter_map(Result::ok) {
            let inner = inner.join(entry.file_name());
            let Ok(meta) = entry.metadata() else { continue };
            if is_left_over(&entry.file_name()) {
                continue;
            }
            if meta.is_dir() {
                folders.push(inner);
            } else if is_needed(&inner) {
                lines.push(format!("{}\0{}\0{}.{}\n", inner.display(), meta.len(), meta.mtime(), meta.mtime_nsec()));
            }
        }
    }
    lines.sort();
    Ok(hash(lines.concat().as_bytes()))
}

#[cfg(test)]
#[path = "source_tests.rs"]
mod tests;
