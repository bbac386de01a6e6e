//! Tests of the store on temporary folders, with kernels of a few bytes.

use std::collections::HashMap;

use proptest::prelude::*;

use super::super::manifest::FILE;
use super::super::manifest::tests::example;
use super::super::recipe::Era;
use super::*;

/// Puts a built kernel into the store as a build does.
fn install(store: &Store, flavour: Flavour, recipe: &str, content: &str) -> String {
    let id = format!("{flavour}-{recipe}-01234567");
    let filling = store.filling(&id).unwrap();
    fs::write(filling.path().join(VMLINUX), content).unwrap();
    example().write(filling.path()).unwrap();
    store.install(filling.path(), &id, flavour).unwrap();
    id
}

fn current(flavour: Flavour) -> String {
    Era::of("6.1").fingerprint(flavour).to_string()
}

/// Proves that the folder is taken from the first variable that is set, and a relative XDG_CACHE_HOME is not.
#[test]
fn the_cache_folder() {
    let with = |vars: &[(&str, &str)]| {
        let vars: HashMap<_, _> = vars.iter().copied().collect();
        cache_folder_from(|name| vars.get(name).map(PathBuf::from)).map_err(|e| e.to_string())
    };
    let all = [("RINGFENCE_CACHE", "/r"), ("XDG_CACHE_HOME", "/x"), ("HOME", "/h")];
    assert_eq!(with(&all), Ok("/r".into()));
    assert_eq!(with(&all[1..]), Ok("/x/ringfence".into()));
    assert_eq!(with(&all[2..]), Ok("/h/.cache/ringfence".into()));
    assert_eq!(with(&[("XDG_CACHE_HOME", "x"), ("HOME", "/h")]), Ok("/h/.cache/ringfence".into()));
    assert!(with(&[]).unwrap_err().contains("RINGFENCE_CACHE"));
}

/// Proves that the default kernel is the one built last by this binary's recipe, and that each other state has its own
/// error, which names the command that helps.
#[test]
fn the_default_kernel() {
    let cache = tempfile::tempdir().unwrap();
    let store = Store::new(cache.path());
    let find = |flavour| default_kernel(cache.path(), flavour);
    assert!(matches!(find(Flavour::Micro), Err(StoreError::NotBuilt(Flavour::Micro))));
    assert!(find(Flavour::Full).unwrap_err().to_string().contains("kernel build --flavour full`"));

    install(&store, Flavour::Micro, "0123456789ab", "old");
    let Err(StoreError::OutOfDate { path, .. }) = find(Flavour::Micro) else {
        panic!("an old recipe's kernel was taken")
    };
    assert_eq!(fs::read(path).unwrap(), b"old");

    let id = install(&store, Flavour::Micro, &current(Flavour::Micro), "new");
    assert_eq!(fs::read(find(Flavour::Micro).unwrap().path).unwrap(), b"new");
    assert!(matches!(find(Flavour::Full), Err(StoreError::NotBuilt(Flavour::Full))));

    fs::remove_file(cache.path().join("kernels/built").join(id).join(VMLINUX)).unwrap();
    assert!(matches!(find(Flavour::Micro), Err(StoreError::NotBuilt(_))));
}

/// Proves that building the same again replaces the kernel, leaving nothing of the older one and no scratch folder.
#[test]
fn a_build_replaces_its_older_self() {
    let cache = tempfile::tempdir().unwrap();
    let store = Store::new(cache.path());
    for content in ["one", "two"] {
        let id = install(&store, Flavour::Micro, &current(Flavour::Micro), content);
        assert_eq!(fs::read_to_string(store.built().join(id).join(VMLINUX)).unwrap(), content);
    }
    assert_eq!(names(&store.work()).unwrap(), Vec::<String>::new());
    assert_eq!(store.list().unwrap().len(), 1);
}

/// Proves that the list tells default, out of date, imported and damaged kernels apart.
#[test]
fn lists_what_is_there() {
    let cache = tempfile::tempdir().unwrap();
    let store = Store::new(cache.path());
    assert!(store.list().unwrap().is_empty());
    let old = install(&store, Flavour::Micro, "0123456789ab", "old");
    let new = install(&store, Flavour::Micro, &current(Flavour::Micro), "new");
    let file = cache.path().join("mine");
    fs::write(&file, "kernel").unwrap();
    store.import(&file, "mine", Some("5.4".into())).unwrap();
    fs::create_dir_all(store.imported().join("broken")).unwrap();
    fs::write(store.imported().join("broken").join(FILE), "{").unwrap();

    let list = store.list().unwrap();
    let find = |name: &str| list.iter().find(|entry| entry.name == name).unwrap();
    assert_eq!((find(&old).default, find(&old).out_of_date), (false, true));
    assert_eq!((find(&new).default, find(&new).out_of_date), (true, false));
    assert_eq!((find("mine").default, find("mine").out_of_date), (false, false));
    assert_eq!(fs::read(&find("mine").path).unwrap(), b"kernel");
    assert_eq!(find("mine").manifest.as_ref().unwrap().version.as_deref(), Some("5.4"));
    assert!(find("broken").manifest.is_none());
    assert!(find("broken").damage.as_ref().unwrap().contains(FILE));
    assert_eq!(find("mine").damage, None);
    fs::write(&find("mine").path, "kern").unwrap();
    let list = store.list().unwrap();
    let mine = list.iter().find(|entry| entry.name == "mine").unwrap();
    assert_eq!(mine.damage.as_deref(), Some("its image has 4 of 6 bytes"));
}

/// Proves that an imported kernel is found by its name, and that no name leads out of the store.
#[test]
fn finds_by_name() {
    let cache = tempfile::tempdir().unwrap();
    let store = Store::new(cache.path());
    let file = cache.path().join("mine");
    fs::write(&file, "kernel").unwrap();
    store.import(&file, "mine", None).unwrap();
    assert_eq!(fs::read(store.find("mine").unwrap()).unwrap(), b"kernel");
    for name in ["other", "../imported/mine", "..", "", "/etc", "mine/"] {
        assert!(matches!(store.find(name), Err(StoreError::NoSuchKernel(_))), "{name}");
        assert!(matches!(store.remove(name), Err(StoreError::NoSuchKernel(_))), "{name}");
    }
    assert!(matches!(store.find("micro"), Err(StoreError::NotBuilt(_))));
}

/// Proves that a bad or taken name, a folder and an endless file are refused, and that nothing is left of the attempt.
#[test]
fn refuses_what_cannot_be_imported() {
    let cache = tempfile::tempdir().unwrap();
    let store = Store::new(cache.path());
    let file = cache.path().join("mine");
    fs::write(&file, "kernel").unwrap();
    for name in ["micro", "full", "", ".hidden", "a/b", "..", "a b", "\x1b[2J", &"x".repeat(65)] {
        assert!(matches!(store.import(&file, name, None), Err(StoreError::BadName(_))), "{name}");
    }
    store.import(&file, "mine", None).unwrap();
    assert!(matches!(store.import(&file, "mine", None), Err(StoreError::Exists(_))));
    assert!(matches!(store.import(cache.path(), "dir", None), Err(StoreError::NotAKernel(..))));
    assert!(matches!(store.import(Path::new("/dev/zero"), "zero", None), Err(StoreError::NotAKernel(..))));
    assert!(matches!(store.import(&cache.path().join("none"), "none", None), Err(StoreError::Io(..))));
    let sparse = cache.path().join("sparse");
    File::create(&sparse).unwrap().set_len(MAX_IMAGE + 1).unwrap();
    assert!(matches!(store.import(&sparse, "sparse", None), Err(StoreError::NotAKernel(..))));
    assert_eq!(store.list().unwrap().len(), 1);
    assert_eq!(names(&store.work()).unwrap(), Vec::<String>::new());
}

/// Proves that removing the default takes its link along, that a flavour names its default, and that others stay.
#[test]
fn removes_by_name() {
    let cache = tempfile::tempdir().unwrap();
    let store = Store::new(cache.path());
    let old = install(&store, Flavour::Micro, "0123456789ab", "old");
    let new = install(&store, Flavour::Micro, &current(Flavour::Micro), "new");
    assert_eq!(store.remove("micro").unwrap(), new);
    assert!(matches!(default_kernel(cache.path(), Flavour::Micro), Err(StoreError::NotBuilt(_))));
    assert!(matches!(store.remove("micro"), Err(StoreError::NoSuchKernel(_))));
    assert_eq!(store.remove(&old).unwrap(), old);
    assert!(store.list().unwrap().is_empty());
    assert_eq!(names(&store.work()).unwrap(), Vec::<String>::new());
}

/// Proves that the hash of a file is BLAKE3 of its content, by the value published for no input.
#[test]
fn hashes_files() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("abc");
    fs::write(&file, "").unwrap();
    let expected = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";
    assert_eq!(hash_file(&file).unwrap(), expected);
    assert_eq!(hash(b""), expected);
}

proptest! {
    /// Proves that a name that is taken is a single path component of safe characters.
    #[test]
    fn plain_names_are_safe(name in "\\PC{0,70}") {
        if is_plain(&name) {
            prop_assert_eq!(Path::new(&name).components().count(), 1);
            prop_assert!(name.is_ascii() && !name.starts_with('.'));
        }
    }
}
