use std::os::unix::fs::FileExt;

use super::super::fixture::{self, TinyElf};
use super::super::image::{Kernel, OpenOptions};
use super::super::unpack::Compression;
use super::*;
use crate::units::ByteSize;

struct Bed {
    folder: tempfile::TempDir,
    options: OpenOptions,
}

/// A cache folder that does not exist yet, in a temporary one.
fn bed() -> Bed {
    let folder = tempfile::tempdir().unwrap();
    let mut options = OpenOptions::new(vec![0..0xa_0000, 0x10_0000..0x400_0000]);
    options.cache = Some(folder.path().join("a/cache"));
    Bed { folder, options }
}

impl Bed {
    /// A bzImage; `byte` makes its kernel differ from others.
    fn image(&self, byte: u8) -> PathBuf {
        let mut elf = TinyElf::default();
        elf.loads[0].bytes[5] = byte;
        let path = self.folder.path().join(format!("vmlinuz-{byte}"));
        fs::write(&path, fixture::bzimage(&fixture::payload(Compression::Zstd, &elf.build()))).unwrap();
        path
    }

    fn open(&self, path: &Path) -> Kernel {
        Kernel::open(path, &self.options).unwrap()
    }

    fn cache(&self) -> PathBuf {
        self.options.cache.clone().unwrap().join("unpacked")
    }

    /// Names in the cache folder that end so.
    fn named(&self, end: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.cache()).unwrap().map(|e| e.unwrap().path());
        entries.filter(|p| p.to_str().unwrap().ends_with(end)).collect()
    }
}

/// The byte that tells kernels apart, as the guest would get it.
fn marker(kernel: &Kernel) -> u8 {
    let mut byte = [0];
    kernel.file().read_exact_at(&mut byte, kernel.segments()[0].file_offset + 5).unwrap();
    byte[0]
}

/// Proves that a second start takes the kept file, and that the link by identity appears once the image has settled.
#[test]
fn a_second_start_takes_the_kept_file() {
    let bed = bed();
    let image = bed.image(7);
    let first = bed.open(&image);
    assert_eq!((marker(&first), first.warnings().len()), (7, 0));
    let [kept] = &bed.named(".elf")[..] else { panic!("one file is kept") };
    let inode = fs::metadata(kept).unwrap().ino();
    assert!(!bed.cache().join("by-file").exists(), "an image written just now is not remembered by its identity");
    sleep(Duration::from_millis(3100));
    for _ in 0..2 {
        let again = bed.open(&image);
        assert_eq!((marker(&again), again.file().metadata().unwrap().ino()), (7, inode));
    }
    let metadata = fs::metadata(&image).unwrap();
    let head = fs::read(&image).unwrap();
    let key = Identity::of(&metadata).key(&head[..head.len().min(4096)]);
    let found = Cache::new(&bed.cache(), u64::MAX).find_by_file(&key).unwrap();
    assert_eq!(found.path, *kept);

    // The same size and the old mtime, but other content: the identity differs, and the new kernel is what boots.
    let other = fs::read(bed.image(8)).unwrap();
    let file = fs::OpenOptions::new().write(true).truncate(true).open(&image).unwrap();
    (&file).write_all(&other).unwrap();
    file.set_times(FileTimes::new().set_modified(metadata.modified().unwrap())).unwrap();
    assert_eq!(marker(&bed.open(&image)), 8);
}

/// Proves that a kept file with a byte changed, cut short, emptied or replaced is noticed, said and made again.
#[test]
fn damage_is_noticed_and_repaired() {
    let bed = bed();
    let image = bed.image(1);
    let damages: [fn(&Path); 5] = [
        |p| fs::OpenOptions::new().write(true).open(p).unwrap().write_all_at(b"x", 0x1005).unwrap(),
        |p| fs::OpenOptions::new().write(true).open(p).unwrap().set_len(0x1800).unwrap(),
        |p| fs::write(p, b"").unwrap(),
        |p| fs::write(p, vec![0; 20000]).unwrap(),
        |p| {
            // A record that is whole but of another kernel.
            let length = fs::metadata(p).unwrap().len() - 112;
            let body = fs::read(p).unwrap()[..length as usize].to_vec();
            let record = Record { content: blake3::hash(b"other"), length, body: blake3::hash(&body) };
            fs::write(p, [body, record.to_bytes()].concat()).unwrap();
        },
    ];
    bed.open(&image);
    for damage in damages {
        damage(&bed.named(".elf")[0]);
        let kernel = bed.open(&image);
        assert_eq!(marker(&kernel), 1);
        assert!(kernel.warnings()[0].contains("was damaged") && kernel.warnings()[0].contains("made again"));
        assert!(bed.open(&image).warnings().is_empty());
    }
}

/// Proves that a change which leaves a valid-looking seal from before the last boot is found by the hash.
#[test]
fn files_from_before_the_last_boot_are_checked() {
    let bed = bed();
    let image = bed.image(3);
    bed.open(&image);
    let path = bed.named(".elf").remove(0);
    let file = fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let record = seal::check(&file, &file.metadata().unwrap()).unwrap();
    file.write_all_at(b"x", 0x1005).unwrap();
    // Sealed in 1970.
    record.seal_at(&file, 1000).unwrap();
    let error = seal::check(&file, &file.metadata().unwrap()).unwrap_err();
    assert!(error.contains("does not have the hash"), "{error}");
    // A seal of now is believed: that is what makes a start cheap.
    record.seal(&file).unwrap();
    let age = rustix::time::clock_gettime(rustix::time::ClockId::Boottime).tv_sec;
    if age > 20 {
        assert_eq!(seal::check(&file, &file.metadata().unwrap()).unwrap(), record);
    }
}

/// Proves that many starts at once make one kept file, all get the kernel, and nothing half-written stays.
#[test]
fn many_at_once_make_one_file() {
    let bed = bed();
    let image = bed.image(9);
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                let kernel = bed.open(&image);
                assert_eq!((marker(&kernel), kernel.warnings()), (9, &[][..]));
                assert!(kernel.notes()[0].contains("the unpacked kernel is"), "{:?}", kernel.notes());
            });
        }
    });
    assert_eq!(bed.named(".elf").len(), 1);
    assert!(fs::read_dir(bed.cache()).unwrap().all(|e| !e.unwrap().file_name().to_str().unwrap().starts_with("new-")));
}

/// Proves that a folder that cannot be made, and one too small, leave a kernel in memory and a note that says why.
#[test]
fn without_a_cache_the_kernel_is_in_memory() {
    let mut bed = bed();
    let image = bed.image(2);
    bed.options.cache = Some(image.join("below-a-file"));
    let kernel = bed.open(&image);
    assert_eq!(marker(&kernel), 2);
    assert!(kernel.notes()[0].contains("each start unpacks it") && kernel.notes()[0].contains("Not a directory"));
    bed.options.cache = Some(bed.folder.path().join("cache"));
    bed.options.cache_limit = ByteSize::kib(4);
    let kernel = bed.open(&image);
    assert_eq!(marker(&kernel), 2);
    assert!(kernel.notes()[0].contains("are more than the 0x1000"), "{:?}", kernel.notes());
    assert!(bed.named(".elf").is_empty());
    bed.options.cache = None;
    assert_eq!((marker(&bed.open(&image)), bed.open(&image).notes().len()), (2, 0));
}

/// Proves that the folder stays within its limit and that the kernel used longest ago goes first; the one in use stays good.
#[test]
fn the_least_recently_used_makes_room() {
    let mut bed = bed();
    let images = [bed.image(1), bed.image(2), bed.image(3)];
    let first = bed.open(&images[0]);
    let size = first.file().metadata().unwrap().len();
    bed.options.cache_limit = ByteSize::bytes(2 * size + size / 2);
    bed.open(&images[1]);
    let old = SystemTime::now() - Duration::from_secs(100_000);
    for path in bed.named(".elf") {
        let file = File::open(path).unwrap();
        file.set_times(FileTimes::new().set_accessed(old)).unwrap();
    }
    // Using the first makes the second the older.
    bed.open(&images[0]);
    bed.open(&images[2]);
    let kept = bed.named(".elf");
    assert_eq!(kept.len(), 2);
    let marker_of = |path: &PathBuf| fs::read(path).unwrap()[0x1005];
    let mut markers: Vec<u8> = kept.iter().map(marker_of).collect();
    markers.sort();
    assert_eq!(markers, [1, 3]);
    let second = bed.open(&images[1]);
    bed.open(&images[2]);
    bed.open(&images[0]);
    assert_eq!((marker(&first), marker(&second)), (1, 2), "an evicted file stays readable through its descriptor");
}

/// Proves that what a killed run left is removed by the next that writes, and that a link to elsewhere is never followed
/// to remove or use a file there.
#[test]
fn leftovers_go_and_foreign_files_stay() {
    let bed = bed();
    let image = bed.image(4);
    fs::create_dir_all(bed.cache().join("by-file")).unwrap();
    fs::write(bed.cache().join("new-1"), b"half").unwrap();
    let foreign = bed.folder.path().join("foreign.elf");
    fs::write(&foreign, TinyElf::default().build()).unwrap();
    let head = fs::read(&image).unwrap();
    let key = Identity::of(&fs::metadata(&image).unwrap()).key(&head[..head.len().min(4096)]);
    symlink(&foreign, bed.cache().join("by-file").join(&key)).unwrap();
    assert_eq!(marker(&bed.open(&image)), 4);
    assert!(foreign.exists() && !bed.cache().join("new-1").exists());
}

/// Proves that a kernel whose segments cannot be mapped is kept so that they can.
#[test]
fn kept_kernels_can_be_mapped() {
    let bed = bed();
    let elf = TinyElf { skew: 0x10, ..TinyElf::default() };
    let path = bed.folder.path().join("skewed");
    fs::write(&path, fixture::bzimage(&fixture::payload(Compression::Gzip, &elf.build()))).unwrap();
    for options in [&bed.options, &OpenOptions { cache: None, ..bed.options.clone() }] {
        let kernel = Kernel::open(&path, options).unwrap();
        assert!(kernel.segments().iter().all(|s| s.is_mappable()));
        assert_eq!(marker(&kernel), 0xf4);
    }
}

/// Proves that a lock which stays held is waited for no longer than told, and that nothing is written meanwhile.
#[test]
fn a_held_lock_is_not_waited_for_long() {
    let bed = bed();
    fs::create_dir_all(bed.cache()).unwrap();
    let mut cache = Cache::new(&bed.cache(), u64::MAX);
    cache.patience = Duration::from_millis(30);
    let held = cache.lock().unwrap();
    let content = blake3::hash(b"content");
    let result = cache.store(&content, |_| -> Result<(), ()> { panic!("nothing may be written without the lock") });
    assert!(matches!(result, Err(StoreError::Cache(CacheError::Locked { .. }))), "{result:?}");
    drop(held);
    let kept = cache.store(&content, |file| file.write_all(b"kernel").map_err(drop)).unwrap();
    assert_eq!((kept.length, cache.find_by_content(&content).unwrap().length), (6, 6));
}

/// Proves that a kernel which cannot be unpacked leaves nothing behind.
#[test]
fn a_failed_kernel_leaves_nothing() {
    let bed = bed();
    let mut cache = Cache::new(&bed.cache(), u64::MAX);
    let result = cache.store(&blake3::hash(b"content"), |file| {
        file.write_all(b"half").unwrap();
        Err("damaged")
    });
    assert!(matches!(result, Err(StoreError::Make("damaged"))), "{result:?}");
    assert_eq!(bed.named("lock").len(), fs::read_dir(bed.cache()).unwrap().count());
}

/// Proves that a file another user could have written is not used.
#[test]
fn files_others_can_write_are_not_used() {
    let bed = bed();
    let image = bed.image(6);
    bed.open(&image);
    let path = bed.named(".elf").remove(0);
    let inode = fs::metadata(&path).unwrap().ino();
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    assert_eq!(marker(&bed.open(&image)), 6);
    assert_ne!(fs::metadata(&path).unwrap().ino(), inode, "it was made anew");
}
