//! The lists as people read them.

use std::fmt::Write;

use super::calls::{Rule, ThreadKind};

impl Rule {
    /// With which arguments the call is allowed, in the manual's words.
    pub fn arguments(&self) -> String {
        if self.cases.is_empty() {
            return "any".to_owned();
        }
        self.cases.iter().map(|case| case.text).collect::<Vec<_>>().join(", ")
    }
}

/// What each kind of thread may call, as the tables in Markdown that `docs/isolation.md` holds.
pub fn markdown() -> String {
    let mut text = String::new();
    for kind in ThreadKind::ALL {
        let rules = kind.rules();
        let _ = writeln!(text, "### {}: {} calls\n", heading(kind), rules.len());
        text.push_str("| number | call | arguments | for |\n| --- | --- | --- | --- |\n");
        for rule in rules {
            let arguments = rule.arguments().replace('|', "\\|");
            let _ = writeln!(text, "| {} | `{}` | {arguments} | {} |", rule.number, rule.call, rule.purpose);
        }
        text.push('\n');
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

fn heading(kind: ThreadKind) -> &'static str {
    match kind {
        ThreadKind::Vcpu => "A vCPU's thread",
        ThreadKind::Console => "The console's thread",
        ThreadKind::Main => "The main thread",
    }
}
