//! A connection for replication, and the commands that come before the stream.

use std::io;
use std::path::Path;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use postgres_protocol::message::frontend;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_postgres::config::{ChannelBinding, Host, SslNegotiation, TargetSessionAttrs};

use super::errors::ServerError;
use super::host::{self, Server};
use super::login::{Refused, encrypted, log_in};
use super::wire::{Duplex, Frame, Wire, malformed, row};
use super::{Failure, Result, SILENCE};
use crate::base::{Error, Lsn, TimelineId};
use crate::source::postgres::conninfo::{self, Conninfo};
use crate::source::postgres::history::History;
use crate::source::postgres::pgpass;

/// What the server says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct System {
    /// The cluster's number.
    pub system_identifier: u64,
    /// The timeline it writes, or replays.
    pub timeline: TimelineId,
    /// Its log is durable on its own disk up to here.
    pub flushed: Lsn,
}

/// A connection that takes replication commands.
pub struct Client {
    pub(super) wire: Wire,
    pub(super) user: String,
    place: String,
    server: Server,
}

impl Client {
    /// Connects as `conninfo` says; the server calls us `application_name`. Of several hosts the first that answers, and
    /// takes writes if `target_session_attrs` asks for that.
    ///
    /// # Errors
    /// Usage when the text is wrong; failed, with the next step, when nobody answers or replication is not permitted.
    pub async fn connect(conninfo: &str, application_name: &str) -> Result<Self> {
        let mut conninfo = conninfo::parse(conninfo, &conninfo::process_environment)?;
        if conninfo.config.get_password().is_none() {
            // As libpq looks it up.
            let mut config = conninfo.config.clone();
            config.dbname("replication");
            if let Some(password) = pgpass::lookup(&config, None, &conninfo::process_environment)? {
                conninfo.config.password(password);
            }
        }
        let config = &conninfo.config;
        if config.get_channel_binding() == ChannelBinding::Require || config.get_ssl_negotiation() == SslNegotiation::Direct {
            return Err(Error::usage("channel_binding=require and sslnegotiation=direct are not known to a stream of the log")
                .hint("leave them out of conninfo; sslmode=verify-full says who the server is")
                .into());
        }
        let mut first_error = None;
        for at in 0..config.get_hosts().len() {
            match Self::connect_to(host::only(&conninfo, at), application_name).await {
                Ok(client) => return Ok(client),
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        Err(first_error.unwrap_or_else(|| Error::usage("conninfo names no host").into()))
    }

    async fn connect_to(mut conninfo: Conninfo, application_name: &str) -> Result<Self> {
        let config = conninfo.config.clone();
        let user = config.get_user().unwrap_or("postgres").to_owned();
        let place = conninfo::describe(&config);
        let what = format!("cannot connect for replication as {place}");
        let limit = config.get_connect_timeout().copied().unwrap_or(Duration::from_secs(10));
        let connecting = async {
            let mut wire = Wire::new(socket(&mut conninfo).await?);
            log_in(&mut wire, &config, &user, application_name).await?;
            Ok::<_, Refused>(wire)
        };
        let outcome = timeout(limit, connecting).await;
        let wire = match outcome.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into())) {
            Ok(wire) => wire,
            Err(Refused::Server(error)) => return Err(error.into_failure(&what, &user)),
            Err(Refused::Other(why, hint)) => return Err(Error::failed(what).caused_by(why).hint(hint).into()),
            Err(Refused::Io(error)) => {
                let hint = "check that the server runs, that host and port are right, and connect_timeout";
                return Err(Failure::Passing(Error::failed(what).caused_by(error).hint(hint)));
            }
        };
        let mut client = Self { wire, user, place, server: Server(Box::new(conninfo)) };
        if config.get_target_session_attrs() == TargetSessionAttrs::ReadWrite
            && client.show("transaction_read_only").await? != "off"
        {
            let error = Error::failed(format!("{} does not take writes", client.place)).hint("check the hosts in conninfo");
            return Err(Failure::Passing(error));
        }
        Ok(client)
    }

    /// Who the server is, and where its log stands.
    ///
    /// # Errors
    /// When the server does not answer as expected.
    pub async fn identify(&mut self) -> Result<System> {
        let rows = self.rows("IDENTIFY_SYSTEM").await?;
        let text = |at: usize| text(&rows, at);
        let number = text(0).and_then(|number| number.parse().ok());
        let timeline = text(1).and_then(|timeline| timeline.parse().ok()).map(TimelineId);
        let flushed = text(2).and_then(|flushed| flushed.parse().ok());
        match (number, timeline, flushed) {
            (Some(system_identifier), Some(timeline), Some(flushed)) => Ok(System { system_identifier, timeline, flushed }),
            _ => Err(self.error("identify the server", malformed("IDENTIFY_SYSTEM"))),
        }
    }

    /// The ancestry of `timeline`, and the file that tells it; for the first timeline there is none.
    ///
    /// # Errors
    /// When the server does not have it, or it is damaged.
    pub async fn history(&mut self, timeline: TimelineId) -> Result<(History, Option<Bytes>)> {
        if timeline == TimelineId(1) {
            return Ok((History::root(timeline), None));
        }
        let rows = self.rows(&format!("TIMELINE_HISTORY {timeline}")).await?;
        let content = rows.first().and_then(|row| row.get(1)).cloned().flatten();
        let content = content.ok_or_else(|| self.error("read a timeline's history", malformed("TIMELINE_HISTORY")))?;
        Ok((History::parse(timeline, &content)?, Some(content)))
    }

    /// Makes the slot `name`, which keeps the log from the last checkpoint on.
    ///
    /// # Errors
    /// When there is one of that name, or no room for another.
    pub async fn create_slot(&mut self, name: &str) -> Result<()> {
        self.rows(&format!("CREATE_REPLICATION_SLOT {} PHYSICAL RESERVE_WAL", quoted(name))).await.map(drop)
    }

    /// A setting of the server, as it shows it.
    ///
    /// # Errors
    /// When there is none of that name.
    pub async fn show(&mut self, setting: &str) -> Result<String> {
        let rows = self.rows(&format!("SHOW {setting}")).await?;
        text(&rows, 0).ok_or_else(|| self.error("ask a setting of the server", malformed("SHOW")))
    }

    /// The server that the connection led to.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Where the connection leads, without secrets.
    pub fn place(&self) -> &str {
        &self.place
    }

    pub(super) async fn send_query(&mut self, command: &str) -> Result<()> {
        let mut message = BytesMut::new();
        frontend::query(command, &mut message).map_err(|error| self.error("ask the server", error))?;
        self.send(&message).await
    }

    pub(super) async fn send(&mut self, message: &[u8]) -> Result<()> {
        let sent = timeout(SILENCE, self.wire.send(message)).await;
        sent.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(|error| self.error("write to the server", error))
    }

    pub(super) async fn receive(&mut self) -> Result<Frame> {
        let received = timeout(SILENCE, self.wire.receive()).await;
        received
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(|error| self.error("hear from the server", error))
    }

    /// What the server answers to `command`.
    async fn rows(&mut self, command: &str) -> Result<Vec<Vec<Option<Bytes>>>> {
        self.send_query(command).await?;
        self.answer(command).await
    }

    /// The rows that come until the server is ready for the next command.
    pub(super) async fn answer(&mut self, command: &str) -> Result<Vec<Vec<Option<Bytes>>>> {
        let (mut rows, mut refusal) = (Vec::new(), None);
        loop {
            let frame = self.receive().await?;
            match frame.tag {
                b'D' => rows.push(row(frame.body).map_err(|error| self.error("read the answer of the server", error))?),
                b'E' => refusal = Some(self.refused(command, frame.body)),
                b'Z' => return refusal.map_or(Ok(rows), Err),
                b'T' | b'C' | b'S' | b'N' | b'c' => {}
                _ => return Err(self.error("read the answer of the server", malformed(command))),
            }
        }
    }

    /// The server's refusal of `command`.
    pub(super) fn refused(&self, command: &str, body: Bytes) -> Failure {
        match ServerError::parse(body) {
            Ok(error) => error.into_failure(&format!("the server ({}) refused {command}", self.place), &self.user),
            Err(error) => self.error("read the answer of the server", error),
        }
    }

    pub(super) fn error(&self, action: &str, error: io::Error) -> Failure {
        Failure::Passing(Error::failed(format!("cannot {action} ({})", self.place)).caused_by(error))
    }
}

/// A socket to the only host of the connection string, whose address is noted there.
async fn socket(conninfo: &mut Conninfo) -> std::result::Result<Box<dyn Duplex>, Refused> {
    let config = &conninfo.config;
    let ports = config.get_ports();
    let port = ports.first().copied().unwrap_or(5432);
    match &config.get_hosts()[0] {
        Host::Unix(directory) => {
            let path = Path::new(directory).join(format!(".s.PGSQL.{port}"));
            Ok(Box::new(UnixStream::connect(path).await?))
        }
        Host::Tcp(name) => {
            let name = name.clone();
            let stream = match config.get_hostaddrs().first() {
                Some(address) => TcpStream::connect((*address, port)).await?,
                None => TcpStream::connect((name.as_str(), port)).await?,
            };
            stream.set_nodelay(true)?;
            host::pin(conninfo, stream.peer_addr()?.ip());
            encrypted(stream, &name, conninfo).await
        }
    }
}

fn text(rows: &[Vec<Option<Bytes>>], column: usize) -> Option<String> {
    let value = rows.first()?.get(column)?.as_ref()?;
    std::str::from_utf8(value).ok().map(str::to_owned)
}

/// A name in a replication command.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
