use super::*;
use crate::base::{BackupType, DrillLevel, Lsn, Segment, TimelineId};
use crate::codec::Sha256Digest;
use crate::engine::status::StatusReport;
use crate::engine::status::facts::{ArchiverFacts, BackupPoint, CopiesWanted, Frontier, QueueFacts, ServerFacts, SystemFacts};
use crate::engine::status::report::Kind;
use crate::engine::status::rpo::{BackupCover, Exposure};
use crate::engine::status::rto::tests::drill;
use crate::engine::window::Interval;
use crate::policy::{LogMode, Policy, parse};
use crate::repo::evidence::{Kept, Phase, PhaseKind};

const DAY: u64 = 86_400;

fn now() -> Timestamp {
    Timestamp::parse_compact("20261120T120000Z").unwrap()
}

fn ago(seconds: u64) -> Timestamp {
    now().minus(Duration::from_secs(seconds))
}

fn policy(more: &str) -> Policy {
    let text = format!("[objectives]\nrpo = \"100s\"\nrto = \"100s\"\ndrill_max_age = \"30d\"\n{more}");
    parse::parse("gold", std::path::Path::new("gold.toml"), &text).unwrap()
}

fn passed(seconds: f64, age_seconds: u64) -> Kept {
    let mut evidence = drill(vec![Phase { phase: PhaseKind::Plan, seconds: seconds - 0.1, bytes: None }]);
    (evidence.declared, evidence.finished) = (ago(age_seconds), ago(age_seconds));
    Kept { key: "orders/drill/x.json".to_owned(), sha256: Sha256Digest::of(b""), evidence }
}

/// One that passed, but for what `change` does to it.
fn but(change: impl FnOnce(&mut Evidence), age_seconds: u64) -> Kept {
    let mut kept = passed(50.0, age_seconds);
    change(&mut kept.evidence);
    kept
}

fn repository(name: &str) -> RepositoryFacts {
    let backup = BackupPoint {
        id: "20261119T120000Z-full-k3fq".parse().unwrap(),
        backup_type: BackupType::Full,
        started: ago(DAY),
        stopped: ago(DAY - 60),
        raw_bytes: 1 << 30,
        expired: false,
    };
    let frontier = Frontier {
        server_version: 150_018,
        backup: backup.id.clone(),
        timeline: TimelineId(1),
        end_lsn: Lsn(5 << 24),
        reaches: ago(1),
        exposure: Exposure::Nothing,
        replay_bytes: 1 << 20,
        fetch_bytes: 1 << 28,
        write_bytes: 1 << 30,
    };
    let held = Held { frontier: Some(frontier), backups: vec![backup], ..Held::default() };
    RepositoryFacts {
        name: name.to_owned(),
        site: None,
        protected_by: None,
        clock_skew_seconds: None,
        queue: Ok(QueueFacts::default()),
        held: Ok(held),
    }
}

/// Everything as it should be.
pub fn facts() -> Facts {
    let archiver = ArchiverFacts { failing: false, failed_count: 0, last_failed_file: None, last_failed_time: None };
    Facts {
        source: "orders".parse().unwrap(),
        engine: Engine::Postgres,
        now: now(),
        site: None,
        policy: Some(policy("")),
        policy_problem: None,
        copies_wanted: CopiesWanted { log: 2, backup: 2 },
        system: SystemFacts::Server(Ok(ServerFacts {
            wal_lsn: Lsn(5 << 24),
            clock_skew_seconds: 0.0,
            in_recovery: false,
            archiver: Some(archiver),
        })),
        slot: None,
        repositories: vec![repository("main"), repository("far")],
        standby: None,
        drills: vec![passed(50.0, DAY)],
        evidence_problems: Vec::new(),
        history: Vec::new(),
        warnings: Vec::new(),
    }
}

fn server(facts: &mut Facts) -> &mut ServerFacts {
    match &mut facts.system {
        SystemFacts::Server(Ok(server)) => server,
        other => panic!("{other:?}"),
    }
}

fn held(facts: &mut Facts, at: usize) -> &mut Held {
    facts.repositories[at].held.as_mut().unwrap()
}

fn expose(facts: &mut Facts, exposure: &Exposure) {
    for at in 0..2 {
        held(facts, at).frontier.as_mut().unwrap().exposure = exposure.clone();
    }
}

/// What follows from one change to facts that are as they should be.
#[track_caller]
fn after(change: impl FnOnce(&mut Facts)) -> (Verdict, Vec<Class>) {
    let mut facts = facts();
    change(&mut facts);
    let report = StatusReport::of(&facts);
    let is_told =
        |reason: &Reason| !reason.message.is_empty() && reason.command.contains("orders") || reason.command.contains("--help");
    assert!(report.reasons.iter().all(is_told), "{:?}", report.reasons);
    (report.verdict, report.reasons.iter().map(|reason| reason.class).collect())
}

#[test]
fn exposure_is_held_against_the_rpo() {
    let why = || "nobody can say".to_owned();
    let bound = |seconds| Exposure::AtMostSince { frontier: ago(seconds), why: why(), lost: None };
    let between = |lost, most| Exposure::AtMostSince { frontier: ago(most), why: why(), lost: Some(ago(lost)) };
    for (exposure, expected) in [
        (Exposure::Nothing, (Verdict::Ok, vec![])),
        (Exposure::Since(ago(75)), (Verdict::Ok, vec![])),
        (Exposure::Since(ago(76)), (Verdict::AtRisk, vec![Class::Rpo])),
        (Exposure::Since(ago(100)), (Verdict::AtRisk, vec![Class::Rpo])),
        (Exposure::Since(ago(101)), (Verdict::Breach, vec![Class::Rpo])),
        (bound(75), (Verdict::Ok, vec![])),
        (bound(76), (Verdict::AtRisk, vec![Class::Rpo])),
        (bound(9000), (Verdict::AtRisk, vec![Class::Rpo])),
        (between(70, 75), (Verdict::Ok, vec![])),
        (between(100, 9000), (Verdict::AtRisk, vec![Class::Rpo])),
        (between(101, 9000), (Verdict::Breach, vec![Class::Rpo])),
    ] {
        assert_eq!(after(|facts| expose(facts, &exposure)), expected, "{exposure:?}");
    }
    // The better repository counts, and the other is too far behind to be a copy.
    let one = |facts: &mut Facts| {
        let frontier = held(facts, 1).frontier.as_mut().unwrap();
        (frontier.exposure, frontier.end_lsn) = (Exposure::Since(ago(500)), Lsn(4 << 24));
    };
    assert_eq!(after(one), (Verdict::AtRisk, vec![Class::Copies]));
}

#[test]
fn nothing_to_restore_is_a_breach_of_whatever_was_declared() {
    let nothing = |facts: &mut Facts| {
        for at in 0..2 {
            *held(facts, at) = Held { no_frontier: Some("there is no backup".to_owned()), ..Held::default() };
        }
    };
    assert_eq!(after(nothing), (Verdict::Breach, vec![Class::Backup]));
    let undeclared = |facts: &mut Facts| {
        nothing(facts);
        facts.policy = None;
    };
    assert_eq!(after(undeclared), (Verdict::AtRisk, vec![Class::Backup, Class::Policy]));
}

#[test]
fn recovery_is_held_against_the_rto_with_detection() {
    use Class::Rto;
    assert_eq!(after(|facts| facts.drills = vec![passed(80.0, 60)]), (Verdict::Ok, vec![]));
    assert_eq!(after(|facts| facts.drills = vec![passed(81.0, 60)]), (Verdict::AtRisk, vec![Rto]));
    assert_eq!(
        after(|facts| facts.drills = vec![passed(101.0, 60)]),
        (Verdict::Breach, vec![Rto, Rto]),
        "predicted and measured"
    );
    let detected_late = |facts: &mut Facts| {
        facts.policy.as_mut().unwrap().objectives.detection = Duration::from_secs(51);
    };
    assert_eq!(after(detected_late), (Verdict::Breach, vec![Rto, Rto]));
}

#[test]
fn only_drills_that_restored_and_passed_lately_prove_anything() {
    use Class::{DrillFailed, Evidence as Record, Inconclusive, Key, StaleDrill};
    let with = |outcome, age| but(|evidence| evidence.outcome = outcome, age);
    assert_eq!(after(|facts| facts.drills.clear()), (Verdict::Unproven, vec![StaleDrill]));
    let verified = but(|evidence| evidence.level = DrillLevel::Verify, 60);
    assert_eq!(after(|facts| facts.drills = vec![verified]), (Verdict::Unproven, vec![StaleDrill]));
    assert_eq!(after(|facts| facts.drills = vec![with(DrillOutcome::Inconclusive, 60)]), (Verdict::Unproven, vec![Inconclusive]));
    assert_eq!(after(|facts| facts.drills = vec![passed(50.0, 31 * DAY)]), (Verdict::Unproven, vec![StaleDrill]));
    let old = |facts: &mut Facts| facts.drills = vec![passed(50.0, 31 * DAY), with(DrillOutcome::Inconclusive, 60)];
    assert_eq!(after(old), (Verdict::Unproven, vec![Inconclusive]));
    assert_eq!(after(|facts| facts.drills.push(with(DrillOutcome::Failed, 60))), (Verdict::AtRisk, vec![DrillFailed]));
    let with_a_file = but(|evidence| evidence.key_use = KeyUse::File, 60);
    assert_eq!(
        after(|facts| facts.drills = vec![with_a_file.clone()]),
        (Verdict::Ok, vec![Key]),
        "told, and no gate falls over it"
    );
    assert_eq!(after(|facts| facts.drills.push(with_a_file)), (Verdict::Ok, vec![]), "an earlier one tested it");
    assert_eq!(after(|facts| facts.evidence_problems.push("x".to_owned())), (Verdict::AtRisk, vec![Record]));
}

#[test]
fn what_keeps_the_objectives_is_looked_after() {
    use Class::{Archiver, Backup, Copies, Gap, Policy, Repository};
    let archiver = |facts: &mut Facts| server(facts).archiver.as_mut().unwrap().failing = true;
    assert_eq!(after(archiver), (Verdict::AtRisk, vec![Archiver]));
    let off = |facts: &mut Facts| server(facts).archiver = None;
    assert_eq!(after(off), (Verdict::AtRisk, vec![Archiver]), "nothing reaches the repositories");
    let standby = |facts: &mut Facts| {
        off(facts);
        server(facts).in_recovery = true;
    };
    assert_eq!(after(standby), (Verdict::Ok, vec![]));
    let no_log = |facts: &mut Facts| {
        off(facts);
        facts.policy.as_mut().unwrap().log.mode = LogMode::None;
    };
    assert_eq!(after(no_log), (Verdict::Ok, vec![]));
    let silent = |facts: &mut Facts| facts.system = SystemFacts::Server(Err("it is away".to_owned()));
    assert_eq!(after(silent), (Verdict::Ok, vec![]), "what is known is enough");
    let away = |facts: &mut Facts| facts.repositories[1].held = Err("no route".to_owned());
    assert_eq!(after(away), (Verdict::AtRisk, vec![Repository, Copies, Copies]));
    let all_away = |facts: &mut Facts| facts.repositories.iter_mut().for_each(|one| one.held = Err("no route".to_owned()));
    assert_eq!(after(all_away), (Verdict::AtRisk, vec![Repository; 3]));
    let given_up = |facts: &mut Facts| facts.repositories[1].queue = Ok(QueueFacts { given_up: 1, ..QueueFacts::default() });
    assert_eq!(after(given_up), (Verdict::AtRisk, vec![Copies]));
    assert_eq!(after(|facts| held(facts, 1).backups.clear()), (Verdict::AtRisk, vec![Copies]));
    let one_is_enough = |facts: &mut Facts| {
        held(facts, 1).backups.clear();
        facts.copies_wanted.backup = 1;
    };
    assert_eq!(after(one_is_enough), (Verdict::Ok, vec![]));
    assert_eq!(after(|facts| held(facts, 0).split_brains.push("0001".to_owned())), (Verdict::AtRisk, vec![Gap]));
    assert_eq!(after(|facts| held(facts, 0).problems.push("x: y".to_owned())), (Verdict::AtRisk, vec![Repository]));
    assert_eq!(after(|facts| facts.policy = None), (Verdict::Unproven, vec![Policy]));
    let broken = |facts: &mut Facts| {
        facts.policy = None;
        facts.policy_problem = Some(PolicyProblem { name: "orders.toml".to_owned(), why: "rpo = \"soon\"".to_owned() });
    };
    assert_eq!(after(broken), (Verdict::AtRisk, vec![Policy]));
    let abandoned = |facts: &mut Facts| held(facts, 0).frontier.as_mut().unwrap().timeline = TimelineId(2);
    let lags = |facts: &mut Facts| {
        abandoned(facts);
        let other = held(facts, 1).frontier.as_mut().unwrap();
        (other.end_lsn, other.exposure) = (Lsn(6 << 24), Exposure::Since(ago(500)));
    };
    assert_eq!(after(lags), (Verdict::AtRisk, vec![Copies]), "an older timeline's log is not the newest, however far it goes");
    let hourly = |facts: &mut Facts| facts.policy = Some(policy("[schedule]\nfull = \"0 * * * *\""));
    assert_eq!(after(hourly), (Verdict::AtRisk, vec![Backup]));
}

#[test]
fn a_gap_counts_inside_the_window_that_was_declared() {
    let stretch = |from, to| Window {
        interval: Interval {
            from: ago(from),
            to: ago(to),
            end_lsn: Lsn(0),
            backups: Vec::new(),
            missing: Segment { timeline: TimelineId(1), number: 3 },
        },
        missing: "000000010000000000000003".to_owned(),
    };
    let gap = |facts: &mut Facts| held(facts, 0).window = vec![stretch(9 * DAY, 8 * DAY), stretch(6 * DAY, 0)];
    assert_eq!(after(gap), (Verdict::AtRisk, vec![Class::Gap]), "the window is seven days by default");
    let before = |facts: &mut Facts| held(facts, 0).window = vec![stretch(9 * DAY, 8 * DAY), stretch(7 * DAY + 1, 0)];
    assert_eq!(after(before), (Verdict::Ok, vec![]));

    let of = |engine, window: Vec<Window>| {
        move |facts: &mut Facts| {
            (facts.engine, facts.system) = (engine, SystemFacts::Path { path: "/srv".into(), problem: None });
            held(facts, 0).window = window.clone();
        }
    };
    let moments = vec![stretch(3 * DAY, 3 * DAY), stretch(2 * DAY, 2 * DAY), stretch(DAY, 0)];
    assert_eq!(after(of(Engine::Directory, moments.clone())), (Verdict::Ok, vec![]), "its backups are moments");
    assert_eq!(after(of(Engine::Sqlite, moments.clone())), (Verdict::AtRisk, vec![Class::Gap; 2]));
    let undeclared = |facts: &mut Facts| {
        of(Engine::Sqlite, moments)(facts);
        facts.policy = None;
    };
    assert_eq!(after(undeclared), (Verdict::Unproven, vec![Class::Policy]), "nobody said that it is followed");
}

#[test]
fn scopes_are_judged_where_they_are_declared() {
    let mut facts = facts();
    facts.repositories[1].protected_by = Some("object lock, compliance".to_owned());
    held(&mut facts, 1).frontier.as_mut().unwrap().exposure = Exposure::Since(ago(500));
    let scope = |facts: &Facts, name: &str| {
        let scopes = StatusReport::of(facts).scopes;
        scopes.into_iter().find(|scope| scope.scope == name).map(|scope| (scope.kind, scope.verdict, scope.rpo_seconds)).unwrap()
    };
    assert_eq!(scope(&facts, "host_lost"), (Kind::Exact, Some(Verdict::Ok), Some(0.0)));
    assert_eq!(scope(&facts, "site_lost"), (Kind::NotAssessed, None, None));
    assert_eq!(scope(&facts, "credentials_stolen"), (Kind::Exact, None, Some(500.0)), "shown, not judged");
    facts.policy = Some(policy("[copies]\nlocked = [\"far\"]"));
    assert_eq!(scope(&facts, "credentials_stolen"), (Kind::Exact, Some(Verdict::Breach), Some(500.0)));
    facts.site = Some("cellar".to_owned());
    assert_eq!(scope(&facts, "site_lost"), (Kind::NotAssessed, None, None), "no repository says where it stands");
    facts.repositories[0].site = Some("cellar".to_owned());
    facts.repositories[1].site = Some("attic".to_owned());
    assert_eq!(scope(&facts, "site_lost"), (Kind::Exact, Some(Verdict::Breach), Some(500.0)));
    facts.repositories[1].held = Err("no route".to_owned());
    assert_eq!(scope(&facts, "site_lost"), (Kind::Unknown, Some(Verdict::AtRisk), None));
    facts.repositories[1].site = Some("cellar".to_owned());
    assert_eq!(scope(&facts, "site_lost"), (Kind::Infinite, Some(Verdict::Breach), None));
}

#[test]
fn a_commit_of_the_future_is_neither_nothing_nor_of_a_known_age() {
    let ahead = |seconds| now().plus(Duration::from_secs(seconds));
    let bound = |frontier| Exposure::AtMostSince { frontier, why: "nobody can say".to_owned(), lost: None };
    for exposure in [Exposure::Since(ahead(6)), bound(ahead(6))] {
        assert_eq!(after(|facts| expose(facts, &exposure)), (Verdict::AtRisk, vec![Class::Rpo]), "{exposure:?}");
        let mut facts = facts();
        expose(&mut facts, &exposure);
        let report = StatusReport::of(&facts);
        assert_eq!((report.scopes[0].kind, report.scopes[0].rpo_seconds), (Kind::Unknown, None));
        assert_eq!(report.sample().host_lost_seconds, None);
    }
    let mut facts = facts();
    expose(&mut facts, &Exposure::Since(ahead(4)));
    assert_eq!(StatusReport::of(&facts).scopes[0].rpo_seconds, Some(0.001), "the clocks differ a little, and it is lost");
}

#[test]
fn the_history_keeps_and_counts_only_what_all_repositories_bear_out() {
    let mut facts = facts();
    expose(&mut facts, &Exposure::Since(ago(50)));
    assert_eq!(StatusReport::of(&facts).sample().host_lost_seconds, Some(50.0));
    let seen = |time, seconds| crate::engine::status::history::Sample {
        time,
        host_lost_seconds: Some(seconds),
        ..StatusReport::of(&self::facts()).sample()
    };
    facts.history = vec![seen(ago(2 * DAY), 900.0), seen(ago(60), 70.0), seen(now().plus(Duration::from_secs(DAY)), 800.0)];
    for repository in 0..2 {
        let covered =
            BackupCover { first_segment: 1, last_segment: 1, started: ago(DAY), stopped: ago(DAY), committed: ago(DAY) };
        held(&mut facts, repository).coverage.backups = vec![covered];
    }
    assert_eq!(StatusReport::of(&facts).scopes[0].worst_24h_seconds, Some(70.0), "what is said of the future is not of the past");
    facts.repositories[1].held = Err("no route".to_owned());
    assert_eq!(StatusReport::of(&facts).sample().host_lost_seconds, None, "the one that is away may have more");
}

#[test]
fn a_queue_that_cannot_be_read_is_not_an_empty_one() {
    let mut facts = facts();
    facts.repositories[0].queue = Err("permission denied".to_owned());
    let counts = |at: usize| {
        let found = &StatusReport::of(&facts).repositories[at];
        (found.queue_items, found.queue_given_up)
    };
    assert_eq!((counts(0), counts(1)), ((None, None), (Some(0), Some(0))));
}
