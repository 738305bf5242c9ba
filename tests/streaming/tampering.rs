//! Somebody between us and a real server, who changes what it says: positions, log, numbers, in the middle of a message.
//!
//! Connections for queries pass as they are; of one for replication each of the server's messages is shown to the test,
//! and every position that the stream reports is noted.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::support::dirs::Dir;
use super::support::postgres::Cluster;

/// What becomes of a message of the server.
pub enum Verdict {
    /// It goes on as it now is.
    Pass,
    /// It goes on, and these bytes after it.
    And(Vec<u8>),
    /// These bytes go on instead, and then the connection is closed.
    Break(Vec<u8>),
}

type Change = dyn FnMut(u8, &mut Vec<u8>) -> Verdict + Send;

/// A place to connect to instead of the server's socket.
pub struct Between {
    dir: Dir,
    port: String,
    reported: Arc<AtomicU64>,
    replies: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
}

impl Drop for Between {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        // Wakes the one who accepts.
        let _ = UnixStream::connect(self.dir.join(format!(".s.PGSQL.{}", self.port)));
    }
}

impl Between {
    /// In front of `cluster`; `change` sees the tag and the body of each message on connections for replication.
    pub fn of(cluster: &Cluster, change: impl FnMut(u8, &mut Vec<u8>) -> Verdict + Send + 'static) -> Self {
        let conninfo = cluster.conninfo();
        let value = |key: &str| conninfo.split(' ').find_map(|pair| pair.strip_prefix(key)).map(str::to_owned);
        let (host, port) = (value("host=").expect("a directory"), value("port=").unwrap_or_else(|| "5432".to_owned()));
        let (dir, server) = (Dir::new(), format!("{host}/.s.PGSQL.{port}"));
        let path = dir.join(format!(".s.PGSQL.{port}"));
        let listener = UnixListener::bind(&path).expect("own directory");
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o777)).expect("own file");
        let between =
            Self { dir, port, reported: Arc::default(), replies: Arc::default(), over: Arc::new(AtomicBool::new(false)) };
        let change: Arc<Mutex<Change>> = Arc::new(Mutex::new(change));
        let (reported, replies, over) = (Arc::clone(&between.reported), Arc::clone(&between.replies), Arc::clone(&between.over));
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(server) = UnixStream::connect(&server) else { continue };
                let (change, reported, replies) = (Arc::clone(&change), Arc::clone(&reported), Arc::clone(&replies));
                std::thread::spawn(move || serve(client, server, &change, (&reported, &replies)));
            }
        });
        between
    }

    /// The connection string that leads here.
    pub fn conninfo(&self) -> String {
        format!("host={} port={} user=postgres dbname=postgres", self.dir.path().display(), self.port)
    }

    /// The last position that was reported as safe.
    pub fn reported(&self) -> u64 {
        self.reported.load(Ordering::SeqCst)
    }

    /// How often a position was reported.
    pub fn replies(&self) -> u64 {
        self.replies.load(Ordering::SeqCst)
    }
}

fn serve(mut client: UnixStream, mut server: UnixStream, change: &Mutex<Change>, told: (&Arc<AtomicU64>, &Arc<AtomicU64>)) {
    let Some(startup) = startup(&mut client) else { return };
    let replicates = startup.windows(12).any(|window| window == b"replication\0");
    if server.write_all(&startup).is_err() {
        return;
    }
    let (mut from, mut to) = (client.try_clone().expect("duplicate"), server.try_clone().expect("duplicate"));
    let (reported, replies) = (Arc::clone(told.0), Arc::clone(told.1));
    std::thread::spawn(move || {
        while let Some((tag, body)) = message(&mut from) {
            if tag == b'd' && body.first() == Some(&b'r') {
                let flushed = body[9..17].try_into().map(u64::from_be_bytes).expect("eight bytes");
                reported.store(flushed, Ordering::SeqCst);
                replies.fetch_add(1, Ordering::SeqCst);
            }
            if to.write_all(&encoded(tag, &body)).is_err() {
                break;
            }
        }
        let _ = to.shutdown(std::net::Shutdown::Both);
    });
    while let Some((tag, mut body)) = message(&mut server) {
        let verdict = match replicates {
            true => change.lock().unwrap_or_else(PoisonError::into_inner)(tag, &mut body),
            false => Verdict::Pass,
        };
        let sent = match verdict {
            Verdict::Pass => client.write_all(&encoded(tag, &body)).is_ok(),
            Verdict::And(bytes) => client.write_all(&[encoded(tag, &body), bytes].concat()).is_ok(),
            Verdict::Break(bytes) => client.write_all(&bytes).is_err(),
        };
        if !sent {
            break;
        }
    }
    let (_, _) = (client.shutdown(std::net::Shutdown::Both), server.shutdown(std::net::Shutdown::Both));
}

fn startup(client: &mut UnixStream) -> Option<Vec<u8>> {
    let mut length = [0; 4];
    client.read_exact(&mut length).ok()?;
    let mut packet = length.to_vec();
    packet.resize(u32::from_be_bytes(length) as usize, 0);
    client.read_exact(&mut packet[4..]).ok()?;
    Some(packet)
}

fn message(from: &mut UnixStream) -> Option<(u8, Vec<u8>)> {
    let mut header = [0; 5];
    from.read_exact(&mut header).ok()?;
    let length = u32::from_be_bytes(header[1..].try_into().expect("four bytes")) as usize;
    let mut body = vec![0; length - 4];
    from.read_exact(&mut body).ok()?;
    Some((header[0], body))
}

/// A message as it travels.
pub fn encoded(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u32 + 4).to_be_bytes();
    [&[tag][..], &length, body].concat()
}

/// Replaces `from` by `to`, of the same length, in a row of the server.
pub fn replaced(tag: u8, body: &mut [u8], from: &str, to: &str) {
    assert_eq!(from.len(), to.len());
    let found = body.windows(from.len()).position(|window| window == from.as_bytes());
    if let Some(at) = found.filter(|_| tag == b'D') {
        body[at..at + to.len()].copy_from_slice(to.as_bytes());
    }
}

/// Whether a message is log, and how its bytes begin: after the kind, three numbers.
pub fn is_log(tag: u8, body: &[u8]) -> bool {
    tag == b'd' && body.first() == Some(&b'w') && body.len() > LOG
}

/// Where the log begins in such a message.
pub const LOG: usize = 25;
