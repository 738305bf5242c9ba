//! A small blocking connection to a server: SQL in, text out.

use std::time::Duration;

use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

/// No statement of a test takes longer; a server that does not answer fails the test.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(120);

/// A row: the text of each column, `None` for NULL.
pub type Row = Vec<Option<String>>;

/// One connection with a runtime of its own. Usable from any one thread at a time.
pub struct Sql {
    runtime: tokio::runtime::Runtime,
    client: Client,
}

/// Why a statement failed.
#[derive(Debug)]
pub struct SqlError {
    /// The five-character SQLSTATE; `None` when the connection failed.
    pub code: Option<String>,
    /// The server's message, or the connection's failure.
    pub message: String,
}

impl std::fmt::Display for SqlError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.code.as_deref().unwrap_or("connection"), self.message)
    }
}

impl From<tokio_postgres::Error> for SqlError {
    fn from(error: tokio_postgres::Error) -> Self {
        match error.as_db_error() {
            Some(db) => Self { code: Some(db.code().code().to_owned()), message: db.message().to_owned() },
            None => Self { code: None, message: format!("{error}: {:?}", std::error::Error::source(&error)) },
        }
    }
}

impl Sql {
    /// Connects; `conninfo` as libpq writes it.
    pub fn connect(conninfo: &str) -> Result<Self, SqlError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be built");
        let client = runtime.block_on(async {
            let (client, connection) = tokio_postgres::connect(conninfo, NoTls).await?;
            // Ends when the client is dropped; what failed is told to the client's calls.
            tokio::spawn(connection);
            Ok::<_, tokio_postgres::Error>(client)
        })?;
        Ok(Self { runtime, client })
    }

    /// Runs one or more statements and returns the rows of all of them.
    pub fn try_rows(&mut self, sql: &str) -> Result<Vec<Row>, SqlError> {
        let client = &self.client;
        let query = async { tokio::time::timeout(STATEMENT_TIMEOUT, client.simple_query(sql)).await };
        let messages = match self.runtime.block_on(query) {
            Ok(result) => result?,
            Err(_) => panic!("no answer within {STATEMENT_TIMEOUT:?}: {sql}"),
        };
        let rows = messages.into_iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some((0..row.len()).map(|column| row.get(column).map(str::to_owned)).collect()),
            _ => None,
        });
        Ok(rows.collect())
    }

    /// Runs one or more statements.
    pub fn try_execute(&mut self, sql: &str) -> Result<(), SqlError> {
        self.try_rows(sql).map(|_| ())
    }

    /// [`Sql::try_rows`] that must succeed.
    #[track_caller]
    pub fn rows(&mut self, sql: &str) -> Vec<Row> {
        self.try_rows(sql).unwrap_or_else(|error| panic!("{error}\n  in: {sql}"))
    }

    /// [`Sql::try_execute`] that must succeed.
    #[track_caller]
    pub fn execute(&mut self, sql: &str) {
        self.rows(sql);
    }

    /// The first column of the first row, which must be there and not NULL.
    #[track_caller]
    pub fn value(&mut self, sql: &str) -> String {
        let first = self.rows(sql).into_iter().next().and_then(|row| row.into_iter().next().flatten());
        first.unwrap_or_else(|| panic!("no value from: {sql}"))
    }

    /// [`Sql::value`] as a number.
    #[track_caller]
    pub fn number(&mut self, sql: &str) -> i64 {
        let text = self.value(sql);
        text.parse().unwrap_or_else(|_| panic!("'{text}' is no number, from: {sql}"))
    }
}
