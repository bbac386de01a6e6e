//! Tests of what newer trees take otherwise: the folders, the choice by version, and that 6.1 stays what it is.

use std::collections::BTreeSet;
use std::path::Path;

use super::super::{assignment, symbols};
use super::*;

const OLDEST: Era = Era(0);

/// Proves that a file added to a `since-` folder cannot be forgotten in the binary, and that each takes the place of a
/// patch that there is.
#[test]
fn every_form_is_embedded_and_has_a_place() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/linux");
    let names = |folder: &Path| -> BTreeSet<String> {
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    };
    let folders: BTreeSet<_> = names(&top).into_iter().filter(|name| name.starts_with("since-")).collect();
    let name = |since: &Since| format!("since-{}.{}", since.release.0, since.release.1);
    assert_eq!(folders, SINCE.iter().map(name).collect());
    assert!(SINCE.is_sorted_by_key(|since| since.release) && SINCE.iter().all(|since| since.release > (6, 1)));
    for since in &SINCE {
        let folder = name(since);
        let mut embedded: BTreeSet<_> = since.forms.iter().map(|form| form.name.to_owned()).collect();
        embedded.insert(format!("{folder}/more.config"));
        let there: BTreeSet<_> = names(&top.join(&folder)).iter().map(|file| format!("{folder}/{file}")).collect();
        assert_eq!(there, embedded);
        for form in since.forms {
            let (_, name) = form.name.split_once('/').unwrap();
            assert!(PATCHES.iter().any(|patch| patch.name == name), "{name} takes no patch's place");
            assert!(!form.needed().is_empty(), "{name}");
        }
    }
}

/// Proves that a version belongs to the newest folder that is not newer than it, by number and not by letter, and that
/// what is no version gets the recipe as it is.
#[test]
fn the_version_names_the_era() {
    for (version, folders) in
        [("6.1.192", 0), ("6.4.9", 0), ("6.5.0", 1), ("6.11.9", 1), ("6.12.117", 2), ("6.20.1-rc1", 2), ("7.0.0", 2)]
    {
        assert_eq!(Era::of(version), Era(folders), "{version}");
    }
    for no_version in ["", "6", "six.twelve", "-6.12", "99999999999999.1"] {
        assert_eq!(Era::of(no_version), OLDEST, "{no_version:?}");
    }
}

/// Proves that a newer tree gets each patch once, in order, in its own form where there is one; and 6.1 none of them.
#[test]
fn forms_take_the_patches_places() {
    let base = |patch: &Patch| patch.name.rsplit('/').next().unwrap().to_owned();
    let newest = Era(SINCE.len());
    let names: Vec<_> = newest.patches().map(|patch| base(&patch)).collect();
    assert_eq!(names, PATCHES.iter().map(base).collect::<Vec<_>>());
    assert!(newest.patches().any(|patch| patch.name.starts_with("since-6.12/0007-")));
    assert!(OLDEST.patches().zip(PATCHES).all(|(patch, own)| (patch.name, patch.text) == (own.name, own.text)));
    assert!(OLDEST.patches().all(|patch| patch.has_diff()));
    let without: Vec<_> = newest.patches().filter(|patch| !patch.has_diff()).map(|patch| base(&patch)).collect();
    let numbers: Vec<_> = without.iter().map(|name| &name[..4]).collect();
    let none_yet = ["0016", "0017", "0018", "0019", "0020", "0021", "0022", "0027"];
    assert_eq!(numbers[0], "0004", "6.12 has what that one did");
    assert_eq!(numbers[1..], none_yet, "those that save time alone wait for a form");
}

/// Proves that the fingerprint of 6.1's build is made of the fragment and the patches alone, with nothing of the folders
/// for newer trees, and that theirs is another for each era and flavour.
#[test]
fn newer_trees_have_no_part_in_the_older_fingerprint() {
    for flavour in Flavour::ALL {
        let mut own = Fnv::new().bytes(STEPS_VERSION.as_bytes()).fragment(flavour.fragment().as_bytes());
        for patch in PATCHES {
            own = own.bytes(patch.name.as_bytes()).bytes(patch.text.as_bytes());
        }
        assert_eq!(OLDEST.fingerprint(flavour), own.finish());
        assert_eq!(OLDEST.fragment(flavour), flavour.fragment());
    }
    let all: Vec<_> = Era::all().flat_map(|era| Flavour::ALL.map(|flavour| era.fingerprint(flavour))).collect();
    let distinct: BTreeSet<_> = all.iter().map(ToString::to_string).collect();
    assert_eq!((all.len(), distinct.len()), (Flavour::ALL.len() * ERAS, Flavour::ALL.len() * ERAS));
    assert!(distinct.iter().all(|text| Flavour::ALL.iter().any(|flavour| flavour.has_recipe(text))));
    assert!(!Flavour::Micro.has_recipe(&OLDEST.fingerprint(Flavour::Full).to_string()));
}

/// Proves that the newer settings win over the fragment's, leave the others, and are settings and comments only.
#[test]
fn newer_settings_are_on_top() {
    for (version, slab, base) in [("6.1", "y", "y"), ("6.5", "n", "y"), ("6.12", "n", "n")] {
        let fragment = Era::of(version).fragment(Flavour::Micro);
        let have = symbols(&fragment);
        assert_eq!((have["SLAB"], have["BASE_FULL"], have["SMP"]), (slab, base, "y"), "{version}");
    }
    for since in &SINCE {
        for line in since.settings.lines() {
            let unset = line.starts_with("# CONFIG_") && line.contains("set");
            let fine = line.is_empty() || line.starts_with('#') || assignment(line).is_some();
            assert!(fine && (!unset || assignment(line).is_some()), "{line}");
        }
    }
}
