use tempfile::TempDir;

use super::*;
use crate::source::postgres::wal::fixture::{Log, SYSTEM_IDENTIFIER};
use crate::source::postgres::wal::resource_manager::TRANSACTION;

const FRONTIER: i64 = 1_000_000;
const FIRST: i64 = 2_000_000;
const SECOND: i64 = 3_000_000;

/// A time in microseconds since 2000, as the log writes it.
fn at(micros: i64) -> Timestamp {
    Timestamp::from_unix_micros(micros + 946_684_800_000_000).unwrap()
}

/// A log whose first segment, archived, ends `gap_bytes` after its last whole record.
fn log(gap_bytes: usize) -> Log {
    let mut log = Log::new();
    log.append(10, 0, 1, &vec![7; (1 << 20) - 40 - 127 * 24 - 24 - 5 - gap_bytes]);
    log
}

/// Holds those segments of `log` that `keep` names.
fn pg_wal(log: &Log, keep: &[u64]) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (segment, bytes) in log.segments().into_iter().filter(|(segment, _)| keep.contains(&segment.number)) {
        fs::write(directory.path().join(segment.name(log.size)), bytes).unwrap();
    }
    directory
}

fn own(log: &Log, directory: &TempDir) -> OwnLog {
    OwnLog {
        directory: Some(directory.path().to_owned()),
        system_identifier: SYSTEM_IDENTIFIER,
        timeline: log.timeline,
        end_lsn: Some(log.lsn(log.bytes.len())),
        is_whole: true,
        size: log.size,
    }
}

/// The archive ends with the first segment.
fn reached(log: &Log) -> Reached {
    Reached { timeline: TimelineId(1), end_lsn: log.first.end(log.size), time: at(FRONTIER) }
}

fn lost(own: &OwnLog, reached: Reached, named: &[(u64, Named)], carry: Option<&Carry>) -> Exposure {
    let known = Known { named: named.iter().copied().collect(), carry_into: |_| carry.cloned() };
    exposure(own, reached, &known)
}

/// What is certain of a bound.
#[track_caller]
fn certain(exposure: &Exposure) -> Option<Timestamp> {
    match exposure {
        Exposure::AtMostSince { frontier, lost, .. } if *frontier == at(FRONTIER) => *lost,
        other => panic!("{other:?} is no bound"),
    }
}

fn carry_out_of(log: &Log) -> Carry {
    let (segment, bytes) = log.segments().remove(0);
    summarise(segment, log.size, &bytes, &Carry::Unknown).unwrap().end.carry
}

#[test]
fn a_commit_that_straddles_out_of_a_recycled_segment_is_remembered_or_bounded_by_the_next() {
    let mut log = log(24);
    log.commit(7, FIRST);
    log.commit(8, SECOND);
    let whole = pg_wal(&log, &[3, 4]);
    assert_eq!(lost(&own(&log, &whole), reached(&log), &[], None), Exposure::Since(at(FIRST)));
    let recycled = pg_wal(&log, &[4]);
    let own = own(&log, &recycled);
    assert_eq!(certain(&lost(&own, reached(&log), &[], None)), Some(at(SECOND)), "what is found is lost");
    assert_eq!(lost(&own, reached(&log), &[], Some(&carry_out_of(&log))), Exposure::Since(at(FIRST)));
    let named = (4, Named { first: FirstCommit::At(at(FIRST)), committed_by: Some(at(SECOND)) });
    assert_eq!(lost(&own, reached(&log), &[named], None), Exposure::Since(at(FIRST)), "another repository knows");
    let mut other = self::log(24);
    other.commit(9, FIRST - 1);
    let wrong = lost(&own, reached(&log), &[], Some(&carry_out_of(&other)));
    assert_eq!(certain(&wrong), Some(at(SECOND)), "of another life of the cluster");
    let silent = OwnLog { end_lsn: None, ..own };
    assert_eq!(certain(&lost(&silent, reached(&log), &[], Some(&carry_out_of(&other)))), Some(at(SECOND)));
}

#[test]
fn beyond_a_segment_that_nobody_has_the_next_that_names_commits_is_certainly_lost() {
    let log = log(0);
    let nothing = tempfile::tempdir().unwrap();
    let own = OwnLog { end_lsn: Some(Lsn(500 << 20)), ..own(&log, &nothing) };
    let name = |first, committed_by| Named { first, committed_by };
    let idle = (5, name(FirstCommit::None, None));
    let vague = (6, name(FirstCommit::Unknown, None));
    let busy = (7, name(FirstCommit::At(at(FIRST)), Some(at(SECOND))));
    let later = (8, name(FirstCommit::At(at(SECOND)), Some(at(SECOND + 1))));
    for own in [own.clone(), OwnLog { end_lsn: None, ..own }] {
        assert_eq!(certain(&lost(&own, reached(&log), &[idle, vague, busy, later], None)), Some(at(SECOND)));
        assert_eq!(certain(&lost(&own, reached(&log), &[idle, vague], None)), None);
        let known = lost(&own, reached(&log), &[(4, name(FirstCommit::At(at(FIRST)), None)), busy], None);
        assert_eq!(known, Exposure::Since(at(FIRST)), "without a hole it is exact");
    }
}

#[test]
fn two_timelines_are_compared_only_where_one_left_the_other() {
    let mut old = log(0);
    let last = old.commit(7, FIRST);
    let left = old.bytes.len();
    let mut new = old.branch(TimelineId(2), left, last.start);
    new.commit(8, SECOND);
    // The archive went on with the old timeline, further than the new one is by now.
    let reached = Reached { end_lsn: Lsn(6 << 20), ..reached(&old) };
    let directory = tempfile::tempdir().unwrap();
    let (segment, bytes) = new.segments().remove(1);
    let segment = Segment { timeline: TimelineId(2), ..segment };
    fs::write(directory.path().join(segment.name(new.size)), bytes).unwrap();
    let own = own(&new, &directory);
    let abandoned = [(4, Named { first: FirstCommit::None, committed_by: None })];
    let without_history = lost(&own, reached, &abandoned, None);
    assert_eq!(certain(&without_history), None);
    assert!(format!("{without_history:?}").contains("timeline 2"), "{without_history:?}");
    let elsewhere = OwnLog { directory: None, ..own.clone() };
    assert_eq!(certain(&lost(&elsewhere, reached, &abandoned, None)), None);

    let history = format!("1\t{}\tno recovery target specified\n", old.lsn(left));
    fs::write(directory.path().join(history::file_name(TimelineId(2))), history).unwrap();
    assert_eq!(lost(&own, reached, &abandoned, None), Exposure::Since(at(SECOND)));
    fs::remove_file(directory.path().join(segment.name(new.size))).unwrap();
    assert_eq!(certain(&lost(&own, reached, &abandoned, None)), None, "the old timeline's segment is another");
}

#[test]
fn the_log_of_a_silent_server_ends_where_a_segment_is_missing_and_not_where_one_cannot_be_read() {
    let mut log = log(0);
    log.append(10, 0, 1, &vec![7; (1 << 20) - 40 - 127 * 24 - 24 - 5]);
    let directory = pg_wal(&log, &[3, 4]);
    let own = OwnLog { end_lsn: None, ..own(&log, &directory) };
    assert_eq!(lost(&own, reached(&log), &[], None), Exposure::Nothing);
    let standby = OwnLog { is_whole: false, ..own.clone() };
    assert_eq!(certain(&lost(&standby, reached(&log), &[], None)), None);
    let next = directory.path().join(Segment { number: 5, ..log.first }.name(log.size));
    fs::create_dir(&next).unwrap();
    assert_eq!(certain(&lost(&own, reached(&log), &[], None)), None, "it cannot be read");
    fs::remove_dir(&next).unwrap();
    fs::write(&next, vec![0; 1 << 20]).unwrap();
    assert_eq!(lost(&own, reached(&log), &[], None), Exposure::Nothing, "it was never written");
}

#[test]
fn a_data_directory_tells_whether_a_silent_server_was_a_standby_and_on_which_timeline() {
    use crate::source::postgres::control::tests::{sample, seal};
    let data = tempfile::tempdir().unwrap();
    assert_eq!(SilentLog::of(data.path()), None, "there is none");
    fs::create_dir(data.path().join("global")).unwrap();
    let with = |state: u32, min_recovery_timeline: u32| {
        let mut bytes = sample(1300);
        bytes[16..20].copy_from_slice(&state.to_le_bytes());
        bytes[144..148].copy_from_slice(&min_recovery_timeline.to_le_bytes());
        seal(&mut bytes);
        fs::write(data.path().join("global/pg_control"), bytes).unwrap();
        let silent = SilentLog::of(data.path()).unwrap();
        (silent.is_standby, silent.timeline.0)
    };
    assert_eq!((with(1, 0), with(6, 0)), ((false, 1), (false, 1)), "a primary that was stopped, and one that died");
    assert_eq!((with(2, 1), with(5, 3)), ((true, 1), (true, 3)), "standbys");
    assert_eq!(with(6, 2), (false, 2), "promoted a moment ago");
}

#[test]
fn rollbacks_are_no_loss_and_what_was_prepared_is() {
    let mut log = log(0);
    log.append(TRANSACTION, 0x20, 1, &FIRST.to_le_bytes());
    let found = |log: &Log| lost(&own(log, &pg_wal(log, &[3, 4])), reached(log), &[], None);
    assert_eq!(found(&log), Exposure::Nothing, "a rollback");
    let mut committed = log.clone();
    committed.commit(2, SECOND);
    assert_eq!(found(&committed), Exposure::Since(at(SECOND)));
    // As PostgreSQL 15 writes it: the transaction at 8, the time at 16, the name's length at 54, the name at 72.
    let mut prepared = [0; 76];
    (prepared[8], prepared[54]) = (3, 4);
    prepared[16..24].copy_from_slice(&FIRST.to_le_bytes());
    prepared[72..].copy_from_slice(b"gid\0");
    log.append(TRANSACTION, 0x10, 3, &prepared);
    assert_eq!(found(&log), Exposure::Since(at(FIRST)));
}
