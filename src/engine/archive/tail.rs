//! Reading what was streamed of a segment that is not whole.

use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::get::{Part, fetch, opener};
use crate::base::{Error, ErrorKind, Incarnation, Result, Segment, SegmentSize, TimelineId};
use crate::codec::encrypt::Opener;
use crate::engine::{IdentitySource, Scope};
use crate::repo::log::tail::{Piece, load_segment, reach};
use crate::repo::{identity, layout};
use crate::store::list_all;

/// Pieces fetched at one time.
const CONCURRENT: usize = 16;

/// What was streamed of the segment called `name`; none when nothing was.
///
/// # Errors
/// When the repository does not answer, or the pieces are damaged, contradict each other, or lack their beginning.
pub(super) async fn read_named(
    scope: &Scope,
    identities: &dyn IdentitySource,
    incarnation: &Incarnation,
    name: &str,
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
    match read(scope, &pieces, &opener, size).await {
        Ok(part) => Ok(Some(part)),
        // A segment that became whole takes its pieces away.
        Err(_) if load_segment(&scope.repository, &scope.source, incarnation, segment, size).await?.is_empty() => Ok(None),
        Err(error) if is_broken(&error) => Err(error.hint(format!(
            "lifeboat restore {} --into DIR --to latest   restores what comes before segment {name}",
            scope.source
        ))),
        Err(error) => Err(error),
    }
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

/// The beginning of a segment of `size` that `pieces` make up. Those that lie behind a gap are not looked at.
///
/// # Errors
/// When the repository does not answer; damaged when a piece is, or the first is missing; contradicted when two pieces
/// do not agree on what both hold.
pub(crate) async fn read(scope: &Scope, pieces: &[Piece], opener: &Opener, size: SegmentSize) -> Result<Part> {
    let reach = reach(pieces);
    let mut ordered: Vec<Piece> = pieces.iter().filter(|piece| u64::from(piece.name.from) < reach).cloned().collect();
    ordered.sort_by_key(|piece| (piece.name.from, piece.name.to));
    let fetching = ordered.into_iter().map(|piece| fetch_piece(scope, opener, piece));
    let mut fetching = stream::iter(fetching).buffered(CONCURRENT);
    let mut part = Part { raw: vec![0; size.bytes() as usize], bytes: 0 };
    let mut before: Vec<Piece> = Vec::new();
    while let Some((piece, raw)) = fetching.try_next().await? {
        add(&mut part, &before, &piece, &raw)?;
        before.push(piece);
    }
    match part.bytes {
        0 => Err(Error::damaged("the beginning of a streamed segment is missing").detail("pieces", pieces.len().to_string())),
        _ => Ok(part),
    }
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

/// Adds the next piece by where it begins, after those `before` it.
fn add(part: &mut Part, before: &[Piece], piece: &Piece, raw: &[u8]) -> Result<()> {
    let (from, known) = (piece.name.from as usize, part.bytes as usize);
    let common = known.saturating_sub(from).min(raw.len());
    if part.raw[from..from + common] != raw[..common] {
        let others = before.iter().filter(|other| other.name.to > piece.name.from).map(|other| other.key.as_str());
        return Err(Error::new(ErrorKind::Contradicted, format!("{} does not agree with the pieces before it", piece.key))
            .detail("before it", others.collect::<Vec<_>>().join(", "))
            .hint("two servers write the same log: find out which is the primary, and archive its segment with archive push")
            .hint("or remove the wrong piece"));
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
        let name = PieceName { from, to, first: CommitTime::None, last: CommitTime::None, commits: Some(0), digest };
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
