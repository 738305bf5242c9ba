//! What was streamed of segments that are not yet whole: pieces, one object each.
//!
//! `<source>/tail/<incarnation>/<timeline>/<segment>/<from>-<to>_<first>_<last>_<n>_<digest>.zst[.age]`: the piece's first
//! byte and the one after its last, as offsets in the segment, eight hex digits each; then, as in a segment's name, the
//! times of the first and of the latest transaction end that end in it, the number of commits, and the digest of the raw
//! piece; of one that was put together of others, how long its transaction ends had waited, in microseconds.
//!
//! Pieces are stored in the order of the log, so those that follow each other from offset 0 are what there is; where two
//! overlap they hold the same bytes, or somebody else writes the same log. What was not streamed reads as zeros: there
//! PostgreSQL takes the log to end. A segment that is there whole makes its pieces redundant, and so does a piece those
//! that lie inside it: small neighbours are put together as one, which is durable for a while before they go.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::LogCatalog;
use super::catalog::SegmentObject;
use super::name::{self, CommitTime, SegmentName, is_short_digest};
use crate::base::{Error, Incarnation, Lsn, Result, Segment, SegmentSize, SourceName, Timestamp, killpoint};
use crate::repo::{Repository, layout};
use crate::store::{ObjectInfo, list_all};

/// Pieces that a larger one holds stay for so long. A listing that is under way shows a new object or not, and an old one
/// no more once it is gone: one that lasted long may have missed both.
const LISTING_LASTS: Duration = Duration::from_secs(300);
/// So often pieces are listed anew, when that lasted too long or shows a gap.
const LISTINGS: usize = 4;

/// How long pieces that a larger one holds stay: twice as long as a listing is believed. Tests may shorten it.
pub fn listing_lasts() -> Duration {
    killpoint::shortened("LIFEBOAT_LISTING_LASTS_MS").unwrap_or(LISTING_LASTS)
}

/// So many small pieces in a row are put together as one.
pub const FEW: usize = 8;

/// The name of a piece's object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PieceName {
    /// Offset of its first byte in the segment.
    pub from: u32,
    /// Offset of the byte after its last.
    pub to: u32,
    /// First transaction end in log order.
    pub first: CommitTime,
    /// Latest transaction end by time.
    pub last: CommitTime,
    /// Number of COMMIT and COMMIT PREPARED records; `None` when unknown.
    pub commits: Option<u32>,
    /// First 16 hex digits of the SHA-256 of the raw piece.
    pub digest: String,
    /// Of a piece that was put together of others: the longest time, in microseconds, between a transaction end in it and
    /// its arrival in one of them; none where that is not known.
    pub within_micros: Option<u64>,
}

impl PieceName {
    /// The object's name without its directory; `suffix` is `.age` or empty.
    pub fn text(&self, suffix: &str) -> String {
        let commits = self.commits.map_or("?".to_owned(), |commits| commits.to_string());
        let (first, last) = (self.first.text(), self.last.text());
        let within = self.within_micros.map_or_else(String::new, |micros| format!("_{micros}"));
        format!("{:08X}-{:08X}_{first}_{last}_{commits}_{}{within}.zst{suffix}", self.from, self.to, self.digest)
    }

    /// Bytes of log in the piece.
    pub fn raw_bytes(&self) -> u64 {
        u64::from(self.to - self.from)
    }

    /// Parses a name with or without `.age`; `None` when it is none.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = name::strip_suffix(text)?.split('_');
        let mut next = || parts.next();
        let (from, to) = next()?.split_once('-')?;
        let offset = |text: &str| u32::from_str_radix(text, 16).ok().filter(|offset| format!("{offset:08X}") == text);
        let (from, to) = (offset(from)?, offset(to)?);
        let (first, last) = (CommitTime::parse(next()?)?, CommitTime::parse(next()?)?);
        let commits = match next()? {
            "?" => None,
            number => Some(name::parse_decimal(number)?),
        };
        let digest = next().filter(|digest| is_short_digest(digest))?.to_owned();
        let within_micros = match next() {
            None => None,
            Some(text) => Some(text.parse::<u64>().ok().filter(|micros| micros.to_string() == text)?),
        };
        (next().is_none() && from < to).then_some(Self { from, to, first, last, commits, digest, within_micros })
    }
}

/// One stored piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The object's full key.
    pub key: String,
    /// What its name says.
    pub name: PieceName,
    /// Stored size in bytes.
    pub stored_bytes: u64,
    /// When it arrived, by the store's clock.
    pub arrived: Timestamp,
}

impl Piece {
    /// The longest time that a transaction end in it waited before it was stored; none when that is not known.
    pub fn waited(&self) -> Option<Duration> {
        match (self.name.first, self.name.within_micros) {
            (CommitTime::None, _) => Some(Duration::ZERO),
            (CommitTime::Unknown, _) => None,
            (CommitTime::At(_), Some(micros)) => Some(Duration::from_micros(micros)),
            (CommitTime::At(first), None) => Some(self.arrived.since(first)),
        }
    }

    /// Whether `other` holds all of it, and more.
    fn lies_in(&self, other: &Self) -> bool {
        let (own, of_other) = (&self.name, &other.name);
        of_other.from <= own.from && own.to <= of_other.to && of_other.raw_bytes() > own.raw_bytes()
    }
}

/// All pieces of one incarnation, by segment.
#[derive(Clone, Debug, Default)]
pub struct Tails {
    /// The pieces of each segment, by where they begin.
    pub segments: BTreeMap<Segment, Vec<Piece>>,
    /// Objects whose names are not understood.
    pub strangers: Vec<String>,
}

/// Lists the pieces of `incarnation`; those of a segment that show a gap once more.
///
/// # Errors
/// When the repository does not answer, or too slowly to be believed.
pub async fn load(repository: &Repository, source: &SourceName, incarnation: &Incarnation, size: SegmentSize) -> Result<Tails> {
    let prefix = layout::tail(source, incarnation);
    let mut tails = Tails::default();
    for object in listed(repository, &prefix).await? {
        match parse_key(&object.key[prefix.len()..], size) {
            Some((segment, name)) => tails.segments.entry(segment).or_default().push(piece(object, name)),
            None => tails.strangers.push(object.key),
        }
    }
    for (segment, pieces) in tails.segments.iter_mut().filter(|(_, pieces)| has_gap(pieces)) {
        *pieces = load_segment(repository, source, incarnation, *segment, size).await?;
    }
    tails.segments.retain(|_, pieces| !pieces.is_empty());
    Ok(tails)
}

/// What is below `prefix`, by a listing that did not last too long.
async fn listed(repository: &Repository, prefix: &str) -> Result<Vec<ObjectInfo>> {
    for _ in 0..LISTINGS {
        let began = Instant::now();
        let objects = list_all(repository.store(), prefix, None).await?;
        // Nothing may have been put together, and removed, meanwhile.
        if began.elapsed() < listing_lasts() / 2 {
            return Ok(objects);
        }
    }
    let limit = listing_lasts().as_secs() / 2;
    Err(Error::unreachable(format!("to list {prefix} takes longer than {limit} seconds, and what it shows is not sure")))
}

/// Whether there are pieces behind a gap. The writer leaves none.
pub fn has_gap(pieces: &[Piece]) -> bool {
    let reach = reach(pieces);
    pieces.iter().any(|piece| u64::from(piece.name.from) > reach)
}

/// Lists the pieces of one segment, by where they begin; anew as long as something new fills a gap that they show.
///
/// # Errors
/// When the repository does not answer, or too slowly to be believed.
pub async fn load_segment(
    repository: &Repository,
    source: &SourceName,
    incarnation: &Incarnation,
    segment: Segment,
    size: SegmentSize,
) -> Result<Vec<Piece>> {
    let prefix = layout::tail_segment(source, incarnation, segment.timeline, &segment.name(size));
    let understood = |object: ObjectInfo| {
        let name = PieceName::parse(&object.key[prefix.len()..]).filter(|name| u64::from(name.to) <= size.bytes())?;
        Some(piece(object, name))
    };
    let mut pieces: Vec<Piece> = Vec::new();
    for _ in 0..LISTINGS {
        let now: Vec<Piece> = listed(repository, &prefix).await?.into_iter().filter_map(understood).collect();
        let is_news = !same_keys(&now, &pieces);
        pieces = now;
        if !(is_news && has_gap(&pieces)) {
            break;
        }
    }
    Ok(pieces)
}

/// Whether both are the same objects.
pub fn same_keys(some: &[Piece], others: &[Piece]) -> bool {
    let keys = |pieces: &[Piece]| pieces.iter().map(|piece| piece.key.clone()).collect::<BTreeSet<_>>();
    keys(some) == keys(others)
}

fn piece(object: ObjectInfo, name: PieceName) -> Piece {
    Piece { key: object.key, name, stored_bytes: object.size_bytes, arrived: object.modified }
}

/// A key below the prefix of an incarnation's pieces.
fn parse_key(relative: &str, size: SegmentSize) -> Option<(Segment, PieceName)> {
    let (timeline, rest) = relative.split_once('/')?;
    let (segment, file) = rest.split_once('/')?;
    let segment = Segment::parse(segment, size).filter(|segment| segment.timeline.hex() == timeline)?;
    let name = PieceName::parse(file).filter(|name| u64::from(name.to) <= size.bytes())?;
    Some((segment, name))
}

/// How many bytes, from the segment's first on, the pieces hold without a gap.
pub fn reach(pieces: &[Piece]) -> u64 {
    cover(pieces).last().map_or(0, |piece| piece.name.to.into())
}

/// The fewest pieces that hold what all of them do from the segment's first byte on, in order: each begins where there is
/// no gap, and reaches farthest.
pub fn cover(pieces: &[Piece]) -> Vec<&Piece> {
    let (mut cover, mut end) = (Vec::new(), 0);
    loop {
        let next = pieces.iter().filter(|piece| piece.name.from <= end && piece.name.to > end);
        // Of those that reach as far, the one that overlaps the least with what is there.
        let Some(next) = next.max_by(|a, b| (a.name.to, a.name.from, &b.key).cmp(&(b.name.to, b.name.from, &a.key))) else {
            return cover;
        };
        end = next.name.to;
        cover.push(next);
    }
}

/// Pieces of which another one holds everything.
pub fn redundant(pieces: &[Piece]) -> impl Iterator<Item = &Piece> {
    pieces.iter().filter(|piece| pieces.iter().any(|other| piece.lies_in(other)))
}

/// The last pieces, in order, when they are [`FEW`] or more that follow each other and none of them is much larger than
/// all that come after it: to be put together as one of at most `largest_bytes`. A piece is rewritten only when what
/// follows it is half as large, so each byte of a segment is about as often as its size has digits in base 1½.
pub fn small_neighbours(pieces: &[Piece], largest_bytes: u64) -> Vec<Piece> {
    let cover = cover(pieces);
    let (mut total, mut follows) = (0, None);
    let mut few: Vec<Piece> = Vec::new();
    for piece in cover.into_iter().rev() {
        let bytes = piece.name.raw_bytes();
        let joins = follows.is_none_or(|from| piece.name.to == from && bytes <= 2 * total);
        if !joins || total + bytes > largest_bytes {
            break;
        }
        (total, follows) = (total + bytes, Some(piece.name.from));
        few.push(piece.clone());
    }
    few.reverse();
    if few.len() < FEW { Vec::new() } else { few }
}

/// The name of the piece that `pieces`, which follow each other, make up; `digest` is that of its raw bytes.
pub fn joined(pieces: &[Piece], digest: String) -> Option<PieceName> {
    let (begin, end) = (pieces.first()?, pieces.last()?);
    let within = pieces.iter().try_fold(Duration::ZERO, |most, piece| Some(most.max(piece.waited()?)));
    let (mut first, last, commits) = tally(pieces.iter());
    // A time that is not known is not made up: `waited` of the piece that is put together would be.
    if within.is_none() {
        first = CommitTime::Unknown;
    }
    Some(PieceName {
        from: begin.name.from,
        to: end.name.to,
        first,
        last,
        commits,
        digest,
        within_micros: within.and_then(|within| u64::try_from(within.as_micros()).ok()).filter(|_| first.known().is_some()),
    })
}

/// What the names of pieces that follow each other tell of all of them: the first transaction end, the latest, and the
/// number of commits.
fn tally<'p>(pieces: impl Iterator<Item = &'p Piece> + Clone) -> (CommitTime, CommitTime, Option<u32>) {
    let names = pieces.map(|piece| &piece.name);
    let first = names.clone().map(|name| name.first).find(|first| *first != CommitTime::None).unwrap_or(CommitTime::None);
    let known = names.clone().filter_map(|name| name.last.known()).max();
    let last = match known {
        _ if names.clone().any(|name| name.last == CommitTime::Unknown) => CommitTime::Unknown,
        Some(time) => CommitTime::At(time),
        None => CommitTime::None,
    };
    let mut ends = names.clone().scan(0, |end, name| Some(name.from < std::mem::replace(end, name.to)));
    // A commit that two of them hold is not counted twice.
    let commits = if ends.any(|overlaps| overlaps) {
        None
    } else {
        names.clone().try_fold(0_u32, |sum, name| sum.checked_add(name.commits?))
    };
    (first, last, commits)
}

/// Two pieces of one segment that hold the same stretch and are not the same. No operator's word ends this, which is about
/// whole segments: the segment does once it is archived whole, or the removal of the wrong piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContradictedPieces {
    /// The segment's name.
    pub file: String,
    /// The keys of the two.
    pub keys: [String; 2],
}

impl std::fmt::Display for ContradictedPieces {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [one, other] = &self.keys;
        write!(f, "two servers streamed it with other contents; remove the wrong piece of {one} and {other}")
    }
}

/// The keys of two pieces that hold the same stretch and are not the same.
fn contradiction(pieces: &[Piece]) -> Option<[String; 2]> {
    let same = |one: &PieceName, other: &PieceName| (one.from, one.to) == (other.from, other.to);
    pieces.iter().find_map(|one| {
        let other = pieces.iter().find(|other| same(&one.name, &other.name) && one.name.digest != other.name.digest)?;
        Some([one.key.clone(), other.key.clone()])
    })
}

impl LogCatalog {
    /// [`LogCatalog::load`], with the pieces of segments that are not there whole, for those who restore or say how far
    /// a restore would get. Whoever decides what may be deleted, or what a backup may build on, goes by whole segments.
    ///
    /// # Errors
    /// As [`LogCatalog::load`].
    pub async fn load_with_tail(
        repository: &Repository,
        source: &SourceName,
        incarnation: &Incarnation,
        size: SegmentSize,
    ) -> Result<Self> {
        // The pieces first: a segment that becomes whole in between is there twice, and not missed.
        let tails = load(repository, source, incarnation, size).await?;
        let mut catalog = Self::load(repository, source, incarnation, size).await?;
        catalog.add_tail(tails, size);
        Ok(catalog)
    }

    /// Adds what was streamed of segments that are not there whole.
    pub fn add_tail(&mut self, tails: Tails, size: SegmentSize) {
        self.strangers.extend(tails.strangers);
        for (segment, pieces) in tails.segments {
            let file = segment.name(size);
            if self.segments.contains_key(&segment) || self.split_brains.iter().any(|split| split.file == file) {
                continue;
            }
            if let Some(keys) = contradiction(&pieces) {
                self.contradicted_pieces.push(ContradictedPieces { file, keys });
                continue;
            }
            let reach = reach(&pieces);
            if let Some(object) = as_segment(segment, &pieces) {
                self.segments.insert(segment, object);
                self.tail.insert(segment, Tail { end: segment.start(size).plus(reach), pieces, is_cut: false });
            }
        }
    }

    /// Of what was streamed of `segment` only what comes before `end` is used: nothing when that is its beginning.
    pub fn cut_tail(&mut self, segment: Segment, size: SegmentSize, end: Lsn) {
        let Some(mut tail) = self.tail.remove(&segment) else { return };
        self.segments.remove(&segment);
        let start = segment.start(size);
        let reaches = |offset: u32| start.plus(offset.into());
        tail.pieces.retain(|piece| reaches(piece.name.from) < end);
        let (whole, cut): (Vec<_>, Vec<_>) = tail.pieces.iter().cloned().partition(|piece| reaches(piece.name.to) <= end);
        let Some(mut object) = as_segment(segment, if whole.is_empty() { &cut } else { &whole }) else { return };
        if end <= start {
            return;
        }
        // What a piece that is cut tells is about all of it.
        if start.plus(reach(&whole)) < end {
            (object.name.last, object.name.commits) = (CommitTime::Unknown, None);
            if whole.is_empty() || object.name.first == CommitTime::None {
                object.name.first = CommitTime::Unknown;
            }
        }
        (tail.end, tail.is_cut) = (end, true);
        self.segments.insert(segment, object);
        self.tail.insert(segment, tail);
    }

    /// Where what was streamed of `segment` ends; none when it is there whole, or not at all.
    pub fn streamed_end(&self, segment: Segment, size: SegmentSize) -> Option<Lsn> {
        self.tail.get(&segment).map(|tail| tail.end).filter(|end| *end < segment.end(size))
    }
}

/// What was streamed of a segment that is not there whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tail {
    /// One past the last byte that follows the segment's first without a gap.
    pub end: Lsn,
    /// The pieces.
    pub pieces: Vec<Piece>,
    /// Whether what the pieces hold from `end` on is left out: [`LogCatalog::cut_tail`].
    pub is_cut: bool,
}

/// The segment that the pieces make up as far as they follow each other; none when its beginning is missing.
fn as_segment(segment: Segment, pieces: &[Piece]) -> Option<SegmentObject> {
    let used = cover(pieces);
    let begin = used.first()?;
    let (first, last, commits) = tally(used.iter().copied());
    let name = SegmentName { segment, first, last, commits, digest: begin.name.digest.clone() };
    Some(SegmentObject {
        key: begin.key.clone(),
        name,
        stored_bytes: used.iter().map(|piece| piece.stored_bytes).sum(),
        arrived: used.iter().map(|piece| piece.arrived).max()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: SegmentSize = SegmentSize::DEFAULT;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_micros(1_800_000_000_000_000 + seconds * 1_000_000).unwrap()
    }

    fn made(from: u32, to: u32, last: Option<i64>, digest: char) -> Piece {
        let time = last.map_or(CommitTime::None, |seconds| CommitTime::At(at(seconds)));
        let digest = digest.to_string().repeat(16);
        let commits = Some(last.is_some().into());
        let name = PieceName { from, to, first: time, last: time, commits, digest, within_micros: None };
        Piece { key: name.text(".age"), name, stored_bytes: 10, arrived: at(100 + i64::from(to)) }
    }

    #[test]
    fn names_round_trip_and_nothing_else_is_one() {
        for piece in [made(0, 0x100, Some(1), 'a'), made(0xFF_0000, 0x100_0000, None, '0')] {
            for suffix in ["", ".age"] {
                assert_eq!(PieceName::parse(&piece.name.text(suffix)), Some(piece.name.clone()));
            }
        }
        let good = made(0, 0x100, None, 'a').name.text("");
        assert_eq!(good, "00000000-00000100_-_-_0_aaaaaaaaaaaaaaaa.zst");
        for (part, bad) in
            [("00000000-", ""), ("00000000-", "00000100-"), ("00000100", "100"), ("_0_", "_00_"), ("aaaa.", "AAAA.")]
        {
            assert_eq!(PieceName::parse(&good.replacen(part, bad, 1)), None, "{part} → {bad}");
        }
    }

    #[test]
    fn a_piece_that_was_put_together_tells_how_long_its_commits_had_waited() {
        let pieces: Vec<Piece> = (0..8).map(|at| made(at * 10, at * 10 + 10, (at % 2 == 0).then_some(70), 'a')).collect();
        let name = joined(&pieces, "b".repeat(16)).unwrap();
        // Those of 0 to 10 arrived at 110, of 60 to 70 at 170; each has a commit of 70.
        assert_eq!((name.from, name.to, name.commits, name.within_micros), (0, 80, Some(4), Some(100_000_000)));
        assert_eq!(PieceName::parse(&name.text(".age")), Some(name.clone()));
        for bad in ["_0100000000.zst", "_.zst", "_1_2.zst", "_x.zst"] {
            assert_eq!(PieceName::parse(&name.text("").replacen("_100000000.zst", bad, 1)), None, "{bad}");
        }
        let whole = Piece { key: name.text(""), name, stored_bytes: 9, arrived: at(9_000) };
        assert_eq!(whole.waited(), Some(Duration::from_secs(100)), "not since then");
        let all = [&pieces[..], std::slice::from_ref(&whole)].concat();
        assert_eq!((reach(&all), cover(&all)), (80, vec![&whole]));
        assert_eq!(redundant(&all).count(), 8);
        let segment = as_segment(Segment { timeline: crate::base::TimelineId(1), number: 3 }, &all).unwrap();
        assert_eq!((segment.name.commits, segment.stored_bytes), (Some(4), 9), "nothing counts twice");
        let mut unknown = pieces;
        unknown[3].name.first = CommitTime::Unknown;
        let name = joined(&unknown, "b".repeat(16)).unwrap();
        assert_eq!((name.within_micros, name.first), (None, CommitTime::Unknown));
        assert_eq!(Piece { key: name.text(""), name, stored_bytes: 9, arrived: at(9_000) }.waited(), None);
    }

    /// However large the pieces are that come, few are there, and no byte is rewritten often.
    #[test]
    fn pieces_do_not_pile_up_and_are_not_rewritten_often() {
        let flat = |_: u32| 100;
        let falling = |at: u32| 20_000_u32.saturating_sub(at * 3).max(8);
        let saw = |at: u32| 8 + at % 97 * 40;
        let wild = |at: u32| 8 << (at.wrapping_mul(2_654_435_761) >> 29);
        let sizes: [(&str, &dyn Fn(u32) -> u32); 4] = [("flat", &flat), ("falling", &falling), ("saw", &saw), ("wild", &wild)];
        for (name, size) in sizes {
            let (mut pieces, mut end, mut rewritten, mut most) = (Vec::<Piece>::new(), 0_u32, 0_u64, 0);
            for at in 0..6000 {
                let to = end + size(at);
                if to > 16 << 20 {
                    break;
                }
                pieces.push(made(end, to, None, 'a'));
                end = to;
                let few = small_neighbours(&pieces, 16 << 20);
                if !few.is_empty() {
                    let name = joined(&few, "a".repeat(16)).unwrap();
                    rewritten += name.raw_bytes();
                    pieces.retain(|piece| !few.contains(piece));
                    pieces.push(Piece { key: name.text(""), name, stored_bytes: 1, arrived: at_time() });
                }
                assert_eq!(reach(&pieces), u64::from(end), "{name}");
                most = most.max(pieces.len());
            }
            let times = rewritten as f64 / f64::from(end);
            println!("{name}: {end} bytes, {most} pieces at most, each byte rewritten {times:.1} times");
            assert!(most <= 60 && times < 16.0, "{name}: {most} pieces, {times}");
        }
    }

    fn at_time() -> Timestamp {
        at(1)
    }

    #[test]
    fn only_what_follows_without_a_gap_is_put_together() {
        let row = |count: u32| (0..count).map(|at| made(at * 10, at * 10 + 10, None, 'a')).collect::<Vec<_>>();
        assert!(small_neighbours(&row(7), 1 << 20).is_empty());
        assert_eq!(small_neighbours(&row(8), 1 << 20), row(8));
        assert!(small_neighbours(&row(8), 79).is_empty(), "larger than a piece may be");
        let mut gap = row(9);
        gap.remove(4);
        assert!(small_neighbours(&gap, 1 << 20).is_empty());
        let mut large = vec![made(0, 1000, None, 'a')];
        large.extend((0..8).map(|at| made(1000 + at * 10, 1010 + at * 10, None, 'a')));
        assert_eq!(small_neighbours(&large, 1 << 20).first().map(|piece| piece.name.from), Some(1000));
    }

    #[test]
    fn what_follows_without_a_gap_counts() {
        let pieces = [made(0x200, 0x300, None, 'c'), made(0, 0x100, None, 'a'), made(0x80, 0x180, None, 'b')];
        assert_eq!(reach(&pieces), 0x180);
        assert_eq!(reach(&pieces[..1]), 0);
        assert_eq!(reach(&[&pieces[..], &[made(0x180, 0x200, None, 'd')]].concat()), 0x300);
    }

    #[test]
    fn pieces_stand_in_for_a_segment_that_is_not_whole_and_for_no_other() {
        let segment = |number| Segment { timeline: crate::base::TimelineId(1), number };
        let mut catalog = LogCatalog::default();
        let whole = as_segment(segment(4), &[made(0, 0x100_0000, Some(9), 'e')]).unwrap();
        catalog.segments.insert(segment(4), whole.clone());
        let mut tails = Tails::default();
        tails.segments.insert(segment(4), vec![made(0, 0x100, Some(1), 'a')]);
        tails.segments.insert(segment(5), vec![made(0, 0x100, Some(3), 'a'), made(0x100, 0x200, Some(2), 'b')]);
        tails.segments.insert(segment(6), vec![made(0x100, 0x200, Some(2), 'b')]);
        tails.segments.insert(segment(7), vec![made(0, 0x100, None, 'a'), made(0, 0x100, None, 'b')]);
        tails.segments.insert(segment(8), vec![made(0, 0x100_0000, None, 'a')]);
        catalog.add_tail(tails, SIZE);
        assert_eq!(catalog.segments.keys().map(|segment| segment.number).collect::<Vec<_>>(), [4, 5, 8]);
        assert_eq!((&catalog.segments[&segment(4)], catalog.streamed_end(segment(4), SIZE)), (&whole, None));
        let streamed = &catalog.segments[&segment(5)];
        let told = (streamed.name.first, streamed.name.last, streamed.name.commits, streamed.stored_bytes);
        assert_eq!(told, (CommitTime::At(at(3)), CommitTime::At(at(3)), Some(2), 20));
        assert_eq!(catalog.streamed_end(segment(5), SIZE), Some(segment(5).start(SIZE).plus(0x200)));
        let contradicted = &catalog.contradicted_pieces;
        assert!(catalog.split_brains.is_empty() && contradicted.len() == 1, "{contradicted:?}");
        let text = contradicted[0].to_string();
        assert!(contradicted[0].keys.iter().all(|key| text.contains(key)) && text.contains("_aaaa") && text.contains("_bbbb"));
        assert_eq!(catalog.streamed_end(segment(8), SIZE), None, "all of it was streamed");
    }

    #[test]
    fn keys_must_agree_with_themselves() {
        let name = made(0, 0x100, None, 'a').name.text(".age");
        let read = |key: &str| parse_key(key, SIZE).map(|(segment, _)| segment.number);
        assert_eq!(read(&format!("00000001/000000010000000000000005/{name}")), Some(5));
        assert_eq!(read(&format!("00000002/000000010000000000000005/{name}")), None);
        assert_eq!(read("00000001/000000010000000000000005/00000000-F0000000_-_-_0_aaaaaaaaaaaaaaaa.zst"), None);
    }
}
