//! Proves that dependencies between the rooms point one way: a room imports only rooms of a lower layer.

use std::fs;
use std::path::{Path, PathBuf};

/// The layers, highest first. A room may import rooms of later layers and itself, nothing else.
const LAYERS: [&[&str]; 6] = [
    &["cli"],
    &["bench"],
    &["machine"],
    &["cpu", "boot", "devices", "console", "placement", "sandbox", "registry", "guest"],
    &["memory", "bus", "host", "config"],
    &["layout", "units"],
];

fn layer(room: &str) -> Option<usize> {
    LAYERS.iter().position(|rooms| rooms.contains(&room))
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// Rooms named by `crate::room` in a line of code.
fn imported(line: &str) -> impl Iterator<Item = &str> {
    let code = line.split("//").next().unwrap_or("");
    code.match_indices("crate::").map(move |(at, found)| {
        let rest = &code[at + found.len()..];
        &rest[..rest.find(|c: char| !c.is_ascii_lowercase() && c != '_').unwrap_or(rest.len())]
    })
}

fn violations(room: &str, text: &str) -> Vec<String> {
    let own = layer(room).unwrap_or_else(|| panic!("the room {room} has no layer in tests/rooms.rs"));
    text.lines()
        .flat_map(|line| imported(line).map(move |other| (line, other)))
        .filter(|(_, other)| *other != room && layer(other).is_none_or(|l| l <= own))
        .map(|(line, _)| line.trim().to_owned())
        .collect()
}

#[test]
fn dependencies_point_one_way() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    let mut wrong = Vec::new();
    for file in files {
        let relative = file.strip_prefix(&src).unwrap();
        let first = relative.iter().next().unwrap().to_str().unwrap();
        let room = first.trim_end_matches(".rs");
        if room == "lib" || room == "main" {
            continue;
        }
        for line in violations(room, &fs::read_to_string(&file).unwrap()) {
            wrong.push(format!("{}: {line}", relative.display()));
        }
    }
    assert!(wrong.is_empty(), "imports against the direction of docs/architecture.md:\n{}", wrong.join("\n"));
}

/// Proves that the guard itself sees a sideways and an upward import, and no downward one.
#[test]
fn the_guard_bites() {
    assert_eq!(violations("cpu", "use crate::boot::x;").len(), 1);
    assert_eq!(violations("memory", "let a = crate::machine::b();").len(), 1);
    assert_eq!(violations("machine", "use crate::cpu::x; // use crate::cli").len(), 0);
    assert_eq!(violations("devices", "use crate::bus::Device;").len(), 0);
}
