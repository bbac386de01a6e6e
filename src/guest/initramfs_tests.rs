//! The default initramfs: what is in it, which busybox it takes, and its cache.

use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::guest::cpio::tests::{Entry, read};

/// The least that passes for a static program: an ELF header and one PT_LOAD.
fn small_elf(segment_type: u32) -> Vec<u8> {
    let mut elf = vec![0; 64 + 56];
    elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
    elf[18] = 62;
    elf[32] = 64;
    elf[54] = 56;
    elf[56] = 1;
    elf[64..68].copy_from_slice(&segment_type.to_le_bytes());
    elf
}

fn executable(path: &Path, contents: &[u8]) {
    fs::write(path, contents).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn find<'e>(entries: &'e [Entry], path: &str) -> &'e Entry {
    entries.iter().find(|entry| entry.path == path).unwrap_or_else(|| panic!("{path} is in the archive"))
}

#[test]
fn archive_holds_what_the_kernel_and_a_shell_look_for() {
    let entries = read(&build(b"busybox", b"ls\0").unwrap());
    assert_eq!(find(&entries, "init").contents, INIT);
    assert_eq!(find(&entries, "init").mode, 0o100_755);
    assert_eq!(find(&entries, "bin/busybox").contents, b"busybox");
    assert_eq!(find(&entries, "bin/sh").contents, b"busybox");
    assert_eq!(find(&entries, "dev/console").device, (5, 1));
    assert_eq!(find(&entries, "dev/port").device, (1, 4));
    assert_eq!(find(&entries, "dev/ttyS0").device, (4, 64));
    assert_eq!(find(&entries, "tmp").mode, 0o041_777);
    assert_eq!(find(&entries, "ringfence/applets").contents, b"ls\0");
    let profile = String::from_utf8(find(&entries, "etc/profile").contents.clone()).unwrap();
    assert!(profile.contains("PS1"));
}

#[test]
fn embedded_init_is_a_static_program_of_tens_of_kilobytes() {
    assert_eq!(check_static(INIT), Ok(()));
    assert!(INIT.len() < 40 << 10, "{} bytes", INIT.len());
}

#[test]
fn only_static_programs_for_this_architecture_are_taken() {
    assert_eq!(check_static(&small_elf(1)), Ok(()));
    assert!(check_static(&small_elf(3)).unwrap_err().contains("dynamically linked"));
    assert!(check_static(b"#!/bin/sh\n").is_err());
    assert!(check_static(b"").is_err());
    let mut other = small_elf(1);
    other[18] = 183;
    assert!(check_static(&other).unwrap_err().contains("architecture"));
    // Truncated anywhere, or pointing anywhere, it is refused and never read beyond its end.
    for length in 0..small_elf(1).len() - 52 {
        assert!(check_static(&small_elf(1)[..length]).is_err(), "{length} bytes");
    }
    let mut far = small_elf(1);
    far[32..40].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(check_static(&far).is_err());
}

#[test]
fn a_host_without_static_busybox_is_told_what_was_found_and_what_to_install() {
    let folder = tempfile::tempdir().unwrap();
    let dynamic = folder.path().join("busybox");
    executable(&dynamic, &small_elf(3));
    let error = initramfs_from(folder.path(), &[dynamic]).unwrap_err().to_string();
    assert!(error.contains("dynamically linked") && error.contains("apt-get install busybox-static"), "{error}");
    let error = initramfs_from(folder.path(), &[folder.path().join("none")]).unwrap_err().to_string();
    assert!(error.contains("there is none at /bin/busybox"), "{error}");
}

#[test]
fn a_busybox_that_lists_nothing_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let broken = folder.path().join("busybox");
    executable(&broken, &small_elf(1));
    let error = initramfs_from(folder.path(), std::slice::from_ref(&broken)).unwrap_err();
    assert!(matches!(&error, InitramfsError::Applets { path, .. } if *path == broken), "{error:?}");
}

#[test]
fn built_once_then_found_and_rebuilt_when_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("a/b");
    let first = match default_initramfs(&cache) {
        Ok(path) => path,
        Err(error) => {
            assert!(std::env::var_os("CI").is_none(), "busybox-static is needed in CI: {error}");
            println!("skipped: {error}");
            return;
        }
    };
    let whole = fs::read(&first).unwrap();
    let entries = read(&whole);
    let applets = &find(&entries, "ringfence/applets").contents;
    assert!(applets.windows(4).any(|name| name == b"\0ls\0"), "the host's busybox has ls");
    let stamp = fs::metadata(&first).unwrap().modified().unwrap();
    assert_eq!(default_initramfs(&cache).unwrap(), first);
    assert_eq!(fs::metadata(&first).unwrap().modified().unwrap(), stamp, "not written again");
    for damaged in [&whole[..whole.len() / 2], b"", b"070701"] {
        fs::write(&first, damaged).unwrap();
        assert_eq!(default_initramfs(&cache).unwrap(), first);
        assert_eq!(fs::read(&first).unwrap(), whole);
    }
    assert_eq!(fs::read_dir(&cache).unwrap().count(), 1, "no temporary file is left");
}

/// Writes a file that was last used so long ago.
fn used_ago(path: &Path, ago: Duration) {
    fs::write(path, b"070701").unwrap();
    File::open(path).unwrap().set_modified(SystemTime::now() - ago).unwrap();
}

/// The names in a folder, sorted.
fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Proves that archives nobody used for a day go, that of many the ones used last stay, that one used within two hours
/// always stays (another run may be about to open it), and that nothing else in the folder is touched.
#[test]
fn the_cache_loses_what_is_not_used() {
    const HOUR: Duration = Duration::from_secs(3600);
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    used_ago(&path("kernel"), 100 * HOUR);
    used_ago(&path("initramfs-1.cpio"), 25 * HOUR);
    used_ago(&path(".initramfs-2.cpio.77.tmp"), 25 * HOUR);
    used_ago(&path(".initramfs-3.cpio.78.tmp"), HOUR);
    for number in 4..10 {
        used_ago(&path(&format!("initramfs-{number}.cpio")), number * HOUR);
    }
    store(folder.path(), "initramfs-0.cpio", b"070701").unwrap();
    let kept =
        [".initramfs-3.cpio.78.tmp", "initramfs-0.cpio", "initramfs-4.cpio", "initramfs-5.cpio", "initramfs-6.cpio"];
    assert_eq!(names(folder.path()), [&kept[..], &["kernel"]].concat());
    for number in 10..20 {
        used_ago(&path(&format!("initramfs-{number}.cpio")), HOUR);
    }
    store(folder.path(), "initramfs-0.cpio", b"070701").unwrap();
    assert_eq!(
        names(folder.path()).len(),
        13,
        "ten used an hour ago, the one in use, the kernel, a file being written"
    );
}

/// Proves that an archive that is used is marked so, once an hour, and that the others are looked at then.
#[test]
fn using_an_archive_keeps_it() {
    let folder = tempfile::tempdir().unwrap();
    let (used, old) = (folder.path().join("initramfs-1.cpio"), folder.path().join("initramfs-2.cpio"));
    used_ago(&used, UNUSED * 2);
    assert!(stamp(&used) && !stamp(&used));
    assert!(used.metadata().unwrap().modified().unwrap().elapsed().unwrap() < STAMPED_EVERY);
    used_ago(&old, UNUSED * 2);
    remove_old(folder.path(), &used);
    assert_eq!(names(folder.path()), ["initramfs-1.cpio"]);
    assert!(!stamp(&folder.path().join("none")));
}

#[test]
fn a_cache_that_cannot_be_written_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, b"").unwrap();
    let error = store(&file.join("below"), "initramfs-0.cpio", b"").unwrap_err().to_string();
    assert!(error.contains("file/below") && error.contains("RINGFENCE_CACHE"), "{error}");
}
