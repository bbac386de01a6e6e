//! Tests of the source: finding it, telling what it is, unpacking what is needed.

use super::super::toolchain::on_path;
use super::*;

const MAKEFILE: &str = "# SPDX\nVERSION = 6\nPATCHLEVEL = 1\nSUBLEVEL = 192\nEXTRAVERSION =\nNAME = Curry\n";

/// A tarball with these files, compressed by the host's program; none when the host has none.
fn tarball(folder: &Path, files: &[(&str, &str)], compression: Compression) -> Option<PathBuf> {
    if !on_path(compression.program()) {
        println!("skipped: {} is not installed", compression.program());
        return None;
    }
    let mut archive = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        // As a hostile tarball would have it: the crate's own setter refuses `..`.
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        archive.append(&header, content.as_bytes()).unwrap();
    }
    let plain = folder.join("plain.tar");
    fs::write(&plain, archive.into_inner().unwrap()).unwrap();
    let path = folder.join("source");
    let output = File::create(&path).unwrap();
    let mut command = Command::new(compression.program());
    let status = command.args(["-qc"]).stdin(File::open(&plain).unwrap()).stdout(output).status().unwrap();
    assert!(status.success());
    Some(path)
}

fn unpack(path: &Path, into: &Path) -> Result<PathBuf, SourceError> {
    Source::open(path)?.unpack(into, &mut |_, _| true)
}

/// Proves that each compression is known by its content and unpacked, without what no build reads.
#[test]
fn unpacks_what_is_needed() {
    let files = [
        ("linux-6.1/Makefile", MAKEFILE),
        ("linux-6.1/arch/x86/boot/header.S", "x"),
        ("linux-6.1/arch/arm/kernel/head.S", "x"),
        ("linux-6.1/Documentation/a.rst", "x"),
    ];
    for compression in [Compression::Xz, Compression::Gzip, Compression::Bzip2, Compression::Zstd] {
        let folder = tempfile::tempdir().unwrap();
        let Some(path) = tarball(folder.path(), &files, compression) else { continue };
        assert_eq!(Source::open(&path).unwrap(), Source::Tarball(path.canonicalize().unwrap(), compression));
        let tree = unpack(&path, &folder.path().join("into")).unwrap();
        assert!(tree.ends_with("linux-6.1"));
        assert_eq!(version_in(&tree).unwrap(), "6.1.192");
        assert!(tree.join("arch/x86/boot/header.S").is_file());
        assert!(!tree.join("arch/arm/kernel").exists() && !tree.join("Documentation").exists());
    }
}

/// Proves that a named pipe nobody writes to is refused, and not waited for.
#[test]
fn a_named_pipe_is_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || tell.send(Source::open(&path)));
    let opened = told.recv_timeout(std::time::Duration::from_secs(10)).expect("it waits");
    assert!(matches!(opened, Err(SourceError::NotATarball(_))), "{opened:?}");
}

/// Proves that a cut or damaged tarball, one with two tops, one that is empty and one of something else are errors.
#[test]
fn refuses_damaged_and_foreign_tarballs() {
    let folder = tempfile::tempdir().unwrap();
    let make = |files: &[(&str, &str)]| tarball(folder.path(), files, Compression::Gzip);
    let error = |path: &Path| unpack(path, tempfile::tempdir().unwrap().path()).unwrap_err();
    let big = "x".repeat(100_000);
    let Some(path) = make(&[("l/Makefile", MAKEFILE), ("l/big", &big)]) else { return };
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    assert!(matches!(error(&path), SourceError::Damaged(..)));
    make(&[("a/Makefile", MAKEFILE), ("b/Makefile", MAKEFILE)]);
    assert!(matches!(error(&path), SourceError::NotLinux(..)));
    make(&[("l/README", "x")]);
    assert!(matches!(error(&path), SourceError::NotLinux(..)));
    make(&[]);
    assert!(matches!(error(&path), SourceError::NotLinux(..)));
    fs::write(&path, "not a tarball").unwrap();
    assert!(matches!(error(&path), SourceError::NotATarball(_)));
    assert!(matches!(Source::open(Path::new("/nonexistent")), Err(SourceError::Io(..))));
}

/// Proves that no name in a tarball leads out of the folder it is unpacked into.
#[test]
fn stays_inside() {
    let folder = tempfile::tempdir().unwrap();
    let into = folder.path().join("a/into");
    fs::create_dir_all(&into).unwrap();
    let files = [("l/Makefile", MAKEFILE), ("l/../../escaped", "x"), ("../escaped", "x"), ("/escaped", "x")];
    let Some(path) = tarball(folder.path(), &files, Compression::Gzip) else { return };
    let _ = unpack(&path, &into);
    assert!(!folder.path().join("escaped").exists() && !folder.path().join("a/escaped").exists());
}

/// Proves that unpacking stops when asked.
#[test]
fn stops_when_asked() {
    let folder = tempfile::tempdir().unwrap();
    let names: Vec<_> = (0..600).map(|n| format!("l/{n}")).collect();
    let files: Vec<_> = names.iter().map(|name| (name.as_str(), "x")).collect();
    let Some(path) = tarball(folder.path(), &files, Compression::Gzip) else { return };
    let result = Source::open(&path).unwrap().unpack(&folder.path().join("into"), &mut |_, _| false);
    assert!(matches!(result, Err(SourceError::Stopped)));
}

/// Proves that a folder is copied without checkout and leftovers of builds, and that its hash follows its files.
#[test]
fn copies_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let from = folder.path().join("from");
    for file in ["Makefile", "init/main.c", "init/main.o", ".git/HEAD", "include/generated/a.h", ".config"] {
        let path = from.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, MAKEFILE).unwrap();
    }
    std::os::unix::fs::symlink("init", from.join("link")).unwrap();
    let source = Source::open(&from).unwrap();
    let record = source.record(None).unwrap();
    let tree = source.unpack(&folder.path().join("into"), &mut |_, _| true).unwrap();
    assert!(tree.join("init/main.c").is_file() && fs::read_link(tree.join("link")).unwrap() == Path::new("init"));
    for left in ["init/main.o", ".git", "include/generated", ".config"] {
        assert!(!tree.join(left).exists(), "{left}");
    }
    fs::write(from.join("init/main.o"), "other").unwrap();
    assert_eq!(source.record(None).unwrap(), record);
    fs::write(from.join("init/main.c"), "other").unwrap();
    assert_ne!(source.record(None).unwrap(), record);
}

/// Proves that a tarball is hashed, unless path, size and time are those of one whose hash is known.
#[test]
fn hashes_a_tarball_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("l.tar.gz");
    fs::write(&path, b"\x1f\x8bxxx").unwrap();
    let source = Source::open(&path).unwrap();
    let record = source.record(None).unwrap();
    assert_eq!(record.blake3.len(), 64);
    let known = SourceRecord { blake3: "known".into(), ..record.clone() };
    assert_eq!(source.record(Some(&known)).unwrap().blake3, "known");
    let other = SourceRecord { size: 4, ..known };
    assert_eq!(source.record(Some(&other)).unwrap(), record);
}

/// Proves that versions are compared as numbers and that other files are no sources.
#[test]
fn finds_the_newest_package() {
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(newest(folder.path()), Err(SourceError::NotFound(_))));
    for name in ["linux-source-6.1.tar.xz", "linux-source-6.12.tar.xz", "linux-source-6.9.tar.xz"] {
        fs::write(folder.path().join(name), "").unwrap();
    }
    for name in ["linux-source-5.15.0.tar.bz2", "linux-source-7.tar.xz.part", "linux-headers-6.99.tar.xz"] {
        fs::write(folder.path().join(name), "").unwrap();
    }
    assert!(newest(folder.path()).unwrap().ends_with("linux-source-6.12.tar.xz"));
    assert!(matches!(newest(Path::new("/nonexistent")), Err(SourceError::NotFound(_))));
}

/// Proves that the version is read from a Makefile of Linux 6 and later, and from nothing else.
#[test]
fn reads_the_version() {
    let folder = tempfile::tempdir().unwrap();
    let with = |text: &str| {
        fs::write(folder.path().join("Makefile"), text).unwrap();
        version_in(folder.path()).map_err(|e| e.to_string())
    };
    assert_eq!(with(MAKEFILE).unwrap(), "6.1.192");
    assert_eq!(with("VERSION = 6\nPATCHLEVEL = 18\nSUBLEVEL = 0\nEXTRAVERSION = -rc2\n").unwrap(), "6.18.0-rc2");
    assert!(with("VERSION = 5\nPATCHLEVEL = 10\nSUBLEVEL = 1\n").unwrap_err().contains("older than 6.0"));
    assert!(with("all:\n\tcc x.c\n").unwrap_err().contains("VERSION"));
    assert!(version_in(Path::new("/nonexistent")).is_err());
}

/// Proves what is left out: a build reads every makefile and Kconfig, but no code for other machines.
#[test]
fn knows_what_a_build_reads() {
    for needed in [
        "arch/arm/Kconfig",
        "arch/um/Makefile",
        "arch/Kconfig",
        "arch/x86/um/Makefile",
        "arch/x86/kernel/head_64.S",
        "tools/objtool/arch/x86/include/arch/elf.h",
        "tools/arch/arm64/include/asm/sysreg.h",
        "Documentation/Kconfig",
        "drivers/gpu/drm/Kconfig",
        "drivers/virtio/virtio_mmio.c",
        "drivers/net/virtio_net.c",
        "include/sound/core.h",
        "scripts/dtc/dtc.c",
    ] {
        assert!(is_needed(Path::new(needed)), "{needed}");
    }
    for other in [
        "arch/arm/kernel/head.S",
        "arch/arm64/boot/dts/a.dts",
        "Documentation/x86/boot.rst",
        "drivers/gpu/drm/amd/amdgpu/a.c",
        "drivers/net/ethernet/intel/e1000/e1000.h",
        "sound/core/init.c",
        "tools/testing/selftests/a.c",
    ] {
        assert!(!is_needed(Path::new(other)), "{other}");
    }
}
