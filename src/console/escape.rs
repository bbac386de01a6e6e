//! The escape key of the terminal: Ctrl-] and then a key.

/// Ctrl-], the key that starts a command.
pub const ESCAPE_KEY: u8 = 0x1d;

/// What the keys are, as shown on the terminal.
pub const MENU: &str = "\
ringfence: keys after Ctrl-]
  q       quit: end the machine now, as if its power was cut
  b       send a break (Linux: the SysRq key; the next key is its command)
  h ?     this help
  Ctrl-]  send Ctrl-] itself to the guest
";

/// A piece of what was typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Typed<'a> {
    /// Bytes for the guest.
    Bytes(&'a [u8]),
    /// The user wants the machine to end.
    Quit,
    /// A break condition on the line.
    Break,
    /// The user wants to see [`MENU`], by asking or by a key that means nothing.
    Help,
}

/// Finds the escape key in a stream of bytes, however it is cut into reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EscapeKey {
    /// The escape key was the last byte, and its command is still to come.
    pending: bool,
}

impl EscapeKey {
    /// Takes the first piece off `input`, or returns `None` when nothing is left.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Option<Typed<'a>> {
        loop {
            let (&first, rest) = input.split_first()?;
            if self.pending {
                self.pending = false;
                let key = &input[..1];
                *input = rest;
                return Some(match first {
                    b'q' | b'Q' => Typed::Quit,
                    b'b' | b'B' => Typed::Break,
                    ESCAPE_KEY => Typed::Bytes(key),
                    _ => Typed::Help,
                });
            }
            let plain = input.iter().position(|&b| b == ESCAPE_KEY).unwrap_or(input.len());
            if plain > 0 {
                let (bytes, rest) = input.split_at(plain);
                *input = rest;
                return Some(Typed::Bytes(bytes));
            }
            self.pending = true;
            *input = rest;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What came out, runs of bytes joined.
    #[derive(Debug, PartialEq)]
    enum Out {
        Bytes(Vec<u8>),
        Quit,
        Break,
        Help,
    }

    fn feed<'a>(machine: &mut EscapeKey, reads: impl IntoIterator<Item = &'a [u8]>) -> Vec<Out> {
        let mut out: Vec<Out> = Vec::new();
        for mut read in reads {
            while let Some(typed) = machine.next(&mut read) {
                match (typed, out.last_mut()) {
                    (Typed::Bytes(more), Some(Out::Bytes(bytes))) => bytes.extend_from_slice(more),
                    (Typed::Bytes(bytes), _) => out.push(Out::Bytes(bytes.to_vec())),
                    (Typed::Quit, _) => out.push(Out::Quit),
                    (Typed::Break, _) => out.push(Out::Break),
                    (Typed::Help, _) => out.push(Out::Help),
                }
            }
        }
        out
    }

    /// The keys of the menu do what the menu says.
    #[test]
    fn keys() {
        let one = |input: &[u8]| feed(&mut EscapeKey::default(), [input]);
        assert_eq!(one(b"ab\x1dq"), [Out::Bytes(b"ab".to_vec()), Out::Quit]);
        assert_eq!(one(b"\x1dbx"), [Out::Break, Out::Bytes(b"x".to_vec())]);
        assert_eq!(one(b"\x1dh\x1d?\x1dz"), [Out::Help, Out::Help, Out::Help]);
        assert_eq!(one(b"a\x1d\x1db"), [Out::Bytes(b"a\x1db".to_vec())]);
        assert_eq!(one(b"\x03\x04\x1a\x1c"), [Out::Bytes(b"\x03\x04\x1a\x1c".to_vec())]);
        assert_eq!(one(b"\x1d"), []);
    }

    /// What the menu says the keys are is what they are.
    #[test]
    fn the_menu_names_every_key() {
        for key in ["q ", "b ", "h ?", "Ctrl-]  send"] {
            assert!(MENU.contains(key), "{key}");
        }
    }

    /// A stream biased towards the interesting bytes.
    fn stream() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(
            prop_oneof![3 => Just(ESCAPE_KEY), 1 => Just(b'q'), 1 => Just(b'b'), 4 => any::<u8>()],
            0..200,
        )
    }

    proptest! {
        /// Cutting the stream into reads anywhere changes nothing.
        #[test]
        fn any_split_gives_the_same(bytes in stream(), cuts in proptest::collection::vec(0usize..200, 0..12)) {
            let whole = feed(&mut EscapeKey::default(), [&bytes[..]]);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let parts = cuts.windows(2).map(|w| &bytes[w[0]..w[1]]);
            prop_assert_eq!(feed(&mut EscapeKey::default(), parts), whole);
        }

        /// Doubling every escape key passes any stream through unchanged.
        #[test]
        fn doubled_escapes_pass_all(bytes in stream()) {
            let mut doubled = Vec::new();
            for &b in &bytes {
                doubled.extend(std::iter::repeat_n(b, 1 + usize::from(b == ESCAPE_KEY)));
            }
            let out = feed(&mut EscapeKey::default(), [&doubled[..]]);
            let expected = if bytes.is_empty() { vec![] } else { vec![Out::Bytes(bytes)] };
            prop_assert_eq!(out, expected);
        }

        /// A plain reading of the rule, byte by byte, agrees.
        #[test]
        fn agrees_with_a_plain_reading(bytes in stream()) {
            let (mut expected, mut i) = (Vec::new(), 0);
            let plain = |out: &mut Vec<Out>, b| match out.last_mut() {
                Some(Out::Bytes(bytes)) => bytes.push(b),
                _ => out.push(Out::Bytes(vec![b])),
            };
            while i < bytes.len() {
                match (bytes[i], bytes.get(i + 1)) {
                    (ESCAPE_KEY, None) => {}
                    (ESCAPE_KEY, Some(b'q' | b'Q')) => expected.push(Out::Quit),
                    (ESCAPE_KEY, Some(b'b' | b'B')) => expected.push(Out::Break),
                    (ESCAPE_KEY, Some(&ESCAPE_KEY)) => plain(&mut expected, ESCAPE_KEY),
                    (ESCAPE_KEY, Some(_)) => expected.push(Out::Help),
                    (byte, _) => plain(&mut expected, byte),
                }
                i += if bytes[i] == ESCAPE_KEY { 2 } else { 1 };
            }
            prop_assert_eq!(feed(&mut EscapeKey::default(), [&bytes[..]]), expected);
        }
    }
}
