//! Which system calls a confined thread may make.
//!
//! These tables are the only place where that is said: the filters are compiled from them, and `docs/isolation.md` and
//! `ringfence inspect` print them.

use std::fmt;

use super::requests as request;

/// A call with any arguments.
macro_rules! any {
    ($call:ident, $constant:ident, $purpose:literal) => {
        Rule { call: stringify!($call), number: libc::$constant as u32, cases: &[], purpose: $purpose }
    };
}

/// A call with one of several values in one argument.
macro_rules! one_of {
    ($call:ident, $constant:ident, $argument:literal, [$($text:literal = $value:expr),+ $(,)?], $purpose:literal) => {
        Rule {
            call: stringify!($call),
            number: libc::$constant as u32,
            cases: &[$(Case { text: $text, checks: &[Check { argument: $argument, test: Test::Is($value as u32) }] }),+],
            purpose: $purpose,
        }
    };
}

/// What a thread does, which decides what it may ask of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ThreadKind {
    /// Runs one vCPU and serves its exits.
    Vcpu,
    /// Writes the guest's output.
    Console,
    /// The event loop: input, signals, the time limit, the end.
    Main,
}

impl ThreadKind {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Vcpu, Self::Console, Self::Main];

    /// What a thread of this kind may call, in the order of the calls' numbers.
    pub fn rules(self) -> &'static [Rule] {
        match self {
            Self::Vcpu => VCPU,
            Self::Console => CONSOLE,
            Self::Main => MAIN,
        }
    }
}

/// What the standard library's checks of a debug build call besides: whether a descriptor that is closed was open.
pub(super) const DEBUG_BUILD: Rule =
    one_of!(fcntl, SYS_fcntl, 1, ["F_GETFD" = libc::F_GETFD], "checks of a debug build");

impl fmt::Display for ThreadKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Vcpu => "vCPU",
            Self::Console => "console",
            Self::Main => "main",
        })
    }
}

/// One system call that is allowed.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// The kernel's name of the call.
    pub call: &'static str,
    /// Its number on x86-64.
    pub number: u32,
    /// With which arguments: any one of these is enough. Empty: with any.
    pub cases: &'static [Case],
    /// What it is needed for.
    pub purpose: &'static str,
}

/// Arguments with which a call is allowed.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// In the manual's words.
    pub text: &'static str,
    /// What must hold, all of it.
    pub checks: &'static [Check],
}

/// What must hold of one argument. The low 32 bits are looked at: the kernel itself uses no more of these arguments.
#[derive(Clone, Copy, Debug)]
pub struct Check {
    /// Which argument, from 0.
    pub argument: u8,
    /// What must hold.
    pub test: Test,
}

/// A condition on an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Test {
    /// It is this value.
    Is(u32),
    /// This bit is set.
    With(u32),
    /// None of these bits is set.
    Without(u32),
    /// It is this process's id.
    OwnProcess,
}

const READ: Rule = any!(read, SYS_read, "console input, signals, wake-ups");
const WRITE: Rule = any!(write, SYS_write, "output, wake-ups, messages on standard error");
const CLOSE: Rule = any!(close, SYS_close, "giving descriptors back");
const MUNMAP: Rule = any!(munmap, SYS_munmap, "giving memory back");
const BRK: Rule = any!(brk, SYS_brk, "the heap");
const SIGPROCMASK: Rule = any!(rt_sigprocmask, SYS_rt_sigprocmask, "setting terminal modes; a thread's end");
const SIGRETURN: Rule = any!(rt_sigreturn, SYS_rt_sigreturn, "the end of a signal's handler");
const GETPGRP: Rule = any!(getpgrp, SYS_getpgrp, "whether the terminal is still ours to set");
const RESTART: Rule = any!(restart_syscall, SYS_restart_syscall, "a wait goes on after the process was stopped");
const CLOCK_GETTIME: Rule = any!(clock_gettime, SYS_clock_gettime, "time, where the vDSO cannot tell it");
const YIELD: Rule = any!(sched_yield, SYS_sched_yield, "waiting for a message that another thread is just sending");
const EXIT: Rule = any!(exit, SYS_exit, "the thread's end");
const EXIT_GROUP: Rule = any!(exit_group, SYS_exit_group, "the process's end, also after a panic");

/// Anonymous memory that is not code.
const MMAP: Rule = Rule {
    call: "mmap",
    number: libc::SYS_mmap as u32,
    cases: &[Case {
        text: "MAP_ANONYMOUS, without PROT_EXEC",
        checks: &[
            Check { argument: 2, test: Test::Without(libc::PROT_EXEC as u32) },
            Check { argument: 3, test: Test::With(libc::MAP_ANONYMOUS as u32) },
        ],
    }],
    purpose: "large buffers",
};

const MADVISE: Rule =
    one_of!(madvise, SYS_madvise, 2, ["MADV_DONTNEED" = libc::MADV_DONTNEED], "giving a stack back at a thread's end");

const MADVISE_MAIN: Rule = one_of!(
    madvise,
    SYS_madvise,
    2,
    [
        "MADV_DONTNEED" = libc::MADV_DONTNEED,
        "MADV_HUGEPAGE" = libc::MADV_HUGEPAGE,
        "MADV_DONTDUMP" = libc::MADV_DONTDUMP,
    ],
    "giving back what only the start needed; huge pages for guest RAM, and no core dump of it"
);

const FUTEX: Rule = one_of!(
    futex,
    SYS_futex,
    1,
    [
        "FUTEX_WAIT_PRIVATE" = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG,
        "FUTEX_WAKE_PRIVATE" = libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG,
        "FUTEX_WAIT_BITSET_PRIVATE" = libc::FUTEX_WAIT_BITSET | libc::FUTEX_PRIVATE_FLAG,
    ],
    "locks, and sleeping until there is work"
);

/// A joining thread waits for the kernel's own wake-up, which is not private.
const FUTEX_MAIN: Rule = one_of!(
    futex,
    SYS_futex,
    1,
    [
        "FUTEX_WAIT_PRIVATE" = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG,
        "FUTEX_WAKE_PRIVATE" = libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG,
        "FUTEX_WAIT_BITSET_PRIVATE" = libc::FUTEX_WAIT_BITSET | libc::FUTEX_PRIVATE_FLAG,
        "FUTEX_WAIT_BITSET|FUTEX_CLOCK_REALTIME" = libc::FUTEX_WAIT_BITSET | libc::FUTEX_CLOCK_REALTIME,
    ],
    "locks; waiting for a thread's end"
);

const IOCTL_VCPU: Rule = one_of!(
    ioctl,
    SYS_ioctl,
    1,
    [
        "KVM_RUN" = request::KVM_RUN,
        "KVM_SIGNAL_MSI" = request::KVM_SIGNAL_MSI,
        "KVM_SET_GSI_ROUTING" = request::KVM_SET_GSI_ROUTING,
        "KVM_IRQ_LINE" = request::KVM_IRQ_LINE,
        "KVM_GET_REGS" = request::KVM_GET_REGS,
        "KVM_GET_SREGS" = request::KVM_GET_SREGS,
        "KVM_TRANSLATE" = request::KVM_TRANSLATE,
        "TIOCGPGRP" = libc::TIOCGPGRP,
        "TCSETS2" = libc::TCSETS2,
    ],
    "the guest, its interrupts, what stopped it; the terminal's modes after a panic"
);

const IOCTL_CONSOLE: Rule = one_of!(
    ioctl,
    SYS_ioctl,
    1,
    [
        "KVM_SIGNAL_MSI" = request::KVM_SIGNAL_MSI,
        "KVM_IRQ_LINE" = request::KVM_IRQ_LINE,
        "TIOCGPGRP" = libc::TIOCGPGRP,
        "TCSETS2" = libc::TCSETS2,
    ],
    "\"room in the transmitter\" is an interrupt; the terminal's modes after a panic"
);

const IOCTL_MAIN: Rule = one_of!(
    ioctl,
    SYS_ioctl,
    1,
    [
        "KVM_SIGNAL_MSI" = request::KVM_SIGNAL_MSI,
        "KVM_IRQ_LINE" = request::KVM_IRQ_LINE,
        "KVM_SET_USER_MEMORY_REGION" = request::KVM_SET_USER_MEMORY_REGION,
        "KVM_REGISTER_COALESCED_MMIO" = request::KVM_REGISTER_COALESCED_MMIO,
        "KVM_UNREGISTER_COALESCED_MMIO" = request::KVM_UNREGISTER_COALESCED_MMIO,
        "TCGETS" = libc::TCGETS,
        "TCGETS2" = libc::TCGETS2,
        "TCSETS2" = libc::TCSETS2,
        "TIOCGPGRP" = libc::TIOCGPGRP,
        "TIOCGWINSZ" = libc::TIOCGWINSZ,
        "FIONBIO" = libc::FIONBIO,
    ],
    "input is an interrupt; RAM that KVM is told of late; gathering serial output in KVM; the terminal's modes and size; clients of a socket"
);

/// To threads of this process only.
const TGKILL: Rule = Rule {
    call: "tgkill",
    number: libc::SYS_tgkill as u32,
    cases: &[Case { text: "in this process", checks: &[Check { argument: 0, test: Test::OwnProcess }] }],
    purpose: "taking vCPUs out of the guest at the end; ending by a signal that was sent",
};

const VCPU: &[Rule] = &[
    WRITE,
    CLOSE,
    MMAP,
    MUNMAP,
    BRK,
    SIGPROCMASK,
    SIGRETURN,
    IOCTL_VCPU,
    YIELD,
    any!(mremap, SYS_mremap, "a buffer that grows"),
    MADVISE,
    EXIT,
    GETPGRP,
    FUTEX,
    CLOCK_GETTIME,
    EXIT_GROUP,
];

const CONSOLE: &[Rule] = &[
    WRITE,
    CLOSE,
    MMAP,
    MUNMAP,
    BRK,
    SIGPROCMASK,
    SIGRETURN,
    IOCTL_CONSOLE,
    YIELD,
    any!(mremap, SYS_mremap, "a buffer that grows"),
    MADVISE,
    EXIT,
    GETPGRP,
    FUTEX,
    RESTART,
    CLOCK_GETTIME,
    EXIT_GROUP,
    any!(ppoll, SYS_ppoll, "waiting for a reader that is slow"),
];

const MAIN: &[Rule] = &[
    READ,
    WRITE,
    CLOSE,
    MMAP,
    MUNMAP,
    BRK,
    SIGPROCMASK,
    SIGRETURN,
    IOCTL_MAIN,
    YIELD,
    any!(mremap, SYS_mremap, "a buffer that grows"),
    MADVISE_MAIN,
    any!(getpid, SYS_getpid, "signals to this process"),
    EXIT,
    any!(ftruncate, SYS_ftruncate, "the length of the report's file"),
    GETPGRP,
    any!(gettid, SYS_gettid, "signals to this thread"),
    FUTEX_MAIN,
    RESTART,
    CLOCK_GETTIME,
    EXIT_GROUP,
    TGKILL,
    any!(newfstatat, SYS_newfstatat, "whether a name to be removed is still ours"),
    one_of!(unlinkat, SYS_unlinkat, 2, ["no flags" = 0], "removing a socket or link; landlock says where"),
    any!(ppoll, SYS_ppoll, "waiting for events"),
    any!(accept4, SYS_accept4, "clients of the console's socket"),
];
