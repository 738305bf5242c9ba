//! What is asked of a restored server that belongs to nobody else: is it writable, how far did replay go, are its tables
//! and indexes sound, and what does a query answer.
//!
//! Everything here may write: it is only ever given a session with a scratch copy.

use std::time::{Duration, SystemTime};

use tokio_postgres::SimpleQueryMessage;

use super::connect::{Session, column};
use super::server::parse_lsn;
use crate::base::{Lsn, Result, Timestamp};

/// Findings that are told; more only repeat themselves.
const MOST_FINDINGS: usize = 20;

/// Makes the extension where this installation has it.
const MAKE_AMCHECK: &str = "CREATE SCHEMA IF NOT EXISTS lifeboat_drill; \
    CREATE EXTENSION IF NOT EXISTS amcheck WITH SCHEMA lifeboat_drill";

const BTREES: &str = "SELECT c.oid, c.oid::regclass::text FROM pg_class c JOIN pg_index i ON i.indexrelid = c.oid \
    JOIN pg_am a ON a.oid = c.relam WHERE a.amname = 'btree' AND c.relkind = 'i' AND c.relpersistence <> 't' \
    AND i.indisready AND i.indisvalid ORDER BY c.oid";

const HEAPS: &str = "SELECT c.oid, c.oid::regclass::text FROM pg_class c JOIN pg_am a ON a.oid = c.relam \
    WHERE a.amname = 'heap' AND c.relkind IN ('r', 'm', 't') AND c.relpersistence <> 't' ORDER BY c.oid";

/// How far a server's replay has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplayState {
    /// Whether it still recovers or follows.
    pub in_recovery: bool,
    /// End of the last record that was replayed.
    pub replay_lsn: Option<Lsn>,
    /// Time of the last transaction end that was replayed.
    pub last_commit: Option<Timestamp>,
}

/// What `amcheck` said of one database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Soundness {
    /// B-trees that were compared with their tables.
    pub indexes: usize,
    /// Tables that were looked at; none before PostgreSQL 14.
    pub tables: usize,
    /// What is wrong, the first few.
    pub findings: Vec<String>,
    /// How many there were.
    pub faults: usize,
}

impl Soundness {
    fn note(&mut self, finding: String) {
        self.faults += 1;
        if self.findings.len() < MOST_FINDINGS {
            self.findings.push(finding);
        }
    }
}

impl Session {
    /// How far replay has come; after recovery, how far it went.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn replay_state(&self) -> Result<ReplayState> {
        let sql = "SELECT pg_is_in_recovery(), pg_last_wal_replay_lsn()::text, pg_last_xact_replay_timestamp()";
        let row = self.row("ask for the replay of", sql, &[]).await?;
        let replay_lsn = column::<Option<String>>(&row, 1)?.map(|text| parse_lsn(&text)).transpose()?;
        let last_commit = column::<Option<SystemTime>>(&row, 2)?.map(Timestamp::from_system_time);
        Ok(ReplayState { in_recovery: column(&row, 0)?, replay_lsn, last_commit })
    }

    /// Ends the recovery of a standby; it is writable a moment later.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn promote(&self) -> Result<()> {
        self.rows("promote", "SELECT pg_promote(false)", &[]).await.map(drop)
    }

    /// The name of the superuser that every cluster has.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn bootstrap_superuser(&self) -> Result<String> {
        column(&self.row("ask for the superuser of", "SELECT rolname::text FROM pg_roles WHERE oid = 10", &[]).await?, 0)
    }

    /// The databases that take connections, by name.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn databases(&self) -> Result<Vec<String>> {
        let sql = "SELECT datname::text FROM pg_database WHERE datallowconn ORDER BY 1";
        self.rows("list the databases of", sql, &[]).await?.iter().map(|row| column(row, 0)).collect()
    }

    /// Disables the event triggers of this database: they would run production's code on every DDL of the checks, and some
    /// (pgaudit's) refuse it while their library is not loaded. From 17 on a setting does it for the whole server.
    ///
    /// # Errors
    /// When the server refuses.
    async fn disable_event_triggers(&self) -> Result<()> {
        if self.major() >= 17 {
            return Ok(());
        }
        let action = "disable the event triggers of";
        let enabled = "SELECT quote_ident(evtname) FROM pg_event_trigger WHERE evtenabled <> 'D'";
        for row in self.rows(action, enabled, &[]).await? {
            // DDL on event triggers fires none.
            self.rows(action, &format!("ALTER EVENT TRIGGER {} DISABLE", column::<String>(&row, 0)?), &[]).await?;
        }
        Ok(())
    }

    /// Writes a table, reads it back and drops it.
    ///
    /// # Errors
    /// With the server's words when it does not take writes.
    pub async fn prove_writable(&self) -> Result<()> {
        let action = "write to";
        self.rows(action, "SET default_transaction_read_only = off", &[]).await?;
        self.disable_event_triggers().await?;
        for sql in ["CREATE SCHEMA IF NOT EXISTS lifeboat_drill", "CREATE TABLE lifeboat_drill.proof AS SELECT 1 AS written"] {
            self.rows(action, sql, &[]).await?;
        }
        self.row(action, "SELECT written FROM lifeboat_drill.proof", &[]).await?;
        self.rows(action, "DROP TABLE lifeboat_drill.proof", &[]).await.map(drop)
    }

    /// Compares every B-tree of this database with its table, and from 14 on looks at every table; none where the
    /// extension is not installed.
    ///
    /// # Errors
    /// When the server cannot be asked; what it finds is no error.
    pub async fn soundness(&self) -> Result<Option<Soundness>> {
        let known = "SELECT 1 FROM pg_available_extensions WHERE name = 'amcheck'";
        if self.rows("list the extensions of", known, &[]).await?.is_empty() {
            return Ok(None);
        }
        self.rows("prepare the check of", "SET default_transaction_read_only = off", &[]).await?;
        self.disable_event_triggers().await?;
        for sql in MAKE_AMCHECK.split("; ") {
            self.rows("make the extension amcheck on", sql, &[]).await?;
        }
        let place =
            "SELECT n.nspname::text FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE extname = 'amcheck'";
        let schema: String = column(&self.row("find the extension amcheck on", place, &[]).await?, 0)?;
        let schema = format!("\"{}\"", schema.replace('"', "\"\""));
        let mut soundness = Soundness::default();
        for row in self.rows("list the indexes of", BTREES, &[]).await? {
            let (oid, name) = (column::<u32>(&row, 0)?, column::<String>(&row, 1)?);
            soundness.indexes += 1;
            let sql = format!("SELECT {schema}.bt_index_check({oid}::regclass, heapallindexed => true)");
            if let Err(error) = self.query(&sql, &[]).await {
                soundness.note(format!("index {name}: {}", self.error("check", &error).summary()));
            }
        }
        if self.major() >= 14 {
            for row in self.rows("list the tables of", HEAPS, &[]).await? {
                let (oid, name) = (column::<u32>(&row, 0)?, column::<String>(&row, 1)?);
                soundness.tables += 1;
                let sql = format!("SELECT blkno, msg FROM {schema}.verify_heapam({oid}::regclass, check_toast => true)");
                match self.query(&sql, &[]).await {
                    Ok(rows) => {
                        for row in rows {
                            let (block, message) = (column::<Option<i64>>(&row, 0)?, column::<String>(&row, 1)?);
                            soundness.note(format!("table {name}, block {}: {message}", block.unwrap_or_default()));
                        }
                    }
                    Err(error) => soundness.note(format!("table {name}: {}", self.error("check", &error).summary())),
                }
            }
        }
        Ok(Some(soundness))
    }

    /// Runs somebody's SQL as they would, with their `search_path`, and gives the rows as text (times in UTC).
    ///
    /// # Errors
    /// With the server's words, also when `timeout` passes.
    pub async fn ask(&self, sql: &str, timeout: Duration) -> Result<Vec<Vec<Option<String>>>> {
        let prepare = format!(
            "RESET search_path; SET datestyle = 'ISO'; SET timezone = 'UTC'; SET default_transaction_read_only = off; \
             SET statement_timeout = {}",
            timeout.as_millis()
        );
        self.simple(&prepare).await?;
        let messages = self.simple(sql).await?;
        let rows = messages.into_iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some((0..row.len()).map(|at| row.get(at).map(str::to_owned)).collect()),
            _ => None,
        });
        Ok(rows.collect())
    }

    async fn simple(&self, sql: &str) -> Result<Vec<SimpleQueryMessage>> {
        self.simple_query(sql).await.map_err(|error| self.error("run a check's SQL on", &error))
    }
}
