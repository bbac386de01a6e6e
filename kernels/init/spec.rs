//! What the monitor asks of this boot: the records of `/ringfence/spec`.
//!
//! The file is a run of NUL-terminated records `key=value`, in the order `ringfence=1`, then any
//! of `stdio`, `term`, `rows`, `cols`, `hostname`, `loglevel`, `env` (repeated) and `arg`
//! (repeated: the command's argv, byte for byte). Keys this version does not know are passed
//! over. No `arg` asks for an interactive shell.
//!
//! Pure logic: the monitor's own tests include this file and feed it what their encoder wrote.

use core::ffi::CStr;

/// Whether the two ends of the console on the host are a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stdio {
    /// A terminal: the command gets the serial line as its terminal.
    Tty,
    /// A file or a pipe at either end: the command gets pipes, and the line carries raw bytes.
    Pipe,
}

/// Why a spec is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpecError {
    /// The first record is not `ringfence=1`.
    Version,
    /// The last record has no NUL.
    Unterminated,
    /// A record has no `=`.
    NoValue,
    /// `stdio` is neither `tty` nor `pipe`.
    Stdio,
    /// A number is not one, or too large.
    Number,
}

impl SpecError {
    /// One line for the console.
    pub fn message(self) -> &'static str {
        match self {
            SpecError::Version => "it does not start with the record \"ringfence=1\"",
            SpecError::Unterminated => "its last record has no end (truncated?)",
            SpecError::NoValue => "a record has no \"=\"",
            SpecError::Stdio => "\"stdio\" is neither \"tty\" nor \"pipe\"",
            SpecError::Number => "\"rows\", \"cols\" or \"loglevel\" is not a number in range",
        }
    }
}

/// A parsed spec; the strings stay where they were read.
#[derive(Debug, Clone, Copy)]
pub struct Spec<'a> {
    records: &'a [u8],
    /// What the console is on the host.
    pub stdio: Stdio,
    /// The terminal's type, as in `TERM`.
    pub term: &'a [u8],
    /// The terminal's height in lines, 0 when unknown.
    pub rows: u16,
    /// The terminal's width in columns, 0 when unknown.
    pub cols: u16,
    /// The guest's name.
    pub hostname: &'a [u8],
    /// Kernel messages below this level (1 to 8) go to the console; `None` leaves it as it is.
    pub loglevel: Option<u8>,
}

impl Spec<'static> {
    /// What is done when there is no spec: a shell on the console.
    pub const DEFAULT: Self = Spec {
        records: b"",
        stdio: Stdio::Tty,
        term: b"vt100",
        rows: 0,
        cols: 0,
        hostname: b"ringfence",
        loglevel: None,
    };
}

impl<'a> Spec<'a> {
    /// Reads a whole spec.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, SpecError> {
        if bytes.last().is_some_and(|&last| last != 0) {
            return Err(SpecError::Unterminated);
        }
        let mut spec = Spec { records: bytes, ..Spec::DEFAULT };
        let mut first = true;
        for record in (Records { rest: bytes }) {
            let (key, value) = split(record).ok_or(SpecError::NoValue)?;
            let value = value.to_bytes();
            if first && (key, value) != (b"ringfence", b"1") {
                return Err(SpecError::Version);
            }
            first = false;
            match key {
                b"stdio" if value == b"tty" => spec.stdio = Stdio::Tty,
                b"stdio" if value == b"pipe" => spec.stdio = Stdio::Pipe,
                b"stdio" => return Err(SpecError::Stdio),
                b"term" => spec.term = value,
                b"rows" => spec.rows = number(value)?,
                b"cols" => spec.cols = number(value)?,
                b"hostname" => spec.hostname = value,
                b"loglevel" => match number(value)? {
                    level @ 1..=8 => spec.loglevel = Some(level as u8),
                    _ => return Err(SpecError::Number),
                },
                _ => {}
            }
        }
        if first { Err(SpecError::Version) } else { Ok(spec) }
    }

    /// The command's argv; empty for an interactive shell.
    pub fn args(&self) -> impl Iterator<Item = &'a CStr> + Clone + use<'a> {
        self.values(b"arg")
    }

    /// The environment asked for, each `NAME=value`.
    pub fn envs(&self) -> impl Iterator<Item = &'a CStr> + Clone + use<'a> {
        self.values(b"env")
    }

    fn values(&self, wanted: &'static [u8]) -> impl Iterator<Item = &'a CStr> + Clone + use<'a> {
        Records { rest: self.records }
            .filter_map(split)
            .filter_map(move |(key, value)| (key == wanted).then_some(value))
    }
}

/// The records of a spec, each with its NUL.
#[derive(Clone)]
struct Records<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Records<'a> {
    type Item = &'a CStr;

    fn next(&mut self) -> Option<&'a CStr> {
        let record = CStr::from_bytes_until_nul(self.rest).ok()?;
        self.rest = &self.rest[record.to_bytes_with_nul().len()..];
        Some(record)
    }
}

/// `key=value`, the value still ending in its NUL.
fn split(record: &CStr) -> Option<(&[u8], &CStr)> {
    let bytes = record.to_bytes_with_nul();
    let equals = bytes.iter().position(|&byte| byte == b'=')?;
    let value = CStr::from_bytes_with_nul(&bytes[equals + 1..]).ok()?;
    Some((&bytes[..equals], value))
}

fn number(digits: &[u8]) -> Result<u16, SpecError> {
    if digits.is_empty() {
        return Err(SpecError::Number);
    }
    digits.iter().try_fold(0u16, |sum, &digit| match digit {
        b'0'..=b'9' => {
            sum.checked_mul(10).and_then(|sum| sum.checked_add(u16::from(digit - b'0'))).ok_or(SpecError::Number)
        }
        _ => Err(SpecError::Number),
    })
}
