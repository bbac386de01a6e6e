//! The filters, run in a small interpreter of their own, against the tables they are made from.

use libc::{SECCOMP_RET_ALLOW, SECCOMP_RET_KILL_PROCESS, SECCOMP_RET_TRAP};
use proptest::prelude::*;

use super::*;
use crate::sandbox::calls::ThreadKind;

const PROCESS: u32 = 4321;

/// What the kernel shows to a filter.
#[derive(Clone, Copy, Debug)]
struct Call {
    number: u32,
    architecture: u32,
    arguments: [u64; 6],
}

impl Call {
    fn new(number: u32, arguments: [u64; 6]) -> Self {
        Self { number, architecture: ARCHITECTURE, arguments }
    }

    fn word(&self, offset: u32) -> u32 {
        match offset {
            0 => self.number,
            4 => self.architecture,
            _ => {
                let (index, half) = ((offset - 16) / 8, (offset - 16) % 8);
                (self.arguments[index as usize] >> (half * 8)) as u32
            }
        }
    }
}

/// Runs a filter as the kernel would; returns the verdict and the number of steps.
fn run(program: &[sock_filter], call: &Call) -> (u32, usize) {
    let (mut at, mut value, mut steps) = (0, 0, 0);
    loop {
        let i = program[at];
        let (code, taken) = (u32::from(i.code), |yes: bool| usize::from(if yes { i.jt } else { i.jf }));
        (at, steps) = (at + 1, steps + 1);
        match code & 0x07 {
            BPF_LD => value = call.word(i.k),
            BPF_RET => return (i.k, steps),
            BPF_JMP => {
                at += match code & 0xf0 {
                    BPF_JA => i.k as usize,
                    BPF_JEQ => taken(value == i.k),
                    BPF_JGE => taken(value >= i.k),
                    BPF_JSET => taken(value & i.k != 0),
                    other => panic!("operation {other:#x}"),
                }
            }
            other => panic!("class {other:#x}"),
        }
    }
}

/// What the table says, read as a person would.
fn allowed(rules: &[Rule], call: &Call) -> bool {
    let holds = |check: &Check| {
        let argument = call.arguments[usize::from(check.argument)] as u32;
        match check.test {
            Test::Is(value) => argument == value,
            Test::With(bit) => argument & bit == bit,
            Test::Without(bits) => argument & bits == 0,
            Test::OwnProcess => argument == PROCESS,
        }
    };
    rules
        .iter()
        .filter(|rule| rule.number == call.number)
        .any(|rule| rule.cases.is_empty() || rule.cases.iter().any(|case| case.checks.iter().all(holds)))
}

/// Arguments near those in the tables, and arbitrary ones.
fn argument(kind: ThreadKind) -> impl Strategy<Value = u64> {
    let values = kind.rules().iter().flat_map(|r| r.cases).flat_map(|c| c.checks).filter_map(|c| match c.test {
        Test::Is(value) | Test::With(value) | Test::Without(value) => Some(u64::from(value)),
        Test::OwnProcess => None,
    });
    let values: Vec<_> = values.chain([u64::from(PROCESS), 0]).collect();
    prop_oneof![
        proptest::sample::select(values.clone()),
        proptest::sample::select(values).prop_map(|value| value ^ 1),
        any::<u64>()
    ]
}

fn call() -> impl Strategy<Value = (ThreadKind, Call)> {
    proptest::sample::select(ThreadKind::ALL.to_vec()).prop_flat_map(|kind| {
        let own = kind.rules().iter().map(|rule| rule.number).collect::<Vec<_>>();
        let number = prop_oneof![3 => proptest::sample::select(own), 2 => 0u32..600, 1 => any::<u32>()];
        let arguments = proptest::array::uniform6(argument(kind));
        (Just(kind), (number, arguments).prop_map(|(number, arguments)| Call::new(number, arguments)))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]
    /// Proves that a filter allows exactly what its table says, for calls in and near the table and for any other.
    #[test]
    fn filters_say_what_the_tables_say((kind, call) in call()) {
        let program = compile(kind.rules(), PROCESS);
        let verdict = if allowed(kind.rules(), &call) { SECCOMP_RET_ALLOW } else { SECCOMP_RET_TRAP };
        prop_assert_eq!(run(&program, &call).0, verdict);
    }
}

/// Proves that the table of a kind ascends, so that the tree finds everything, and that each name is the number's.
#[test]
fn tables_ascend_and_name_their_calls() {
    for kind in ThreadKind::ALL {
        assert!(kind.rules().windows(2).all(|pair| pair[0].number < pair[1].number), "{kind}");
        for rule in kind.rules() {
            let name = syscalls::Sysno::new(rule.number as usize).map(|call| call.name());
            assert_eq!(name, Some(rule.call), "{kind}");
        }
    }
}

/// Proves that 32-bit calls end the process and that calls with x32's bit are trapped, whatever their number.
#[test]
fn other_architectures_are_refused() {
    const I386: u32 = 0x4000_0003;
    const X32: u32 = 0x4000_0000;
    for kind in ThreadKind::ALL {
        let program = compile(kind.rules(), PROCESS);
        for number in 0..600 {
            let call = Call::new(number, [0; 6]);
            assert_eq!(run(&program, &Call { architecture: I386, ..call }).0, SECCOMP_RET_KILL_PROCESS);
            assert_eq!(run(&program, &Call { number: number | X32, ..call }).0, SECCOMP_RET_TRAP);
        }
    }
}

/// Proves what makes installing a filter quick: over all calls the kernel knows, a run takes few steps.
#[test]
fn the_average_path_is_short() {
    for kind in ThreadKind::ALL {
        let program = compile(kind.rules(), PROCESS);
        let steps: usize = (0..LAST_CALL).map(|number| run(&program, &Call::new(number, [0; 6])).1).sum();
        let average = steps as f64 / f64::from(LAST_CALL);
        assert!(average < 9.0, "{kind}: {average} steps of {}", program.len());
    }
}

/// Proves that trees too large for one conditional jump are still right.
#[test]
fn large_tables_are_reached() {
    let rules: Vec<Rule> = (0..400)
        .map(|i| Rule { call: "", number: i * 3, cases: ThreadKind::Main.rules()[8].cases, purpose: "" })
        .collect();
    let program = compile(&rules, PROCESS);
    let fits = rules[0].cases[0].checks[0];
    let Test::Is(value) = fits.test else { panic!("{fits:?}") };
    let mut arguments = [0; 6];
    arguments[usize::from(fits.argument)] = u64::from(value);
    for number in 0..1200 {
        let verdict = if number % 3 == 0 { SECCOMP_RET_ALLOW } else { SECCOMP_RET_TRAP };
        assert_eq!(run(&program, &Call::new(number, arguments)).0, verdict, "{number}");
    }
}

/// Tells how long threads take to confine themselves by each filter. Run by hand, on a quiet machine, in release mode.
#[test]
#[ignore = "a measurement: cargo test --release --lib installing -- --ignored --nocapture"]
#[allow(unsafe_code)]
fn installing() {
    use std::sync::atomic::{AtomicU64, Ordering};
    static TOOK: AtomicU64 = AtomicU64::new(0);
    crate::sandbox::capabilities::no_new_privileges().unwrap();
    for kind in ThreadKind::ALL {
        let program = compile(kind.rules(), PROCESS);
        let mut times: Vec<_> = (0..200)
            .map(|_| {
                TOOK.store(0, Ordering::SeqCst);
                let program = program.clone();
                // Never joined: what a thread of the test harness does at its end is on no list.
                std::thread::spawn(move || {
                    let start = std::time::Instant::now();
                    install(&program).unwrap();
                    TOOK.store(start.elapsed().as_nanos() as u64, Ordering::SeqCst);
                    // SAFETY: ends this thread alone.
                    unsafe { libc::syscall(libc::SYS_exit, 0) };
                });
                while TOOK.load(Ordering::SeqCst) == 0 {
                    std::thread::yield_now();
                }
                TOOK.load(Ordering::SeqCst) / 1000
            })
            .collect();
        times.sort_unstable();
        println!("{kind}: {} instructions, median {} us, least {} us", program.len(), times[100], times[0]);
    }
}
