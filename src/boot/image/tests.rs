use std::io::Write;
use std::os::unix::fs::FileExt;

use super::super::fixture::{self, TinyElf};
use super::*;

/// 64 MiB, as the machine lays it out.
fn options() -> OpenOptions {
    OpenOptions::new(vec![0..0xa_0000, 0x10_0000..0x400_0000])
}

fn written(bytes: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn open(bytes: &[u8], options: &OpenOptions) -> Result<Kernel, ImageError> {
    Kernel::open(written(bytes).path(), options)
}

/// What the user reads, with the causes, and a stable name for the file.
fn message(bytes: &[u8], options: &OpenOptions) -> String {
    let file = written(bytes);
    let error = anyhow::Error::new(Kernel::open(file.path(), options).unwrap_err());
    format!("{error:#}").replace(file.path().to_str().unwrap(), "KERNEL")
}

/// What the segments put into guest memory, by address.
fn loaded(kernel: &Kernel) -> Vec<(u64, Vec<u8>)> {
    let read = |s: &Segment| {
        let mut bytes = vec![0; s.file_size as usize];
        kernel.file().read_exact_at(&mut bytes, s.file_offset).unwrap();
        bytes.resize(s.mem_size as usize, 0);
        (s.address, bytes)
    };
    kernel.segments().iter().map(read).collect()
}

fn expected(elf: &TinyElf) -> Vec<(u64, Vec<u8>)> {
    let padded = |load: &fixture::Load| {
        let mut bytes = load.bytes.clone();
        bytes.resize(load.mem_size as usize, 0);
        (load.address, bytes)
    };
    elf.loads.iter().map(padded).collect()
}

/// Proves that a plain ELF is loaded as it says, from itself, and entered by its PVH note or 64-bit entry as asked.
#[test]
fn elf_is_used_as_it_is() {
    let elf = TinyElf::default();
    let file = written(&elf.build());
    let kernel = Kernel::open(file.path(), &options()).unwrap();
    assert_eq!(loaded(&kernel), expected(&elf));
    assert_eq!(kernel.entry(), EntryPoint::Pvh { address: 0x10_0100 });
    assert_eq!(kernel.format().to_string(), "ELF, entered by its PVH note at 0x100100");
    assert!(kernel.segments().iter().all(Segment::is_mappable));
    assert!(kernel.setup_header().is_none() && kernel.warnings().is_empty());

    let linux64 = OpenOptions { entry: EntryPreference::Linux64, ..options() };
    let kernel = Kernel::open(file.path(), &linux64).unwrap();
    assert_eq!(kernel.entry(), EntryPoint::Linux64 { address: 0x10_0000 });

    let no_note = TinyElf { pvh: None, ..TinyElf::default() }.build();
    assert_eq!(open(&no_note, &options()).unwrap().entry(), EntryPoint::Linux64 { address: 0x10_0000 });
    let pvh = OpenOptions { entry: EntryPreference::Pvh, ..options() };
    assert!(message(&no_note, &pvh).contains("no PVH note (Linux needs CONFIG_PVH=y)"));
}

/// Proves that a bzImage of every compression the kernel's build has is unpacked to the very same segments.
#[test]
fn bzimage_of_every_compression() {
    let elf = TinyElf::default();
    for compression in [
        Compression::Gzip,
        Compression::Bzip2,
        Compression::Xz,
        Compression::Lzma,
        Compression::Lz4Legacy,
        Compression::Zstd,
    ] {
        let image = fixture::bzimage(&fixture::payload(compression, &elf.build()));
        let kernel = open(&image, &options()).unwrap_or_else(|e| panic!("{compression}: {e:?}"));
        assert_eq!(loaded(&kernel), expected(&elf), "{compression}");
        assert_eq!(
            kernel.format().to_string(),
            format!(
                "bzImage (boot protocol 2.15), {compression} payload unpacked on the host, entered by its PVH note at \
                 0x100100, Linux {}",
                fixture::VERSION
            )
        );
        assert_eq!({ kernel.setup_header().unwrap().init_size }, 0x10_0000);
    }
}

/// Proves that a compression not unpacked here leaves the image to its own 64-bit entry, with a warning.
#[test]
fn unknown_compression_unpacks_itself() {
    for payload in [fixture::payload(Compression::Lzo, &[]), b"no known compression".to_vec()] {
        let image = fixture::bzimage(&payload);
        let kernel = open(&image, &options()).unwrap();
        assert_eq!(kernel.entry(), EntryPoint::Linux64 { address: 0x100_0200 });
        let segment = Segment {
            file_offset: 0x400,
            address: 0x100_0000,
            file_size: image.len() as u64 - 0x400,
            mem_size: 0x10_0000,
        };
        assert_eq!(kernel.segments(), [segment]);
        assert!(kernel.warnings()[0].contains("unpacks itself in the guest"), "{:?}", kernel.warnings());
    }
}

/// Proves that files users mistake for kernels are named for what they are, with the remedy.
#[test]
fn other_files_are_named() {
    for (bytes, text) in [
        (&b""[..], "it is empty; copy it again"),
        (b"hello\n", "it is a text file (by the bytes at file offset 0x0); give a vmlinux or a bzImage"),
        (
            b"070701000000",
            "it is an initrd (newc cpio archive) (by the bytes at file offset 0x0); give it with --initrd",
        ),
        (&[0; 8192], "nothing but zeros"),
        (b"\x7fELF\x02\x01", "ELF header (0x40 bytes at file offset 0x0) ends past the end of the file (0x6 bytes)"),
    ] {
        let message = message(bytes, &options());
        assert!(message.starts_with("cannot use KERNEL as a kernel: ") && message.contains(text), "{message}");
    }
    assert!(
        message(&fixture::compress(Compression::Gzip, b"070701"), &options())
            .contains("gzip-compressed and holds an initrd")
    );
}
