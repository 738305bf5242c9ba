use super::*;
use crate::base::{BackupId, BackupType, Lsn, TimelineId};
use crate::engine::status::facts::StandbyFacts;
use crate::engine::status::rpo::Exposure;
use crate::engine::status::verdict::tests::facts;
use crate::repo::evidence::{Phase, PhaseKind};

fn at(second: i64) -> Timestamp {
    Timestamp::from_unix_micros(1_800_000_000_000_000 + second * 1_000_000).unwrap()
}

fn frontier() -> Frontier {
    Frontier {
        backup: BackupId::fresh(at(0), BackupType::Full),
        server_version: 150_018,
        timeline: TimelineId(1),
        end_lsn: Lsn(1 << 30),
        reaches: at(5000),
        exposure: Exposure::Nothing,
        replay_bytes: 1,
        fetch_bytes: 1,
        write_bytes: 1,
    }
}

fn state() -> StandbyState {
    StandbyState {
        is_of_source: true,
        in_recovery: true,
        is_paused: false,
        is_on_path: true,
        delay: Duration::ZERO,
        timeline: TimelineId(1),
        replay_lsn: Lsn(1 << 30),
        last_commit: Some(at(4000)),
    }
}

fn judged(state: Result<StandbyState, String>, drills: bool) -> (StandbyReport, Option<Prediction>) {
    let mut facts = facts();
    facts.standby = Some(StandbyFacts { place: "/standby".to_owned(), state });
    for kept in &mut facts.drills {
        kept.evidence.phases.extend([
            Phase { phase: PhaseKind::Replay, seconds: 2.0, bytes: Some(100 << 20) },
            Phase { phase: PhaseKind::Promote, seconds: 1.0, bytes: None },
        ]);
    }
    if !drills {
        facts.drills.clear();
    }
    let declared = Declared { detection: Duration::from_secs(60), thaw: Duration::from_secs(7200) };
    judge(&facts, Some(&frontier()), declared).unwrap()
}

#[test]
fn one_that_has_all_takes_the_detection_and_the_promotion() {
    let (report, prediction) = judged(Ok(state()), true);
    assert_eq!((report.counts, report.lag_bytes, report.lag_seconds), (true, Some(0), Some(0.0)));
    let parts: Vec<&str> = prediction.unwrap().parts.iter().map(|(name, _)| *name).collect();
    assert_eq!(parts, ["detection", "replay", "promote"], "nothing is fetched, and nothing thawed");
    let (behind, _) = judged(Ok(StandbyState { replay_lsn: Lsn(1 << 29), last_commit: Some(at(4900)), ..state() }), true);
    assert_eq!((behind.counts, behind.lag_bytes, behind.lag_seconds), (true, Some(1 << 29), Some(100.0)));
    assert!(behind.predicted_seconds > report.predicted_seconds, "{behind:?} {report:?}");
}

#[test]
fn nothing_is_predicted_of_what_was_never_measured() {
    let (report, prediction) = judged(Ok(state()), false);
    assert!(report.counts && prediction.is_none() && report.predicted_seconds.is_none());
}

#[test]
fn one_that_cannot_be_relied_on_counts_for_nothing() {
    let behind = |seconds: i64, delay| StandbyState {
        replay_lsn: Lsn(7),
        last_commit: Some(at(5000 - seconds)),
        delay: Duration::from_secs(delay),
        ..state()
    };
    for (state, why) in [
        (Err("connection refused".to_owned()), Some("connection refused")),
        (Ok(StandbyState { is_of_source: false, ..state() }), Some("another cluster")),
        (Ok(StandbyState { in_recovery: false, ..state() }), Some("takes writes")),
        (Ok(StandbyState { is_on_path: false, ..state() }), Some("went on without it")),
        (Ok(StandbyState { is_paused: true, ..state() }), Some("paused")),
        (Ok(StandbyState { last_commit: None, replay_lsn: Lsn(7), ..state() }), Some("no commit since")),
        (Ok(behind(601, 0)), Some("behind the archive")),
        (Ok(behind(599, 0)), None),
        (Ok(behind(4100, 3600)), None),
        (Ok(behind(4300, 3600)), Some("behind the archive")),
    ] {
        let (report, prediction) = judged(state.clone(), true);
        assert_eq!(report.counts, why.is_none(), "{state:?}");
        assert_eq!(report.why_not.is_some_and(|told| why.is_some_and(|why| told.contains(why))), why.is_some(), "{state:?}");
        assert_eq!(prediction.is_some(), why.is_none(), "{state:?}");
    }
}
