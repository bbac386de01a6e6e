//! The guest's first program: prepares what a shell expects, runs the shell or the command that
//! the monitor asked for, and hands its status back.
//!
//! Small and bare (no libc, no allocator): on a host whose KVM emulates the guest's kernel, every
//! page touched and every system call made here shows in the boot time.
//!
//! The order, and why:
//! 1. ring the boot timer, before anything slow;
//! 2. mount /dev, read the spec, set the console up: errors can be told from here on;
//! 3. mount the rest;
//! 4. ring again and execute the payload;
//! 5. reap, move bytes, until it ends; drain the console and report the status.

#![no_std]
#![no_main]

mod applets;
mod child;
mod console;
mod intrinsics;
mod memory;
mod mounts;
mod ports;
mod pump;
mod spec;
mod status;
mod supervise;
mod sys;
mod task;

use core::arch::global_asm;
use core::ffi::CStr;
use spec::{Spec, Stdio};
use supervise::Ending;

/// Status when the guest could not be set up: the container convention's "the runtime failed".
const SETUP_FAILED: u8 = 125;
/// Larger than what the monitor would write.
const SPEC_MAX: usize = 4 << 20;

global_asm!(
    ".globl _start",
    "_start:",
    "xor ebp, ebp",
    "and rsp, -16",
    "call {start}",
    "ud2",
    start = sym start,
);

extern "C" fn start() -> ! {
    if sys::getpid() != 1 {
        let _ = sys::write(2, b"ringfence-init: this is the guest's init; it runs as process 1 only\n");
        sys::exit_thread(i32::from(status::NOT_EXECUTABLE));
    }
    let ending = boot().unwrap_or_else(|failure| {
        report(failure.what, failure.why);
        Ending::Status(failure.status)
    });
    ending.carry_out()
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    report(b"internal error in the guest's init", b"");
    Ending::Status(SETUP_FAILED).carry_out()
}

/// Why the payload could not be started.
struct Failure {
    status: u8,
    what: &'static [u8],
    why: &'static [u8],
}

fn boot() -> Result<Ending, Failure> {
    let early = ports::open();
    if early {
        ports::ring(ports::Phase::Userspace);
    }
    mounts::devices();
    if !early {
        ports::open();
        ports::ring(ports::Phase::Userspace);
    }
    supervise::prepare();
    let spec = read_spec()?;
    let line = console::open(&spec).map_err(|_| {
        setup(
            b"cannot use the console /dev/ttyS0",
            b"this kernel has no driver for it, or found no interrupt for it (ACPI or an MP table tells it)",
        )
    })?;
    mounts::rest();
    let _ = sys::sethostname(spec.hostname);
    if let Some(level) = spec.loglevel {
        sys::set_console_loglevel(level);
    }
    run(&spec, line)
}

fn setup(what: &'static [u8], why: &'static [u8]) -> Failure {
    Failure { status: SETUP_FAILED, what, why }
}

/// The spec, read whole; its strings stay in this memory for good.
fn read_spec() -> Result<Spec<'static>, Failure> {
    const NAME: &[u8] = b"/ringfence/spec is not a valid spec";
    let Ok(fd) = sys::open(c"/ringfence/spec", sys::O_RDONLY | sys::O_CLOEXEC) else {
        return Ok(Spec::DEFAULT);
    };
    let size = sys::file_size(fd).unwrap_or(0);
    if size == 0 || size > SPEC_MAX {
        return Err(setup(NAME, b"its size is out of range"));
    }
    let memory = memory::take(size).map_err(|_| setup(NAME, b"no memory to read it"))?;
    let mut filled = 0;
    while filled < size {
        match sys::pread(fd, &mut memory[filled..], filled as u64) {
            Ok(0) | Err(_) => return Err(setup(NAME, b"it cannot be read")),
            Ok(count) => filled += count,
        }
    }
    sys::close(fd);
    Spec::parse(memory).map_err(|error| setup(NAME, error.message().as_bytes()))
}

/// Starts the payload and stays with it to its end.
fn run(spec: &Spec<'static>, line: i32) -> Result<Ending, Failure> {
    let no_memory = |_| setup(b"cannot start the command", b"not enough memory or descriptors");
    let term = term_variable(spec.term).map_err(no_memory)?;
    let payload = child::Payload::new(spec, term).map_err(no_memory)?;
    let mut pump = match spec.stdio {
        Stdio::Tty => None,
        Stdio::Pipe => Some(pump::Pump::new(line).map_err(no_memory)?),
    };
    let (stdin, stdout, terminal) = match &pump {
        None => (line, line, Some(line)),
        Some(pump) => (pump.payload_ends().0, pump.payload_ends().1, None),
    };
    // Beside an interactive shell, which can do without: nobody types that fast.
    let beside = payload.is_interactive() && spec.stdio == Stdio::Tty;
    if !beside && !payload.runs_alone() {
        applets::link_all();
    }
    ports::ring(ports::Phase::Payload);
    let pid = payload.start(stdin, stdout, terminal).map_err(|errno| {
        let (status, why) = status::from_exec_error(errno);
        Failure { status, what: payload.name().to_bytes(), why: why.as_bytes() }
    })?;
    match &mut pump {
        None => console::watch(None, beside),
        Some(pump) => pump.payload_started(),
    }
    Ok(match supervise::until_end(pid, pump.as_mut()) {
        // A command that had not ended has no status to report: the monitor sees a machine that goes down.
        Ending::PowerOff if !payload.is_interactive() => Ending::Restart,
        ending => ending,
    })
}

/// `TERM=` and the terminal's type.
fn term_variable(term: &[u8]) -> Result<&'static CStr, i32> {
    const NAME: &[u8] = b"TERM=";
    let memory = memory::take(NAME.len() + term.len() + 1)?;
    memory[..NAME.len()].copy_from_slice(NAME);
    memory[NAME.len()..NAME.len() + term.len()].copy_from_slice(term);
    Ok(CStr::from_bytes_until_nul(memory).unwrap_or(c""))
}

/// One line on the console: `ringfence: what: why`, shortened to what fits. The level before it is
/// for the kernel's log: critical, so that `quiet` does not hide it.
fn report(what: &[u8], why: &[u8]) {
    let mut line = [0; 512];
    let mut length = 0;
    let separator: &[u8] = if why.is_empty() { b"" } else { b": " };
    for piece in [console::LEVEL, b"ringfence: ", &what[..what.len().min(256)], separator, why, b"\n"] {
        if let Some(room) = line.get_mut(length..length + piece.len()) {
            room.copy_from_slice(piece);
            length += piece.len();
        }
    }
    console::print(&line[..length]);
}
