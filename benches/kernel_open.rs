//! How long a kernel takes to open: `cargo bench --bench kernel_open -- FILE...`
//!
//! Medians, in milliseconds: unpacked into memory; unpacked and kept; taken from the cache by the file's identity; by its
//! content's hash; with the kept file's hash checked. An ELF file costs the same in all columns.

use std::fs::{self, File, FileTimes};
use std::path::Path;
use std::time::{Instant, SystemTime};

use ringfence::boot::image::{ImageError, Kernel, OpenOptions};

/// Median of `runs` openings.
fn milliseconds(path: &Path, options: &OpenOptions, runs: usize) -> Result<f64, ImageError> {
    let mut samples = Vec::new();
    for _ in 0..runs {
        let start = Instant::now();
        let kernel = Kernel::open(path, options)?;
        samples.push(start.elapsed().as_secs_f64() * 1e3);
        drop(kernel);
    }
    samples.sort_by(f64::total_cmp);
    Ok(samples[samples.len() / 2])
}

fn measure(path: &Path) -> Result<[f64; 5], Box<dyn std::error::Error>> {
    let mut options = OpenOptions::new(vec![0..0xa_0000, 0x10_0000..0x4000_0000]);
    let memory = milliseconds(path, &options, 3)?;
    let folder = tempfile::tempdir()?;
    options.cache = Some(folder.path().to_owned());
    let kept = milliseconds(path, &options, 1)?;
    let by_identity = milliseconds(path, &options, 201)?;
    let unpacked = folder.path().join("unpacked");
    let _ = fs::remove_dir_all(unpacked.join("by-file"));
    let by_content = milliseconds(path, &options, 1)?;
    for entry in fs::read_dir(unpacked).into_iter().flatten() {
        // Another mtime breaks the seal.
        let times = FileTimes::new().set_modified(SystemTime::now());
        File::open(entry?.path())?.set_times(times)?;
    }
    Ok([memory, kept, by_identity, by_content, milliseconds(path, &options, 1)?])
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    if files.is_empty() {
        println!("nothing measured: name kernels, as in cargo bench --bench kernel_open -- vmlinux vmlinuz");
        return Ok(());
    }
    println!("{:>10} {:>10} {:>10} {:>10} {:>10}  file", "memory", "kept", "identity", "content", "checked");
    for file in files {
        let [memory, kept, identity, content, checked] = measure(Path::new(&file))?;
        println!("{memory:>10.3} {kept:>10.3} {identity:>10.4} {content:>10.3} {checked:>10.3}  {file}");
    }
    Ok(())
}
