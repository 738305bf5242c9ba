//! Reading a manifest: every line is checked before it is handed out.

use std::io::BufRead;

use super::{FileKind, FileLine, Footer, Header, Line, RefLine};
use crate::base::RelPath;

/// A line between header and footer.
#[derive(Clone, Debug, PartialEq)]
pub enum ManifestLine {
    /// An entry.
    Entry(Box<FileLine>),
    /// The entry is the one with this path in the manifest of another owner.
    Ref {
        /// The path.
        path: RelPath,
        /// Index in the header's table of owners.
        owner: u32,
    },
}

/// Reads a manifest as a stream: an iterator over its entries that ends after a footer whose counts agree.
pub struct ManifestReader<R> {
    inner: R,
    header: Header,
    buffer: Vec<u8>,
    last: Option<RelPath>,
    places: Places,
    footer: Footer,
    ended: bool,
}

impl<R: BufRead> ManifestReader<R> {
    /// Reads the header.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn new(mut inner: R) -> Result<Self, String> {
        let mut buffer = Vec::new();
        match read_line(&mut inner, &mut buffer)? {
            Some(Line::Header(header)) => {
                let header = *header;
                if header.format != crate::repo::signed::FORMAT {
                    return Err(format!("the manifest has format {}, unknown to this version of lifeboat", header.format));
                }
                let places = Places::of(&header);
                Ok(Self { inner, header, buffer, last: None, places, footer: Footer::default(), ended: false })
            }
            _ => Err("the manifest does not begin with a header".to_owned()),
        }
    }

    /// The header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    fn read_entry(&mut self) -> Result<Option<ManifestLine>, String> {
        match read_line(&mut self.inner, &mut self.buffer)? {
            Some(Line::Entry(line)) => {
                self.next(&line.path)?;
                self.check(&line)?;
                self.footer.count(&line);
                Ok(Some(ManifestLine::Entry(line)))
            }
            Some(Line::Ref(RefLine { path, owner })) => {
                self.next(&path)?;
                if owner == 0 || owner as usize >= self.header.owners.len() {
                    return Err(format!("{path} refers to an unknown owner {owner}"));
                }
                self.footer.refs += 1;
                Ok(Some(ManifestLine::Ref { path, owner }))
            }
            Some(Line::Footer(footer)) if footer == self.footer => match read_line(&mut self.inner, &mut self.buffer)? {
                None => Ok(None),
                Some(_) => Err("the manifest goes on after its footer".to_owned()),
            },
            Some(Line::Footer(_)) => Err("the manifest's footer does not agree with its entries".to_owned()),
            Some(Line::Header(_)) => Err("the manifest has a second header".to_owned()),
            None => Err("the manifest is cut short".to_owned()),
        }
    }

    fn next(&mut self, path: &RelPath) -> Result<(), String> {
        if self.last.as_ref().is_some_and(|last| last >= path) {
            return Err(format!("the manifest is out of order at {path}"));
        }
        self.last = Some(path.clone());
        Ok(())
    }

    fn check(&mut self, line: &FileLine) -> Result<(), String> {
        self.places.check(line)?;
        line.check_patches()?;
        match self.header.is_tree() {
            true => line.check_tree()?,
            false if line.tree.is_some() || line.kind.is_of_trees() => {
                return Err(format!("{} is an entry that only a directory has", line.path));
            }
            false => {}
        }
        let frames: u64 = line.frames.iter().map(|frame| u64::from(frame.raw_len)).sum();
        if frames != line.size_bytes {
            return Err(format!("the frames of {} hold {frames} bytes where {} are declared", line.path, line.size_bytes));
        }
        let owners = line.frames.iter().chain(line.patches.iter().map(|patch| &patch.frame)).map(|frame| frame.owner);
        match owners.max() {
            Some(owner) if owner as usize >= self.header.owners.len() => {
                Err(format!("{} names an unknown owner {owner}", line.path))
            }
            _ => Ok(()),
        }
    }
}

/// Whoever may write backups must not be able to write elsewhere on the host that restores one: nothing lies below a
/// link or a file, and links to tablespaces stand where PostgreSQL has them and lead to nothing but its own directories.
pub(super) struct Places {
    /// The last entry that is no directory: nothing may lie below it.
    leaf: Option<RelPath>,
    /// A directory's names are its own: what is called like PostgreSQL's is not that.
    is_tree: bool,
}

impl Places {
    /// Of entries of the manifest with this header.
    pub fn of(header: &Header) -> Self {
        Self { leaf: None, is_tree: header.is_tree() }
    }

    /// Checks the next entry.
    pub fn check(&mut self, line: &FileLine) -> Result<(), String> {
        let path = line.path.as_bytes();
        let below = |leaf: &RelPath| path.strip_prefix(leaf.as_bytes()).is_some_and(|rest| rest.starts_with(b"/"));
        if self.leaf.as_ref().is_some_and(below) {
            return Err(format!("{} lies below something that is no directory", line.path));
        }
        let parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
        let in_tablespaces = !self.is_tree && parts[0] == b"pg_tblspc";
        let numbered = parts.get(1).is_some_and(|part| part.iter().all(u8::is_ascii_digit));
        match line.kind {
            FileKind::Tablespace { .. } if !(in_tablespaces && numbered && parts.len() == 2) => {
                return Err(format!("{} cannot be a tablespace", line.path));
            }
            _ if in_tablespaces && parts.get(2).is_some_and(|part| !part.starts_with(b"PG_")) => {
                return Err(format!("{} does not belong into a tablespace", line.path));
            }
            FileKind::Directory | FileKind::Tablespace { .. } => {}
            _ => self.leaf = Some(line.path.clone()),
        }
        Ok(())
    }
}

impl<R: BufRead> Iterator for ManifestReader<R> {
    type Item = Result<ManifestLine, String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let entry = self.read_entry().transpose();
        self.ended = !matches!(entry, Some(Ok(_)));
        entry
    }
}

fn read_line<R: BufRead>(inner: &mut R, buffer: &mut Vec<u8>) -> Result<Option<Line>, String> {
    buffer.clear();
    inner.read_until(b'\n', buffer).map_err(|error| format!("the manifest cannot be read: {error}"))?;
    if buffer.is_empty() {
        return Ok(None);
    }
    serde_json::from_slice(buffer).map(Some).map_err(|error| format!("the manifest is damaged: {error}"))
}
