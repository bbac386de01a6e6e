//! Where `--report` goes: opened before the machine runs, written after.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::machine::Report;

/// The report's destination. A file keeps what it held until the report is there.
pub(super) struct ReportFile {
    path: PathBuf,
    /// None: standard output.
    file: Option<File>,
    /// Whether the file has a length to be set.
    regular: bool,
}

impl ReportFile {
    /// Opens `path`, or standard output for "-".
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        if path.as_os_str() == "-" {
            return Ok(Self { path: path.to_owned(), file: None, regular: false });
        }
        let (file, regular) = open(path).with_context(|| format!("cannot write the report to {}", path.display()))?;
        Ok(Self { path: path.to_owned(), file: Some(file), regular })
    }

    /// Writes the report whole, or leaves the file empty.
    pub(super) fn write(self, report: &Report) -> anyhow::Result<()> {
        let json = serde_json::to_string_pretty(report)? + "\n";
        let Some(mut file) = self.file else {
            return crate::cli::print(json);
        };
        let failed = || format!("cannot write the report to {}", self.path.display());
        let result = file.write_all(json.as_bytes());
        if self.regular {
            let len = if result.is_ok() { json.len() as u64 } else { 0 };
            file.set_len(len).with_context(failed)?;
        }
        result.with_context(failed)
    }
}

fn open(path: &Path) -> anyhow::Result<(File, bool)> {
    // A named pipe without a reader would hold up the open; the flag is taken off again.
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::WGRP | Mode::ROTH | Mode::WOTH;
    let fd = match rustix::fs::open(path, flags, mode) {
        Err(Errno::NXIO) => bail!("nobody reads this named pipe; start its reader first"),
        result => result?,
    };
    rustix::fs::fcntl_setfl(&fd, rustix::fs::fcntl_getfl(&fd)? - OFlags::NONBLOCK)?;
    let regular = FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode).is_file();
    Ok((fd.into(), regular))
}
