//! Which file it is, told without reading it.

use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime};

/// What `fstat` says that changes whenever a file's content does: device, inode, size, mtime, ctime.
///
/// The kernel updates ctime on every write and gives no way to set it. Two holes are closed here: a write within the
/// clock tick of the last one leaves ctime as it was, so only a file whose ctime is [`SETTLED`] ago is remembered
/// (as git does for its index); and network and user-space file systems may report what they like, so only those in
/// [`LOCAL_FILE_SYSTEMS`] are. One is left: bytes stored through a shared writable mapping that stays open reach ctime
/// only when the kernel writes the page back. Nothing that installs kernels writes that way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    fields: [u64; 7],
}

/// How long a file must have been left alone; coarser than any file system's clock.
const SETTLED: Duration = Duration::from_secs(2);

/// `f_type` of file systems whose ctime the host's own kernel keeps (statfs(2), linux/magic.h).
const LOCAL_FILE_SYSTEMS: [u64; 12] = [
    0xef53,      // ext2, ext3, ext4
    0x5846_5342, // XFS
    0x9123_683e, // btrfs
    0x0102_1994, // tmpfs
    0x8584_58f6, // ramfs
    0x794c_7630, // overlayfs
    0xf2f5_2010, // F2FS
    0x2fc1_2fc1, // ZFS
    0xca45_1a4e, // bcachefs
    0x7371_7368, // squashfs
    0xe0f5_e1e2, // EROFS
    0x9660,      // ISO 9660
];

impl Identity {
    /// The identity in an `fstat` result.
    pub fn of(metadata: &Metadata) -> Self {
        let fields = [
            metadata.dev(),
            metadata.ino(),
            metadata.size(),
            metadata.mtime() as u64,
            metadata.mtime_nsec() as u64,
            metadata.ctime() as u64,
            metadata.ctime_nsec() as u64,
        ];
        Self { fields }
    }

    /// A name for the file as it is now: its identity and its first bytes, which were read anyway.
    pub fn key(&self, head: &[u8]) -> String {
        let mut hasher = blake3::Hasher::new_derive_key("ringfence 2026 identity of a kernel file");
        for field in self.fields {
            hasher.update(&field.to_le_bytes());
        }
        hasher.update(head);
        hasher.finalize().to_hex()[..32].to_owned()
    }

    /// Whether what was read from `file` since this identity was taken may be remembered under it.
    pub fn is_trustworthy(&self, file: &File) -> bool {
        let unchanged = file.metadata().is_ok_and(|metadata| Self::of(&metadata) == *self);
        let local = rustix::fs::fstatfs(file).is_ok_and(|fs| LOCAL_FILE_SYSTEMS.contains(&(fs.f_type as u64)));
        let settled = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .is_ok_and(|now| now.saturating_sub(SETTLED).as_secs() > self.fields[5]);
        unchanged && local && settled
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Write;
    use std::thread::sleep;

    /// Proves that a write that keeps the size, with mtime put back, still makes another key, and that a file just
    /// written is not trusted.
    #[test]
    fn a_rewritten_file_is_another() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"first").unwrap();
        let before = file.as_file().metadata().unwrap();
        let identity = Identity::of(&before);
        assert!(!identity.is_trustworthy(file.as_file()), "written within the last two seconds");
        sleep(Duration::from_millis(50));
        fs::write(file.path(), b"other").unwrap();
        file.as_file().set_times(fs::FileTimes::new().set_modified(before.modified().unwrap())).unwrap();
        let after = file.as_file().metadata().unwrap();
        assert_eq!(after.modified().unwrap(), before.modified().unwrap());
        assert_ne!(Identity::of(&after).key(b""), identity.key(b""));
    }

    /// Proves that a file left alone is trusted, and that other first bytes make another key.
    #[test]
    fn a_settled_file_is_trusted() {
        let file = File::open(std::env::current_exe().unwrap()).unwrap();
        let identity = Identity::of(&file.metadata().unwrap());
        let age = SystemTime::now().duration_since(file.metadata().unwrap().modified().unwrap()).unwrap();
        sleep(Duration::from_secs(4).saturating_sub(age));
        assert!(identity.is_trustworthy(&file));
        assert_ne!(identity.key(b"a"), identity.key(b"b"));
    }
}
