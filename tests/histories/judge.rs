//! One backup and its twin, restored and compared; then the restored cluster opened and questioned.

use std::path::Path;
use std::time::{Duration, Instant};

use super::compare;
use super::facts::{self, Facts};
use super::stage::{Stage, Taken, Target};
use super::storm::Storm;
use super::support::amcheck;
use super::support::postgres::{Cluster, RECOVERY_TIMEOUT, Stop};
use super::support::process::{self, Output};
use super::visibility;

const QUIET_TIMEOUT: Duration = Duration::from_secs(60);

/// A backup of ours, a full of the same moment, and what the cluster held then.
#[derive(Debug)]
pub struct Pair {
    /// The backup that is judged.
    pub ours: Taken,
    /// The full beside it.
    pub twin: Taken,
    /// Where both are compared.
    pub target: Target,
    /// What the cluster held there.
    pub facts: Facts,
}

impl Pair {
    /// Both with nothing written, and nothing read, in between.
    #[track_caller]
    pub fn quiet(stage: &Stage, kind: &str) -> Self {
        Self::attempt(stage, kind).unwrap_or_else(|output| panic!("{output}"))
    }

    /// [`Pair::quiet`] of a backup that may be refused.
    ///
    /// # Errors
    /// What `lifeboat` said.
    #[track_caller]
    pub fn attempt(stage: &Stage, kind: &str) -> Result<Self, Box<Output>> {
        let autovacuum = stage.cluster.sql().value("SHOW autovacuum") == "on";
        if autovacuum {
            set_autovacuum(&stage.cluster, "off");
        }
        settle(&stage.cluster);
        let ours = stage.ours.try_backup(kind, &stage.cluster.data)?;
        let twin = stage.twin_backup();
        if autovacuum {
            set_autovacuum(&stage.cluster, "on");
        }
        Ok(Self { ours, twin, target: Target::Immediate, facts: facts::of(&stage.cluster) })
    }

    /// Both while writers work on `tables`; compared at a restore point behind both.
    #[track_caller]
    pub fn under_load(stage: &Stage, kind: &str, tables: &[String], seed: u64) -> Self {
        let storm = Storm::start(&stage.cluster.conninfo(), tables, seed);
        let (ours, twin) = (stage.backup(kind), stage.twin_backup());
        println!("{} changes under the backups", storm.stop());
        let facts = facts::of(&stage.cluster);
        // Recovery that is shut down at its target writes its pages only when it has passed a checkpoint.
        stage.run(&["CHECKPOINT"]);
        let lsn = stage.cluster.sql().value("SELECT pg_create_restore_point('behind both')");
        stage.archive();
        Self { ours, twin, target: Target::Lsn(lsn), facts }
    }

    /// Restores both, compares them, and questions ours.
    #[track_caller]
    pub fn judge(&self, stage: &Stage) {
        let began = Instant::now();
        println!("judging {} ({:?})", self.ours.id, self.target);
        let more: &[&str] = if self.target == Target::Immediate { &[] } else { &["--action", "shutdown"] };
        let ours = stage.restore(&stage.ours, &self.ours, &self.target, more, "ours");
        let twin = stage.restore(&stage.twin, &self.twin, &self.target, more, "twin");
        let mut restored = Cluster::open(&stage.cluster.installation, &ours);
        if self.target == Target::Immediate {
            let compare = if self.ours.base.is_none() { compare::assert_identical } else { compare::assert_identical_but_hints };
            println!("  {} files are identical", compare(&ours, &twin));
        } else {
            recover(&mut restored);
            recover(&mut Cluster::open(&stage.cluster.installation, &twin));
            println!("  pages are the same: {:?}", compare::assert_same_pages(&ours, &twin));
            visibility::assert_maps_hold(&ours);
            restored = restored.with_override("recovery_target_action=promote");
        }
        stage.remove("twin");
        let compared = began.elapsed();
        restored.launch();
        restored.wait_recovered(RECOVERY_TIMEOUT);
        question(&mut restored, &self.facts);
        stage.remove("ours");
        println!("  compared in {compared:?}, questioned in {:?}", began.elapsed() - compared);
    }
}

/// Fails the test unless a restored, running cluster holds these rows, is sound, and answers by index as by table, also
/// after rows were deleted. Shuts it down.
#[track_caller]
pub fn question(restored: &mut Cluster, expected: &Facts) {
    facts::assert_hold(restored, expected);
    assert_index_answers(restored);
    amcheck::assert_clean(restored);
    facts::delete_some_rows(restored);
    assert_index_answers(restored);
    restored.stop(Stop::Fast);
    let marked = visibility::assert_maps_hold(&restored.data);
    assert!(marked > 50, "only {marked} pages are marked in a visibility map: nothing was checked");
}

#[track_caller]
fn assert_index_answers(restored: &Cluster) {
    let (wrong, asked) = facts::wrong_index_answers(restored);
    assert!(wrong.is_empty(), "index-only scans are wrong:\n  {}", wrong.join("\n  "));
    assert!(asked > 0, "there was no index to ask");
}

/// Opens a restored cluster, to be questioned.
#[track_caller]
pub fn open(stage: &Stage, data: &Path) -> Cluster {
    let mut restored = Cluster::open(&stage.cluster.installation, data);
    restored.launch();
    restored.wait_recovered(RECOVERY_TIMEOUT);
    restored
}

/// Lets a restored cluster recover to its target, where it shuts itself down.
#[track_caller]
fn recover(restored: &mut Cluster) {
    restored.launch();
    let (_, log) = restored.wait_exit(RECOVERY_TIMEOUT);
    assert!(log.contains("shutdown at recovery target"), "{log}");
}

#[track_caller]
fn set_autovacuum(cluster: &Cluster, value: &str) {
    cluster.configure([format!("autovacuum = {value}")]);
    let mut sql = cluster.sql();
    process::wait_until("autovacuum", QUIET_TIMEOUT, || {
        let working = "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'autovacuum%'";
        sql.value("SHOW autovacuum") == value && (value == "on" || sql.number(working) == 0)
    });
}

/// Lets the server come to rest: a backup's own session reads catalogs, which sets hint bits there and prunes pages; what
/// can be set so is set before. Tables of the users are left as they are.
#[track_caller]
pub fn settle(cluster: &Cluster) {
    for database in facts::databases(cluster) {
        let mut sql = facts::connect(cluster, &database);
        let catalogs = sql.rows("SELECT oid::regclass FROM pg_class WHERE relkind = 'r' AND oid < 16384");
        for _ in 0..2 {
            for catalog in &catalogs {
                sql.execute(&format!("SELECT count(*) FROM {}", catalog[0].as_ref().expect("a name")));
            }
        }
    }
    cluster.sql().execute("CHECKPOINT");
}
