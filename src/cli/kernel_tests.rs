//! Tests of what `ringfence kernel` prints and understands.

use clap::Parser;

use super::*;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    kernel: KernelArgs,
}

fn parse(words: &[&str]) -> Result<KernelCommand, clap::Error> {
    Cli::try_parse_from(std::iter::once(&"kernel").chain(words)).map(|cli| cli.kernel.command)
}

/// Proves that the command line means what the help says, defaults included.
#[test]
fn understands_its_arguments() {
    let Ok(KernelCommand::Build(build)) = parse(&["build"]) else { panic!() };
    assert_eq!((build.flavour, build.jobs, build.force, build.install_deps), (Flavour::Micro, None, false, false));
    let Ok(KernelCommand::Build(build)) = parse(&["build", "--flavour", "full", "-j", "3", "--source", "/s"]) else {
        panic!()
    };
    assert_eq!((build.flavour, build.jobs, build.source), (Flavour::Full, Some(3), Some("/s".into())));
    let Ok(KernelCommand::Path(path)) = parse(&["path"]) else { panic!() };
    assert_eq!(path.name, "micro");
    let wrong: [&[&str]; 6] =
        [&[], &["build", "--flavour", "x"], &["build", "-j", "0"], &["rm"], &["rm", "--all", "x"], &["import"]];
    for words in wrong {
        assert!(parse(words).is_err(), "{words:?}");
    }
}

fn entry(name: &str, default: bool, out_of_date: bool, damage: Option<&str>) -> Entry {
    let json = r#"{"schema":1,"version":"6.1.192","image":"vmlinux","size":17301504,"blake3":"","created_unix":1000,
        "cmdline":null,"build":null,"imported_from":"/boot/vmlinuz"}"#;
    let manifest = damage.is_none().then(|| serde_json::from_str(json).unwrap());
    Entry { name: name.into(), path: "/k".into(), default, out_of_date, manifest, damage: damage.map(str::to_owned) }
}

/// Proves the table's look: aligned, within 80 columns, nothing trailing.
#[test]
fn the_table() {
    let entries = [
        entry("micro-0123456789ab-01234567", true, false, None),
        entry("mine", false, false, None),
        entry("broken", false, false, Some("it is damaged")),
    ];
    let text = table(&entries, 1000 + 7300);
    let expected = "\
NAME                         LINUX        SIZE  AGE  NOTE
micro-0123456789ab-01234567  6.1.192  16.5 MiB  2 h  default, imported
mine                         6.1.192  16.5 MiB  2 h  imported
broken                                               damaged: it is damaged
";
    assert_eq!(text, expected);
    assert!(text.lines().all(|line| line.len() <= 80));
}

/// Proves that ages come in their largest unit, and that a clock that went back is no panic.
#[test]
fn ages() {
    assert_eq!([age(0), age(59), age(61), age(7200), age(200_000)], ["now", "now", "1 min", "2 h", "2 d"]);
    assert!(table(&[entry("mine", false, false, None)], 0).contains("now"));
}
