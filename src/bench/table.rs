//! Tables for a terminal of 80 columns.

use std::fmt::Write;

/// Columns that a table may take.
pub const WIDTH: usize = 80;
/// Between columns.
const GAP: &str = "  ";
/// A first column narrower than this is of no use, so that a table with too many others grows instead.
const FIRST_MIN: usize = 12;

/// Rows under a heading. The first column is text and wraps; the others are figures, aligned to the right.
#[derive(Clone, Debug, Default)]
pub struct Table {
    title: String,
    heads: Vec<String>,
    rows: Vec<Vec<String>>,
    notes: Vec<String>,
}

impl Table {
    /// An empty table; the first of `heads` is over the text column.
    pub fn new(title: impl Into<String>, heads: &[&str]) -> Self {
        let heads = heads.iter().map(ToString::to_string).collect();
        Self { title: title.into(), heads, ..Self::default() }
    }

    /// Adds a row; missing cells are empty, control characters shown as `?`.
    pub fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) -> &mut Self {
        let mut cells: Vec<String> = cells.into_iter().map(|cell| printable(&cell.into())).collect();
        cells.resize(self.heads.len(), String::new());
        self.rows.push(cells);
        self
    }

    /// Adds a line of text below the table.
    pub fn note(&mut self, text: impl Into<String>) -> &mut Self {
        self.notes.push(printable(&text.into()));
        self
    }

    /// The headings.
    pub fn heads(&self) -> &[String] {
        &self.heads
    }

    /// The title.
    pub fn title(&self) -> &str {
        &self.title
    }

    /// The rows' cells.
    pub fn cells(&self) -> &[Vec<String>] {
        &self.rows
    }

    /// The lines below the table.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The table as text: no line is longer than [`WIDTH`], unless the figures alone are.
    pub fn render(&self) -> String {
        let width = |column: usize| {
            let cells = self.rows.iter().chain([&self.heads]).map(|row| row[column].chars().count());
            cells.max().unwrap_or(0)
        };
        let widths: Vec<usize> = (1..self.heads.len()).map(width).collect();
        let taken: usize = widths.iter().map(|width| width + GAP.len()).sum();
        let first = width(0).min(WIDTH.saturating_sub(taken).max(FIRST_MIN));
        let mut out = format!("{}\n", self.title);
        for row in [&self.heads].into_iter().chain(&self.rows) {
            let mut lines = wrap(&row[0], first).into_iter();
            let mut line = format!("{:<first$}", lines.next().unwrap_or_default());
            for (cell, width) in row[1..].iter().zip(&widths) {
                let _ = write!(line, "{GAP}{cell:>width$}");
            }
            let _ = writeln!(out, "{}", line.trim_end());
            for more in lines {
                let _ = writeln!(out, "  {more}");
            }
        }
        for note in &self.notes {
            for (i, line) in wrap(note, WIDTH - 2).into_iter().enumerate() {
                let _ = writeln!(out, "{}{line}", if i == 0 { "" } else { "  " });
            }
        }
        out
    }
}

/// Text without control characters, which could do things to a terminal.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// Breaks text between words; a continued line is to be indented by two.
pub fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = vec![String::new()];
    for word in text.split_whitespace() {
        let room = if lines.len() == 1 { width } else { width.saturating_sub(2) };
        let line = lines.last().map_or(0, |line| line.chars().count());
        if line > 0 && line + 1 + word.chars().count() > room {
            lines.push(word.to_owned());
        } else if let Some(last) = lines.last_mut() {
            if line > 0 {
                last.push(' ');
            }
            last.push_str(word);
        }
    }
    lines
}

/// A time with three or four digits and its unit, from microseconds: `98.1 us`, `2.31 ms`, `1.20 s`.
pub fn time(us: f64) -> String {
    let (value, unit) = match us {
        us if us >= 1e6 => (us / 1e6, "s"),
        us if us >= 1e3 => (us / 1e3, "ms"),
        us => (us, "us"),
    };
    format!("{} {unit}", three_digits(value))
}

/// A size with its unit, from bytes: `512 B`, `3.2 MiB`.
pub fn size(bytes: u64) -> String {
    let bytes = bytes as f64;
    match bytes {
        b if b >= f64::from(1 << 30) => format!("{} GiB", three_digits(b / f64::from(1 << 30))),
        b if b >= f64::from(1 << 20) => format!("{} MiB", three_digits(b / f64::from(1 << 20))),
        b if b >= 1024.0 => format!("{} KiB", three_digits(b / 1024.0)),
        b => format!("{b:.0} B"),
    }
}

/// A ratio such as `1.04`, `12.3`, `310`.
pub fn ratio(value: f64) -> String {
    three_digits(value)
}

fn three_digits(value: f64) -> String {
    match value.abs() {
        v if !v.is_finite() => "-".to_owned(),
        v if v >= 99.95 => format!("{value:.0}"),
        v if v >= 9.995 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Proves that figures are aligned, text wraps under itself, and notes come last.
    #[test]
    fn aligns_and_wraps() {
        let mut table = Table::new("Title", &["subject", "p50", "p99"]);
        table.row(["a", "1.00 us", "12.0 us"]).row(["x\x1b[2J", "1"]).note("a note");
        assert_eq!(
            table.render(),
            "Title\nsubject      p50      p99\na        1.00 us  12.0 us\nx?[2J          1\na note\n"
        );
    }

    /// Proves that units change where the digits would become too many.
    #[test]
    fn units() {
        assert_eq!([time(0.5), time(98.14), time(999.0), time(2310.0)], ["0.50 us", "98.1 us", "999 us", "2.31 ms"]);
        assert_eq!([time(1.2e6), time(f64::NAN)], ["1.20 s", "- us"]);
        assert_eq!([size(512), size(3 << 20), size(5 << 30)], ["512 B", "3.00 MiB", "5.00 GiB"]);
        assert_eq!([ratio(1.04), ratio(12.34), ratio(310.2)], ["1.04", "12.3", "310"]);
    }

    proptest! {
        /// Proves that no table is wider than the terminal, whatever its texts are.
        #[test]
        fn tables_keep_to_80_columns(texts in proptest::collection::vec("[a-z ]{0,200}", 1..6), figures in "[0-9]{1,9}") {
            let mut table = Table::new("T", &["subject", "a", "b", "c"]);
            for text in &texts {
                let text: String = text.split(' ').map(|w| &w[..w.len().min(12)]).collect::<Vec<_>>().join(" ");
                table.row([text.as_str(), &figures, &figures, &figures]).note(text);
            }
            for line in table.render().lines() {
                prop_assert!(line.chars().count() <= WIDTH, "{}", line);
            }
        }
    }
}
