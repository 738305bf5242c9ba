//! The whole story with the repository in a bucket: real PostgreSQL, a real S3 server, and nothing on a local disk.

mod support;

use std::time::Duration;

use lifeboat::base::Timestamp;

use support::ledger::{Ledger, LoadOptions};
use support::postgres::{Installation, Options, RECOVERY_TIMEOUT};
use support::scenario::{Place, SOURCE, Scenario};
use support::{amcheck, process, random};

/// Full, load, diff, load, incr; then random moments, the end of the log, and a look at every byte.
fn any_moment_comes_back_from_a_bucket(place: Place, major: u32) {
    let Some(installation) = Installation::require(major).filter(|_| place.is_there()) else { return };
    let seed = random::seed("object storage");
    let scenario = Scenario::start_in(place, &installation, &Options::default());
    let mut ledger = Ledger::create(&scenario.cluster, seed);
    let load = ledger.start(LoadOptions::default());
    scenario.full_backup();
    let protected_from = Timestamp::now();
    for backup_type in ["diff", "incr"] {
        let commits =
            scenario.cluster.sql().number("SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()");
        process::wait_until("more commits", RECOVERY_TIMEOUT, || {
            let query = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()";
            scenario.cluster.sql().number(query) > commits + 50
        });
        let taken = scenario.protected.json(&["backup", SOURCE, "--type", backup_type]);
        assert_eq!(taken["backups"][0]["type"], backup_type, "{taken:#}");
    }
    load.stop();
    // Alone, so that some moments are certain however slowly the writers were answered.
    (0..4).for_each(|_| _ = ledger.commit_one());
    let last = scenario.cluster.switch_wal();
    scenario.cluster.wait_archived(&last, RECOVERY_TIMEOUT);
    scenario.protected.ok(&["check", SOURCE]);

    let oracle = ledger.oracle();
    let mut random = random::generator(seed, 0);
    let moments = oracle.pick_moments(3, protected_from..=*oracle.span().end(), &mut random);
    for (number, moment) in moments.iter().enumerate() {
        let restored = scenario.restore_and_start(&format!("moment-{number}"), &["--to", &moment.rfc3339()]);
        oracle.assert_at(&mut restored.sql(), *moment);
        amcheck::assert_clean(&restored);
    }
    let restored = scenario.restore_and_start("latest", &["--to", "latest"]);
    oracle.assert_tables(&mut restored.sql(), &oracle.rows_at_end(), "the end of the log");

    scenario.rescue.ok(&["verify", "--deep"]);
    if let Some(server) = &scenario.server {
        let names = server.names();
        assert!(names.iter().all(|name| name.starts_with("backups/main/")), "{names:?}");
    }
    let names = scenario.repository.names();
    assert!(!names.iter().any(|name| name.contains("probe/c")), "{names:?}");
    // Damage is found through the bucket as on a disk.
    let pack = names.iter().rfind(|name| name.contains("/pack-")).expect("packs are there");
    scenario.repository.flip(pack);
    let found = scenario.rescue.run(&["verify"]).exits(22);
    let name = pack.rsplit('/').next().expect("a name");
    assert!(found.stdout.contains(name) || found.stderr.contains(name), "{name} is not named\n{found}");
}

#[test]
fn pg13() {
    any_moment_comes_back_from_a_bucket(Place::Bucket, 13);
}

#[test]
fn pg15() {
    any_moment_comes_back_from_a_bucket(Place::Bucket, 15);
}

/// A store that takes `If-None-Match` and overwrites all the same.
#[test]
fn pg15_where_conditions_are_ignored() {
    any_moment_comes_back_from_a_bucket(Place::Rclone, 15);
}

#[test]
fn pg18() {
    any_moment_comes_back_from_a_bucket(Place::Bucket, 18);
}

/// While the bucket is away the archiver waits, nothing is lost, and the log arrives when it is back.
#[test]
fn a_bucket_that_is_away_loses_nothing() {
    let Some(installation) = Installation::require(15) else { return };
    let scenario = Scenario::start_in(Place::Bucket, &installation, &Options { wal_segment_mib: 1, ..Options::default() });
    let right = scenario.protected.configuration();
    let endpoint = scenario.server.as_ref().expect("in a bucket").endpoint();
    scenario.cluster.sql().execute("CREATE TABLE rows AS SELECT 1 AS n");
    scenario.full_backup();
    // A port that nobody listens on.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound");
    scenario.protected.configure_text(&right.replace(&endpoint, &format!("http://{nobody}")));
    scenario.cluster.sql().execute("INSERT INTO rows VALUES (2)");
    let waiting = scenario.cluster.switch_wal();
    process::wait_until("a failed attempt", Duration::from_secs(90), || {
        scenario.cluster.sql().number("SELECT failed_count FROM pg_stat_archiver") > 0
    });
    scenario.protected.run(&["list"]).refuses(20, &["nothing accepts connections", "endpoint"]);
    scenario.protected.configure_text(&right);
    scenario.cluster.wait_archived(&waiting, RECOVERY_TIMEOUT);
    let restored = scenario.restore_and_start("after", &[]);
    assert_eq!(restored.sql().number("SELECT count(*) FROM rows"), 2);
}

/// What an operator gets wrong on the first day is told with the next thing to type, and creates nothing.
#[test]
fn first_day_mistakes_are_told() {
    use support::lifeboat::{Config, Host, Identity};
    let server = support::s3::S3Server::start();
    process::add_environment(server.environment());
    let config = Config::bucket(&server, "backups").recipient(&Identity::generate());
    let host = Host::new(&config);
    let right = host.configuration();
    let keys = host.dir().join("keys");
    let init = ["init", "--generate-keys", keys.to_str().expect("plain")];
    host.configure_text(&right.replace("s3://lifeboat-test/", "s3://lifeboat-tset/"));
    host.run(&init).refuses(20, &["there is no bucket lifeboat-tset", "never creates one"]);
    assert!(!keys.exists(), "keys for a repository that cannot be");
    host.configure_text(&right);
    let mut without = host.command(&init);
    without.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY").env("AWS_EC2_METADATA_DISABLED", "true");
    process::run(without, Duration::from_secs(60)).refuses(20, &["there are no AWS credentials", "AWS_ACCESS_KEY_ID"]);
    let mut wrong = host.command(&init);
    wrong.env("AWS_SECRET_ACCESS_KEY", "hunter2");
    let refused = process::run(wrong, Duration::from_secs(60)).refuses(20, &["secret access key is wrong"]);
    assert!(!refused.stderr.contains("hunter2"), "{refused}");
    assert_eq!(server.names(), [""; 0]);
    host.ok(&init);
    host.run(&init).refuses(1, &["there is a repository at s3://lifeboat-test/backups already"]);
}
