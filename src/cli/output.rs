//! Results on stdout: text for people, versioned documents for programs.

use std::io::{self, Write};
use std::path::Path;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde::Serialize;

use super::args::OutputFormat;
use crate::base::{Error, Result, durable};

#[derive(Serialize)]
struct Envelope<'b, T> {
    lifeboat: Header<'b>,
    #[serde(flatten)]
    body: &'b T,
}

#[derive(Serialize)]
struct Header<'b> {
    document: &'b str,
    version: u32,
}

/// As [`document`], in one line.
pub fn document_line<T: Serialize>(name: &str, version: u32, body: &T) -> String {
    let envelope = Envelope { lifeboat: Header { document: name, version }, body };
    serde_json::to_string(&envelope).expect("a result is an object with string keys")
}

/// A JSON document: `{"lifeboat": {"document": name, "version": version}, …body}`, without a final newline.
///
/// `body` must serialise to an object with string keys; `version` grows when a name or a meaning changes.
pub fn document<T: Serialize>(name: &str, version: u32, body: &T) -> String {
    let envelope = Envelope { lifeboat: Header { document: name, version }, body };
    serde_json::to_string_pretty(&envelope).expect("a result is an object with string keys")
}

/// Writes a verb's result in the form asked for: `body` as the document `name`, or the text that `text` makes.
///
/// # Errors
/// As [`print`].
pub fn result<T: Serialize>(
    format: OutputFormat,
    name: &str,
    version: u32,
    body: &T,
    text: impl FnOnce() -> String,
) -> Result<()> {
    match format {
        OutputFormat::Json => print(&(document(name, version, body) + "\n")),
        OutputFormat::Text => print(&text()),
    }
}

/// Writes `text` to stdout as it is. A reader that has seen enough (`| head`) is no error.
///
/// # Errors
/// When stdout cannot be written to, as on a full disk.
pub fn print(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::failed("cannot write to standard output").caused_by(error))
        }
        _ => Ok(()),
    }
}

/// Replaces the file `path` by `text`, whole or not at all, for others to read as well.
///
/// # Errors
/// When it cannot be written.
pub fn write_file(path: &Path, text: &str) -> Result<()> {
    durable::write_file(path, text.as_bytes(), 0o644).map_err(|error| Error::io("write", path, error))
}

/// On which side of its column a cell stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// For words.
    Left,
    /// For numbers.
    Right,
}

/// Lines with aligned columns, two spaces apart, without borders or trailing spaces; each ends in a newline.
///
/// `columns` gives header and alignment; every row has as many cells. Nothing is cut or wrapped, so that what is shown
/// can be copied: keep rows under 80 columns.
pub fn table(columns: &[(&str, Align)], rows: &[Vec<String>]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled).force_no_tty();
    table.set_header(columns.iter().map(|(header, _)| *header));
    table.add_rows(rows.iter().map(|row| row.iter()));
    for (column, (_, align)) in table.column_iter_mut().zip(columns) {
        column.set_padding((0, 2));
        column.set_cell_alignment(match align {
            Align::Left => CellAlignment::Left,
            Align::Right => CellAlignment::Right,
        });
    }
    table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// Columns of a terminal.
const COLUMNS: usize = 80;

/// `lead` and `text`, broken between words, but not between a number and its unit; the lines after the first begin at
/// column `indent`.
pub fn wrapped(lead: &str, indent: usize, text: &str) -> String {
    let mut line = lead.to_owned();
    let mut out = String::new();
    let mut is_fresh = true;
    let mut words = text.split_whitespace();
    while let Some(word) = words.next() {
        let unit = word.parse::<f64>().ok().and_then(|_| words.next());
        let word = &unit.map_or_else(|| word.to_owned(), |unit| format!("{word} {unit}"));
        let width = line.chars().count() + usize::from(!is_fresh) + word.chars().count();
        if !is_fresh && width > COLUMNS {
            out += line.trim_end();
            out.push('\n');
            line = " ".repeat(indent);
            is_fresh = true;
        }
        if !is_fresh {
            line.push(' ');
        }
        line += word;
        is_fresh = false;
    }
    out + line.trim_end() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_without_borders_or_trailing_spaces() {
        let columns = [("backup", Align::Left), ("size", Align::Right), ("", Align::Left)];
        let rows = [["20261120T214002Z-full-k3fq", "1.25 GiB", "ok"], ["größer", "16 B", ""]];
        let rows: Vec<Vec<String>> = rows.iter().map(|row| row.map(str::to_owned).to_vec()).collect();
        assert_eq!(
            table(&columns, &rows),
            "backup                          size\n\
             20261120T214002Z-full-k3fq  1.25 GiB  ok\n\
             größer                          16 B\n"
        );
    }

    #[test]
    fn long_text_is_broken_between_words_and_stays_in_its_column() {
        let text = wrapped("  server  ", 10, &"archived 000000010000000000000003 ".repeat(6));
        assert!(text.lines().all(|line| line.chars().count() <= COLUMNS), "{text}");
        assert!(text.lines().skip(1).all(|line| line.starts_with(&" ".repeat(10)) && !line.ends_with(' ')), "{text}");
        let text = wrapped(&" ".repeat(22), 22, "nothing lost, RPO 15 min; worst in 24 h 6.3 s, in 30 d 6.3 s");
        assert!(text.ends_with("\n                      6.3 s\n"), "{text}");
    }

    #[test]
    fn a_document_names_itself_and_its_version() {
        #[derive(Serialize)]
        struct Body {
            stored_bytes: u64,
        }
        let value: serde_json::Value = serde_json::from_str(&document("list", 1, &Body { stored_bytes: 5 })).unwrap();
        assert_eq!(value, serde_json::json!({"lifeboat": {"document": "list", "version": 1}, "stored_bytes": 5}));
    }
}
