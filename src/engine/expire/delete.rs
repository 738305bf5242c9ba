//! Which objects go, and in what order: of a backup first what makes it readable, last what says that it was begun; of
//! the log the oldest first. Everything here was declared gone by a tombstone, or was never committed.

use crate::base::cancel::Cancel;
use crate::base::progress::Progress;
use crate::base::{BackupId, Result, Segment, SegmentSize, SourceName, Timestamp, killpoint};
use crate::engine::{Scope, locks};
use crate::repo::layout;
use crate::repo::log::LogCut;
use crate::repo::log::name::{SegmentName, parse_auxiliary};
use crate::store::{Lock, ObjectInfo};

/// Bytes of a segment's name in hex.
const SEGMENT_NAME_BYTES: usize = 24;

/// The objects of one backup in the order in which they go.
pub(super) fn ordered(source: &SourceName, id: &BackupId, mut objects: Vec<ObjectInfo>) -> Vec<ObjectInfo> {
    let prefix = layout::backup(source, id);
    let rank = |key: &str| match &key[prefix.len()..] {
        name if name.starts_with("manifest") => 0,
        "packs.jsonl" => 1,
        name if name.starts_with("pack-") => 2,
        "begin.json" => 4,
        _ => 3,
    };
    objects.sort_by(|a, b| (rank(&a.key), &a.key).cmp(&(rank(&b.key), &b.key)));
    objects
}

/// The objects of a log, listed below `prefix`, that hold nothing but what goes. Histories, keys and resolutions stay: they
/// are small, and some are needed by what comes later.
pub(super) fn let_go(prefix: &str, listing: &[ObjectInfo], size: SegmentSize, cut: &LogCut) -> Vec<ObjectInfo> {
    let goes = |object: &&ObjectInfo| {
        let relative = &object.key[prefix.len()..];
        let file = relative.rsplit('/').next().unwrap_or(relative);
        let segments = match relative.split_once('/').map(|(directory, _)| directory) {
            Some("key" | "resolution") | None => None,
            Some("index") => indexed(file, size),
            Some(_) => match SegmentName::parse(file, size) {
                Some(name) => Some((name.segment, name.segment)),
                None => auxiliary_of(file, size).map(|segment| (segment, segment)),
            },
        };
        segments.is_some_and(|(from, to)| cut.covers(to.timeline, from.start(size), to.end(size)))
    };
    let mut found: Vec<ObjectInfo> = listing.iter().filter(goes).cloned().collect();
    // Signed digests go after what they vouch for.
    let is_index = |object: &ObjectInfo| object.key[prefix.len()..].starts_with("index/");
    found.sort_by(|a, b| (is_index(a), &a.key).cmp(&(is_index(b), &b.key)));
    found
}

/// The first and the last segment of which an index object speaks, when it speaks of one timeline only.
fn indexed(file: &str, size: SegmentSize) -> Option<(Segment, Segment)> {
    let (range, _) = file.split_once('_')?;
    let (from, to) = range.split_once('-')?;
    let (from, to) = (segment_of(from, size)?, segment_of(to, size)?);
    (from.timeline == to.timeline && from.number <= to.number).then_some((from, to))
}

/// The segment to which a `.partial` or `.backup` file belongs.
fn auxiliary_of(file: &str, size: SegmentSize) -> Option<Segment> {
    segment_of(parse_auxiliary(file)?.0, size)
}

fn segment_of(file: &str, size: SegmentSize) -> Option<Segment> {
    Segment::parse(file.get(..SEGMENT_NAME_BYTES)?, size)
}

/// The objects on which no lock holds, in their order; of the others how many there are, and the lock that ends last.
pub(super) async fn without_locked(scope: &Scope, objects: Vec<ObjectInfo>) -> Result<(Vec<ObjectInfo>, Option<(u64, Lock)>)> {
    let held = locks::held(&scope.repository.shared_store(), &objects, Timestamp::now()).await?;
    let last = locks::latest(held.values()).map(|lock| (held.len() as u64, lock));
    Ok((objects.into_iter().filter(|object| !held.contains_key(&object.key)).collect(), last))
}

/// Deletes objects one after the other, passing the kill point `point` after each.
pub(super) async fn delete(
    scope: &Scope,
    objects: &[ObjectInfo],
    point: &'static str,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<()> {
    let store = scope.repository.store();
    for object in objects {
        cancel.check()?;
        store.delete(&object.key).await?;
        progress.advance(object.size_bytes);
        killpoint::reach(point);
    }
    Ok(())
}

/// Bytes of these objects together.
pub(super) fn total_bytes(objects: &[ObjectInfo]) -> u64 {
    objects.iter().map(|object| object.size_bytes).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Lsn, TimelineId};

    fn object(key: &str) -> ObjectInfo {
        ObjectInfo { key: key.to_owned(), size_bytes: 1, modified: Timestamp::now() }
    }

    #[test]
    fn a_backup_stops_being_readable_first_and_its_beginning_goes_last() {
        let source: SourceName = "orders".parse().unwrap();
        let id: BackupId = "20261120T214002Z-full-k3fq".parse().unwrap();
        let names = ["begin.json", "key-1.age", "manifest.jsonl.zst.age", "other", "pack-00000001.zst.age", "packs.jsonl"];
        let prefix = layout::backup(&source, &id);
        let objects = names.iter().map(|name| object(&format!("{prefix}{name}"))).collect();
        let order: Vec<String> = ordered(&source, &id, objects).iter().map(|object| object.key[prefix.len()..].into()).collect();
        let expected = ["manifest.jsonl.zst.age", "packs.jsonl", "pack-00000001.zst.age", "key-1.age", "other", "begin.json"];
        assert_eq!(order, expected);
    }

    #[test]
    fn only_what_ends_before_the_floor_goes_on_every_timeline() {
        let (prefix, digest) = ("orders/log/pg15-1/", "0123456789abcdef");
        let goes = [
            format!("00000001/000000010000000000000003_-_-_0_{digest}.zst.age"),
            format!("00000001/000000010000000000000003.00000028.backup_{digest}.zst.age"),
            format!("00000002/000000020000000000000004.partial_{digest}.zst.age"),
            format!("00000002/000000020000000000000004_-_-_0_{digest}.zst"),
            format!("index/000000010000000000000001-000000010000000000000003_{digest}.json"),
        ];
        let stays = [
            format!("00000001/000000010000000000000005_-_-_0_{digest}.zst.age"),
            "00000001/something else".to_owned(),
            format!("00000002_from-00000001-0000000004052A30_{digest}.history.zst.age"),
            format!("index/000000010000000000000001-000000010000000000000005_{digest}.json"),
            format!("index/000000010000000000000001-000000020000000000000003_{digest}.json"),
            format!("index/00000002.history-00000002.history_{digest}.json"),
            "key/00000001-1.age".to_owned(),
            format!("resolution/000000010000000000000003_{digest}.json"),
        ];
        let listing: Vec<ObjectInfo> = stays.iter().chain(&goes).map(|name| object(&format!("{prefix}{name}"))).collect();
        // The floor lies inside segment 5.
        let before = |lsn: u64| LogCut::before(Lsn(lsn));
        let found = let_go(prefix, &listing, SegmentSize::DEFAULT, &before(5 * SegmentSize::DEFAULT.bytes() + 40));
        let found: Vec<&str> = found.iter().map(|object| &object.key[prefix.len()..]).collect();
        let mut expected: Vec<&str> = goes.iter().map(String::as_str).collect();
        expected[..4].sort_unstable();
        assert_eq!(found, expected);
        // A segment that ends at the floor goes; the one in which the floor lies stays.
        let at_boundary = let_go(prefix, &listing, SegmentSize::DEFAULT, &before(4 * SegmentSize::DEFAULT.bytes()));
        assert!(at_boundary.iter().all(|object| !object.key.contains("000000020000000000000004")), "{at_boundary:?}");
    }

    #[test]
    fn of_a_range_goes_what_lies_wholly_in_it_on_the_timelines_that_were_asked_for() {
        let (prefix, digest, size) = ("orders/log/pg15-1/", "0123456789abcdef", SegmentSize::DEFAULT);
        let goes = [
            format!("00000001/000000010000000000000004_-_-_0_{digest}.zst.age"),
            format!("00000001/000000010000000000000005.00000028.backup_{digest}.zst.age"),
            format!("index/000000010000000000000004-000000010000000000000005_{digest}.json"),
        ];
        let stays = [
            format!("00000001/000000010000000000000003_-_-_0_{digest}.zst.age"),
            format!("00000001/000000010000000000000006_-_-_0_{digest}.zst.age"),
            format!("00000002/000000020000000000000004_-_-_0_{digest}.zst.age"),
            format!("00000002_from-00000001-0000000004052A30_{digest}.history.zst.age"),
            format!("index/000000010000000000000003-000000010000000000000005_{digest}.json"),
            format!("index/000000010000000000000004-000000010000000000000006_{digest}.json"),
        ];
        let listing: Vec<ObjectInfo> = stays.iter().chain(&goes).map(|name| object(&format!("{prefix}{name}"))).collect();
        let going = LogCut::on([TimelineId(1)], [(Lsn(3 * size.bytes() + 1), Lsn(7 * size.bytes() - 1))]);
        let found = let_go(prefix, &listing, size, &going);
        let found: Vec<&str> = found.iter().map(|object| &object.key[prefix.len()..]).collect();
        assert_eq!(found, goes.iter().map(String::as_str).collect::<Vec<_>>());
    }
}
