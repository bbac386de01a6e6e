//! One HTML page that needs nothing else: no script, no font, no picture from anywhere; light or dark as the reader's system is.

use std::fmt::Write;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::environment::Warning;
use super::plot::{self, Svg};
use super::table::Table;

const STYLE: &str = include_str!("page.css");

/// Why the page could not be written.
#[derive(Debug, Error)]
#[error("cannot write {}; make the folder writable or name another", path.display())]
pub struct PageError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// A page in the making.
#[derive(Clone, Debug)]
pub struct Page {
    title: String,
    body: String,
    figures: Vec<(String, Svg)>,
}

impl Page {
    /// A page with a heading and a paragraph below it.
    pub fn new(title: &str, lead: &str) -> Self {
        let body = format!("<h1>{}</h1>\n<p class=\"lead\">{}</p>\n", escaped(title), escaped(lead));
        Self { title: title.to_owned(), body, figures: Vec::new() }
    }

    /// Begins a section.
    pub fn section(&mut self, heading: &str) -> &mut Self {
        let _ = writeln!(self.body, "<h2>{}</h2>", escaped(heading));
        self
    }

    /// Adds a paragraph.
    pub fn paragraph(&mut self, text: &str) -> &mut Self {
        let _ = writeln!(self.body, "<p>{}</p>", escaped(text));
        self
    }

    /// Adds text as a program takes or gives it.
    pub fn code(&mut self, text: &str) -> &mut Self {
        let _ = writeln!(self.body, "<pre><code>{}</code></pre>", escaped(text));
        self
    }

    /// Adds a table of figures; wide ones scroll by themselves.
    pub fn table(&mut self, table: &Table) -> &mut Self {
        self.table_of("figures", table)
    }

    /// Adds a table of words, which wrap.
    pub fn words(&mut self, table: &Table) -> &mut Self {
        self.table_of("words", table)
    }

    fn table_of(&mut self, class: &str, table: &Table) -> &mut Self {
        let head = |cell: &String| format!("<th scope=\"col\">{}</th>", escaped(cell));
        let heads: String = table.heads().iter().map(head).collect();
        let _ = writeln!(self.body, "<p class=\"caption\">{}</p>", escaped(table.title()));
        let _ = writeln!(
            self.body,
            "<div class=\"scroll\"><table class=\"{class}\"><thead><tr>{heads}</tr></thead><tbody>"
        );
        for row in table.cells() {
            let cells = row.iter().enumerate().map(|(column, cell)| match (column, with_interval(cell)) {
                (0, _) => format!("<th scope=\"row\">{}</th>", escaped(cell)),
                // Below its figure, so that columns of them stay narrow.
                (_, Some((figure, ends))) => {
                    format!("<td class=\"figure\">{}<small>{}</small></td>", escaped(figure), escaped(ends))
                }
                _ if is_figure(cell) => format!("<td class=\"figure\">{}</td>", escaped(cell)),
                _ => format!("<td>{}</td>", escaped(cell)),
            });
            let _ = writeln!(self.body, "<tr>{}</tr>", cells.collect::<String>());
        }
        self.body.push_str("</tbody></table></div>\n");
        for note in table.notes() {
            let _ = writeln!(self.body, "<p class=\"note\">{}</p>", escaped(note));
        }
        self
    }

    /// Adds a plot; `name` becomes its file's.
    pub fn figure(&mut self, name: &str, caption: &str, svg: &Svg) -> &mut Self {
        let caption = escaped(caption);
        let _ = writeln!(self.body, "<figure>{}<figcaption>{caption}</figcaption></figure>", svg.for_page());
        self.figures.push((name.to_owned(), svg.clone()));
        self
    }

    /// Adds what the reader must know first; nothing when there is nothing.
    pub fn warnings(&mut self, warnings: &[Warning]) -> &mut Self {
        for warning in warnings {
            let (what, advice) = (escaped(&warning.what), escaped(&warning.advice));
            let _ = writeln!(self.body, "<p class=\"warning\"><strong>Warning:</strong> {what}. <em>{advice}</em></p>");
        }
        self
    }

    /// The whole page.
    pub fn html(&self) -> String {
        format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n<title>{}</title>\n<style>\n{}{STYLE}</style>\n</head>\n\
             <body>\n<main>\n{}</main>\n</body>\n</html>\n",
            escaped(&self.title),
            plot::style(),
            self.body
        )
    }

    /// Writes `index.html` and a file for each plot into the folder `dir`, which is made; returns the page's path.
    ///
    /// # Errors
    /// [`PageError`]; no file is left half written.
    pub fn write(&self, dir: &Path) -> Result<PathBuf, PageError> {
        fs::create_dir_all(dir).map_err(|source| PageError { path: dir.to_owned(), source })?;
        for (name, svg) in &self.figures {
            write_whole(&dir.join(format!("{name}.svg")), &svg.for_file())?;
        }
        let page = dir.join("index.html");
        write_whole(&page, &self.html())?;
        Ok(page)
    }
}

/// Writes a file under another name and renames it.
///
/// # Errors
/// [`PageError`].
pub fn write_whole(path: &Path, text: &str) -> Result<(), PageError> {
    let failed = |source| PageError { path: path.to_owned(), source };
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
    io::Write::write_all(&mut file, text.as_bytes()).map_err(failed)?;
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    file.as_file().set_permissions(permissions).map_err(failed)?;
    file.persist(path).map(drop).map_err(|error| failed(error.error))
}

/// A number with its unit, which stays on one line.
fn is_figure(cell: &str) -> bool {
    cell.starts_with(|c: char| c.is_ascii_digit()) && cell.len() <= 10
}

/// A figure and its interval: `1.04 [1.01, 1.08]`.
fn with_interval(cell: &str) -> Option<(&str, &str)> {
    let (figure, ends) = cell.split_once(' ')?;
    (is_figure(figure) && ends.starts_with('[') && ends.ends_with(']')).then_some((figure, ends))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page() -> Page {
        let mut table = Table::new("Times <of> work", &["subject", "p50"]);
        table.row(["<script>alert(1)</script>", "1 us"]).note("a & b");
        let values: Vec<f64> = (1..200).map(f64::from).collect();
        let svg = plot::distributions("cdf", "us", &[plot::Series { name: "x", values: &values }], None).unwrap();
        let mut page = Page::new("A \"page\"", "What it shows");
        page.section("One").paragraph("text").code("a < b").table(&table).figure("cdf", "A plot", &svg);
        page.warnings(&[Warning::new("noisy", "Wait.")]);
        page
    }

    /// Proves that the page fetches nothing and runs nothing: no reference outside of itself and no script.
    #[test]
    fn nothing_comes_from_elsewhere() {
        let html = page().html();
        for word in ["src=", "href=", "url(", "@import", "<script", "<link", "<iframe", "javascript:", "https:"] {
            assert!(!html.contains(word), "{word}");
        }
        // The name of SVG's own namespace is no address that anything fetches.
        let addresses: Vec<_> = html.match_indices("http:").map(|(at, _)| &html[at..at + 26]).collect();
        assert!(addresses.iter().all(|address| *address == "http://www.w3.org/2000/svg"), "{addresses:?}");
        assert!(html.contains("&lt;script&gt;alert(1)"));
        assert!(html.contains("prefers-color-scheme") && html.contains("width=device-width"));
    }

    /// Proves that every element that is opened is closed, in order.
    #[test]
    fn the_markup_is_balanced() {
        let html = page().html();
        let mut open = Vec::new();
        for piece in html.split('<').skip(1) {
            let tag = piece.split('>').next().unwrap();
            let name = tag.trim_start_matches('/').split([' ', '\n', '/']).next().unwrap();
            if tag.starts_with('/') {
                assert_eq!(open.pop(), Some(name), "{tag}");
            } else if !tag.ends_with('/') && !matches!(name, "!DOCTYPE" | "meta") {
                open.push(name);
            }
        }
        assert!(open.is_empty(), "{open:?}");
    }

    /// Proves that page and plots are written as files, and that a folder that cannot be made is named.
    #[test]
    fn page_and_plots_become_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = page().write(&dir.path().join("a/b")).unwrap();
        assert!(fs::read_to_string(&path).unwrap().ends_with("</html>\n"));
        assert!(fs::read_to_string(path.with_file_name("cdf.svg")).unwrap().starts_with("<svg"));
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 2);
        let error = page().write(Path::new("/proc/none")).unwrap_err();
        assert!(error.to_string().contains("/proc/none"), "{error}");
    }

    /// Proves that an interval comes below its figure, and that words in brackets don't.
    #[test]
    fn intervals_come_below_their_figures() {
        assert_eq!(with_interval("1.04 [1.01, 1.08]"), Some(("1.04", "[1.01, 1.08]")));
        assert_eq!(with_interval("1/220 [1/300, 1/90]"), Some(("1/220", "[1/300, 1/90]")));
        for plain in ["1.04", "1.04 ms", "six [of them]", "1 [a] b"] {
            assert_eq!(with_interval(plain), None, "{plain}");
        }
    }
}
