//! Text: arguments, the kernel's command line, and the hand-over to the guest's init.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use ringfence::boot::cmdline as line;
use ringfence::config::ConsoleSpec;
use ringfence::guest::spec::{Spec, Stdio, WindowSize};
use ringfence::units::{ByteSize, CpuList};

use super::input::Input;

#[allow(dead_code, missing_docs, reason = "the guest's own source, of which the targets use a part")]
#[path = "../../kernels/init/spec.rs"]
mod guest;

/// Sizes, CPU lists and console places: no text makes their parsers panic, and what is understood means the same when it is
/// written again.
pub fn arguments(data: &[u8]) {
    let _ = ConsoleSpec::parse(OsStr::from_bytes(data));
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(size) = text.parse::<ByteSize>() {
        let bytes = size.as_u64();
        assert_eq!(bytes.to_string().parse::<ByteSize>().map(ByteSize::as_u64), Ok(bytes), "{text:?}");
    }
    if let Some(list) = CpuList::parse(text) {
        assert!(list.iter().all(|cpu| cpu < 8192));
        assert_eq!(CpuList::parse(&list.to_string()), Some(list), "{text:?}");
    }
}

/// Arguments of each kind.
pub fn argument_seeds() -> Vec<Vec<u8>> {
    ["256M", "1.5G", "0-3,8", "6,4", "file:/tmp/x", "unix:/s", "pty:l", "none"].map(|text| text.into()).into()
}

/// Command lines: what is taken is the text with one NUL behind it and not longer than Linux keeps.
pub fn cmdline(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    // Lines near the limit come up often enough only when they are made.
    let text =
        if data.first().is_some_and(|b| b & 1 != 0) { text.repeat(data.len() % 16 + 1) } else { text.into_owned() };
    match line::encode(&text) {
        Ok(bytes) => {
            assert_eq!(bytes.split_last(), Some((&0, text.as_bytes())));
            assert!(!text.contains('\0') && text.len() <= line::LINUX_MAX);
        }
        Err(_) => assert!(text.contains('\0') || text.len() > line::LINUX_MAX),
    }
}

/// What init reads: no bytes make its parser panic or read past them.
pub fn guest_spec(data: &[u8]) {
    // Most inputs get the first record and the last NUL, without which nothing else is looked at.
    let framed = [b"ringfence=1\0", data, b"\0"].concat();
    let bytes = if data.first().is_some_and(|b| b & 3 == 0) { data } else { &framed };
    let Ok(spec) = guest::Spec::parse(bytes) else { return };
    let strings: usize = spec.args().chain(spec.envs()).map(|s| s.to_bytes_with_nul().len()).sum();
    assert!(strings <= bytes.len() && spec.hostname.len() <= bytes.len() && spec.term.len() <= bytes.len());
    assert!(spec.loglevel.is_none_or(|level| (1..=8).contains(&level)));
}

/// A spec with every record.
pub fn guest_spec_seeds() -> Vec<Vec<u8>> {
    let all =
        b"ringfence=1\0stdio=pipe\0term=xterm\0rows=24\0cols=80\0hostname=box\0loglevel=4\0env=A=b\0arg=sh\0arg=\0";
    vec![all.to_vec(), all[12..].to_vec()]
}

/// The hand-over: whatever the command is, what the host accepts, init reads back byte for byte.
pub fn spec(data: &[u8]) {
    let mut input = Input::new(data);
    let text = |input: &mut Input| OsString::from_vec(input.short().to_vec());
    let mut spec = Spec {
        stdio: if input.bool() { Stdio::Tty } else { Stdio::Pipe },
        term: text(&mut input),
        window: WindowSize { rows: input.u16(), cols: input.u16() },
        hostname: String::from_utf8_lossy(input.short()).into_owned(),
        loglevel: input.bool().then(|| input.u8()),
        env: Vec::new(),
        args: Vec::new(),
    };
    while !input.is_empty() {
        match input.bool() {
            true => spec.env.push((text(&mut input), text(&mut input))),
            false => spec.args.push(text(&mut input)),
        }
    }
    let Ok(bytes) = spec.encode() else { return };
    let read = guest::Spec::parse(&bytes).expect("init reads what the host encodes");
    assert_eq!((read.rows, read.cols, read.hostname), (spec.window.rows, spec.window.cols, spec.hostname.as_bytes()));
    assert_eq!((read.term, read.stdio == guest::Stdio::Tty), (spec.term.as_bytes(), spec.stdio == Stdio::Tty));
    assert!(read.args().map(|a| a.to_bytes()).eq(spec.args.iter().map(|a| a.as_bytes())));
    let env = spec.env.iter().map(|(name, value)| [name.as_bytes(), b"=", value.as_bytes()].concat());
    assert!(read.envs().map(|e| e.to_bytes().to_vec()).eq(env));
}
