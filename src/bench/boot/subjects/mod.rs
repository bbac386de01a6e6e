//! What is compared: one file a subject, each an implementation of [`Subject`].

mod cloud_hypervisor;
mod container;
mod crosvm;
mod firecracker;
mod floor;
mod kvmtool;
mod monitor;
mod namespaces;
mod process;
mod qemu;
mod ringfence;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::attempt::{Attempt, AttemptError};
use super::guest::{Guest, GuestKind};
use crate::bench::child::{ChildError, Stop};
use crate::bench::container::{NotRun, RootFs};
use crate::host::software::Program;
use crate::units::ByteSize;

/// What sort of thing a subject is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Runs a virtual machine.
    Monitor,
    /// Runs a container.
    Container,
    /// A plain program.
    Process,
}

/// A machine's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// vCPUs.
    pub cpus: u32,
    /// RAM.
    pub memory: ByteSize,
}

impl Shape {
    /// RAM in MiB, as other monitors take it.
    pub fn mib(self) -> u64 {
        self.memory.as_u64() >> 20
    }
}

/// What is wanted of one run.
#[derive(Clone, Copy, Debug)]
pub struct Order<'a> {
    /// The machine's size; containers and processes have none.
    pub shape: Shape,
    /// The payload stays after its line, for its memory to be counted.
    pub hold: bool,
    /// Where phases go to, when they are wanted.
    pub report: Option<&'a Path>,
    /// A name no other run has.
    pub id: &'a str,
}

/// Something that starts a payload.
///
/// A new one is a file of its own here with an implementation of this trait and a line in [`find`].
pub trait Subject: Send + Sync {
    /// Its name in tables and on the command line.
    fn name(&self) -> &str;

    /// What it is.
    fn kind(&self) -> Kind;

    /// Whether it writes its phases where [`Order::report`] says.
    fn reports(&self) -> bool {
        false
    }

    /// Whether it writes there when it came to the first KVM_RUN, at least.
    fn tells_first_run(&self) -> bool {
        self.reports()
    }

    /// Whether it makes as many vCPUs as it is asked for.
    fn takes_cpus(&self) -> bool {
        true
    }

    /// What it says its version is.
    fn version(&self) -> Option<&str>;

    /// The files it reads at every start, for a cold start without root.
    fn files(&self) -> Vec<PathBuf>;

    /// A run, not started yet. Whatever must be written for it beforehand is no part of the time.
    ///
    /// # Errors
    /// [`AttemptError::Start`].
    fn attempt(&self, order: &Order<'_>) -> Result<Attempt<'_>, AttemptError>;
}

/// ringfence with more arguments, as a subject of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variant {
    /// Its name.
    pub name: String,
    /// Arguments of `ringfence run`.
    pub arguments: Vec<String>,
}

/// Why a text is no variant.
#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "\"{0}\" is no variant; write NAME=ARGUMENTS, the name of letters, digits and -, such as: no-sandbox=--sandbox off"
)]
pub struct VariantError(String);

impl FromStr for Variant {
    type Err = VariantError;

    /// `name=--some argument`, the arguments between spaces.
    fn from_str(text: &str) -> Result<Self, VariantError> {
        let wrong = || VariantError(text.to_owned());
        let (name, arguments) = text.split_once('=').ok_or_else(wrong)?;
        let plain = |name: &str| name.len() <= 24 && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        let arguments: Vec<String> = arguments.split_ascii_whitespace().map(ToOwned::to_owned).collect();
        if name.is_empty() || !plain(name) || NAMES.contains(&name) || arguments.is_empty() {
            return Err(wrong());
        }
        Ok(Self { name: name.to_owned(), arguments })
    }
}

/// What there is to make subjects of.
pub struct Workshop<'a> {
    /// The guest for monitors; `None` where only processes and containers are wanted.
    pub guest: Option<&'a Guest>,
    /// A distribution's kernel as a guest, or why there is none.
    pub distribution: Result<Guest, NotRun>,
    /// The root file system of containers.
    pub rootfs: &'a RootFs,
    /// Programs on this host.
    pub programs: &'a [Program],
    /// This program.
    pub ringfence: &'a Path,
    /// A folder of our own.
    pub work: &'a Path,
    /// ringfence with other arguments, besides.
    pub variants: &'a [Variant],
    /// Whether containers and processes are wanted.
    pub containers: bool,
}

impl Workshop<'_> {
    /// An installed program.
    fn program(&self, subject: &str, name: &str, remedy: &str) -> Result<&Program, NotRun> {
        let found = self.programs.iter().find(|program| program.name == name);
        found.ok_or_else(|| NotRun { name: subject.to_owned(), reason: "not installed".into(), remedy: remedy.into() })
    }
}

/// A subject, or why there is none.
pub type Found = Result<Box<dyn Subject>, NotRun>;

/// All subjects for what the workshop has, each found or told why not. `wanted` tells by name which are looked for at all.
///
/// # Errors
/// [`ChildError::Stopped`] only.
pub fn find(shop: &Workshop<'_>, wanted: &dyn Fn(&str) -> bool, stop: &Stop) -> Result<Vec<Found>, ChildError> {
    type Find = fn(&Workshop<'_>, &Guest) -> Found;
    let monitors: [(&str, Find); 7] = [
        ("ringfence", ringfence::find),
        ("qemu-microvm", qemu::find_microvm),
        ("qemu-q35", qemu::find_q35),
        ("firecracker", firecracker::find),
        ("cloud-hypervisor", cloud_hypervisor::find),
        ("crosvm", crosvm::find),
        ("kvmtool", kvmtool::find),
    ];
    let mut found = Vec::new();
    if let Some(guest) = shop.guest {
        found.extend(monitors.iter().filter(|(name, _)| wanted(name)).map(|(_, find)| find(shop, guest)));
        let variants = shop.variants.iter().map(|variant| ringfence::find_variant(shop, guest, variant));
        found.splice(found.len().min(1)..found.len().min(1), variants);
        if guest.kind == GuestKind::Trivial && wanted(floor::NAME) {
            found.insert(found.len().min(1), floor::find(shop));
        }
        if guest.kind == GuestKind::Linux && wanted(ringfence::DISTRIBUTION) {
            found.insert(found.len().min(1), ringfence::find_distribution(shop));
        }
    }
    if shop.containers {
        if wanted("process") {
            found.push(process::find(shop));
        }
        if wanted("namespaces") {
            found.push(namespaces::find(shop));
        }
        found.extend(container::find(shop, wanted, stop)?);
    }
    Ok(found)
}

/// Names that can be asked for.
pub const NAMES: [&str; 17] = [
    "ringfence",
    floor::NAME,
    ringfence::DISTRIBUTION,
    "qemu-microvm",
    "qemu-q35",
    "firecracker",
    "cloud-hypervisor",
    "crosvm",
    "kvmtool",
    "process",
    "namespaces",
    "runc",
    "crun",
    "youki",
    "podman",
    "docker",
    "nerdctl",
];

/// A command of the given words.
fn command(program: &Path, words: &str) -> Command {
    let mut command = Command::new(program);
    command.args(words.split_ascii_whitespace());
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves what a variant is, and that none takes a subject's name.
    #[test]
    fn variants_are_read() {
        let variant: Variant = "no-sandbox=--sandbox off  -v".parse().unwrap();
        assert_eq!(
            (variant.name.as_str(), variant.arguments),
            ("no-sandbox", ["--sandbox", "off", "-v"].map(String::from).to_vec())
        );
        for wrong in ["", "x", "=--y", "x=", "a b=--c", "runc=--x", "a\x1b=--c"] {
            assert!(wrong.parse::<Variant>().is_err(), "{wrong}");
        }
    }
}
