//! What is known of the host from inside: facts that `/proc` and `/sys` tell of the machine as a whole.
//!
//! Each is read on the host and inside; it is the host's when both say the same. Counters go on between the two readings, so
//! they need only be close.

use std::process::Command;

use serde::Serialize;

use crate::host::Root;

/// Bytes read of a file, at most: consoles are slow.
const READ: usize = 1024;
/// Before each file's text, and before what the kernel is called.
const MARK: &str = "@@RF ";
/// The last line of what is read inside.
pub const DONE: &str = "@@RF-DONE";

/// How two readings are compared.
#[derive(Clone, Copy)]
enum Compare {
    /// Word by word.
    Same,
    /// Numbers, within this share.
    Near(f64),
    /// Numbers, within this difference.
    Within(f64),
}

/// One thing to know of a host.
struct Fact {
    name: &'static str,
    file: &'static str,
    /// What is looked at in the file's text.
    value: fn(&str) -> Option<String>,
    compare: Compare,
}

fn whole(text: &str) -> Option<String> {
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// The words after `key` on its line.
fn after(text: &str, key: &str) -> Option<String> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    whole(line.trim_start_matches([' ', '\t', ':']))
}

fn first_word(text: &str) -> Option<String> {
    text.split_ascii_whitespace().next().map(str::to_owned)
}

/// The names in the last column, as of disks; counters before them differ from one reading to the next.
fn last_words(text: &str) -> Option<String> {
    whole(&text.lines().skip(1).filter_map(|line| line.split_ascii_whitespace().last()).collect::<Vec<_>>().join(" "))
}

/// Those of the first CPU.
fn timer_ticks(text: &str) -> Option<String> {
    let line = text.lines().find(|line| line.trim_start().starts_with("TIMER:"))?;
    line.split_ascii_whitespace().nth(1).map(str::to_owned)
}

fn interfaces(text: &str) -> Option<String> {
    let names = text.lines().skip(2).filter_map(|line| line.split_once(':')).map(|(name, _)| name.trim());
    whole(&names.collect::<Vec<_>>().join(" "))
}

const FACTS: [Fact; 17] = [
    fact("kernel release and build", "/proc/version", whole, Compare::Same),
    fact("this boot's id", "/proc/sys/kernel/random/boot_id", whole, Compare::Same),
    fact("kernel command line", "/proc/cmdline", whole, Compare::Same),
    fact("CPU model", "/proc/cpuinfo", |text| after(text, "model name"), Compare::Same),
    fact("CPUs that run", "/sys/devices/system/cpu/online", whole, Compare::Same),
    fact("size of memory", "/proc/meminfo", |text| after(text, "MemTotal"), Compare::Same),
    fact("time since boot", "/proc/uptime", first_word, Compare::Within(20.0)),
    fact("memory used by all", "/proc/vmstat", |text| after(text, "nr_free_pages"), Compare::Near(0.3)),
    fact("timer ticks of the CPUs", "/proc/softirqs", timer_ticks, Compare::Near(0.2)),
    fact("load of all", "/proc/loadavg", |text| text.split([' ', '/']).nth(4).map(str::to_owned), Compare::Near(0.3)),
    fact(
        "busy time of all CPUs",
        "/proc/stat",
        |text| text.split_ascii_whitespace().nth(1).map(str::to_owned),
        Compare::Near(0.2),
    ),
    fact("disks", "/proc/partitions", last_words, Compare::Same),
    fact(
        "disks' traffic",
        "/proc/diskstats",
        |text| text.split_ascii_whitespace().nth(3).map(str::to_owned),
        Compare::Near(0.3),
    ),
    fact("swap", "/proc/swaps", |text| whole(&text.lines().skip(1).collect::<String>()), Compare::Same),
    fact(
        "the kernel's symbols",
        "/proc/kallsyms",
        |text| text.split_ascii_whitespace().nth(2).map(str::to_owned),
        Compare::Same,
    ),
    fact("host name", "/proc/sys/kernel/hostname", whole, Compare::Same),
    fact("network interfaces", "/proc/net/dev", interfaces, Compare::Same),
];

const fn fact(name: &'static str, file: &'static str, value: fn(&str) -> Option<String>, compare: Compare) -> Fact {
    Fact { name, file, value, compare }
}

/// A fact, and whether it is the host's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Seen {
    /// What it is.
    pub name: &'static str,
    /// The file.
    pub file: &'static str,
    /// What it says inside; nothing when it is not there.
    pub inside: Option<String>,
    /// Whether that is what the host's own says.
    pub of_the_host: bool,
}

/// What is seen from inside.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct View {
    /// The kernel's name, release and build (uname(2)).
    pub kernel: String,
    /// Processes in `/proc`.
    pub processes: usize,
    /// Facts that this host has.
    pub facts: Vec<Seen>,
}

impl View {
    /// How many facts are the host's.
    pub fn host_facts(&self) -> usize {
        self.facts.iter().filter(|fact| fact.of_the_host).count()
    }
}

/// The shell script that reads everything inside, by a busybox at /bin/busybox.
pub fn script() -> String {
    let busybox = "/bin/busybox";
    let mut script = format!("echo '{MARK}uname'; {busybox} uname -srv; echo '{MARK}processes'; {busybox} ls /proc; ");
    for fact in &FACTS {
        script += &format!("echo; echo '{MARK}{0}'; {busybox} head -c {READ} {0} 2>/dev/null; ", fact.file);
    }
    script + &format!("echo; echo {DONE}; exec {busybox} sleep 600")
}

/// What the script wrote, against the host's own files.
pub fn judge(written: &str, host: &Root) -> View {
    let text = |name: &str| {
        let sections = written.split(MARK).filter_map(|section| section.split_once('\n'));
        let mut named = sections.filter(|(title, _)| title.trim() == name);
        named.next().map(|(_, text)| text.split(DONE).next().unwrap_or_default().replace('\r', ""))
    };
    let facts = FACTS.iter().filter_map(|fact| {
        let theirs = (fact.value)(&host.read(fact.file)?)?;
        let inside = text(fact.file).and_then(|text| (fact.value)(&text));
        let of_the_host = inside.as_ref().is_some_and(|inside| fact.compare.holds(inside, &theirs));
        Some(Seen { name: fact.name, file: fact.file, inside, of_the_host })
    });
    let is_process = |name: &&str| name.bytes().all(|b| b.is_ascii_digit());
    View {
        kernel: text("uname").unwrap_or_default().trim().to_owned(),
        processes: text("processes").unwrap_or_default().split_ascii_whitespace().filter(is_process).count(),
        facts: facts.collect(),
    }
}

impl Compare {
    fn holds(self, inside: &str, theirs: &str) -> bool {
        let number = |text: &str| text.split_ascii_whitespace().next().and_then(|word| word.parse::<f64>().ok());
        match (self, number(inside), number(theirs)) {
            (Self::Same, ..) => inside == theirs,
            (Self::Near(share), Some(a), Some(b)) => (a - b).abs() <= share * b.abs(),
            (Self::Within(difference), Some(a), Some(b)) => (a - b).abs() <= difference,
            _ => false,
        }
    }
}

/// The host's own kernel, as `uname -srv` says it.
pub fn host_kernel() -> String {
    let output = Command::new("uname").arg("-srv").output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(script: &str) -> String {
        let script = script.replace("exec /bin/busybox sleep 600", "");
        let output = Command::new("/bin/busybox").args(["sh", "-c", &script]).output();
        output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
    }

    /// Proves that the script, run on the host itself, finds every fact to be the host's.
    #[test]
    fn on_the_host_every_fact_is_the_hosts() {
        let written = run(&script());
        if written.is_empty() {
            println!("skipped: no busybox at /bin/busybox");
            assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"));
            return;
        }
        let view = judge(&written, &Root::default());
        let strange: Vec<_> = view.facts.iter().filter(|fact| !fact.of_the_host).collect();
        assert!(strange.is_empty(), "{strange:#?}");
        assert!(view.facts.len() >= 12 && view.processes > 1, "{view:?}");
        assert_eq!(view.kernel, host_kernel());
        assert!(written.contains(DONE));
    }

    /// Proves that another machine's answers are not taken for the host's, and that none at all is no fact.
    #[test]
    fn another_machines_facts_are_its_own() {
        let written = format!(
            "{MARK}uname\r\nLinux 6.1 #1\r\n{MARK}processes\n1 2 kmsg 30\n{MARK}/proc/uptime\n12.5 10\n\
             {MARK}/proc/version\nLinux version 6.1\n{MARK}/proc/meminfo\nMemTotal:  250000 kB\n{DONE}\n"
        );
        let view = judge(&written, &Root::default());
        assert_eq!((view.host_facts(), view.processes, view.kernel.as_str()), (0, 3, "Linux 6.1 #1"));
        let memory = view.facts.iter().find(|fact| fact.file == "/proc/meminfo").unwrap();
        assert_eq!(memory.inside.as_deref(), Some("250000 kB"));
        assert_eq!(judge("", &Root::default()).host_facts(), 0);
    }

    /// Proves that counters may differ a little and no more.
    #[test]
    fn counters_are_compared_closely() {
        assert!(Compare::Near(0.1).holds("105", "100") && !Compare::Near(0.1).holds("89", "100"));
        assert!(Compare::Within(5.0).holds("104 x", "100 y") && !Compare::Within(5.0).holds("12", "100"));
        assert!(!Compare::Near(0.5).holds("x", "100") && !Compare::Same.holds("", "100"));
    }
}
