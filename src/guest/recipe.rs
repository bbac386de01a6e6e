//! How the default kernels are configured: a flavour's configuration fragment, the patches, and the recipe's fingerprint.
//!
//! Fragments and patches live in `kernels/linux/` and are part of the binary, so that an installed ringfence can build
//! its kernels with no checkout. The fingerprint is computed by the compiler: finding the default kernel at run time
//! costs no hashing.

mod era;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use self::era::Era;

/// One of the kernels ringfence can build.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Flavour {
    /// The default, tuned for time to userspace.
    Micro,
    /// What micro leaves out for speed is in.
    Full,
}

/// A text that names no flavour.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("\"{0}\" is not a flavour of the default kernel: use micro or full")]
pub struct UnknownFlavour(String);

impl Flavour {
    /// Every flavour, the default first.
    pub const ALL: [Self; 2] = [Self::Micro, Self::Full];

    /// The name as it is typed.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Micro => "micro",
            Self::Full => "full",
        }
    }

    /// The configuration fragment that goes on top of `make tinyconfig`.
    pub const fn fragment(self) -> &'static str {
        match self {
            Self::Micro => include_str!("../../kernels/linux/micro.config"),
            Self::Full => include_str!("../../kernels/linux/full.config"),
        }
    }

    /// Whether a fingerprint, as it is printed, is that of this binary's recipe for some era of Linux.
    pub fn has_recipe(self, fingerprint: &str) -> bool {
        Era::all().any(|era| era.fingerprint(self).to_string() == fingerprint)
    }
}

impl fmt::Display for Flavour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Flavour {
    type Err = UnknownFlavour;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|f| f.name() == text).ok_or_else(|| UnknownFlavour(text.to_owned()))
    }
}

/// A change to the kernel's source.
#[derive(Clone, Copy, Debug)]
pub struct Patch {
    /// The file's name in `kernels/linux/patches/`; of a form for newer trees, in `kernels/linux/`.
    pub name: &'static str,
    /// The whole file: the reason, then a unified diff for `patch -p1`.
    pub text: &'static str,
}

impl Patch {
    /// What the patch's text says after `Needed:`, on one line: which hosts or guests want it.
    pub fn needed(&self) -> String {
        let Some((_, after)) = self.text.split_once("\nNeeded:") else { return String::new() };
        let lines = after.lines().take_while(|line| !line.trim().is_empty() && *line != "---");
        lines.map(str::trim).collect::<Vec<_>>().join(" ")
    }

    /// The files that the patch changes.
    pub fn files(&self) -> impl Iterator<Item = &'static str> {
        self.text.lines().filter_map(|line| line.strip_prefix("+++ b/")).map(str::trim_end)
    }

    /// Whether there is anything to apply. A form for newer trees may only say that these need none.
    pub fn has_diff(&self) -> bool {
        self.files().next().is_some()
    }
}

macro_rules! patches {
    ($($name:literal),* $(,)?) => {
        [$(Patch { name: $name, text: include_str!(concat!("../../kernels/linux/patches/", $name)) }),*]
    };
}

/// The patches in the order in which they are applied, to every flavour. Newer trees take some in another form: [`Era`].
pub const PATCHES: &[Patch] = &patches![
    "0001-x86-no-int3-selftest-under-a-hypervisor.patch",
    "0002-x86-no-fwait-where-fxsave-is.patch",
    "0003-x86-system-call-from-the-fetch-fault.patch",
    "0004-char-dev-port-without-isa-or-pci.patch",
    "0005-acpica-no-pci-config-handler-without-pci.patch",
    "0006-init-optimise-boot-code-for-speed.patch",
    "0007-mm-do-not-check-pages-never-used.patch",
    "0008-mm-initialise-struct-pages-in-a-row.patch",
    "0009-x86-poison-init-memory-only-on-request.patch",
    "0010-x86-clear-only-page-table-entries-that-are-set.patch",
    "0011-params-create-a-module-s-parameters-once.patch",
    "0012-kobject-format-events-only-for-listeners.patch",
    "0013-x86-percpu-units-in-pages-without-numa.patch",
    "0014-x86-compact-image.patch",
    "0015-tick-every-few-jiffies-on-request.patch",
    "0016-mm-write-each-word-of-a-struct-page-once.patch",
    "0017-ipv4-draw-a-bucket-of-idents-at-its-first-use.patch",
    "0018-x86-decode-only-where-nops-are.patch",
    "0019-printk-format-a-message-once.patch",
    "0020-x86-change-page-attributes-in-runs.patch",
    "0021-x86-compact-image-no-gap-in-the-bss.patch",
    "0022-initramfs-take-pages-rather-than-copy-them.patch",
    "0023-x86-pvh-look-for-xen-where-it-is-supported.patch",
    "0024-x86-leave-the-ioapic-as-it-is-without-a-pic.patch",
    "0025-mm-no-groups-by-mobility-without-compaction.patch",
    "0026-x86-ask-for-scattered-features-once.patch",
    "0027-mm-ask-once-for-a-section-of-boot-memory.patch",
];

/// Counts changes of the build steps themselves (not of fragments or patches) that make another kernel.
const STEPS_VERSION: &str = "1";

/// 48 bits that name a recipe, printed as 12 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint(u64);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:012x}", self.0)
    }
}

const MICRO_FINGERPRINTS: [Fingerprint; era::ERAS] = era::fingerprints(Flavour::Micro.fragment());
const FULL_FINGERPRINTS: [Fingerprint; era::ERAS] = era::fingerprints(Flavour::Full.fragment());

/// The FNV-1a hash (Fowler, Noll, Vo) of 64 bits. It guards against stale kernels, not against an adversary: what it
/// hashes is part of the binary.
struct Fnv(u64);

impl Fnv {
    const fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    const fn byte(self, byte: u8) -> Self {
        Self((self.0 ^ byte as u64).wrapping_mul(0x0000_0100_0000_01b3))
    }

    /// Adds a whole text and a mark of its end.
    const fn bytes(mut self, bytes: &[u8]) -> Self {
        let mut at = 0;
        while at < bytes.len() {
            self = self.byte(bytes[at]);
            at += 1;
        }
        self.byte(0)
    }

    /// Adds the lines of a fragment that say something to kconfig.
    const fn fragment(mut self, text: &[u8]) -> Self {
        let mut at = 0;
        while at < text.len() {
            let says = text[at] != b'\n' && (text[at] != b'#' || starts_unset(text, at));
            while at < text.len() && text[at] != b'\n' {
                if says {
                    self = self.byte(text[at]);
                }
                at += 1;
            }
            if says {
                self = self.byte(b'\n');
            }
            at += 1;
        }
        self.byte(0)
    }

    /// Folded to 48 bits, as the authors advise for sizes that are not powers of two.
    const fn finish(self) -> Fingerprint {
        Fingerprint((self.0 >> 48) ^ (self.0 & 0xffff_ffff_ffff))
    }
}

/// Whether `# CONFIG_` begins at `at`.
const fn starts_unset(text: &[u8], at: usize) -> bool {
    const MARK: &[u8] = b"# CONFIG_";
    let mut n = 0;
    while n < MARK.len() {
        if at + n >= text.len() || text[at + n] != MARK[n] {
            return false;
        }
        n += 1;
    }
    true
}

/// What a line of a kernel configuration sets: the symbol without `CONFIG_`, and its value; `n` for "is not set".
fn assignment(line: &str) -> Option<(&str, &str)> {
    let line = line.trim_end();
    if let Some(rest) = line.strip_prefix("CONFIG_") {
        return rest.split_once('=');
    }
    let unset = line.strip_prefix("# CONFIG_")?.strip_suffix(" is not set")?;
    Some((unset, "n"))
}

/// The symbols a configuration or fragment sets. Where one is set twice the last line counts, as in kconfig.
pub fn symbols(config: &str) -> BTreeMap<&str, &str> {
    config.lines().filter_map(assignment).collect()
}

/// A base configuration with a fragment's settings in place of its own.
pub fn merge(base: &str, fragment: &str) -> String {
    let wanted = symbols(fragment);
    let kept = base.lines().filter(|line| assignment(line).is_none_or(|(symbol, _)| !wanted.contains_key(symbol)));
    let mut merged: String = kept.flat_map(|line| [line, "\n"]).collect();
    for (symbol, value) in &wanted {
        match *value {
            "n" => merged.push_str(&format!("# CONFIG_{symbol} is not set\n")),
            value => merged.push_str(&format!("CONFIG_{symbol}={value}\n")),
        }
    }
    merged
}

/// A setting of the fragment that kconfig did not take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Untaken {
    /// The symbol without `CONFIG_`.
    pub symbol: String,
    /// What the fragment asks for; `n` is "not set".
    pub wanted: String,
    /// What the configuration has; `n` also when this source does not know the symbol.
    pub got: String,
}

impl fmt::Display for Untaken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CONFIG_{}={} (asked for {})", self.symbol, self.got, self.wanted)
    }
}

/// Compares what a fragment asks for with the configuration that `make olddefconfig` made of it.
pub fn untaken(fragment: &str, config: &str) -> Vec<Untaken> {
    let have = symbols(config);
    symbols(fragment)
        .into_iter()
        .map(|(symbol, wanted)| (symbol, wanted, have.get(symbol).copied().unwrap_or("n")))
        .filter(|(_, wanted, got)| wanted != got)
        .map(|(symbol, wanted, got)| Untaken {
            symbol: symbol.to_owned(),
            wanted: wanted.to_owned(),
            got: got.to_owned(),
        })
        .collect()
}

#[cfg(test)]
#[path = "recipe_tests.rs"]
mod tests;
