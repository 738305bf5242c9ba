//! `restore`, from plan to a directory in which PostgreSQL recovers to the target, or follows the archive.
//!
//! Write order: a marker; for a delta, what [`super::delta`] says; the empty tree; the content of every file, in no order, `global/pg_control` under a temporary
//! name; owners, modes and times; the recovery settings; one `syncfs` a file system; the marker goes; last of all
//! `pg_control` gets its name. Without `pg_control` no server starts: an interrupted restore cannot be mistaken for one.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::delta::{self, Comparison};
use super::heads;
use super::plan::{RecoveryStop, RestorePlan};
use super::prepare::Prepared;
use super::settle::Settling;
use super::spill::Spill;
use super::target_dir;
use super::tree::{TablespaceMap, Tree};
use super::write::{self, DataDirectory, Shared};
use crate::base::cancel::Cancel;
use crate::base::progress::Progress;
use crate::base::units::format_bytes;
use crate::base::{Error, RelPath, Result, SourceName, durable, killpoint};
use crate::engine::Scope;
use crate::engine::chain::{Chain, Entries};
use crate::engine::standby::marker::Marker;
use crate::repo::manifest::{Facts, FileKind, FileLine, Header};
use crate::source::postgres::control::CONTROL_PATH;
use crate::source::postgres::label::{format_tablespace_map, parse_tablespace_map};
use crate::source::postgres::live::server_with_tablespace;
use crate::source::postgres::recovery_config::{
    RecoverySettings, RecoveryTarget, TargetAction, configured, write_recovery_settings,
};

/// How to restore.
#[derive(Clone, Debug)]
pub struct RestoreOptions {
    /// The new data directory: absent or empty, but for a delta.
    pub into: PathBuf,
    /// Tablespaces to be placed elsewhere: old directory → new directory.
    pub tablespaces: Vec<(PathBuf, PathBuf)>,
    /// Where every other tablespace goes, below this and called as in `pg_tblspc`; to its old directory when none is given.
    pub other_tablespaces_below: Option<PathBuf>,
    /// What the server does at the target.
    pub action: TargetAction,
    /// Keep what is there already and does not differ.
    pub delta: bool,
    /// With `delta`: remove even log that was never archived.
    pub discard_log: bool,
    /// A copy for a look: it never archives.
    pub clone: bool,
    /// Stay a standby that follows the archive.
    pub follow: Option<Follow>,
    /// The command that fetches archived files, with `%f` and `%p`.
    pub restore_command: String,
    /// Threads that decode and write.
    pub workers: usize,
}

/// How a standby follows the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Follow {
    /// By how much its replay lags on purpose.
    pub delay: Duration,
    /// The only repository that it asks; all of the source's when there is none.
    pub repository: Option<String>,
}

/// What a restore did.
#[derive(Clone, Debug)]
pub struct RestoreReport {
    /// Bytes in the restored tree.
    pub raw_bytes: u64,
    /// Bytes of them that were fetched and written.
    pub written_bytes: u64,
    /// Time it took.
    pub duration: Duration,
    /// What the operator should know.
    pub notes: Vec<String>,
}

/// Refuses a directory that must not be written to; true when there is something in it to compare with. Touches nothing.
///
/// # Errors
/// Says what is in the way.
pub fn check(prepared: &Prepared, options: &RestoreOptions) -> Result<bool> {
    if options.delta {
        return delta::check(&options.into, &prepared.plan.backup.incarnation, options.discard_log);
    }
    check_empty(&options.into).map(|()| false)
}

/// Refuses a directory that is neither absent nor empty.
///
/// # Errors
/// Says what is in it.
pub fn check_empty(into: &Path) -> Result<()> {
    target_dir::check(into)
}

/// Carries a plan out.
///
/// # Errors
/// When anything is damaged, missing or cannot be written; the directory then cannot start.
pub async fn run(
    scope: &Scope,
    prepared: &Prepared,
    options: &RestoreOptions,
    progress: Arc<dyn Progress>,
    cancel: Cancel,
) -> Result<RestoreReport> {
    let began = Instant::now();
    let (plan, id) = (&prepared.plan, &prepared.plan.backup.id);
    let over_existing = check(prepared, options)?;
    let scratch = scope.state.scratch()?;
    let chain = Chain::fetch(scope, &prepared.links, scratch.path()).await?;
    let header = chain.entries()?.header().clone();
    // Before anything is touched: every manifest of the chain is read once, and each must bear out the others.
    let tablespaces = tablespaces(chain.entries_with_origins()?, options, over_existing)?;
    // Minutes may have passed since: somebody may have started a server there.
    check(prepared, options)?;
    target_dir::mark(&options.into, &plan.backup.incarnation)?;
    killpoint::reach("restore.marked");
    let tree = Tree::new(&options.into, tablespaces.map, &header, over_existing);
    if over_existing {
        delta::disarm(&options.into)?;
        delta::clear(&options.into, chain.entries()?, &tree)?;
        killpoint::reach("restore.cleared");
    }
    let spill = Spill::new(scratch.path(), chain.members());
    let mut made = Made { tree: &tree, cancel: &cancel, entries: 0, raw_bytes: 0 };
    let spill = if over_existing {
        progress.phase("comparing", Some(plan.backup.raw_bytes));
        let comparison = Comparison::new(&options.into, spill, Arc::clone(&progress), cancel.clone());
        let lines = chain.entries()?.map(|resolved| made.create(resolved?.line));
        tokio::task::block_in_place(|| comparison.run(lines, options.workers))?
    } else {
        let mut spill = spill;
        for resolved in chain.entries()? {
            spill.place(&made.create(resolved?.line)?, |_| true)?;
        }
        spill
    };
    let raw_bytes = made.raw_bytes;
    if (made.entries, raw_bytes) != (plan.backup.entries, plan.backup.raw_bytes) {
        return Err(Error::damaged(format!("the manifest of {id} does not hold what its commit entry says")));
    }
    let (groups, placed_bytes) = spill.finish()?;
    if !over_existing && placed_bytes != raw_bytes {
        return Err(Error::damaged(format!("the manifest of {id} does not say where every byte lies")));
    }
    progress.phase("restoring", Some(placed_bytes));
    killpoint::reach("restore.created");
    let shared = Arc::new(Shared {
        store: scope.repository.shared_store(),
        progress: Arc::clone(&progress),
        cancel: cancel.clone(),
        bytes_written: AtomicU64::new(0),
        target: DataDirectory { root: options.into.clone(), settling: Settling::default() },
    });
    write::write(scope, chain.members(), groups, Arc::clone(&shared), options.workers).await?;
    cancel.check()?;
    let written = shared.bytes_written.load(Ordering::Relaxed);
    if written != placed_bytes {
        return Err(Error::failed(format!("{written} of {placed_bytes} bytes were written: this is a bug")));
    }
    complete(&scope.source, prepared, options, &chain, &tree, &tablespaces.directories)?;
    Ok(RestoreReport { raw_bytes, written_bytes: placed_bytes, duration: began.elapsed(), notes: notes(&header) })
}

/// Makes entries, and counts them.
struct Made<'a> {
    tree: &'a Tree,
    cancel: &'a Cancel,
    entries: u64,
    raw_bytes: u64,
}

impl Made<'_> {
    fn create(&mut self, line: FileLine) -> Result<FileLine> {
        self.cancel.check()?;
        self.entries += 1;
        self.raw_bytes += line.size_bytes;
        self.tree.create(&line)?;
        Ok(line)
    }
}

/// What follows the content, in the order that the module's header gives.
fn complete(
    source: &SourceName,
    prepared: &Prepared,
    options: &RestoreOptions,
    chain: &Chain,
    tree: &Tree,
    tablespaces: &BTreeSet<PathBuf>,
) -> Result<()> {
    for resolved in chain.entries()? {
        tree.finish(&resolved?.line)?;
    }
    rewrite_tablespace_map(&options.into, tree)?;
    heads::place(&options.into, &prepared.heads)?;
    let settings = match &options.follow {
        Some(follow) => following_settings(&prepared.plan, options, follow)?,
        None => recovery_settings(&prepared.plan, options),
    };
    write_recovery_settings(&options.into, &settings)?;
    if let Some(follow) = &options.follow {
        mark_as_standby(source, &prepared.plan, &options.into, follow)?;
    }
    killpoint::reach("restore.configured");
    for directory in tablespaces.iter().chain([&options.into]) {
        write::sync_file_system(directory)?;
    }
    killpoint::reach("restore.synced");
    target_dir::unmark(&options.into)?;
    let control = RelPath::new(CONTROL_PATH).map_err(Error::failed)?;
    let (temporary, named) = (Tree::location(&options.into, &control), options.into.join(CONTROL_PATH));
    fs::rename(&temporary, &named)
        .and_then(|()| durable::sync_parent(&named))
        .and_then(|()| durable::sync_parent(&options.into.join("global")))
        .map_err(|error| Error::io("rename", &temporary, error))?;
    killpoint::reach("restore.complete");
    Ok(())
}

struct Tablespaces {
    map: TablespaceMap,
    /// Where they will be.
    directories: BTreeSet<PathBuf>,
}

/// Where each tablespace of the backup goes; refuses directories that are in use and mappings that fit none.
fn tablespaces(entries: Entries, options: &RestoreOptions, over_existing: bool) -> Result<Tablespaces> {
    let mut map: TablespaceMap = options.tablespaces.iter().cloned().collect();
    let (mut unused, mut directories): (BTreeSet<PathBuf>, BTreeSet<PathBuf>) = (map.keys().cloned().collect(), BTreeSet::new());
    let mut known = Vec::new();
    for resolved in entries {
        let line = resolved?.line;
        let FileKind::Tablespace { target } = line.kind else { continue };
        let old = super::tree::decode(&target)?;
        if let (Some(below), Some(name)) = (&options.other_tablespaces_below, line.path.as_path().file_name()) {
            map.entry(old.clone()).or_insert_with(|| below.join(name));
        }
        let new = map.get(&old).unwrap_or(&old).clone();
        // One that this data directory leads to already is its own.
        let link = options.into.join(line.path.as_path());
        if !(over_existing && fs::read_link(link).is_ok_and(|found| found == new)) {
            target_dir::check_tablespace(&new)?;
        } else if let Some(pid) = server_with_tablespace(&new)? {
            return Err(Error::failed(format!(
                "the tablespace {} is in use by a running PostgreSQL server (process {pid}): {} is a copy of its directory",
                new.display(),
                options.into.display()
            ))
            .hint(format!("place it elsewhere: --tablespace '{}=/new/directory'", old.display())));
        }
        if !directories.insert(new.clone()) {
            return Err(Error::usage(format!("two tablespaces would share {}", new.display())));
        }
        unused.remove(&old);
        known.push(target);
    }
    match unused.first() {
        None => Ok(Tablespaces { map, directories }),
        Some(stranger) => Err(Error::usage(format!("the backup has no tablespace at {}", stranger.display()))
            .detail("tablespaces", if known.is_empty() { "none".to_owned() } else { known.join("\n") })),
    }
}

/// PostgreSQL makes the links of tablespaces anew from `tablespace_map`: it must name the new directories.
fn rewrite_tablespace_map(into: &Path, tree: &Tree) -> Result<()> {
    use std::os::unix::ffi::OsStrExt;
    let path = into.join("tablespace_map");
    let content = match fs::read(&path) {
        Ok(content) => content,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::io("read", &path, error)),
    };
    let mut mappings = parse_tablespace_map(&content)?;
    for mapping in &mut mappings {
        let new = tree.tablespace(&FileKind::encode_target(&mapping.directory))?;
        mapping.directory = new.as_os_str().as_bytes().to_vec();
    }
    let write = || File::options().write(true).truncate(true).open(&path)?.write_all(&format_tablespace_map(&mappings));
    write().map_err(|error| Error::io("write", &path, error))
}

fn recovery_settings(plan: &RestorePlan, options: &RestoreOptions) -> RecoverySettings {
    let target = match plan.stop {
        RecoveryStop::Immediate => RecoveryTarget::Immediate { backup_end: plan.backup.stop_lsn },
        RecoveryStop::Record { lsn, inclusive } => RecoveryTarget::Lsn { lsn, inclusive },
    };
    RecoverySettings {
        restore_command: options.restore_command.clone(),
        target,
        timeline: plan.timeline,
        action: options.action,
        standby: false,
        clone: options.clone,
        extra: Vec::new(),
    }
}

/// As a standby: without a target, on whatever timeline is the newest, and from the archive alone. A server that archives
/// while it is a standby would write what it reads.
fn following_settings(plan: &RestorePlan, options: &RestoreOptions, follow: &Follow) -> Result<RecoverySettings> {
    let fixed =
        [("recovery_target_timeline", "latest"), ("hot_standby", "on"), ("primary_conninfo", ""), ("primary_slot_name", "")];
    let mut extra: Vec<(String, String)> = fixed.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    extra.push(("recovery_min_apply_delay".to_owned(), follow.delay.as_millis().to_string()));
    if configured(&options.into, "archive_mode")?.is_some_and(|mode| mode.eq_ignore_ascii_case("always")) {
        extra.push(("archive_mode".to_owned(), "on".to_owned()));
    }
    let settings = recovery_settings(plan, options);
    Ok(RecoverySettings { target: RecoveryTarget::Latest, standby: true, extra, ..settings })
}

fn mark_as_standby(source: &SourceName, plan: &RestorePlan, into: &Path, follow: &Follow) -> Result<()> {
    let backup = &plan.backup;
    let mut marker = Marker::new(source, &backup.incarnation, &backup.id, backup.stop_lsn);
    marker.delay_seconds = follow.delay.as_secs();
    marker.repository.clone_from(&follow.repository);
    marker.write(into)
}

/// What differs between the protected host and this one, and what lies beside the data directory.
fn notes(header: &Header) -> Vec<String> {
    let mut notes = Vec::new();
    let Facts::Postgres(postgres) = &header.facts else { return notes };
    let recorded: BTreeSet<&String> = postgres.collations.values().filter_map(|providers| providers.get("libc")).collect();
    if let Some(here) = glibc_version() {
        for version in recorded.into_iter().filter(|version| **version != here) {
            notes.push(format!(
                "the source's collations are of glibc {version}, this host has {here}: indexes on text may be in another order; REINDEX them"
            ));
        }
    }
    let extensions: BTreeSet<String> =
        postgres.extensions.values().flatten().map(|(name, version)| format!("{name} {version}")).collect();
    let extensions: Vec<String> = extensions.into_iter().filter(|extension| !extension.starts_with("plpgsql ")).collect();
    if !extensions.is_empty() {
        notes.push(format!("the server needs these extensions: {}", extensions.join(", ")));
    }
    notes
}

/// glibc's version on this host; `None` on another C library.
fn glibc_version() -> Option<String> {
    let output = std::process::Command::new("getconf").arg("GNU_LIBC_VERSION").output().ok()?;
    String::from_utf8(output.stdout).ok()?.trim().strip_prefix("glibc ").map(str::to_owned)
}

/// A plan in a few lines, for people: label and value.
pub fn describe(prepared: &Prepared) -> Vec<(&'static str, String)> {
    let (plan, links) = (&prepared.plan, prepared.links.as_slice());
    let backup = &plan.backup;
    let segments = plan.segments.len();
    let packs: u64 = links.iter().map(|link| u64::from(link.summary.packs)).sum();
    let of = if links.len() > 1 { format!(" at most, of {} backups", links.len()) } else { String::new() };
    let mut lines = vec![("backup", format!("{} ({})", backup.id, plan.because))];
    lines.extend(match links {
        [_, full] => Some(("builds on", full.summary.id.to_string())),
        [_, rest @ .., full] => Some(("builds on", format!("{} others, back to {}", rest.len() + 1, full.summary.id))),
        _ => None,
    });
    lines.extend([
        ("fetch", format!("{packs} packs, {}{of}", format_bytes(prepared.fetch_bytes()))),
        ("write", format!("{} in {} files and directories", format_bytes(backup.raw_bytes), backup.entries)),
        ("replay", format!("{segments} segments, {} of log from {}", format_bytes(plan.replay_bytes), backup.start_lsn)),
    ]);
    lines.push((
        "stop",
        match plan.stop {
            RecoveryStop::Immediate => format!("as soon as the backup is consistent ({})", backup.stop_lsn),
            RecoveryStop::Record { lsn, inclusive: true } => format!("after the record at {lsn} on timeline {}", plan.timeline),
            RecoveryStop::Record { lsn, inclusive: false } => format!("before the record at {lsn} on timeline {}", plan.timeline),
        },
    ));
    lines.extend(plan.reaches.map(|time| ("last commit", time.human())));
    lines.extend(plan.leaves_out.map(|time| ("left out", format!("everything from {} on", time.human()))));
    lines
}
