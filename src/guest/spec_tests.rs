//! What is encoded here is read by the very parser that runs in the guest.

use std::os::unix::ffi::OsStringExt;

use proptest::prelude::*;

use super::*;

#[allow(dead_code, missing_docs, reason = "the guest's own source, of which the tests use a part")]
#[path = "../../kernels/init/spec.rs"]
mod guest;

fn example() -> Spec {
    Spec {
        stdio: Stdio::Pipe,
        term: "xterm-256color".into(),
        window: WindowSize { rows: 24, cols: 80 },
        hostname: "box".into(),
        loglevel: None,
        env: vec![],
        args: vec![],
    }
}

fn os(bytes: &[u8]) -> OsString {
    OsString::from_vec(bytes.to_vec())
}

#[test]
fn records_are_byte_for_byte_what_the_format_says() {
    let mut spec = example();
    spec.env = vec![("A".into(), "b c".into())];
    spec.args = vec!["sh".into(), "-c".into(), "".into()];
    let expected = b"ringfence=1\0stdio=pipe\0term=xterm-256color\0rows=24\0cols=80\0hostname=box\0\
        env=A=b c\0arg=sh\0arg=-c\0arg=\0";
    assert_eq!(spec.encode().unwrap(), expected);
}

#[test]
fn a_nul_is_refused_and_its_place_told() {
    let mut spec = example();
    spec.args = vec!["echo".into(), os(b"ab\0c")];
    let error = spec.encode().unwrap_err();
    assert!(matches!(error, SpecError::Nul { offset: 2, .. }), "{error:?}");
    assert!(error.to_string().contains("argument 1"), "{error}");
    spec = Spec { hostname: "a\0".into(), ..example() };
    assert!(matches!(spec.encode(), Err(SpecError::Nul { offset: 1, .. })));
    spec = Spec { term: "\0".into(), ..example() };
    assert!(matches!(spec.encode(), Err(SpecError::Nul { offset: 0, .. })));
    spec = Spec { env: vec![("A".into(), os(b"\0"))], ..example() };
    assert!(matches!(spec.encode(), Err(SpecError::Nul { .. })));
}

#[test]
fn strings_and_totals_are_limited_as_by_execve() {
    let mut spec = Spec { args: vec![os(&vec![b'x'; MAX_STRING])], ..example() };
    assert!(spec.encode().is_ok(), "the longest string is taken");
    spec.args[0].push("x");
    let error = spec.encode().unwrap_err();
    assert!(matches!(error, SpecError::TooLong { size, limit, .. } if size == limit + 1), "{error:?}");
    spec.args = vec!["".into(); MAX_TOTAL / (POINTER_SIZE + 1)];
    assert!(spec.encode().is_ok());
    spec.args.push("".into());
    assert!(matches!(spec.encode(), Err(SpecError::TooLong { .. })), "pointers count as well");
    spec = Spec { hostname: "h".repeat(MAX_HOSTNAME + 1), ..example() };
    assert!(matches!(spec.encode(), Err(SpecError::TooLong { limit: MAX_HOSTNAME, .. })));
}

#[test]
fn a_variable_needs_a_name() {
    for name in ["", "A=B"] {
        let spec = Spec { env: vec![(name.into(), "x".into())], ..example() };
        assert_eq!(spec.encode(), Err(SpecError::EnvName { name: name.into() }));
    }
}

#[test]
fn the_overlay_is_an_archive_with_the_spec_in_it() {
    let overlay = spec_overlay(&example()).unwrap();
    assert_eq!(overlay.len() % 4, 0);
    let entries = crate::guest::cpio::tests::read(&overlay);
    assert_eq!(entries.len(), 2);
    assert_eq!(entries[0].path, "ringfence");
    assert_eq!(entries[1].path, "ringfence/spec");
    assert_eq!(entries[1].contents, example().encode().unwrap());
}

#[test]
fn the_guest_refuses_what_is_no_spec_and_says_why() {
    use guest::SpecError as Guest;
    for (bytes, expected) in [
        (&b""[..], Guest::Version),
        (b"ringfence=2\0", Guest::Version),
        (b"stdio=tty\0ringfence=1\0", Guest::Version),
        (b"ringfence=1\0arg=x", Guest::Unterminated),
        (b"ringfence=1\0arg\0", Guest::NoValue),
        (b"ringfence=1\0stdio=both\0", Guest::Stdio),
        (b"ringfence=1\0rows=\0", Guest::Number),
        (b"ringfence=1\0rows=65536\0", Guest::Number),
        (b"ringfence=1\0cols=-1\0", Guest::Number),
        (b"ringfence=1\0loglevel=9\0", Guest::Number),
    ] {
        assert_eq!(guest::Spec::parse(bytes).unwrap_err(), expected, "{bytes:?}");
    }
    // A later monitor's keys do not stop an older init.
    assert!(guest::Spec::parse(b"ringfence=1\0colour=blue\0").is_ok());
}

/// A string of any bytes but NUL.
fn bytes() -> impl Strategy<Value = OsString> {
    prop::collection::vec(1u8..=255, 0..40).prop_map(OsString::from_vec)
}

fn variable_name() -> impl Strategy<Value = OsString> {
    prop::collection::vec((1u8..=255).prop_filter("no =", |&byte| byte != b'='), 1..10).prop_map(OsString::from_vec)
}

proptest! {
    /// Whatever is encoded, the guest reads the same: quotes, spaces, newlines, bytes that are no UTF-8, empty strings.
    #[test]
    fn guest_reads_what_the_host_wrote(
        tty in any::<bool>(), term in bytes(), rows in any::<u16>(), cols in any::<u16>(),
        hostname in "[ -~]{0,64}", loglevel in prop::option::of(1u8..=8),
        env in prop::collection::vec((variable_name(), bytes()), 0..6),
        args in prop::collection::vec(bytes(), 0..12),
    ) {
        let stdio = if tty { Stdio::Tty } else { Stdio::Pipe };
        let window = WindowSize { rows, cols };
        let spec = Spec { stdio, term, window, hostname, loglevel, env, args };
        let encoded = spec.encode().unwrap();
        let read = guest::Spec::parse(&encoded).unwrap();
        prop_assert_eq!(read.stdio == guest::Stdio::Tty, tty);
        prop_assert_eq!(read.term, spec.term.as_bytes());
        prop_assert_eq!((read.rows, read.cols), (rows, cols));
        prop_assert_eq!(read.hostname, spec.hostname.as_bytes());
        prop_assert_eq!(read.loglevel, loglevel);
        let args: Vec<_> = read.args().map(|arg| os(arg.to_bytes())).collect();
        prop_assert_eq!(args, spec.args);
        let env: Vec<_> = read.envs().map(|variable| os(variable.to_bytes())).collect();
        let expected: Vec<_> = spec.env.iter().map(|(name, value)| {
            os(&[name.as_bytes(), b"=", value.as_bytes()].concat())
        }).collect();
        prop_assert_eq!(env, expected);
    }

    /// No bytes make the guest's parser panic, and it never reads past its records.
    #[test]
    fn guest_parser_stands_any_bytes(tail in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = guest::Spec::parse(&tail);
        let with_start = [b"ringfence=1\0", &tail[..]].concat();
        if let Ok(spec) = guest::Spec::parse(&with_start) {
            prop_assert!(spec.args().map(|arg| arg.count_bytes() + 5).sum::<usize>() <= with_start.len());
        }
    }
}
