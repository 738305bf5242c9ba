//! What cannot be reached is refused before anything is written, and says what can; what lies between two backups is
//! restored from the right one.

use std::time::Duration;

use lifeboat::base::Timestamp;

use super::support::ledger::Ledger;
use super::support::majors::on_majors;
use super::support::oracle::Oracle;
use super::support::random;
use super::support::scenario::Scenario;
use super::{Backup, archive, assert_says, backups, objects, plan, refused, scenario};

on_majors! {
    unreachable_targets_are_refused: pg13 13, pg15 15;
}

/// Apart enough for times that people write.
const PAUSE: Duration = Duration::from_millis(30);

/// Two backups and what lies around them, each stretch in segments of its own.
struct Story {
    scenario: Scenario,
    oracle: Oracle,
    first: Backup,
    second: Backup,
    /// Before the first backup.
    early: Timestamp,
    /// Between the first backup and the gap-to-be.
    before_gap: Timestamp,
    /// Between two commits in the gap-to-be.
    inside_gap: Timestamp,
    /// After the gap-to-be, before the second backup; nothing was committed between them.
    quiet: Timestamp,
    /// Between two commits after the second backup.
    after_second: Timestamp,
    /// After everything.
    beyond: Timestamp,
    /// The segment that will be missing.
    gap: String,
    /// The transaction that committed in it after `inside_gap`.
    gap_xid: u32,
}

fn moment() -> Timestamp {
    std::thread::sleep(PAUSE);
    let moment = Timestamp::now();
    std::thread::sleep(PAUSE);
    moment
}

fn story(major: u32) -> Option<Story> {
    let scenario = scenario(major, 1)?;
    let mut ledger = Ledger::create(&scenario.cluster, random::seed("refusals"));
    ledger.commit_one();
    let early = moment();
    ledger.commit_one();
    scenario.full_backup();
    ledger.commit_one();
    scenario.cluster.sql().execute("SELECT pg_create_restore_point('before-gap')");
    let before_gap = moment();
    ledger.commit_one();
    archive(&scenario.cluster);
    ledger.commit_one();
    let inside_gap = moment();
    ledger.commit_one();
    let gap = archive(&scenario.cluster);
    let quiet = moment();
    scenario.full_backup();
    ledger.commit_one();
    let after_second = moment();
    ledger.commit_one();
    scenario.cluster.sql().execute("SELECT pg_create_restore_point('twice'), pg_create_restore_point('twice')");
    archive(&scenario.cluster);
    let beyond = moment();
    let [first, second] = backups(&scenario).try_into().expect("two backups");
    let oracle = ledger.oracle();
    let gap_xid = oracle.commits()[oracle.commits_until(inside_gap)].xid;
    Some(Story { scenario, oracle, first, second, early, before_gap, inside_gap, quiet, after_second, beyond, gap, gap_xid })
}

fn unreachable_targets_are_refused(major: u32) {
    let Some(story) = story(major) else { return };
    the_right_backup_is_chosen(&story);
    times_outside_the_window(&story);
    what_does_not_exist(&story);
    let removed = remove(&story.scenario, &story.gap);
    inside_a_gap(&story);
    let (object, content) = removed;
    story.scenario.repository.write(&object, content);
    assert_eq!(plan(&story.scenario, &["--to", &story.inside_gap.rfc3339()])["backup"], story.first.id);
}

/// Takes the object of a segment out of the repository; returns its key and content.
fn remove(scenario: &Scenario, segment: &str) -> (String, Vec<u8>) {
    let found = objects(scenario, &format!("{segment}_"));
    let [object] = found.as_slice() else { panic!("one object of {segment}, not {found:?}") };
    let content = scenario.repository.read(object);
    scenario.repository.remove(object);
    (object.clone(), content)
}

fn the_right_backup_is_chosen(story: &Story) {
    let Story { scenario, oracle, first, second, .. } = story;
    let cases = [
        (story.before_gap, first),
        (story.inside_gap, first),
        // The first later commit lies after the second backup's end, but that backup began after the moment.
        (story.quiet, first),
        (story.after_second, second),
    ];
    for (number, (moment, backup)) in cases.iter().enumerate() {
        let text = moment.rfc3339();
        assert_eq!(plan(scenario, &["--to", &text])["backup"], backup.id, "{text}");
        let restored = scenario.restore_and_start(&format!("chosen-{number}"), &["--to", &text]);
        oracle.assert_at(&mut restored.sql(), *moment);
    }
    let asked = plan(scenario, &["--to", &story.after_second.rfc3339(), "--backup", &first.id]);
    assert_eq!((&asked["backup"], &asked["because"]), (&first.id.as_str().into(), &"it was asked for".into()));
    let xid = story.gap_xid.to_string();
    for target in [vec!["--to-name", "before-gap"], vec!["--to-xid", &xid], vec!["--to-lsn", &first.stop_lsn.to_string()]] {
        assert_eq!(plan(scenario, &target)["backup"], first.id, "{target:?}");
    }
    // A backup that ends after the target is no way to it.
    let said = refused(scenario, &["--to", &story.quiet.rfc3339(), "--backup", &second.id]);
    assert_says(&said, &["cannot restore orders to", "nearest"]);
}

fn times_outside_the_window(story: &Story) {
    let Story { scenario, first, .. } = story;
    let (early, beyond) = (story.early.rfc3339(), story.beyond.rfc3339());
    let opens = first.stop_time.rfc3339();
    let said = refused(scenario, &["--to", &early]);
    assert_says(
        &said,
        &[
            "cannot restore orders to",
            "it lies before the end of the oldest usable backup",
            "nearest",
            "any moment from",
            "(the end of the oldest usable backup)",
            &format!("lifeboat restore orders --to '{opens}' --into DIR"),
        ],
    );
    let last = story.oracle.span().end().rfc3339();
    let said = refused(scenario, &["--to", &beyond]);
    assert_says(
        &said,
        &[
            "the archived log does not reach it",
            "waiting for",
            "(not archived yet)",
            "nearest",
            "(the end of the archived log)",
            &format!("lifeboat restore orders --to '{last}' --into DIR"),
        ],
    );
    // What is offered is possible.
    for offered in [&opens, &last] {
        plan(scenario, &["--to", offered]);
    }
}

fn what_does_not_exist(story: &Story) {
    let Story { scenario, first, .. } = story;
    let said = refused(scenario, &["--to-xid", "4000000"]);
    assert_says(&said, &["no such transaction ended in the archived log on timeline 1", "window", "lifeboat list orders"]);
    let said = refused(scenario, &["--to-name", "nowhere"]);
    assert_says(&said, &["there is no such restore point", "timeline 1", "window", "lifeboat list orders"]);
    let said = refused(scenario, &["--to-name", "twice"]);
    assert_says(&said, &["orders has 2 restore points called 'twice'", "found", "lifeboat restore orders --to-lsn"]);
    let said = refused(scenario, &["--to-lsn", "7F/10"]);
    assert_says(&said, &["the archived log does not reach it", "reachable", &format!("{} to", first.stop_lsn)]);
    let said = refused(scenario, &["--to-lsn", "0/100"]);
    assert_says(&said, &["it lies before the end of the oldest usable backup", "reachable"]);
    let said = refused(scenario, &["--timeline", "9"]);
    assert_says(&said, &["orders has no timeline 9", "known", "1", "lifeboat list orders"]);
    let said = refused(scenario, &["--backup", "20200101T000000Z-full-aaaa"]);
    assert_says(&said, &["orders has no backup 20200101T000000Z-full-aaaa", "lifeboat list orders"]);
}

fn inside_a_gap(story: &Story) {
    let Story { scenario, oracle, second, .. } = story;
    let says_gap = [
        "the log has a gap",
        "missing",
        &story.gap,
        "1 segment",
        "nearest",
        "(before it), or any moment from",
        "(next backup)",
        "lifeboat restore orders --to '",
    ];
    // No transaction ended between the gap and the second backup's end: the first later one is in its log all the same.
    for moment in [story.inside_gap, story.quiet] {
        let said = refused(scenario, &["--to", &moment.rfc3339()]);
        assert_says(&said, &says_gap);
    }
    let lost = story.gap_xid.to_string();
    assert_says(&refused(scenario, &["--to-xid", &lost]), &["no such transaction ended"]);
    let lost = oracle.commits()[oracle.commits_until(story.inside_gap)].start.to_string();
    assert_says(&refused(scenario, &["--to-lsn", &lost]), &["cannot restore orders to LSN"]);
    for (name, moment) in [("gap-before", story.before_gap), ("gap-after", story.after_second)] {
        let restored = scenario.restore_and_start(name, &["--to", &moment.rfc3339()]);
        oracle.assert_at(&mut restored.sql(), moment);
    }
    assert_eq!(plan(scenario, &["--to", "latest"])["backup"], second.id);
    let listed = scenario.rescue.ok(&["list", "orders"]).stdout;
    assert_says(&listed, &["timeline 1 restores to", "gap:", &story.gap, "is missing"]);
}
