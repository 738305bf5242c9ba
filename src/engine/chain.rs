//! A backup and everything it builds on: keys, lists of packs and manifests, read as one.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use super::Scope;
use crate::base::{BackupId, Error, Result, SourceName};
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
    commit::chain(backup, &all).map_err(|broken| {
        Error::failed(format!("{} cannot be restored: {broken}", backup.id))
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
    source: SourceName,
    members: Vec<Member>,
}

/// One backup of a chain.
pub struct Member {
    /// The backup and its key.
    pub link: Link,
    /// Its packs.
    pub packs: Vec<PackLine>,
    manifest: PathBuf,
}

/// A manifest as it is stored, in a file of this host.
#[derive(Clone)]
pub struct ManifestCopy {
    /// The backup and its key.
    pub link: Link,
    /// The file.
    pub path: PathBuf,
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
            members.push(Member { link: link.clone(), packs, manifest });
        }
        Ok(Self { source: scope.source.clone(), members })
    }

    /// The backups, the one that is read first.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The entries from the first on.
    ///
    /// # Errors
    /// Damaged when the manifest cannot be opened or is not that of this chain.
    pub fn entries(&self) -> Result<Entries> {
        let copy = |member: &Member| ManifestCopy { link: member.link.clone(), path: member.manifest.clone() };
        let copies: Vec<ManifestCopy> = self.members.iter().map(copy).collect();
        let key = copies[0].key(&self.source);
        let resolver = resolver(&self.source, copies)?;
        Ok(Entries { resolver, key })
    }

    /// The entries from the first on, each compared with the manifests of those backups of which it has frames.
    ///
    /// # Errors
    /// As [`Chain::entries`].
    pub fn entries_with_origins(&self) -> Result<Entries> {
        let Entries { resolver, key } = self.entries()?;
        Ok(Entries { resolver: resolver.with_origins(), key })
    }
}

/// Resolves the first of `copies`, which are those of a whole chain.
///
/// # Errors
/// Damaged when it cannot be opened or is not that of this chain.
pub fn resolver(source: &SourceName, copies: Vec<ManifestCopy>) -> Result<Resolver<Box<dyn BufRead>>> {
    let (top, summary) = (copies[0].open(source)?, &copies[0].link.summary);
    let header = top.header();
    let is_its_own = (&header.backup, &header.source, &header.incarnation) == (&summary.id, source, &summary.incarnation);
    if !is_its_own || !header.owners.iter().eq(copies.iter().map(|copy| &copy.link.summary.id)) {
        return Err(Error::damaged(format!("{} does not belong to the chain of {}", copies[0].key(source), summary.id)));
    }
    let source = source.clone();
    let open = move |id: &BackupId| {
        let found = copies.iter().find(|copy| copy.link.summary.id == *id);
        let copy = found.ok_or_else(|| format!("{id} is not part of the chain"))?;
        copy.open(&source).map_err(|error| error.summary())
    };
    Ok(Resolver::new(top, Box::new(open)))
}

impl ManifestCopy {
    /// The name of the object.
    pub fn key(&self, source: &SourceName) -> String {
        layout::manifest(source, &self.link.summary.id, self.link.suffix())
    }

    /// Opens it, to be read from the start.
    ///
    /// # Errors
    /// Damaged when it cannot be decrypted, does not begin like a manifest, or is one of another kind of source.
    pub fn open(&self, source: &SourceName) -> Result<ManifestReader<Box<dyn BufRead>>> {
        let key = self.key(source);
        let file = File::open(&self.path).map_err(|error| Error::io("read", &self.path, error))?;
        let sealed = self.link.opener.reader(BufReader::new(file)).map_err(|error| decode_error(&key, error))?;
        let plain =
            compress::stream_reader(BufReader::with_capacity(64 << 10, sealed)).map_err(|error| read_error(&key, error))?;
        let lines: Box<dyn BufRead> = Box::new(BufReader::with_capacity(64 << 10, plain));
        let reader = ManifestReader::new(lines).map_err(|why| Error::damaged(format!("{key}: {why}")))?;
        // How its lines are read, and what of them is checked, must not be the manifest's own choice.
        match reader.header().facts.engine() == self.link.summary.incarnation.engine() {
            true => Ok(reader),
            false => Err(Error::damaged(format!("{key} is not of the kind of source that {} is of", self.link.summary.id))),
        }
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

async fn fetch_manifest(scope: &Scope, backup: &BackupSummary, key: &str, path: &Path) -> Result<()> {
    let store = scope.repository.store();
    let file = File::create(path).map_err(|error| Error::io("create", path, error))?;
    let mut out = DigestingWriter::new(file);
    let mut offset = 0;
    loop {
        let part = store.get_range(key, offset..offset + FETCH_BYTES).await?;
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
