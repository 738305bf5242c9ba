//! `archive push` of one name twice, of strangers, and of files that are no segments.

use std::fs;
use std::path::{Path, PathBuf};

use lifeboat::codec::Sha256Digest;

use crate::support::lifeboat::Host;
use crate::support::postgres::{Cluster, Installation, Options, Stop};
use crate::support::process::Output;
use crate::support::scenario::{SOURCE, Scenario};

/// `archive push` of `file`.
#[track_caller]
pub fn push(host: &Host, file: &Path) -> Output {
    host.run(&["archive".as_ref(), "push".as_ref(), SOURCE.as_ref(), file.as_os_str()])
}

/// A copy of `file` in `directory` (made when missing) with its last bytes overwritten: another content of the same
/// name that still reads as a segment, for what follows the switch record is not looked at.
pub fn variant(file: &Path, host: &Host, directory: &str, mark: u64) -> PathBuf {
    let mut bytes = fs::read(file).expect("readable");
    let end = bytes.len() - 8;
    bytes[end..].copy_from_slice(&mark.to_le_bytes());
    place(host, directory, file.file_name().and_then(|name| name.to_str()).expect("a log file"), &bytes)
}

/// A file of this name and content in `directory`, made when missing.
pub fn place(host: &Host, directory: &str, name: &str, bytes: &[u8]) -> PathBuf {
    if !host.dir().join(directory).exists() {
        host.dir().create_dir(directory);
    }
    host.dir().write(Path::new(directory).join(name), bytes)
}

/// The digest that names a file's content.
pub fn digest(file: &Path) -> String {
    Sha256Digest::of(&fs::read(file).expect("readable")).short()
}

fn one_archived_segment(major: u32) -> Option<(Scenario, PathBuf)> {
    let installation = Installation::require(major)?;
    let scenario = Scenario::start(&installation, &Options { wal_segment_mib: 1, ..Options::default() });
    scenario.cluster.sql().execute("CREATE TABLE rows AS SELECT 1 AS n");
    let segment = scenario.archive_now();
    let path = scenario.cluster.data.join("pg_wal").join(segment);
    Some((scenario, path))
}

fn a_name_is_taken_once(major: u32) {
    let Some((scenario, segment)) = one_archived_segment(major) else { return };
    let before = scenario.repository.contents();
    push(&scenario.protected, &segment).success();
    let other = variant(&segment, &scenario.protected, "other", 7);
    let refused = push(&scenario.protected, &other).refuses(22, &[&digest(&segment), &digest(&other), "archive resolve"]);
    assert!(refused.stderr.contains("two servers write the same log"), "{refused}");
    let stranger = push(&scenario.protected.twin(), &other).refuses(22, &[&digest(&segment), &digest(&other)]);
    assert!(stranger.stdout.is_empty(), "{stranger}");
    assert_eq!(scenario.repository.contents(), before, "a refusal has changed the repository");
}

#[test]
fn a_name_is_taken_once_13() {
    a_name_is_taken_once(13);
}

#[test]
fn a_name_is_taken_once_18() {
    a_name_is_taken_once(18);
}

#[test]
fn strangers_and_fragments_are_refused() {
    let Some((scenario, segment)) = one_archived_segment(15) else { return };
    let before = scenario.repository.contents();
    let name = segment.file_name().and_then(|name| name.to_str()).expect("a segment");
    let mut other = Cluster::create(&scenario.cluster.installation, &Options { wal_segment_mib: 1, ..Options::default() });
    other.start();
    let foreign = other.data.join("pg_wal").join(other.switch_wal());
    push(&scenario.protected, &foreign).refuses(1, &["belongs to another cluster", "on record"]);
    other.stop(Stop::Immediate);

    let whole = fs::read(&segment).expect("readable");
    let host = &scenario.protected;
    push(host, &place(host, "zeros", name, &vec![0; whole.len()])).refuses(1, &["not a segment"]);
    push(host, &place(host, "short", name, &whole[..whole.len() / 2])).refuses(1, &["bytes long"]);
    push(host, &place(host, "empty", name, b"")).refuses(1, &["not a segment"]);
    push(host, &place(host, "renamed", "00000001000000070000000F", &whole)).refuses(1, &["00000001000000070000000F"]);
    push(host, &place(host, "odd", "pg_control", &whole)).refuses(2, &["no file that PostgreSQL archives"]);
    let missing = push(host, &host.dir().join(name)).exits(1);
    assert!(missing.stderr.contains("cannot read"), "{missing}");
    assert_eq!(scenario.repository.contents(), before, "a refusal has changed the repository");
}

#[test]
fn histories_labels_and_partial_segments_are_archived_too() {
    let Some((scenario, segment)) = one_archived_segment(15) else { return };
    // The backup's checkpoint recycles it.
    let whole = fs::read(&segment).expect("readable");
    scenario.full_backup();
    let host = &scenario.protected;
    let fetch = |name: &str| {
        let destination = scenario.rescue.dir().join("fetched");
        scenario.rescue.ok(&["archive", "get", SOURCE, name, destination.to_str().expect("plain")]);
        fs::read(&destination).expect("fetched")
    };
    let history = b"1\t0/7000000\tno recovery target specified\n";
    push(host, &place(host, "a", "00000002.history", history)).success();
    push(host, &place(host, "a", "00000002.history", history)).success();
    let other = place(host, "b", "00000002.history", b"1\t0/6000000\tno recovery target specified\n");
    push(host, &other).refuses(22, &[&digest(&other), "other content"]);
    assert_eq!(fetch("00000002.history"), history);
    push(host, &place(host, "c", "00000003.history", b"what is this")).exits(22);

    // Two contents are no contradiction here: nothing is ever restored from them.
    let partial = "00000001000000000000000A.partial";
    push(host, &place(host, "d", partial, &whole)).success();
    push(host, &place(host, "d", partial, &whole)).success();
    push(host, &variant(&host.dir().join("d").join(partial), host, "e", 1)).success();
    assert_eq!(fetch(partial).len(), whole.len());

    let label = scenario.repository.log_objects().into_iter().find_map(|key| {
        let name = key.rsplit('/').next()?;
        name.contains(".backup").then(|| name.split('_').next().map(str::to_owned))?
    });
    let label = label.expect("the server archives the label of its backup");
    assert!(String::from_utf8_lossy(&fetch(&label)).contains("START WAL LOCATION"));
    scenario.archive_now();
    assert_eq!(scenario.restore_and_start("after", &["--timeline", "1"]).sql().number("SELECT count(*) FROM rows"), 1);
}
