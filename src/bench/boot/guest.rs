//! What the monitors boot: the same files for all of them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{floor, payload};
use crate::guest::cpio::{Archive, CpioError};
use crate::guest::initramfs::{InitramfsError, default_initramfs};
use crate::guest::recipe::Flavour;
use crate::guest::spec::{Spec, SpecError, Stdio, WindowSize, spec_overlay};
use crate::guest::store::{StoreError, cache_folder, default_kernel};
use crate::host::{self, PAGE_TABLE_CMDLINE};
use crate::layout;

/// Why there is no guest to boot.
#[derive(Debug, Error)]
pub enum GuestError {
    /// The default kernel or the cache folder.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The default initramfs.
    #[error(transparent)]
    Initramfs(#[from] InitramfsError),
    /// The payload's archive.
    #[error("cannot put the payload into an archive")]
    Archive(#[from] CpioError),
    /// What our init is told.
    #[error("cannot tell the guest's init what to run")]
    Spec(#[from] SpecError),
    /// A file.
    #[error("cannot read or write {}; is it there, and the disk not full?", .0.display())]
    File(PathBuf, #[source] io::Error),
}

/// Which kind of guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GuestKind {
    /// A few instructions: what is left is the monitor.
    Trivial,
    /// Linux with an initramfs whose init runs the payload.
    Linux,
    /// A distribution's Linux with the same initramfs.
    Distribution,
}

/// Files to boot, and what shows that the payload runs.
#[derive(Clone, Debug)]
pub struct Guest {
    /// Its kind.
    pub kind: GuestKind,
    /// What the payload writes first.
    pub marker: Vec<u8>,
    /// The kernel's command line.
    pub cmdline: String,
    kernel: Forms,
    flat: Option<Forms>,
    initrd: Option<Forms>,
}

/// A file whose payload ends, and one whose payload stays.
#[derive(Clone, Debug)]
struct Forms {
    ends: PathBuf,
    stays: PathBuf,
}

impl Forms {
    fn of(&self, hold: bool) -> &Path {
        if hold { &self.stays } else { &self.ends }
    }
}

impl Guest {
    /// The kernel; with `hold` one whose payload stays.
    pub fn kernel(&self, hold: bool) -> &Path {
        self.kernel.of(hold)
    }

    /// The trivial guest in real mode, for a monitor that takes neither ELF nor PVH; with `hold` one whose payload stays.
    pub fn flat(&self, hold: bool) -> Option<&Path> {
        self.flat.as_ref().map(|forms| forms.of(hold))
    }

    /// The initrd; with `hold` one whose payload stays.
    pub fn initrd(&self, hold: bool) -> Option<&Path> {
        self.initrd.as_ref().map(|forms| forms.of(hold))
    }

    /// The files that `program` reads when it starts this guest, itself among them.
    pub fn files(&self, program: &Path) -> Vec<PathBuf> {
        [program, self.kernel(false)].into_iter().chain(self.initrd(false)).map(Path::to_owned).collect()
    }

    /// A guest of a few instructions, its files in `dir`.
    ///
    /// # Errors
    /// [`GuestError::File`].
    pub fn trivial(dir: &Path) -> Result<Self, GuestError> {
        let write = |name: &str, bytes: &[u8]| {
            let path = dir.join(name);
            fs::write(&path, bytes).map_err(|e| GuestError::File(path.clone(), e))?;
            Ok::<_, GuestError>(path)
        };
        let elf = |hold| trivial_kernel(&trivial_code(hold));
        Ok(Self {
            kind: GuestKind::Trivial,
            marker: vec![TRIVIAL_MARK],
            cmdline: "console=ttyS0".to_owned(),
            kernel: Forms { ends: write("trivial", &elf(false))?, stays: write("trivial-held", &elf(true))? },
            flat: Some(Forms {
                ends: write("flat", &floor::code(false))?,
                stays: write("flat-held", &floor::code(true))?,
            }),
            initrd: None,
        })
    }

    /// Linux: `kernel`, or the default one, with `words` added to its command line. The initramfs is the default guest's with the
    /// payload added, in `dir`.
    ///
    /// # Errors
    /// [`GuestError`]; when no default kernel has been built, among others.
    pub fn linux(dir: &Path, kernel: Option<&Path>, words: &str, kind: GuestKind) -> Result<Self, GuestError> {
        let cache = cache_folder()?;
        let kernel = match kernel {
            Some(path) => fs::canonicalize(path).map_err(|e| GuestError::File(path.to_owned(), e))?,
            None => default_kernel(&cache, Flavour::Micro)?.path,
        };
        let default = default_initramfs(&cache)?;
        let base = fs::read(&default).map_err(|e| GuestError::File(default, e))?;
        let initrd = |name: &str, words: &[&str]| {
            let path = dir.join(name);
            fs::write(&path, initrd(&base, words)?).map_err(|e| GuestError::File(path.clone(), e))?;
            Ok::<_, GuestError>(path)
        };
        let (ends, stays) = (initrd("initrd", &["/payload"])?, initrd("initrd-held", &["/payload", payload::HOLD])?);
        let emulated = if host::flavour().emulates_ring_0() { PAGE_TABLE_CMDLINE } else { "" };
        let cmdline = ["console=ttyS0 reboot=k panic=-1 quiet", emulated, words.trim()];
        Ok(Self {
            kind,
            marker: payload::LINE.trim_end().as_bytes().to_vec(),
            cmdline: cmdline.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" "),
            kernel: Forms { ends: kernel.clone(), stays: kernel },
            flat: None,
            initrd: Some(Forms { ends, stays }),
        })
    }
}

/// The default initramfs, the payload, and what our init is told to run, one archive after the other.
fn initrd(base: &[u8], words: &[&str]) -> Result<Vec<u8>, GuestError> {
    let mut archive = Archive::new();
    archive.file(payload::NAME, 0o755, &payload::program())?;
    let spec = Spec {
        stdio: Stdio::Pipe,
        term: "vt100".into(),
        window: WindowSize::default(),
        hostname: "ringfence".to_owned(),
        loglevel: None,
        env: Vec::new(),
        args: words.iter().map(Into::into).collect(),
    };
    let mut whole = base.to_vec();
    whole.resize(whole.len().next_multiple_of(4), 0);
    whole.extend(archive.finish());
    whole.extend(spec_overlay(&spec)?);
    Ok(whole)
}

/// What the trivial guest writes to its serial port.
pub(super) const TRIVIAL_MARK: u8 = b'@';
/// ACPI's sleep type 5 with the enable bit: power off, for monitors that take a reset for a reboot.
const SLEEP: u8 = 5 << 2 | 1 << 5;
/// 1 MiB above the start of high memory, where no monitor keeps tables of its own.
const ENTRY: u64 = 0x20_0000;

/// Instructions that mean the same in 32-bit and 64-bit mode, so that every monitor may enter as it likes: ring the boot timer
/// and write a byte to the serial port; then, unless held, power off and reset; then halt.
fn trivial_code(hold: bool) -> Vec<u8> {
    let mut code = Vec::new();
    // mov dx, port; mov al, value; out dx, al
    let mut out = |port: u16, value: u8| {
        let [low, high] = port.to_le_bytes();
        code.extend_from_slice(&[0x66, 0xba, low, high, 0xb0, value, 0xee]);
    };
    out(layout::BOOT_TIMER_PORT, 1);
    out(layout::COM1_PORT, TRIVIAL_MARK);
    if !hold {
        out(layout::ACPI_SLEEP_CONTROL_PORT, SLEEP);
        out(layout::I8042_COMMAND_PORT, 0xfe);
    }
    // hlt; jmp to it
    code.extend_from_slice(&[0xf4, 0xeb, 0xfd]);
    code
}

/// An ELF file of one page with the code and a PVH note (type 18, owner "Xen"; Xen's `elfnote.h`).
fn trivial_kernel(code: &[u8]) -> Vec<u8> {
    let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for (value, size) in [(2, 2), (62, 2), (1, 4), (ENTRY, 8), (64, 8), (0, 8), (0, 4), (64, 2), (56, 2), (2, 2)] {
        file.extend_from_slice(&u64::to_le_bytes(value)[..size]);
    }
    file.resize(64, 0);
    let (code_at, note_at) = (0x1000, 0x200);
    for (kind, offset, address, size) in [(1u32, code_at, ENTRY, code.len() as u64), (4, note_at, 0, 24)] {
        file.extend_from_slice(&kind.to_le_bytes());
        file.extend_from_slice(&7u32.to_le_bytes());
        for value in [offset, address, address, size, size, 4] {
            file.extend_from_slice(&value.to_le_bytes());
        }
    }
    file.resize(note_at as usize, 0);
    for value in [4u32, 8, 18] {
        file.extend_from_slice(&value.to_le_bytes());
    }
    file.extend_from_slice(b"Xen\0");
    file.extend_from_slice(&ENTRY.to_le_bytes());
    file.resize(code_at as usize, 0);
    file.extend_from_slice(code);
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves that the code is what it says, decoded by the disassembler in both modes.
    #[test]
    fn the_trivial_guest_is_the_same_in_both_modes() {
        let decode = |bits| {
            let code = trivial_code(false);
            let mut decoder = iced_x86::Decoder::new(bits, &code, 0);
            decoder.iter().map(|i| format!("{i}")).collect::<Vec<_>>()
        };
        let lines = decode(64);
        assert_eq!(lines[..3], ["mov dx,610h", "mov al,1", "out dx,al"]);
        assert_eq!(lines[lines.len() - 2..], ["hlt", "jmp short 000000000000001Ch"]);
        assert_eq!(decode(32)[..13], lines[..13]);
    }

    /// Proves that the kernel is one that the loader here takes.
    #[test]
    fn the_trivial_kernel_is_an_elf_with_a_pvh_entry() {
        let file = trivial_kernel(&trivial_code(true));
        assert_eq!(&file[..4], b"\x7fELF");
        assert_eq!(&file[0x20c..0x210], b"Xen\0");
        assert_eq!(u64::from_le_bytes(file[0x210..0x218].try_into().unwrap()), ENTRY);
        assert_eq!(&file[0x1000..], &trivial_code(true)[..]);
    }
}
