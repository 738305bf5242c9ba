//! What `archive push` waits for.

use std::time::Instant;

use crate::stage::{Stage, Which};
use crate::support::postgres::RECOVERY_TIMEOUT;
use crate::support::process;

const SEGMENTS: usize = 6;

/// Either repository goes away; archiving does not even notice, and the other catches up without being asked to.
fn archiving_never_stops(away: Which) {
    let Some(stage) = Stage::start("log_copies = 1") else { return };
    stage.scenario.full_backup();
    stage.archive_row();
    stage.wait_delivered(away);
    stage.take_away(away);
    let segments: Vec<String> = (0..SEGMENTS).map(|_| stage.archive_row()).collect();
    let failed = "SELECT failed_count FROM pg_stat_archiver";
    assert_eq!(stage.scenario.cluster.sql().number(failed), 0, "{}", stage.scenario.cluster.log_tail());
    let waiting = stage.queued(away);
    assert_eq!(waiting.len(), SEGMENTS, "{waiting:#?}");
    let told = stage.host().ok(&["queue"]).stdout;
    assert!(told.contains(&format!("repository {} lacks {SEGMENTS} files of the log", away.name())), "{told}");

    stage.bring_back(away);
    // Nothing is pushed from here on: the background delivers by itself.
    stage.wait_delivered(away);
    for segment in &segments {
        assert_eq!(stage.archived(away, segment), 1, "{segment}");
    }
    stage.scenario.rescue.ok(&["verify", "--deep"]);
    assert_eq!(Stage::rows(&stage.restore_from(away, "alone")), SEGMENTS as i64 + 1);
    // And what comes next is pushed there at once.
    let next = stage.archive_row();
    process::wait_until("the next one", RECOVERY_TIMEOUT, || stage.archived(away, &next) == 1);
}

#[test]
fn archiving_never_stops_while_the_second_repository_is_away() {
    archiving_never_stops(Which::Second);
}

#[test]
fn archiving_never_stops_while_the_first_repository_is_away() {
    archiving_never_stops(Which::Main);
}

#[test]
fn without_a_number_every_repository_must_have_a_file() {
    let Some(stage) = Stage::start("") else { return };
    stage.archive_row();
    stage.take_away(Which::Second);
    let segment = stage.add_row();
    let failed = "SELECT failed_count FROM pg_stat_archiver";
    process::wait_until("the archiver fails", RECOVERY_TIMEOUT, || stage.scenario.cluster.sql().number(failed) > 0);
    assert_eq!(stage.archived(Which::Main, &segment), 1, "the other one was tried all the same");
    stage.bring_back(Which::Second);
    assert!(stage.queued(Which::Second).is_empty(), "what PostgreSQL still has is not queued");
    stage.scenario.cluster.wait_archived(&segment, RECOVERY_TIMEOUT);
    assert_eq!(stage.archived(Which::Second, &segment), 1);
}

#[test]
fn too_few_repositories_are_a_failure_and_leave_nothing_in_the_queue() {
    let Some(stage) = Stage::start("log_copies = 1") else { return };
    stage.archive_row();
    stage.wait_delivered(Which::Second);
    let cluster = &stage.scenario.cluster;
    cluster.configure(["archive_command = 'false'"]);
    let path = cluster.data.join("pg_wal").join(stage.add_row()).display().to_string();
    [Which::Main, Which::Second].into_iter().for_each(|which| stage.take_away(which));
    let push = ["archive", "push", crate::support::scenario::SOURCE, path.as_str()];
    let refused = stage.host().run(&push).refuses(20, &["repository main", "repository second"]);
    assert!(refused.stdout.is_empty());
    [Which::Main, Which::Second].into_iter().for_each(|which| stage.bring_back(which));
    assert!([Which::Main, Which::Second].iter().all(|which| stage.queued(*which).is_empty()));
    stage.host().ok(&push);
}

/// PostgreSQL hands over one segment after the other; those behind it are stored together with the first.
#[test]
fn segments_that_wait_are_stored_together() {
    use crate::support::proxy::{Fault, Proxy};
    use crate::support::s3::{S3Server, options_for};
    use crate::support::scenario::{Place, SOURCE, Scenario};
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    const COUNT: usize = 16;
    let Some(installation) = crate::support::postgres::Installation::require(15) else { return };
    let options = crate::support::postgres::Options { wal_segment_mib: 1, ..Default::default() };
    let scenario = Scenario::start_in(Place::Bucket, &installation, &options);
    let server: &S3Server = scenario.server.as_ref().expect("in a bucket");
    scenario.cluster.sql().execute("CREATE TABLE kept (n int)");
    scenario.archive_now();
    scenario.cluster.configure(["archive_command = 'false'"]);
    let far = Proxy::to(server.address());
    let text = scenario.protected.configuration().replace(&server.endpoint(), &far.endpoint());
    assert_ne!(text, scenario.protected.configuration(), "{:?}", options_for(&server.endpoint()));
    scenario.protected.configure_text(&text);
    far.fail(None, usize::MAX, Fault::Latency(Duration::from_millis(80)));
    let seconds = |together: bool| {
        let pg_wal = scenario.cluster.data.join("pg_wal");
        let segments: Vec<_> = (0..COUNT)
            .map(|number| {
                scenario.cluster.sql().execute(&format!("INSERT INTO kept VALUES ({number})"));
                pg_wal.join(scenario.cluster.switch_wal())
            })
            .collect();
        let elsewhere = scenario.protected.dir().create_dir(if together { "together" } else { "apart" });
        let began = Instant::now();
        for segment in &segments {
            let name = segment.file_name().expect("a segment");
            // Without PostgreSQL's list beside it a segment is pushed alone.
            let path = if together { segment.clone() } else { elsewhere.join(name) };
            if !together {
                std::fs::copy(segment, &path).expect("readable");
                std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("own file");
            }
            scenario.protected.ok(&["archive".as_ref(), "push".as_ref(), SOURCE.as_ref(), path.as_os_str()]);
        }
        began.elapsed().as_secs_f64()
    };
    let (apart, together) = (seconds(false), seconds(true));
    println!("{COUNT} segments over a link of 80 ms: {apart:.1} s one by one, {together:.1} s together");
    assert!(together < 0.75 * apart, "{together:.1} s, one by one {apart:.1} s");
    far.heal();
    scenario.cluster.configure([scenario.protected.archive_command(SOURCE)]);
    scenario.archive_now();
    scenario.full_backup();
    scenario.rescue.ok(&["verify", "--deep"]);
}

#[test]
fn two_servers_are_refused_although_one_repository_has_seen_only_one_of_them() {
    use crate::support::scenario::SOURCE;

    let Some(stage) = Stage::start("log_copies = 1") else { return };
    let before = stage.archive_row();
    stage.wait_delivered(Which::Second);
    let cluster = &stage.scenario.cluster;
    cluster.configure(["archive_command = 'false'"]);
    let segment = stage.add_row();
    let objects = crate::support::listing::log_objects(&stage.path(Which::Second));
    let beside = objects.into_iter().find(|path| path.to_string_lossy().contains(&before)).expect("archived");
    let others = beside.with_file_name(format!("{segment}_-_-_0_0123456789abcdef.zst.age"));
    std::fs::copy(&beside, &others).expect("own directory");
    let path = cluster.data.join("pg_wal").join(&segment).display().to_string();
    let push = ["archive", "push", SOURCE, path.as_str()];
    stage.host().run(&push).refuses(22, &["repository second", "two servers write the same log", "0123456789abcdef"]);
    std::fs::remove_file(&others).expect("own directory");
    stage.host().ok(&push);
}
