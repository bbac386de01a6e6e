//! What a seccomp filter lets through: classic BPF evaluated for a system call's number, with its arguments unknown.
//!
//! The instructions are those of McCanne and Jacobson, "The BSD Packet Filter" (1993), as far as seccomp takes them (Linux,
//! Documentation/userspace-api/seccomp_filter.rst, and `seccomp_check_filter`). A filter that looks at arguments may end in
//! several ways for one number; all of them are found.

use std::collections::HashSet;

/// One instruction, `struct sock_filter`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Instruction {
    /// What to do.
    pub code: u16,
    /// Instructions to skip when a comparison holds.
    pub jt: u8,
    /// Instructions to skip when it does not.
    pub jf: u8,
    /// The operand.
    pub k: u32,
}

/// Whether a call gets through a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Never: it fails, or ends the process.
    Blocked,
    /// With some arguments.
    Sometimes,
    /// Whatever the arguments.
    Allowed,
}

/// AUDIT_ARCH_X86_64.
const ARCH_X86_64: u32 = 0xc000_003e;
/// Offsets in `struct seccomp_data`, and its size.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const DATA_SIZE: u32 = 64;
/// SECCOMP_RET_ACTION_FULL.
const ACTION: u32 = 0xffff_0000;
/// Actions after which the kernel does what was called: to log it, to allow it, and with a supervisor's leave (SECCOMP_RET_TRACE,
/// SECCOMP_RET_USER_NOTIF).
const THROUGH: [u32; 2] = [0x7ffc_0000, 0x7fff_0000];
const WITH_LEAVE: [u32; 2] = [0x7ff0_0000, 0x7fc0_0000];
const MEMORY: usize = 16;
/// States of one evaluation, at most: a filter has at most 4096 instructions, and jumps only forward.
const STATES: usize = 1 << 17;

/// Classes of instructions.
const LD: u16 = 0;
const LDX: u16 = 1;
const ST: u16 = 2;
const STX: u16 = 3;
const ALU: u16 = 4;
const JMP: u16 = 5;
const RET: u16 = 6;

/// A register: known, or dependent on what is not.
type Word = Option<u32>;

#[derive(Clone, PartialEq, Eq, Hash)]
struct State {
    at: usize,
    a: Word,
    x: Word,
    memory: [Word; MEMORY],
}

/// What becomes of the call `number` of x86_64 under all of `filters` together: the kernel runs each, and the strictest wins.
/// A filter that cannot be understood counts as one that lets the call through with some arguments.
pub fn verdict(filters: &[Vec<Instruction>], number: u32) -> Verdict {
    filters.iter().map(|filter| one(filter, number)).min().unwrap_or(Verdict::Allowed)
}

fn one(filter: &[Instruction], number: u32) -> Verdict {
    let (mut through, mut blocked) = (false, false);
    let mut open = vec![State { at: 0, a: Some(0), x: Some(0), memory: [Some(0); MEMORY] }];
    let mut seen = HashSet::new();
    while let Some(state) = open.pop() {
        if seen.len() > STATES {
            return Verdict::Sometimes;
        }
        if !seen.insert(state.clone()) {
            continue;
        }
        match step(filter, state, number) {
            Some(Step::On(states)) => open.extend(states),
            Some(Step::End(Some(action))) if WITH_LEAVE.contains(&(action & ACTION)) => {
                (through, blocked) = (true, true)
            }
            Some(Step::End(Some(action))) => {
                let passes = THROUGH.contains(&(action & ACTION));
                through |= passes;
                blocked |= !passes;
            }
            Some(Step::End(None)) | None => (through, blocked) = (true, true),
        }
    }
    match (through, blocked) {
        (true, true) => Verdict::Sometimes,
        (true, false) => Verdict::Allowed,
        (false, _) => Verdict::Blocked,
    }
}

enum Step {
    /// One state, or both sides of a comparison whose outcome is unknown.
    On(Vec<State>),
    /// The filter's answer, if known.
    End(Word),
}

/// One instruction; `None` for one that seccomp does not take.
fn step(filter: &[Instruction], mut state: State, number: u32) -> Option<Step> {
    let i = filter.get(state.at)?;
    let cell = i.k as usize;
    let operand = if i.code & 8 == 0 { Some(i.k) } else { state.x };
    state.at += 1;
    match i.code & 7 {
        LD | LDX => {
            let value = match i.code & 0xe0 {
                0x00 => Some(i.k),
                0x20 => data(i.k, number)?,
                0x60 => *state.memory.get(cell)?,
                0x80 => Some(DATA_SIZE),
                _ => return None,
            };
            *(if i.code & 7 == LD { &mut state.a } else { &mut state.x }) = value;
        }
        ST => *state.memory.get_mut(cell)? = state.a,
        STX => *state.memory.get_mut(cell)? = state.x,
        ALU => state.a = arithmetic(i.code & 0xf0, state.a, operand)?,
        JMP => return jump(i, state, operand).map(Step::On),
        RET => return Some(Step::End(if i.code & 0x18 == 0x10 { state.a } else { Some(i.k) })),
        // The last class copies one register to the other.
        _ if i.code & 0xf8 == 0 => state.x = state.a,
        _ => state.a = state.x,
    }
    Some(Step::On(vec![state]))
}

/// A word of `struct seccomp_data`: the number and the architecture are known, the rest is the caller's to choose.
fn data(offset: u32, number: u32) -> Option<Word> {
    match offset {
        NUMBER => Some(Some(number)),
        ARCH => Some(Some(ARCH_X86_64)),
        8..DATA_SIZE if offset.is_multiple_of(4) => Some(None),
        _ => None,
    }
}

fn arithmetic(operation: u16, a: Word, b: Word) -> Option<Word> {
    if !matches!(operation, 0x00..=0x80 | 0xa0) || operation == 0x90 {
        return None;
    }
    let (Some(a), Some(b)) = (a, b) else { return Some(None) };
    Some(Some(match operation {
        0x00 => a.wrapping_add(b),
        0x10 => a.wrapping_sub(b),
        0x20 => a.wrapping_mul(b),
        // A division by zero ends the filter with 0: SECCOMP_RET_KILL_THREAD. It is left to the caller as unknown.
        0x30 => return Some(a.checked_div(b)),
        0x40 => a | b,
        0x50 => a & b,
        0x60 => a.checked_shl(b).unwrap_or(0),
        0x70 => a.checked_shr(b).unwrap_or(0),
        0x80 => a.wrapping_neg(),
        _ => a ^ b,
    }))
}

fn jump(i: &Instruction, mut state: State, operand: Word) -> Option<Vec<State>> {
    let to = |state: &State, skip: usize| State { at: state.at + skip, ..state.clone() };
    let compare: fn(u32, u32) -> bool = match i.code & 0xf0 {
        0x00 => {
            state.at += i.k as usize;
            return Some(vec![state]);
        }
        0x10 => |a, b| a == b,
        0x20 => |a, b| a > b,
        0x30 => |a, b| a >= b,
        0x40 => |a, b| a & b != 0,
        _ => return None,
    };
    let (holds, fails) = (to(&state, usize::from(i.jt)), to(&state, usize::from(i.jf)));
    Some(match (state.a, operand) {
        (Some(a), Some(b)) if compare(a, b) => vec![holds],
        (Some(_), Some(_)) => vec![fails],
        _ => vec![holds, fails],
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LD_DATA: u16 = 0x20;
    const JEQ: u16 = 0x15;
    const JGE: u16 = 0x35;
    const RET: u16 = 0x06;
    const ALLOW: u32 = 0x7fff_0000;
    const ERRNO: u32 = 0x0005_0001;
    const KILL: u32 = 0x8000_0000;

    fn op(code: u16, k: u32, jt: u8, jf: u8) -> Instruction {
        Instruction { code, jt, jf, k }
    }

    /// An allowlist as libseccomp and seccompiler write them: the architecture, then numbers; ioctl (16) by its second argument.
    fn allowlist() -> Vec<Instruction> {
        vec![
            op(LD_DATA, 4, 0, 0),
            op(JEQ, ARCH_X86_64, 1, 0),
            op(RET, KILL, 0, 0),
            op(LD_DATA, 0, 0, 0),
            op(JEQ, 0, 5, 0),
            op(JEQ, 16, 1, 0),
            op(RET, ERRNO, 0, 0),
            op(LD_DATA, 24, 0, 0),
            op(JEQ, 0xae80, 1, 0),
            op(RET, ERRNO, 0, 0),
            op(RET, ALLOW, 0, 0),
        ]
    }

    /// Proves that numbers are told apart, that one allowed by its argument is neither always nor never, and that two filters
    /// together are as strict as the stricter.
    #[test]
    fn an_allowlist_is_read() {
        let filter = [allowlist()];
        assert_eq!([0, 1, 16].map(|n| verdict(&filter, n)), [Verdict::Allowed, Verdict::Blocked, Verdict::Sometimes]);
        assert_eq!(verdict(&[], 57), Verdict::Allowed);
        let deny = vec![op(LD_DATA, 0, 0, 0), op(JGE, 10, 0, 1), op(RET, ERRNO, 0, 0), op(RET, ALLOW, 0, 0)];
        let both = [allowlist(), deny];
        assert_eq!([0, 16].map(|n| verdict(&both, n)), [Verdict::Allowed, Verdict::Blocked]);
    }

    /// Proves that filters kept in scratch memory and computed with are followed.
    #[test]
    fn memory_and_arithmetic_are_followed() {
        let filter = vec![
            op(LD_DATA, 0, 0, 0),
            op(0x02, 3, 0, 0),
            op(0x00, 40, 0, 0),
            op(0x07, 0, 0, 0),
            op(0x60, 3, 0, 0),
            op(0x1c, 0, 0, 0),
            op(JEQ, 2, 0, 1),
            op(RET, ALLOW, 0, 0),
            op(RET, KILL, 0, 0),
        ];
        assert_eq!([42, 41].map(|n| verdict(std::slice::from_ref(&filter), n)), [Verdict::Allowed, Verdict::Blocked]);
    }

    /// Proves that actions which ask a supervisor count as sometimes, those that log as allowed.
    #[test]
    fn actions_are_told_apart() {
        for (action, expected) in [
            (0x7ffc_0000, Verdict::Allowed),
            (0x7ff0_0000, Verdict::Sometimes),
            (0x7fc0_0000, Verdict::Sometimes),
            (0x0003_0000, Verdict::Blocked),
            (0, Verdict::Blocked),
        ] {
            assert_eq!(verdict(&[vec![op(RET, action, 0, 0)]], 1), expected, "{action:#x}");
        }
    }

    /// Runs a filter as the kernel would, with all of its data known.
    fn concrete(filter: &[Instruction], data: [u32; 16]) -> Option<u32> {
        let (mut at, mut a, mut x) = (0usize, 0u32, 0u32);
        loop {
            let i = filter.get(at)?;
            at += 1;
            match i.code {
                LD_DATA => a = data[i.k as usize / 4],
                0x07 => x = a,
                0x54 => a &= i.k,
                JEQ => at += usize::from(if a == i.k { i.jt } else { i.jf }),
                JGE => at += usize::from(if a >= i.k { i.jt } else { i.jf }),
                0x2d => at += usize::from(if a > x { i.jt } else { i.jf }),
                RET => return Some(i.k),
                _ => return None,
            }
        }
    }

    fn instruction() -> impl Strategy<Value = Instruction> {
        prop_oneof![
            (0u32..16).prop_map(|word| op(LD_DATA, word * 4, 0, 0)),
            (0u32..4, 0u8..4, 0u8..4).prop_map(|(k, jt, jf)| op(JEQ, k, jt, jf)),
            (0u32..4, 0u8..4, 0u8..4).prop_map(|(k, jt, jf)| op(JGE, k, jt, jf)),
            (0u8..4, 0u8..4).prop_map(|(jt, jf)| op(0x2d, 0, jt, jf)),
            Just(op(0x07, 0, 0, 0)),
            (0u32..4).prop_map(|k| op(0x54, k, 0, 0)),
            prop_oneof![Just(ALLOW), Just(ERRNO)].prop_map(|action| op(RET, action, 0, 0)),
        ]
    }

    proptest! {
        /// Proves the verdict against running the filter: what is allowed always is for any arguments, what is blocked never.
        #[test]
        fn no_arguments_contradict_the_verdict(
            mut filter in proptest::collection::vec(instruction(), 1..30),
            number in 0u32..4,
            args in proptest::array::uniform14(0u32..4),
        ) {
            filter.extend([op(RET, ALLOW, 0, 0); 5]);
            let mut data = [0; 16];
            (data[0], data[1]) = (number, ARCH_X86_64);
            data[2..].copy_from_slice(&args);
            let action = concrete(&filter, data).unwrap();
            let expected = if action == ALLOW { Verdict::Blocked } else { Verdict::Allowed };
            prop_assert_ne!(verdict(&[filter], number), expected);
        }

        /// Proves that no program, however senseless, makes the evaluation panic or run long.
        #[test]
        fn senseless_filters_are_harmless(
            filter in proptest::collection::vec((any::<u16>(), any::<u8>(), any::<u8>(), any::<u32>()), 0..200),
        ) {
            let filter: Vec<_> = filter.into_iter().map(|(code, jt, jf, k)| Instruction { code, jt, jf, k }).collect();
            verdict(&[filter], 1);
        }
    }
}
