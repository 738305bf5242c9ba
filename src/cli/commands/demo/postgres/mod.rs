//! The story on a private PostgreSQL cluster: a ledger under load, a full backup, more writes, `DROP TABLE`, and back to
//! the moment before.

mod cluster;
mod ledger;

use std::time::{Duration, Instant};

use self::cluster::Cluster;
use self::ledger::Load;
use super::stage::{SOURCE, Stage};
use super::told::{Narrator, Told, pause};
use crate::base::{Error, Result};
use crate::cli::context::Context;
use crate::source::postgres::scratch_server::{Account, Installation};

/// How long the ledger is written to before and after the backup.
const LOAD: Duration = Duration::from_secs(3);

/// Plays it; with `keep` everything is left where it is.
///
/// # Errors
/// When there is no PostgreSQL on this machine, or any step fails.
pub(super) async fn play(narrator: &Narrator, keep: bool, context: &Context) -> Result<Told> {
    let installation = Installation::newest()?;
    let account = Account::choose()?;
    let mut stage = Stage::set(&account)?;
    let told = act(narrator, &installation, &account, &stage, context).await;
    let kept = keep.then(|| stage.keep());
    told.map(|told| Told { kept, ..told })
}

async fn act(
    narrator: &Narrator,
    installation: &Installation,
    account: &Account,
    stage: &Stage,
    context: &Context,
) -> Result<Told> {
    let cancel = &context.cancel;
    let mut cluster = Cluster::create(installation, account, &stage.home, "original")?;
    narrator.say(&format!("a private PostgreSQL {} as user {}", installation.major, account.name))?;
    stage.init(&format!("kind = \"postgres\"\nconninfo = \"{}\"\n", cluster.conninfo()))?;
    narrator.say("lifeboat init: an encrypted, signed repository in a directory")?;
    cluster.configure(&format!(
        "wal_level = replica\narchive_mode = on\narchive_command = '{}'\narchive_timeout = 60\n",
        stage.archive_command()
    ))?;
    cluster.start()?;
    let client = ledger::connect(&cluster.conninfo()).await?;
    ledger::create(&client).await?;
    let load = Load::start(&cluster.conninfo()).await?;
    pause(LOAD, cancel).await?;
    narrator.say("a ledger under load: two entries a transaction, sum zero")?;
    stage.lifeboat(&["backup", SOURCE, "--type", "full"])?;
    narrator.say(&format!("lifeboat backup {SOURCE} --type full, while the writers went on"))?;
    pause(LOAD, cancel).await?;
    let transactions = load.stop().await?;
    let before = ledger::count(&client).await?;
    let last_booked = ledger::clock(&client).await?;
    narrator.say(&format!("{transactions} transactions, {} entries, sum {}", before.entries, before.sum))?;

    pause(Duration::from_millis(50), cancel).await?;
    let moment = ledger::clock(&client).await?;
    pause(Duration::from_millis(50), cancel).await?;
    ledger::execute(&client, "DROP TABLE ledger").await?;
    narrator.say("DROP TABLE ledger")?;
    // The log's last piece leaves the server as it would after archive_timeout at the latest.
    let last = ledger::switch_segment(&client).await?;
    wait_until_archived(&client, &last, cancel).await?;
    drop(client);
    cluster.stop()?;

    let declared = Instant::now();
    let into = stage.home.join("restored");
    stage.lifeboat(&["restore", SOURCE, "--into", &into.display().to_string(), "--to", &moment.rfc3339(), "--clone"])?;
    narrator.say(&format!("lifeboat restore {SOURCE} --to '{}' --into DIR", moment.human()))?;
    let mut restored = Cluster::at(installation, account, &stage.home, &into, "restored");
    restored.start()?;
    let client = ledger::connect(&restored.conninfo()).await?;
    wait_until_writable(&client, cancel).await?;
    let after = ledger::count(&client).await?;
    let recovery_time = declared.elapsed();
    narrator.say(&format!("the restored server answers: {} entries, sum {}", after.entries, after.sum))?;
    drop(client);
    restored.stop()?;
    if after != before {
        return Err(Error::failed(format!(
            "{} entries were expected and {} are there: this is a bug",
            before.entries, after.entries
        )));
    }
    Ok(Told {
        engine: format!("PostgreSQL {}", installation.major),
        postgres_major: Some(installation.major),
        transactions,
        entries_before: before.entries,
        entries_after: after.entries,
        recovery_time_seconds: recovery_time.as_secs_f64(),
        recovery_point_seconds: moment.since(last_booked).as_secs_f64(),
        lost_entries: before.entries - after.entries,
        drilled_seconds: None,
        kept: None,
    })
}

/// Polls `sql`, a query for one boolean, until it says yes.
async fn wait_for(client: &tokio_postgres::Client, sql: &str, what: &str, cancel: &crate::base::Cancel) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let row = client
            .query_one(sql, &[])
            .await
            .map_err(|error| Error::failed(format!("cannot see whether {what}")).caused_by(error))?;
        if row.get::<_, Option<bool>>(0) == Some(true) {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(Error::failed(format!("waited a minute until {what}, in vain")));
        }
        pause(Duration::from_millis(20), cancel).await?;
    }
}

async fn wait_until_archived(client: &tokio_postgres::Client, segment: &str, cancel: &crate::base::Cancel) -> Result<()> {
    let sql = format!("SELECT last_archived_wal >= '{segment}' FROM pg_stat_archiver");
    wait_for(client, &sql, "the log is archived", cancel).await
}

async fn wait_until_writable(client: &tokio_postgres::Client, cancel: &crate::base::Cancel) -> Result<()> {
    wait_for(client, "SELECT NOT pg_is_in_recovery()", "the restored server is read-write", cancel).await
}
