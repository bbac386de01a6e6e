//! Everything the command line says, kept as pictures in tests/snapshots; a change of wording shows in review.
//!
//! To accept new wording: `INSTA_UPDATE=always cargo test --test cli`, then read the diff.

use clap::CommandFactory;
use std::fs;
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

/// Runs ringfence away from any terminal, so that widths and colours do not depend on who runs the tests.
fn ringfence(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ringfence"))
        .args(args)
        .env("COLUMNS", "80")
        .env("PATH", "")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// Status, stdout and stderr as one text, the version taken out.
fn said(args: &[&str]) -> String {
    let output = ringfence(args);
    let mut text = format!("$ ringfence {}\n[status {}]\n", args.join(" "), output.status.code().unwrap());
    for (name, bytes) in [("stdout", &output.stdout), ("stderr", &output.stderr)] {
        if !bytes.is_empty() {
            text += &format!("[{name}]\n{}", String::from_utf8_lossy(bytes));
        }
    }
    text.replace(env!("CARGO_PKG_VERSION"), "VERSION")
}

fn picture(name: &str, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, text));
}

/// Every subcommand's words, `[]` being ringfence itself; the hidden ones come too.
fn subcommands() -> Vec<Vec<String>> {
    fn collect(command: &clap::Command, words: Vec<String>, all: &mut Vec<Vec<String>>) {
        for subcommand in command.get_subcommands() {
            let words = [words.clone(), vec![subcommand.get_name().to_owned()]].concat();
            collect(subcommand, words, all);
        }
        all.push(words);
    }
    let mut all = Vec::new();
    collect(&ringfence::cli::Cli::command(), Vec::new(), &mut all);
    all
}

/// Proves what every `--help` and `-h` says, that both are on stdout with status 0, and that they fit 80 columns.
#[test]
fn every_help_text() {
    for words in subcommands() {
        for flag in ["--help", "-h"] {
            let args: Vec<&str> = words.iter().map(String::as_str).chain([flag]).collect();
            let output = ringfence(&args);
            assert_eq!(output.status.code(), Some(0), "{args:?}");
            assert!(output.stderr.is_empty(), "{args:?}");
            let text = said(&args);
            for line in text.lines() {
                assert!(line.chars().count() <= 80, "{args:?}: longer than 80 columns: {line}");
            }
            picture(&format!("help{}_{}", flag.replace("--", "_").replace('-', "_short_"), words.join("_")), &text);
        }
    }
}

/// Proves that the definition of the command line holds together, as clap checks it itself.
#[test]
fn the_definition_is_sound() {
    ringfence::cli::Cli::command().debug_assert();
}

/// Proves what wrong arguments get: the reason on stderr, nothing on stdout, and status 125 for every subcommand.
#[test]
fn wrong_arguments() {
    let cases: &[(&str, &[&str])] = &[
        ("wrong_nothing", &[]),
        ("wrong_subcommand", &["rum"]),
        ("wrong_option", &["check", "--jsno"]),
        ("wrong_missing_value", &["check", "--device"]),
        ("wrong_extra", &["check", "extra"]),
        ("wrong_shell", &["docs", "completions", "tcsh"]),
        ("wrong_cpus_text", &["run", "--cpus", "two"]),
        ("wrong_cpus_none", &["run", "--kernel", "k", "--cpus", "0"]),
        ("wrong_memory_unit", &["run", "--memory", "1Q"]),
        ("wrong_memory_pages", &["run", "--kernel", "k", "--memory", "4194305"]),
        ("wrong_memory_little", &["run", "--kernel", "k", "--memory", "1M"]),
        ("wrong_console", &["run", "--console", "printer"]),
        ("wrong_timeout", &["run", "--timeout", "0"]),
        ("wrong_irqchip", &["run", "--irqchip", "pic"]),
        ("wrong_entry", &["run", "--entry", "bios"]),
        ("wrong_two_cmdlines", &["run", "--cmdline", "a", "--cmdline-only", "b"]),
        ("wrong_command_without_dashes", &["run", "uname"]),
        ("wrong_flavour", &["kernel", "build", "--flavour", "tiny"]),
        ("wrong_jobs", &["kernel", "build", "--jobs", "0"]),
        ("wrong_rm", &["kernel", "rm"]),
        ("wrong_name", &["run", "--name", "my guest"]),
        ("wrong_inspect", &["inspect"]),
    ];
    for (name, args) in cases {
        let output = ringfence(args);
        assert_eq!(output.status.code(), Some(125), "{args:?}");
        assert!(output.stdout.is_empty(), "{args:?}");
        picture(name, &said(args));
    }
}

/// Proves what `ps` and `inspect` say where no machine runs, of files that are no records, and of a folder that others write
/// to: stale and foreign files are not shown, and none of it is a failure of `ps`.
#[test]
fn no_machine_runs() {
    use std::os::unix::fs::PermissionsExt;
    let folder = TempDir::new().unwrap();
    let said = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_ringfence"))
            .args(args)
            .env("RINGFENCE_RUNTIME", folder.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let mut text = format!("$ ringfence {}\n[status {}]\n", args.join(" "), output.status.code().unwrap());
        text += &String::from_utf8_lossy(&[output.stdout, output.stderr].concat());
        text.replace(folder.path().to_str().unwrap(), "FOLDER") + "\n"
    };
    let mut text = said(&["ps"]) + &said(&["inspect", "web"]);
    let run = folder.path().join("machines");
    fs::create_dir(&run).unwrap();
    fs::set_permissions(&run, fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(run.join("stale"), "{}").unwrap();
    fs::write(run.join(".hidden"), "not a name").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", run.join("link")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, run.join("pipe"), 0o600.into()).unwrap();
    let locked = |name: &str, content: &str| {
        fs::write(run.join(name), content).unwrap();
        let file = fs::File::open(run.join(name)).unwrap();
        file.lock().unwrap();
        file
    };
    let _held = [
        locked("cut", "{\"schema\": 1,\n"),
        locked("future", "[]"),
        locked("large", &" ".repeat(70_000)),
        locked("starting", ""),
    ];
    text += &sorted(&said(&["ps"]));
    text += &said(&["ps", "--json"]).lines().take(6).map(|line| format!("{line}\n")).collect::<String>();
    assert!(!run.join("stale").exists() && run.join("cut").exists() && run.join("link").exists());
    fs::set_permissions(&run, fs::Permissions::from_mode(0o722)).unwrap();
    text += &said(&["inspect", "12"]);
    picture("no_machine_runs", &text);
}

/// The lines in order, as the file system's own order is any.
fn sorted(text: &str) -> String {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines.join("\n") + "\n\n"
}

/// A host made of files, with no `/dev/kvm` a process could open.
fn host(files: &[(&str, &str)]) -> TempDir {
    let dir = TempDir::new().unwrap();
    for (path, content) in files {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    dir
}

/// Proves what `check` says, with status 1, where there is no KVM: the reason found, and its remedy.
#[test]
fn check_without_kvm() {
    let meminfo = ("proc/meminfo", "MemTotal: 2097152 kB\nMemAvailable: 1048576 kB\n");
    for (name, files) in [
        ("check_empty_host", &[][..]),
        ("check_no_module", &[meminfo, ("proc/cpuinfo", "processor : 0\nflags : fpu vmx\n")]),
        ("check_nested_off", &[meminfo, ("proc/cpuinfo", "processor : 0\nflags : fpu hypervisor\n")]),
        ("check_container", &[meminfo, (".dockerenv", "")]),
        ("check_not_kvm", &[meminfo, ("dev/kvm", "not a device")]),
    ] {
        let dir = host(files);
        let output = ringfence(&["check", "--root", dir.path().to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(1), "{name}");
        assert!(output.stderr.is_empty(), "{name}");
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        picture(name, &text.replace(env!("CARGO_PKG_VERSION"), "VERSION"));
    }
}

/// Proves that the JSON report agrees with the exit status and with the table's verdict on this very host.
#[test]
fn check_agrees_with_itself() {
    let output = ringfence(&["check", "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let can_run = report["can_run"].as_bool().unwrap();
    assert_eq!(output.status.code(), Some(if can_run { 0 } else { 1 }));
    assert_eq!(report["schema"], 1);
    let table = ringfence(&["check"]);
    assert_eq!(table.status.code(), output.status.code());
    let text = String::from_utf8(table.stdout).unwrap();
    assert_eq!(text.contains("`ringfence run` can work here"), can_run, "{text}");
    assert!(!text.contains('\x1b'), "no colours away from a terminal");
}

/// Proves that there is a man page for ringfence and each subcommand, and completions that name them all.
#[test]
fn man_pages_and_completions() {
    let dir = TempDir::new().unwrap();
    let folder = dir.path().join("new/man");
    assert!(ringfence(&["docs", "man", folder.to_str().unwrap()]).status.success());
    let shown = |words: &&Vec<String>| !words.iter().any(|word| ["docs", "help", "floor"].contains(&word.as_str()));
    for words in subcommands().iter().filter(shown) {
        let name = [&["ringfence".to_owned()], words.as_slice()].concat().join("-");
        let page = fs::read_to_string(folder.join(format!("{name}.1"))).unwrap_or_else(|e| panic!("{name}.1: {e}"));
        assert!(page.contains(".SH NAME") && !page.contains(".SH EXTRA"), "{name}");
    }
    assert!(!folder.join("ringfence-docs.1").exists(), "hidden subcommands have no page");
    for shell in ["bash", "zsh", "fish"] {
        let output = ringfence(&["docs", "completions", shell]);
        let text = String::from_utf8(output.stdout).unwrap();
        for words in subcommands().iter().filter(shown).filter(|words| !words.is_empty()) {
            assert!(text.contains(words.last().unwrap()), "{shell}: {words:?}");
        }
    }
}

/// Proves what `kernel` says of an empty store, an unknown name and a file that is no kernel, and that an imported
/// kernel is listed, found and removed by its name.
#[test]
fn the_kernel_store() {
    let cache = TempDir::new().unwrap();
    let file = |name: &str, content: &[u8]| {
        let path = cache.path().join(name);
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let said = |args: &[&str]| {
        let output = kernel_command(args, cache.path());
        let mut text = format!("$ ringfence kernel {}\n[status {}]\n", args.join(" "), output.status.code().unwrap());
        text += &String::from_utf8_lossy(&[output.stdout, output.stderr].concat());
        text.replace(cache.path().to_str().unwrap(), "CACHE")
    };
    let (elf, other) = (file("mine", &smallest_elf()), file("other", b"#!/bin/sh\necho not a kernel\n"));
    let mut text = String::new();
    for args in [
        &["list"][..],
        &["list", "--json"],
        &["path"],
        &["path", "full"],
        &["path", "mine"],
        &["rm", "mine"],
        &["import", &other],
        &["import", "/nonexistent/vmlinux"],
        &["import", &elf, "--name", "micro"],
        &["import", &elf],
        &["import", &elf],
        &["list"],
        &["path", "mine"],
        &["rm", "mine"],
        &["rm", "--all"],
    ] {
        text += &said(args);
        text += "\n";
    }
    picture("kernel_store", &text);
}

fn kernel_command(args: &[&str], cache: &std::path::Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringfence"));
    command.arg("kernel").args(args).env("RINGFENCE_CACHE", cache).env("PATH", "").stdin(Stdio::null());
    command.output().unwrap()
}

/// An ELF-64 file of one byte of code at 2 MiB (ELF-64 Object File Format, version 1.5, tables 2 and 6).
fn smallest_elf() -> Vec<u8> {
    let mut file = Vec::new();
    file.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    file.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    for number in [0x20_0000_u64, 64, 0] {
        file.extend(number.to_le_bytes());
    }
    file.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 64, 0, 0, 0, 0, 0]);
    file.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    for number in [0x1000_u64, 0x20_0000, 0x20_0000, 1, 1, 0x1000] {
        file.extend(number.to_le_bytes());
    }
    file.resize(0x1000, 0);
    file.push(0xf4);
    file
}

/// The status of a run whose stdout or stderr nobody reads any more, and what it said on the other.
fn unread(args: &[&str], stderr: bool) -> (Option<i32>, String) {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringfence"));
    command.args(args).env("PATH", "").stdin(Stdio::null());
    if stderr {
        command.stderr(writer).stdout(Stdio::piped());
    } else {
        command.stdout(writer).stderr(Stdio::piped());
    }
    let output = command.spawn().unwrap().wait_with_output().unwrap();
    let other = if stderr { output.stdout } else { output.stderr };
    (output.status.code(), String::from_utf8_lossy(&other).into_owned())
}

/// Proves that a reader that goes away early (`ringfence check | true`) changes neither the status nor draws a word, and that
/// an error nobody reads is still a status, not a panic or a signal.
#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let empty = TempDir::new().unwrap();
    let root = empty.path().to_str().unwrap();
    assert_eq!(unread(&["check", "--root", root, "--device", "/dev/null"], false), (Some(1), String::new()));
    for args in [&["docs", "completions", "bash"][..], &["--help"], &["check", "--help"]] {
        assert_eq!(unread(args, false), (Some(0), String::new()), "{args:?}");
    }
    for args in [&["run", "--kernel", "/nonexistent"][..], &["run", "--cpus", "x"], &["kernel", "rm", "none"]] {
        assert_eq!(unread(args, true), (Some(125), String::new()), "{args:?}");
    }
}
