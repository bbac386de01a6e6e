//! A guest as a subject: `ringfence run` with the harness's program in the default initial RAM disk.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use thiserror::Error;

use super::work;
use crate::guest::cpio::{Archive, CpioError};
use crate::guest::initramfs::{InitramfsError, default_initramfs};
use crate::guest::recipe::Flavour;
use crate::guest::spec::{Spec, SpecError, Stdio, WindowSize, spec_overlay};
use crate::guest::store::{StoreError, cache_folder, default_kernel};
use crate::units::ByteSize;

/// A size as `--memory` takes it.
fn memory_argument(size: ByteSize) -> String {
    let bytes = size.as_u64();
    if bytes.is_multiple_of(1 << 20) { format!("{}M", bytes >> 20) } else { bytes.to_string() }
}

/// Why a guest cannot be prepared.
#[derive(Debug, Error)]
pub enum GuestError {
    /// The default initial RAM disk.
    #[error(transparent)]
    Initramfs(#[from] InitramfsError),
    /// The cache folder.
    #[error(transparent)]
    Cache(#[from] StoreError),
    /// The program's archive.
    #[error("cannot pack the guest's programs")]
    Archive(#[from] CpioError),
    /// The command's archive.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// A file.
    #[error("cannot use {}; is the disk full, or TMPDIR another's?", .0.display())]
    File(PathBuf, #[source] io::Error),
}

/// What every guest of a comparison has in common.
#[derive(Debug)]
pub struct Guests {
    ringfence: PathBuf,
    work: PathBuf,
    initramfs: Vec<u8>,
    memory: ByteSize,
}

impl Guests {
    /// Guests with `memory` of RAM, started by the binary `ringfence`; their files go into the folder `work`.
    ///
    /// # Errors
    /// [`GuestError`] when there is no busybox or a file cannot be written.
    pub fn new(ringfence: &Path, work: &Path, memory: ByteSize) -> Result<Self, GuestError> {
        let cache = cache_folder()?;
        // Asked for now, so that a missing kernel is told before anything is measured.
        default_kernel(&cache, Flavour::Micro)?;
        let path = default_initramfs(&cache)?;
        let mut initramfs = fs::read(&path).map_err(|e| GuestError::File(path, e))?;
        let mut programs = Archive::new();
        programs.file("work", 0o755, work::PROGRAM)?;
        // Archives follow each other in one RAM disk when each is padded to 4 bytes, which both are.
        initramfs.extend(programs.finish());
        Ok(Self { ringfence: ringfence.to_owned(), work: work.to_owned(), initramfs, memory })
    }

    /// The command that runs `arguments` in a guest with `flags` for its allocation.
    ///
    /// # Errors
    /// [`GuestError`] when its files cannot be written.
    pub fn command(&self, arguments: &[&str], flags: &[String]) -> Result<Command, GuestError> {
        let spec = Spec {
            stdio: Stdio::Pipe,
            term: "dumb".into(),
            window: WindowSize::default(),
            hostname: "guest".to_owned(),
            loglevel: None,
            env: Vec::new(),
            args: arguments.iter().map(Into::into).collect(),
        };
        let mut disk = self.initramfs.clone();
        disk.extend(spec_overlay(&spec)?);
        // By content, so that a command run again is the same command line.
        let file = self.work.join(format!("guest-{}.cpio", &blake3::hash(&disk).to_hex()[..12]));
        if !file.exists() {
            fs::write(&file, disk).map_err(|e| GuestError::File(file.clone(), e))?;
        }
        let mut command = self.plain();
        command.arg("--initrd").arg(file).args(flags);
        Ok(command)
    }

    /// `ringfence run` with nothing but the memory.
    pub fn plain(&self) -> Command {
        let mut command = Command::new(&self.ringfence);
        command.args(["run", "--memory", &memory_argument(self.memory)]);
        command
    }
}
