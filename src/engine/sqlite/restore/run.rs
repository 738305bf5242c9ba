//! Carrying a plan out.
//!
//! Write order: a new file under a temporary name; the backup's pages in it, in no order; the segments, one after the other;
//! owner, mode; fsync; SQLite's own check of the whole file; then its name, and the directory's fsync. Whatever fails, nothing
//! has the name that was asked for.

use std::fs::{self, File};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::prepare::read;
use super::{Prepared, RestoreOptions, RestoreReport};
use crate::base::cancel::Cancel;
use crate::base::progress::Progress;
use crate::base::units::format_bytes;
use crate::base::{Error, Result, durable, killpoint};
use crate::engine::Scope;
use crate::engine::chain::Chain;
use crate::engine::restore::spill::{Placed, Spill};
use crate::engine::restore::write::{self, Shared, Target};
use crate::engine::sqlite::DATABASE;
use crate::repo::manifest::{FileKind, FileLine};
use crate::source::sqlite::{Restore, Restored};

/// The file that a restore into `into` makes: `into` itself, or in a directory what has the name that the database had.
///
/// # Errors
/// When that name cannot be read.
pub fn target_file(prepared: &Prepared, into: &Path) -> Result<PathBuf> {
    if !into.is_dir() {
        return Ok(into.to_owned());
    }
    let path = FileKind::decode_target(&prepared.facts.path).map_err(Error::damaged)?;
    let path = PathBuf::from(std::ffi::OsString::from_vec(path));
    let name = path.file_name().ok_or_else(|| Error::damaged(format!("'{}' is no name of a database", prepared.facts.path)))?;
    Ok(into.join(name))
}

/// Refuses a target that must not be written to. Touches nothing.
///
/// # Errors
/// Says what is in the way.
pub fn check(prepared: &Prepared, into: &Path) -> Result<PathBuf> {
    let target = target_file(prepared, into)?;
    let parent = durable::directory_of(&target);
    if !parent.is_dir() {
        return Err(Error::failed(format!("{} is no directory", parent.display())).hint(format!("mkdir -p '{}'", parent.display())));
    }
    Restore::check(&target)?;
    Ok(target)
}

/// Carries a plan out.
///
/// # Errors
/// When anything is damaged, missing or cannot be written; then there is no file under the name that was asked for.
pub async fn run(
    scope: &Scope,
    prepared: &Prepared,
    options: &RestoreOptions,
    progress: Arc<dyn Progress>,
    cancel: Cancel,
) -> Result<RestoreReport> {
    let (began, plan) = (Instant::now(), &prepared.plan);
    let target = check(prepared, &options.into)?;
    let mut restore = Restore::begin(&target)?;
    killpoint::reach("restore.marked");
    let line = image(scope, prepared, &restore, options.workers, (Arc::clone(&progress), cancel.clone())).await?;
    restore.hold_image(prepared.moment)?;
    let total = plan.segments.iter().map(|segment| segment.stored_bytes).sum();
    progress.phase("applying the log", Some(total));
    for segment in &plan.segments {
        cancel.check()?;
        let raw = read(scope, segment, &prepared.log).await?;
        let applied = tokio::task::block_in_place(|| restore.apply(raw.as_slice()));
        applied.map_err(|error| error.context(&segment.key))?;
        progress.advance(segment.stored_bytes);
    }
    let notes = own(restore.file(), &line).map_err(|error| Error::io("set owner and mode of", &target, error))?;
    progress.phase("checking", None);
    killpoint::reach("restore.synced");
    let Restored { moment, bytes } = tokio::task::block_in_place(|| restore.finish())?;
    killpoint::reach("restore.complete");
    Ok(RestoreReport {
        path: target,
        raw_bytes: bytes,
        complete_at: moment.complete_at,
        captured_at: moment.captured_at,
        duration: began.elapsed(),
        notes,
    })
}

/// Writes the pages of the backup.
async fn image(
    scope: &Scope,
    prepared: &Prepared,
    restore: &Restore,
    workers: usize,
    (progress, cancel): (Arc<dyn Progress>, Cancel),
) -> Result<FileLine> {
    let (backup, scratch) = (&prepared.plan.backup, scope.state.scratch()?);
    let chain = Chain::fetch(scope, &prepared.links, scratch.path()).await?;
    let mut entries = chain.entries_with_origins()?;
    let line = match (entries.next().transpose()?, entries.next().transpose()?) {
        (Some(only), None) if only.line.path.as_path() == Path::new(DATABASE) && only.line.kind == FileKind::Pages => only.line,
        _ => return Err(Error::damaged(format!("the manifest of {} does not hold one database", backup.id))),
    };
    if line.size_bytes != backup.raw_bytes {
        return Err(Error::damaged(format!("the manifest of {} does not hold what its commit entry says", backup.id)));
    }
    let failed = |error| Error::io("write", scratch.path(), error);
    let file = restore.file().try_clone().map_err(failed)?;
    file.set_len(line.size_bytes).map_err(|error| Error::io("set the size of", restore.target(), error))?;
    let mut spill = Spill::new(scratch.path(), chain.members());
    spill.place(&line, |_| true)?;
    let (groups, placed_bytes) = spill.finish()?;
    if placed_bytes != line.size_bytes {
        return Err(Error::damaged(format!("the manifest of {} does not say where every byte lies", backup.id)));
    }
    killpoint::reach("restore.created");
    progress.phase("restoring", Some(placed_bytes));
    let shared = Arc::new(Shared {
        store: scope.repository.shared_store(),
        progress,
        cancel: cancel.clone(),
        bytes_written: AtomicU64::new(0),
        target: Image { file, path: restore.target().to_owned() },
    });
    write::write(scope, chain.members(), groups, Arc::clone(&shared), workers).await?;
    cancel.check()?;
    let written = shared.bytes_written.load(Ordering::Relaxed);
    if written != placed_bytes {
        return Err(Error::failed(format!("{written} of {placed_bytes} bytes were written: this is a bug")));
    }
    Ok(line)
}

/// The file that is being written.
struct Image {
    file: File,
    path: PathBuf,
}

impl Target for Image {
    type Open<'t> = ();

    fn open(&self) {}

    fn write(&self, (): &mut (), placed: &Placed, raw: &[u8]) -> Result<()> {
        for stretch in &placed.stretches {
            // Within the frame: the manifest's reader has checked it.
            let part = &raw[stretch.raw_offset as usize..][..stretch.len_bytes as usize];
            self.file.write_all_at(part, stretch.file_offset).map_err(|error| Error::io("write", &self.path, error))?;
        }
        Ok(())
    }
}

/// Sets mode and, as root, owner; what could not be kept.
fn own(file: &File, line: &FileLine) -> std::io::Result<Vec<String>> {
    file.set_permissions(fs::Permissions::from_mode(line.mode & 0o777))?;
    if rustix::process::geteuid().is_root() {
        fchown(file, Some(line.uid), Some(line.gid))?;
        return Ok(Vec::new());
    }
    let own = rustix::process::geteuid().as_raw();
    let note = format!("the file belongs to user {own}; the database belonged to user {}", line.uid);
    Ok((own != line.uid).then_some(note).into_iter().collect())
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
    let backup_bytes = links.iter().map(|link| link.summary.stored_bytes).sum();
    let log = match plan.segments.len() {
        0 => "nothing after the backup".to_owned(),
        1 => format!("1 segment, {}", format_bytes(plan.log_stored_bytes())),
        count => format!("{count} segments, {}", format_bytes(plan.log_stored_bytes())),
    };
    lines.extend([
        ("fetch", format!("{packs} packs, {}{of}", format_bytes(backup_bytes))),
        ("write", format!("a database of {}", format_bytes(plan.backup.raw_bytes))),
        ("log", log),
        ("as it was", format!("at {}", plan.reaches.human())),
    ]);
    lines
}
