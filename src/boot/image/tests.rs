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

/// Proves that segments outside RAM are refused with how much RAM would do, and that no RAM helps in the hole.
#[test]
fn segments_must_lie_in_ram() {
    let at = |address: u64, mem_size: u64| {
        let load = fixture::Load { address, bytes: vec![1; 16], mem_size };
        let elf = TinyElf { loads: vec![load], entry: address, pvh: None, ..TinyElf::default() };
        message(&elf.build(), &options())
    };
    for (message, text) in [
        (at(0x1000, 0x1000), "the segment at file offset 0x1000 loads to 0x1000, below 1 MiB"),
        (
            at(0x3f0_0000, 0x20_0000),
            "past the end of the guest's RAM (0x4000000); give the guest at least 65 MiB, such as with --memory 65M",
        ),
        (at(0x1_0000_0000, 0x1000), "at least 3073 MiB, such as with --memory 3073M"),
        (at(0xc000_0000, 0x1000), "0xc0000000..0xc0001000, inside the hole for devices below 4 GiB"),
        (at(0x100_0000, 0xffff_ffff_0000_0000 - 0x100_0000), "inside the hole"),
        (at(0x10_0000, 0xf0_0000_0000), "inside the hole"),
    ] {
        assert!(message.starts_with("cannot load the kernel KERNEL: ") && message.contains(text), "{message}");
    }
    let high = OpenOptions::new(vec![0..0xa_0000, 0x10_0000..0xc000_0000, 0x1_0000_0000..0x1_4000_0000]);
    let load = fixture::Load { address: 0x1_0000_0000, bytes: vec![1; 16], mem_size: 0x4000_0000 };
    let elf = TinyElf { loads: vec![load], entry: 0x1_0000_0000, pvh: None, ..TinyElf::default() };
    assert!(open(&elf.build(), &high).is_ok(), "RAM above 4 GiB holds a segment to its last byte");
}

/// Proves that an image that unpacks itself goes to its preferred address, elsewhere when it can be moved, and is
/// refused with how much RAM would do.
#[test]
fn self_unpacking_images_find_room() {
    let image = |room: u32, relocatable: u8| {
        let mut image = fixture::bzimage(b"no known compression");
        fixture::put(&mut image, 0x258, &0x800_0000_u64.to_le_bytes());
        fixture::put(&mut image, 0x260, &room.to_le_bytes());
        image[0x234] = relocatable;
        image
    };
    let moved = open(&image(0x100_0000, 1), &options()).unwrap();
    assert_eq!(moved.entry(), EntryPoint::Linux64 { address: 0x20_0200 });
    let text = "needs 0x1000000 bytes of RAM in one piece from 0x8000000, but RAM ends at 0x4000000; give the guest at least 144 MiB";
    assert!(message(&image(0x100_0000, 0), &options()).contains(text));
    assert!(message(&image(0x800_0000, 1), &options()).contains("such as with --memory 256M"));
    let pvh = OpenOptions { entry: EntryPreference::Pvh, ..options() };
    assert!(message(&image(0x1000, 1), &pvh).contains("no PVH note"));
}

/// Proves that a payload that lies about its size, is cut, or holds no kernel is refused, and a bomb before it is unpacked.
#[test]
fn bad_payloads_are_refused() {
    let elf = TinyElf::default().build();
    let image = |compression, declared: u32| {
        let mut payload = fixture::payload(compression, &elf);
        let at = payload.len() - 4;
        fixture::put(&mut payload, at, &declared.to_le_bytes());
        fixture::bzimage(&payload)
    };
    let size = elf.len() as u32;
    for (message, text) in [
        (
            message(&image(Compression::Zstd, 0xffff_ffff), &options()),
            "says it unpacks to 0xffffffff bytes (file offset",
        ),
        (
            message(&image(Compression::Zstd, 0x900_0000), &options()),
            "more than the 0x7fa0000 that fit the guest's RAM",
        ),
        (message(&image(Compression::Zstd, size - 1), &options()), "more than it says itself"),
        (message(&image(Compression::Zstd, size + 1), &options()), "copy it again"),
        (
            message(&fixture::bzimage(&fixture::payload(Compression::Xz, b"no ELF")), &options()),
            "cannot use the kernel unpacked from KERNEL (offsets are in what was unpacked): the file does not start with the ELF magic",
        ),
    ] {
        assert!(message.contains(text), "{message}");
    }
    let mut image = fixture::bzimage(&fixture::payload(Compression::Gzip, &elf));
    let at = fixture::PAYLOAD_OFFSET + 30;
    fixture::put(&mut image, at, &[0xff; 8]);
    assert!(message(&image, &options()).starts_with(
        "cannot unpack the kernel in KERNEL (compressed data at file offset 0x440): its gzip data is damaged near byte"
    ));
}

/// Proves that a vmlinux compressed as a whole is unpacked and used, and that a bomb of that kind is bounded by RAM.
#[test]
fn compressed_elf_files_are_used() {
    let elf = TinyElf::default();
    for compression in [Compression::Gzip, Compression::Xz, Compression::Lz4, Compression::Zstd] {
        let kernel = open(&fixture::compress(compression, &elf.build()), &options()).unwrap();
        assert_eq!(loaded(&kernel), expected(&elf));
        let text = format!("ELF, {compression}-compressed, unpacked on the host, entered by its PVH note at 0x100100");
        assert_eq!(kernel.format().to_string(), text);
    }
    let mut bomb = elf.build();
    bomb.resize(200 << 20, 0);
    let message = message(&fixture::compress(Compression::Zstd, &bomb), &options());
    assert!(message.contains("unpacks to more than 0x7fa0000 bytes: more than the 0x7fa0000 that fit"), "{message}");
}

/// Proves that folders, devices, pipes nobody writes to and missing files are named and never waited for.
#[test]
fn what_is_no_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
    for (path, text) in [
        (folder.path(), "it is a folder and not a regular file"),
        (&pipe, "it is a device, pipe or socket"),
        (Path::new("/dev/zero"), "it is a device, pipe or socket"),
        (Path::new("/nonexistent/vmlinux"), "cannot open /nonexistent/vmlinux as a kernel"),
    ] {
        let error = Kernel::open(path, &options()).unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    }
}

/// Proves that kernels of other architectures and EFI programs are named by the bytes that say so.
#[test]
fn foreign_kernels_are_named() {
    let with = |at: usize, magic: &[u8]| {
        let mut file = vec![0x90; 0x9000];
        fixture::put(&mut file, at, magic);
        message(&file, &options())
    };
    let pe = |machine: u16| {
        let mut file = vec![0x90; 4096];
        fixture::put(&mut file, 0, b"MZ");
        fixture::put(&mut file, 0x3c, &0x80_u32.to_le_bytes());
        fixture::put(&mut file, 0x80, b"PE\0\0");
        fixture::put(&mut file, 0x84, &machine.to_le_bytes());
        message(&file, &options())
    };
    for (message, text) in [
        (
            with(0x38, b"ARM\x64"),
            "it is a 64-bit ARM kernel (Image) (by the bytes at file offset 0x38); give a kernel built for x86_64",
        ),
        (with(0x24, b"\x18\x28\x6f\x01"), "a 32-bit ARM kernel (zImage)"),
        (with(0x8001, b"CD001"), "an ISO 9660 image (by the bytes at file offset 0x8001)"),
        (pe(0xaa64), "a 64-bit ARM EFI program or kernel (by the bytes at file offset 0x84)"),
        (pe(0x8664), "objcopy -O binary --only-section=.linux"),
        (with(0, b"\x28\xb5\x2f\xfd"), "cannot unpack the kernel in KERNEL"),
    ] {
        assert!(message.contains(text), "{message}");
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(400))]

    /// Proves that no change to a good bzImage or ELF makes opening it panic, and that what is accepted lies in RAM.
    #[test]
    fn mutated_images_never_panic(
        elf in proptest::prelude::any::<bool>(),
        changes in proptest::collection::vec((0_usize..0x1200, proptest::prelude::any::<u8>()), 1..6),
        cut in proptest::option::of(0_usize..0x2000),
    ) {
        let tiny = TinyElf::default().build();
        let mut image = if elf { tiny } else { fixture::bzimage(&fixture::payload(Compression::Zstd, &tiny)) };
        for (at, byte) in changes {
            let at = if at < 0x300 { at } else { at % image.len() };
            image[at] = byte;
        }
        image.truncate(cut.unwrap_or(image.len()));
        let options = options();
        if let Ok(kernel) = open(&image, &options) {
            for s in kernel.segments() {
                assert!(options.ram.iter().any(|r| r.start <= s.address && s.end() <= r.end) && s.address >= 0x10_0000);
            }
        }
    }
}

/// The commands with which Linux 6.1's scripts/Makefile.lib compresses a vmlinux (gzip puts its own size at the end).
/// The last has the 128 MiB window of its `zstd -22 --ultra` without its time and memory.
const HOST_COMPRESSORS: [(Compression, &str); 7] = [
    (Compression::Gzip, "gzip -n -9"),
    (Compression::Bzip2, "bzip2 -9"),
    (Compression::Xz, "xz --check=crc32 --x86 --lzma2=,dict=32MiB"),
    (Compression::Lzma, "lzma -9"),
    (Compression::Lz4Legacy, "lz4 -l -9"),
    (Compression::Zstd, "zstd -19"),
    (Compression::Zstd, "cat | zstd -9 --zstd=wlog=27"),
];

/// Proves that what the host's own tools pack, as the kernel's build calls them, is unpacked here: encoders that are not
/// the decoders' own. A test binary's bytes stand for a kernel's code, so that the x86 filter has something to do.
#[test]
fn host_tools_pack_what_is_unpacked_here() {
    let mut code = vec![0; 1 << 20];
    let n = File::open(std::env::current_exe().unwrap()).unwrap().read_at(&mut code, 0).unwrap();
    code.truncate(n);
    let load = fixture::Load { address: 0x10_0000, mem_size: code.len() as u64, bytes: code };
    let elf = TinyElf { loads: vec![load], ..TinyElf::default() };
    let vmlinux = written(&elf.build());
    for (compression, command) in HOST_COMPRESSORS {
        let run = |stdin| std::process::Command::new("sh").args(["-c", command]).stdin(stdin).output().unwrap();
        let output = run(File::open(vmlinux.path()).unwrap());
        if output.status.code() == Some(127) {
            println!("skipped: {command}: not installed");
            continue;
        }
        assert!(output.status.success(), "{command}: {output:?}");
        let mut payload = output.stdout;
        if compression != Compression::Gzip {
            payload.extend((vmlinux.as_file().metadata().unwrap().len() as u32).to_le_bytes());
        }
        let kernel = open(&fixture::bzimage(&payload), &options()).unwrap_or_else(|e| panic!("{command}: {e:?}"));
        assert!(loaded(&kernel) == expected(&elf), "{command}");
    }
}

/// Proves on real distribution kernels, named in RINGFENCE_TEST_BZIMAGES (paths with colons between), that the segments
/// hold what unpacking by hand gives: each candidate magic in the file is tried with the host's tools, as the kernel's
/// own scripts/extract-vmlinux does, and the ELF that comes out is compared segment by segment.
#[test]
fn distribution_kernels_unpack_as_by_hand() {
    let images = std::env::var("RINGFENCE_TEST_BZIMAGES").unwrap_or_default();
    if images.is_empty() {
        println!("skipped: no kernels named in RINGFENCE_TEST_BZIMAGES");
    }
    for path in images.split(':').filter(|path| !path.is_empty()) {
        let bytes = fs::read(path).unwrap();
        let by_hand = extract_by_hand(&bytes).unwrap_or_else(|| panic!("{path}: no tool unpacks it"));
        let kernel = Kernel::open(Path::new(path), &options_of(512)).unwrap();
        let elf = elf::parse(&by_hand[..], &by_hand[..4096]).unwrap();
        assert_eq!(kernel.segments().len(), elf.segments.len());
        for ((_, bytes), s) in loaded(&kernel).iter().zip(&elf.segments) {
            let range = s.file_offset as usize..(s.file_offset + s.file_size) as usize;
            assert!(bytes[..s.file_size as usize] == by_hand[range], "{path}: the segment at {:#x}", s.address);
        }
        println!("{path}: {}, {} segments as by hand", kernel.format(), elf.segments.len());
    }
}

fn options_of(mib: u64) -> OpenOptions {
    OpenOptions::new(vec![0..0xa_0000, 0x10_0000..mib << 20])
}

fn extract_by_hand(image: &[u8]) -> Option<Vec<u8>> {
    let tools: [(&[u8], &str); 6] = [
        (b"\x1f\x8b\x08", "gzip -dc"),
        (b"\xfd7zXZ\0", "xz -dc --single-stream"),
        (b"BZh", "bzip2 -dc"),
        (b"\x5d\0\0\0", "lzma -dc"),
        (b"\x02\x21\x4c\x18", "lz4 -dc"),
        (b"\x28\xb5\x2f\xfd", "zstd -dc"),
    ];
    for (magic, command) in tools {
        for at in (0..image.len()).filter(|&at| image[at..].starts_with(magic)) {
            let packed = written(&image[at..]);
            let stdin = File::open(packed.path()).unwrap();
            let output = std::process::Command::new("sh").args(["-c", command]).stdin(stdin).output().unwrap();
            if output.stdout.starts_with(b"\x7fELF") {
                return Some(output.stdout);
            }
        }
    }
    None
}
