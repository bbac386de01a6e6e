//! Small guests, assembled here, and how to run them: ELF files with a code segment and data segments.

use std::ffi::OsStr;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use iced_x86::IcedError;
use iced_x86::code_asm::{AsmMemoryOperand, CodeAssembler};

/// Where a guest's code lies and starts.
pub const CODE: u64 = 0x20_0000;
/// Page tables for guests that need more than the boot tables: identity, from this address on.
pub const TABLES: u64 = 0x40_0000;
/// No guest here takes longer, even where ring 0 is emulated on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A guest's image: code at [`CODE`], and data elsewhere.
pub struct Guest {
    segments: Vec<(u64, Vec<u8>)>,
}

/// What became of a run.
#[derive(Debug)]
pub struct Ran {
    pub status: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Guest {
    /// Assembles 64-bit code; the entry is its first instruction.
    pub fn new(code: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> Self {
        let mut assembler = CodeAssembler::new(64).unwrap();
        code(&mut assembler).unwrap();
        Self { segments: vec![(CODE, assembler.assemble(CODE).unwrap())] }
    }

    /// Adds bytes at a guest-physical address.
    pub fn with(mut self, address: u64, bytes: Vec<u8>) -> Self {
        self.segments.push((address, bytes));
        self
    }

    /// The ELF file.
    pub fn elf(&self) -> Vec<u8> {
        let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let headers = 64 + 56 * self.segments.len() as u64;
        for (value, size) in [(2, 2), (62, 2), (1, 4), (CODE, 8), (64, 8), (0, 8), (0, 4), (64, 2), (56, 2)] {
            file.extend_from_slice(&value.to_le_bytes()[..size]);
        }
        for value in [self.segments.len() as u16, 0, 0, 0] {
            file.extend_from_slice(&value.to_le_bytes());
        }
        let mut offset = headers;
        for (address, bytes) in &self.segments {
            let len = bytes.len() as u64;
            file.extend_from_slice(&1u32.to_le_bytes());
            file.extend_from_slice(&7u32.to_le_bytes());
            for value in [offset, *address, *address, len, len, 1] {
                file.extend_from_slice(&value.to_le_bytes());
            }
            offset += len;
        }
        self.segments.iter().for_each(|(_, bytes)| file.extend_from_slice(bytes));
        file
    }

    /// Runs it with further options, and no initrd, until it ends.
    pub fn run(&self, options: &[&str]) -> Ran {
        finish(self.start(options))
    }

    /// Starts it.
    pub fn start(&self, options: &[&str]) -> Child {
        self.start_with(options, &[])
    }

    /// Starts it with more variables in its environment.
    pub fn start_with(&self, options: &[&str], variables: &[(&str, &OsStr)]) -> Child {
        // In memory, so that nothing is left behind: the child opens it by its number while this process holds it.
        let file = rustix::fs::memfd_create("guest", rustix::fs::MemfdFlags::empty()).unwrap();
        let mut file = std::fs::File::from(file);
        std::io::Write::write_all(&mut file, &self.elf()).unwrap();
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
        start_kernel(Path::new(&path), options, variables)
    }
}

/// Starts `ringfence run` with a kernel and no initrd.
pub fn start_kernel(kernel: &Path, options: &[&str], variables: &[(&str, &OsStr)]) -> Child {
    // Inside the nested bed the binary lies elsewhere than where it was built.
    let ringfence = std::env::var_os("RINGFENCE_TEST_BINARY").unwrap_or_else(|| env!("CARGO_BIN_EXE_ringfence").into());
    let mut command = Command::new(ringfence);
    command.args(["run", "--initrd", "none", "--kernel"]).arg(kernel).args(options);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.envs(variables.iter().copied());
    command.spawn().unwrap()
}

/// Waits for a run; one that does not end is killed and fails the test.
pub fn finish(mut child: Child) -> Ran {
    let start = Instant::now();
    let reader = |mut pipe: Box<dyn Read + Send>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            pipe.read_to_end(&mut bytes).unwrap();
            String::from_utf8_lossy(&bytes).into_owned()
        })
    };
    let stdout = reader(Box::new(child.stdout.take().unwrap()));
    let stderr = reader(Box::new(child.stderr.take().unwrap()));
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status.code();
        }
        if start.elapsed() > PATIENCE {
            let _ = child.kill();
            let _ = child.wait();
            panic!("the guest did not end: {:?} {:?}", stdout.join(), stderr.join());
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    Ran { status, stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap() }
}

/// Whether KVM can be used here. Says so when it can't; with `CI=true` that is a failure.
pub fn kvm_works() -> bool {
    match kvm_ioctls::Kvm::new().and_then(|kvm| kvm.create_vm()) {
        Ok(_) => true,
        Err(error) => {
            assert!(std::env::var_os("CI").is_none(), "CI must have a usable /dev/kvm: {error}");
            println!("skipped: /dev/kvm cannot be used: {error}");
            false
        }
    }
}

/// Whether ring 0 is emulated here, with its gaps.
pub fn ring_0_is_emulated() -> bool {
    Path::new("/sys/module/kvm_pvm").exists()
}

/// Assembles the end of a guest: `status` to the exit port, and no way on.
pub fn exit(a: &mut CodeAssembler, status: u32) -> Result<(), IcedError> {
    use iced_x86::code_asm::{dx, eax};
    a.mov(dx, 0x614)?;
    a.mov(eax, status)?;
    a.out(dx, eax)?;
    halt(a)
}

/// Assembles an endless halt.
pub fn halt(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let mut again = a.create_label();
    a.set_label(&mut again)?;
    a.hlt()?;
    a.jmp(again)
}

/// Assembles the output of text on the serial port.
pub fn say(a: &mut CodeAssembler, text: &str) -> Result<(), IcedError> {
    use iced_x86::code_asm::{al, dx};
    a.mov(dx, 0x3f8)?;
    for byte in text.bytes() {
        a.mov(al, u32::from(byte))?;
        a.out(dx, al)?;
    }
    Ok(())
}

/// Assembles a check: ends the guest with `status` unless the 64-bit memory operand holds `value`.
pub fn expect(a: &mut CodeAssembler, operand: AsmMemoryOperand, value: u64, status: u32) -> Result<(), IcedError> {
    use iced_x86::code_asm::{rax, rcx};
    let mut right = a.create_label();
    a.mov(rax, operand)?;
    a.mov(rcx, value)?;
    a.cmp(rax, rcx)?;
    a.je(right)?;
    exit(a, status)?;
    a.set_label(&mut right)
}

/// Identity page tables at [`TABLES`] for the first 6 GiB, in 2 MiB pages.
pub fn tables() -> Vec<u8> {
    let gib = 6;
    let mut words = vec![0u64; 512 * (2 + gib)];
    words[0] = (TABLES + 0x1000) | 3;
    for i in 0..gib {
        words[512 + i] = (TABLES + 0x2000 + 0x1000 * i as u64) | 3;
    }
    for i in 0..512 * gib {
        words[1024 + i] = (i as u64) << 21 | 0x83;
    }
    words.iter().flat_map(|w| w.to_le_bytes()).collect()
}

/// Exceptions that push an error code (Intel SDM vol. 3A, table 6-1; AMD APM vol. 2, section 8.2, for 29 and 30).
const WITH_ERROR_CODE: [usize; 10] = [8, 10, 11, 12, 13, 14, 17, 21, 29, 30];

/// An interrupt descriptor table of 256 entries (Intel SDM vol. 3A, section 6.14.1): exceptions with an error code lead to
/// `coded`, everything else to `plain`.
pub fn idt(plain: u64, coded: u64) -> Vec<u8> {
    let gate = |vector| {
        let handler = if WITH_ERROR_CODE.contains(&vector) { coded } else { plain };
        let low = (handler & 0xffff) | 0x10 << 16 | 0x8e00 << 32 | (handler >> 16 & 0xffff) << 48;
        [low.to_le_bytes(), (handler >> 32).to_le_bytes()].concat()
    };
    (0..256).flat_map(gate).collect()
}
