//! What a backup of a directory builds on: the decision, the base's lines, and where its chunks are.
//!
//! The lines of a base are those that this host keeps of it or, where it keeps none and an identity is at hand, those of its
//! manifest; without both a full is taken, and the reason said. Only lines that this host wrote, of this very directory, let
//! a file be left unread; the others say what to store of what is read.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::line::pieces_of;
use crate::base::{BackupId, BackupType, Engine, Error, Incarnation, Result, Timestamp};
use crate::codec::encrypt::Identity;
use crate::engine::Scope;
use crate::engine::backup::plan::{Choice, Decision, Wish, decide_by, unfit_chain};
use crate::engine::backup::{auto, host_name};
use crate::engine::chain::{self, Chain};
use crate::repo::base_cache::{BaseLine, BaseReader, BaseWriter, PageMarks, Place as HostPlace};
use crate::repo::expiry::Marks;
use crate::repo::manifest::resolve::Resolved;
use crate::repo::{BackupSummary, CommitLog, identity};
use crate::source::directory::index::{Index, Place};

/// The directory, at the moment when a backup of it starts.
pub(super) struct Moment<'a> {
    /// Where it is.
    pub place: &'a HostPlace,
    /// When that is, by this host's clock.
    pub started: Timestamp,
    /// What opens the base's manifest; empty on most hosts.
    pub identities: &'a [Identity],
    /// Directory for files of this run.
    pub scratch: &'a Path,
}

/// The decision and what it takes to carry it out.
pub(super) struct Chosen {
    pub decision: Decision,
    /// That of the newest backup, or a new one.
    pub incarnation: Incarnation,
    pub base: Option<OpenBase>,
    /// What the operator should know.
    pub notes: Vec<String>,
    /// The newest backup, if there is one.
    pub newest: Option<BackupSummary>,
}

/// Refuses a backup that finds nothing where the newest backup has something: a disk that is not mounted looks like that, and
/// would be taken for a directory that everything was deleted from.
///
/// # Errors
/// When it is so.
pub(super) fn refuse_emptied(path: &Path, newest: Option<&BackupSummary>, found: u64, left: u64) -> Result<()> {
    let Some(newest) = newest.filter(|newest| found == 0 && newest.entries > 0) else { return Ok(()) };
    let path = path.display();
    let error = Error::failed(format!("there is nothing in {path}, and no backup of that is kept"))
        .detail("newest backup", format!("{}, of {} files and directories", newest.id, newest.entries));
    let error =
        if left > 0 { error.detail("left out", format!("{left}, by the exclude rules or as they are gone")) } else { error };
    Err(error
        .hint(format!("is its disk mounted? findmnt --target '{path}'"))
        .hint(format!("if it was emptied on purpose, leave a word there, and back that up: touch '{path}/EMPTIED'")))
}

/// A base with its lines at hand.
pub(super) struct OpenBase {
    pub summary: BackupSummary,
    /// It and what it builds on: the table of owners of a backup that builds on it, but for that backup itself.
    pub owners: Vec<BackupId>,
    /// The file with its lines.
    pub lines: PathBuf,
    /// When it began to read this very directory on this host; none when it did not.
    pub read_here: Option<Timestamp>,
    /// The device that held the directory itself; none when only the manifest is known.
    pub root_device: Option<u64>,
}

/// Chooses type and base.
///
/// # Errors
/// When the repository does not answer; what speaks against a base makes a full.
pub(super) async fn choose(scope: &Scope, wish: Wish, moment: &Moment<'_>) -> Result<Chosen> {
    let log = CommitLog::load(&scope.repository, &scope.source).await?;
    let backups: Vec<&BackupSummary> = log.backups().collect();
    let newest = backups.last().filter(|newest| newest.incarnation.engine() == Engine::Directory);
    let known = match newest {
        Some(newest) => Some(newest.incarnation.clone()),
        // One that was put on record by a first backup that came to nothing is as good as new.
        None if backups.is_empty() => on_record(scope).await?,
        None => None,
    };
    let incarnation = known.unwrap_or_else(|| Incarnation::dated(Engine::Directory, moment.started));
    let newest = newest.map(|newest| (*newest).clone());
    let decision = decide(scope, wish, &backups, &incarnation, moment.started).await?;
    let mut chosen = Chosen { decision, incarnation, base: None, notes: Vec::new(), newest };
    if let Some(summary) = chosen.decision.base.clone() {
        match open(scope, &log, &summary, moment).await {
            Ok((base, note)) => {
                chosen.base = Some(base);
                chosen.notes.extend(note);
            }
            Err(why) => chosen.decision = Decision::full(Wish::Type(chosen.decision.backup_type), why),
        }
    }
    Ok(chosen)
}

/// The newest incarnation on record, if it is a directory's.
async fn on_record(scope: &Scope) -> Result<Option<Incarnation>> {
    let (known, _) = identity::survey(&scope.repository, &scope.source).await?;
    let newest = known.last().map(|identity| identity.incarnation.clone());
    Ok(newest.filter(|incarnation| incarnation.engine() == Engine::Directory))
}

async fn decide(
    scope: &Scope,
    wish: Wish,
    backups: &[&BackupSummary],
    incarnation: &Incarnation,
    started: Timestamp,
) -> Result<Decision> {
    if wish == Wish::Type(BackupType::Full) {
        return Ok(Decision::full(wish, ""));
    }
    let marks = Marks::load(&scope.repository, &scope.source).await?;
    let marked: BTreeSet<&BackupId> = marks.standing.keys().collect();
    let choice = Choice { backups, start_time: started, newest: auto::newest(backups, incarnation, None) };
    Ok(decide_by(wish, &choice, |base| unfit(base, backups, &marked, incarnation, started)))
}

/// Why nothing can build on `base` now; none when something can.
fn unfit(
    base: &BackupSummary,
    backups: &[&BackupSummary],
    marked: &BTreeSet<&BackupId>,
    incarnation: &Incarnation,
    started: Timestamp,
) -> Option<String> {
    let id = &base.id;
    if base.incarnation != *incarnation {
        return Some(format!("{id} is of another source ({})", base.incarnation));
    }
    if started < base.stop_time {
        return Some(format!("this host's clock is behind the end of {id}"));
    }
    unfit_chain(base, backups, marked)
}

/// The lines of `summary`, and what to say of where they come from; or why they cannot be had.
async fn open(
    scope: &Scope,
    log: &CommitLog,
    summary: &BackupSummary,
    moment: &Moment<'_>,
) -> std::result::Result<(OpenBase, Option<String>), String> {
    let owners: Vec<BackupId> =
        chain::summaries(scope, log, summary).map_err(|error| error.summary())?.iter().map(|link| link.id.clone()).collect();
    let repository = scope.repository.id();
    let why = match scope.state.load_base(repository, &scope.source, &summary.id, summary.manifest_sha256) {
        Ok((facts, lines)) if facts.owners == owners => {
            let read_here = (facts.place == *moment.place).then_some(facts.started);
            let note = read_here.is_none().then(|| format!("every file is read: {} was taken of another directory", summary.id));
            let lines = lines.path().to_owned();
            let root_device = Some(facts.place.directory.0);
            return Ok((OpenBase { summary: summary.clone(), owners, lines, read_here, root_device }, note));
        }
        Ok(_) => format!("what this host keeps of {} is of another chain", summary.id),
        Err(why) => why,
    };
    if summary.encrypted && moment.identities.is_empty() {
        return Err(format!("{why}, and without an identity its manifest cannot be read"));
    }
    let lines = fetch(scope, log, summary, moment).await.map_err(|error| format!("{why}, and {}", error.summary()))?;
    let note = format!("every file is read: {why}; what {} holds is known from its manifest", summary.id);
    Ok((OpenBase { summary: summary.clone(), owners, lines, read_here: None, root_device: None }, Some(note)))
}

/// Writes the lines of a base's manifest into a file.
async fn fetch(scope: &Scope, log: &CommitLog, summary: &BackupSummary, moment: &Moment<'_>) -> Result<PathBuf> {
    let links = chain::links(scope, log, summary, moment.identities).await?;
    let chain = Chain::fetch(scope, &links, moment.scratch).await?;
    let path = moment.scratch.join("base-lines");
    let mut lines = BaseWriter::create(&path)?;
    for resolved in chain.entries()? {
        let Resolved { line, holder } = resolved?;
        lines.line(&BaseLine { line, holder, stamp: None, marks: PageMarks::default() })?;
    }
    lines.finish()?;
    Ok(path)
}

/// Where a directory is.
///
/// # Errors
/// When it cannot be looked at.
pub(super) fn place(path: &Path) -> Result<HostPlace> {
    let metadata = std::fs::metadata(path).map_err(|error| Error::io("look at", path, error))?;
    // Not every system has one; names of hosts and numbers of directories are compared besides.
    let machine = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
    Ok(HostPlace {
        host: format!("{} {}", host_name(), machine.trim()).trim().to_owned(),
        data_directory: super::path_text(path),
        directory: (metadata.dev(), metadata.ino()),
    })
}

/// The index of the chunks that the chain of `new` holds, and what to say of it. One that is missing or damaged is made anew
/// from the base's lines.
///
/// # Errors
/// When it cannot be written.
pub(super) fn open_index(scope: &Scope, base: Option<&OpenBase>, new: &BackupId) -> Result<(Index, Option<String>)> {
    let Some(base) = base else {
        return Ok((Index::create(&scope.state.chunk_index(&scope.source, new)?, new)?, None));
    };
    let full = base.owners.last().unwrap_or(&base.summary.id);
    let path = scope.state.chunk_index(&scope.source, full)?;
    let note = match path.exists().then(|| Index::open(&path, &base.owners, new)) {
        Some(Ok(index)) => return Ok((index, None)),
        Some(Err(error)) => Some(format!("the index of chunks was made anew: {}", error.summary())),
        None => None,
    };
    let index = Index::anew(&path, &base.owners, new)?;
    for line in BaseReader::open(&base.lines)? {
        let line = line?.line;
        for (piece, frame) in pieces_of(&line).zip(&line.frames) {
            let owner = base.owners.get(frame.owner as usize);
            let owner = owner.ok_or_else(|| Error::damaged(format!("{} names an owner that is none", line.path)))?.clone();
            let place =
                Place { owner, pack: frame.pack, offset: frame.offset, stored_bytes: frame.stored_len, raw_bytes: frame.raw_len };
            index.record(&piece.address, &place)?;
        }
    }
    Ok((index, note))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Lsn;

    #[test]
    fn a_base_is_of_this_source_and_lies_behind() {
        let incarnation: Incarnation = "directory-1".parse().unwrap();
        let taken = |id: &str, base: Option<&str>| {
            let sample = BackupSummary::sample_of(incarnation.clone(), id, (Lsn(0), Lsn(0)));
            let position = Lsn::of_moment(sample.stop_time);
            let base: Option<BackupId> = base.map(|base| base.parse().unwrap());
            let backup_type = if base.is_some() { BackupType::Incr } else { BackupType::Full };
            BackupSummary { base, backup_type, start_lsn: position, stop_lsn: position, ..sample }
        };
        let full = taken("20261120T030000Z-full-aaaa", None);
        let incr = taken("20261120T040000Z-incr-aaaa", Some(full.id.as_str()));
        let backups = [&full, &incr];
        let now = incr.stop_time.plus(std::time::Duration::from_secs(60));
        let unfit = |base: &BackupSummary, marked: &[&BackupId], incarnation: &Incarnation, now| {
            unfit(base, &backups, &marked.iter().copied().collect(), incarnation, now)
        };
        assert_eq!(unfit(&incr, &[], &incarnation, now), None);
        assert!(unfit(&incr, &[], &"directory-2".parse().unwrap(), now).unwrap().contains("another source"));
        assert!(unfit(&incr, &[&full.id], &incarnation, now).unwrap().contains("marked"));
        assert!(unfit(&incr, &[], &incarnation, full.stop_time).unwrap().contains("clock"));
        assert_eq!(unfit(&full, &[&incr.id], &incarnation, now), None);
    }
}
