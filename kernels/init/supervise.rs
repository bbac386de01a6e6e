//! The duties of process 1: reap every orphan, obey `poweroff`, `reboot` and `halt`, and end the
//! machine when the payload has ended.

use crate::pump::Pump;
use crate::{console, ports, status, sys};
use core::sync::atomic::{AtomicU32, Ordering};

/// Signals received and not yet acted upon, bit n for signal n.
static RECEIVED: AtomicU32 = AtomicU32::new(0);

/// What busybox's `halt`, `poweroff` and `reboot` send to process 1, and the end of a child.
const HANDLED: [i32; 4] = [sys::SIGUSR1, sys::SIGUSR2, sys::SIGTERM, sys::SIGCHLD];

/// How long processes get to end by themselves when the machine is shut down, in steps of 10 ms.
const GRACE_STEPS: u32 = 50;

/// What kill(2) calls every process but this one.
const EVERY_PROCESS: i32 = -1;

/// How the machine ends.
pub enum Ending {
    /// The payload has ended, with this status.
    Status(u8),
    /// `poweroff` or `halt`: success.
    PowerOff,
    /// `reboot`.
    Restart,
}

extern "C" fn note(signal: i32) {
    RECEIVED.fetch_or(1 << signal, Ordering::Relaxed);
}

/// Blocks the signals of interest; they are taken only while `ppoll` waits, so none is missed.
pub fn prepare() {
    sys::block_signals(u64::MAX);
    for signal in HANDLED {
        sys::on_signal(signal, note);
    }
}

/// Waits for the payload, or for an order to end the machine.
pub fn until_end(payload: i32, mut pump: Option<&mut Pump>) -> Ending {
    let ending = loop {
        if let Some(ending) = reap(payload) {
            break ending;
        }
        match RECEIVED.swap(0, Ordering::Relaxed) {
            got if got & (1 << sys::SIGTERM) != 0 => break Ending::Restart,
            got if got & (1 << sys::SIGUSR1 | 1 << sys::SIGUSR2) != 0 => break Ending::PowerOff,
            _ => {}
        }
        match &mut pump {
            Some(pump) => pump.wait(),
            None => drop(sys::ppoll(&mut [], None)),
        }
    };
    if !matches!(ending, Ending::Status(_)) {
        end_processes();
    }
    match pump {
        Some(pump) => pump.finish(),
        // Whatever the payload left behind could write for ever, and the line never be drained.
        None => drop(sys::kill(EVERY_PROCESS, sys::SIGKILL)),
    }
    ending
}

/// Reaps every child that has ended; the payload's status if it is among them.
fn reap(payload: i32) -> Option<Ending> {
    let mut ending = None;
    while let Some((pid, wait_status)) = sys::wait_any() {
        if pid == payload {
            ending = Some(Ending::Status(status::from_wait(wait_status)));
        }
    }
    ending
}

/// Asks every process to end, and makes those that do not. A shell goes by SIGHUP.
fn end_processes() {
    for signal in [sys::SIGTERM, sys::SIGHUP, sys::SIGCONT] {
        let _ = sys::kill(EVERY_PROCESS, signal);
    }
    for _ in 0..GRACE_STEPS {
        while sys::wait_any().is_some() {}
        // No process is left to be signalled when the null signal reaches none.
        if sys::kill(EVERY_PROCESS, 0).is_err() {
            return;
        }
        let mut step = sys::TimeSpec { seconds: 0, nanoseconds: 10_000_000 };
        let _ = sys::ppoll(&mut [], Some(&mut step));
    }
    let _ = sys::kill(EVERY_PROCESS, sys::SIGKILL);
}

impl Ending {
    /// Ends the machine: what was written is sent out and to disk first.
    pub fn carry_out(self) -> ! {
        console::drain();
        sys::sync();
        match self {
            Ending::Status(status) => ports::exit(status),
            Ending::PowerOff => ports::exit(0),
            Ending::Restart => sys::reboot(sys::Reboot::Restart),
        }
        // No monitor of ours: leave as any machine would.
        sys::reboot(sys::Reboot::PowerOff);
        sys::reboot(sys::Reboot::Restart);
        loop {
            let _ = sys::ppoll(&mut [], None);
        }
    }
}
