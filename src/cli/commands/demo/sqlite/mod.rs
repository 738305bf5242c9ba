//! The story on a SQLite database, for which nothing but this program is needed: a ledger under load, a policy, a full backup,
//! the log as it is written, an incremental, a mistake and the loss of the file, back to the moment before, a drill, and
//! whether the policy was met.

mod ledger;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use self::ledger::Load;
use super::stage::{Beside, SOURCE, Stage};
use super::told::{Narrator, Told, pause};
use crate::base::{Cancel, Error, Result, Timestamp};
use crate::cli::context::Context;
use crate::source::postgres::scratch_server::Account;

/// How long the ledger is written to between two steps.
const LOAD: Duration = Duration::from_secs(2);
/// How long the last commits may take to reach the repository.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often waiting looks again.
const POLL: Duration = Duration::from_millis(50);

/// The policy that the demo declares.
const POLICY: &str = r#"[objectives]
rto = "1m"
rpo = "10s"
detection = "10s"
drill_max_age = "7d"

[schedule]
timezone = "UTC"
full = "0 3 * * SUN"
incr = "0 3 * * MON-SAT"
drill = "0 4 * * SUN"

[log]
mode = "stream"
max_lag = "5s"

[retention]
window = "14d"

[copies]
log = 1
backup = 1

[drill]
levels = ["component"]

[[drill.check]]
name = "the books balance"
sql = "SELECT sum(amount) FROM ledger"
expect = "0"
"#;

/// Plays it; with `keep` everything is left where it is.
///
/// # Errors
/// When any step fails.
pub(super) async fn play(narrator: &Narrator, keep: bool, context: &Context) -> Result<Told> {
    let mut stage = Stage::set(&Account::own())?;
    let told = act(narrator, &stage, &context.cancel).await;
    let kept = keep.then(|| stage.keep());
    told.map(|told| Told { kept, ..told })
}

async fn act(narrator: &Narrator, stage: &Stage, cancel: &Cancel) -> Result<Told> {
    let database = stage.home.join("app").join("ledger.db");
    set(stage, &database)?;
    narrator.say("a ledger in SQLite; lifeboat init: an encrypted, signed repository in a directory")?;
    let began = Timestamp::now();
    let mut following = stage.begin(&["archive", "stream", SOURCE])?;
    captured_after(stage, &mut following, began, cancel).await?;
    let load = Load::start(&database);
    narrator.say(&format!("lifeboat archive stream {SOURCE}: a full backup, and from then on every commit as it is made"))?;
    pause(LOAD, cancel).await?;
    stage.lifeboat(&["backup", SOURCE, "--type", "incr"])?;
    narrator.say(&format!("lifeboat backup {SOURCE} --type incr, while three writers are at work"))?;
    pause(LOAD, cancel).await?;
    let transactions = load.stop()?;
    let (before, last_booked) = (ledger::count(&database)?, Timestamp::now());
    narrator.say(&format!("{transactions} transactions, {} entries, sum {}", before.entries, before.sum))?;
    let moment = all_captured(stage, &mut following, last_booked, cancel).await?;

    ledger::execute(&database, "DROP TABLE ledger")?;
    drop(following);
    lose(&database)?;
    narrator.say("DROP TABLE ledger, and somebody deletes the file")?;

    let declared = Instant::now();
    stage.lifeboat(&["restore", SOURCE, "--into", &database.display().to_string(), "--to", &moment.rfc3339()])?;
    let after = ledger::count(&database)?;
    let recovery_time = declared.elapsed();
    narrator.say(&format!(
        "lifeboat restore {SOURCE} --to '{}': {} entries, sum {}",
        moment.human(),
        after.entries,
        after.sum
    ))?;
    if after != before {
        return Err(Error::failed(format!(
            "{} entries were expected and {} are there: this is a bug",
            before.entries, after.entries
        )));
    }
    let restored_at = Timestamp::now();
    let mut following = stage.begin(&["archive", "stream", SOURCE])?;
    captured_after(stage, &mut following, restored_at, cancel).await?;
    narrator.say("the stream has noticed another file, and taken a backup of it: the ledger is safe again")?;
    let drilled_seconds = Some(drill(narrator, stage)?);
    status(narrator, stage)?;
    Ok(Told {
        engine: format!("SQLite {}", rusqlite::version()),
        postgres_major: None,
        transactions,
        entries_before: before.entries,
        entries_after: after.entries,
        recovery_time_seconds: recovery_time.as_secs_f64(),
        recovery_point_seconds: moment.since(last_booked).as_secs_f64(),
        lost_entries: before.entries - after.entries,
        drilled_seconds,
        kept: None,
    })
}

/// The ledger, its policy, the repository and its keys.
fn set(stage: &Stage, database: &Path) -> Result<()> {
    for directory in [stage.home.join("app"), stage.home.join("policies")] {
        fs::create_dir(&directory).map_err(|error| Error::io("create", &directory, error))?;
    }
    ledger::create(database)?;
    stage.write(&stage.home.join("policies").join(format!("{SOURCE}.toml")), POLICY)?;
    stage.init(&format!("kind = \"sqlite\"\npath = \"{}\"\nflush = \"500ms\"\npolicy = \"{SOURCE}\"\n", database.display()))
}

/// The latest moment to which a restore is possible, once there is one after `time`.
async fn captured_after(stage: &Stage, following: &mut Beside, time: Timestamp, cancel: &Cancel) -> Result<Timestamp> {
    let began = Instant::now();
    loop {
        if let Some(last) = newest_moment(&stage.ask(&["list", SOURCE])?).filter(|last| *last > time) {
            return Ok(last);
        }
        following.still_runs()?;
        if began.elapsed() > PATIENCE {
            return Err(Error::failed("the last commits did not reach the repository within a minute")
                .detail("the stream said", fs::read_to_string(&following.log).unwrap_or_default()));
        }
        pause(POLL, cancel).await?;
    }
}

/// The latest moment to which a restore is possible, once everything is stored that was committed by `time`.
async fn all_captured(stage: &Stage, following: &mut Beside, time: Timestamp, cancel: &Cancel) -> Result<Timestamp> {
    let began = Instant::now();
    // Of what is captured at a moment the last commits before it may be missing: the database's own log tells.
    while lost_with_host(&stage.ask(&["status", SOURCE])?) != Some(0.0) {
        if began.elapsed() > PATIENCE {
            return Err(Error::failed("the last commits were not stored within a minute"));
        }
        following.still_runs()?;
        pause(POLL, cancel).await?;
    }
    captured_after(stage, following, time, cancel).await
}

/// The end of the recovery window, by the document `list`.
fn newest_moment(listed: &serde_json::Value) -> Option<Timestamp> {
    let window = listed.pointer("/repositories/0/sources/0/incarnations/0/timelines/0/window")?.as_array()?;
    window.iter().filter_map(|interval| serde_json::from_value(interval["to"].clone()).ok()).max()
}

/// Seconds of commits that would be lost with the host, by the document `status`.
fn lost_with_host(status: &serde_json::Value) -> Option<f64> {
    let scopes = status.pointer("/sources/0/scopes")?.as_array()?;
    scopes.iter().find(|scope| scope["scope"] == "host_lost")?["rpo_seconds"].as_f64()
}

/// The disaster: the database and its log are gone.
fn lose(database: &Path) -> Result<()> {
    let directory = database.parent().unwrap_or(database);
    let gone = fs::remove_dir_all(directory).and_then(|()| fs::create_dir(directory));
    gone.map_err(|error| Error::io("empty", directory, error))
}

/// Rehearses the next disaster; what was measured from the declaration to the first check.
fn drill(narrator: &Narrator, stage: &Stage) -> Result<f64> {
    let drilled = stage.ask(&["drill", SOURCE])?;
    let seconds = drilled.pointer("/evidence/rto_seconds").and_then(serde_json::Value::as_f64);
    let seconds = seconds.ok_or_else(|| Error::failed("the demo's drill did not pass").detail("it said", drilled.to_string()))?;
    narrator.say(&format!("lifeboat drill {SOURCE}: passed in {seconds:.1} s, the evidence is signed"))?;
    Ok(seconds)
}

/// Whether what the policy declares was met.
fn status(narrator: &Narrator, stage: &Stage) -> Result<()> {
    let document = stage.ask(&["status", SOURCE])?;
    let source = document.pointer("/sources/0").cloned().unwrap_or_default();
    let word = |of: &serde_json::Value, key: &str| of.get(key).and_then(serde_json::Value::as_str).unwrap_or_default().to_owned();
    let verdict = word(&source, "verdict");
    let reasons = source.get("reasons").and_then(serde_json::Value::as_array).into_iter().flatten();
    let why =
        reasons.filter(|reason| verdict != "ok" && word(reason, "verdict") == verdict).map(|reason| word(reason, "message"));
    let told = [verdict.replace('_', " ")].into_iter().chain(why).collect::<Vec<_>>().join(": ");
    narrator.say(&format!("lifeboat status {SOURCE}, which declares an RPO of 10 s and an RTO of 1 min: {told}"))
}
