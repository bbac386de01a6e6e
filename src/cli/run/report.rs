//! Where `--report` goes: opened before the machine runs, written after.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::machine::Report;

/// The report's destination. A file keeps what it held until the report is there; one that held nothing tells in its place why
/// there is none.
pub(super) struct ReportFile {
    path: PathBuf,
    /// None: standard output.
    file: Option<File>,
    /// The length of what a regular file held; it has a length to be set.
    held: Option<u64>,
}

impl ReportFile {
    /// Opens `path`, or standard output for "-".
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        if path.as_os_str() == "-" {
            return Ok(Self { path: path.to_owned(), file: None, held: None });
        }
        let (file, held) = open(path).with_context(|| format!("cannot write the report to {}", path.display()))?;
        Ok(Self { path: path.to_owned(), file: Some(file), held })
    }

    /// Writes the report whole, or leaves the file empty.
    pub(super) fn write(self, report: &Report) -> anyhow::Result<()> {
        let json = serde_json::to_string_pretty(report)? + "\n";
        let Some(mut file) = self.file else {
            return crate::cli::print(json);
        };
        let failed = || format!("cannot write the report to {}", self.path.display());
        let result = file.write_all(json.as_bytes());
        if self.held.is_some() {
            let len = if result.is_ok() { json.len() as u64 } else { 0 };
            file.set_len(len).with_context(failed)?;
        }
        result.with_context(failed)
    }

    /// Writes why there is no report, where the file held nothing: it can no longer be removed. The user reads it on standard
    /// error as well, so a file that does not take it is no matter.
    pub(super) fn write_error(self, error: &anyhow::Error) {
        if let (Some(mut file), Some(0)) = (self.file, self.held) {
            let json = serde_json::json!({ "error": format!("{error:#}") });
            let _ = file.write_all(format!("{json:#}\n").as_bytes());
        }
    }
}

fn open(path: &Path) -> anyhow::Result<(File, Option<u64>)> {
    // A named pipe without a reader would hold up the open; the flag is taken off again.
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::WGRP | Mode::ROTH | Mode::WOTH;
    let fd = match rustix::fs::open(path, flags, mode) {
        Err(Errno::NXIO) => bail!("nobody reads this named pipe; start its reader first"),
        result => result?,
    };
    rustix::fs::fcntl_setfl(&fd, rustix::fs::fcntl_getfl(&fd)? - OFlags::NONBLOCK)?;
    let stat = rustix::fs::fstat(&fd)?;
    let regular = FileType::from_raw_mode(stat.st_mode).is_file();
    Ok((fd.into(), regular.then_some(stat.st_size as u64)))
}
