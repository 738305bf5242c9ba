//! Manifests, read to their end: each alone for the frames that its packs must hold, and together with those it builds on
//! for what a restore would make of them.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use super::fetch;
use super::finding::Finding;
use super::foreign::{self, Foreign};
use super::frames::{FrameSorter, SortedFrames};
use super::plan;
use super::run::Run;
use crate::base::{BackupId, Engine, Error, Result, SourceName};
use crate::codec::encrypt::Opener;
use crate::engine::chain::{self, Link, ManifestCopy};
use crate::engine::directory::entry_of;
use crate::engine::joined;
use crate::repo::BackupSummary;
use crate::repo::host_state::{HostState, Scratch};
use crate::repo::manifest::resolve::Resolved;
use crate::repo::manifest::{FileLine, ManifestLine};
use crate::source::directory::links::LinkCheck;

/// Sound manifests of backups that later ones build on, as they are stored: each is fetched once a run.
#[derive(Default)]
pub(super) struct KeptManifests {
    dir: Option<Scratch>,
    copies: BTreeMap<BackupId, ManifestCopy>,
    /// Where the frames of their own lie, sorted, and whether that is asked again: of a directory it is.
    frames: BTreeMap<BackupId, (SortedFrames, bool)>,
}

impl KeptManifests {
    /// Where that of `id` is to lie, in a directory that is made when the first one comes.
    fn place(&mut self, state: &HostState, id: &BackupId) -> Result<PathBuf> {
        let dir = match self.dir.take() {
            Some(dir) => dir,
            None => state.scratch()?,
        };
        Ok(self.dir.insert(dir).path().join(format!("manifest-{id}")))
    }

    /// Those of all these backups, if they are here.
    fn of<'b>(&self, backups: impl Iterator<Item = &'b BackupId>) -> Option<Vec<ManifestCopy>> {
        backups.map(|id| self.copies.get(id).cloned()).collect()
    }

    /// Forgets all but those that are `wanted`.
    ///
    /// # Errors
    /// When a file cannot be removed.
    pub fn keep(&mut self, wanted: impl Fn(&BackupId) -> bool) -> Result<()> {
        let unwanted: Vec<BackupId> = self.copies.keys().filter(|id| !wanted(id)).cloned().collect();
        let is_unwanted = |(id, (_, again)): (&BackupId, &(SortedFrames, bool))| (!again || !wanted(id)).then(|| id.clone());
        let unwanted_frames: Vec<BackupId> = self.frames.iter().filter_map(is_unwanted).collect();
        for (frames, _) in unwanted_frames.iter().filter_map(|id| self.frames.remove(id)) {
            frames.remove().map_err(|error| Error::failed("cannot remove a scratch file").caused_by(error))?;
        }
        for copy in unwanted.iter().filter_map(|id| self.copies.remove(id)) {
            std::fs::remove_file(&copy.path).map_err(|error| Error::io("remove", &copy.path, error))?;
        }
        Ok(())
    }
}

impl Run<'_> {
    /// Reads a backup's manifest; the frames that its own packs must hold, or `None` when it is damaged.
    ///
    /// # Errors
    /// When the repository or the scratch directory fails; damage is reported.
    pub(super) async fn manifest(&mut self, summary: &BackupSummary, opener: &Opener) -> Result<Option<SortedFrames>> {
        let check = plan::manifest_check(self.source(), summary);
        let link = Link { summary: summary.clone(), opener: opener.clone() };
        let copy = ManifestCopy { link, path: self.manifests.place(&self.scope.state, &summary.id)? };
        let found = fetch::digest(self.store(), &check.key, Some(&copy.path)).await?;
        if !self.conclude(&check, found) {
            return Ok(None);
        }
        // When something that it builds on is damaged, that is told already, and this one is read alone.
        let base = self.chains.bases(&summary.id).and_then(|bases| self.manifests.of(bases));
        // As many packs as the signed entry says: their list may be damaged, for which the manifest cannot help.
        let dir = copy.path.with_extension("frames");
        let sorter = std::fs::create_dir(&dir).and_then(|()| FrameSorter::new(&dir, summary.packs));
        let sorter = sorter.map_err(|error| Error::io("write to", &dir, error))?;
        let bases: Vec<BackupId> = base.iter().flatten().map(|copy| copy.link.summary.id.clone()).collect();
        let theirs = bases.iter().map(|id| self.manifests.frames.get(id).map(|(frames, _)| frames.clone())).collect();
        let (source, top) = (self.source().clone(), copy.clone());
        let reading = move || {
            Ok(match base {
                Some(base) => read_chain(&source, [vec![top], base].concat(), theirs, sorter),
                None => read_alone(&source, &top, sorter),
            })
        };
        match joined(tokio::task::spawn_blocking(reading).await)? {
            Ok(frames) => {
                self.manifests.copies.insert(summary.id.clone(), copy);
                let is_tree = summary.incarnation.engine() == Engine::Directory;
                self.manifests.frames.insert(summary.id.clone(), (frames.clone(), is_tree));
                Ok(Some(frames))
            }
            Err(what) => {
                self.find(Finding::damage(check.key, what).affecting(&check.backups));
                Ok(None)
            }
        }
    }
}

/// Counts of a tree.
#[derive(Default)]
struct Tally {
    entries: u64,
    raw_bytes: u64,
    bad_pages: u64,
}

impl Tally {
    fn count(&mut self, line: &FileLine) {
        self.entries += 1;
        self.raw_bytes += line.size_bytes;
        self.bad_pages += line.flaws();
    }

    fn compare(&self, summary: &BackupSummary) -> std::result::Result<(), String> {
        agree("entries", self.entries, summary.entries)?;
        agree("bytes", self.raw_bytes, summary.raw_bytes)?;
        agree("bad pages", self.bad_pages, summary.bad_pages)
    }
}

fn agree(what: &str, found: u64, expected: u64) -> std::result::Result<(), String> {
    if found == expected { Ok(()) } else { Err(format!("has {found} {what} where the commit entry says {expected}")) }
}

/// Reads the first of `copies` with all that it refers to, and compares the tree with the commit entry.
fn read_chain(
    source: &SourceName,
    copies: Vec<ManifestCopy>,
    theirs: Vec<Option<SortedFrames>>,
    mut sorter: FrameSorter,
) -> std::result::Result<SortedFrames, String> {
    let summary = copies[0].link.summary.clone();
    let ids: Vec<BackupId> = copies.iter().map(|copy| copy.link.summary.id.clone()).collect();
    let packs = copies.iter().map(|copy| copy.link.summary.packs).max().unwrap_or(0);
    let dir = copies[0].path.with_extension("foreign");
    let resolver = chain::resolver(source, copies).map_err(|error| error.summary())?;
    let mut foreign = match resolver.header().is_tree() {
        true => Some(Foreign::new(&dir, packs).map_err(|error| error.to_string())?),
        false => None,
    };
    // Beside the copies, which lie in a scratch directory.
    let mut links = foreign.as_ref().map(|_| LinkCheck::new(dir.parent().unwrap_or(&dir)));
    let mut tally = Tally { bad_pages: resolver.header().not_stored(), ..Tally::default() };
    for resolved in resolver.with_origins() {
        let Resolved { line, holder } = resolved?;
        tally.count(&line);
        if let Some(links) = &mut links {
            entry_of(&line).and_then(|entry| links.check(&entry)).map_err(|error| error.summary())?;
        }
        if holder == 0 {
            sort_own(&line, &mut sorter)?;
            foreign.as_mut().map_or(Ok(()), |foreign| foreign.add(&line))?;
        }
    }
    tally.compare(&summary)?;
    foreign.map_or(Ok(()), |foreign| foreign.compare(&ids, theirs))?;
    sorter.finish().map_err(|error| error.to_string())
}

/// Reads a manifest without those that it refers to.
fn read_alone(source: &SourceName, copy: &ManifestCopy, mut sorter: FrameSorter) -> std::result::Result<SortedFrames, String> {
    let summary = &copy.link.summary;
    let reader = copy.open(source).map_err(|error| error.summary())?;
    let header = reader.header();
    let own = header.owners.first();
    if (&header.backup, &header.source, &header.incarnation, own)
        != (&summary.id, source, &summary.incarnation, Some(&summary.id))
    {
        return Err(format!("belongs to backup {} of {}, not to this one", header.backup, header.source));
    }
    let mut entries = 0;
    for line in reader {
        entries += 1;
        if let ManifestLine::Entry(line) = line? {
            sort_own(&line, &mut sorter)?;
        }
    }
    agree("entries", entries, summary.entries)?;
    sorter.finish().map_err(|error| error.to_string())
}

/// Adds the frames of `line` that lie in the packs of its own backup. Those of others are verified with these.
fn sort_own(line: &FileLine, sorter: &mut FrameSorter) -> std::result::Result<(), String> {
    for named in foreign::named(line).filter(|named| named.frame.owner == 0) {
        if !sorter.add(&named).map_err(|error: io::Error| error.to_string())? {
            return Err(format!("{} lies in pack {}, which does not exist", line.path, named.frame.pack));
        }
    }
    Ok(())
}
