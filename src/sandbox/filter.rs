//! From a table of allowed calls to a seccomp filter (Linux `Documentation/userspace-api/seccomp_filter.rst`).
//!
//! The filter is a search tree over the calls' numbers, not a chain of comparisons. When a filter is installed, the kernel
//! runs it once for each of its several hundred calls to learn which need no filtering at all, so the time a thread takes to
//! confine itself is proportional to the *average* path through the filter. Gaps between allowed calls count by their width.

use std::io;

use libc::{BPF_ABS, BPF_JA, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_RET, BPF_W};
use libc::{SECCOMP_RET_ALLOW, SECCOMP_RET_KILL_PROCESS, SECCOMP_RET_TRAP, sock_filter, sock_fprog};

use super::calls::{Check, Rule, Test};

/// `AUDIT_ARCH_X86_64`: EM_X86_64, 64-bit, little-endian.
const ARCHITECTURE: u32 = 0xc000_003e;
/// Calls there are, roughly: what lies behind the last allowed one weighs so much.
const LAST_CALL: u32 = 470;

/// Offsets in `struct seccomp_data`.
const NUMBER_AT: u32 = 0;
const ARCHITECTURE_AT: u32 = 4;
const ARGUMENTS_AT: u32 = 16;

/// A run of call numbers with one fate.
#[derive(Clone, Copy)]
struct Leaf<'a> {
    first: u32,
    weight: u32,
    rule: Option<&'a Rule>,
}

/// Compiles a filter that allows `rules`, which ascend by number, and traps all else. `process` stands for
/// [`Test::OwnProcess`].
pub(super) fn compile(rules: &[Rule], process: u32) -> Vec<sock_filter> {
    let mut program = Vec::with_capacity(256);
    program.extend([
        load(ARCHITECTURE_AT),
        jump(BPF_JEQ, ARCHITECTURE, 1, 0),
        // A call by another architecture's numbers is nobody's mistake.
        end(SECCOMP_RET_KILL_PROCESS),
        load(NUMBER_AT),
    ]);
    program.extend(tree(&leaves(rules), process));
    program
}

/// Allowed calls and the gaps between them, which cover all numbers.
fn leaves(rules: &[Rule]) -> Vec<Leaf<'_>> {
    let mut leaves = Vec::with_capacity(rules.len() * 2 + 1);
    let mut next = 0;
    for rule in rules {
        if rule.number > next {
            leaves.push(Leaf { first: next, weight: rule.number - next, rule: None });
        }
        leaves.push(Leaf { first: rule.number, weight: 1, rule: Some(rule) });
        next = rule.number + 1;
    }
    leaves.push(Leaf { first: next, weight: LAST_CALL.saturating_sub(next).max(1), rule: None });
    leaves
}

fn tree(leaves: &[Leaf<'_>], process: u32) -> Vec<sock_filter> {
    if let [leaf] = leaves {
        return leaf.rule.map_or_else(|| vec![end(SECCOMP_RET_TRAP)], |rule| allow(rule, process));
    }
    let split = split(leaves);
    let (low, high) = leaves.split_at(split);
    let (low, high, at) = (tree(low, process), tree(high, process), high[0].first);
    let mut code = Vec::with_capacity(low.len() + high.len() + 2);
    match u8::try_from(low.len()) {
        Ok(over) => code.push(jump(BPF_JGE, at, over, 0)),
        // A conditional jump reaches 255 instructions.
        Err(_) => code.extend([jump(BPF_JGE, at, 0, 1), jump(BPF_JA, low.len() as u32, 0, 0)]),
    }
    code.extend(low);
    code.extend(high);
    code
}

/// Where both sides weigh most alike; each gets a leaf.
fn split(leaves: &[Leaf<'_>]) -> usize {
    let total: u32 = leaves.iter().map(|leaf| leaf.weight).sum();
    let mut low = 0;
    let mut best = (u32::MAX, 1);
    for (index, leaf) in leaves[..leaves.len() - 1].iter().enumerate() {
        low += leaf.weight;
        best = best.min((low.abs_diff(total - low), index + 1));
    }
    best.1
}

/// Allows a call whose arguments are as in one of its rule's cases.
fn allow(rule: &Rule, process: u32) -> Vec<sock_filter> {
    if rule.cases.is_empty() {
        return vec![end(SECCOMP_RET_ALLOW)];
    }
    let mut code = Vec::new();
    let mut loaded = None;
    for case in rule.cases {
        let mut checks = Vec::new();
        for check in case.checks {
            if loaded.replace(check.argument) != Some(check.argument) {
                checks.push(load(ARGUMENTS_AT + 8 * u32::from(check.argument)));
            }
            checks.push(fails(*check, process));
        }
        // What fails goes on behind this case's end.
        let len = checks.len();
        for (index, instruction) in checks.iter_mut().enumerate() {
            let over = (len - index) as u8;
            instruction.jt *= over;
            instruction.jf *= over;
        }
        code.extend(checks);
        code.push(end(SECCOMP_RET_ALLOW));
        // A check that fails early leaves its own argument loaded.
        if case.checks.len() > 1 {
            loaded = None;
        }
    }
    code.push(end(SECCOMP_RET_TRAP));
    code
}

/// Compares the loaded argument; 1 stands for "fails" in the jump's targets.
fn fails(check: Check, process: u32) -> sock_filter {
    match check.test {
        Test::Is(value) => jump(BPF_JEQ, value, 0, 1),
        Test::OwnProcess => jump(BPF_JEQ, process, 0, 1),
        Test::With(bit) => jump(BPF_JSET, bit, 0, 1),
        Test::Without(bits) => jump(BPF_JSET, bits, 1, 0),
    }
}

fn load(offset: u32) -> sock_filter {
    statement(BPF_LD | BPF_W | BPF_ABS, offset)
}

fn end(verdict: u32) -> sock_filter {
    statement(BPF_RET | BPF_K, verdict)
}

fn statement(code: u32, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

fn jump(operation: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code: (BPF_JMP | operation | BPF_K) as u16, jt, jf, k }
}

/// Installs a filter for the calling thread alone, for good. It must have no_new_privs.
#[allow(unsafe_code)]
pub(super) fn install(program: &[sock_filter]) -> io::Result<()> {
    let len = u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let program = sock_fprog { len, filter: program.as_ptr().cast_mut() };
    // SAFETY: the kernel reads `len` instructions, which outlive the call, and copies them.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
#[path = "filter_tests.rs"]
mod tests;
