//! Reading what was streamed of a segment that is not whole.
//!
//! Nothing is fetched twice: of pieces that hold the same only the largest are, and what the others hold is compared by the
//! digests in their names. What cannot be read as log before the pieces end is damage, and never the end of the log:
//! PostgreSQL could not tell the two apart, and would promote without what follows.

use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::get::{Part, fetch, find_segment, opener};
use crate::base::{Error, ErrorKind, Incarnation, Lsn, Result, Segment, SegmentSize, TimelineId};
use crate::codec::Sha256Digest;
use crate::codec::encrypt::Opener;
use crate::engine::{IdentitySource, Scope};
use crate::repo::log::tail::{Piece, cover, load_segment, reach, same_keys};
use crate::repo::{identity, layout};
use crate::source::postgres::wal::{Carry, SegmentHeader, soundness, summarise};
use crate::store::list_all;

/// Pieces fetched at one time.
const CONCURRENT: usize = 16;
/// How often pieces are listed anew that were put together while they were read.
const ATTEMPTS: usize = 5;

/// What was streamed of the segment called `name`, or its first `up_to` bytes; none when nothing was.
///
/// # Errors
/// When the repository does not answer, or the pieces are damaged, contradict each other, or lack their beginning.
pub(super) async fn read_named(
    scope: &Scope,
    identities: &dyn IdentitySource,
    incarnation: &Incarnation,
    name: &str,
    up_to: Option<u64>,
) -> Result<Option<Part>> {
    let wrong = || Error::usage(format!("'{name}' is no segment of this cluster"));
    let timeline = name.get(..8).and_then(TimelineId::parse_hex).ok_or_else(wrong)?;
    let prefix = layout::tail_segment(&scope.source, incarnation, timeline, name);
    if list_all(scope.repository.store(), &prefix, None).await?.is_empty() {
        return Ok(None);
    }
    let size = segment_size(scope, incarnation).await?;
    let segment = Segment::parse(name, size).ok_or_else(wrong)?;
    let pieces = load_segment(&scope.repository, &scope.source, incarnation, segment, size).await?;
    // Encryption may have been turned on in the middle of the segment.
    let sealed = pieces.iter().find(|piece| piece.key.ends_with(".age"));
    let Some(sample) = sealed.or(pieces.first()) else { return Ok(None) };
    let opener = opener(scope, identities, incarnation, &sample.key).await?;
    let of = Streamed { incarnation, segment, size };
    let read = match up_to {
        None => read_current(scope, of, pieces, &opener).await,
        Some(bytes) => read_up_to(scope, of, pieces, &opener, bytes).await,
    };
    match read {
        Err(error) if is_broken(&error) => {
            Err(error.hint(format!("lifeboat restore {} --into DIR --to latest   restores what comes before it", scope.source)))
        }
        outcome => outcome,
    }
}

/// A segment that was streamed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Streamed<'a> {
    /// The cluster.
    pub incarnation: &'a Incarnation,
    /// Which.
    pub segment: Segment,
    /// Its size.
    pub size: SegmentSize,
}

/// The beginning of a segment that `pieces` made up when they were listed; none when they are gone, because the segment
/// became whole. Small ones are put together while they are read: then they are listed anew.
///
/// # Errors
/// When the repository does not answer; damaged when a piece is, is no log, or one is missing before others; contradicted
/// when two pieces do not agree on what both hold.
pub(crate) async fn read_current(scope: &Scope, of: Streamed<'_>, pieces: Vec<Piece>, opener: &Opener) -> Result<Option<Part>> {
    match read_sound(scope, of, pieces, opener).await? {
        None => Ok(None),
        Some((part, None)) => Ok(Some(part)),
        Some((_, Some(error))) => Err(error),
    }
}

/// As [`read_current`], but what is wrong with pieces does not keep those before it from being used: the part ends where it
/// begins, and the error says what it is. Whoever takes such a part must say so: it is not the end of the log.
///
/// # Errors
/// When the repository does not answer.
pub(crate) async fn read_sound(
    scope: &Scope,
    of: Streamed<'_>,
    mut pieces: Vec<Piece>,
    opener: &Opener,
) -> Result<Option<(Part, Option<Error>)>> {
    for attempt in 1.. {
        if pieces.is_empty() {
            return Ok(None);
        }
        let outcome = match read(scope, of, &pieces, opener).await {
            Ok(sound @ (_, None)) => return Ok(Some(sound)),
            Ok(cut) => Ok(Some(cut)),
            Err(error) => Err(error),
        };
        let now = load_segment(&scope.repository, &scope.source, of.incarnation, of.segment, of.size).await?;
        if !now.is_empty() && (same_keys(&pieces, &now) || attempt >= ATTEMPTS) {
            return outcome;
        }
        pieces = now;
    }
    Ok(None)
}

/// The first `bytes` of what was streamed, which a restore found to be all that is log.
///
/// # Errors
/// As [`read_current`], but for what is wrong behind them; damaged when there is less by now.
pub(crate) async fn read_up_to(
    scope: &Scope,
    of: Streamed<'_>,
    pieces: Vec<Piece>,
    opener: &Opener,
    bytes: u64,
) -> Result<Option<Part>> {
    let Some((mut part, wrong)) = read_sound(scope, of, pieces, opener).await? else { return Ok(None) };
    if part.bytes < bytes {
        let end = of.segment.start(of.size).plus(bytes);
        let less = || Error::damaged(format!("what was streamed of {} does not reach {end} any more", of.segment.name(of.size)));
        return Err(wrong.unwrap_or_else(less));
    }
    part.cut(bytes);
    Ok(Some(part))
}

/// Whether an error says that the pieces are not what they should be: no matter how often they are read.
pub(crate) fn is_broken(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Damaged | ErrorKind::Contradicted)
}

async fn segment_size(scope: &Scope, incarnation: &Incarnation) -> Result<SegmentSize> {
    let (known, problems) = identity::survey(&scope.repository, &scope.source).await?;
    if let Some(own) = known.iter().find(|identity| identity.incarnation == *incarnation) {
        return Ok(own.segment_bytes);
    }
    let key = layout::identity(&scope.source, incarnation);
    let why = problems.into_iter().find(|(other, _)| *other == key).map_or("it is missing".to_owned(), |(_, why)| why);
    Err(Error::damaged(format!("{key} cannot be used: {why}")))
}

/// The beginning of a segment that `pieces` make up as far as they are log, and what is wrong with what follows.
async fn read(scope: &Scope, of: Streamed<'_>, pieces: &[Piece], opener: &Opener) -> Result<(Part, Option<Error>)> {
    let used: Vec<Piece> = cover(pieces).into_iter().cloned().collect();
    let fetching = used.iter().cloned().map(|piece| fetch_piece(scope, opener, piece));
    let mut fetching = stream::iter(fetching).buffered(CONCURRENT);
    let mut part = Part { raw: vec![0; of.size.bytes() as usize], bytes: 0 };
    let (mut before, mut wrong): (Vec<Piece>, Option<Error>) = (Vec::new(), None);
    loop {
        match fetching.try_next().await {
            Ok(None) => break,
            Ok(Some((piece, raw))) => {
                if let Err(error) = add(&mut part, &before, &piece, &raw) {
                    // Which of the two is right is not known.
                    part.cut(piece.name.from.into());
                    wrong = Some(error);
                    break;
                }
                before.push(piece);
            }
            Err(error) if is_broken(&error) => {
                wrong = Some(error);
                break;
            }
            Err(error) => return Err(error),
        }
    }
    for piece in pieces.iter().filter(|piece| !used.contains(piece)) {
        let Some(own) = part.raw[..part.bytes as usize].get(piece.name.from as usize..piece.name.to as usize) else { continue };
        if Sha256Digest::of(own).short() != piece.name.digest {
            wrong = Some(contradicted(piece, used.iter().filter(|other| overlap(piece, other))));
            part.cut(piece.name.from.into());
        }
    }
    if let Some((end, error)) = require_log(of, &part, &carry_into(scope, of, &part, opener).await?, &used) {
        part.cut(end);
        wrong = Some(error);
    }
    Ok((part, wrong.or_else(|| missing(of, pieces))))
}

/// Pieces that are not there though others behind them are: what ends before them is not the end of the log.
fn missing(of: Streamed<'_>, pieces: &[Piece]) -> Option<Error> {
    let reach = reach(pieces);
    let behind = pieces.iter().filter(|piece| u64::from(piece.name.from) > reach).min_by_key(|piece| piece.name.from)?;
    let file = of.segment.name(of.size);
    let error = match reach {
        0 => Error::damaged("the beginning of a streamed segment is missing").detail("pieces", pieces.len().to_string()),
        _ => Error::damaged(format!("what was streamed of {file} from {} on is missing", of.segment.start(of.size).plus(reach))),
    };
    Some(error.detail("behind it", behind.key.clone()).hint(format!(
        "remove what lies behind it, if it is none of this log, and what comes before can be used: {}",
        behind.key
    )))
}

/// What straddles into a segment that begins in the middle of a record, as far as the segment before is there whole.
async fn carry_into(scope: &Scope, of: Streamed<'_>, part: &Part, opener: &Opener) -> Result<Carry> {
    let straddles = SegmentHeader::parse(&part.raw).is_ok_and(|header| header.continued_bytes > 0);
    let Some(number) = of.segment.number.checked_sub(1).filter(|_| straddles) else { return Ok(Carry::Unknown) };
    let before = Segment { number, ..of.segment };
    let Some((object, digest)) = find_segment(scope, of.incarnation, &before.name(of.size)).await? else {
        return Ok(Carry::Unknown);
    };
    let raw = fetch(scope, &object.key, opener, &digest, of.size.bytes()).await?;
    Ok(summarise(before, of.size, &raw, &Carry::Unknown).map_or(Carry::Unknown, |summary| summary.end.carry))
}

/// Where the pieces are no log any more, before they end, and why; none when they are. Whoever has the public key can store
/// a piece, and nobody signs them.
fn require_log(of: Streamed<'_>, part: &Part, carry: &Carry, used: &[Piece]) -> Option<(u64, Error)> {
    let doubt = soundness(of.segment, of.size, &part.raw[..part.bytes as usize], carry).doubt?;
    let start = of.segment.start(of.size);
    let offset = Lsn(doubt.at.0.max(start.0)).bytes_since(start);
    let inside = used.iter().filter(|piece| u64::from(piece.name.to) > offset).map(|piece| piece.key.as_str());
    let (file, end, at) = (of.segment.name(of.size), start.plus(part.bytes), doubt.at);
    let mut error = Error::damaged(format!("what was streamed of {file} up to {end} is no log from {at} on: {}", doubt.why));
    if let Some(first) = inside.clone().next() {
        let hint =
            format!("remove the wrong piece, {first} or one after it, and all behind it: what was streamed before can be used");
        error = error.detail("pieces from there", inside.collect::<Vec<_>>().join(", ")).hint(hint);
    }
    Some((offset, error))
}

async fn fetch_piece(scope: &Scope, opener: &Opener, piece: Piece) -> Result<(Piece, Vec<u8>)> {
    let length = u64::from(piece.name.to - piece.name.from);
    let raw = fetch(scope, &piece.key, opener, &piece.name.digest, length).await.map_err(|error| match is_broken(&error) {
        true => error.hint(format!("remove the damaged piece, {}, and what was streamed before it can be used", piece.key)),
        false => error,
    })?;
    match raw.len() as u64 == length {
        true => Ok((piece, raw)),
        false => Err(Error::damaged(format!("{} holds {} bytes, not {length}", piece.key, raw.len()))),
    }
}

/// Whether both hold a byte of the same place.
fn overlap(one: &Piece, other: &Piece) -> bool {
    one.name.from < other.name.to && other.name.from < one.name.to
}

fn contradicted<'p>(piece: &Piece, others: impl Iterator<Item = &'p Piece>) -> Error {
    let others: Vec<&str> = others.map(|other| other.key.as_str()).collect();
    Error::new(ErrorKind::Contradicted, format!("{} does not agree with the pieces before it", piece.key))
        .detail("before it", others.join(", "))
        .hint("two servers write the same log: find out which is the primary, and archive its segment with archive push")
        .hint("or remove the wrong piece")
}

/// Adds the next piece by where it begins, after those `before` it.
fn add(part: &mut Part, before: &[Piece], piece: &Piece, raw: &[u8]) -> Result<()> {
    let (from, known) = (piece.name.from as usize, part.bytes as usize);
    let common = known.saturating_sub(from).min(raw.len());
    if part.raw[from..from + common] != raw[..common] {
        return Err(contradicted(piece, before.iter().filter(|other| overlap(piece, other))));
    }
    part.raw[from..from + raw.len()].copy_from_slice(raw);
    part.bytes = part.bytes.max(piece.name.to.into());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Timestamp;
    use crate::repo::log::{CommitTime, PieceName};

    fn piece(from: u32, to: u32) -> Piece {
        let digest = "0".repeat(16);
        let name = PieceName {
            from,
            to,
            first: CommitTime::None,
            last: CommitTime::None,
            commits: Some(0),
            digest,
            within_micros: None,
        };
        Piece { key: name.text(""), name, stored_bytes: 1, arrived: Timestamp::now() }
    }

    #[test]
    fn pieces_join_where_they_agree() {
        let mut part = Part { raw: vec![0; 64], bytes: 0 };
        let mut before = Vec::new();
        for (from, to, content) in [(0, 4, "abcd"), (0, 2, "ab"), (2, 6, "cdef")] {
            add(&mut part, &before, &piece(from, to), content.as_bytes()).unwrap();
            before.push(piece(from, to));
        }
        assert_eq!((part.bytes, &part.raw[..10]), (6, &b"abcdef\0\0\0\0"[..]));
        let error = add(&mut part, &before, &piece(4, 8), b"eXgh").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Contradicted);
        assert!(format!("{error:?}").contains(&piece(2, 6).key) && !format!("{error:?}").contains(&piece(0, 4).key), "{error:?}");
    }
}
