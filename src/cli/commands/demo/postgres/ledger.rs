//! A ledger under load: every transaction moves an amount between two accounts, so the sum over all entries is zero.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::task::JoinHandle;
use tokio_postgres::{Client, NoTls};

use crate::base::{Error, Result, Timestamp};

/// Writers at the same time.
const WRITERS: usize = 3;

/// What the ledger holds at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Count {
    pub entries: i64,
    pub sum: i64,
}

/// Connects to a server on its private socket.
pub(super) async fn connect(conninfo: &str) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(conninfo, NoTls)
        .await
        .map_err(|error| Error::failed("cannot connect to the demo's server").caused_by(error))?;
    // Ends with the client; an error shows in the query that it breaks.
    tokio::spawn(connection);
    Ok(client)
}

fn failed(error: tokio_postgres::Error) -> Error {
    Error::failed("the demo's server refuses a statement").caused_by(error)
}

pub(super) async fn create(client: &Client) -> Result<()> {
    let sql = "CREATE TABLE ledger (id bigserial PRIMARY KEY, account int NOT NULL, amount bigint NOT NULL, note text, booked timestamptz DEFAULT now())";
    client.batch_execute(sql).await.map_err(failed)
}

pub(super) async fn execute(client: &Client, sql: &str) -> Result<()> {
    client.batch_execute(sql).await.map_err(failed)
}

pub(super) async fn count(client: &Client) -> Result<Count> {
    let row = client.query_one("SELECT count(*), coalesce(sum(amount), 0)::bigint FROM ledger", &[]).await.map_err(failed)?;
    Ok(Count { entries: row.get(0), sum: row.get(1) })
}

/// Ends the present segment of the log and gives its name.
pub(super) async fn switch_segment(client: &Client) -> Result<String> {
    let row = client.query_one("SELECT pg_walfile_name(pg_switch_wal())", &[]).await.map_err(failed)?;
    Ok(row.get(0))
}

/// The server's clock.
pub(super) async fn clock(client: &Client) -> Result<Timestamp> {
    let row = client.query_one("SELECT clock_timestamp()", &[]).await.map_err(failed)?;
    Ok(Timestamp::from_system_time(row.get(0)))
}

/// Writers at work until they are told to stop.
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    writers: Vec<JoinHandle<Result<u64>>>,
}

impl Load {
    /// Sets the writers to work.
    pub async fn start(conninfo: &str) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut writers = Vec::new();
        for writer in 0..WRITERS {
            let client = connect(conninfo).await?;
            writers.push(tokio::spawn(write(client, writer, Arc::clone(&stop))));
        }
        Ok(Self { stop, writers })
    }

    /// Waits for the writers; gives the number of transactions they committed.
    pub async fn stop(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        let mut transactions = 0;
        for writer in self.writers {
            transactions += writer.await.map_err(|error| Error::failed("a writer of the demo died").caused_by(error))??;
        }
        Ok(transactions)
    }
}

async fn write(client: Client, writer: usize, stop: Arc<AtomicBool>) -> Result<u64> {
    let sql = "INSERT INTO ledger (account, amount, note) VALUES ($1, $3, $4), ($2, -$3::bigint, $4)";
    let statement = client.prepare(sql).await.map_err(failed)?;
    let mut transactions = 0;
    while !stop.load(Ordering::Relaxed) {
        let (from, to, amount) = (rand::random_range(0..1000), rand::random_range(0..1000), rand::random_range(1..10_000_i64));
        let note = format!("transfer {transactions} of writer {writer}");
        client.execute(&statement, &[&from, &to, &amount, &note]).await.map_err(failed)?;
        transactions += 1;
    }
    Ok(transactions)
}
