//! What `ls` and `diff` need: a backup's manifests from the first repository that can give them, and a document that is
//! written as it is read.

use std::io::{self, BufWriter, StdoutLock, Write};

use serde::Serialize;

use super::config::{RepositorySettings, Settings};
use super::context::Context;
use super::output;
use super::restoring;
use super::scope::{self, Use};
use crate::base::{Error, ErrorKind, Result, SourceName};
use crate::engine::directory::catalogue::{Catalogue, Which, choose};
use crate::engine::head;

/// The backups that are meant, of `source`, from one repository.
///
/// # Errors
/// The first refusal, when no repository can give all of them.
pub async fn open(context: &Context, settings: &Settings, source: &SourceName, which: &[&Which]) -> Result<Vec<Catalogue>> {
    let mut first = None;
    for chosen in restoring::repositories(source, context, settings)? {
        let opening = open_from(context, settings, chosen, source, which);
        let opened = tokio::select! {
            opened = opening => opened,
            () = context.cancel.cancelled() => Err(Error::interrupted()),
        };
        match opened {
            Ok(opened) => return Ok(opened),
            Err(error) if error.kind() == ErrorKind::Interrupted => return Err(error),
            Err(error) => {
                // An answer is worth more than an outage.
                if first.as_ref().is_none_or(|first: &Error| first.kind() == ErrorKind::Unreachable) {
                    first = Some(error);
                }
            }
        }
    }
    Err(first.unwrap_or_else(|| Error::usage(format!("{source} names no repository"))))
}

async fn open_from(
    context: &Context,
    settings: &Settings,
    chosen: &RepositorySettings,
    source: &SourceName,
    which: &[&Which],
) -> Result<Vec<Catalogue>> {
    let layers = scope::layers(context, chosen, Use::Brief);
    let scope = scope::open(context, settings, chosen, source, &layers).await?;
    let seen = head::look(&scope).await?;
    seen.warning.iter().for_each(|warning| context.progress.warn(warning));
    let mut opened = Vec::new();
    for which in which {
        let backup = choose(&scope, &seen.log, which)?;
        opened.push(Catalogue::open(&scope, &seen.log, &settings.encryption, backup).await?);
    }
    Ok(opened)
}

/// A document whose last field is a list that is written item by item: it may be longer than memory is large.
pub struct StreamedDocument {
    out: BufWriter<StdoutLock<'static>>,
    items: u64,
}

impl StreamedDocument {
    /// Begins the document `name` with the fields of `head`, and its list `list`.
    ///
    /// # Errors
    /// When stdout cannot be written to.
    pub fn begin<T: Serialize>(name: &str, version: u32, head: &T, list: &str) -> Result<Self> {
        let mut document = Self { out: BufWriter::new(io::stdout().lock()), items: 0 };
        let text = output::document_line(name, version, head);
        let open = text.strip_suffix('}').unwrap_or(&text);
        document.write(&format!("{open},\"{list}\":["))?;
        Ok(document)
    }

    /// Adds one item.
    ///
    /// # Errors
    /// When stdout cannot be written to.
    pub fn item<T: Serialize>(&mut self, item: &T) -> Result<()> {
        let text = serde_json::to_string(item).map_err(|error| Error::failed("cannot write a result").caused_by(error))?;
        let comma = if self.items == 0 { "" } else { "," };
        self.items += 1;
        self.write(&format!("{comma}\n{text}"))
    }

    /// Ends it.
    ///
    /// # Errors
    /// When stdout cannot be written to.
    pub fn finish(mut self) -> Result<()> {
        self.write("\n]}\n")?;
        told(self.out.flush())
    }

    fn write(&mut self, text: &str) -> Result<()> {
        told(self.out.write_all(text.as_bytes()))
    }
}

/// Lines of text, written as they come.
pub struct StreamedText(BufWriter<StdoutLock<'static>>);

impl StreamedText {
    /// Nothing yet.
    pub fn begin() -> Self {
        Self(BufWriter::new(io::stdout().lock()))
    }

    /// Writes one line.
    ///
    /// # Errors
    /// When stdout cannot be written to; [`ErrorKind::Interrupted`] when its reader has seen enough.
    pub fn line(&mut self, line: &str) -> Result<()> {
        told(writeln!(self.0, "{line}"))
    }

    /// Ends it.
    ///
    /// # Errors
    /// As [`StreamedText::line`].
    pub fn finish(mut self) -> Result<()> {
        told(self.0.flush())
    }
}

fn told(written: io::Result<()>) -> Result<()> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Error::interrupted()),
        written => written.map_err(|error| Error::failed("cannot write to standard output").caused_by(error)),
    }
}

/// `outcome`, where a reader that has seen enough (`| head`) is no error.
///
/// # Errors
/// Any other.
pub fn unless_enough(context: &Context, outcome: Result<()>) -> Result<()> {
    match outcome {
        Err(error) if error.kind() == ErrorKind::Interrupted && !context.cancel.is_cancelled() => Ok(()),
        outcome => outcome,
    }
}

/// A path or another text as one line of a terminal: what is no printable text is escaped as `\n`, `\x1b` or `\xff`.
pub fn printable(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => text += "\\\\",
                c if c.is_control() => text.extend(c.escape_default()),
                c => text.push(c),
            }
        }
        chunk.invalid().iter().for_each(|byte| text += &format!("\\x{byte:02x}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_move_the_cursor_or_hide_itself() {
        for (name, shown) in [
            (&b"plain \xc3\xbc.txt"[..], "plain ü.txt"),
            (b"a\nb", r"a\nb"),
            (b"\x1b[2Jgone", r"\u{1b}[2Jgone"),
            (b"\xff\xfe", r"\xff\xfe"),
            (b"back\\slash", r"back\\slash"),
        ] {
            assert_eq!(printable(name), shown);
        }
    }
}
