//! What the guest's init is told: the host's side of the hand-over.
//!
//! The monitor appends a small archive to the initrd that holds the file `/ringfence/spec`: NUL-terminated records
//! `key=value`, first `ringfence=1`, then what [`Spec`] has. `kernels/init/spec.rs` is the other side; the tests here
//! feed it what is encoded here.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use thiserror::Error;

use super::cpio::{Archive, CpioError};

/// Longest argument or `NAME=value` in bytes, without its NUL: Linux' `MAX_ARG_STRLEN` (32 pages) less one.
pub const MAX_STRING: usize = 32 * 4096 - 1;
/// Most bytes that arguments and environment take together: what execve(2) allows in a guest whose stack limit is
/// the default of 8 MiB (a quarter of it, 8 bytes a string for its pointer included), less a page for what init adds.
pub const MAX_TOTAL: usize = (2 << 20) - 4096;
/// Longest host name in bytes (`HOST_NAME_MAX`).
pub const MAX_HOSTNAME: usize = 64;

const POINTER_SIZE: usize = 8;

/// Whether the ends of the console on the host are a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stdio {
    /// Standard input and output are a terminal: the command gets the serial line as its terminal.
    Tty,
    /// One of them is not: the command gets pipes, and the line carries raw bytes.
    Pipe,
}

/// A terminal's size in characters; 0 when not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WindowSize {
    /// Height in lines.
    pub rows: u16,
    /// Width in columns.
    pub cols: u16,
}

/// What the guest's init does once the kernel has started it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// What the console is on the host.
    pub stdio: Stdio,
    /// The terminal's type, for `TERM`.
    pub term: OsString,
    /// The terminal's size.
    pub window: WindowSize,
    /// The guest's name.
    pub hostname: String,
    /// Kernel messages more urgent than this (1 to 8) go on to the console once the command runs; `None` leaves what
    /// the kernel's command line says.
    pub loglevel: Option<u8>,
    /// Environment variables, each a name and a value.
    pub env: Vec<(OsString, OsString)>,
    /// The command's argv, byte for byte. Empty for an interactive shell.
    pub args: Vec<OsString>,
}

/// Why a command or its surroundings cannot be handed to the guest.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum SpecError {
    /// C strings end at a NUL.
    #[error("{what} holds a NUL byte at offset {offset}, which no program can be given; remove it")]
    Nul {
        /// What holds it.
        what: String,
        /// Where, in bytes.
        offset: usize,
    },
    /// Linux does not take it.
    #[error("{what} has {size} bytes, but the guest's kernel takes at most {limit}; shorten it or pass it in a file")]
    TooLong {
        /// What is too long.
        what: String,
        /// Its size in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// Not a variable's name.
    #[error("environment variable name {name:?} is empty or holds a \"=\"; name it as in NAME=value")]
    EnvName {
        /// The name.
        name: OsString,
    },
    /// The archive around the spec.
    #[error("cannot pack the hand-over archive")]
    Archive(#[from] CpioError),
}

impl Spec {
    /// The records for `/ringfence/spec`.
    ///
    /// # Errors
    /// [`SpecError`] for a NUL byte anywhere, a string or a total that Linux' execve(2) would refuse, an environment
    /// variable without a name, or a host name longer than [`MAX_HOSTNAME`].
    pub fn encode(&self) -> Result<Vec<u8>, SpecError> {
        limit("the host name", self.hostname.len(), MAX_HOSTNAME)?;
        limit("the terminal type (TERM)", self.term.len(), MAX_STRING)?;
        let mut records = Records::default();
        records.push("the format", &[b"ringfence=1"])?;
        let stdio: &[u8] = match self.stdio {
            Stdio::Tty => b"tty",
            Stdio::Pipe => b"pipe",
        };
        records.push("stdio", &[b"stdio=", stdio])?;
        records.push("the terminal type (TERM)", &[b"term=", self.term.as_bytes()])?;
        records.push("the window size", &[b"rows=", self.window.rows.to_string().as_bytes()])?;
        records.push("the window size", &[b"cols=", self.window.cols.to_string().as_bytes()])?;
        records.push("the host name", &[b"hostname=", self.hostname.as_bytes()])?;
        if let Some(level) = self.loglevel {
            records.push("the log level", &[b"loglevel=", level.clamp(1, 8).to_string().as_bytes()])?;
        }
        let mut total = 0;
        for (name, value) in &self.env {
            let what = format!("environment variable {name:?}");
            if name.is_empty() || name.as_bytes().contains(&b'=') {
                return Err(SpecError::EnvName { name: name.clone() });
            }
            let size = name.len() + 1 + value.len();
            limit(&what, size, MAX_STRING)?;
            total += size + 1 + POINTER_SIZE;
            records.push(&what, &[b"env=", name.as_bytes(), b"=", value.as_bytes()])?;
        }
        for (index, arg) in self.args.iter().enumerate() {
            let what = format!("argument {index} of the command ({})", shortened(arg));
            limit(&what, arg.len(), MAX_STRING)?;
            total += arg.len() + 1 + POINTER_SIZE;
            records.push(&what, &[b"arg=", arg.as_bytes()])?;
        }
        limit("the command with its environment", total, MAX_TOTAL)?;
        Ok(records.bytes)
    }
}

/// The archive to append to the initrd: `/ringfence/spec`, padded to 4 bytes. The initrd before it must end on a
/// multiple of 4 as well (pad it with zeros).
///
/// # Errors
/// As [`Spec::encode`].
pub fn spec_overlay(spec: &Spec) -> Result<Vec<u8>, SpecError> {
    let records = spec.encode()?;
    let mut archive = Archive::new();
    archive.directory("ringfence", 0o755)?;
    archive.file("ringfence/spec", 0o600, &records)?;
    Ok(archive.finish())
}

#[derive(Default)]
struct Records {
    bytes: Vec<u8>,
}

impl Records {
    /// Adds one record from its pieces; `what` names it in an error.
    fn push(&mut self, what: &str, pieces: &[&[u8]]) -> Result<(), SpecError> {
        let record = pieces.concat();
        if let Some(at) = record.iter().position(|&byte| byte == 0) {
            return Err(SpecError::Nul { what: what.to_owned(), offset: at.saturating_sub(pieces[0].len()) });
        }
        self.bytes.extend_from_slice(&record);
        self.bytes.push(0);
        Ok(())
    }
}

fn limit(what: &str, size: usize, limit: usize) -> Result<(), SpecError> {
    if size > limit { Err(SpecError::TooLong { what: what.to_owned(), size, limit }) } else { Ok(()) }
}

/// An argument as an error message can show it.
fn shortened(arg: &OsStr) -> String {
    const SHOWN: usize = 32;
    let text = arg.to_string_lossy();
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{:?}...", &text[..end]),
        None => format!("{text:?}"),
    }
}

#[cfg(test)]
#[path = "spec_tests.rs"]
mod tests;
