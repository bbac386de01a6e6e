//! Rows of aligned text, wrapped to the terminal's width, with a mark in front that may be coloured.

use std::fmt::Write;
use std::io::IsTerminal;

/// What a row's mark says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// Nothing: the row only tells.
    None,
    Ok,
    Warning,
    Error,
    Absent,
}

impl Mark {
    const WIDTH: usize = 5;

    const fn text(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Ok => "ok",
            Self::Warning => "warn",
            Self::Error => "ERROR",
            Self::Absent => "-",
        }
    }

    /// The mark's colour (ECMA-48, section 8.3.117, SGR).
    const fn sgr(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Ok => "\x1b[32m",
            Self::Warning => "\x1b[33m",
            Self::Error => "\x1b[1;31m",
            Self::Absent => "\x1b[2m",
        }
    }
}

/// How wide to print and whether in colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Style {
    /// Columns.
    pub width: usize,
    /// Whether escape sequences may be used.
    pub colour: bool,
}

impl Style {
    /// Fewest and most columns that are made use of.
    const WIDTHS: std::ops::RangeInclusive<usize> = 40..=120;

    /// What suits stdout: the terminal's width, 80 for a file or a pipe; colours only on a terminal, and not when
    /// NO_COLOR is set to anything or TERM is `dumb`.
    pub(super) fn of_stdout() -> Self {
        let terminal = std::io::stdout().is_terminal();
        let width = terminal.then(terminal_size::terminal_size).flatten().map_or(80, |(width, _)| usize::from(width.0));
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        Self { width: width.clamp(*Self::WIDTHS.start(), *Self::WIDTHS.end()), colour: terminal && !no_colour && !dumb }
    }
}

/// A heading with rows below it: a mark, a name, a text that wraps.
#[derive(Debug, Default)]
pub(super) struct Section {
    title: &'static str,
    rows: Vec<(Mark, String, String)>,
}

impl Section {
    pub(super) fn new(title: &'static str) -> Self {
        Self { title, rows: Vec::new() }
    }

    pub(super) fn row(&mut self, mark: Mark, name: impl Into<String>, text: impl Into<String>) -> &mut Self {
        self.rows.push((mark, printable(&name.into()), printable(&text.into())));
        self
    }

    /// The section as text, no line longer than the style's width unless a single word is.
    pub(super) fn render(&self, style: Style) -> String {
        let names = self.rows.iter().map(|(_, name, _)| name.chars().count()).max().unwrap_or(0);
        let indent = 2 + Mark::WIDTH + 1 + names + 2;
        let (bold, plain) = if style.colour { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
        let mut out = format!("{bold}{}{plain}\n", self.title);
        for (mark, name, text) in &self.rows {
            let (on, off) = if style.colour && *mark != Mark::None { (mark.sgr(), plain) } else { ("", "") };
            let lines = wrap(text, style.width.saturating_sub(indent).max(20));
            let mut lines = lines.iter();
            let first = format!("  {on}{:<5}{off} {name:<names$}  {}", mark.text(), lines.next().map_or("", |l| l));
            let _ = writeln!(out, "{}", first.trim_end());
            for line in lines {
                let _ = writeln!(out, "{:indent$}{line}", "");
            }
        }
        out
    }
}

/// What the host's files say may hold anything: control characters become `?`, so that none reaches the terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// Breaks `text` between words so that no line is longer than `width` characters, unless a word is.
pub(super) fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut column = 0;
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if column > 0 && column + 1 + length > width {
            lines.push(String::new());
            column = 0;
        }
        let Some(line) = lines.last_mut() else { continue };
        if column > 0 {
            line.push(' ');
            column += 1;
        }
        line.push_str(word);
        column += length;
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PLAIN: Style = Style { width: 40, colour: false };

    /// Proves that names are aligned and that text wraps under itself.
    #[test]
    fn aligns_and_wraps() {
        let mut section = Section::new("Title");
        section.row(Mark::Ok, "a", "short").row(Mark::Error, "longer", "one two three four five six seven");
        assert_eq!(
            section.render(PLAIN),
            "Title\n  ok    a       short\n  ERROR longer  one two three four five\n                six seven\n"
        );
    }

    /// Proves that colours come only when asked for, and go round the mark alone.
    #[test]
    fn colours_only_when_asked() {
        let mut section = Section::new("T");
        section.row(Mark::Ok, "a", "b");
        assert!(!section.render(PLAIN).contains('\x1b'));
        let coloured = section.render(Style { colour: true, ..PLAIN });
        assert_eq!(coloured, "\x1b[1mT\x1b[0m\n  \x1b[32mok   \x1b[0m a  b\n");
    }

    proptest! {
        /// Proves that no text brings control characters to the terminal or is longer than the width allows.
        #[test]
        fn lines_keep_to_the_width(text in "[ a-z\\x00-\\x1f]{0,200}", width in 40usize..120) {
            let mut section = Section::new("T");
            section.row(Mark::None, "name", text.as_str());
            for line in section.render(Style { width, colour: false }).lines() {
                prop_assert!(!line.contains(char::is_control));
                let longest = printable(&text).split_whitespace().map(str::len).max().unwrap_or(0);
                prop_assert!(line.len() <= width.max(14 + longest), "{}", line);
            }
        }
    }
}
