//! The stream itself: log in, positions out.

use std::io;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use postgres_protocol::message::frontend::{self, CopyData};
use tokio::time::{Instant, timeout};

use super::client::{Client, quoted};
use super::wire::{malformed, row, take_u64};
use super::{Result, SILENCE};
use crate::base::{Lsn, TimelineId, Timestamp};

/// The server's clock counts from 2000-01-01, in microseconds.
const POSTGRES_EPOCH_MICROS: i64 = 946_684_800_000_000;
/// After so long without a word the server is asked for one.
const ASK_AFTER: Duration = Duration::from_secs(20);

/// What became of the wish to stream.
pub enum Started {
    /// Log comes.
    Streaming(LogStream),
    /// The timeline ends where it was to begin.
    Ended(Client, Next),
}

/// The timeline that follows one that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Next {
    /// The timeline.
    pub timeline: TimelineId,
    /// Where it begins.
    pub start: Lsn,
}

/// What came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Log, from `start` on.
    Log {
        /// Position of the first byte.
        start: Lsn,
        /// The bytes.
        bytes: Bytes,
    },
    /// Nothing came for a while: the next report asks for a sign of life.
    Silence,
    /// A sign of life.
    Alive {
        /// Whether the server wants to know our position at once.
        asks: bool,
    },
    /// The timeline has ended.
    TimelineEnded,
}

/// A running stream.
pub struct LogStream {
    client: Client,
    heard: Instant,
    asked: bool,
}

impl Client {
    /// Asks for the log of `timeline` from `start` on, kept by `slot`.
    ///
    /// # Errors
    /// When the server refuses: another process uses the slot, the position lies ahead of the server's log, ….
    pub async fn stream(mut self, slot: &str, timeline: TimelineId, start: Lsn) -> Result<Started> {
        let command = format!("START_REPLICATION SLOT {} PHYSICAL {start} TIMELINE {timeline}", quoted(slot));
        self.send_query(&command).await?;
        let mut next = None;
        loop {
            let frame = self.receive().await?;
            match frame.tag {
                b'W' => {
                    let now = Instant::now();
                    return Ok(Started::Streaming(LogStream { client: self, heard: now, asked: false }));
                }
                b'D' => {
                    let read = row(frame.body).and_then(|row| next_timeline(&row));
                    next = Some(read.map_err(|error| self.error("read where the timeline ends", error))?);
                }
                b'E' => return Err(self.refused(&command, frame.body)),
                b'Z' => {
                    let next = next.ok_or_else(|| self.error("read the answer of the server", malformed(&command)))?;
                    return Ok(Started::Ended(self, next));
                }
                _ => {}
            }
        }
    }
}

impl LogStream {
    /// The next thing that comes. May be dropped while it waits.
    ///
    /// # Errors
    /// When the connection is lost, the server falls silent, or it ends the stream with an error: removed when it has no
    /// longer what is to come.
    pub async fn event(&mut self) -> Result<Event> {
        loop {
            let left = (if self.asked { SILENCE } else { ASK_AFTER }).saturating_sub(self.heard.elapsed());
            let Ok(received) = timeout(left, self.client.wire.receive()).await else {
                if self.asked {
                    let error = io::Error::new(io::ErrorKind::TimedOut, "the server does not answer any more");
                    return Err(self.client.error("hear from the server", error));
                }
                return Ok(Event::Silence);
            };
            let mut frame = received.map_err(|error| self.client.error("hear from the server", error))?;
            (self.heard, self.asked) = (Instant::now(), false);
            let event = match frame.tag {
                b'd' => decode(&mut frame.body).map_err(|error| self.client.error("read the stream", error))?,
                b'c' => return Ok(Event::TimelineEnded),
                b'E' => return Err(self.client.refused("to go on with the stream", frame.body)),
                _ => continue,
            };
            return Ok(event);
        }
    }

    /// Nobody listens for a while: the server's silence says nothing.
    pub fn rest(&mut self) {
        (self.heard, self.asked) = (Instant::now(), false);
    }

    /// Tells the server that everything before `durable` is safe, and that it need not be kept.
    ///
    /// # Errors
    /// When the connection is lost.
    pub async fn report(&mut self, durable: Lsn) -> Result<()> {
        let asks = self.heard.elapsed() >= ASK_AFTER;
        self.asked |= asks;
        let mut status = BytesMut::with_capacity(34);
        status.put_u8(b'r');
        // Written, flushed, applied: what is only in memory here is none of them.
        (0..3).for_each(|_| status.put_u64(durable.0));
        status.put_i64(Timestamp::now().unix_micros() - POSTGRES_EPOCH_MICROS);
        status.put_u8(u8::from(asks));
        let mut message = BytesMut::new();
        CopyData::new(status).map_err(|error| self.client.error("write to the server", error))?.write(&mut message);
        self.client.send(&message).await
    }

    /// Ends the stream after [`Event::TimelineEnded`]; the timeline that follows, if one does.
    ///
    /// # Errors
    /// When the connection is lost, or the server ends the stream with an error.
    pub async fn follow(mut self) -> Result<(Client, Option<Next>)> {
        self.copy_done().await?;
        let rows = self.client.answer("the end of a timeline").await?;
        let next = rows.first().map(|row| next_timeline(row)).transpose();
        let next = next.map_err(|error| self.client.error("read where the timeline ends", error))?;
        Ok((self.client, next))
    }

    /// Ends the stream from this side, after a last report.
    ///
    /// # Errors
    /// When the connection is lost before the server has taken note.
    pub async fn end(mut self, durable: Lsn) -> Result<()> {
        self.report(durable).await?;
        self.copy_done().await?;
        // What was under way comes before the server's own end.
        while self.client.receive().await.and_then(|frame| self.is_more(frame.tag, frame.body))? {}
        let mut message = BytesMut::new();
        frontend::terminate(&mut message);
        self.client.send(&message).await
    }

    fn is_more(&self, tag: u8, body: Bytes) -> Result<bool> {
        match tag {
            b'Z' => Ok(false),
            b'E' => Err(self.client.refused("to end the stream", body)),
            _ => Ok(true),
        }
    }

    async fn copy_done(&mut self) -> Result<()> {
        let mut message = BytesMut::new();
        frontend::copy_done(&mut message);
        self.client.send(&message).await
    }
}

fn next_timeline(row: &[Option<Bytes>]) -> io::Result<Next> {
    let text = |at: usize| row.get(at).and_then(Option::as_ref).and_then(|value| std::str::from_utf8(value).ok());
    let timeline = text(0).and_then(|timeline| timeline.parse().ok()).map(TimelineId);
    let start = text(1).and_then(|start| start.parse().ok());
    timeline.zip(start).map(|(timeline, start)| Next { timeline, start }).ok_or_else(|| malformed("the next timeline"))
}

fn decode(body: &mut Bytes) -> io::Result<Event> {
    let kind = body.try_get_u8().map_err(|_| malformed("an empty message"))?;
    match kind {
        b'w' => {
            let start = Lsn(take_u64(body)?);
            // The end of the server's log, and its clock.
            take_u64(body)?;
            take_u64(body)?;
            Ok(Event::Log { start, bytes: std::mem::take(body) })
        }
        b'k' => {
            // The end of the server's log, and its clock.
            take_u64(body)?;
            take_u64(body)?;
            let asks = body.try_get_u8().map_err(|_| malformed("a sign of life is cut short"))? != 0;
            Ok(Event::Alive { asks })
        }
        _ => Err(malformed("an unknown message in the stream")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_the_stream_are_read() {
        let mut log = Bytes::from([&b"w"[..], &5_u64.to_be_bytes(), &9_u64.to_be_bytes(), &[0; 8], b"abc"].concat());
        assert_eq!(decode(&mut log).unwrap(), Event::Log { start: Lsn(5), bytes: Bytes::from_static(b"abc") });
        let mut alive = Bytes::from([&b"k"[..], &9_u64.to_be_bytes(), &[0; 8], &[1]].concat());
        assert_eq!(decode(&mut alive).unwrap(), Event::Alive { asks: true });
        for bad in [&b""[..], b"w123", b"k12345678123456", b"x"] {
            assert!(decode(&mut Bytes::copy_from_slice(bad)).is_err(), "{bad:?}");
        }
    }
}
