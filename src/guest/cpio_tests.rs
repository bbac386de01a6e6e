//! Archives are read back twice: by a reader of the format that shares nothing with the writer, and by cpio(1).

use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::{Command, Stdio};

use proptest::prelude::*;

use super::*;

/// One entry as the reader below sees it.
#[derive(Debug, PartialEq, Eq, Clone)]
pub struct Entry {
    pub path: String,
    pub mode: u32,
    pub device: (u32, u32),
    pub contents: Vec<u8>,
}

/// Reads an archive by offsets alone, asserting what the kernel's unpacker relies on.
pub fn read(archive: &[u8]) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut at = 0;
    loop {
        assert_eq!(at % 4, 0, "header at {at} is aligned");
        assert_eq!(&archive[at..at + 6], b"070701");
        let field = |index: usize| {
            let digits = &archive[at + 6 + 8 * index..at + 14 + 8 * index];
            u32::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap()
        };
        let (size, name_size) = (field(6) as usize, field(11) as usize);
        let name_end = at + 110 + name_size;
        assert_eq!(archive[name_end - 1], 0, "the name ends in a NUL");
        // The kernel takes the name up to its first NUL.
        let name = archive[at + 110..name_end].split(|&byte| byte == 0).next().unwrap();
        let path = String::from_utf8(name.to_vec()).unwrap();
        let start = name_end.next_multiple_of(4);
        if path == "TRAILER!!!" {
            assert_eq!(start, archive.len(), "nothing follows the trailer");
            return entries;
        }
        assert_eq!((field(2), field(3), field(5)), (0, 0, 0), "owned by root, no time stamp");
        let contents = archive[start..start + size].to_vec();
        entries.push(Entry { path, mode: field(1), device: (field(9), field(10)), contents });
        at = (start + size).next_multiple_of(4);
    }
}

fn example() -> Vec<u8> {
    let mut archive = Archive::new();
    archive.directory("dev", 0o755).unwrap();
    archive.character_device("dev/port", 0o600, (1, 4)).unwrap();
    archive.directory("etc", 0o700).unwrap();
    archive.file("etc/odd", 0o4755, b"12345").unwrap();
    archive.file("etc/none", 0o644, b"").unwrap();
    archive.symlink("etc/link", "odd").unwrap();
    archive.finish()
}

#[test]
fn own_reader_sees_every_entry_with_its_type_mode_device_and_contents() {
    let entry = |path: &str, mode, device, contents: &[u8]| Entry {
        path: path.to_owned(),
        mode,
        device,
        contents: contents.to_vec(),
    };
    let expected = vec![
        entry("dev", 0o040_755, (0, 0), b""),
        entry("dev/port", 0o020_600, (1, 4), b""),
        entry("etc", 0o040_700, (0, 0), b""),
        entry("etc/odd", 0o104_755, (0, 0), b"12345"),
        entry("etc/none", 0o100_644, (0, 0), b""),
        entry("etc/link", 0o120_777, (0, 0), b"odd"),
    ];
    assert_eq!(read(&example()), expected);
}

#[test]
fn cpio_unpacks_what_was_packed() {
    let folder = tempfile::tempdir().unwrap();
    let spawned = Command::new("cpio")
        .args(["--extract", "--quiet", "--no-absolute-filenames", "dev", "etc/*", "etc"])
        .current_dir(folder.path())
        .stdin(Stdio::piped())
        .spawn();
    let mut cpio = match spawned {
        Ok(child) => child,
        Err(error) => {
            assert!(std::env::var_os("CI").is_none(), "cpio is needed in CI: {error}");
            println!("skipped: cpio cannot be started ({error}); install it with apt-get install cpio");
            return;
        }
    };
    cpio.stdin.take().unwrap().write_all(&example()).unwrap();
    assert!(cpio.wait().unwrap().success());
    let odd = folder.path().join("etc/odd");
    assert_eq!(std::fs::read(&odd).unwrap(), b"12345");
    assert_eq!(std::fs::metadata(&odd).unwrap().permissions().mode(), 0o104_755);
    assert_eq!(std::fs::metadata(folder.path().join("etc")).unwrap().mode(), 0o040_700);
    assert_eq!(std::fs::read_link(folder.path().join("etc/link")).unwrap().to_str(), Some("odd"));
}

#[test]
fn paths_the_kernel_would_put_elsewhere_or_drop_are_refused() {
    for path in ["", "/etc", "etc/", "a//b", "..", "a/../b", "./a", "a\0b", "TRAILER!!!"] {
        let result = Archive::new().file(path, 0o644, b"");
        assert!(matches!(result, Err(CpioError::Path { .. })), "{path:?}: {result:?}");
    }
    let long = "x".repeat(PATH_MAX);
    assert!(matches!(Archive::new().file(&long, 0o644, b""), Err(CpioError::Path { .. })));
    assert!(Archive::new().file(&long[1..], 0o644, b"").is_ok());
}

#[test]
fn a_missing_parent_or_a_second_entry_of_one_name_is_refused() {
    let mut archive = Archive::new();
    assert_eq!(archive.file("a/b", 0o644, b""), Err(CpioError::NoParent { path: "a/b".into() }));
    archive.file("a", 0o644, b"").unwrap();
    assert_eq!(archive.file("a/b", 0o644, b""), Err(CpioError::NoParent { path: "a/b".into() }), "a is no directory");
    assert_eq!(archive.directory("a", 0o755), Err(CpioError::Duplicate { path: "a".into() }));
}

/// Proves that a kernel which takes pages finds contents at whole ones, whatever lies before them, and that a name is
/// never longer than the kernel's unpacker takes.
#[test]
fn contents_lie_at_whole_pages_when_asked_for_unless_the_name_would_be_too_long() {
    const CONTENTS: &[u8] = b"contents that are nowhere else";
    let mut elsewhere = Vec::new();
    for before in (0..2 * 4096).step_by(4) {
        let mut archive = Archive::new();
        archive.file("before", 0o644, &vec![1; before]).unwrap();
        archive.file_at_page("page", 0o644, CONTENTS).unwrap();
        let bytes = archive.finish();
        assert_eq!(read(&bytes)[1].contents, CONTENTS, "after {before}");
        let at = bytes.windows(CONTENTS.len()).position(|window| window == CONTENTS).unwrap();
        if at % 4096 != 0 {
            elsewhere.push(before);
        }
    }
    // The padding of "page" and its NUL reaches at most PATH_MAX, and the space for it is a multiple of 4 and 2 more.
    assert!(elsewhere.len() <= 2 * 5_usize.div_ceil(4), "{elsewhere:?}");
}

proptest! {
    /// Any contents come back byte for byte, at any alignment, and the archive can be followed by another.
    #[test]
    fn files_of_any_contents_come_back(files in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..64), 0..8)) {
        let mut archive = Archive::new();
        for (number, contents) in files.iter().enumerate() {
            archive.file(&"n".repeat(number + 1), 0o644, contents).unwrap();
        }
        let bytes = archive.finish();
        prop_assert_eq!(bytes.len() % 4, 0);
        let read: Vec<_> = read(&bytes).into_iter().map(|entry| entry.contents).collect();
        prop_assert_eq!(read, files);
    }
}
