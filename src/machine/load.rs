//! Filling guest RAM: the kernel's segments, the initrd, the tables a kernel is handed.

use std::path::{Path, PathBuf};

use crate::boot::image::{self, Container, EntryPoint, Kernel};
use crate::boot::initrd::{Initrd, InitrdError};
use crate::boot::zero_page::ZeroPage;
use crate::boot::{acpi, cmdline, e820, mptable, pvh};
use crate::config::{BootEntry, MachineConfig};
use crate::cpu::{paging, regs};
use crate::layout;
use crate::memory::{self, GuestRam, MemoryError};

use super::vm::Entry;

/// Why guest RAM could not be filled.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The kernel's image.
    #[error(transparent)]
    Image(#[from] image::ImageError),
    /// The initrd.
    #[error(transparent)]
    Initrd(#[from] InitrdError),
    /// A file was shorter, or could not be read, when its bytes were taken than when it was looked at.
    #[error("cannot read {path} whole; copy it again, and let nothing write to it meanwhile")]
    File {
        /// The kernel or the initrd.
        path: PathBuf,
        /// Which bytes.
        #[source]
        source: MemoryError,
    },
    /// The ACPI tables.
    #[error(transparent)]
    Acpi(#[from] acpi::AcpiError),
    /// The command line.
    #[error(transparent)]
    Cmdline(#[from] cmdline::CmdlineError),
    /// Guest RAM.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

impl LoadError {
    /// The same with the file's name, where its bytes are the reason.
    fn of_file(path: &Path, error: MemoryError) -> Self {
        match error {
            MemoryError::Load { .. } => Self::File { path: path.to_owned(), source: error },
            error => Self::Memory(error),
        }
    }
}

/// Where the guest starts, and what was found on the way.
pub(super) struct Loaded {
    pub(super) entry: Entry,
    /// End of the kernel's highest segment.
    pub(super) kernel_end: u64,
    /// What the kernel was recognised as.
    pub(super) format: String,
    pub(super) warnings: Vec<String>,
    pub(super) notes: Vec<String>,
}

/// A kernel of so many bytes will use the RAM it is given: huge pages are asked for before it is put there. A smaller guest may be
/// gone before one would be cleared, and gets them if it stays.
const WORTH_HUGE_PAGES: u64 = 2 << 20;

/// Puts everything into RAM that the kernel needs at its entry.
pub(super) fn load(config: &MachineConfig, ram: &GuestRam) -> Result<Loaded, LoadError> {
    let ranges = memory::ranges(config.memory);
    let map = e820::map(&ranges);
    let entry = match config.entry {
        BootEntry::Auto => image::EntryPreference::Auto,
        BootEntry::Pvh => image::EntryPreference::Pvh,
        BootEntry::Linux64 => image::EntryPreference::Linux64,
    };
    let usable = map.iter().filter(|e| e.kind == e820::Kind::Usable).map(|e| e.range.clone()).collect();
    let mut options = image::OpenOptions::new(usable);
    options.cache = config.cache.clone();
    options.entry = entry;
    let kernel = Kernel::open(&config.kernel.path, &options)?;
    if kernel.segments().iter().map(|segment| segment.file_size).sum::<u64>() >= WORTH_HUGE_PAGES {
        ram.prefer_huge_pages();
    }
    let placed = place_kernel(&kernel, ram, config.kernel.immutable);
    let kernel_end = placed.map_err(|error| LoadError::of_file(&config.kernel.path, error))?;
    let initrd = place_initrd(config, &kernel, ram, ranges[0].clone(), kernel_end)?;
    let rsdp = write_firmware_tables(config.cpus, ram)?;
    let line = cmdline::encode(&config.cmdline)?;
    ram.write(layout::CMDLINE, &line)?;
    let (mode, address) = match kernel.entry() {
        EntryPoint::Pvh { address } => {
            ram.write(layout::PVH_START_INFO, &pvh::build(&map, initrd, Some(rsdp)))?;
            (regs::Mode::Protected, address)
        }
        EntryPoint::Linux64 { address } => {
            let header = kernel.setup_header();
            let page = ZeroPage { header, memory: &map, cmdline_len: line.len() - 1, initrd, rsdp: Some(rsdp) };
            ram.write(layout::ZERO_PAGE, &page.build())?;
            ram.write(layout::BOOT_PML4, &paging::identity(kernel_end))?;
            (regs::Mode::Long, address)
        }
    };
    ram.write(layout::BOOT_GDT, &regs::gdt(mode))?;
    Ok(Loaded {
        entry: Entry { mode, address },
        kernel_end,
        format: kernel.format().to_string(),
        warnings: kernel.warnings().to_vec(),
        notes: kernel.notes().to_vec(),
    })
}

/// Puts the segments into RAM, which is fresh, so what lies behind a segment's file bytes is zero already.
/// Returns the end of the highest one.
fn place_kernel(kernel: &Kernel, ram: &GuestRam, immutable: bool) -> Result<u64, MemoryError> {
    let mut end = 0;
    for segment in kernel.segments() {
        if segment.file_size > 0 {
            if immutable || is_our_own(kernel) {
                ram.map_file(segment.address, kernel.file(), segment.file_offset, segment.file_size)?;
            } else {
                ram.copy_file(segment.address, kernel.file(), segment.file_offset, segment.file_size)?;
            }
        }
        end = end.max(segment.address + segment.mem_size);
    }
    Ok(end)
}

/// Whether the segments lie in a file that was unpacked here, which nobody changes in place.
fn is_our_own(kernel: &Kernel) -> bool {
    matches!(kernel.format().container, Container::CompressedElf(_) | Container::BzImage { .. })
}

/// Puts the initrd into RAM; returns its guest-physical start and length.
fn place_initrd(
    config: &MachineConfig,
    kernel: &Kernel,
    ram: &GuestRam,
    low: std::ops::Range<u64>,
    kernel_end: u64,
) -> Result<Option<(u64, u64)>, LoadError> {
    let initrd = Initrd::open(config.initrd.as_deref(), config.initrd_overlay.clone())?;
    if initrd.is_empty() {
        return Ok(None);
    }
    // A kernel from a bare ELF says no limit; 2 GiB - 1 is what every kernel since 2.6 takes.
    let limit = kernel.setup_header().map_or(0x7fff_ffff, |h| u64::from(h.initrd_addr_max));
    let start = initrd.place(&low, kernel_end, limit)?;
    if let Some((file, len)) = initrd.file() {
        let taken = match config.initrd_immutable {
            true => ram.map_file(start, file, 0, len),
            false => ram.copy_file(start, file, 0, len),
        };
        taken.map_err(|error| LoadError::of_file(config.initrd.as_deref().unwrap_or(Path::new("")), error))?;
    }
    let (offset, overlay) = initrd.overlay();
    if !overlay.is_empty() {
        ram.write(start + offset, overlay)?;
    }
    Ok(Some((start, initrd.len())))
}

/// Writes the MP table (small kernels have no ACPI) and ACPI (Debian's kernels have no MP table); returns the RSDP's address.
fn write_firmware_tables(cpus: u32, ram: &GuestRam) -> Result<u64, LoadError> {
    if let Some(table) = mptable::build(cpus) {
        ram.write(layout::MP_FLOATING_POINTER, &table.pointer)?;
        ram.write(layout::MP_TABLE, &table.table)?;
    }
    let tables = acpi::build(cpus, layout::ACPI_TABLES)?;
    ram.write(layout::ACPI_TABLES, &tables.bytes)?;
    Ok(tables.rsdp)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves that a file which gives fewer bytes than its length promises, as those of sysfs do, is named with the remedy, and
    /// that nothing else about RAM is laid to the file.
    #[test]
    fn a_file_that_was_cut_is_named() {
        let path = Path::new("/sys/devices/system/cpu/online");
        let initrd = Initrd::open(Some(path), Vec::new()).unwrap();
        let (file, len) = initrd.file().unwrap();
        let ram = GuestRam::new(crate::units::ByteSize::mib(16), &memory::Backing::default()).unwrap();
        let error = LoadError::of_file(path, ram.copy_file(0x10_0000, file, 0, len).unwrap_err());
        let text = error.to_string();
        assert!(text.contains("cpu/online") && text.contains("copy it again"), "{text}");
        let outside = ram.write(1 << 40, &[0]).unwrap_err();
        assert!(matches!(LoadError::of_file(path, outside), LoadError::Memory(_)));
    }
}
