//! A manifest with the entries that it only refers to, read as one stream.
//!
//! All manifests of a chain are sorted by path: each is read once, forwards, beside the others. A reference leads to
//! an entry of the manifest it names; one that leads to another reference, or to nothing, is damage.

use std::collections::BTreeMap;
use std::io::BufRead;

use super::reader::Places;
use super::{FileLine, Header, ManifestLine, ManifestReader};
use crate::base::{BackupId, RelPath};

/// An entry and the manifest that holds it.
#[derive(Clone, Debug, PartialEq)]
pub struct Resolved {
    /// The entry; its owners are indices in the header of the manifest that is being resolved.
    pub line: FileLine,
    /// Index of the backup whose manifest holds it, in the same table.
    pub holder: u32,
}

/// Opens the manifest of a backup: called once for each that is referred to.
pub type OpenManifest<R> = Box<dyn FnMut(&BackupId) -> Result<ManifestReader<R>, String>>;

/// Resolves a manifest: an iterator over all of its entries, in the order of their paths.
pub struct Resolver<R> {
    top: ManifestReader<R>,
    open: OpenManifest<R>,
    others: BTreeMap<u32, Other<R>>,
    places: Places,
    ended: bool,
}

/// Another manifest of the chain, read as far as it was needed.
struct Other<R> {
    reader: ManifestReader<R>,
    /// Its owners as indices in the top manifest's table.
    owners: Vec<u32>,
}

impl<R: BufRead> Resolver<R> {
    /// Resolves `top` with the manifests that `open` gives.
    pub fn new(top: ManifestReader<R>, open: OpenManifest<R>) -> Self {
        Self { top, open, others: BTreeMap::new(), places: Places::default(), ended: false }
    }

    /// The header of the manifest that is being resolved.
    pub fn header(&self) -> &Header {
        self.top.header()
    }

    fn read(&mut self) -> Result<Option<Resolved>, String> {
        let resolved = match self.top.next().transpose()? {
            None => return Ok(None),
            Some(ManifestLine::Entry(line)) => Resolved { line: *line, holder: 0 },
            Some(ManifestLine::Ref { path, owner }) => Resolved { line: self.follow(&path, owner)?, holder: owner },
        };
        self.places.check(&resolved.line)?;
        Ok(Some(resolved))
    }

    fn follow(&mut self, path: &RelPath, owner: u32) -> Result<FileLine, String> {
        if !self.others.contains_key(&owner) {
            let other = self.open_other(owner)?;
            self.others.insert(owner, other);
        }
        let id = self.top.header().owners[owner as usize].clone();
        let other = self.others.get_mut(&owner).ok_or_else(|| format!("the manifest of {id} is not at hand"))?;
        for found in other.reader.by_ref() {
            match found.map_err(|why| format!("manifest of {id}: {why}"))? {
                ManifestLine::Entry(line) if line.path == *path => return renumbered(*line, &other.owners),
                ManifestLine::Ref { path: referring, .. } if referring == *path => {
                    return Err(format!("{path} refers to the manifest of {id}, which refers to yet another"));
                }
                ManifestLine::Entry(line) if line.path > *path => break,
                ManifestLine::Ref { path: later, .. } if later > *path => break,
                _ => {}
            }
        }
        Err(format!("{path} refers to the manifest of {id}, which has no such entry"))
    }

    fn open_other(&mut self, owner: u32) -> Result<Other<R>, String> {
        let header = self.top.header();
        let id = header.owners[owner as usize].clone();
        let reader = (self.open)(&id)?;
        let theirs = reader.header();
        if (&theirs.backup, &theirs.source, &theirs.incarnation) != (&id, &header.source, &header.incarnation) {
            return Err(format!("the manifest of {id} is that of {} of {}", theirs.backup, theirs.source));
        }
        let index = |id: &BackupId| {
            let at = header.owners.iter().position(|owner| owner == id);
            at.and_then(|at| u32::try_from(at).ok()).ok_or_else(|| format!("the manifest does not name its owner {id}"))
        };
        let owners = theirs.owners.iter().map(index).collect::<Result<_, _>>()?;
        Ok(Other { reader, owners })
    }
}

/// `line` with its owners as indices in another table.
fn renumbered(mut line: FileLine, owners: &[u32]) -> Result<FileLine, String> {
    let frames = line.frames.iter_mut().chain(line.patches.iter_mut().map(|patch| &mut patch.frame));
    for frame in frames {
        // In range: the reader has checked it.
        frame.owner = owners[frame.owner as usize];
    }
    line.check_patches()?;
    Ok(line)
}

impl<R: BufRead> Iterator for Resolver<R> {
    type Item = Result<Resolved, String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let resolved = self.read().transpose();
        self.ended = !matches!(resolved, Some(Ok(_)));
        resolved
    }
}
