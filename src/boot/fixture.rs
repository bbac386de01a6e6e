//! Tiny kernels built in memory for tests.

use std::io::Write;

use super::unpack::Compression;

/// One loadable segment: its bytes, where they go and how much memory they take.
#[derive(Clone, Debug)]
pub struct Load {
    pub address: u64,
    pub bytes: Vec<u8>,
    pub mem_size: u64,
}

/// An x86-64 kernel with a PVH note and page-congruent segments, unless told otherwise.
#[derive(Clone, Debug)]
pub struct TinyElf {
    pub loads: Vec<Load>,
    pub entry: u64,
    pub pvh: Option<u64>,
    /// Added to each segment's file offset, to break congruence.
    pub skew: u64,
}

impl Default for TinyElf {
    fn default() -> Self {
        let load = |address, byte, length, mem_size| Load { address, bytes: vec![byte; length], mem_size };
        Self {
            loads: vec![load(0x10_0000, 0xf4, 0x1800, 0x2000), load(0x20_0000, 0x5a, 0x234, 0x1000)],
            entry: 0x10_0000,
            pvh: Some(0x10_0100),
            skew: 0,
        }
    }
}

impl TinyElf {
    pub fn build(&self) -> Vec<u8> {
        let mut file = vec![0; 0x1000];
        let mut headers = Vec::new();
        for load in &self.loads {
            let offset = (file.len() as u64).next_multiple_of(4096) + load.address % 4096 + self.skew;
            file.resize(offset as usize, 0);
            file.extend_from_slice(&load.bytes);
            headers.push(program_header(1, offset, load.address, load.bytes.len() as u64, load.mem_size));
        }
        if let Some(entry) = self.pvh {
            let offset = file.len() as u64;
            for word in [4_u32, 8, 18] {
                file.extend_from_slice(&word.to_le_bytes());
            }
            file.extend_from_slice(b"Xen\0");
            file.extend_from_slice(&entry.to_le_bytes());
            headers.push(program_header(4, offset, 0, 24, 24));
        }
        file[..16].copy_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
        put(&mut file, 16, &2_u16.to_le_bytes());
        put(&mut file, 18, &62_u16.to_le_bytes());
        put(&mut file, 20, &1_u32.to_le_bytes());
        put(&mut file, 24, &self.entry.to_le_bytes());
        put(&mut file, 32, &64_u64.to_le_bytes());
        put(&mut file, 52, &64_u16.to_le_bytes());
        put(&mut file, 54, &56_u16.to_le_bytes());
        put(&mut file, 56, &(headers.len() as u16).to_le_bytes());
        put(&mut file, 64, &headers.concat());
        file
    }
}

/// Overwrites bytes in a file.
pub fn put(file: &mut [u8], at: usize, bytes: &[u8]) {
    file[at..at + bytes.len()].copy_from_slice(bytes);
}

fn program_header(kind: u32, offset: u64, address: u64, file_size: u64, mem_size: u64) -> Vec<u8> {
    let mut header = kind.to_le_bytes().to_vec();
    header.extend_from_slice(&7_u32.to_le_bytes());
    for word in [offset, address, address, file_size, mem_size, 4] {
        header.extend_from_slice(&word.to_le_bytes());
    }
    header
}

/// Where [`bzimage`] puts the payload.
pub const PAYLOAD_OFFSET: usize = 0x400 + 0x40;
/// Kernel version text of [`bzimage`].
pub const VERSION: &str = "6.1.0-tiny (us@here) #1";

/// A bzImage of boot protocol 2.15 around a payload that is already compressed.
pub fn bzimage(payload: &[u8]) -> Vec<u8> {
    let mut file = vec![0; PAYLOAD_OFFSET];
    file[0x1f1] = 1;
    put(&mut file, 0x1fe, &[0x55, 0xaa, 0xeb, 0x6a]);
    put(&mut file, 0x202, b"HdrS\x0f\x02");
    put(&mut file, 0x20e, &0x100_u16.to_le_bytes());
    file[0x211] = 1;
    put(&mut file, 0x230, &0x20_0000_u32.to_le_bytes());
    file[0x234] = 1;
    put(&mut file, 0x236, &1_u16.to_le_bytes());
    put(&mut file, 0x248, &0x40_u32.to_le_bytes());
    put(&mut file, 0x24c, &(payload.len() as u32).to_le_bytes());
    put(&mut file, 0x258, &0x100_0000_u64.to_le_bytes());
    put(&mut file, 0x260, &0x10_0000_u32.to_le_bytes());
    put(&mut file, 0x300, VERSION.as_bytes());
    file.extend_from_slice(payload);
    file
}

/// What the kernel's build makes of a vmlinux: compressed, with the size appended where the format has none at its end.
pub fn payload(compression: Compression, data: &[u8]) -> Vec<u8> {
    let mut packed = compress(compression, data);
    if compression != Compression::Gzip {
        packed.extend_from_slice(&(data.len() as u32).to_le_bytes());
    }
    packed
}

pub fn compress(compression: Compression, data: &[u8]) -> Vec<u8> {
    match compression {
        Compression::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
            encoder.write_all(data).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Bzip2 => {
            let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::best());
            encoder.write_all(data).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Xz => {
            let mut options = lzma_rust2::XzOptions::with_preset(6);
            options.prepend_pre_filter(lzma_rust2::filter::FilterType::BcjX86, 0);
            let mut encoder = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
            encoder.write_all(data).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Lzma => {
            let options = lzma_rust2::LzmaOptions::with_preset(6);
            let mut encoder = lzma_rust2::LzmaWriter::new_use_header(Vec::new(), &options, None).unwrap();
            encoder.write_all(data).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Lz4Legacy => {
            let mut packed = b"\x02\x21\x4c\x18".to_vec();
            for block in data.chunks(8 << 20) {
                let block = lz4_flex::block::compress(block);
                packed.extend_from_slice(&(block.len() as u32).to_le_bytes());
                packed.extend_from_slice(&block);
            }
            packed
        }
        Compression::Lz4 => {
            let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
            encoder.write_all(data).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Zstd => zstd::encode_all(data, 3).unwrap(),
        Compression::Lzo => b"\x89LZO\0\r\n\x1a\n, and no way to make the rest".to_vec(),
    }
}
