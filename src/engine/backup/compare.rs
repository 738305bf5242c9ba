//! What changed since the base: file by file from what the file system says, frame by frame from content.
//!
//! A frame whose digest is that of the base did not change, whatever its pages say. One whose digest differs is stored
//! whole, but for main forks of relations whose page LSNs may be trusted: of those only the pages that may have changed
//! are stored. How that could go wrong, and what stands against it:
//! - A change that moved no LSN: such LSNs are not trusted ([`super::base`]); besides, sixteen bits of every page's
//!   digest are compared, and a frame with a page that differs without having moved its LSN is stored whole and reported.
//! - A file replaced by another under its name, with its inode number: the inode's birth is compared too.
//! - A file changed within the granularity of its times: two seconds before the base's start are not trusted.
//! - A clock that was set: times in the future, or a clock behind the base's start, make every file be read.
//! - A page that was read wrongly when the base was taken, by a disk that is good again: a page that is bad in the base is
//!   always read, and counts as changed.
//!
//! Where the log tells which pages were touched ([`super::told`]), files of relations are not read at all but for these.

use std::sync::Arc;
use std::time::Duration;

use super::told::{LogTold, ToldFile};
use crate::base::{Lsn, Timestamp};
use crate::codec::FrameDigest;
use crate::repo::base_cache::BaseLine;
use crate::repo::manifest::{FileKind, PAGES_IN_FRAME};
use crate::source::postgres::changes::{PageSet, changed_pages};
use crate::source::postgres::page::PAGE_BYTES;
use crate::source::{Entry, EntryKind, Fork};

/// Changed pages of a frame from which on it is stored whole: a restore then reads one frame where it would read two and
/// write them page by page. Earlier it does not pay: pages of an index, of which many change, compress badly.
pub(super) const NEARLY_ALL_PAGES: u32 = PAGES_IN_FRAME * 7 / 8;
/// How long before the base's start a file must have been modified last to be taken for untouched.
const CLOCK_GRAIN: Duration = Duration::from_secs(2);

/// What holds for all files of one backup.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    /// Pages with an LSN from here on count as changed; none when LSNs may not be trusted.
    pub trusted_since: Option<Lsn>,
    /// The host's clock before the base was started; none when nothing may be left unread.
    pub untouched_before: Option<Timestamp>,
    /// Read everything and compare it with what change detection says.
    pub audit: bool,
    /// What the log told; none where files are read.
    pub log: Option<LogTold>,
}

/// What becomes of a file.
pub(super) enum Treatment {
    /// There is nothing to compare it with.
    Whole,
    /// It is what it was, and is not read.
    Unread(Arc<BaseLine>),
    /// It is read and compared.
    Compare(Prior),
}

/// A file as the base has it.
#[derive(Clone)]
pub(super) struct Prior {
    pub base: Arc<BaseLine>,
    /// Of a changed frame, pages with an LSN from here on count as changed; none stores it whole.
    pub trusted_since: Option<Lsn>,
    /// An audited file: change detection would have left it unread.
    pub claimed_untouched: bool,
    /// Whether what change detection says is compared with what is found.
    pub audit: bool,
    /// What the log told of the file: only these pages are read, or in an audit what is found is compared with it.
    pub told: Option<ToldFile>,
}

/// What is stored of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Nothing: it is the base's.
    Same,
    /// All of it.
    Whole,
    /// These pages.
    Pages(PageSet),
}

/// A frame as it was read.
pub(super) struct Seen<'a> {
    pub index: usize,
    pub raw: &'a [u8],
    pub digest: FrameDigest,
    pub marks: &'a [u16],
    pub suspicious: PageSet,
}

/// What comparing a frame came to.
pub(super) struct Verdict {
    pub change: Change,
    /// Pages that changed though change detection says that they did not.
    pub missed: PageSet,
}

impl Rules {
    /// How `entry` is treated, of which the base has `base`.
    pub fn treat(&self, entry: &Entry, base: BaseLine) -> Treatment {
        if !is_of_kind(entry, &base.line.kind) {
            return Treatment::Whole;
        }
        let base = Arc::new(base);
        let is_good = base.line.bad_blocks.is_empty();
        let untouched = is_good && told_untouched(self.is_untouched(entry, &base), entry, &base);
        if untouched && !self.audit {
            return Treatment::Unread(base);
        }
        let is_main = matches!(entry.kind, EntryKind::Pages { fork: Fork::Main, .. });
        let same_file = entry.stamp.zip(base.stamp).is_some_and(|(now, then)| now.is_same_file(&then));
        let trusted_since = self.trusted_since.filter(|_| is_main && same_file);
        let told = self.log.as_ref().filter(|_| same_file).and_then(|log| log.of(entry));
        let told = match told {
            // A file that was written though no record tells why is compared.
            Some(told) if !self.audit && !told.touched => {
                match entry.stamp == base.stamp && entry.size_bytes == base.line.size_bytes {
                    true if is_good => return Treatment::Unread(base),
                    true => Some(told),
                    false => None,
                }
            }
            told => told,
        };
        Treatment::Compare(Prior { base, trusted_since, claimed_untouched: untouched, audit: self.audit, told })
    }

    fn is_untouched(&self, entry: &Entry, base: &BaseLine) -> bool {
        let (Some(before), Some(stamp)) = (self.untouched_before, entry.stamp) else { return false };
        let before_nanos = before.unix_micros().saturating_sub(CLOCK_GRAIN.as_micros() as i64).saturating_mul(1000);
        base.stamp == Some(stamp)
            && stamp.born_nanos.is_some()
            && entry.size_bytes == base.line.size_bytes
            && stamp.modified_nanos <= before_nanos
    }
}

/// Whether what is found now is of the kind that the base has.
fn is_of_kind(entry: &Entry, kind: &FileKind) -> bool {
    matches!((&entry.kind, kind), (EntryKind::File, FileKind::File) | (EntryKind::Pages { .. }, FileKind::Pages))
}

impl Prior {
    /// Whether and how a frame changed.
    pub fn judge(&self, seen: &Seen<'_>) -> Verdict {
        let line = &self.base.line;
        let same_length = line.frames.get(seen.index).is_some_and(|frame| frame.raw_len as usize == seen.raw.len());
        if !same_length {
            return Verdict { change: Change::Whole, missed: 0 };
        }
        if line.state(seen.index) == Some(seen.digest) {
            return Verdict { change: Change::Same, missed: 0 };
        }
        let differing = self.differing_marks(seen);
        // Pages of it were stored by what the log told, and the rest was not read: its pages' marks have to do.
        let unknown = line.state(seen.index) == Some(FrameDigest::UNKNOWN);
        if self.claimed_untouched {
            if unknown && differing == 0 {
                return Verdict { change: Change::Same, missed: 0 };
            }
            return Verdict { change: Change::Whole, missed: if differing == 0 { PageSet::MAX } else { differing } };
        }
        let whole_pages = seen.raw.len().is_multiple_of(PAGE_BYTES);
        let Some(base_lsn) = self.trusted_since.filter(|_| whole_pages) else {
            return Verdict { change: Change::Whole, missed: 0 };
        };
        let by_lsn = changed_pages(seen.raw, base_lsn, seen.suspicious);
        let found = told_pages(if self.audit { by_lsn } else { by_lsn | differing });
        let missed = differing & !if self.audit { found } else { by_lsn };
        let change = match found.count_ones() {
            // Where one page changed without saying so, another may have done so without being found.
            _ if missed != 0 => Change::Whole,
            // The frame changed, and none of its pages says so.
            0 if !lying() && !unknown => return Verdict { change: Change::Whole, missed: PageSet::MAX },
            0 => Change::Same,
            count if count >= NEARLY_ALL_PAGES => Change::Whole,
            _ => Change::Pages(found),
        };
        Verdict { change, missed }
    }

    /// Pages of frame `index`, of a file that begins with page `first_block`, that were bad when the base was taken.
    pub fn bad_pages(&self, first_block: u32, index: usize) -> PageSet {
        let first = u32::try_from(index).unwrap_or(u32::MAX).saturating_mul(PAGES_IN_FRAME).saturating_add(first_block);
        let blocks = self.base.line.bad_blocks.iter().filter_map(|block| block.checked_sub(first));
        blocks.filter(|page| *page < PageSet::BITS).fold(0, |set, page| set | 1 << page)
    }

    /// Pages that certainly differ from the base's.
    fn differing_marks(&self, seen: &Seen<'_>) -> PageSet {
        let first = seen.index * PAGES_IN_FRAME as usize;
        let base = self.base.marks.0.get(first..).unwrap_or_default();
        let pairs = seen.marks.iter().zip(base).enumerate();
        pairs.filter(|(_, (now, then))| now != then).fold(0, |set, (index, _)| set | 1 << index)
    }
}

/// What change detection tells of pages; less than it found in a test that plants a lie.
fn told_pages(found: PageSet) -> PageSet {
    if lying() { found & found.wrapping_sub(1) } else { found }
}

/// What change detection tells of a file; in a test that plants a lie, files of the same size are always untouched.
fn told_untouched(untouched: bool, entry: &Entry, base: &BaseLine) -> bool {
    #[cfg(debug_assertions)]
    if planted() == Some("files") {
        return entry.size_bytes == base.line.size_bytes;
    }
    let _ = (entry, base);
    untouched
}

#[cfg(debug_assertions)]
fn lying() -> bool {
    planted() == Some("pages")
}

#[cfg(not(debug_assertions))]
const fn lying() -> bool {
    false
}

/// The lie that a test planted in change detection, to prove that an audit finds it: `LIFEBOAT_LIE=pages` or `files`.
#[cfg(debug_assertions)]
fn planted() -> Option<&'static str> {
    static LIE: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    LIE.get_or_init(|| std::env::var("LIFEBOAT_LIE").ok()).as_deref()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::base::{FileStamp, RelPath};
    use crate::codec::digest;
    use crate::codec::frame::FRAME_RAW_BYTES;
    use crate::engine::pages::Told;
    use crate::repo::base_cache::PageMarks;
    use crate::repo::manifest::FileLine;
    use crate::repo::pack::FrameRef;
    use crate::source::postgres::touched::{BlockSet, Touched};
    use crate::source::postgres::wal::Relation;

    const BASE_LSN: Lsn = Lsn(1000);
    const STARTED_MICROS: i64 = 1_800_000_000_000_000;

    /// A frame of pages with these LSNs; `salt` is what they hold besides.
    fn frame(lsns: &[u32], salt: u8) -> Vec<u8> {
        let page = |lsn: &u32| {
            let mut page = vec![salt; PAGE_BYTES];
            page[..4].fill(0);
            page[4..8].copy_from_slice(&lsn.to_le_bytes());
            page
        };
        lsns.iter().flat_map(page).collect()
    }

    fn marks(raw: &[u8]) -> Vec<u16> {
        raw.chunks(PAGE_BYTES).map(digest::mark).collect()
    }

    fn stamp() -> FileStamp {
        let modified_nanos = (STARTED_MICROS - 2_000_000) * 1000;
        FileStamp { device: 1, inode: 2, born_nanos: Some(3), modified_nanos, changed_nanos: modified_nanos }
    }

    /// A base whose file is `raw`.
    fn base(raw: &[u8]) -> BaseLine {
        let frame = |raw: &[u8]| FrameRef {
            owner: 1,
            pack: 1,
            offset: 0,
            stored_len: 9,
            raw_len: raw.len() as u32,
            digest: FrameDigest::of(raw),
        };
        let frames = raw.chunks(FRAME_RAW_BYTES).map(frame).collect();
        let path = RelPath::new("base/5/16384").unwrap();
        let line = FileLine { size_bytes: raw.len() as u64, frames, ..FileLine::bare(path, FileKind::Pages) };
        BaseLine { line, holder: 1, stamp: Some(stamp()), marks: PageMarks(marks(raw)) }
    }

    fn judge(before: &[u8], now: &[u8], prior: impl Fn(Arc<BaseLine>) -> Prior) -> (Change, PageSet) {
        let prior = prior(Arc::new(base(before)));
        let seen = Seen { index: 0, raw: now, digest: FrameDigest::of(now), marks: &marks(now), suspicious: 0 };
        let verdict = prior.judge(&seen);
        (verdict.change, verdict.missed)
    }

    fn trusting(base: Arc<BaseLine>) -> Prior {
        Prior { base, trusted_since: Some(BASE_LSN), claimed_untouched: false, audit: false, told: None }
    }

    #[test]
    fn only_pages_that_say_so_are_stored_and_all_that_differ() {
        let old = frame(&[5; 32], 1);
        let changed = |pages: &[usize], lsn: u32| {
            let mut lsns = [5; 32];
            pages.iter().for_each(|page| lsns[*page] = lsn);
            frame(&lsns, 1)
        };
        assert_eq!(judge(&old, &old, trusting), (Change::Same, 0));
        assert_eq!(judge(&old, &changed(&[3, 7], 1000), trusting), (Change::Pages(1 << 3 | 1 << 7), 0));
        let many: Vec<usize> = (0..28).collect();
        assert_eq!(judge(&old, &changed(&many, 2000), trusting), (Change::Whole, 0));
        assert_eq!(judge(&old, &changed(&[3], 999), trusting), (Change::Whole, 1 << 3), "changed without moving its LSN");
        let mut both = changed(&[3], 1000);
        both[PAGE_BYTES * 9 + 100] ^= 1;
        assert_eq!(judge(&old, &both, trusting), (Change::Whole, 1 << 9));
        let distrusting = |base| Prior { trusted_since: None, ..trusting(base) };
        assert_eq!(judge(&old, &changed(&[3], 1000), distrusting), (Change::Whole, 0));
        let untouched = |base| Prior { claimed_untouched: true, audit: true, ..trusting(base) };
        assert_eq!(judge(&old, &changed(&[3], 1000), untouched), (Change::Whole, 1 << 3));
    }

    #[test]
    fn a_frame_of_another_length_is_stored_whole() {
        let old = frame(&[5; 10], 1);
        for now in [frame(&[5; 11], 1), frame(&[5; 9], 1), old[..PAGE_BYTES * 9 + 5].to_vec()] {
            assert_eq!(judge(&old, &now, trusting), (Change::Whole, 0));
        }
        let torn = old[..PAGE_BYTES * 9 + 5].to_vec();
        let mut torn_again = torn.clone();
        torn_again[0] ^= 1;
        assert_eq!(judge(&torn, &torn_again, trusting), (Change::Whole, 0), "no page can be told in a torn file");
    }

    /// The file of [`base`] as it is found now, untouched.
    fn entry(raw: &[u8]) -> Entry {
        Entry {
            path: RelPath::new("base/5/16384").unwrap(),
            location: PathBuf::new(),
            kind: EntryKind::Pages { first_block: 0, fork: Fork::Main },
            mode: 0o600,
            uid: 1,
            gid: 1,
            modified: Timestamp::from_unix_micros(0).unwrap(),
            stamp: Some(stamp()),
            size_bytes: raw.len() as u64,
        }
    }

    fn touched(relation: Relation, blocks: &[u32]) -> Touched {
        let mut set = BlockSet::default();
        blocks.iter().for_each(|block| set.insert(*block));
        Touched::of([(relation, set)])
    }

    #[test]
    fn the_log_is_asked_only_of_the_same_file_and_not_believed_of_one_that_was_written_without_it() {
        let raw = frame(&[5; 64], 1);
        let relation = Relation { tablespace: 1663, database: 5, file_node: 16384 };
        let rules = |blocks: &[u32], audit: bool| {
            let log = LogTold { told: Arc::new(Told::new(touched(relation, blocks))), since: BASE_LSN, until: Lsn(2000) };
            Rules { trusted_since: None, untouched_before: None, audit, log: Some(log) }
        };
        let treat = |rules: &Rules, change: &dyn Fn(&mut Entry)| {
            let mut entry = entry(&raw);
            change(&mut entry);
            match rules.treat(&entry, base(&raw)) {
                Treatment::Unread(_) => "unread",
                Treatment::Compare(prior) if prior.told.is_some() => "told",
                Treatment::Compare(_) => "compared",
                Treatment::Whole => "whole",
            }
        };
        let written = |entry: &mut Entry| entry.stamp.as_mut().unwrap().modified_nanos += 1;
        let other_file = |entry: &mut Entry| entry.stamp.as_mut().unwrap().inode += 1;
        let unborn = |entry: &mut Entry| entry.stamp.as_mut().unwrap().born_nanos = None;
        let second_file = |entry: &mut Entry| entry.kind = EntryKind::Pages { first_block: 131_072, fork: Fork::Main };
        let map = |entry: &mut Entry| entry.kind = EntryKind::Pages { first_block: 0, fork: Fork::VisibilityMap };
        let (some, none) = (rules(&[40], false), rules(&[64], false));
        assert_eq!((treat(&some, &|_| {}), treat(&some, &written)), ("told", "told"));
        assert_eq!((treat(&none, &|_| {}), treat(&none, &written)), ("unread", "compared"), "page 64 lies beyond the end");
        assert_eq!((treat(&some, &other_file), treat(&some, &unborn), treat(&some, &map)), ("compared", "compared", "compared"));
        assert_eq!(
            treat(&some, &|entry| {
                second_file(entry);
                written(entry)
            }),
            "compared"
        );
        let mut dropped = Touched::default();
        dropped.databases.insert((1663, 5));
        let log = LogTold { told: Arc::new(Told::new(dropped)), since: BASE_LSN, until: Lsn(2000) };
        assert_eq!(treat(&Rules { log: Some(log), ..none.clone() }, &|_| {}), "compared", "nothing is known of its database");
        for audit in [rules(&[40], true), rules(&[], true)] {
            assert_eq!(treat(&audit, &written), "told", "what an audit finds is compared with what was told");
        }
    }

    #[test]
    fn what_the_log_did_not_tell_shows_by_its_lsn() {
        let mut lsns = [5; 32];
        (lsns[3], lsns[4], lsns[5], lsns[6]) = (1000, 1001, 2000, 2001);
        let raw = frame(&lsns, 1);
        let told = |blocks: &[u32], suspicious: PageSet| {
            let relation = Relation { tablespace: 1663, database: 5, file_node: 16384 };
            let log = LogTold { told: Arc::new(Told::new(touched(relation, blocks))), since: BASE_LSN, until: Lsn(2000) };
            log.of(&entry(&raw)).unwrap().untold(0, &raw, suspicious)
        };
        assert_eq!(told(&[], 0), [(4, Lsn(1001)), (5, Lsn(2000))], "not what came before the base, nor after the start");
        assert_eq!(told(&[4, 9], 0), [(5, Lsn(2000))]);
        assert_eq!(told(&[4], 1 << 5), [], "a torn page's LSN says nothing");
    }

    #[test]
    fn a_frame_of_unknown_digest_is_judged_by_its_pages() {
        let old = frame(&[5; 32], 1);
        let judged = |now: &[u8], trusted: bool| {
            judge(&old, now, |line| {
                let mut line = Arc::unwrap_or_clone(line);
                line.line.states = vec![(0, FrameDigest::UNKNOWN)];
                Prior { trusted_since: trusted.then_some(BASE_LSN), ..trusting(Arc::new(line)) }
            })
        };
        assert_eq!(judged(&old, true), (Change::Same, 0));
        assert_eq!(judged(&old, false), (Change::Whole, 0), "without trusted LSNs nothing says that it is the same");
        let mut lsns = [5; 32];
        lsns[7] = 1500;
        assert_eq!(judged(&frame(&lsns, 1), true), (Change::Pages(1 << 7), 0));
    }

    #[test]
    fn a_file_is_left_unread_only_when_everything_speaks_for_it() {
        let raw = frame(&[5; 32], 1);
        let entry = entry(&raw);
        let untouched_before = Timestamp::from_unix_micros(STARTED_MICROS);
        let rules = Rules { trusted_since: Some(BASE_LSN), untouched_before, audit: false, log: None };
        let unread = |rules: &Rules, entry: &Entry| matches!(rules.treat(entry, base(&raw)), Treatment::Unread(_));
        assert!(unread(&rules, &entry));
        assert!(!unread(&Rules { untouched_before: None, ..rules.clone() }, &entry));
        assert!(!unread(&Rules { audit: true, ..rules.clone() }, &entry));
        assert!(!unread(&Rules { untouched_before: Timestamp::from_unix_micros(STARTED_MICROS - 1), ..rules.clone() }, &entry));
        assert!(!unread(&rules, &Entry { size_bytes: 1, ..entry.clone() }));
        assert!(!unread(&rules, &Entry { stamp: None, ..entry.clone() }));
        for change in [
            (|stamp| stamp.inode += 1) as fn(&mut FileStamp),
            |stamp| stamp.device += 1,
            |stamp| stamp.born_nanos = Some(4),
            |stamp| stamp.born_nanos = None,
            |stamp| stamp.modified_nanos -= 1,
            |stamp| stamp.changed_nanos += 1,
        ] {
            let mut other = stamp();
            change(&mut other);
            assert!(!unread(&rules, &Entry { stamp: Some(other), ..entry.clone() }), "{other:?}");
        }
        let trusted = |rules: &Rules, entry: &Entry| match rules.treat(entry, base(&raw)) {
            Treatment::Compare(prior) => prior.trusted_since,
            _ => None,
        };
        let read = Rules { untouched_before: None, ..rules.clone() };
        assert_eq!(trusted(&read, &entry), Some(BASE_LSN));
        let other_file = FileStamp { born_nanos: Some(4), ..stamp() };
        assert_eq!(trusted(&read, &Entry { stamp: Some(other_file), ..entry.clone() }), None);
        for fork in [Fork::FreeSpaceMap, Fork::VisibilityMap, Fork::Init] {
            assert_eq!(trusted(&read, &Entry { kind: EntryKind::Pages { first_block: 0, fork }, ..entry.clone() }), None);
        }
        assert!(matches!(rules.treat(&Entry { kind: EntryKind::File, ..entry }, base(&raw)), Treatment::Whole));
    }
}
