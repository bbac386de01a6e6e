//! The program whose start is timed: it writes one line and ends. The same bytes everywhere, so that a guest's and a
//! container's payload differ in nothing.

/// What it writes, all of it in one write(2).
pub const LINE: &str = "payload\n";

/// Where it is loaded: the usual place of a static program.
const ADDRESS: u64 = 0x40_0000;
/// ELF header and one program header (ELF-64 Object File Format, version 1.5).
const HEADERS: usize = 64 + 56;

/// The program: `write(1, LINE)`, then `exit(0)` without an argument, or `pause()` for good with one.
///
/// ```text
/// mov eax, 1; mov edi, 1; lea rsi, [rip + 32]; mov edx, len; syscall
/// cmp qword [rsp], 1; jne held
/// mov eax, 60; xor edi, edi; syscall
/// held: mov eax, 34; syscall; jmp held
/// ```
const CODE: [u8; 49] = [
    0xb8,
    0x01,
    0x00,
    0x00,
    0x00,
    0xbf,
    0x01,
    0x00,
    0x00,
    0x00,
    0x48,
    0x8d,
    0x35,
    0x20,
    0x00,
    0x00,
    0x00,
    0xba,
    LINE.len() as u8,
    0x00,
    0x00,
    0x00,
    0x0f,
    0x05,
    0x48,
    0x83,
    0x3c,
    0x24,
    0x01,
    0x75,
    0x09,
    0xb8,
    0x3c,
    0x00,
    0x00,
    0x00,
    0x31,
    0xff,
    0x0f,
    0x05,
    0xb8,
    0x22,
    0x00,
    0x00,
    0x00,
    0x0f,
    0x05,
    0xeb,
    0xf7,
];

/// The argument with which it stays after its line, for its memory to be counted.
pub const HOLD: &str = "hold";
/// Its name at the top of a root file system.
pub const NAME: &str = "payload";

/// The program as a static ELF file of one page.
pub fn program() -> Vec<u8> {
    let size = (HEADERS + CODE.len() + LINE.len()) as u64;
    let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let entry = ADDRESS + HEADERS as u64;
    for (value, bytes) in
        [(2, 2), (62, 2), (1, 4), (entry, 8), (64, 8), (0, 8), (0, 4), (64, 2), (56, 2), (1, 2), (0, 2), (0, 2), (0, 2)]
    {
        file.extend_from_slice(&u64::to_le_bytes(value)[..bytes]);
    }
    // PT_LOAD, read and execute.
    for (value, bytes) in [(1, 4), (5, 4), (0, 8), (ADDRESS, 8), (ADDRESS, 8), (size, 8), (size, 8), (0x1000, 8)] {
        file.extend_from_slice(&u64::to_le_bytes(value)[..bytes]);
    }
    file.extend_from_slice(&CODE);
    file.extend_from_slice(LINE.as_bytes());
    file
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::fs::PermissionsExt;
    use std::process::{Command, Stdio};

    /// Proves that the bytes are a program that writes its line and ends with 0, and with an argument stays.
    #[test]
    fn it_writes_its_line_and_ends_or_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(NAME);
        std::fs::write(&path, program()).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let done = Command::new(&path).output().unwrap();
        assert_eq!((done.status.code(), &done.stdout[..]), (Some(0), LINE.as_bytes()));
        let mut held = Command::new(&path).arg(HOLD).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = vec![0; LINE.len()];
        held.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert!(held.try_wait().unwrap().is_none(), "it should stay");
        held.kill().unwrap();
        held.wait().unwrap();
        assert_eq!(line, LINE.as_bytes());
    }
}
