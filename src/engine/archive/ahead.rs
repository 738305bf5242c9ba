//! Segments that PostgreSQL has finished and hands over one by one: the next ones are stored together with the first.
//!
//! After an outage the archiver has many to hand over, and each costs a few round trips; stored several at a time, they
//! are found done when their turn comes. PostgreSQL keeps each until its own push has said that it is archived, so
//! nothing here can lose one: what is remembered of a segment is its digest, which is compared with the file again.

use std::fs;
use std::path::{Path, PathBuf};

use super::named::Named;
use super::{FileKind, file_kind};
use crate::engine::Scope;

/// Segments stored beside the one that was asked for …
const MOST_SEGMENTS: usize = 3;
/// … and no more than so many bytes of them: they are held in memory.
const MOST_BYTES: u64 = 64 << 20;

/// The segments that wait behind `file` in PostgreSQL's own list, in order; none when it is not called by the archiver.
pub(super) fn waiting_behind(file: &Path) -> Vec<PathBuf> {
    let bytes = fs::metadata(file).map_or(u64::MAX, |metadata| metadata.len()).max(1);
    let most = MOST_SEGMENTS.min(usize::try_from(MOST_BYTES / bytes).unwrap_or(MOST_SEGMENTS));
    ready_behind(file, most).0
}

/// The first `most` of them; and all files that wait, in any order.
pub(super) fn ready_behind(file: &Path, most: usize) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let own = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let Ok(listed) = fs::read_dir(file.with_file_name("archive_status")) else { return Default::default() };
    let names = listed.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut ready: Vec<String> = names.filter_map(|name| name.strip_suffix(".ready").map(str::to_owned)).collect();
    ready.sort_unstable();
    let next = match ready.binary_search_by(|name| name.as_str().cmp(own)) {
        Ok(position) if file_kind(own) == Some(FileKind::Segment) => &ready[position + 1..],
        _ => &[],
    };
    // Of another timeline, a history or a label: they come in their turn, after what goes before them.
    let next = next.iter().take_while(|name| name[..8] == own[..8] && file_kind(name) == Some(FileKind::Segment));
    let next = next.take(most).map(|name| file.with_file_name(name)).collect();
    (next, ready.iter().map(|name| file.with_file_name(name)).collect())
}

/// The object that holds a file with this content, when an earlier push stored it ahead of its turn.
pub(super) fn take(scope: &Scope, named: &Named) -> Option<String> {
    scope.state.take_pushed_ahead(&scope.source, &named.incarnation, &named.file, named.digest)
}

/// Remembers that the object `key` holds a file whose turn has not come.
pub(super) fn remember(scope: &Scope, named: &Named, key: &str) {
    // Not remembered, it is looked up in the repository in its turn.
    let _ = scope.state.remember_pushed_ahead(&scope.source, &named.incarnation, &named.file, named.digest, key);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(ready: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("archive_status")).unwrap();
        for name in ready {
            fs::write(dir.path().join(format!("archive_status/{name}.ready")), "").unwrap();
            fs::write(dir.path().join(name), [0; 1024]).unwrap();
        }
        fs::write(dir.path().join("archive_status/000000010000000000000001.done"), "").unwrap();
        dir
    }

    fn behind(dir: &Path, own: &str) -> Vec<String> {
        let names = waiting_behind(&dir.join(own)).into_iter();
        names.map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn the_next_few_of_the_same_timeline_wait_behind() {
        let segment = |number: u32| format!("00000001000000000000{number:04X}");
        let names: Vec<String> = (2..9).map(segment).collect();
        let mut ready: Vec<&str> = names.iter().map(String::as_str).collect();
        ready.extend(["00000002.history", "000000020000000000000009"]);
        let dir = directory(&ready);
        assert_eq!(behind(dir.path(), &names[0]), names[1..4]);
        assert_eq!(behind(dir.path(), &names[5]), names[6..]);
        for alone in ["000000010000000000000001", "00000002.history", "000000020000000000000009", "nonsense"] {
            assert!(behind(dir.path(), alone).is_empty(), "{alone}");
        }
        let large = fs::File::create(dir.path().join(&names[0])).unwrap();
        large.set_len(MOST_BYTES / 2).unwrap();
        assert_eq!(behind(dir.path(), &names[0]), names[1..3]);
    }
}
