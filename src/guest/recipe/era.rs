//! What newer trees take otherwise than the recipe's own patches and fragments, which are for Linux 6.1.
//!
//! A folder `kernels/linux/since-6.12/` is for trees from that release on. A patch in it takes the place of the one of
//! the same name in `patches/`; one that holds no diff says why such trees need none. Its `more.config` goes on top of
//! every flavour's fragment. An older tree's build does not see the folder, nor does its fingerprint: what is changed
//! for 6.12 makes nobody build 6.1 anew.

use std::borrow::Cow;

use super::{FULL_FINGERPRINTS, Fingerprint, Flavour, Fnv, MICRO_FINGERPRINTS, PATCHES, Patch, STEPS_VERSION};

/// A folder for trees from a release on.
#[derive(Debug)]
pub(super) struct Since {
    /// The first release, major and minor number.
    pub(super) release: (u32, u32),
    /// Forms of patches, in the order of their names.
    pub(super) forms: &'static [Patch],
    /// Settings in place of, and beside, the fragment's.
    pub(super) settings: &'static str,
}

macro_rules! since {
    ($folder:literal, $release:expr, [$($name:literal),* $(,)?]) => {
        Since {
            release: $release,
            forms: &[$(Patch {
                name: concat!($folder, "/", $name),
                text: include_str!(concat!("../../../kernels/linux/", $folder, "/", $name)),
            }),*],
            settings: include_str!(concat!("../../../kernels/linux/", $folder, "/more.config")),
        }
    };
}

/// The folders, the oldest release first. What an older one has, newer trees take too.
pub(super) const SINCE: [Since; 2] = [
    since!("since-6.5", (6, 5), []),
    since!(
        "since-6.12",
        (6, 12),
        [
            "0004-char-dev-port-without-isa-or-pci.patch",
            "0007-mm-do-not-check-pages-never-used.patch",
            "0008-mm-initialise-struct-pages-in-a-row.patch",
            "0012-kobject-format-events-only-for-listeners.patch",
            "0014-x86-compact-image.patch",
            "0016-mm-write-each-word-of-a-struct-page-once.patch",
            "0017-ipv4-draw-a-bucket-of-idents-at-its-first-use.patch",
            "0018-x86-decode-only-where-nops-are.patch",
            "0019-printk-format-a-message-once.patch",
            "0020-x86-change-page-attributes-in-runs.patch",
            "0021-x86-compact-image-no-gap-in-the-bss.patch",
            "0022-initramfs-take-pages-rather-than-copy-them.patch",
            "0027-mm-ask-once-for-a-section-of-boot-memory.patch",
        ]
    ),
];

/// How many eras there are.
pub(super) const ERAS: usize = SINCE.len() + 1;

/// The releases of Linux that are built from the same patches and settings: how many of the folders are for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Era(usize);

impl Era {
    /// Every era, the oldest first.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..ERAS).map(Self)
    }

    /// The era of a version such as `6.12.117`. One that cannot be read is taken for the oldest.
    pub fn of(version: &str) -> Self {
        let mut numbers = version.split('.').map(|part| part.parse::<u32>().ok());
        let release = numbers.next().flatten().zip(numbers.next().flatten());
        Self(SINCE.iter().filter(|since| release.is_some_and(|release| since.release <= release)).count())
    }

    /// The patches for these releases in the order in which they are applied.
    pub fn patches(self) -> impl Iterator<Item = Patch> {
        PATCHES.iter().map(move |patch| form(patch, self.0))
    }

    /// A flavour's settings for these releases. Where one is set twice the last line counts.
    pub fn fragment(self, flavour: Flavour) -> Cow<'static, str> {
        let mut fragment = Cow::Borrowed(flavour.fragment());
        for since in &SINCE[..self.0] {
            fragment.to_mut().push_str(since.settings);
        }
        fragment
    }

    /// What this binary's recipe of a flavour hashes to for these releases. Another fragment, other patches or other
    /// build steps have another fingerprint; comments and blank lines do not count.
    pub const fn fingerprint(self, flavour: Flavour) -> Fingerprint {
        match flavour {
            Flavour::Micro => MICRO_FINGERPRINTS[self.0],
            Flavour::Full => FULL_FINGERPRINTS[self.0],
        }
    }
}

/// The form of a patch that the newest of the first `folders` folders has, or the patch itself.
const fn form(patch: &Patch, folders: usize) -> Patch {
    let mut folder = folders;
    while folder > 0 {
        folder -= 1;
        let forms = SINCE[folder].forms;
        let mut next = 0;
        while next < forms.len() {
            if is_in_a_folder(forms[next].name.as_bytes(), patch.name.as_bytes()) {
                return forms[next];
            }
            next += 1;
        }
    }
    *patch
}

/// Whether a path is a folder's, a slash, and `name`.
const fn is_in_a_folder(path: &[u8], name: &[u8]) -> bool {
    let Some(folder) = path.len().checked_sub(name.len() + 1) else { return false };
    let mut at = 0;
    while at < name.len() {
        if path[folder + 1 + at] != name[at] {
            return false;
        }
        at += 1;
    }
    path[folder] == b'/'
}

/// The fingerprints of a fragment with the patches, by era.
pub(super) const fn fingerprints(fragment: &str) -> [Fingerprint; ERAS] {
    let mut fingerprints = [Fingerprint(0); ERAS];
    let mut era = 0;
    while era < ERAS {
        fingerprints[era] = fingerprint(fragment, era);
        era += 1;
    }
    fingerprints
}

/// The fingerprint of a fragment with the patches and settings of the first `folders` folders.
pub(super) const fn fingerprint(fragment: &str, folders: usize) -> Fingerprint {
    let mut hash = Fnv::new().bytes(STEPS_VERSION.as_bytes()).fragment(fragment.as_bytes());
    let mut next = 0;
    while next < folders {
        hash = hash.fragment(SINCE[next].settings.as_bytes());
        next += 1;
    }
    let mut next = 0;
    while next < PATCHES.len() {
        let patch = form(&PATCHES[next], folders);
        hash = hash.bytes(patch.name.as_bytes()).bytes(patch.text.as_bytes());
        next += 1;
    }
    hash.finish()
}

#[cfg(test)]
#[path = "era_tests.rs"]
mod tests;
