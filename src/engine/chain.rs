//! A backup and everything it builds on: keys, lists of packs and manifests, read as one.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use super::Scope;
use super::retry::{Patience, retrying};
use crate::base::{BackupId, Error, Result};
use crate::codec::compress;
use crate::codec::digest::DigestingWriter;
use crate::codec::encrypt::{Identity, Opener};
use crate::repo::manifest::resolve::{Resolved, Resolver};
use crate::repo::manifest::{Header, ManifestReader};
use crate::repo::pack::PackLine;
use crate::repo::{BackupSummary, CommitLog, backup, commit, decode_error, layout, read_error};

/// Bytes of a manifest fetched at one time.
const FETCH_BYTES: u64 = 8 << 20;

/// One backup of a chain, and what opens it.
#[derive(Clone)]
pub struct Link {
    /// The backup.
    pub summary: BackupSummary,
    /// Opens its packs and its manifest.
    pub opener: Opener,
}

impl Link {
    /// The suffix of its objects' names.
    pub fn suffix(&self) -> &'static str {
        if self.summary.encrypted { ".age" } else { "" }
    }
}

/// `backup` and what it builds on in `log`, itself first.
///
/// # Errors
/// Names the part of the chain that is gone.
pub fn summaries<'a>(scope: &Scope, log: &'a CommitLog, backup: &'a BackupSummary) -> Result<Vec<&'a BackupSummary>> {
    let all: Vec<&BackupSummary> = log.backups().collect();
    commit::chain(backup, &all).map_err(|missing| {
        Error::failed(format!("{} cannot be restored: it needs {missing}, which is gone", backup.id))
            .hint(format!("lifeboat list {}   shows what can be restored", scope.source))
    })
}

/// The chain of `backup` in `log`, that backup first, with every key unwrapped.
///
/// # Errors
/// When a part of the chain is gone or none of `identities` opens it.
pub async fn links(scope: &Scope, log: &CommitLog, backup: &BackupSummary, identities: &[Identity]) -> Result<Vec<Link>> {
    let mut links = Vec::new();
    for summary in summaries(scope, log, backup)? {
        let opener = backup::opener(&scope.repository, &scope.source, &summary.id, summary.encrypted, identities).await?;
        links.push(Link { summary: summary.clone(), opener });
    }
    Ok(links)
}

/// A chain with its manifests at hand. Index n is owner n of the first manifest.
pub struct Chain {
    members: Vec<Member>,
}

/// One backup of a chain.
pub struct Member {
    /// The backup and its key.
    pub link: Link,
    /// Its packs.
    pub packs: Vec<PackLine>,
    key: String,
    manifest: PathBuf,
}

/// The entries of a chain's first manifest, resolved.
pub struct Entries {
    resolver: Resolver<Box<dyn BufRead>>,
    key: String,
}

impl Chain {
    /// Fetches the lists of packs and the manifests of `links` into `scratch`, and compares them with the commit entries.
    ///
    /// # Errors
    /// Damaged when one of them is not what was stored.
    pub async fn fetch(scope: &Scope, links: &[Link], scratch: &Path) -> Result<Self> {
        let mut members = Vec::with_capacity(links.len());
        for link in links {
            let (id, source) = (&link.summary.id, &scope.source);
            let packs = backup::load_packs(&scope.repository, source, id, link.summary.packs_sha256).await?;
            let manifest = scratch.join(format!("manifest-{id}"));
            let key = layout::manifest(source, id, link.suffix());
            fetch_manifest(scope, &link.summary, &key, &manifest).await?;
            members.push(Member { link: link.clone(), packs, key, manifest });
        }
        let chain = Self { members };
        let header = chain.entries()?.header().clone();
        let ids: Vec<&BackupId> = chain.members.iter().map(|member| &member.link.summary.id).collect();
        if header.backup != *ids[0] || header.source != scope.source || !header.owners.iter().eq(ids) {
            return Err(Error::damaged(format!(
                "{} does not belong to the chain of {}",
                chain.members[0].key, chain.members[0].link.summary.id
            )));
        }
        Ok(chain)
    }

    /// The backups, the one that is read first.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The entries from the first on.
    ///
    /// # Errors
    /// Damaged when the manifest cannot be opened.
    pub fn entries(&self) -> Result<Entries> {
        let manifests: Vec<(BackupId, String, PathBuf, Opener)> = self
            .members
            .iter()
            .map(|Member { link, key, manifest, .. }| {
                (link.summary.id.clone(), key.clone(), manifest.clone(), link.opener.clone())
            })
            .collect();
        let (_, key, path, opener) = &manifests[0];
        let (top, key) = (open_manifest(key, path, opener)?, key.clone());
        let open = move |id: &BackupId| {
            let found = manifests.iter().find(|(member, ..)| member == id);
            let (_, key, path, opener) = found.ok_or_else(|| format!("{id} is not part of the chain"))?;
            open_manifest(key, path, opener).map_err(|error| error.summary())
        };
        Ok(Entries { resolver: Resolver::new(top, Box::new(open)), key })
    }
}

impl Entries {
    /// The header of the first manifest.
    pub fn header(&self) -> &Header {
        self.resolver.header()
    }
}

impl Iterator for Entries {
    type Item = Result<Resolved>;

    fn next(&mut self) -> Option<Self::Item> {
        self.resolver.next().map(|line| line.map_err(|why| Error::damaged(format!("{}: {why}", self.key))))
    }
}

fn open_manifest(key: &str, path: &Path, opener: &Opener) -> Result<ManifestReader<Box<dyn BufRead>>> {
    let file = File::open(path).map_err(|error| Error::io("read", path, error))?;
    let sealed = opener.reader(BufReader::new(file)).map_err(|error| decode_error(key, error))?;
    let plain = compress::stream_reader(BufReader::with_capacity(64 << 10, sealed)).map_err(|error| read_error(key, error))?;
    let lines: Box<dyn BufRead> = Box::new(BufReader::with_capacity(64 << 10, plain));
    ManifestReader::new(lines).map_err(|why| Error::damaged(format!("{key}: {why}")))
}

async fn fetch_manifest(scope: &Scope, backup: &BackupSummary, key: &str, path: &Path) -> Result<()> {
    let store = scope.repository.store();
    let file = File::create(path).map_err(|error| Error::io("create", path, error))?;
    let mut out = DigestingWriter::new(file);
    let mut offset = 0;
    loop {
        let part = retrying(Patience::LONG, || store.get_range(key, offset..offset + FETCH_BYTES)).await?;
        if part.is_empty() {
            break;
        }
        out.write_all(&part).map_err(|error| Error::io("write", path, error))?;
        offset += part.len() as u64;
    }
    let (_, sha256, length) = out.finish();
    if sha256 == backup.manifest_sha256 {
        return Ok(());
    }
    Err(Error::damaged(format!("{key} is damaged: it is not what was stored"))
        .detail("expected", format!("{}, {} bytes", backup.manifest_sha256, backup.manifest_bytes))
        .detail("found", format!("{sha256}, {length} bytes"))
        .hint("lifeboat verify   shows what else is damaged; an older backup may still be whole"))
}
