//! What the instructions of a start go to: counted by a plugin of QEMU's (plugin.c) in test bed 2, by chains of functions,
//! and cut into causes that are no larger than asked for.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Functions by their addresses, of the host's kernel or the guest's.
pub struct Symbols(BTreeMap<u64, String>);

impl Symbols {
    /// Reads lines such as `nm`, /proc/kallsyms and System.map have.
    pub fn read(text: &str) -> Self {
        let symbol = |line: &str| {
            let mut words = line.split_ascii_whitespace();
            let address = u64::from_str_radix(words.next()?, 16).ok()?;
            let code = matches!(words.next()?, "t" | "T" | "w" | "W");
            code.then(|| words.next().map(|name| (address, name.to_owned())))?
        };
        Self(text.lines().filter_map(symbol).collect())
    }

    /// Where a function begins.
    pub fn address(&self, name: &str) -> Option<u64> {
        self.0.iter().find_map(|(address, found)| (found == name).then_some(*address))
    }

    fn name(&self, address: u64) -> &str {
        self.0.range(..=address).next_back().map_or("?", |(_, name)| name)
    }
}

/// The plugin and the program that begins its count, compiled.
pub struct Tools {
    folder: tempfile::TempDir,
}

impl Tools {
    /// Compiles them.
    pub fn make() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let compile = |words: &[&str], from: &str, to: &str| {
            let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/split").join(from);
            let done = Command::new("cc").args(words).arg("-o").arg(folder.path().join(to)).arg(source).status();
            assert!(done.expect("cc starts").success(), "{from} does not compile");
        };
        compile(&["-O2", "-shared", "-fPIC"], "plugin.c", "plugin.so");
        compile(&["-O2", "-static"], "launch.c", "launch");
        Self { folder }
    }

    /// The program that executes another and says so to the plugin.
    pub fn launch(&self) -> PathBuf {
        self.folder.path().join("launch")
    }

    /// What QEMU takes as its plugin: it leaves out the first start, and counts each to the guest's function `end`.
    pub fn plugin(&self, end: u64) -> String {
        format!("{},skip=1,end={end:x},out={}", self.folder.path().join("plugin.so").display(), self.raw().display())
    }

    fn raw(&self) -> PathBuf {
        self.folder.path().join("counts")
    }

    /// What the plugin has counted.
    pub fn counted(&self, host: &Symbols, guest: &Symbols) -> Split {
        Split::read(&std::fs::read_to_string(self.raw()).expect("the plugin's counts"), host, guest)
    }
}

/// A function and what it called, with their instructions.
#[derive(Default)]
struct Cause {
    whole: u64,
    callees: BTreeMap<String, Cause>,
}

impl Cause {
    fn add(&mut self, chain: &[String], count: u64) {
        self.whole += count;
        if let [first, rest @ ..] = chain {
            self.callees.entry(first.clone()).or_default().add(rest, count);
        }
    }

    /// Cuts into rows of at most `limit`, where functions are; those below `least` go with what called them.
    fn cut(&self, name: &str, limit: u64, least: u64, rows: &mut Vec<(u64, String)>) {
        let mut rest = self.whole;
        if self.whole > limit {
            for (callee, cause) in self.callees.iter().filter(|(_, cause)| cause.whole >= least) {
                rest -= cause.whole;
                cause.cut(&format!("{name} > {callee}"), limit, least, rows);
            }
        }
        if rest == self.whole {
            rows.push((rest, name.to_owned()));
        } else if rest > 0 {
            rows.push((rest, format!("{name}{} less each", if name.is_empty() { "all that is" } else { ", what is" })));
        }
    }
}

/// The counts of several starts.
pub struct Split {
    runs: u64,
    instructions: u64,
    waited: u64,
    parts: BTreeMap<&'static str, Cause>,
}

/// The parts, in the order of the table: what the plugin calls them, whose functions, and what they are called here.
const PARTS: [(&str, bool, &str); 7] = [
    ("wait", false, "waiting"),
    ("host-user", false, "monitor"),
    ("exit-user", false, "monitor, after exits"),
    ("host", false, "host's kernel"),
    ("exited", true, "host's kernel and monitor, after exits, by the guest's functions"),
    ("guest", true, "guest's kernel"),
    ("guest-user", true, "guest before its kernel has its own addresses, and init"),
];

impl Split {
    fn read(text: &str, host: &Symbols, guest: &Symbols) -> Self {
        let mut split = Self { runs: 0, instructions: 0, waited: 0, parts: BTreeMap::new() };
        for line in text.lines() {
            let words: Vec<&str> = line.split_ascii_whitespace().collect();
            let [what, count, chain @ ..] = words.as_slice() else { continue };
            let count: u64 = count.parse().expect("a count");
            if *what == "run" {
                split.runs += 1;
                split.instructions += count;
                split.waited += chain[0].parse::<u64>().expect("a count");
            }
            let Some((part, of_guest, _)) = PARTS.iter().find(|(part, ..)| part == what) else { continue };
            let symbols = if *of_guest { guest } else { host };
            let named = |word: &&str| symbols.name(u64::from_str_radix(word, 16).expect("an address")).to_owned();
            // A program's pages have no names.
            let chain = if part.ends_with("user") { Vec::new() } else { chain.iter().map(named).collect() };
            split.parts.entry(part).or_default().add(&chain, count);
        }
        split
    }

    /// Millions of instructions of a start, waiting included.
    pub fn millions(&self) -> f64 {
        (self.instructions + self.waited) as f64 / self.runs.max(1) as f64 / 1e6
    }

    /// How many starts were counted.
    pub fn runs(&self) -> u64 {
        self.runs
    }

    /// The rows of the table, in millions a start: (part, how much, cause), cut at `limit`, and what the rows leave out.
    pub fn rows(&self, limit: f64, least: f64) -> (Vec<(&'static str, f64, String)>, f64) {
        let scale = self.runs.max(1) as f64 * 1e6;
        let mut table = Vec::new();
        let mut left = self.millions();
        for (part, _, title) in PARTS.iter().filter(|(part, ..)| *part != "exit-user") {
            let Some(cause) = self.parts.get(part) else { continue };
            let mut rows = Vec::new();
            cause.cut("", (limit * scale) as u64, (least * scale) as u64, &mut rows);
            rows.sort_by_key(|row| std::cmp::Reverse(row.0));
            left -= cause.whole as f64 / scale;
            table.extend(rows.into_iter().map(|(count, name)| {
                let name = name.trim_start_matches(" > ").replace("do_syscall_64 > x64_sys_call", "system call");
                (*title, count as f64 / scale, if name.is_empty() { "all".to_owned() } else { name })
            }));
        }
        (table, left)
    }
}
