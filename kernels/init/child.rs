//! The payload: the command or the shell, from argv to execve(2).

use crate::spec::{Spec, Stdio};
use crate::{applets, console, memory, status, sys, task};
use core::ffi::CStr;
use core::ptr;

/// Where commands are looked for unless the spec says otherwise; the default guest has all in /bin.
const PATH: &CStr = c"PATH=/bin:/sbin:/usr/bin:/usr/sbin:/usr/local/bin:/usr/local/sbin";
const HOME: &CStr = c"HOME=/root";
const SHELL: &CStr = c"SHELL=/bin/sh";

/// What is executed, in the form the kernel takes it.
pub struct Payload {
    argv: *const *const u8,
    envp: *const *const u8,
    name: &'static CStr,
    path: &'static [u8],
    directory: &'static CStr,
    interactive: bool,
    alone: bool,
}

/// Hands out pieces of one stretch of memory.
struct Arena {
    rest: &'static mut [u8],
}

impl Arena {
    /// An array of pointers to the strings, with the null that ends it.
    fn pointers(&mut self, strings: impl Iterator<Item = &'static CStr> + Clone) -> *const *const u8 {
        let bytes = (strings.clone().count() + 1) * size_of::<*const u8>();
        let Some((piece, rest)) = core::mem::take(&mut self.rest).split_at_mut_checked(bytes) else {
            return ptr::null();
        };
        self.rest = rest;
        for (slot, string) in piece.chunks_exact_mut(8).zip(strings) {
            slot.copy_from_slice(&(string.as_ptr() as usize).to_ne_bytes());
        }
        piece.as_ptr().cast()
    }
}

impl Payload {
    /// Lays out argv and the environment: the spec's variables first, then the usual ones that it
    /// does not set.
    pub fn new(spec: &Spec<'static>, term: &'static CStr) -> Result<Self, i32> {
        let defaults = [PATH, HOME, SHELL, term];
        let missing = defaults.into_iter().filter(|default| {
            let name = default.to_bytes().split(|&byte| byte == b'=').next().unwrap_or(b"");
            !spec.envs().any(|set| status::value_of(set.to_bytes(), name).is_some())
        });
        let environment = spec.envs().chain(missing);
        let of = |name: &[u8]| environment.clone().find_map(|set| status::value_of(set.to_bytes_with_nul(), name));
        let home = of(b"HOME").and_then(|home| CStr::from_bytes_with_nul(home).ok());
        let path = of(b"PATH").map_or(&b""[..], |path| path.strip_suffix(b"\0").unwrap_or(path));
        let shell = match spec.stdio {
            Stdio::Tty => c"-sh",
            Stdio::Pipe => c"sh",
        };
        let interactive = spec.args().next().is_none();
        let implied = interactive.then_some(shell);
        let args = implied.into_iter().chain(spec.args());
        let count = args.clone().count() + environment.clone().count() + 2;
        let name = if interactive { c"/bin/sh" } else { spec.args().next().unwrap_or(c"") };
        let path_is_given = spec.envs().any(|set| status::value_of(set.to_bytes(), b"PATH").is_some());
        let mut arena = Arena { rest: memory::take(count * size_of::<*const u8>())? };
        Ok(Payload {
            argv: arena.pointers(args),
            envp: arena.pointers(environment),
            name,
            path,
            directory: if interactive { home.unwrap_or(c"/") } else { c"/" },
            interactive,
            alone: !path_is_given && applets::runs_alone(name.to_bytes()),
        })
    }

    /// The command as it was given.
    pub fn name(&self) -> &'static CStr {
        self.name
    }

    /// Whether it is the shell that nobody named.
    pub fn is_interactive(&self) -> bool {
        self.interactive
    }

    /// Whether it is an applet that starts no other program.
    pub fn runs_alone(&self) -> bool {
        self.alone
    }

    /// Starts it in the foreground of `terminal`, which this process's session has, or without
    /// one in a session of its own: its process number, or execve's error.
    pub fn start(&self, stdin: i32, stdout: i32, terminal: Option<i32>) -> Result<i32, i32> {
        let mut launch = Launch { payload: self, stdin, stdout, terminal, error: 0 };
        let pid = task::borrowing(run_launch, (&raw mut launch) as usize)?;
        // SAFETY: `launch` is this function's own; the child that wrote to it is gone from here.
        match unsafe { (&raw const launch.error).read_volatile() } {
            0 => Ok(pid),
            error => Err(error),
        }
    }
}

struct Launch<'p> {
    payload: &'p Payload,
    stdin: i32,
    stdout: i32,
    terminal: Option<i32>,
    error: i32,
}

extern "C" fn run_launch(launch: usize) -> ! {
    // SAFETY: `start` passes its own Launch and sleeps until this task has executed the payload
    // or is gone.
    let launch = unsafe { &mut *(launch as *mut Launch) };
    match launch.terminal {
        Some(line) => console::come_forward(line),
        None => sys::setsid(),
    }
    for (from, to) in [(launch.stdin, 0), (launch.stdout, 1), (launch.stdout, 2)] {
        let _ = sys::dup2(from, to);
    }
    let _ = sys::chdir(launch.payload.directory);
    sys::block_signals(0);
    launch.error = execute(launch.payload);
    sys::exit_thread(i32::from(status::NOT_FOUND))
}

/// Executes the payload as execvp(3) would; returns only the error.
fn execute(payload: &Payload) -> i32 {
    let name = payload.name.to_bytes();
    if payload.alone {
        // Returns where there is no busybox; then it is searched for like any other.
        execute_file(payload, applets::BUSYBOX);
    }
    if name.contains(&b'/') {
        return execute_file(payload, payload.name);
    }
    let mut worst = status::ENOENT;
    if name.is_empty() {
        return worst;
    }
    let mut buffer = [0; 4096];
    for directory in payload.path.split(|&byte| byte == b':') {
        let file =
            status::candidate(&mut buffer, directory, name).and_then(|file| CStr::from_bytes_with_nul(file).ok());
        // Asking first is far cheaper than an execve that fails.
        let Some(file) = file.filter(|file| sys::exists(file)) else { continue };
        let error = execute_file(payload, file);
        if !status::search_goes_on(error) {
            return error;
        }
        worst = error;
    }
    worst
}

fn execute_file(payload: &Payload, file: &CStr) -> i32 {
    // SAFETY: `Payload::new` made both arrays, null-terminated, of strings that live for good.
    let error = unsafe { sys::execve(file, payload.argv, payload.envp) };
    if error == status::EACCES && sys::is_directory(file) { status::EISDIR } else { error }
}
