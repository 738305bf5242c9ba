//! Segments of the log that the repository lacks and that are on their way to it.
//!
//! Several are stored at one time, ahead of their turn, and what a repository that was away lacks is brought there later:
//! a segment may be archived before an earlier one is. No log is lost there, and a backup that builds on another waits
//! for all of it. Looked at before the archive is listed: what arrives in between is seen twice, and never missed.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::base::{Incarnation, Segment, SegmentSize};
use crate::repo::queue::{Item, Queue};
use crate::source::postgres::connect::Session;

/// What is at hand to tell of them.
pub(super) struct Witnesses<'a> {
    pub data_directory: &'a Path,
    /// The primary, when the server is a standby.
    pub primary: Option<&'a Session>,
    /// What this host is to bring to the repository.
    pub queue: Option<&'a Queue>,
}

impl Witnesses<'_> {
    /// The segments of `incarnation` that are on their way. What cannot be asked tells of none: then a full is taken.
    pub async fn segments(&self, incarnation: &Incarnation, size: SegmentSize) -> BTreeSet<Segment> {
        let mut names = ready(self.data_directory);
        if let Some(primary) = self.primary {
            names.extend(primary.awaiting_archive().await.unwrap_or_default());
        }
        names.extend(self.queue.map(|queue| queued(queue, incarnation)).unwrap_or_default());
        names.iter().filter_map(|name| Segment::parse(name, size)).collect()
    }
}

/// What PostgreSQL has still to hand over of the log below `data_directory`.
fn ready(data_directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(data_directory.join("pg_wal/archive_status")).into_iter().flatten();
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter_map(|name| name.strip_suffix(".ready").map(str::to_owned)).collect()
}

/// What waits to be brought to the repository. What was given up does not come.
fn queued(queue: &Queue, incarnation: &Incarnation) -> Vec<String> {
    let waiting = queue.waiting().unwrap_or_default().into_iter();
    let files = waiting.filter_map(|queued| match queued.item {
        Item::Log { incarnation: of, file, .. } => (of == *incarnation).then_some(file),
        Item::Backup { .. } => None,
    });
    files.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::TimelineId;
    use crate::codec::Sha256Digest;

    #[tokio::test]
    async fn what_is_ready_or_queued_is_on_its_way() {
        let dir = tempfile::tempdir().unwrap();
        let (size, incarnation) = (SegmentSize::DEFAULT, Incarnation::postgres(15, 7));
        let name = |number| Segment { timeline: TimelineId(1), number }.name(size);
        let status = dir.path().join("pg_wal/archive_status");
        let queue = Queue::new(dir.path(), &"orders".parse().unwrap(), "main");
        let witnesses = Witnesses { data_directory: dir.path(), primary: None, queue: Some(&queue) };
        assert!(witnesses.segments(&incarnation, size).await.is_empty(), "neither is there");
        fs::create_dir_all(&status).unwrap();
        for file in [name(3) + ".ready", name(4) + ".done", "00000002.history.ready".to_owned()] {
            fs::write(status.join(file), "").unwrap();
        }
        for (number, of) in [(5, &incarnation), (6, &Incarnation::postgres(15, 8))] {
            let (file, key, raw_sha256) = (name(number), String::new(), Sha256Digest::of(b""));
            queue.add(&Item::Log { incarnation: of.clone(), file, key, raw_sha256 }).unwrap();
        }
        let found = witnesses.segments(&incarnation, size).await;
        assert_eq!(found.into_iter().map(|segment| segment.number).collect::<Vec<_>>(), [3, 5]);
    }
}
