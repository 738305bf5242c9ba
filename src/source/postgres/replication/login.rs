//! The beginning of a connection: TLS, the startup message, and who we are.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_postgres::Config;
use tokio_postgres::config::SslMode;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};

use super::errors::ServerError;
use super::wire::{Duplex, Wire, malformed, take_text};
use crate::source::postgres::conninfo::Conninfo;
use crate::source::postgres::tls;

const CHECK_TLS: &str = "check sslmode and sslrootcert in conninfo";

/// Why there is no connection.
pub(super) enum Refused {
    Server(ServerError),
    Io(io::Error),
    /// In words, with a hint.
    Other(String, &'static str),
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// The stream to `host`, encrypted as the connection string asks.
pub(super) async fn encrypted(mut stream: TcpStream, host: &str, conninfo: &Conninfo) -> Result<Box<dyn Duplex>, Refused> {
    let mode = conninfo.config.get_ssl_mode();
    if mode == SslMode::Disable {
        return Ok(Box::new(stream));
    }
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    stream.write_all(&request).await?;
    if stream.read_u8().await? != b'S' {
        return match mode {
            SslMode::Prefer => Ok(Box::new(stream)),
            _ => {
                Err(Refused::Other("the server does not speak TLS".to_owned(), "set ssl = on on the server, or sslmode=disable"))
            }
        };
    }
    let other = |error: &dyn std::fmt::Display| Refused::Other(error.to_string(), CHECK_TLS);
    let mut connector = tls::connector(&conninfo.verification).map_err(|error| other(&error.summary()))?;
    let connect = MakeTlsConnect::<TcpStream>::make_tls_connect(&mut connector, host).map_err(|error| other(&error))?;
    let stream = connect.connect(stream).await.map_err(no_handshake)?;
    Ok(Box::new(stream))
}

/// A handshake that is cut short says nothing of the certificates: the server restarts.
fn no_handshake(error: io::Error) -> Refused {
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Refused::Io(error),
        _ => Refused::Other(error.to_string(), CHECK_TLS),
    }
}

/// Logs in for physical replication, and waits until the server takes commands.
pub(super) async fn log_in(wire: &mut Wire, config: &Config, user: &str, application_name: &str) -> Result<(), Refused> {
    let mut parameters = vec![("client_encoding", "UTF8"), ("user", user), ("replication", "true")];
    parameters.push(("application_name", application_name));
    parameters.extend(config.get_options().map(|options| ("options", options)));
    let mut message = BytesMut::new();
    frontend::startup_message(parameters, &mut message)?;
    wire.send(&message).await?;
    loop {
        let mut frame = wire.receive().await?;
        match frame.tag {
            b'R' => {
                let method = frame.body.try_get_i32().map_err(|_| malformed("authentication"))?;
                authenticate(wire, config, user, method, frame.body).await?;
            }
            b'E' => return Err(Refused::Server(ServerError::parse(frame.body)?)),
            b'Z' => return Ok(()),
            // Parameters, the key for cancellation, notices.
            b'S' | b'K' | b'N' | b'v' => {}
            _ => return Err(malformed("login").into()),
        }
    }
}

async fn authenticate(wire: &mut Wire, config: &Config, user: &str, method: i32, body: Bytes) -> Result<(), Refused> {
    let missing = || {
        let hint = "put the password into ~/.pgpass (chmod 600; its database: replication) or PGPASSWORD";
        Refused::Other("the server asks for a password, and there is none".to_owned(), hint)
    };
    let password = || config.get_password().ok_or_else(missing);
    let mut message = BytesMut::new();
    match method {
        0 => return Ok(()),
        3 => frontend::password_message(password()?, &mut message)?,
        5 => {
            let salt = body.get(..4).and_then(|salt| salt.try_into().ok()).ok_or_else(|| malformed("salt"))?;
            frontend::password_message(md5_hash(user.as_bytes(), password()?, salt).as_bytes(), &mut message)?;
        }
        10 => return scram(wire, password()?, body).await,
        _ => {
            let why = "the server asks for an authentication that is not supported (GSS, SSPI, …)".to_owned();
            return Err(Refused::Other(why, "in pg_hba.conf: scram-sha-256, peer or cert for replication connections"));
        }
    }
    Ok(wire.send(&message).await?)
}

async fn scram(wire: &mut Wire, password: &[u8], mut offered: Bytes) -> Result<(), Refused> {
    let mut known = false;
    while offered.first().is_some_and(|byte| *byte != 0) {
        known |= take_text(&mut offered)? == SCRAM_SHA_256;
    }
    if !known {
        let why = "the server offers no SCRAM-SHA-256".to_owned();
        return Err(Refused::Other(why, "in pg_hba.conf: scram-sha-256 for replication connections"));
    }
    let mut scram = ScramSha256::new(password, ChannelBinding::unsupported());
    let mut message = BytesMut::new();
    frontend::sasl_initial_response(SCRAM_SHA_256, scram.message(), &mut message)?;
    wire.send(&message).await?;
    scram.update(&sasl(wire, 11).await?)?;
    message.clear();
    frontend::sasl_response(scram.message(), &mut message)?;
    wire.send(&message).await?;
    // The server proves that it knows the password as well.
    Ok(scram.finish(&sasl(wire, 12).await?)?)
}

async fn sasl(wire: &mut Wire, expected: i32) -> Result<Bytes, Refused> {
    let mut frame = wire.receive().await?;
    match frame.tag {
        b'R' if frame.body.try_get_i32() == Ok(expected) => Ok(frame.body),
        b'E' => Err(Refused::Server(ServerError::parse(frame.body)?)),
        _ => Err(malformed("authentication").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handshake_that_is_cut_short_may_be_tried_again() {
        for kind in [io::ErrorKind::UnexpectedEof, io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe] {
            assert!(matches!(no_handshake(kind.into()), Refused::Io(_)), "{kind}");
        }
        let bad = io::Error::new(io::ErrorKind::InvalidData, "invalid peer certificate: UnknownIssuer");
        assert!(matches!(no_handshake(bad), Refused::Other(why, _) if why.contains("certificate")));
    }
}
