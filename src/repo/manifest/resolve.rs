//! A manifest with the entries that it only refers to, read as one stream.
//!
//! All manifests of a chain are sorted by path: each is read once, forwards, beside the others. A reference leads to
//! an entry of the manifest it names; one that leads to another reference, or to nothing, is damage. So is a frame of
//! another owner that is not, under the same path and in the same place, that owner's own ([`Resolver::with_origins`]).
//!
//! A directory's frames are found by their content, wherever in the chain that lies: under another path, at another place of
//! a file. That is safe without comparing: an entry carries the SHA-256 of what each of its frames must hold, in a list that
//! has its own SHA-256, and a restore compares both, so that a frame which is not the right one is refused and never
//! restored. That there is such a frame at all is what `verify --deep` looks up in the other manifests.

use std::collections::{BTreeMap, BTreeSet};
use std::io::BufRead;

use super::reader::Places;
use super::{FileLine, Header, ManifestLine, ManifestReader, Patch};
use crate::base::{BackupId, RelPath};
use crate::repo::pack::FrameRef;

/// An entry and the manifest that holds it.
#[derive(Clone, Debug, PartialEq)]
pub struct Resolved {
    /// The entry; its owners are indices in the header of the manifest that is being resolved.
    pub line: FileLine,
    /// Index of the backup whose manifest holds it, in the same table.
    pub holder: u32,
}

/// Opens the manifest of a backup: called once for each that is referred to.
pub type OpenManifest<R> = Box<dyn FnMut(&BackupId) -> Result<ManifestReader<R>, String>>;

/// Resolves a manifest: an iterator over all of its entries, in the order of their paths.
pub struct Resolver<R> {
    top: ManifestReader<R>,
    open: OpenManifest<R>,
    /// Other manifests of the chain, read as far as they were needed, by their index.
    others: BTreeMap<u32, ManifestReader<R>>,
    places: Places,
    with_origins: bool,
    ended: bool,
}

impl<R: BufRead> Resolver<R> {
    /// Resolves `top` with the manifests that `open` gives.
    pub fn new(top: ManifestReader<R>, open: OpenManifest<R>) -> Self {
        let places = Places::of(top.header());
        Self { top, open, others: BTreeMap::new(), places, with_origins: false, ended: false }
    }

    /// Also compares what the entries of the first manifest have of other owners with what those wrote of it themselves.
    /// Reads every manifest of the chain of which something is used. Of a directory's there is nothing to compare here.
    #[must_use]
    pub fn with_origins(mut self) -> Self {
        self.with_origins = !self.top.header().is_tree();
        self
    }

    /// The header of the manifest that is being resolved.
    pub fn header(&self) -> &Header {
        self.top.header()
    }

    fn read(&mut self) -> Result<Option<Resolved>, String> {
        let resolved = match self.top.next().transpose()? {
            None => return Ok(None),
            Some(ManifestLine::Entry(line)) => {
                if self.with_origins {
                    self.check_origins(&line)?;
                }
                Resolved { line: *line, holder: 0 }
            }
            Some(ManifestLine::Ref { path, owner }) => {
                Resolved { line: renumbered(self.find(&path, owner)?, owner)?, holder: owner }
            }
        };
        self.places.check(&resolved.line)?;
        Ok(Some(resolved))
    }

    /// Everything that `line` has of another backup must be that backup's own, at the same place of the same file.
    fn check_origins(&mut self, line: &FileLine) -> Result<(), String> {
        let frames = line.frames.iter().chain(line.patches.iter().map(|patch| &patch.frame));
        let owners: BTreeSet<u32> = frames.map(|frame| frame.owner).filter(|owner| *owner > 0).collect();
        for owner in owners {
            let original = self.find(&line.path, owner)?;
            let as_own = |frame: &FrameRef| FrameRef { owner: 0, ..*frame };
            let mut frames = line.frames.iter().enumerate().filter(|(_, frame)| frame.owner == owner);
            let mut patches = line.patches.iter().filter(|patch| patch.frame.owner == owner);
            // Both lists are in the same order: each is read once.
            let mut own_patches = original.patches.iter();
            let is_own_patch = |patch: &Patch| own_patches.any(|own| own.frame == as_own(&patch.frame) && own.runs == patch.runs);
            let is_same =
                frames.all(|(index, frame)| original.frames.get(index) == Some(&as_own(frame))) && patches.all(is_own_patch);
            if !is_same {
                return Err(format!("{} has frames of {} that are not those of that backup", line.path, self.id(owner)));
            }
        }
        Ok(())
    }

    fn id(&self, owner: u32) -> BackupId {
        self.top.header().owners[owner as usize].clone()
    }

    /// The entry of `path` in the manifest of `owner`, with owners as that one counts them.
    fn find(&mut self, path: &RelPath, owner: u32) -> Result<FileLine, String> {
        let id = self.id(owner);
        if !self.others.contains_key(&owner) {
            let other = self.open_other(owner)?;
            self.others.insert(owner, other);
        }
        let other = self.others.get_mut(&owner).ok_or_else(|| format!("the manifest of {id} is not at hand"))?;
        for found in other.by_ref() {
            match found.map_err(|why| format!("manifest of {id}: {why}"))? {
                ManifestLine::Entry(line) if line.path == *path => return Ok(*line),
                ManifestLine::Ref { path: referring, .. } if referring == *path => {
                    return Err(format!("{path} refers to the manifest of {id}, which refers to yet another"));
                }
                ManifestLine::Entry(line) if line.path > *path => break,
                ManifestLine::Ref { path: later, .. } if later > *path => break,
                _ => {}
            }
        }
        Err(format!("{path} refers to the manifest of {id}, which has no such entry"))
    }

    fn open_other(&mut self, owner: u32) -> Result<ManifestReader<R>, String> {
        let id = self.id(owner);
        let reader = (self.open)(&id)?;
        let (header, theirs) = (self.top.header(), reader.header());
        if (&theirs.backup, &theirs.source, &theirs.incarnation) != (&id, &header.source, &header.incarnation) {
            return Err(format!("the manifest of {id} is that of {} of {}", theirs.backup, theirs.source));
        }
        if theirs.is_tree() != header.is_tree() {
            return Err(format!("the manifest of {id} is of another kind of source"));
        }
        if theirs.owners != header.owners[owner as usize..] {
            return Err(format!("the manifest of {id} does not name the chain that {} names", header.backup));
        }
        Ok(reader)
    }
}

/// `line` of the manifest of `owner` with its owners as indices in the table of the first manifest, in which theirs is the
/// rest from `owner` on.
fn renumbered(mut line: FileLine, owner: u32) -> Result<FileLine, String> {
    // In range: the reader has checked them against its own table.
    line.frames.iter_mut().chain(line.patches.iter_mut().map(|patch| &mut patch.frame)).for_each(|frame| frame.owner += owner);
    line.check_patches()?;
    Ok(line)
}

impl<R: BufRead> Iterator for Resolver<R> {
    type Item = Result<Resolved, String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let resolved = self.read().transpose();
        self.ended = !matches!(resolved, Some(Ok(_)));
        resolved
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::base::BackupType;
    use crate::codec::FrameDigest;
    use crate::codec::frame::FRAME_RAW_BYTES;
    use crate::repo::manifest::{Facts, FileKind, ManifestWriter, PATCH_PAGE_BYTES, PostgresFacts};

    const IDS: [&str; 3] = ["20261120T214003Z-incr-aaaa", "20261120T214002Z-incr-aaaa", "20261120T214001Z-full-aaaa"];

    fn id(index: usize) -> BackupId {
        IDS[index].parse().unwrap()
    }

    /// A manifest in the making: its owners are the chain from `index` on.
    struct Draft {
        header: Header,
        lines: Vec<(String, Option<FileLine>, u32)>,
    }

    impl Draft {
        fn of(index: usize) -> Self {
            let header = Header {
                format: 1,
                backup: id(index),
                backup_type: if index == 2 { BackupType::Full } else { BackupType::Incr },
                source: "orders".parse().unwrap(),
                incarnation: "pg15-7".parse().unwrap(),
                owners: (index..3).map(id).collect(),
                users: BTreeMap::new(),
                groups: BTreeMap::new(),
                facts: Facts::Postgres(PostgresFacts::default()),
            };
            Self { header, lines: Vec::new() }
        }

        fn entry(mut self, line: FileLine) -> Self {
            self.lines.push((String::new(), Some(line), 0));
            self
        }

        fn reference(mut self, path: &str, owner: u32) -> Self {
            self.lines.push((path.to_owned(), None, owner));
            self
        }

        fn written(&self) -> Vec<u8> {
            let mut writer = ManifestWriter::new(Vec::new(), &self.header).unwrap();
            for (path, line, owner) in &self.lines {
                match line {
                    Some(line) => writer.entry(line).unwrap(),
                    None => writer.reference(&RelPath::new(path.as_str()).unwrap(), *owner).unwrap(),
                }
            }
            writer.finish().unwrap().0
        }
    }

    fn frame(owner: u32, offset: u64, raw_len: usize) -> FrameRef {
        let digest = FrameDigest::of(&offset.to_le_bytes());
        FrameRef { owner, pack: 1, offset, stored_len: 10, raw_len: raw_len as u32, digest }
    }

    fn patch(owner: u32, offset: u64, pages: &[u32]) -> Patch {
        let frame = frame(owner, offset, pages.len() * PATCH_PAGE_BYTES as usize);
        Patch { frame, runs: pages.iter().map(|page| (*page, 1)).collect() }
    }

    fn pages(path: &str, frames: Vec<FrameRef>, patches: Vec<Patch>) -> FileLine {
        let size_bytes = frames.iter().map(|frame| u64::from(frame.raw_len)).sum();
        FileLine { size_bytes, frames, patches, ..FileLine::bare(RelPath::new(path).unwrap(), FileKind::Pages) }
    }

    /// The last incr, the incr before it and their full, all sound.
    ///
    /// `a` was stored by the full alone; two pages of `b` by the incr and one by the last; `c` by the incr; `d` by the last.
    fn chain() -> [Draft; 3] {
        const LEN: usize = FRAME_RAW_BYTES;
        let b = |owner: u32| vec![frame(owner, 100, LEN), frame(owner, 200, LEN)];
        let full = Draft::of(2).entry(pages("a", vec![frame(0, 0, LEN)], vec![])).entry(pages("b", b(0), vec![]));
        let full = full.entry(pages("c", vec![frame(0, 300, LEN)], vec![]));
        let incr = Draft::of(1).reference("a", 1).entry(pages("b", b(1), vec![patch(0, 10, &[3]), patch(0, 20, &[40])]));
        let incr = incr.entry(pages("c", vec![frame(0, 30, LEN)], vec![]));
        let patches = vec![patch(1, 10, &[3]), patch(1, 20, &[40]), patch(0, 1, &[5])];
        let last = Draft::of(0).reference("a", 2).entry(pages("b", b(2), patches)).reference("c", 1);
        [last.entry(pages("d", vec![frame(0, 2, LEN)], vec![])), incr, full]
    }

    fn resolver(drafts: &[Draft; 3]) -> Resolver<&'static [u8]> {
        let written: HashMap<BackupId, &'static [u8]> =
            drafts.iter().map(|draft| (draft.header.backup.clone(), &*draft.written().leak())).collect();
        let top = ManifestReader::new(written[&id(0)]).unwrap();
        Resolver::new(top, Box::new(move |id| ManifestReader::new(*written.get(id).ok_or("it is not there")?)))
    }

    fn resolved(drafts: &[Draft; 3]) -> Result<Vec<Resolved>, String> {
        resolver(drafts).collect()
    }

    /// What is said of a chain in which `change` changed something: by a resolver, and by one that checks origins.
    fn told(change: impl Fn(&mut [Draft; 3])) -> [Result<(), String>; 2] {
        let mut drafts = chain();
        change(&mut drafts);
        let outcome = |resolver: Resolver<_>| resolver.collect::<Result<Vec<_>, _>>().map(drop);
        [outcome(resolver(&drafts)), outcome(resolver(&drafts).with_origins())]
    }

    /// `change` is noticed by every resolver, in these words.
    #[track_caller]
    fn refused(words: &str, change: impl Fn(&mut [Draft; 3])) {
        for outcome in told(change) {
            let why = outcome.expect_err(words);
            assert!(why.contains(words), "{why}");
        }
    }

    /// `change` is noticed by one that checks origins only.
    #[track_caller]
    fn found_out(change: impl Fn(&mut [Draft; 3])) {
        let [plain, checked] = told(change);
        assert_eq!(plain, Ok(()));
        let why = checked.expect_err("found out");
        assert!(why.contains("that are not those of that backup"), "{why}");
    }

    fn entry(draft: &mut Draft, at: usize) -> &mut FileLine {
        draft.lines[at].1.as_mut().unwrap()
    }

    #[test]
    fn a_chain_is_read_as_one_tree() {
        let found = resolved(&chain()).unwrap();
        let told: Vec<(String, u32, Vec<u32>, Vec<u32>)> = found
            .iter()
            .map(|Resolved { line, holder }| {
                let frames = line.frames.iter().map(|frame| frame.owner).collect();
                (line.path.to_string(), *holder, frames, line.patches.iter().map(|patch| patch.frame.owner).collect())
            })
            .collect();
        let expected = [
            ("a".to_owned(), 2, vec![2], vec![]),
            ("b".to_owned(), 0, vec![2, 2], vec![1, 1, 0]),
            ("c".to_owned(), 1, vec![1], vec![]),
            ("d".to_owned(), 0, vec![0], vec![]),
        ];
        assert_eq!(told, expected);
        assert_eq!(resolver(&chain()).with_origins().collect::<Result<Vec<_>, _>>().unwrap(), found);
        assert_eq!(found[2].line.frames[0].offset, 30, "the incr's, not the full's");
    }

    #[test]
    fn a_reference_leads_to_an_entry_in_one_step() {
        refused("which refers to yet another", |drafts| drafts[0].lines[0].2 = 1);
        refused("which has no such entry", |drafts| drop(drafts[2].lines.remove(0)));
        refused("which has no such entry", |drafts| drop(drafts[1].lines.pop()));
        refused("unknown owner 3", |drafts| drafts[0].lines[0].2 = 3);
        refused("unknown owner 0", |drafts| drafts[0].lines[0].2 = 0);
    }

    #[test]
    fn manifests_of_other_chains_are_refused() {
        refused("does not name the chain", |drafts| drop(drafts[1].header.owners.pop()));
        refused("does not name the chain", |drafts| drafts[1].header.owners.swap(0, 1));
        refused("does not name the chain", |drafts| drafts[0].header.owners.insert(2, IDS[0].parse().unwrap()));
        refused("does not name the chain", |drafts| drafts[2].header.owners.push(id(0)));
        refused("it is not there", |drafts| drafts[2].header.backup = "20261120T214000Z-full-aaaa".parse().unwrap());
        refused("is that of", |drafts| drafts[2].header.source = "users".parse().unwrap());
        refused("is that of", |drafts| drafts[2].header.incarnation = "pg15-8".parse().unwrap());
    }

    #[test]
    fn a_damaged_manifest_of_the_chain_is_named() {
        let mut drafts = chain();
        entry(&mut drafts[2], 0).size_bytes -= 1;
        let why = resolved(&drafts).unwrap_err();
        assert!(why.contains(&format!("manifest of {}", IDS[2])) && why.contains("are declared"), "{why}");
    }

    #[test]
    fn frames_of_others_are_theirs_at_the_same_place() {
        // The other frame of the same file, a frame of another file, one that nobody has.
        found_out(|drafts| entry(&mut drafts[0], 1).frames[0] = frame(2, 200, FRAME_RAW_BYTES));
        found_out(|drafts| entry(&mut drafts[0], 1).frames[1] = frame(2, 0, FRAME_RAW_BYTES));
        found_out(|drafts| entry(&mut drafts[0], 1).frames[1].stored_len += 1);
        found_out(|drafts| entry(&mut drafts[0], 1).frames[1].digest = FrameDigest::of(b"another"));
        found_out(|drafts| entry(&mut drafts[0], 1).frames[1].pack += 1);
        // What the incr has only from the full is not its own.
        found_out(|drafts| entry(&mut drafts[0], 1).frames.iter_mut().for_each(|frame| frame.owner = 1));
    }

    #[test]
    fn patches_of_others_are_theirs() {
        found_out(|drafts| entry(&mut drafts[0], 1).patches[0].runs[0].0 = 4);
        found_out(|drafts| entry(&mut drafts[0], 1).patches[1].frame.offset = 10);
        found_out(|drafts| entry(&mut drafts[0], 1).patches.swap(0, 1));
        found_out(|drafts| entry(&mut drafts[0], 1).patches[0] = patch(2, 100, &[3]));
        // Those that count no more may be left out.
        let [plain, checked] = told(|drafts| drop(entry(&mut drafts[0], 1).patches.remove(0)));
        assert_eq!((plain, checked), (Ok(()), Ok(())));
    }

    #[test]
    fn a_referenced_entry_cannot_lead_outside_either() {
        let link = |path: &str| FileLine {
            kind: FileKind::Symlink { target: "/etc/cron.d".into() },
            ..FileLine::bare(RelPath::new(path).unwrap(), FileKind::File)
        };
        let below = |drafts: &mut [Draft; 3]| {
            drafts[2] = Draft::of(2).entry(link("a"));
            drafts[0] = Draft::of(0).reference("a", 2).entry(pages("a/job", vec![], vec![]));
        };
        refused("below something that is no directory", below);
        refused("below something that is no directory", |drafts| {
            drafts[2] = Draft::of(2).entry(pages("a/job", vec![], vec![]));
            drafts[0] = Draft::of(0).entry(link("a")).reference("a/job", 2);
        });
        refused("cannot be a tablespace", |drafts| {
            let space = FileLine { kind: FileKind::Tablespace { target: "/root/.ssh".into() }, ..link("a") };
            drafts[2] = Draft::of(2).entry(space);
            drafts[0] = Draft::of(0).reference("a", 2);
        });
    }
}
