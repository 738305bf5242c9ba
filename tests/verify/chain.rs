//! A small repository with a full, two incrs on it and a diff, made by the library's own writers: sound, or with a lie in
//! it that the host itself has signed.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;

use lifeboat::base::{BackupId, BackupType, RelPath, Timestamp};
use lifeboat::codec::compress::{self, Compressor};
use lifeboat::codec::encrypt::Seal;
use lifeboat::codec::frame::FRAME_RAW_BYTES;
use lifeboat::codec::{FrameDigest, Sha256Digest, frame};
use lifeboat::engine::{Scope, Writing, archive};
use lifeboat::repo::backup;
use lifeboat::repo::manifest::{Facts, FileKind, FileLine, Header, ManifestWriter, PATCH_PAGE_BYTES, Patch, PostgresFacts};
use lifeboat::repo::pack::{FrameRef, PackBuilder, PackLine};
use lifeboat::repo::{BackupSummary, commit, layout};

use super::fixture::{self, Fixture, incarnation, put, source, summary};

const PAGE: usize = PATCH_PAGE_BYTES as usize;
/// Pages of the relation's last frame.
const LAST_PAGES: usize = 5;

/// Index of each backup in [`Chain::ids`].
pub const FULL: usize = 0;
/// The incr on the full.
pub const INCR: usize = 1;
/// The incr on the incr.
pub const LAST: usize = 2;
/// The diff.
pub const DIFF: usize = 3;

/// The relation with patched pages.
pub const RELATION: &str = "base/1/16384";
/// A file that the first incr stored anew.
pub const CHANGED: &str = "base/1/200";
/// A file that never changed.
pub const SAME: &str = "base/1/300";
/// Another one, of the same length.
pub const OTHER: &str = "base/1/400";

/// A line of a manifest in the making.
#[derive(Clone, Debug)]
pub enum Line {
    /// An entry.
    Entry(FileLine),
    /// A reference.
    Ref(RelPath, u32),
}

/// A backup before it is stored: what a lie changes.
pub struct Draft {
    /// The manifest's header.
    pub header: Header,
    /// Its lines, in order.
    pub lines: Vec<Line>,
    /// What the commit entry will say, but for digests and sizes of objects.
    pub summary: BackupSummary,
}

impl Draft {
    /// Place of the line for `path`.
    pub fn at(&self, path: &str) -> usize {
        let path = RelPath::new(path).unwrap();
        let is_it = |line: &Line| match line {
            Line::Entry(entry) => entry.path == path,
            Line::Ref(referred, _) => *referred == path,
        };
        self.lines.iter().position(is_it).unwrap()
    }

    /// The entry for `path`.
    pub fn entry(&mut self, path: &str) -> &mut FileLine {
        let at = self.at(path);
        match &mut self.lines[at] {
            Line::Entry(entry) => entry,
            Line::Ref(..) => panic!("{path} is a reference"),
        }
    }
}

/// The repository and what its backups hold.
pub struct Chain {
    pub fixture: Fixture,
    /// Full, incr, incr, diff.
    pub ids: Vec<BackupId>,
    /// What a restore of the last incr makes of each file.
    pub last: BTreeMap<&'static str, Vec<u8>>,
}

impl Chain {
    /// A sound one.
    pub fn sound() -> Self {
        Self::with_lies(|_, _, _| {})
    }

    /// One in which `lie` changes each backup, given its index and the frames stored so far under their paths and owners,
    /// before it is stored and signed.
    pub fn with_lies(lie: impl Fn(usize, &mut Draft, &Stored)) -> Self {
        let fixture = Fixture::new();
        fixture.push_segments(3..=6);
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let (ids, last) = runtime.block_on(async {
            let (scope, writing) = fixture.scope().await;
            archive::push::flush_index(&scope, &writing, &incarnation()).await.unwrap();
            Maker::new(&fixture, scope, writing).all(&lie).await
        });
        Self { fixture, ids, last }
    }

    /// The ids with these indices, as text and in order.
    pub fn named(&self, indices: &[usize]) -> Vec<String> {
        let mut names: Vec<String> = indices.iter().map(|index| self.ids[*index].to_string()).collect();
        names.sort();
        names
    }

    /// The indices of the backups that build on the one with this index, and its own.
    pub fn useless_without(index: usize) -> &'static [usize] {
        [&[FULL, INCR, LAST, DIFF][..], &[INCR, LAST], &[LAST], &[DIFF]][index]
    }

    /// Key of a backup's manifest.
    pub fn manifest(&self, index: usize) -> String {
        layout::manifest(&source(), &self.ids[index], ".age")
    }

    /// Restores the last incr into `restored`, which is removed first; gives the program's output.
    pub fn restore_last(&self) -> std::process::Output {
        let into = self.fixture.path("restored");
        if into.exists() {
            fs::remove_dir_all(into).unwrap();
        }
        self.fixture.run(&format!("restore orders --into restored --to-immediate --backup {}", self.ids[LAST]))
    }

    /// Whether something is there that a server would start from.
    pub fn could_start(&self) -> bool {
        self.fixture.path("restored/global/pg_control").exists()
    }
}

/// Frames by the index of the backup that stored them and what they are.
pub type Stored = BTreeMap<(usize, &'static str), FrameRef>;

struct Maker<'a> {
    scope: Scope,
    writing: Writing,
    owner: (u32, u32),
    ids: Vec<BackupId>,
    stored: Stored,
    fixture: &'a Fixture,
}

/// The packs of one backup being filled.
struct Packs {
    builders: [PackBuilder; 2],
}

impl Packs {
    fn new(seal: &Seal) -> Self {
        Self { builders: [(); 2].map(|()| PackBuilder::new(seal, 1 << 20).unwrap()) }
    }

    fn add(&mut self, pack: u32, raw: &[u8]) -> FrameRef {
        let encoded = frame::encode(&mut Compressor::new(3).unwrap(), raw).unwrap();
        let offset = self.builders[pack as usize - 1].add(&encoded).unwrap();
        let (stored_len, raw_len) = (encoded.stored.len() as u32, encoded.raw_len);
        FrameRef { owner: 0, pack, offset, stored_len, raw_len, digest: encoded.digest }
    }
}

/// Bytes that compress badly enough to tell frames apart.
fn bytes(seed: u32, length: usize) -> Vec<u8> {
    (0..length as u32).map(|n| (n.wrapping_mul(seed | 1) >> 7 ^ seed) as u8).collect()
}

fn inherited(mut frame: FrameRef, owner: u32) -> FrameRef {
    frame.owner = owner;
    frame
}

impl<'a> Maker<'a> {
    fn new(fixture: &'a Fixture, scope: Scope, writing: Writing) -> Self {
        let metadata = fs::metadata(fixture.dir.path()).unwrap();
        Self { scope, writing, owner: (metadata.uid(), metadata.gid()), ids: Vec::new(), stored: Stored::new(), fixture }
    }

    async fn all(mut self, lie: &impl Fn(usize, &mut Draft, &Stored)) -> (Vec<BackupId>, BTreeMap<&'static str, Vec<u8>>) {
        assert!(self.fixture.path("repo").exists());
        let mut relation = bytes(1, FRAME_RAW_BYTES + LAST_PAGES * PAGE);
        let mut tree = BTreeMap::from([(CHANGED, bytes(2, 9000)), (SAME, bytes(3, 9000)), (OTHER, bytes(4, 9000))]);
        let diff_relation = {
            let mut relation = relation.clone();
            relation[34 * PAGE..35 * PAGE].copy_from_slice(&bytes(44, PAGE));
            relation
        };
        tree.insert(RELATION, relation.clone());
        self.backup(FULL, None, &tree, &[], lie).await;
        for page in [3, 33] {
            relation[page * PAGE..(page + 1) * PAGE].copy_from_slice(&bytes(40 + page as u32, PAGE));
        }
        let original = tree.insert(CHANGED, bytes(20, 12_000)).unwrap();
        tree.insert(RELATION, relation.clone());
        self.backup(INCR, Some(FULL), &tree, &[3, 33], lie).await;
        relation[4 * PAGE..5 * PAGE].copy_from_slice(&bytes(50, PAGE));
        tree.insert(RELATION, relation);
        self.backup(LAST, Some(INCR), &tree, &[4], lie).await;
        let last = tree.clone();
        tree.insert(RELATION, diff_relation);
        tree.insert(CHANGED, original);
        self.backup(DIFF, Some(FULL), &tree, &[34], lie).await;
        (self.ids, last)
    }

    /// Stores and commits the backup with this index, whose relation differs from its base's in `pages`.
    async fn backup(
        &mut self,
        index: usize,
        base: Option<usize>,
        tree: &BTreeMap<&'static str, Vec<u8>>,
        pages: &[usize],
        lie: &impl Fn(usize, &mut Draft, &Stored),
    ) {
        let backup_type = [BackupType::Full, BackupType::Incr, BackupType::Incr, BackupType::Diff][index];
        let id = BackupId::fresh(Timestamp::now(), backup_type);
        fixture::begin(&self.scope, &self.writing, &id).await;
        let seal = backup::store_key(&self.scope.repository, &source(), &id, self.writing.recipients.as_deref()).await.unwrap();
        let mut packs = Packs::new(&seal);
        let lines = self.lines(index, &mut packs, tree, pages);
        let chain: &[usize] = [&[][..], &[FULL], &[INCR, FULL], &[FULL]][index];
        let owners = std::iter::once(id.clone()).chain(chain.iter().map(|owner| self.ids[*owner].clone())).collect();
        let header = Header {
            format: 1,
            backup: id.clone(),
            backup_type,
            source: source(),
            incarnation: incarnation(),
            owners,
            users: BTreeMap::new(),
            groups: BTreeMap::new(),
            facts: Facts::Postgres(PostgresFacts::default()),
        };
        let base = base.map(|base| self.ids[base].clone());
        let summary = BackupSummary {
            backup_type,
            base,
            entries: lines.len() as u64,
            raw_bytes: tree.values().map(|raw| raw.len() as u64).sum::<u64>() + PAGE as u64,
            ..summary(&id, 3 + index as u64)
        };
        let mut draft = Draft { header, lines, summary };
        lie(index, &mut draft, &self.stored);
        self.ids.push(id);
        self.store(draft, packs, &seal).await;
    }

    /// The honest lines, in the order of their paths.
    fn lines(&mut self, index: usize, packs: &mut Packs, tree: &BTreeMap<&'static str, Vec<u8>>, pages: &[usize]) -> Vec<Line> {
        let directory = |path| Line::Entry(self.line(path, FileKind::Directory, 0o700, vec![]));
        let [base, one, global] = ["base", "base/1", "global"].map(directory);
        let relation = self.relation(index, packs, &tree[RELATION], pages);
        let mut lines = vec![base, one, relation];
        for (path, seed_pack) in [(CHANGED, 1), (SAME, 2), (OTHER, 2)] {
            let reference = |owner| Line::Ref(RelPath::new(path).unwrap(), owner);
            lines.push(match (index, path) {
                (FULL, _) | (INCR, CHANGED) => {
                    let frame = packs.add(seed_pack, &tree[path]);
                    self.stored.insert((index, path), frame);
                    Line::Entry(self.line(path, FileKind::File, 0o600, vec![frame]))
                }
                (LAST, CHANGED) => reference(1),
                (LAST, _) => reference(2),
                _ => reference(1),
            });
        }
        let control = packs.add(2, &bytes(90 + index as u32, PAGE));
        lines.extend([global, Line::Entry(self.line("global/pg_control", FileKind::File, 0o600, vec![control]))]);
        lines
    }

    /// The relation: whole in the full, in the others what the base has and `pages`.
    fn relation(&mut self, index: usize, packs: &mut Packs, raw: &[u8], pages: &[usize]) -> Line {
        let chunks = raw.chunks(FRAME_RAW_BYTES);
        let names = ["frame 0", "frame 1"];
        if index == FULL {
            let frames: Vec<FrameRef> = chunks.map(|raw| packs.add(1, raw)).collect();
            self.stored.extend(names.into_iter().zip(&frames).map(|(name, frame)| ((FULL, name), *frame)));
            return Line::Entry(self.line(RELATION, FileKind::Pages, 0o600, frames));
        }
        let full = if index == LAST { 2 } else { 1 };
        let frames = names.iter().map(|name| inherited(self.stored[&(FULL, *name)], full)).collect();
        let patched: Vec<u8> = pages.iter().flat_map(|page| &raw[page * PAGE..(page + 1) * PAGE]).copied().collect();
        let own = Patch { frame: packs.add(1, &patched), runs: pages.iter().map(|page| (*page as u32, 1)).collect() };
        self.stored.insert((index, "patch"), own.frame);
        let mut line = self.line(RELATION, FileKind::Pages, 0o600, frames);
        if index == LAST {
            let frame = inherited(self.stored[&(INCR, "patch")], 1);
            line.patches.push(Patch { frame, runs: vec![(3, 1), (33, 1)] });
        }
        line.patches.push(own);
        let states = (0..).zip(chunks).map(|(index, raw)| (index, FrameDigest::of(raw)));
        line.states = states.filter(|(index, digest)| *digest != line.frames[*index as usize].digest).collect();
        Line::Entry(line)
    }

    fn line(&self, path: &str, kind: FileKind, mode: u32, frames: Vec<FrameRef>) -> FileLine {
        FileLine {
            path: RelPath::new(path).unwrap(),
            kind,
            mode,
            uid: self.owner.0,
            gid: self.owner.1,
            modified: Timestamp::now(),
            inode: 5,
            size_bytes: frames.iter().map(|frame| u64::from(frame.raw_len)).sum(),
            frames,
            patches: vec![],
            states: vec![],
            bad_blocks: vec![],
            tree: None,
        }
    }

    async fn store(&self, draft: Draft, packs: Packs, seal: &Seal) {
        let (id, source) = (self.ids.last().unwrap().clone(), source());
        let mut listed = Vec::new();
        for (pack, builder) in (1..).zip(packs.builders) {
            let (stored, sha256) = builder.finish().unwrap();
            listed.push(PackLine { pack, stored_bytes: stored.len() as u64, sha256 });
            put(&self.scope, &layout::pack(&source, &id, pack, ".age"), stored.to_vec()).await;
        }
        let text = backup::packs_text(&listed);
        let packs_sha256 = Sha256Digest::of(&text);
        put(&self.scope, &layout::packs_list(&source, &id), text).await;
        let compressed = compress::stream_writer(seal.writer(Vec::new()).unwrap(), 3).unwrap();
        let mut manifest = ManifestWriter::new(compressed, &draft.header).unwrap();
        for line in &draft.lines {
            match line {
                Line::Entry(entry) => manifest.entry(entry).unwrap(),
                Line::Ref(path, owner) => manifest.reference(path, *owner).unwrap(),
            }
        }
        let (compressed, _) = manifest.finish().unwrap();
        let manifest = compressed.finish().unwrap().finish().unwrap();
        let summary = BackupSummary {
            packs_sha256,
            manifest_sha256: Sha256Digest::of(&manifest),
            manifest_bytes: manifest.len() as u64,
            stored_bytes: listed.iter().map(|pack| pack.stored_bytes).sum::<u64>() + manifest.len() as u64,
            ..draft.summary
        };
        put(&self.scope, &layout::manifest(&source, &id, ".age"), manifest).await;
        commit::append(&self.scope.repository, &source, &self.writing.signer, "here", &summary).await.unwrap();
    }
}
