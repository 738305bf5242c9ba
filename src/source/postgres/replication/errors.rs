//! What goes wrong, in the operator's terms.

use std::io;

use bytes::Bytes;

use super::wire::take_text;
use crate::base::{Error, ErrorKind};

/// Why a server does not do what it was asked for.
#[derive(Debug)]
pub enum Failure {
    /// It may be over in a moment: the server restarts, the connection is lost, the slot is still held by the connection
    /// before.
    Passing(Error),
    /// It stays until somebody changes something.
    Final(Error),
    /// The log that was asked for is not on the server any more. Also after the stream has begun: the server looks for
    /// a segment when it is about to send it.
    Removed(Error),
}

impl Failure {
    /// The error.
    pub fn into_error(self) -> Error {
        match self {
            Self::Passing(error) | Self::Final(error) | Self::Removed(error) => error,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Final(error)
    }
}

/// An error as the server reports it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ServerError {
    pub code: String,
    pub message: String,
    detail: Option<String>,
    hint: Option<String>,
}

impl ServerError {
    /// From the body of an ErrorResponse.
    pub fn parse(mut body: Bytes) -> io::Result<Self> {
        let mut error = Self::default();
        while let Some(kind) = body.first().copied().filter(|kind| *kind != 0) {
            body = body.slice(1..);
            let text = take_text(&mut body)?;
            match kind {
                b'C' => error.code = text,
                b'M' => error.message = text,
                b'D' => error.detail = Some(text),
                b'H' => error.hint = Some(text),
                _ => {}
            }
        }
        Ok(error)
    }

    /// As the failure of the operation `what`, with the next step where there is a usual one.
    pub fn into_failure(self, what: &str, user: &str) -> Failure {
        let (hints, is_removed) = (self.hints(user), self.is_removed());
        // Shutdown and startup, connections, all walsenders taken.
        let is_over_soon = self.code.starts_with("57P") || self.code.starts_with("08") || self.code == "53300";
        let is_passing = is_over_soon || self.is_in_use() || self.is_behind();
        let kind = if self.is_in_use() { ErrorKind::Busy } else { ErrorKind::Failed };
        let mut error = Error::new(kind, what).caused_by(self.message).detail("sqlstate", self.code);
        if let Some(detail) = self.detail {
            error = error.detail("detail", detail);
        }
        let error = hints.into_iter().chain(self.hint).fold(error, Error::hint);
        match (is_removed, is_passing) {
            (true, _) => Failure::Removed(error),
            (false, true) => Failure::Passing(error),
            (false, false) => Failure::Final(error),
        }
    }

    fn is_in_use(&self) -> bool {
        self.code == "55006" && self.message.contains("is active")
    }

    /// A standby that was restarted has yet to receive again what it had.
    fn is_behind(&self) -> bool {
        self.message.contains("is ahead of the WAL flush position")
    }

    fn hints(&self, user: &str) -> Vec<String> {
        let message = self.message.as_str();
        let one = |hint: &str| vec![hint.to_owned()];
        match self.code.as_str() {
            "28000" if message.contains("pg_hba") => vec![
                format!("in pg_hba.conf: local replication {user} peer   or: host replication {user} ADDRESS/32 scram-sha-256"),
                "then: SELECT pg_reload_conf();".to_owned(),
            ],
            "42501" => vec![format!("ALTER ROLE \"{user}\" REPLICATION;")],
            "28P01" | "28000" => one("put the password into ~/.pgpass (chmod 600; its database: replication) or PGPASSWORD"),
            "53300" => one("raise max_wal_senders (and max_connections), then restart the server"),
            "53400" => one("raise max_replication_slots, or drop a slot that nobody uses: SELECT * FROM pg_replication_slots"),
            _ if self.is_in_use() => one("another process uses the slot: stop it, or give this one its own: [source.NAME] slot"),
            "57P03" => one("the server is starting or stopping; try again in a moment"),
            "58P01" if message.contains("removed") => {
                one("lifeboat backup SOURCE --type full   starts a new chain behind the gap")
            }
            _ => Vec::new(),
        }
    }

    /// Whether the log that was asked for is not on the server any more.
    fn is_removed(&self) -> bool {
        self.code == "58P01" && self.message.contains("has already been removed")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(code: &str, message: &str) -> ServerError {
        let body = format!("SERROR\0C{code}\0M{message}\0Fwalsender.c\0\0");
        ServerError::parse(Bytes::from(body.into_bytes())).unwrap()
    }

    #[test]
    fn each_refusal_has_its_next_step() {
        for (code, message, hint) in [
            ("28000", "no pg_hba.conf entry for replication connection from host \"[local]\"", "replication me peer"),
            ("42501", "must be superuser or replication role to start walsender", "ALTER ROLE \"me\" REPLICATION"),
            ("55006", "replication slot \"x\" is active for PID 77", "slot"),
            ("53400", "all replication slots are in use", "max_replication_slots"),
        ] {
            let error = parsed(code, message).into_failure("cannot stream", "me").into_error();
            assert!(error.summary().contains(message) && error.hints()[0].contains(hint), "{error:?}");
        }
        let passes = |code| matches!(parsed(code, "x is active").into_failure("cannot stream", "me"), Failure::Passing(_));
        assert!(passes("57P03") && passes("55006") && passes("08006") && !passes("42501") && !passes("58P01"));
        let removed = |message| matches!(parsed("58P01", message).into_failure("cannot stream", "me"), Failure::Removed(_));
        assert!(removed("requested WAL segment 000000010000000000000002 has already been removed"));
        assert!(!removed("could not open file"));
        let ahead = "requested starting point 0/9000000 is ahead of the WAL flush position of this server 0/8000060";
        assert!(matches!(parsed("XX000", ahead).into_failure("cannot stream", "me"), Failure::Passing(_)));
        assert!(ServerError::parse(Bytes::from_static(b"Mno end")).is_err());
    }
}
