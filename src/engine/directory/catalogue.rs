//! What lies in a backup, without restoring it: for `ls`, of any kind of source, and for `diff`, of directories.
//!
//! Only the manifests of a chain are fetched, and read as streams: memory does not grow with the number of entries.

use super::line::entry_of;
use crate::base::{BackupId, Error, RelPath, Result, Timestamp};
use crate::engine::chain::{self, Chain};
use crate::engine::{IdentitySource, Scope};
use crate::repo::host_state::Scratch;
use crate::repo::manifest::tree::TreeMark;
use crate::repo::manifest::{FileKind, FileLine, Header};
use crate::repo::{BackupSummary, CommitLog};
use crate::source::directory::entry::Entry;

/// Which backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// The one that was committed last.
    Latest,
    /// This one.
    Backup(BackupId),
    /// The newest that had ended by then.
    Time(Timestamp),
}

/// A backup whose manifests are at hand.
pub struct Catalogue {
    /// The backup.
    pub backup: BackupSummary,
    chain: Chain,
    _scratch: Scratch,
}

/// Something in a backup, as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Where it is.
    pub path: RelPath,
    /// What it is: `directory`, `file`, `symlink`, …
    pub kind: &'static str,
    /// Permission bits.
    pub mode: u32,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
    /// Length of a file in bytes.
    pub size_bytes: u64,
    /// Last modification.
    pub modified: Timestamp,
    /// Where a link leads; bytes that are not UTF-8 as `hex:…`.
    pub target: Option<String>,
    /// The first name of the same file.
    pub link: Option<RelPath>,
    /// What is wrong with it, in one word each.
    pub marks: Vec<&'static str>,
}

/// The one of the backups in `log` that is meant.
///
/// # Errors
/// When there is none.
pub fn choose<'l>(scope: &Scope, log: &'l CommitLog, which: &Which) -> Result<&'l BackupSummary> {
    let source = &scope.source;
    let mut backups: Vec<&BackupSummary> = log.restorable().collect();
    let last = backups.last().copied();
    backups.sort_by_key(|backup| (backup.stop_time, backup.start_time));
    let found = match which {
        Which::Latest => last.as_ref(),
        Which::Backup(id) => backups.iter().find(|backup| backup.id == *id),
        Which::Time(time) => backups.iter().rfind(|backup| backup.stop_time <= *time),
    };
    found.copied().ok_or_else(|| {
        let what = match which {
            Which::Latest => format!("{source} has no backup in repository {}", scope.repository.name()),
            Which::Backup(id) => format!("{source} has no backup {id} that can be restored"),
            Which::Time(time) => format!("no backup of {source} had ended by {}", time.human()),
        };
        let error = Error::failed(what);
        let error = match backups.first() {
            Some(first) => error.detail("first moment", first.stop_time.human()),
            None => error,
        };
        error.hint(format!("lifeboat list {source}   shows what there is"))
    })
}

impl Catalogue {
    /// Fetches the manifests of `backup` and what it builds on.
    ///
    /// # Errors
    /// When no identity opens them, or one is damaged.
    pub async fn open(scope: &Scope, log: &CommitLog, identities: &dyn IdentitySource, backup: &BackupSummary) -> Result<Self> {
        let unwrapped = if backup.encrypted { identities.identities()? } else { Vec::new() };
        let links = chain::links(scope, log, backup, &unwrapped).await?;
        let scratch = scope.state.scratch()?;
        let chain = Chain::fetch(scope, &links, scratch.path()).await?;
        Ok(Self { backup: backup.clone(), chain, _scratch: scratch })
    }

    /// The header of its manifest.
    ///
    /// # Errors
    /// Damaged.
    pub fn header(&self) -> Result<Header> {
        Ok(self.chain.entries()?.header().clone())
    }

    /// Everything in it, in the order of paths.
    ///
    /// # Errors
    /// Damaged.
    pub fn items(&self) -> Result<impl Iterator<Item = Result<Item>>> {
        Ok(self.chain.entries()?.map(|resolved| Ok(item(resolved?.line))))
    }

    /// The same of a directory, as `diff` compares it.
    ///
    /// # Errors
    /// Damaged.
    pub fn entries(&self) -> Result<impl Iterator<Item = Result<Entry>>> {
        Ok(self.chain.entries()?.map(|resolved| entry_of(&resolved?.line)))
    }
}

fn item(line: FileLine) -> Item {
    let (kind, target) = match line.kind {
        FileKind::Directory => ("directory", None),
        FileKind::File | FileKind::Pages => ("file", None),
        FileKind::Symlink { target } => ("symlink", Some(target)),
        FileKind::Tablespace { target } => ("tablespace", Some(target)),
        FileKind::Fifo => ("fifo", None),
        FileKind::CharacterDevice { .. } => ("character_device", None),
        FileKind::BlockDevice { .. } => ("block_device", None),
    };
    let tree = line.tree.as_deref();
    let mark = |mark: &TreeMark| match mark {
        TreeMark::Unsteady => "unsteady",
        TreeMark::Unread(_) => "unread",
        TreeMark::Unlisted(_) => "unlisted",
        TreeMark::Bare(_) => "bare",
    };
    Item {
        kind,
        mode: line.mode,
        uid: line.uid,
        gid: line.gid,
        size_bytes: tree.map_or(line.size_bytes, |tree| tree.length_bytes),
        modified: line.modified,
        target,
        link: tree.and_then(|tree| tree.link.clone()),
        marks: tree.map(|tree| tree.marks.iter().map(mark).collect()).unwrap_or_default(),
        path: line.path,
    }
}
