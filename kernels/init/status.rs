//! Statuses and search paths: what a shell and a container runtime have agreed on. Pure logic,
//! included by the monitor's tests as well.

/// The command exists and cannot be executed.
pub const NOT_EXECUTABLE: u8 = 126;
/// There is no such command.
pub const NOT_FOUND: u8 = 127;

pub const ENOENT: i32 = 2;
pub const E2BIG: i32 = 7;
pub const ENOEXEC: i32 = 8;
pub const ENOMEM: i32 = 12;
pub const EACCES: i32 = 13;
pub const ENOTDIR: i32 = 20;
pub const EISDIR: i32 = 21;
pub const ELOOP: i32 = 40;
pub const ENAMETOOLONG: i32 = 36;

/// The status a shell would show for what wait(2) reported: the exit code, or 128 + n when
/// signal n ended the process.
pub fn from_wait(wait_status: i32) -> u8 {
    let signal = (wait_status & 0x7f) as u8;
    if signal == 0 { (wait_status >> 8) as u8 } else { 128 + signal }
}

/// The status and the words for a failed execve(2).
pub fn from_exec_error(errno: i32) -> (u8, &'static str) {
    match errno {
        ENOENT | ENOTDIR => (NOT_FOUND, "not found"),
        EACCES => (NOT_EXECUTABLE, "permission denied"),
        EISDIR => (NOT_EXECUTABLE, "is a directory"),
        ENOEXEC => (NOT_EXECUTABLE, "not a program this guest can execute (exec format error)"),
        E2BIG => (NOT_EXECUTABLE, "its arguments and environment are too long for the guest"),
        ENOMEM => (NOT_EXECUTABLE, "not enough memory in the guest; give it more with --memory"),
        ELOOP => (NOT_EXECUTABLE, "too many levels of symbolic links"),
        ENAMETOOLONG => (NOT_EXECUTABLE, "file name too long"),
        _ => (NOT_EXECUTABLE, "cannot be executed"),
    }
}

/// Whether execvp(3) would go on to the next directory of `PATH` after this error.
pub fn search_goes_on(errno: i32) -> bool {
    matches!(errno, ENOENT | ENOTDIR | EACCES)
}

/// Writes `directory/name` and a NUL into `buffer`: one candidate of a `PATH` search. An empty
/// directory means the current one. `None` when it does not fit.
pub fn candidate<'b>(buffer: &'b mut [u8], directory: &[u8], name: &[u8]) -> Option<&'b [u8]> {
    let directory = if directory.is_empty() { b"." } else { directory };
    let length = directory.len() + 1 + name.len() + 1;
    let target = buffer.get_mut(..length)?;
    target[..directory.len()].copy_from_slice(directory);
    target[directory.len()] = b'/';
    target[directory.len() + 1..length - 1].copy_from_slice(name);
    target[length - 1] = 0;
    Some(target)
}

/// The value of `name` when `variable` is `name=value`.
pub fn value_of<'v>(variable: &'v [u8], name: &[u8]) -> Option<&'v [u8]> {
    variable.strip_prefix(name)?.strip_prefix(b"=")
}
