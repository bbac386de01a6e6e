//! The default initial RAM file system: the guest's init and a static busybox found on the host.
//!
//! It is an uncompressed archive (a guest whose kernel is emulated would take seconds to decompress one) of as few
//! entries as a shell can do with, because each costs the kernel a file creation. The applets' names are no entries:
//! `kernels/init/applets.rs` links them at run time, for an eighth of the cost, when something can need them.
//!
//! Built archives are cached by what went into them and the identity of the busybox file, so that a run neither
//! reads nor hashes 2 MB to find out that nothing has changed.

use std::fs::{self, File, Metadata};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use thiserror::Error;

use super::cpio::{Archive, CpioError};

/// The guest's init, compiled by `build.rs` from `kernels/init`.
pub const INIT: &[u8] = include_bytes!(env!("RINGFENCE_INIT"));

/// Where a static busybox is looked for.
const BUSYBOX_PATHS: [&str; 3] = ["/bin/busybox", "/usr/bin/busybox", "/usr/local/bin/busybox"];
/// Larger than any busybox, in bytes.
const BUSYBOX_MAX: u64 = 32 << 20;
/// Larger than any list of applets, in bytes: what init reads at most.
const APPLETS_MAX: usize = 16 << 10;
/// Longest name of an applet, in bytes.
const APPLET_NAME_MAX: usize = 64;
/// A cached archive that is used gets a new time stamp, at most so often.
const STAMPED_EVERY: Duration = Duration::from_secs(3600);
/// Others are removed when they have not been used for so long...
const UNUSED: Duration = Duration::from_secs(24 * 3600);
/// ... and beyond this number when they have not been used for twice as long as a time stamp may be old: not sooner, because
/// another run may have found one and be about to open it.
const KEPT: usize = 4;
/// To be raised when the contents below change.
const LAYOUT_VERSION: u32 = 2;

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n";
const GROUP: &str = "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n";
const HOSTS: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost\n";
const PROFILE: &str = "export PS1='\\h:\\w\\$ '\n";

/// Why there is no default initramfs.
#[derive(Debug, Error)]
pub enum InitramfsError {
    /// No busybox that runs without the host's libraries.
    #[error(
        "the default guest needs a static busybox, and {found}; install one (apt-get install busybox-static) or pass --initrd"
    )]
    NoBusybox {
        /// What was found instead, in words.
        found: String,
    },
    /// The busybox cannot be read.
    #[error("cannot read {path}; check its permissions")]
    Busybox {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The busybox does not say which applets it has.
    #[error(
        "\"{path} --list\" did not list busybox's applets ({problem}); reinstall it (apt-get install --reinstall busybox-static)"
    )]
    Applets {
        /// The file.
        path: PathBuf,
        /// What happened.
        problem: String,
    },
    /// The cache folder cannot be used.
    #[error("cannot write the initramfs to {path}; make the folder writable or name another in RINGFENCE_CACHE")]
    Cache {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The archive's format.
    #[error("cannot pack the initramfs")]
    Archive(#[from] CpioError),
}

/// The default initramfs in the folder `cache`, built now if it is not there yet.
///
/// # Errors
/// [`InitramfsError`] when the host has no static busybox or the cache cannot be written.
pub fn default_initramfs(cache: &Path) -> Result<PathBuf, InitramfsError> {
    let candidates: Vec<_> = BUSYBOX_PATHS.iter().map(PathBuf::from).collect();
    initramfs_from(cache, &candidates)
}

fn initramfs_from(cache: &Path, candidates: &[PathBuf]) -> Result<PathBuf, InitramfsError> {
    let found: Vec<_> = candidates.iter().filter_map(|path| Some((path, fs::metadata(path).ok()?))).collect();
    for (_, metadata) in &found {
        let cached = cache.join(cached_name(metadata));
        if is_whole(&cached) {
            if stamp(&cached) {
                remove_old(cache, &cached);
            }
            return Ok(cached);
        }
    }
    let mut unfit = Vec::new();
    for (path, metadata) in &found {
        let contents = read_busybox(path)?;
        match check_static(&contents) {
            Ok(()) => {
                let archive = build(&contents, &applets(path)?)?;
                return store(cache, &cached_name(metadata), &archive);
            }
            Err(problem) => unfit.push(format!("{} {problem}", path.display())),
        }
    }
    let found = match unfit.len() {
        0 => format!("there is none at {}", BUSYBOX_PATHS.join(" or ")),
        _ => unfit.join(", "),
    };
    Err(InitramfsError::NoBusybox { found })
}

/// The name in the cache, from everything that decides the contents.
fn cached_name(busybox: &Metadata) -> String {
    let mut hasher = DefaultHasher::new();
    (LAYOUT_VERSION, INIT, PASSWD, GROUP, HOSTS, PROFILE).hash(&mut hasher);
    (busybox.dev(), busybox.ino(), busybox.len()).hash(&mut hasher);
    (busybox.mtime(), busybox.mtime_nsec(), busybox.ctime(), busybox.ctime_nsec()).hash(&mut hasher);
    format!("initramfs-{:016x}.cpio", hasher.finish())
}

/// Whether the file begins and ends like an archive. It is written under another name and renamed, so that only a
/// damaged file system can make it anything else.
fn is_whole(path: &Path) -> bool {
    fn ends(path: &Path) -> io::Result<([u8; 6], [u8; 16])> {
        let mut file = File::open(path)?;
        let (mut start, mut end) = ([0; 6], [0; 16]);
        file.read_exact(&mut start)?;
        file.seek(SeekFrom::End(-16))?;
        file.read_exact(&mut end)?;
        Ok((start, end))
    }
    ends(path).is_ok_and(|(start, end)| &start == b"070701" && end.windows(10).any(|text| text == b"TRAILER!!!"))
}

fn read_busybox(path: &Path) -> Result<Vec<u8>, InitramfsError> {
    let failed = |source| InitramfsError::Busybox { path: path.to_owned(), source };
    let mut contents = Vec::new();
    let read = File::open(path).map_err(failed)?.take(BUSYBOX_MAX + 1).read_to_end(&mut contents).map_err(failed)?;
    if read as u64 > BUSYBOX_MAX {
        return Err(failed(io::Error::other(format!("it has more than {BUSYBOX_MAX} bytes, which no busybox has"))));
    }
    Ok(contents)
}

/// Whether the file is an x86-64 ELF program that needs no interpreter (System V ABI, "ELF Header" and "Program
/// Header"); if not, why.
fn check_static(elf: &[u8]) -> Result<(), &'static str> {
    const EM_X86_64: u64 = 62;
    const PT_INTERP: u64 = 3;
    const ENTRY_SIZE: usize = 56;
    let field = |at: usize, size: usize| -> Option<u64> {
        let bytes = elf.get(at..at.checked_add(size)?)?;
        Some(bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)))
    };
    if !elf.starts_with(b"\x7fELF\x02\x01") {
        return Err("is no 64-bit ELF program");
    }
    if field(18, 2) != Some(EM_X86_64) {
        return Err("is built for another architecture than x86-64");
    }
    let cut = "is cut short";
    let table = usize::try_from(field(32, 8).ok_or(cut)?).map_err(|_| cut)?;
    let entry_size = field(54, 2).ok_or(cut)? as usize;
    let count = field(56, 2).ok_or(cut)? as usize;
    if entry_size != ENTRY_SIZE || count == 0 {
        return Err("has no program headers");
    }
    for index in 0..count {
        let at = table.checked_add(index * ENTRY_SIZE).ok_or(cut)?;
        if field(at, 4).ok_or(cut)? == PT_INTERP {
            return Err("is dynamically linked, so it would not run in the guest");
        }
    }
    Ok(())
}

/// The names of the applets, each with a NUL, for init to link.
fn applets(busybox: &Path) -> Result<Vec<u8>, InitramfsError> {
    let failed = |problem: String| InitramfsError::Applets { path: busybox.to_owned(), problem };
    let output = Command::new(busybox)
        .arg("--list")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .map_err(|error| failed(error.to_string()))?;
    let names: Vec<&[u8]> = output.stdout.split(|&byte| byte == b'\n').filter(|name| is_applet_name(name)).collect();
    if !output.status.success() || !names.contains(&&b"sh"[..]) {
        return Err(failed(format!("{}, {} names", output.status, names.len())));
    }
    let list: Vec<u8> = names.iter().flat_map(|name| name.iter().copied().chain([0])).collect();
    if list.len() > APPLETS_MAX {
        return Err(failed(format!("a list of {} bytes", list.len())));
    }
    Ok(list)
}

fn is_applet_name(name: &[u8]) -> bool {
    (1..=APPLET_NAME_MAX).contains(&name.len())
        && !matches!(name, b"." | b".." | b"busybox")
        && name.iter().all(|&byte| byte.is_ascii_alphanumeric() || b"[._-+".contains(&byte))
}

/// The archive. What the kernel needs before init mounts anything comes first.
fn build(busybox: &[u8], applets: &[u8]) -> Result<Vec<u8>, CpioError> {
    let mut archive = Archive::new();
    archive.directory("dev", 0o755)?;
    // The kernel opens the console for init, and init rings the boot timer before it mounts /dev.
    for (path, mode, device) in [
        ("dev/console", 0o600, (5, 1)),
        ("dev/null", 0o666, (1, 3)),
        ("dev/port", 0o600, (1, 4)),
        ("dev/ttyS0", 0o600, (4, 64)),
    ] {
        archive.character_device(path, mode, device)?;
    }
    archive.file_at_page("init", 0o755, INIT)?;
    for (path, mode) in [
        ("bin", 0o755),
        ("etc", 0o755),
        ("proc", 0o555),
        ("root", 0o700),
        ("run", 0o755),
        ("sys", 0o555),
        ("tmp", 0o1777),
        ("ringfence", 0o755),
    ] {
        archive.directory(path, mode)?;
    }
    // /sbin, /usr/bin and /usr/sbin are all /bin.
    archive.symlink("sbin", "bin")?;
    archive.symlink("usr", ".")?;
    archive.file_at_page("bin/busybox", 0o755, busybox)?;
    archive.symlink("bin/sh", "busybox")?;
    archive.file("ringfence/applets", 0o644, applets)?;
    for (path, contents) in
        [("etc/passwd", PASSWD), ("etc/group", GROUP), ("etc/hosts", HOSTS), ("etc/profile", PROFILE)]
    {
        archive.file(path, 0o644, contents.as_bytes())?;
    }
    Ok(archive.finish())
}

/// Writes the archive beside its place and renames it, so that no run ever sees half of it; then removes the oldest.
fn store(cache: &Path, name: &str, archive: &[u8]) -> Result<PathBuf, InitramfsError> {
    let path = cache.join(name);
    let temporary = cache.join(format!(".{name}.{}.tmp", std::process::id()));
    let write = || -> io::Result<()> {
        fs::create_dir_all(cache)?;
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(&temporary)?;
        file.write_all(archive)?;
        drop(file);
        fs::rename(&temporary, &path)
    };
    write().map_err(|source| {
        let _ = fs::remove_file(&temporary);
        InitramfsError::Cache { path: path.clone(), source }
    })?;
    remove_old(cache, &path);
    Ok(path)
}

/// Marks an archive as used now, unless that was done lately. Whether it was done.
fn stamp(path: &Path) -> bool {
    let now = SystemTime::now();
    let lately = |stamped: SystemTime| now.duration_since(stamped).is_ok_and(|age| age < STAMPED_EVERY);
    let Ok(file) = File::open(path) else { return false };
    file.metadata().and_then(|m| m.modified()).is_ok_and(|stamped| !lately(stamped)) && file.set_modified(now).is_ok()
}

/// Keeps the cache small; a file that cannot be removed does no harm. A run that has one open or mapped keeps it.
fn remove_old(cache: &Path, used: &Path) {
    let Ok(entries) = fs::read_dir(cache) else { return };
    let (mut archives, now) = (Vec::new(), SystemTime::now());
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let Ok(stamped) = entry.metadata().and_then(|m| m.modified()) else { continue };
        let unused = now.duration_since(stamped).unwrap_or_default();
        let archive = name.starts_with("initramfs-") && name.ends_with(".cpio");
        let half_written = name.starts_with(".initramfs-") && name.ends_with(".tmp");
        if archive && entry.path() != used {
            archives.push((unused, entry.path()));
        } else if half_written && unused >= UNUSED {
            // Left by a run that was killed while it wrote.
            let _ = fs::remove_file(entry.path());
        }
    }
    archives.sort();
    for (rank, (unused, path)) in archives.iter().enumerate() {
        let limit = if rank + 1 < KEPT { UNUSED } else { 2 * STAMPED_EVERY };
        if *unused >= limit {
            let _ = fs::remove_file(path);
        }
    }
}

#[cfg(test)]
#[path = "initramfs_tests.rs"]
mod tests;
