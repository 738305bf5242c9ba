//! One session with a server, and errors from the server in the operator's terms.
//!
//! Invariants of an open [`Session`]: the server is PostgreSQL 13 to 18, no timeout of the server's configuration can end
//! the session, and every name in our SQL means the one in `pg_catalog`. Dropping a session closes its connection; the
//! server then aborts a backup that the session had started.

use std::io;
use std::sync::{Arc, Mutex};

use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row, SimpleQueryMessage};

use crate::base::{Error, Result};

use super::conninfo::{self, Conninfo};
use super::tls;

/// Supported major versions.
pub const SUPPORTED_MAJORS: std::ops::RangeInclusive<u32> = 13..=18;

/// Statements that run for hours must not meet a limit meant for users; a vanished client should be noticed soon, even
/// while the server waits for a checkpoint on its behalf. Settings a version does not have are not in the view.
const PREPARE_SESSION: &str = "SELECT pg_catalog.set_config(name, \
        CASE name WHEN 'client_connection_check_interval' THEN '10s' WHEN 'search_path' THEN 'pg_catalog' ELSE '0' END, false) \
    FROM pg_catalog.pg_settings WHERE name IN ('statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout', \
        'idle_session_timeout', 'transaction_timeout', 'client_connection_check_interval', 'search_path')";

/// An open connection.
pub struct Session {
    client: Client,
    conninfo: Conninfo,
    version_num: u32,
    /// Why the connection ended, once it has.
    ended: Arc<Mutex<Option<String>>>,
    connection: tokio::task::JoinHandle<()>,
}

/// Connects as `conninfo` says: libpq's key-value text or a `postgresql://` URL (see [`super::conninfo`]).
///
/// Must be called within a tokio runtime. Errors: wrong text is [`crate::base::ErrorKind::Usage`]; no server, a refused
/// login and a version outside 13 to 18 fail with a hint.
pub async fn connect(conninfo: &str) -> Result<Session> {
    Session::open(conninfo::parse(conninfo, &conninfo::process_environment)?).await
}

impl Session {
    pub(super) async fn open(conninfo: Conninfo) -> Result<Self> {
        let connector = tls::connector(&conninfo.verification)?;
        let (client, connection) = conninfo.config.connect(connector).await.map_err(|error| connect_error(&conninfo, error))?;
        let ended = Arc::new(Mutex::new(None));
        let reason = Arc::clone(&ended);
        let connection = tokio::spawn(async move {
            if let Err(error) = connection.await {
                *reason.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(plain_text(&error));
            }
        });
        let mut session = Self { client, conninfo, version_num: 0, ended, connection };
        session.version_num = session.check_version().await?;
        session.rows("prepare the session on", PREPARE_SESSION, &[]).await?;
        Ok(session)
    }

    /// Another session of the same user on the same server, in `database`.
    pub async fn open_database(&self, database: &str) -> Result<Session> {
        let mut conninfo = self.conninfo.clone();
        conninfo.config.dbname(database);
        Self::open(conninfo).await
    }

    /// Takes leave and waits until the server has heard it: a program that ends sooner leaves a complaint in its log.
    pub async fn close(self) {
        drop(self.client);
        // How it ended does not matter any more.
        let _ = self.connection.await;
    }

    /// `150018` for 15.18.
    pub fn version_num(&self) -> u32 {
        self.version_num
    }

    /// `15`.
    pub fn major(&self) -> u32 {
        self.version_num / 10_000
    }

    /// The name this session logged in with.
    pub fn user(&self) -> &str {
        self.conninfo.config.get_user().unwrap_or("postgres")
    }

    /// Where the session leads, without secrets.
    pub fn describe(&self) -> String {
        conninfo::describe(&self.conninfo.config)
    }

    /// True once the connection is lost.
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Runs a query; `action` completes "cannot … the server".
    pub(super) async fn rows(&self, action: &str, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>> {
        self.query(sql, parameters).await.map_err(|error| self.error(action, &error))
    }

    /// [`Session::rows`] for a query that returns exactly one row.
    pub(super) async fn row(&self, action: &str, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Row> {
        self.client.query_one(sql, parameters).await.map_err(|error| self.error(action, &error))
    }

    pub(super) async fn query(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, tokio_postgres::Error> {
        self.client.query(sql, parameters).await
    }

    pub(super) async fn simple_query(&self, sql: &str) -> Result<Vec<SimpleQueryMessage>, tokio_postgres::Error> {
        self.client.simple_query(sql).await
    }

    /// Turns the driver's error into ours, with the server's own words.
    pub(super) fn error(&self, action: &str, error: &tokio_postgres::Error) -> Error {
        let ended = self.ended.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        let failed = Error::failed(format!("cannot {action} the server ({})", self.describe()));
        let Some(server) = error.as_db_error() else {
            return failed.caused_by(match ended {
                Some(reason) => format!("the connection was lost: {reason}"),
                None => plain_text(error),
            });
        };
        let mut failed = failed.caused_by(plain_text(error)).detail(SQLSTATE, server.code().code());
        if let Some(detail) = server.detail() {
            failed = failed.detail("detail", detail);
        }
        match server.hint() {
            Some(hint) => failed.hint(hint),
            None => failed,
        }
    }

    async fn check_version(&self) -> Result<u32> {
        let sql = "SELECT pg_catalog.current_setting('server_version_num')::pg_catalog.int4";
        let version_num: i32 = column(&self.row("ask the version of", sql, &[]).await?, 0)?;
        let version_num = version_num.unsigned_abs();
        let major = version_num / 10_000;
        if SUPPORTED_MAJORS.contains(&major) {
            return Ok(version_num);
        }
        let shown = if major < 10 { format!("{major}.{}", version_num / 100 % 100) } else { major.to_string() };
        Err(Error::failed(format!("PostgreSQL {shown} at {} is not supported; 13 to 18 are", self.describe()))
            .hint("upgrade the server, or look for a newer lifeboat"))
    }
}

/// A column of a row, by position, with the type checked.
pub(super) fn column<'a, T: tokio_postgres::types::FromSql<'a>>(row: &'a Row, at: usize) -> Result<T> {
    row.try_get(at).map_err(|error| Error::failed(format!("the server's answer has an unexpected form: {}", plain_text(&error))))
}

/// The server's message, or the driver's with its causes.
fn plain_text(error: &tokio_postgres::Error) -> String {
    if let Some(server) = error.as_db_error() {
        return server.message().to_owned();
    }
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

const SQLSTATE: &str = "sqlstate";

/// Whether a server refused by itself, and so lives: the refusal came with a code of its own.
pub fn is_an_answer(error: &Error) -> bool {
    error.details().iter().any(|(label, _)| label == SQLSTATE)
}

fn connect_error(conninfo: &Conninfo, error: tokio_postgres::Error) -> Error {
    let failed = Error::failed(format!("cannot connect to PostgreSQL as {}", conninfo::describe(&conninfo.config)))
        .caused_by(plain_text(&error));
    if let Some(code) = error.code() {
        let failed = failed.detail(SQLSTATE, code.code());
        return match *code {
            SqlState::INVALID_PASSWORD | SqlState::INVALID_AUTHORIZATION_SPECIFICATION => failed
                .hint("put the password into ~/.pgpass (chmod 600) or PGPASSWORD")
                .hint("for peer authentication run lifeboat as that system user: sudo -u postgres lifeboat …"),
            SqlState::INVALID_CATALOG_NAME => failed.hint("add dbname=postgres to conninfo"),
            SqlState::CANNOT_CONNECT_NOW => failed.hint("the server is starting or stopping; try again in a moment"),
            SqlState::TOO_MANY_CONNECTIONS => {
                failed.hint("raise max_connections, or use a superuser, for whom some connections are reserved")
            }
            _ => failed,
        };
    }
    let cause = std::error::Error::source(&error);
    let system = cause.and_then(|cause| cause.downcast_ref::<io::Error>()).map(io::Error::kind);
    match system {
        Some(io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => failed
            .hint("check that the server runs (pg_lsclusters, systemctl status postgresql) and that host and port are right"),
        Some(io::ErrorKind::PermissionDenied) => {
            failed.hint("run lifeboat as a user who may enter the socket's directory: sudo -u postgres lifeboat …")
        }
        Some(io::ErrorKind::TimedOut) => failed.hint("check host, port and firewall; connect_timeout in conninfo sets the limit"),
        _ if cause.is_some_and(|cause| cause.to_string().contains("password missing")) => {
            failed.hint("put the password into ~/.pgpass (chmod 600) or PGPASSWORD")
        }
        _ => failed,
    }
}
