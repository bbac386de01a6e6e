//! What a file is, by its first bytes.

use super::super::bzimage;
use super::super::source::{u16_at, u32_at};
use super::super::unpack::Compression;

/// What a file given as kernel turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recognised {
    /// An ELF file of whatever class and machine.
    Elf,
    /// A Linux bzImage (or zImage).
    BzImage,
    /// Compressed, with no boot code in front.
    Compressed(Compression),
    /// Something that is no kernel for this machine.
    Other(Other),
}

/// Something else: what it is, by which bytes at which offset, and what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Other {
    /// With its article: "an initrd (newc cpio archive)".
    pub what: &'static str,
    /// File offset of the bytes that say so.
    pub offset: u64,
    /// What to do about it.
    pub remedy: &'static str,
}

const GIVE_X86: &str = "give a kernel built for x86_64";
const GIVE_KERNEL: &str = "give a vmlinux or a bzImage";
const GIVE_INITRD: &str = "give it with --initrd, and the kernel with --kernel";
const GIVE_INSIDE: &str = "unpack it and give the vmlinux or bzImage inside";

/// Files users mistake for kernels: magic, where it is, what it means and the remedy. The first that fits counts.
const MAGICS: [(&[u8], usize, &str, &str); 22] = [
    (b"ARM\x64", 0x38, "a 64-bit ARM kernel (Image)", GIVE_X86),
    (b"RSC\x05", 0x38, "a RISC-V kernel (Image)", GIVE_X86),
    (b"\x18\x28\x6f\x01", 0x24, "a 32-bit ARM kernel (zImage)", GIVE_X86),
    (b"\x27\x05\x19\x56", 0, "a U-Boot image (uImage)", GIVE_X86),
    (b"\xd0\x0d\xfe\xed", 0, "a device tree or FIT image", GIVE_X86),
    (b"070701", 0, "an initrd (newc cpio archive)", GIVE_INITRD),
    (b"070702", 0, "an initrd (crc cpio archive)", GIVE_INITRD),
    (b"070707", 0, "a cpio archive (old portable format)", GIVE_INITRD),
    (b"!<arch>\ndebian-binary", 0, "a Debian package", "unpack it with dpkg-deb -x and give boot/vmlinuz-* from it"),
    (b"!<arch>\n", 0, "an archive of object files", GIVE_KERNEL),
    (b"\xed\xab\xee\xdb", 0, "an RPM package", GIVE_INSIDE),
    (b"PK\x03\x04", 0, "a zip archive", GIVE_INSIDE),
    (b"ustar", 0x101, "a tar archive", GIVE_INSIDE),
    (b"hsqs", 0, "a squashfs file system", "take the kernel out of its boot folder"),
    (b"QFI\xfb", 0, "a qcow2 disk image", "take the kernel out of its boot folder"),
    (b"CD001", 0x8001, "an ISO 9660 image", "take the kernel out of it"),
    (b"\x53\xef", 0x438, "an ext2, ext3 or ext4 file system", "take the kernel out of its boot folder"),
    (b"#!", 0, "a script", GIVE_KERNEL),
    (b"\xca\xfe\xba\xbe", 0, "a Mach-O or Java class file", GIVE_KERNEL),
    (b"\x1f\x9d", 0, "a file compressed with compress", GIVE_INSIDE),
    (b"7z\xbc\xaf\x27\x1c", 0, "a 7z archive", GIVE_INSIDE),
    (b"\xb8\x00\x00\x8e\xd8", 0x200, "a kernel older than boot protocol 2.00", "give a newer kernel"),
];

/// Recognises a file by `head`, its first bytes: a page, or all of a shorter file.
pub fn recognise(head: &[u8]) -> Recognised {
    if head.starts_with(b"\x7fELF") {
        return Recognised::Elf;
    }
    if bzimage::is_bzimage(head) {
        return Recognised::BzImage;
    }
    if let Some(compression) = Compression::detect(head) {
        return Recognised::Compressed(compression);
    }
    Recognised::Other(other(head))
}

fn other(head: &[u8]) -> Other {
    let fits = |magic: &[u8], at: usize| head.get(at..).is_some_and(|rest| rest.starts_with(magic));
    if let Some(&(_, at, what, remedy)) = MAGICS.iter().find(|(magic, at, ..)| fits(magic, *at)) {
        return Other { what, offset: at as u64, remedy };
    }
    if head.starts_with(b"MZ") {
        return portable_executable(head);
    }
    if !head.is_empty() && head.iter().all(|&b| b == 0) {
        return Other {
            what: "a file that starts with nothing but zeros (sparse, or its copy did not finish?)",
            offset: 0,
            remedy: "copy it again",
        };
    }
    if !head.is_empty() && head.iter().all(|b| matches!(b, b'\t' | b'\n' | b'\r' | 0x20..=0x7e)) {
        return Other { what: "a text file", offset: 0, remedy: GIVE_KERNEL };
    }
    Other { what: "of no known format", offset: 0, remedy: GIVE_KERNEL }
}

/// A PE file with no Linux setup header: an EFI program, a unified kernel image, or another architecture's EFI stub.
fn portable_executable(head: &[u8]) -> Other {
    let pe = if head.len() >= 0x40 { u32_at(head, 0x3c) as usize } else { usize::MAX };
    let machine =
        head.get(pe..).filter(|rest| rest.len() >= 6 && rest.starts_with(b"PE\0\0")).map(|rest| u16_at(rest, 4));
    let (what, remedy) = match machine {
        Some(0x8664) => (
            "an EFI program or unified kernel image, not a bzImage",
            "take the kernel out with: objcopy -O binary --only-section=.linux FILE vmlinuz",
        ),
        Some(0x14c) => ("a 32-bit x86 EFI program", GIVE_X86),
        Some(0xaa64) => ("a 64-bit ARM EFI program or kernel", GIVE_X86),
        Some(0x1c0 | 0x1c2 | 0x1c4) => ("a 32-bit ARM EFI program or kernel", GIVE_X86),
        Some(0x5032 | 0x5064) => ("a RISC-V EFI program or kernel", GIVE_X86),
        Some(0x6232 | 0x6264) => ("a LoongArch EFI program or kernel", GIVE_X86),
        _ => ("a DOS or Windows program", GIVE_KERNEL),
    };
    Other { what, offset: if machine.is_some() { pe as u64 + 4 } else { 0 }, remedy }
}
