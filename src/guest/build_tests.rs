//! Tests of a build from end to end, on a source of three files that builds in a moment: the real make, patch, compiler
//! and strip run.

use std::sync::Arc;

use super::super::elf;
use super::super::recipe::{PATCHES, Patch};
use super::job::{check_image, is_step, make};
use super::patching::Patches;
use super::*;

/// A source whose makefile has the goals a build asks for. `vmlinux` is the recipe of that goal.
fn source(folder: &Path, vmlinux: &str) -> PathBuf {
    let tree = folder.join("source");
    fs::create_dir_all(&tree).unwrap();
    let makefile = format!(
        "VERSION = 6\nPATCHLEVEL = 1\nSUBLEVEL = 7\nEXTRAVERSION =\n\
         tinyconfig:\n\techo CONFIG_TINY=y > .config\n\
         olddefconfig:\n\techo CONFIG_TINY=y > .config\n\
         prepare mrproper:\n\t@true\n\
         vmlinux:\n{vmlinux}"
    );
    fs::write(tree.join("Makefile"), makefile).unwrap();
    fs::write(tree.join("start.c"), "void _start(void) { for (;;); }\n").unwrap();
    tree
}

const WORKS: &str = "\t@echo '  CC      start.o'\n\t@echo $$KBUILD_BUILD_TIMESTAMP $$RINGFENCE_LEAK > System.map\n\
                     \t@gcc -g -nostdlib -static -Wl,-Ttext-segment=0x200000 -o vmlinux start.c\n";

/// What a build told.
#[derive(Default)]
struct Heard {
    phases: Vec<Phase>,
    steps: u64,
    said: Vec<String>,
    warned: Vec<String>,
    stop_at: Option<(Phase, Arc<AtomicBool>)>,
}

impl Progress for Heard {
    fn phase(&mut self, phase: Phase) {
        self.phases.push(phase);
    }
    fn at(&mut self, done: u64, _total: u64) {
        if self.phases.last() == Some(&Phase::Compile) {
            self.steps = done;
        }
        if let Some((phase, stop)) = self.stop_at.as_ref().filter(|(phase, _)| self.phases.last() == Some(phase)) {
            println!("stopping while {phase:?}");
            stop.store(true, Ordering::Relaxed);
        }
    }
    fn say(&mut self, text: &str) {
        self.said.push(text.to_owned());
    }
    fn warn(&mut self, text: &str) {
        self.warned.push(text.to_owned());
    }
}

fn request(source: PathBuf) -> Request {
    Request { flavour: Flavour::Micro, source: Some(source), jobs: 2, force: false, keep: false }
}

/// Files and folders in the store's work folder.
fn work(store: &Store) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(store.work()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Proves that a build ends with a stripped, mappable kernel that is the default, with its manifest, configuration and
/// log, and nothing else; that the second time it is only found; and that --force builds it again.
#[test]
fn builds_into_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::new(&folder.path().join("cache"));
    let (stop, mut heard) = (AtomicBool::new(false), Heard::default());
    let mut request = request(source(folder.path(), WORKS));
    let built = build(&store, &request, &stop, &mut heard).unwrap();
    assert!(built.fresh);
    assert_eq!(heard.phases, [Phase::Unpack, Phase::Configure, Phase::Compile, Phase::Store]);
    assert_eq!(heard.steps, 1);
    // None of the real patches fits this source, and no setting of the fragment is known to it.
    assert!(heard.warned.iter().any(|w| w.contains("CONFIG_SMP=n (asked for y)")));
    assert_eq!(heard.warned.iter().any(|w| w.contains("page-table based KVM")), !PATCHES.is_empty());
    assert_eq!(work(&store), ["micro.lock"]);

    assert_eq!(store.find("micro").unwrap(), built.path);
    let home = built.path.parent().unwrap();
    let mut files: Vec<_> =
        fs::read_dir(home).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    files.sort();
    assert_eq!(files, ["System.map", "build.log", "config", "manifest.json", "vmlinux"]);
    let manifest = Manifest::read(home).unwrap();
    assert_eq!(manifest.version.as_deref(), Some("6.1.7"));
    assert_eq!(manifest.blake3, store::hash_file(&built.path).unwrap());
    let image = fs::read(&built.path).unwrap();
    assert!(!image.windows(11).any(|w| w == b".debug_info"), "debug sections are still there");

    let again = build(&store, &request, &stop, &mut heard).unwrap();
    assert!(!again.fresh && again.path == built.path);
    request.force = true;
    assert!(build(&store, &request, &stop, &mut heard).unwrap().fresh);
}

/// Proves that the environment of the user and the time have no part in what is built.
#[test]
fn builds_in_an_environment_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::new(&folder.path().join("cache"));
    let request = request(source(folder.path(), WORKS));
    let built = build(&store, &request, &AtomicBool::new(false), &mut Heard::default()).unwrap();
    let seen = fs::read_to_string(built.path.with_file_name("System.map")).unwrap();
    assert_eq!(seen, "Thu Jan 1 00:00:00 UTC 1970\n");
    let environment: Vec<_> = make(folder.path(), 1, &[]).get_envs().map(|(name, _)| name.to_owned()).collect();
    assert!(!environment.iter().any(|name| name == "MAKEFLAGS" || name == "KCFLAGS"));
}

/// Proves that a failure shows the last lines, the log that holds all, and what the host may lack; and that a build
/// after it works.
#[test]
fn a_failure_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::new(&folder.path().join("cache"));
    let broken = "\t@echo 'a.c:1:1: fatal error: openssl/bio.h: No such file or directory'; exit 1\n";
    let request = request(source(folder.path(), broken));
    let stop = AtomicBool::new(false);
    let error = build(&store, &request, &stop, &mut Heard::default()).unwrap_err();
    let text = error.to_string();
    let BuildError::Failed { log, .. } = error else { panic!("{text}") };
    assert!(text.contains("bio.h: No such") && text.contains(&log.display().to_string()), "{text}");
    assert!(text.contains("apt-get install --no-install-recommends libssl-dev"), "{text}");
    assert!(fs::read_to_string(&log).unwrap().contains("# make ARCH=x86_64 -j2 vmlinux"));
    assert_eq!(work(&store).len(), 2, "only the lock and the log are left");
    assert!(store.list().unwrap().is_empty());

    source(folder.path(), WORKS);
    assert!(build(&store, &request, &stop, &mut Heard::default()).unwrap().fresh);
}

/// Proves that a build that is stopped ends soon, and leaves no tree and no kernel.
#[test]
fn stopping_leaves_nothing() {
    for phase in [Phase::Unpack, Phase::Compile] {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(&folder.path().join("cache"));
        let request = request(source(folder.path(), "\t@echo '  CC      a.o'; sleep 60\n"));
        let stop = Arc::new(AtomicBool::new(false));
        let mut heard = Heard { stop_at: Some((phase, stop.clone())), ..Heard::default() };
        let started = Instant::now();
        let error = build(&store, &request, &stop, &mut heard).unwrap_err();
        assert!(matches!(error, BuildError::Stopped), "{error}");
        assert!(started.elapsed() < Duration::from_secs(30));
        assert_eq!(work(&store), ["micro.lock"]);
        assert!(store.list().unwrap().is_empty());
    }
}

/// Proves that of two builds at once the second waits, says so, and takes the first's kernel.
#[test]
fn two_builds_at_once_make_one_kernel() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::new(&folder.path().join("cache"));
    let slow = format!("\t@sleep 1\n{WORKS}");
    let request = request(source(folder.path(), &slow));
    let results: Vec<_> = std::thread::scope(|scope| {
        let run = || {
            let mut heard = Heard::default();
            let built = build(&store, &request, &AtomicBool::new(false), &mut heard).unwrap();
            (built.fresh, heard.said)
        };
        let threads = [scope.spawn(run), scope.spawn(run)];
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(results.iter().filter(|(fresh, _)| *fresh).count(), 1);
    let waited: Vec<_> = results.iter().flat_map(|(fresh, said)| said.iter().map(move |text| (fresh, text))).collect();
    assert!(matches!(waited[..], [(false, text)] if text.contains("waiting")), "{waited:?}");
}

/// Proves that what a killed build left is removed by the next, and what a living process works on is not.
#[test]
fn sweeps_up_after_killed_builds() {
    let folder = tempfile::tempdir().unwrap();
    // No process has a number beyond PID_MAX_LIMIT, 2^22.
    let (dead, living) = ("a.tree.new-4194305".to_owned(), format!("b.new-{}", std::process::id()));
    for name in [dead.as_str(), &living, "kept.tree", "micro.lock"] {
        fs::create_dir_all(folder.path().join(name).join("x")).unwrap();
    }
    sweep(folder.path());
    assert!(!folder.path().join(dead).exists());
    for name in [living.as_str(), "kept.tree", "micro.lock"] {
        assert!(folder.path().join(name).exists(), "{name}");
    }
}

/// Proves that --keep leaves the tree and says where, safe from the next build's sweeping.
#[test]
fn keeps_the_tree_when_asked() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::new(&folder.path().join("cache"));
    let request = Request { keep: true, ..request(source(folder.path(), WORKS)) };
    let built = build(&store, &request, &AtomicBool::new(false), &mut Heard::default()).unwrap();
    let tree = built.tree.unwrap();
    assert!(tree.join("vmlinux").is_file() && !tree.to_string_lossy().contains(".new-"), "{}", tree.display());
}

/// A patch that replaces the source's one line.
fn line_patch(name: &'static str, from: &str, to: &str) -> Patch {
    let diff = format!("--- a/start.c\n+++ b/start.c\n@@ -1 +1 @@\n-{from}\n+{to}\n");
    Patch { name, text: format!("Reason.\n\nNeeded: here.\n---\n{diff}").leak() }
}

/// Proves that a patch that fits is applied and can be taken out, and that one that does not changes nothing.
#[test]
fn applies_patches_that_fit() {
    let folder = tempfile::tempdir().unwrap();
    let tree = source(folder.path(), WORKS);
    let stop = AtomicBool::new(false);
    let mut heard = Heard::default();
    let plan = Plan::new(&request(tree.clone()), None).unwrap();
    let runner = Runner::new(folder.path().join("log"), &stop).unwrap();
    let mut job = Job { plan, runner, progress: &mut heard, started: Instant::now() };
    let line = "void _start(void) { for (;;); }";
    let (other, fits) = (line_patch("1.patch", "other", "x"), line_patch("a/2.patch", line, "int patched;"));
    let text = || fs::read_to_string(tree.join("start.c")).unwrap();
    assert!(!job.patch(&tree, &other, &["--forward"]).unwrap());
    assert_eq!(text(), format!("{line}\n"));
    assert!(job.patch(&tree, &fits, &["--forward"]).unwrap());
    assert_eq!(text(), "int patched;\n");

    // A file that no patch changes is none of theirs; of the one it changes it is taken out, once.
    let mut patches = Patches { applied: vec![fits], left_out: vec![] };
    let broken = |file: &str| std::iter::once(file.to_owned()).collect();
    assert!(!job.take_out(&tree, "6.9.9", &mut patches, &broken("other.c")).unwrap());
    assert!(job.take_out(&tree, "6.9.9", &mut patches, &broken("start.c")).unwrap());
    assert_eq!(text(), format!("{line}\n"));
    assert!(patches.applied.is_empty() && patches.left_out.len() == 1);
    assert!(!job.take_out(&tree, "6.9.9", &mut patches, &broken("start.c")).unwrap());
    let told = "left out a/2.patch, with which start.c of Linux 6.9.9 does not compile; it is needed here.";
    assert_eq!(heard.warned, [told]);
}

/// Proves that a tree which one of the recipe's patches fits but does not compile with is built without that patch, and
/// that the manifest and a warning say so.
#[test]
fn a_patch_that_does_not_compile_is_taken_out() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::new(&folder.path().join("cache"));
    // A file that the patch fits, in a tree whose makefile finds an error in it once it is patched.
    let patch = PATCHES.iter().find(|patch| patch.name.starts_with("0009-")).unwrap();
    let file = patch.files().next().unwrap();
    let breaks = format!(
        "\t@if grep -q '{added}' {file}; then echo '{file}:1:1: error: no such thing'; exit 1; fi\n{WORKS}",
        added = added(patch)
    );
    let tree = source(folder.path(), &breaks);
    fs::create_dir_all(tree.join(file).parent().unwrap()).unwrap();
    fs::write(tree.join(file), before(patch)).unwrap();
    let mut heard = Heard::default();
    let built = build(&store, &request(tree), &AtomicBool::new(false), &mut heard).unwrap();
    let record = built.manifest.build.unwrap();
    assert!(!record.patches.contains(&patch.name.to_owned()));
    assert!(record.patches_left_out.contains(&patch.name.to_owned()));
    let told = format!("left out {}, with which {file} of Linux 6.1.7 does not compile", patch.name);
    assert!(heard.warned.iter().any(|warning| warning.contains(&told)), "{:?}", heard.warned);
}

/// The first line that a patch adds, as far as a shell's single quotes and grep's patterns let it be.
fn added(patch: &Patch) -> &'static str {
    let line = patch.text.lines().find(|line| line.starts_with('+') && !line.starts_with("+++")).unwrap();
    let plain = |c: char| !(c.is_ascii_alphanumeric() || " _(".contains(c));
    line[1..].trim().split(plain).find(|part| part.len() > 8).unwrap()
}

/// What a patch's only file may look like before: the lines of its hunks that are not added.
fn before(patch: &Patch) -> String {
    let hunks = patch.text.lines().skip_while(|line| !line.starts_with("@@")).filter(|line| !line.starts_with("@@"));
    hunks.filter(|line| !line.starts_with('+')).flat_map(|line| [line.get(1..).unwrap_or(""), "\n"]).collect()
}

/// Proves that flavour, recipe, source and the compiler's major version each have a part in the name, and its minor
/// version has none.
#[test]
fn a_build_is_named_by_what_it_is_of() {
    let name = |flavour: Flavour, version: &str, blake3: &str, compiler: &str| {
        let path = PathBuf::from("/a");
        let record = SourceRecord { path: path.clone(), size: 1, modified_ns: 1, blake3: blake3.to_owned() };
        let made_of = made_of(&record, compiler);
        let plan = Plan { flavour, source: Source::Folder(path), record, compiler: compiler.to_owned(), made_of };
        assert!(plan.id(Era::of(version)).ends_with(&plan.made_of));
        plan.id(Era::of(version))
    };
    let id = name(Flavour::Micro, "6.1.7", "aa", "gcc (Debian 12.2.0-14) 12.2.0");
    assert!(id.starts_with(&format!("micro-{}-", Era::of("6.1").fingerprint(Flavour::Micro))));
    assert_eq!(id, name(Flavour::Micro, "6.1.8", "aa", "gcc (Ubuntu) 12.9.1"));
    assert_ne!(id, name(Flavour::Micro, "6.1.7", "aa", "gcc 13.1.0"));
    assert_ne!(id, name(Flavour::Micro, "6.1.7", "ab", "gcc 12.2.0"));
    assert_ne!(id, name(Flavour::Full, "6.1.7", "aa", "gcc 12.2.0"));
    assert_ne!(id, name(Flavour::Micro, "6.12.7", "aa", "gcc 12.2.0"));
}

/// Proves that a newer tree gets the settings and forms that are for it, is found again by its version, and that the
/// name of 6.1's build is not taken for it.
#[test]
fn a_newer_tree_is_built_by_its_own_forms() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::new(&folder.path().join("cache"));
    let tree = source(folder.path(), WORKS);
    let makefile = fs::read_to_string(tree.join("Makefile")).unwrap();
    fs::write(tree.join("Makefile"), makefile.replace("PATCHLEVEL = 1\n", "PATCHLEVEL = 12\n")).unwrap();
    let (stop, mut heard) = (AtomicBool::new(false), Heard::default());
    let request = request(tree);
    let built = build(&store, &request, &stop, &mut heard).unwrap();
    let id = built.path.parent().unwrap().file_name().unwrap().to_str().unwrap();
    assert!(id.starts_with(&format!("micro-{}-", Era::of("6.12").fingerprint(Flavour::Micro))), "{id}");
    assert_eq!(built.manifest.build.as_ref().unwrap().recipe, id.split('-').nth(1).unwrap());
    // What is left out is the newer form, and what 6.12 needs no patch for is not missed.
    assert!(heard.warned.iter().any(|w| w.contains("left out since-6.12/0007-")), "{:?}", heard.warned);
    assert!(!heard.warned.iter().any(|w| w.contains("0004-")));
    assert!(heard.warned.iter().any(|w| w.contains("CONFIG_SLUB=n (asked for y)") && !w.contains("CONFIG_SLAB=")));
    assert_eq!(store.find("micro").unwrap(), built.path);
    assert!(!build(&store, &request, &stop, &mut heard).unwrap().fresh);

    // A kernel of 6.12 under the name of the older recipe is none of this binary's.
    let older = id.replace(
        &Era::of("6.12").fingerprint(Flavour::Micro).to_string(),
        &Era::of("6.1").fingerprint(Flavour::Micro).to_string(),
    );
    fs::rename(store.built().join(id), store.built().join(&older)).unwrap();
    assert!(build(&store, &request, &stop, &mut heard).unwrap().fresh);
    let stale = store.list().unwrap().into_iter().find(|entry| entry.name == older).unwrap();
    assert!(stale.out_of_date && !stale.default);
}

/// Proves that lines of kbuild's short output are counted, and no other line.
#[test]
fn knows_a_step() {
    for step in ["  CC      init/main.o", "  AR      built-in.a", "  LD      vmlinux", "  VDSO2C  arch/x86/v.c"] {
        assert!(is_step(step), "{step}");
    }
    for line in ["", "  ", "  CC", "CC  x", "   | ^~~", "  note: x", "   CC      x", "make[1]: Entering"] {
        assert!(!is_step(line), "{line}");
    }
}

/// Proves that a kernel whose segments lie askew in the file is refused.
#[test]
fn refuses_a_kernel_that_cannot_be_mapped() {
    let folder = tempfile::tempdir().unwrap();
    let (good, askew) = (folder.path().join("good"), folder.path().join("askew"));
    fs::write(&good, elf::example(&[(0x1000, 0x20_0000)])).unwrap();
    fs::write(&askew, elf::example(&[(0x1010, 0x20_0000)])).unwrap();
    assert!(check_image(&good, &good).is_ok());
    assert!(check_image(&askew, &askew).unwrap_err().to_string().contains("offset"));
    fs::write(&askew, elf::example(&[])).unwrap();
    assert!(check_image(&good, &askew).is_err());
}
