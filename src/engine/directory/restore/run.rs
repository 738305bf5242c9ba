//! Carrying a plan out.
//!
//! Write order: the mark beside the directory; directories, links, pipes, and files of their length; the content of every
//! file, in the order of packs, each fetched once, each chunk compared with its address; owner, attributes, mode and time
//! of each file, then its further names; those of directories, the lowest first; one `syncfs`; the mark goes.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::super::line::{hole, root_node};
use super::pass::{Wanted, explained};
use super::target::Target as Place;
use super::{Prepared, RestoreOptions, RestoreReport};
use crate::base::cancel::Cancel;
use crate::base::progress::Progress;
use crate::base::units::format_bytes;
use crate::base::{Error, RelPath, Result, killpoint};
use crate::engine::Scope;
use crate::engine::chain::Chain;
use crate::engine::restore::spill::{Placed, Spill};
use crate::engine::restore::write::{self, Shared, Target};
use crate::repo::manifest::Facts;
use crate::source::directory::chunk::Address;
use crate::source::directory::file_writer::write_chunk;
use crate::source::directory::owners::OwnerMap;
use crate::source::directory::read::{Chunk, Hole};
use crate::source::directory::restore::{Existing, RestoreOptions as RestorerOptions, Restorer, Shortfall, Shortfalls};
use crate::source::directory::settle::What;

/// Files a thread keeps open.
const OPEN_FILES: usize = 128;
/// Shortfalls told by name.
const MOST_NAMED: usize = 20;

/// Refuses a directory that must not be written to. Touches nothing.
///
/// # Errors
/// Says what is in the way.
pub fn check(into: &Path) -> Result<()> {
    Place::new(into)?.check()
}

/// Carries a plan out.
///
/// # Errors
/// When anything is damaged, missing or cannot be written; the mark beside the directory then says that it is not whole.
pub async fn run(
    scope: &Scope,
    prepared: &Prepared,
    options: &RestoreOptions,
    progress: Arc<dyn Progress>,
    cancel: Cancel,
) -> Result<RestoreReport> {
    let (began, backup) = (Instant::now(), &prepared.plan.backup);
    let place = Place::new(&options.into)?;
    place.check()?;
    let scratch = scope.state.scratch()?;
    let chain = Chain::fetch(scope, &prepared.links, scratch.path()).await?;
    let header = chain.entries()?.header().clone();
    let Facts::Directory(facts) = &header.facts else {
        return Err(Error::damaged(format!("backup {} is not of a directory", backup.id)));
    };
    progress.phase("reading the manifest", None);
    let mut wanted = tokio::task::block_in_place(|| Wanted::of(&chain, backup, &options.paths, &cancel))?;
    place.check()?;
    place.mark()?;
    killpoint::reach("restore.marked");
    let (owners, unanswered) = OwnerMap::by_name(&header.users, &header.groups);
    let restorer = Restorer::new(&options.into, restorer_options(owners, scratch.path()))?;
    let mut spill = Spill::of_small_frames(scratch.path(), chain.members());
    tokio::task::block_in_place(|| wanted.make(&chain, &restorer, &mut spill, &cancel))?;
    let (groups, placed_bytes) = spill.finish()?;
    if placed_bytes != wanted.raw_bytes {
        return Err(Error::damaged(format!("the manifest of {} does not say where every byte lies", backup.id)));
    }
    killpoint::reach("restore.created");
    progress.phase("restoring", Some(placed_bytes));
    let shared = Arc::new(Shared {
        store: scope.repository.shared_store(),
        progress: Arc::clone(&progress),
        cancel: cancel.clone(),
        bytes_written: AtomicU64::new(0),
        target: Tree { restorer },
    });
    write::write(scope, chain.members(), groups, Arc::clone(&shared), options.workers).await.map_err(explained)?;
    cancel.check()?;
    let written = shared.bytes_written.load(Ordering::Relaxed);
    if written != placed_bytes {
        return Err(Error::failed(format!("{written} of {placed_bytes} bytes were written: this is a bug")));
    }
    let restorer = Arc::into_inner(shared).ok_or_else(|| Error::failed("a thread still writes: this is a bug"))?.target.restorer;
    progress.phase("setting owners, modes and times", None);
    tokio::task::block_in_place(|| wanted.finish(&chain, &restorer, &cancel))?;
    let top = root_node(&facts.root);
    // A part of a directory is not that directory.
    let shortfalls = tokio::task::block_in_place(|| restorer.finish(options.paths.is_empty().then_some(&top)))?;
    killpoint::reach("restore.synced");
    place.unmark()?;
    killpoint::reach("restore.complete");
    let Shortfalls { count, missing, first } = shortfalls;
    // Whether it belongs to a part nobody knows any more.
    let nameless = if options.paths.is_empty() { facts.not_stored } else { 0 };
    Ok(RestoreReport {
        entries: wanted.entries,
        raw_bytes: placed_bytes,
        duration: began.elapsed(),
        shortfalls: count + nameless,
        missing: missing + nameless,
        nameless,
        first_shortfalls: first.iter().take(MOST_NAMED).map(told).collect(),
        notes: notes(facts.not_stored, unanswered),
    })
}

/// Where owners cannot be set, that is told of each.
fn restorer_options(owners: OwnerMap, scratch: &Path) -> RestorerOptions {
    RestorerOptions { existing: Existing::Refuse, owners: Some(owners), scratch: scratch.to_owned() }
}

fn told(shortfall: &Shortfall) -> String {
    let Shortfall { path, what, errno } = shortfall;
    let path = path.as_ref().map_or_else(|| "the directory itself".to_owned(), ToString::to_string);
    let why = match errno {
        0 => "the file system there keeps another".to_owned(),
        errno => std::io::Error::from_raw_os_error(*errno).to_string(),
    };
    match what {
        What::Held => format!("{path}: what it held is not in the backup, or not all of it, for it could not be listed: {why}"),
        What::Moment => format!("{path}: its content may mix several of its states, for it changed each time it was read"),
        What::Exactness => format!("{path}: its time of modification is rounded, as all are there"),
        what => format!("{path}: its {what} is not as it was: {why}"),
    }
}

fn notes(not_stored: u64, unanswered: Option<String>) -> Vec<String> {
    let note = format!("{not_stored} of what was there has no entry in the backup, which told of it when it was taken");
    let unanswered = unanswered.map(|told| format!("{told}; what is theirs has the numbers of the protected host"));
    (not_stored > 0).then_some(note).into_iter().chain(unanswered).collect()
}

/// The tree that is being restored.
struct Tree {
    restorer: Restorer,
}

impl Target for Tree {
    type Open<'t> = HashMap<RelPath, OwnedFd>;

    fn open(&self) -> HashMap<RelPath, OwnedFd> {
        HashMap::new()
    }

    fn write(&self, open: &mut HashMap<RelPath, OwnedFd>, placed: &Placed, raw: &[u8]) -> Result<()> {
        let Placed { path, file_bytes, stretches, address, holes, .. } = placed;
        let address = address.ok_or_else(|| Error::damaged(format!("{path} does not say what a chunk of it holds")))?;
        if !open.contains_key(path) {
            if open.len() >= OPEN_FILES {
                open.clear();
            }
            open.insert(path.clone(), self.restorer.reopen(path)?);
        }
        let holes: Vec<Hole> = holes.iter().copied().map(hole).collect();
        for stretch in stretches {
            let chunk = Chunk { offset: stretch.file_offset, address: Address(address.0), bytes: raw };
            write_chunk(&open[path], (path, *file_bytes), &holes, &chunk)?;
        }
        Ok(())
    }
}

/// A plan in a few lines, for people: label and value.
pub fn describe(prepared: &Prepared) -> Vec<(&'static str, String)> {
    let (plan, links) = (&prepared.plan, prepared.links.as_slice());
    let packs: u64 = links.iter().map(|link| u64::from(link.summary.packs)).sum();
    let of = if links.len() > 1 { format!(" at most, of {} backups", links.len()) } else { String::new() };
    let mut lines = vec![("backup", format!("{} ({})", plan.backup.id, plan.because))];
    lines.extend(match links {
        [_, full] => Some(("builds on", full.summary.id.to_string())),
        [_, rest @ .., full] => Some(("builds on", format!("{} others, back to {}", rest.len() + 1, full.summary.id))),
        _ => None,
    });
    lines.extend([
        ("as it was", format!("at {}", plan.moment.human())),
        ("fetch", format!("{packs} packs, {}{of}", format_bytes(prepared.fetch_bytes()))),
        ("holds", format!("{} in {} files and directories", format_bytes(plan.backup.raw_bytes), plan.backup.entries)),
    ]);
    lines
}
