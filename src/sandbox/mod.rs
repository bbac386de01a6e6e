//! The monitor confines itself before the guest's first instruction, so that a guest that takes over one of its threads is
//! still in a box: no new privileges, no capabilities, no path (landlock), and of the kernel's system calls only those on the
//! thread's list (seccomp), with the arguments it needs.
//!
//! All four are a thread's own and inherited by the threads it starts. So: [`Sandbox::prepare`] on the first thread, before any
//! other, does what all shall inherit and nothing that keeps files from being opened; each thread then calls
//! [`Sandbox::confine`] when it has all it needs. A confined thread that makes another call ends the process with status 125
//! and a message that names the call.
//!
//! `docs/isolation.md` has the threat model and the lists.

mod calls;
#[allow(unsafe_code)]
mod capabilities;
mod filter;
mod listing;
mod paths;
mod requests;
#[allow(unsafe_code)]
mod violation;

use std::borrow::Cow;
use std::io;
use std::path::PathBuf;
use std::sync::OnceLock;

use rustix::process::{Resource, Rlimit, setrlimit};

pub use self::calls::{Case, Check, Rule, Test, ThreadKind};
pub use self::listing::markdown;
pub use self::paths::{Support, landlock_abi};

use self::paths::Rulesets;
use crate::config::SandboxPolicy;

/// Why a thread could not be confined.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// A step that every supported kernel knows.
    #[error(
        "cannot {attempted} to confine the {thread} thread: {source}; Linux 4.14 or newer with CONFIG_SECCOMP_FILTER is needed, \
         or --sandbox off"
    )]
    Step {
        /// What was attempted.
        attempted: &'static str,
        /// Which thread.
        thread: String,
        /// The host's words.
        #[source]
        source: io::Error,
    },
    /// Landlock is there, but did not take the rules.
    #[error("cannot set up landlock{on}: {reason}; --sandbox off runs without it")]
    Landlock {
        /// The folder concerned, if one is.
        on: String,
        /// What went wrong.
        reason: String,
    },
}

/// The layers, each of which can be left out in tests that show what it stops alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layers {
    /// System calls by list.
    pub seccomp: bool,
    /// No path can be opened, no TCP port bound or connected.
    pub landlock: bool,
    /// No capabilities.
    pub capabilities: bool,
}

impl Layers {
    /// All of them.
    pub const ALL: Self = Self { seccomp: true, landlock: true, capabilities: true };
    /// None.
    pub const NONE: Self = Self { seccomp: false, landlock: false, capabilities: false };
}

impl From<SandboxPolicy> for Layers {
    fn from(policy: SandboxPolicy) -> Self {
        match policy {
            SandboxPolicy::Strict => Self::ALL,
            SandboxPolicy::Off => Self::NONE,
        }
    }
}

/// The means to confine this process's threads.
#[derive(Debug)]
pub struct Sandbox {
    layers: Layers,
    process: u32,
    rulesets: OnceLock<Rulesets>,
    /// In the order of [`ThreadKind::ALL`]; each made by the first thread of its kind, so that they are made side by side.
    filters: [OnceLock<Vec<libc::sock_filter>>; ThreadKind::ALL.len()],
}

impl Sandbox {
    /// Does what every thread inherits and the first ones need: no new privileges. Files can still be opened.
    /// To be called before other threads are started.
    ///
    /// `clean_up` gives back what outlives the process (a terminal's modes) when a call is blocked. It is called in a signal's
    /// handler on any confined thread, and must keep to that thread's list.
    ///
    /// # Errors
    /// [`SandboxError::Step`].
    pub fn prepare(layers: Layers, clean_up: fn()) -> Result<Self, SandboxError> {
        if layers != Layers::NONE {
            capabilities::no_new_privileges().map_err(step("set no_new_privs", "main"))?;
        }
        if layers.seccomp {
            violation::install(clean_up).map_err(step("handle SIGSYS", "main"))?;
        }
        Ok(Self { layers, process: std::process::id(), rulesets: OnceLock::new(), filters: Default::default() })
    }

    /// Makes the rules for paths, before the first thread is confined. `removable`: folders below which the main thread may
    /// still remove files, for the names that go with the machine.
    ///
    /// Core dumps are ruled out here as well: one would hold the guest's memory. The calling thread's bounding set is emptied,
    /// and so is that of the threads it starts from now on: not earlier, because each step leaves credentials to be freed after an
    /// RCU grace period, and KVM making a machine would wait for that one before its own.
    ///
    /// # Errors
    /// [`SandboxError`].
    pub fn complete(&self, removable: &[PathBuf]) -> Result<(), SandboxError> {
        if self.layers != Layers::NONE {
            let none = Rlimit { current: Some(0), maximum: Some(0) };
            setrlimit(Resource::Core, none).map_err(|e| step("rule out core dumps", "main")(e.into()))?;
        }
        if self.layers.capabilities {
            capabilities::empty_bounding_set();
        }
        if self.layers.landlock {
            // Whoever completes twice keeps the first rules.
            let _ = self.rulesets.set(Rulesets::new(removable)?);
        }
        Ok(())
    }

    /// The filter of system calls of threads of this kind, made once.
    fn filter(&self, kind: ThreadKind) -> &[libc::sock_filter] {
        self.filters[kind as usize].get_or_init(|| filter::compile(&rules(kind), self.process))
    }

    /// What landlock does for this process, once [`Self::complete`] has been called with that layer.
    pub fn paths(&self) -> Option<Support> {
        self.rulesets.get().map(Rulesets::support)
    }

    /// Whether no layer is in use.
    pub fn is_off(&self) -> bool {
        self.layers == Layers::NONE
    }

    /// Confines the calling thread, for good. `name` is what a blocked call's message calls it.
    ///
    /// # Errors
    /// [`SandboxError::Step`]: the thread must not go on to run the guest.
    pub fn confine(&self, kind: ThreadKind, name: &str) -> Result<(), SandboxError> {
        if let Some(fd) = self.rulesets.get().and_then(|rulesets| rulesets.of(kind)) {
            paths::restrict(fd).map_err(step("enter the landlock domain", name))?;
        }
        if self.layers.capabilities {
            capabilities::empty_bounding_set();
            capabilities::drop_all().map_err(step("drop capabilities", name))?;
        }
        if self.layers.seccomp {
            violation::name_thread(name);
            filter::install(self.filter(kind)).map_err(step("install the filter of system calls", name))?;
        }
        Ok(())
    }
}

fn step(attempted: &'static str, thread: &str) -> impl FnOnce(io::Error) -> SandboxError {
    let thread = thread.to_owned();
    move |source| SandboxError::Step { attempted, thread, source }
}

/// The rules that the filter of a thread of this kind is made from: its list, and what only a debug build needs.
fn rules(kind: ThreadKind) -> Cow<'static, [Rule]> {
    if !cfg!(debug_assertions) {
        return kind.rules().into();
    }
    let mut rules = kind.rules().to_vec();
    rules.insert(rules.partition_point(|rule| rule.number < calls::DEBUG_BUILD.number), calls::DEBUG_BUILD);
    rules.into()
}
