//! `pg_rewind`: a former primary takes pages from the new one, whose LSNs are older than what stood there before.

use std::fs;
use std::time::Duration;

use super::super::expect::assert_type;
use super::super::judge::Pair;
use super::super::stage::Stage;
use super::super::support::postgres::{Installation, Options, RECOVERY_TIMEOUT, Stop};
use super::super::support::{dirs, process};
use super::failover::{promote, standby_of, wait_replayed};
use super::{fill, touch};

const REWIND_TIMEOUT: Duration = Duration::from_secs(60);

#[test]
fn a_rewound_primary() {
    let Some(installation) = Installation::with_program("pg_rewind") else { return };
    let mut stage = Stage::start(&installation, &Options::default().with("wal_keep_size = 512MB"));
    fill(&stage, "first", 3000);
    fill(&stage, "second", 1000);
    let base = Pair::quiet(&stage, "full");
    let mut standby = standby_of(&stage, &base.twin, "standby");
    touch(&stage, "first", 13);
    wait_replayed(&stage.cluster, &standby);
    promote(&mut standby);

    // Both go on: what the old primary writes, and backs up, the new one never had.
    touch(&stage, "first", 2);
    stage.run(&["CREATE TABLE stray AS SELECT n FROM generate_series(1, 5000) n", "VACUUM first"]);
    let astray = Pair::quiet(&stage, "incr");
    assert_type(&astray.ours, "incr");
    standby.sql().execute("UPDATE second SET v = 'new' WHERE id % 4 = 0");
    standby.sql().execute("CREATE TABLE kept AS SELECT n FROM generate_series(1, 5000) n");
    standby.sql().execute("CHECKPOINT");

    stage.cluster.stop(Stop::Fast);
    let settings = ["postgresql.conf", "postgresql.auto.conf"]
        .map(|name| (name, fs::read(stage.cluster.data.join(name)).expect("own file")));
    let mut rewind = process::command(&installation.program("pg_rewind"), stage.cluster.dir().path());
    rewind.arg("-D").arg(&stage.cluster.data).arg(format!("--source-server={}", standby.conninfo())).arg("--no-sync");
    let output = process::run(rewind, REWIND_TIMEOUT).success();
    assert!(output.stderr.contains("Done!"), "{output}");
    // It has copied the new primary's own settings too.
    for (name, content) in settings {
        fs::write(stage.cluster.data.join(name), content).expect("own file");
    }
    fs::write(stage.cluster.data.join("standby.signal"), "").expect("own directory");
    dirs::give(&stage.cluster.data.join("standby.signal"));
    stage.cluster.configure([format!("primary_conninfo = '{}'", standby.conninfo())]);
    stage.cluster.start();
    process::wait_until("streaming", RECOVERY_TIMEOUT, || {
        standby.sql().number("SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'") == 1
    });
    wait_replayed(&standby, &stage.cluster);
    standby.stop(Stop::Fast);
    promote(&mut stage.cluster);
    assert_eq!(stage.cluster.sql().number("SELECT count(*) FROM kept"), 5000);

    let rewound = Pair::quiet(&stage, "incr");
    println!("after the rewind: a {} ({:?})", rewound.ours.kind, rewound.ours.reason);
    assert_ne!(rewound.ours.base.as_deref(), Some(astray.ours.id.as_str()), "its base is of an abandoned branch");
    touch(&stage, "first", 5);
    let last = Pair::quiet(&stage, "incr");
    assert_type(&last.ours, "incr");
    [base, astray, rewound, last].iter().for_each(|pair| pair.judge(&stage));
}
