//! Putting system calls into another process's threads, as a guest that has taken one over would make them.

use std::io;
use std::ptr;

use libc::{c_int, c_long, c_void, pid_t, siginfo_t, user_regs_struct};

/// What became of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The filter stopped the call with this number.
    Blocked(i64),
    /// The kernel carried it out.
    Returned(i64),
    /// Something else stopped the thread: this wait status.
    Other(c_int),
}

/// A thread that is held at a `syscall` instruction. It must be used by the thread that seized it.
pub struct Thread {
    id: pid_t,
    registers: user_regs_struct,
}

fn ptrace(request: libc::c_uint, id: pid_t, address: usize, data: usize) -> io::Result<c_long> {
    // SAFETY: each caller passes what the request takes (ptrace(2)); only the traced process and `data` are written to.
    let result = unsafe { libc::ptrace(request, id, address as *mut c_void, data as *mut c_void) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn wait(id: pid_t) -> c_int {
    let mut status = 0;
    // SAFETY: writes the status only.
    assert_eq!(unsafe { libc::waitpid(id, &mut status, libc::__WALL) }, id, "{}", io::Error::last_os_error());
    status
}

impl Thread {
    /// Takes a thread out of the system call it waits in. One that does something else is let go and tried again.
    pub fn seize(id: pid_t) -> io::Result<Self> {
        ptrace(libc::PTRACE_SEIZE, id, 0, 0)?;
        for _ in 0..400 {
            if let Some(thread) = Self::interrupt(id)? {
                return Ok(thread);
            }
            ptrace(libc::PTRACE_CONT, id, 0, 0)?;
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        panic!("thread {id} never waits in a system call");
    }

    fn interrupt(id: pid_t) -> io::Result<Option<Self>> {
        ptrace(libc::PTRACE_INTERRUPT, id, 0, 0)?;
        let status = wait(id);
        assert!(libc::WIFSTOPPED(status), "{status:#x}");
        // SAFETY: plain old data, filled by the kernel before it is used.
        let mut registers: user_regs_struct = unsafe { std::mem::zeroed() };
        ptrace(libc::PTRACE_GETREGS, id, 0, &raw mut registers as usize)?;
        registers.rip -= 2;
        let code = ptrace(libc::PTRACE_PEEKTEXT, id, registers.rip as usize, 0)? as u16;
        Ok((code.to_le_bytes() == [0x0f, 0x05]).then_some(Self { id, registers }))
    }

    fn set(&self, registers: &user_regs_struct) {
        ptrace(libc::PTRACE_SETREGS, self.id, 0, ptr::from_ref(registers) as usize).unwrap();
    }

    fn at_call(&self, number: i64, arguments: [u64; 6]) -> user_regs_struct {
        let [rdi, rsi, rdx, r10, r8, r9] = arguments;
        user_regs_struct { rax: number as u64, orig_rax: u64::MAX, rdi, rsi, rdx, r10, r8, r9, ..self.registers }
    }

    /// Makes the thread call the kernel, and says what came of it. A signal that it gets for that never reaches it.
    pub fn call(&mut self, number: i64, arguments: [u64; 6]) -> Outcome {
        self.set(&self.at_call(number, arguments));
        loop {
            ptrace(libc::PTRACE_SINGLESTEP, self.id, 0, 0).unwrap();
            let status = wait(self.id);
            if !libc::WIFSTOPPED(status) {
                return Outcome::Other(status);
            }
            match libc::WSTOPSIG(status) {
                libc::SIGSYS => return self.blocked(),
                libc::SIGTRAP => {
                    // SAFETY: plain old data, filled by the kernel before it is used.
                    let mut registers: user_regs_struct = unsafe { std::mem::zeroed() };
                    ptrace(libc::PTRACE_GETREGS, self.id, 0, &raw mut registers as usize).unwrap();
                    // One is left over from a step that ended in another signal.
                    if registers.rip != self.registers.rip {
                        return Outcome::Returned(registers.rax as i64);
                    }
                }
                _ => return Outcome::Other(status),
            }
        }
    }

    fn blocked(&self) -> Outcome {
        /// `SYS_SECCOMP`.
        const FROM_SECCOMP: c_int = 1;
        // SAFETY: plain old data, filled by the kernel before it is used.
        let mut info: siginfo_t = unsafe { std::mem::zeroed() };
        ptrace(libc::PTRACE_GETSIGINFO, self.id, 0, &raw mut info as usize).unwrap();
        assert_eq!(info.si_code, FROM_SECCOMP);
        // SAFETY: si_syscall lies 24 bytes into the structure (sigaction(2)), which is 128 bytes long.
        let number: c_int = unsafe { ptr::read((&raw const info).byte_add(24).cast()) };
        Outcome::Blocked(number.into())
    }

    /// Puts the thread in front of a call, to be made when it is let go.
    pub fn begin(&mut self, number: i64, arguments: [u64; 6]) {
        self.set(&self.at_call(number, arguments));
    }

    /// Puts the thread in front of an access that faults.
    pub fn crash(&mut self) {
        self.set(&user_regs_struct { rip: 16, orig_rax: u64::MAX, ..self.registers });
    }

    /// Lets the thread go on from where it was put.
    pub fn let_go(self) {
        ptrace(libc::PTRACE_DETACH, self.id, 0, 0).unwrap();
    }

    /// Lets the thread make the call again that it was taken out of.
    pub fn release(mut self) {
        // A call that every thread may make, to no descriptor, takes up a signal that may be left over.
        let nowhere = [u64::MAX, 0, 0, 0, 0, 0];
        assert_eq!(self.call(libc::SYS_write, nowhere), Outcome::Returned(-i64::from(libc::EBADF)));
        self.set(&user_regs_struct { rax: self.registers.orig_rax, orig_rax: u64::MAX, ..self.registers });
        self.let_go();
    }
}
