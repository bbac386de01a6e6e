use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tempfile::TempDir;

use super::*;
use crate::config::Listing;

fn register(folder: &Path, name: Option<&str>) -> Result<Registration, RegistryError> {
    let listing = Listing {
        folder: folder.to_owned(),
        name: name.map(|n| n.parse().unwrap()),
        console: "stdio".to_owned(),
        command: vec!["true".to_owned()],
    };
    let asked = Asked { vcpus: 2, memory_bytes: 64 << 20, ..Asked::default() };
    Registration::new(&listing, Registering { kernel: Path::new("/k"), initrd: None, ram: Vec::new(), asked })
}

fn names(folder: &Path) -> Vec<String> {
    list(&[folder.to_owned()]).machines.into_iter().map(|m| m.record.name).collect()
}

/// Proves that a machine is listed from when it is registered until its lock is gone, that its name is its own meanwhile and
/// free after, and that the folder is made for its user alone.
#[test]
fn a_name_is_held_for_a_machines_life() {
    let home = TempDir::new().unwrap();
    let folder = home.path().join("a/run");
    assert_eq!(names(&folder), [""; 0]);
    let web = register(&folder, Some("web")).unwrap();
    assert_eq!(folder.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    let listed = list(std::slice::from_ref(&folder));
    let [running] = listed.machines.as_slice() else { panic!("{listed:?}") };
    assert_eq!((running.record.pid, running.record.asked.vcpus), (std::process::id(), 2));
    assert_eq!(running.record.command, ["true"]);
    let error = register(&folder, Some("web")).unwrap_err();
    assert!(
        matches!(&error, RegistryError::NameTaken { name, pid: Some(pid) } if name == "web" && *pid == std::process::id())
    );
    assert!(error.to_string().contains(&format!("as process {}", std::process::id())), "{error}");
    drop(web);
    assert!(folder.join("web").exists(), "nothing is removed where nothing may be");
    assert_eq!(names(&folder), [""; 0]);
    assert!(!folder.join("web").exists(), "a reader removes what is stale");
    let again = register(&folder, Some("web")).unwrap();
    drop(again);
    let next = register(&folder, Some("db")).unwrap();
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "the next machine removes what is stale");
    assert_eq!((next.name(), next.path()), ("db", folder.join("db").as_path()));
}

/// Proves that made-up names differ, and that a hundred machines started at once by many threads, and read meanwhile, all get
/// their own and that only one of many gets a wanted name.
#[test]
fn names_are_unique_among_many() {
    let home = TempDir::new().unwrap();
    let folder = home.path();
    let made = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| (0..12).map(|_| register(folder, None).unwrap()).collect::<Vec<_>>()))
            .collect();
        (0..20).for_each(|_| drop(list(&[folder.to_owned()])));
        threads.into_iter().flat_map(|t| t.join().unwrap()).collect::<Vec<_>>()
    });
    let listed = list(&[folder.to_owned()]);
    assert_eq!((listed.machines.len(), listed.problems.len()), (96, 0), "{:?}", listed.problems);
    drop(made);
    let wanted = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| register(folder, Some("one")).ok())).collect();
        threads.into_iter().filter_map(|t| t.join().unwrap()).collect::<Vec<_>>()
    });
    assert_eq!(wanted.len(), 1);
    assert_eq!(names(folder), ["one"]);
}

/// Proves that a record that names another's process, or one that is gone, is not shown as a machine.
#[test]
fn a_record_may_not_claim_another_process() {
    let home = TempDir::new().unwrap();
    let held = register(home.path(), Some("liar")).unwrap();
    let honest = fs::read_to_string(held.path()).unwrap();
    assert_eq!(names(home.path()), ["liar"]);
    let pid = format!("\"pid\":{}", std::process::id());
    for claimed in ["\"pid\":1", "\"pid\":4194303", "\"pid\":0"] {
        fs::write(held.path(), honest.replace(&pid, claimed)).unwrap();
        assert_eq!(names(home.path()), [""; 0], "{claimed}");
    }
    fs::write(held.path(), honest.replace("\"name\":\"liar\"", "\"name\":\"\\u001b[2J\"")).unwrap();
    let listed = list(&[home.path().to_owned()]);
    let problem = listed.problems[0].to_string();
    assert!(problem.contains("it calls its machine") && !problem.contains('\x1b'), "{problem}");
}

/// Proves that a folder that others could write to is refused, with what to do.
#[test]
fn a_folder_of_others_is_refused() {
    let home = TempDir::new().unwrap();
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let error = register(home.path(), None).unwrap_err().to_string();
    assert!(error.contains("others than its owner may write") && error.contains("RINGFENCE_RUNTIME"), "{error}");
    let file = home.path().join("file");
    fs::write(&file, "").unwrap();
    let error = register(&file, None).unwrap_err().to_string();
    assert!(error.contains("cannot open the folder of running machines"), "{error}");
    let link = home.path().join("link");
    std::os::unix::fs::symlink("/tmp", &link).unwrap();
    assert!(register(&link, None).is_err(), "a link is no folder");
}
