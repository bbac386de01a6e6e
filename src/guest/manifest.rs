//! What is kept beside a kernel in the store: a JSON file that says what it is and where it came from.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::recipe::{Flavour, Untaken};

/// The manifest's name in a kernel's folder.
pub const FILE: &str = "manifest.json";

/// Version of the manifest's schema. A manifest of another version is not understood.
pub const SCHEMA: u32 = 1;

/// Longest manifest that is read, in bytes; one written here has a few KiB.
const MAX_SIZE: u64 = 1 << 20;

/// Why a manifest could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The file cannot be read.
    #[error("cannot read {}", .0.display())]
    Read(PathBuf, #[source] std::io::Error),
    /// The file is too long to be a manifest.
    #[error("{} is longer than {MAX_SIZE} bytes, so it is no manifest", .0.display())]
    TooLong(PathBuf),
    /// The file is no JSON, or a field is missing or of another type.
    #[error("{} is damaged", .0.display())]
    Parse(PathBuf, #[source] serde_json::Error),
    /// Another ringfence wrote it.
    #[error("{path} has schema {1}; this ringfence knows {SCHEMA}", path = .0.display())]
    Schema(PathBuf, u32),
    /// A name that would lead out of the kernel's folder.
    #[error("{path} names the image \"{1}\", which is no plain file name", path = .0.display())]
    Image(PathBuf, String),
}

/// What a kernel in the store is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Linux's version, such as `6.1.192`, where it is known.
    pub version: Option<String>,
    /// The image's file name in the kernel's folder.
    pub image: String,
    /// The image's size in bytes.
    pub size: u64,
    /// BLAKE3 of the image, in hexadecimal.
    pub blake3: String,
    /// When it was built or imported, in seconds since 1970 began.
    pub created_unix: u64,
    /// What this kernel wants on its command line beside what the monitor gives every kernel.
    pub cmdline: Option<String>,
    /// How it was built; none for an imported kernel.
    pub build: Option<Build>,
    /// The file an imported kernel was copied from.
    pub imported_from: Option<PathBuf>,
}

/// How a kernel was built.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Build {
    /// Which recipe.
    pub flavour: Flavour,
    /// The recipe's fingerprint.
    pub recipe: String,
    /// The source it was built from.
    pub source: SourceRecord,
    /// BLAKE3 of the whole configuration, in hexadecimal.
    pub config_blake3: String,
    /// Settings of the fragment that this source did not take.
    pub settings_not_taken: Vec<Untaken>,
    /// Patches that were applied, in order.
    pub patches: Vec<String>,
    /// Patches that do not apply to this source.
    pub patches_left_out: Vec<String>,
    /// The compiler's first line of `--version`.
    pub compiler: String,
    /// Commands the kernel's makefiles ran, which is what progress is counted in.
    pub steps: u64,
    /// How many of them ran at once.
    pub jobs: usize,
    /// Wall-clock time of the whole build in seconds.
    pub seconds: f64,
}

/// Which source a kernel was built from, so that the same one is known again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceRecord {
    /// The tarball or folder.
    pub path: PathBuf,
    /// The tarball's size in bytes; 0 for a folder.
    pub size: u64,
    /// The tarball's time of modification, in nanoseconds since 1970 began; 0 for a folder.
    pub modified_ns: i128,
    /// BLAKE3 of the tarball, or of names, sizes and times of a folder's files.
    pub blake3: String,
}

impl Manifest {
    /// Reads the manifest of the kernel in `folder`.
    ///
    /// # Errors
    /// When it cannot be read, is damaged, or names a file that is not in the folder.
    pub fn read(folder: &Path) -> Result<Self, ManifestError> {
        let path = folder.join(FILE);
        let mut text = Vec::new();
        File::open(&path)
            .and_then(|file| file.take(MAX_SIZE + 1).read_to_end(&mut text))
            .map_err(|e| ManifestError::Read(path.clone(), e))?;
        if text.len() as u64 > MAX_SIZE {
            return Err(ManifestError::TooLong(path));
        }
        Self::parse(&text, &path)
    }

    /// Reads a manifest's text. `path` is where it is from, for errors.
    ///
    /// # Errors
    /// As for [`Manifest::read`].
    pub fn parse(text: &[u8], path: &Path) -> Result<Self, ManifestError> {
        #[derive(Deserialize)]
        struct SchemaOnly {
            schema: u32,
        }
        let damaged = |e| ManifestError::Parse(path.to_owned(), e);
        let SchemaOnly { schema } = serde_json::from_slice(text).map_err(damaged)?;
        if schema != SCHEMA {
            return Err(ManifestError::Schema(path.to_owned(), schema));
        }
        let manifest: Self = serde_json::from_slice(text).map_err(damaged)?;
        let plain = Path::new(&manifest.image).file_name().is_some_and(|name| name == manifest.image.as_str());
        if !plain {
            return Err(ManifestError::Image(path.to_owned(), manifest.image));
        }
        Ok(manifest)
    }

    /// Writes the manifest into `folder` and waits until it is on the disk.
    ///
    /// # Errors
    /// The file system's.
    pub fn write(&self, folder: &Path) -> std::io::Result<()> {
        let mut file = fs::File::create(folder.join(FILE))?;
        serde_json::to_writer_pretty(&mut file, self)?;
        file.write_all(b"\n")?;
        file.sync_all()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::guest::recipe::Era;

    pub(in crate::guest) fn example() -> Manifest {
        Manifest {
            schema: SCHEMA,
            version: Some("6.1.192".into()),
            image: "vmlinux".into(),
            size: 3,
            blake3: "00".into(),
            created_unix: 1_700_000_000,
            cmdline: None,
            build: Some(Build {
                flavour: Flavour::Micro,
                recipe: Era::of("6.1").fingerprint(Flavour::Micro).to_string(),
                source: SourceRecord { path: "/src/l.tar.xz".into(), size: 1, modified_ns: 2, blake3: "aa".into() },
                config_blake3: "bb".into(),
                settings_not_taken: vec![],
                patches: vec!["0001-a.patch".into()],
                patches_left_out: vec![],
                compiler: "gcc 12".into(),
                steps: 10,
                jobs: 2,
                seconds: 1.5,
            }),
            imported_from: None,
        }
    }

    /// Proves that what is written is read back.
    #[test]
    fn round_trips() {
        let folder = tempfile::tempdir().unwrap();
        example().write(folder.path()).unwrap();
        assert_eq!(Manifest::read(folder.path()).unwrap(), example());
    }

    /// Proves that a missing, damaged, newer or escaping manifest each gets its own error, which names the file.
    #[test]
    fn says_what_is_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        assert!(matches!(Manifest::read(folder.path()), Err(ManifestError::Read(..))));
        fs::write(&path, "{\"schema\": 1").unwrap();
        let error = Manifest::read(folder.path()).unwrap_err();
        assert!(matches!(error, ManifestError::Parse(..)) && error.to_string().contains(FILE));
        fs::write(&path, "{\"schema\": 7, \"news\": true}").unwrap();
        assert!(matches!(Manifest::read(folder.path()), Err(ManifestError::Schema(_, 7))));
        for name in ["../vmlinux", "/etc/passwd", "..", "", "a/b"] {
            Manifest { image: name.into(), ..example() }.write(folder.path()).unwrap();
            assert!(matches!(Manifest::read(folder.path()), Err(ManifestError::Image(..))), "{name}");
        }
        fs::write(&path, vec![b' '; MAX_SIZE as usize + 1]).unwrap();
        assert!(matches!(Manifest::read(folder.path()), Err(ManifestError::TooLong(_))));
    }

    proptest! {
        /// Proves that no content makes the reader panic.
        #[test]
        fn never_panics(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Manifest::parse(&text, Path::new("m"));
        }
    }
}
