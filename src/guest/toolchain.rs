//! What building a kernel needs of the host, and the packages that hold what is missing.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use super::source::Compression;

/// The package for headers that objtool, a program of the kernel's build, is compiled with.
pub const LIBELF: &str = "libelf-dev";

/// The package for the kernel's source; on Debian and Ubuntu it depends on the newest one.
pub const LINUX_SOURCE: &str = "linux-source";

/// Programs and the Debian packages they are in.
const PROGRAMS: [(&str, &str); 8] = [
    ("gcc", "gcc"),
    ("ld", "binutils"),
    ("strip", "binutils"),
    ("make", "make"),
    ("flex", "flex"),
    ("bison", "bison"),
    ("bc", "bc"),
    ("patch", "patch"),
];

/// Something the host lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// A program, header or file.
    pub what: String,
    /// The Debian package that holds it.
    pub package: &'static str,
}

/// Everything the host lacks, in words a user can act on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingList(pub Vec<Missing>);

impl MissingList {
    /// The packages, each once, sorted.
    pub fn packages(&self) -> Vec<&'static str> {
        let mut packages: Vec<_> = self.0.iter().map(|missing| missing.package).collect();
        packages.sort_unstable();
        packages.dedup();
        packages
    }

    /// The line that installs them on Debian and what descends from it.
    pub fn install_line(&self) -> String {
        format!("apt-get install --no-install-recommends {}", self.packages().join(" "))
    }
}

impl fmt::Display for MissingList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what: Vec<_> = self.0.iter().map(|missing| missing.what.as_str()).collect();
        write!(f, "{}. Install with\n  {}", what.join(", "), self.install_line())?;
        if !on_path("apt-get") {
            write!(f, "\nor what these Debian packages are called here")?;
        }
        Ok(())
    }
}

/// What of the tools is missing, given how the source is compressed.
pub fn missing(compression: Option<Compression>) -> Vec<Missing> {
    let unpacker = compression.map(|c| (c.program(), c.package()));
    let programs = PROGRAMS.into_iter().chain(unpacker);
    let mut missing: Vec<_> = programs
        .filter(|(program, _)| !on_path(program))
        .map(|(program, package)| Missing { what: program.to_owned(), package })
        .collect();
    // Without the compiler, headers cannot be looked for where it would.
    let headers = [("stdlib.h", "libc6-dev"), ("gelf.h", LIBELF)];
    let no_compiler = !on_path("gcc");
    for (header, package) in headers {
        if no_compiler || !has_header(header) {
            missing.push(Missing { what: header.to_owned(), package });
        }
    }
    missing
}

/// Whether a program can be started by its name.
pub fn on_path(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| is_in(program, &path))
}

fn is_in(program: &str, path: &OsStr) -> bool {
    std::env::split_paths(path).any(|folder| {
        let file = folder.join(program);
        std::fs::metadata(&file).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    })
}

/// Whether the compiler finds a header.
pub fn has_header(header: &str) -> bool {
    let mut command = Command::new("gcc");
    command.args(["-E", "-include", header, "-x", "c", "-o", "/dev/null", "/dev/null"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// The compiler: the first line of `gcc --version`.
pub fn compiler() -> Option<String> {
    let output = Command::new("gcc").arg("--version").env("LC_ALL", "C").stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    output.status.success().then(|| text.lines().next().unwrap_or_default().trim().to_owned())
}

/// Free bytes for this user in the file system that holds `folder`.
///
/// # Errors
/// The system's.
pub fn free_bytes(folder: &Path) -> std::io::Result<u64> {
    let stat = rustix::fs::statvfs(folder)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Whether packages can be installed by this process.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Guesses from a failed build's last lines what the host lacks, for tools [`missing`] does not know of.
pub fn guess(log: &str) -> Option<Missing> {
    const HEADERS: [(&str, &str); 6] = [
        ("gelf.h", LIBELF),
        ("libelf.h", LIBELF),
        ("openssl/", "libssl-dev"),
        ("ncurses", "libncurses-dev"),
        ("stdlib.h", "libc6-dev"),
        ("stdio.h", "libc6-dev"),
    ];
    const PROGRAMS: [(&str, &str); 9] = [
        ("bc", "bc"),
        ("bison", "bison"),
        ("cpio", "cpio"),
        ("flex", "flex"),
        ("lz4", "lz4"),
        ("openssl", "openssl"),
        ("pahole", "dwarves"),
        ("perl", "perl"),
        ("python3", "python3"),
    ];
    let header = log.lines().find_map(|line| {
        let (_, after) = line.split_once("fatal error: ")?;
        let name = after.strip_suffix(": No such file or directory")?;
        let (_, package) = HEADERS.iter().find(|(prefix, _)| name.starts_with(prefix))?;
        Some(Missing { what: name.to_owned(), package })
    });
    let program = || {
        log.lines().filter(|line| line.contains("not found") || line.contains("No such file")).find_map(|line| {
            let named = |name: &str| line.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| word == name);
            let (name, package) = PROGRAMS.iter().find(|(name, _)| named(name))?;
            Some(Missing { what: (*name).to_owned(), package })
        })
    };
    header.or_else(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves that the packages come sorted and once, and that the line is one a shell takes.
    #[test]
    fn names_the_install_line() {
        let missing = |what: &str, package| Missing { what: what.to_owned(), package };
        let list = MissingList(vec![missing("strip", "binutils"), missing("ld", "binutils"), missing("bc", "bc")]);
        assert_eq!(list.install_line(), "apt-get install --no-install-recommends bc binutils");
        assert!(list.to_string().starts_with("strip, ld, bc. Install with\n  apt-get install"));
    }

    /// Proves that a program is found only where it can be executed.
    #[test]
    fn looks_programs_up() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tool");
        std::fs::write(&file, "").unwrap();
        let path = std::env::join_paths(["/nonexistent".as_ref(), folder.path()]).unwrap();
        assert!(!is_in("tool", &path));
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert!(is_in("tool", &path));
        assert!(!is_in("other", &path));
    }

    /// Proves that headers are looked for where the compiler does.
    #[test]
    fn looks_headers_up() {
        assert_eq!(has_header("stdlib.h"), compiler().is_some());
        assert!(!has_header("no/such/header.h"));
    }

    /// Proves that what compilers and shells say of a missing header or program is understood, and nothing else.
    #[test]
    fn guesses_from_a_log() {
        let package = |log: &str| guess(log).map(|missing| missing.package);
        let gcc = "x.c:1:10: fatal error: openssl/bio.h: No such file or directory\ncompilation terminated.";
        assert_eq!(package(gcc), Some("libssl-dev"));
        assert_eq!(package("/bin/sh: 1: bison: not found\nmake[1]: *** Error 127"), Some("bison"));
        assert_eq!(package("make: cpio: No such file or directory"), Some("cpio"));
        assert_eq!(package("fs/x.c:3:10: fatal error: own.h: No such file or directory"), None);
        assert_eq!(package("error: expected ';'"), None);
    }
}
