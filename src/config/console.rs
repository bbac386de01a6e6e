//! Where the guest's serial console goes: `--console stdio|file:PATH|pty[:LINK]|unix:PATH|none`.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::str::FromStr;

/// Where the bytes of the guest's serial port go to and come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ConsoleSpec {
    /// Standard input and output of the process.
    #[default]
    Stdio,
    /// Output to a file, created or emptied; no input.
    File(PathBuf),
    /// A new pseudoterminal, with a symbolic link to it when one is named.
    Pty(Option<PathBuf>),
    /// A listening Unix stream socket, one client at a time.
    Unix(PathBuf),
    /// No output is kept, no input comes.
    None,
}

/// Why a console could not be understood.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ParseConsoleError {
    /// A kind that does not exist.
    #[error("\"{0}\" is not a console: use stdio, file:PATH, pty, pty:LINK, unix:PATH or none")]
    Unknown(String),
    /// A kind that needs a path, without one.
    #[error("\"{kind}\" needs a path: write {kind}:PATH, such as {kind}:/tmp/guest.{kind}")]
    MissingPath {
        /// `file`, `pty` or `unix`.
        kind: &'static str,
    },
    /// A kind that takes no path, with one.
    #[error("\"{kind}\" takes no path, but \"{path}\" was given: write just {kind}")]
    UnexpectedPath {
        /// `stdio` or `none`.
        kind: &'static str,
        /// What followed the colon.
        path: String,
    },
}

impl ConsoleSpec {
    /// Reads a console as typed. The path may hold any byte, colons too: the first colon ends the kind.
    pub fn parse(typed: &OsStr) -> Result<Self, ParseConsoleError> {
        let bytes = typed.as_bytes();
        let (kind, path) = match bytes.iter().position(|&b| b == b':') {
            Some(at) => (&bytes[..at], Some(OsStr::from_bytes(&bytes[at + 1..]))),
            None => (bytes, None),
        };
        let needed = |kind| match path {
            Some(path) if !path.is_empty() => Ok(PathBuf::from(path)),
            _ => Err(ParseConsoleError::MissingPath { kind }),
        };
        let refused = |kind, spec| match path {
            Some(path) => Err(ParseConsoleError::UnexpectedPath { kind, path: path.to_string_lossy().into_owned() }),
            None => Ok(spec),
        };
        match kind {
            b"stdio" => refused("stdio", Self::Stdio),
            b"none" => refused("none", Self::None),
            b"file" => needed("file").map(Self::File),
            b"unix" => needed("unix").map(Self::Unix),
            b"pty" if path.is_none() => Ok(Self::Pty(None)),
            b"pty" => needed("pty").map(|link| Self::Pty(Some(link))),
            _ => Err(ParseConsoleError::Unknown(typed.to_string_lossy().into_owned())),
        }
    }
}

impl FromStr for ConsoleSpec {
    type Err = ParseConsoleError;

    fn from_str(typed: &str) -> Result<Self, Self::Err> {
        Self::parse(OsStr::new(typed))
    }
}

impl fmt::Display for ConsoleSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdio => f.write_str("stdio"),
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Pty(None) => f.write_str("pty"),
            Self::Pty(Some(link)) => write!(f, "pty:{}", link.display()),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::None => f.write_str("none"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every documented form is understood and written back as it was typed.
    #[test]
    fn forms_round_trip() {
        for typed in ["stdio", "file:/tmp/a", "file:a:b", "pty", "pty:/tmp/link", "unix:/run/x.sock", "none"] {
            assert_eq!(typed.parse::<ConsoleSpec>().unwrap().to_string(), typed);
        }
        assert_eq!("file:a:b".parse(), Ok(ConsoleSpec::File("a:b".into())));
    }

    /// A path that is not UTF-8 reaches the file system as it was typed.
    #[test]
    fn paths_are_bytes() {
        let spec = ConsoleSpec::parse(OsStr::from_bytes(b"unix:/tmp/\xff")).unwrap();
        assert_eq!(spec, ConsoleSpec::Unix(OsStr::from_bytes(b"/tmp/\xff").into()));
    }

    /// Each mistake is answered with what to write instead.
    #[test]
    fn mistakes_name_the_remedy() {
        let message = |typed: &str| typed.parse::<ConsoleSpec>().unwrap_err().to_string();
        assert_eq!(message("tty"), "\"tty\" is not a console: use stdio, file:PATH, pty, pty:LINK, unix:PATH or none");
        assert_eq!(message(""), "\"\" is not a console: use stdio, file:PATH, pty, pty:LINK, unix:PATH or none");
        assert_eq!(message("file"), "\"file\" needs a path: write file:PATH, such as file:/tmp/guest.file");
        assert_eq!(message("unix:"), "\"unix\" needs a path: write unix:PATH, such as unix:/tmp/guest.unix");
        assert_eq!(message("pty:"), "\"pty\" needs a path: write pty:PATH, such as pty:/tmp/guest.pty");
        assert_eq!(message("none:x"), "\"none\" takes no path, but \"x\" was given: write just none");
    }
}
