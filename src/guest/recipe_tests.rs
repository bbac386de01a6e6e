//! Tests of the recipe: what is embedded, the fingerprint, merging and checking configurations.

use std::collections::BTreeSet;
use std::path::Path;

use proptest::prelude::*;

use super::*;

/// Proves that a patch or fragment added to `kernels/linux/` cannot be forgotten in the binary.
#[test]
fn everything_in_the_folder_is_embedded() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/linux");
    let names = |dir: &Path, ending: &str| -> BTreeSet<String> {
        let files = std::fs::read_dir(dir).map(|entries| entries.map(|e| e.unwrap().file_name())).into_iter().flatten();
        files.map(|n| n.into_string().unwrap()).filter(|n| n.ends_with(ending)).collect()
    };
    let embedded: BTreeSet<_> = PATCHES.iter().map(|p| p.name.to_owned()).collect();
    assert_eq!(names(&folder.join("patches"), ".patch"), embedded);
    let flavours: BTreeSet<_> = Flavour::ALL.iter().map(|f| format!("{f}.config")).collect();
    assert_eq!(names(&folder, ".config"), flavours);
    assert!(PATCHES.is_sorted_by_key(|p| p.name), "patches are applied in the order of their names");
}

/// Proves that each patch says who needs it, which is what a user reads when it is left out.
#[test]
fn patches_say_who_needs_them() {
    for patch in PATCHES {
        let needed = patch.needed();
        assert!(needed.len() > 10 && !needed.contains('\n'), "{}: {needed:?}", patch.name);
    }
    let hosts = PATCHES.iter().filter(|patch| patch.needed().contains("page-table based KVM")).count();
    assert!(hosts >= 3);
    let two_lines = Patch { name: "", text: "Why.\n\nNeeded: here\nand there.\n---\ndiff" };
    assert_eq!(two_lines.needed(), "here and there.");
}

/// Proves that each fragment is made of settings and comments only, so that no misspelt line is silently ignored.
#[test]
fn fragments_have_no_stray_lines() {
    for flavour in Flavour::ALL {
        for (number, line) in flavour.fragment().lines().enumerate() {
            let fine = line.is_empty() || line.starts_with('#') || assignment(line).is_some();
            assert!(fine, "{flavour}.config:{}: {line}", number + 1);
            let unset = line.starts_with("# CONFIG_") && line.contains("set");
            assert!(!unset || assignment(line).is_some(), "{flavour}.config:{}: {line}", number + 1);
        }
        assert!(symbols(flavour.fragment()).len() > 20);
    }
}

/// Proves that the flavours differ, and that comments do not count while settings and their order do.
#[test]
fn the_fingerprint_sees_settings_only() {
    let fingerprint = |fragment| era::fingerprint(fragment, 0);
    assert_ne!(Era::of("6.1").fingerprint(Flavour::Micro), Era::of("6.1").fingerprint(Flavour::Full));
    let plain = fingerprint("CONFIG_A=y\n# CONFIG_B is not set\n");
    assert_eq!(plain, fingerprint("# why\n\nCONFIG_A=y\n#\n# CONFIG_B is not set"));
    assert_ne!(plain, fingerprint("CONFIG_A=y\n# CONFIG_C is not set\n"));
    assert_ne!(plain, fingerprint("CONFIG_A=y\n"));
    assert_ne!(plain, fingerprint("CONFIG_A=y# CONFIG_B is not set\n"));
    assert_eq!(plain.to_string().len(), 12);
}

/// Proves that the hash is FNV-1a by the authors' published value for "foobar".
#[test]
fn the_hash_is_fnv_1a() {
    let hash = b"foobar".iter().fold(Fnv::new(), |hash, byte| hash.byte(*byte));
    assert_eq!(hash.0, 0x8594_4171_f739_67e8);
}

/// Proves that a fragment's line replaces the base's, whichever way round they set it, and leaves the rest.
#[test]
fn merging_replaces_settings() {
    let base = "# Linux/x86 6.1\nCONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=\"x=y\"\n";
    let merged = merge(base, "# CONFIG_A is not set\nCONFIG_B=y\nCONFIG_D=64\nCONFIG_D=32\n");
    let have = symbols(&merged);
    let expected = [("A", "n"), ("B", "y"), ("C", "\"x=y\""), ("D", "32")];
    assert_eq!(have.into_iter().collect::<Vec<_>>(), expected);
    assert_eq!(merged.matches("CONFIG_B").count(), 1);
    assert!(merged.starts_with("# Linux/x86 6.1\n"));
}

/// Proves that a setting that was dropped, changed or is unknown is found, and that "not set" may be absent.
#[test]
fn settings_that_did_not_take_are_found() {
    let fragment = "CONFIG_A=y\nCONFIG_B=y\nCONFIG_N=64\n# CONFIG_C is not set\n# CONFIG_D is not set\n";
    let config = "CONFIG_A=y\nCONFIG_N=8\nCONFIG_D=y\n";
    let found: Vec<_> = untaken(fragment, config).iter().map(ToString::to_string).collect();
    let expected = ["CONFIG_B=n (asked for y)", "CONFIG_D=y (asked for n)", "CONFIG_N=8 (asked for 64)"];
    assert_eq!(found, expected);
}

/// Proves that flavours read back from their names and that another name gets an error that lists them.
#[test]
fn flavours_have_names() {
    for flavour in Flavour::ALL {
        assert_eq!(flavour.name().parse(), Ok(flavour));
    }
    assert!("tiny".parse::<Flavour>().unwrap_err().to_string().contains("micro or full"));
}

proptest! {
    /// Proves that whatever the base is, every setting of the fragment is in the merged configuration.
    #[test]
    fn a_merged_fragment_is_taken(base in "(# )?CONFIG_[A-C](=[yn]| is not set)?\n?.*", fragment in "(CONFIG_[A-D]=[a-z0-9]{1,3}\n){0,5}") {
        prop_assert_eq!(untaken(&fragment, &merge(&base, &fragment)), vec![]);
    }
}
