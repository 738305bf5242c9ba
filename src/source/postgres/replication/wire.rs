//! Messages on the wire: a tag, a length, a body.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use postgres_protocol::message::backend::Header;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Longest message that a server sends here: a piece of log has 128 KiB, a timeline's history a few.
const LONGEST_BYTES: usize = 16 << 20;

/// A socket, with TLS or without.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

/// One message of the server.
pub(super) struct Frame {
    pub tag: u8,
    pub body: Bytes,
}

/// A connection that carries messages.
pub(super) struct Wire {
    stream: Box<dyn Duplex>,
    inbox: BytesMut,
}

impl Wire {
    pub fn new(stream: Box<dyn Duplex>) -> Self {
        Self { stream, inbox: BytesMut::new() }
    }

    /// Sends what was encoded. Not to be dropped half-way: the connection is of no use then.
    pub async fn send(&mut self, encoded: &[u8]) -> io::Result<()> {
        self.stream.write_all(encoded).await?;
        self.stream.flush().await
    }

    /// The next message. May be dropped while it waits, and nothing is lost.
    pub async fn receive(&mut self) -> io::Result<Frame> {
        loop {
            if let Some(frame) = self.buffered()? {
                return Ok(frame);
            }
            if self.stream.read_buf(&mut self.inbox).await? == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection"));
            }
        }
    }

    /// A message that has arrived whole.
    fn buffered(&mut self) -> io::Result<Option<Frame>> {
        let Some(header) = Header::parse(&self.inbox)? else { return Ok(None) };
        // The length counts itself, but not the tag.
        let total = usize::try_from(header.len()).unwrap_or(usize::MAX).saturating_add(1);
        if total > LONGEST_BYTES {
            return Err(malformed("a message is too long"));
        }
        if self.inbox.len() < total {
            self.inbox.reserve(total - self.inbox.len());
            return Ok(None);
        }
        let mut body = self.inbox.split_to(total).freeze();
        body.advance(5);
        Ok(Some(Frame { tag: header.tag(), body }))
    }
}

pub(super) fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the server's answer has an unexpected form: {what}"))
}

/// Takes a text that ends with a NUL off the front.
pub(super) fn take_text(body: &mut Bytes) -> io::Result<String> {
    let end = body.iter().position(|byte| *byte == 0).ok_or_else(|| malformed("a text does not end"))?;
    let text = String::from_utf8_lossy(&body.split_to(end)).into_owned();
    body.advance(1);
    Ok(text)
}

/// Takes an unsigned number of eight bytes off the front.
pub(super) fn take_u64(body: &mut Bytes) -> io::Result<u64> {
    body.try_get_u64().map_err(|_| malformed("a number is cut short"))
}

/// The columns of a row, as text.
pub(super) fn row(mut body: Bytes) -> io::Result<Vec<Option<Bytes>>> {
    let short = |_| malformed("a row is cut short");
    let columns = body.try_get_u16().map_err(short)?;
    let mut row = Vec::with_capacity(columns.into());
    for _ in 0..columns {
        let length = body.try_get_i32().map_err(short)?;
        match usize::try_from(length) {
            Ok(length) if length <= body.len() => row.push(Some(body.split_to(length))),
            Ok(_) => return Err(malformed("a row is cut short")),
            Err(_) => row.push(None),
        }
    }
    Ok(row)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn messages_arrive_whole_however_they_are_cut() {
        let (mut server, client) = tokio::io::duplex(3);
        let sending = tokio::spawn(async move {
            server.write_all(b"Z\0\0\0\x05Id\0\0\0\x04C\0\0\0\x08abc\0").await.unwrap();
            server
        });
        let mut wire = Wire::new(Box::new(client));
        for (tag, body) in [(b'Z', &b"I"[..]), (b'd', b""), (b'C', b"abc\0")] {
            let frame = wire.receive().await.unwrap();
            assert_eq!((frame.tag, &frame.body[..]), (tag, body));
        }
        drop(sending.await.unwrap());
        assert_eq!(wire.receive().await.err().unwrap().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn rows_are_checked_before_they_are_believed() {
        let row_of = |bytes: &'static [u8]| row(Bytes::from_static(bytes));
        let read = row_of(b"\0\x02\0\0\0\x01x\xff\xff\xff\xff").unwrap();
        assert_eq!(read, [Some(Bytes::from_static(b"x")), None]);
        for bad in [&b""[..], b"\0\x01", b"\0\x01\0\0\0\x05abc"] {
            assert!(row_of(bad).is_err(), "{bad:?}");
        }
    }
}
