//! Another cluster under the same name: `initdb` anew, and `pg_upgrade`. There is no base for it.

use std::time::Duration;

use super::super::expect::{assert_full_and_why, assert_type};
use super::super::facts;
use super::super::judge::{Pair, settle};
use super::super::stage::{Stage, Target, archive_command};
use super::super::support::postgres::{Cluster, Installation, Options, Stop};
use super::super::support::process;
use super::super::support::scenario::SOURCE;
use super::{fill, touch};

const UPGRADE_TIMEOUT: Duration = Duration::from_secs(120);

fn stage(installation: &Installation) -> Stage {
    let stage = Stage::start(installation, &Options::default());
    fill(&stage, "first", 3000);
    stage
}

/// A cluster of the same name, not yet started, that archives as the one before did.
fn successor(stage: &Stage) -> Cluster {
    let cluster = Cluster::create(&stage.cluster.installation, &Options::default());
    cluster.configure(["archive_mode = on".to_owned(), archive_command(&stage.ours, &stage.twin)]);
    cluster
}

/// The first backup of the new cluster is a full, the next builds on it, and the old one's are still restored.
#[track_caller]
fn goes_on(stage: &Stage, mut pairs: Vec<Pair>) {
    let first = admitted(stage);
    assert_full_and_why(&first.ours);
    assert_ne!(first.ours.incarnation, pairs[0].ours.incarnation, "another cluster is another incarnation");
    touch(stage, "first", 7);
    let next = Pair::quiet(stage, "incr");
    assert_type(&next.ours, "incr");
    pairs.extend([first, next]);
    pairs.iter().for_each(|pair| pair.judge(stage));
}

/// The first pair of a new cluster. A repository refuses its log until a full has admitted it, and a segment is archived
/// only when both have it: so the twin's repository admits it while ours does.
#[track_caller]
fn admitted(stage: &Stage) -> Pair {
    settle(&stage.cluster);
    let admitting = stage.twin.host.start(&["backup", SOURCE, "--type", "full"]);
    let ours = stage.backup("incr");
    admitting.finish(UPGRADE_TIMEOUT).success();
    let twin = stage.twin_backup();
    Pair { ours, twin, target: Target::Immediate, facts: facts::of(&stage.cluster) }
}

#[test]
fn a_new_initdb() {
    let Some(installation) = Installation::require(15) else { return };
    let mut stage = stage(&installation);
    let base = Pair::quiet(&stage, "full");
    touch(&stage, "first", 3);
    let incr = Pair::quiet(&stage, "incr");
    assert_type(&incr.ours, "incr");
    stage.cluster.stop(Stop::Fast);
    let mut new = successor(&stage);
    new.start();
    let _old = stage.look_after(new);
    fill(&stage, "first", 3000);
    goes_on(&stage, vec![base, incr]);
}

/// From and to the same major: the files come along, relation by relation, with their LSNs.
#[test]
fn an_upgrade() {
    let Some(installation) = Installation::with_program("pg_upgrade") else { return };
    let mut stage = stage(&installation);
    let base = Pair::quiet(&stage, "full");
    stage.cluster.stop(Stop::Fast);
    let mut new = successor(&stage);
    let mut upgrade = process::command(&installation.program("pg_upgrade"), new.dir().path());
    upgrade.arg("-b").arg(&installation.bin).arg("-B").arg(&installation.bin).args(["-U", "postgres", "-N"]);
    upgrade.arg("-d").arg(&stage.cluster.data).arg("-D").arg(&new.data).arg("-s").arg(new.dir().path());
    process::run(upgrade, UPGRADE_TIMEOUT).success();
    new.start();
    let _old = stage.look_after(new);
    goes_on(&stage, vec![base]);
}
