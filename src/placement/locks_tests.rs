use super::*;
use std::os::unix::fs::{PermissionsExt, symlink};

fn folder() -> (tempfile::TempDir, Folder) {
    let dir = tempfile::TempDir::new().unwrap();
    let folder = Folder::make(&dir.path().join("cpus")).unwrap();
    (dir, folder)
}

/// Proves that a CPU is had once, that it is free again when its lock is dropped, and that shared holds exclude an exclusive
/// one but not each other, whoever comes first. Both within one process, where only flock(2) excludes.
#[test]
fn a_cpu_is_had_once() {
    let (_dir, folder) = folder();
    let first = folder.lock(3, Hold::Alone, "web").unwrap();
    assert!(matches!(folder.lock(3, Hold::Alone, "db"), Err(LockError::Taken(_))));
    assert!(matches!(folder.lock(3, Hold::Shared, "db"), Err(LockError::Taken(_))));
    let _other = folder.lock(4, Hold::Alone, "db").unwrap();
    drop(first);
    let (_one, _two) = (folder.lock(3, Hold::Shared, "a").unwrap(), folder.lock(3, Hold::Shared, "b").unwrap());
    assert!(matches!(folder.lock(3, Hold::Alone, "db"), Err(LockError::Taken(_))));
}

/// Proves that the folder and its files are open to all users whatever the umask, the folder with the bit that keeps users
/// from removing each other's files.
#[test]
fn all_users_can_lock() {
    let (_dir, folder) = folder();
    let _lock = folder.lock(0, Hold::Alone, "web").unwrap();
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode(&folder.path), mode(&folder.path.join("cpu0"))), (0o1777, 0o666));
}

/// Proves that what somebody else put in a lock's place is refused by name, and is neither followed, waited for nor written.
#[test]
fn what_is_no_lock_is_left_alone() {
    let (dir, folder) = folder();
    let precious = dir.path().join("precious");
    std::fs::write(&precious, "precious").unwrap();
    symlink(&precious, folder.path.join("cpu0")).unwrap();
    symlink(dir.path().join("not there"), folder.path.join("cpu1")).unwrap();
    std::fs::hard_link(&precious, folder.path.join("cpu2")).unwrap();
    std::fs::create_dir(folder.path.join("cpu3")).unwrap();
    fs::mknodat(&folder.fd, "cpu4", FileType::Fifo, Mode::RWXU, 0).unwrap();
    for cpu in 0..5 {
        let error = folder.lock(cpu, Hold::Alone, "web").unwrap_err().to_string();
        assert!(error.contains(&format!("cpus/cpu{cpu}")), "{error}");
    }
    assert_eq!(std::fs::read_to_string(&precious).unwrap(), "precious");
    assert!(!dir.path().join("not there").exists());
}

/// Proves that a link in the folder's place is not followed, and that the error says what to do.
#[test]
fn a_folder_that_is_a_link_is_refused() {
    let dir = tempfile::TempDir::new().unwrap();
    std::fs::create_dir(dir.path().join("elsewhere")).unwrap();
    symlink(dir.path().join("elsewhere"), dir.path().join("cpus")).unwrap();
    let error = Folder::make(&dir.path().join("cpus")).unwrap_err().to_string();
    assert!(error.contains(VARIABLE), "{error}");
}

/// Proves that a file of gigabytes, or with control characters in it, neither stops a guest nor reaches the terminal, and that
/// a name is only believed beside the number of the process that the kernel names.
#[test]
fn a_lock_that_lies_is_not_believed() {
    let (_dir, folder) = folder();
    let path = folder.path.join("cpu0");
    std::fs::write(&path, "pid 1\nname \x1b[2Jinit\n").unwrap();
    std::fs::File::options().write(true).open(&path).unwrap().set_len(1 << 40).unwrap();
    let file = folder.existing(0).unwrap();
    assert_eq!(holder_of(&file, 0, &FileLocks::of(&Root::default())), None, "nobody has it");
    drop(file);
    let _lock = folder.lock(0, Hold::Alone, "a\x1b[2Jb\nname c").unwrap();
    let said = std::fs::read_to_string(&path).unwrap();
    assert_eq!(said, format!("pid {}\nname a?[2Jb?name c\n", std::process::id()));
}

/// Proves that the kernel's list is read as it is written, with waiting locks, other kinds and nonsense left out, and that a
/// holder is named by the kernel and only then by the file.
#[test]
fn the_kernel_names_the_holder() {
    let lines = "1: FLOCK  ADVISORY  WRITE 8948 fe:00:5865694 0 EOF\n1: -> FLOCK  ADVISORY  WRITE 9 fe:00:5865694 0 EOF\n\
                 2: POSIX  ADVISORY  WRITE 10 fe:00:1 0 EOF\n3: FLOCK ADVISORY READ 11 00:19:7 0 EOF\nx\n4: FLOCK\n";
    let found: Vec<_> = lines.lines().filter_map(FileLocks::line).collect();
    assert_eq!(found, [(5_865_694, 8948, true), (7, 11, false)]);
    let (_dir, folder) = folder();
    let _lock = folder.lock(5, Hold::Alone, "web").unwrap();
    let me = std::process::id();
    let expected = Holder { cpu: 5, pid: Some(me), name: Some("web".to_owned()), exclusive: true };
    assert_eq!(folder.holders(), std::slice::from_ref(&expected));
    let LockError::Taken(holder) = folder.lock(5, Hold::Shared, "db").unwrap_err() else { panic!("it is taken") };
    assert_eq!(*holder, expected);
    std::fs::write(folder.path.join("cpu5"), "pid 1\nname liar\n").unwrap();
    assert_eq!(folder.holders(), [Holder { name: None, ..expected }]);
}
