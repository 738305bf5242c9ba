//! The passes over a backup's entries: what is wanted at all, then the tree without content, then what belongs to each file.

use super::super::line::{entry_of, holes_within, pieces_of};
use crate::base::cancel::Cancel;
use crate::base::{Error, ErrorKind, Result};
use crate::engine::chain::Chain;
use crate::engine::restore::spill::{Placed, Spill};
use crate::repo::BackupSummary;
use crate::repo::manifest::{FileLine, Stretch};
use crate::source::directory::entry::{Entry, Kind};
use crate::source::directory::restore::Restorer;
use crate::source::directory::select::{Selection, StandIns};

/// What of a backup is restored.
pub(super) struct Wanted {
    selection: Selection,
    stand_ins: StandIns,
    /// Entries.
    pub entries: u64,
    /// Bytes of data.
    pub raw_bytes: u64,
}

/// What is done with one entry.
enum Treatment {
    /// It is restored, under this path.
    Restore(Entry),
    /// It is not wanted, but may lie on the way to something that is.
    OnTheWay(Entry),
    /// It is not wanted.
    Leave,
}

impl Wanted {
    /// Reads all entries of `chain` and finds out what `paths` select.
    ///
    /// # Errors
    /// When a path matches nothing; damaged when the manifest is not the one that its commit entry says.
    pub fn of(chain: &Chain, backup: &BackupSummary, paths: &[String], cancel: &Cancel) -> Result<Self> {
        let selection = Selection::new(paths)?;
        let mut wanted = Self { selection, stand_ins: StandIns::default(), entries: 0, raw_bytes: 0 };
        let (mut entries, mut raw_bytes) = (0, 0);
        for resolved in chain.entries()? {
            cancel.check()?;
            let line = resolved?.line;
            entries += 1;
            raw_bytes += line.size_bytes;
            let entry = entry_of(&line)?;
            if wanted.selection.wants(&line.path) {
                wanted.entries += 1;
                wanted.raw_bytes += line.size_bytes;
                wanted.stand_ins.place(&wanted.selection, &entry);
            }
        }
        if (entries, raw_bytes) != (backup.entries, backup.raw_bytes) {
            let id = &backup.id;
            return Err(Error::damaged(format!("the manifest of {id} does not hold what its commit entry says")));
        }
        match wanted.selection.unmatched().as_slice() {
            [] => Ok(wanted),
            unmatched => Err(unmatched
                .iter()
                .fold(Error::failed("not everything that was asked for is in this backup"), |error, path| {
                    error.detail("not there", (*path).to_owned())
                })
                .hint("lifeboat ls SOURCE --recursive   shows what there is; paths count from the protected directory")),
        }
    }

    fn treat(&self, line: &FileLine) -> Result<Treatment> {
        let entry = entry_of(line)?;
        if self.selection.wants(&line.path) {
            return Ok(Treatment::Restore(entry));
        }
        if let Some(path) = self.stand_ins.of(&line.path) {
            return Ok(Treatment::Restore(Entry { path: path.clone(), ..entry }));
        }
        Ok(if entry.node.kind == Kind::Directory { Treatment::OnTheWay(entry) } else { Treatment::Leave })
    }

    /// Makes everything that has no content, and files of their length; notes in `spill` where content goes.
    ///
    /// # Errors
    /// Damaged, or the disk's.
    pub fn make(&mut self, chain: &Chain, restorer: &Restorer, spill: &mut Spill, cancel: &Cancel) -> Result<()> {
        self.raw_bytes = 0;
        for resolved in chain.entries()? {
            cancel.check()?;
            let line = resolved?.line;
            let treatment = self.treat(&line)?;
            if let Treatment::Restore(entry) = &treatment {
                restorer.marked(entry);
            }
            match treatment {
                Treatment::Leave => {}
                Treatment::OnTheWay(entry) => restorer.directory_on_the_way(&entry)?,
                Treatment::Restore(entry) if entry.first_link.is_some() => {}
                Treatment::Restore(entry) => match entry.node.kind {
                    Kind::Directory => restorer.directory(&entry)?,
                    Kind::File if entry.content.is_none() => restorer.missing(&entry),
                    Kind::File => {
                        restorer.make_file(&entry, pieces_of(&line))?;
                        self.raw_bytes += line.size_bytes;
                        place(&line, &entry, spill)?;
                    }
                    _ => restorer.other(&entry)?,
                },
            }
        }
        Ok(())
    }

    /// Gives each file what belongs to it, and all its names.
    ///
    /// # Errors
    /// Damaged, or the disk's.
    pub fn finish(&mut self, chain: &Chain, restorer: &Restorer, cancel: &Cancel) -> Result<()> {
        for resolved in chain.entries()? {
            cancel.check()?;
            let Treatment::Restore(entry) = self.treat(&resolved?.line)? else { continue };
            if entry.node.kind == Kind::File && entry.first_link.is_none() && entry.content.is_some() {
                restorer.settle(&entry)?;
                continue;
            }
            // The one that stands in for its first name is a file already.
            if let Some(first) = self.stand_ins.place(&self.selection, &entry).filter(|first| *first != entry.path) {
                restorer.link(&entry, &first)?;
            }
        }
        Ok(())
    }
}

/// Notes where the frames of `line` go in the file of `entry`.
fn place(line: &FileLine, entry: &Entry, spill: &mut Spill) -> Result<()> {
    let holes = line.tree.as_ref().map(|tree| tree.holes.as_slice()).unwrap_or_default();
    for placed in line.placed() {
        let end = placed.offset.saturating_add(placed.frame.raw_len.into());
        spill.add(Placed {
            frame: placed.frame,
            path: entry.path.clone(),
            file_bytes: entry.node.size_bytes,
            stretches: vec![Stretch { raw_offset: 0, file_offset: placed.offset, len_bytes: placed.frame.raw_len }],
            address: Some(placed.address),
            holes: holes_within(holes, placed.offset, end),
        })?;
    }
    Ok(())
}

/// What a damaged chunk means for the whole.
pub(super) fn explained(error: Error) -> Error {
    match error.kind() {
        ErrorKind::Damaged if error.hints().is_empty() => {
            error.hint("lifeboat verify --deep   shows what else is damaged; an older backup may be whole")
        }
        _ => error,
    }
}
