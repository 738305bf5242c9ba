//! Whether what the server sends is log of its cluster, before any of it is stored.
//!
//! Stored is what ends with a record whose checksum is right: of one that is not complete nobody knows yet whether the
//! network changed it, and a commit is safe only with its record's last byte. A segment that is complete is stored to its
//! end. What cannot be read is asked for once more. If the server sends the same again it has it so on its disk: then it
//! is stored all the same, and told, as nothing may wedge the slot; in pieces of its own, so that those who read what is
//! log before it still can. What is of another cluster or no log at all never is. A server that is gone cannot be asked:
//! what is log is stored, and nothing behind it.

use std::sync::{Mutex, PoisonError};

use super::growing::Snapshot;
use crate::base::{Error, Lsn, Result};
use crate::repo::identity::Identity;
use crate::source::postgres::replication::Failure;
use crate::source::postgres::wal::{Carry, DoubtKind, LONG_HEADER_BYTES, SegmentHeader, soundness};

/// What could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Doubt {
    at: Lsn,
    why: String,
    /// Not log of this cluster.
    is_foreign: bool,
}

/// How much of what was received of a segment is stored, in bytes from its first on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Extent {
    /// Up to here.
    pub until: u64,
    /// Up to here it is log; what is stored behind that makes up pieces of its own.
    pub sound: u64,
}

/// What follows from a look.
pub(super) enum Examined {
    /// So much is to be stored; with a warning, the first time.
    Store(Extent, Option<String>),
    /// Nothing is.
    Refuse(Failure),
}

/// What could not be read of what was received last, over all connections.
#[derive(Default)]
pub(super) struct Trust(Mutex<Option<(Doubt, bool)>>);

impl Trust {
    /// Looks at what was received of a segment; whether the server `is_there`, to be asked again.
    ///
    /// # Errors
    /// When this process cannot.
    pub async fn examine(&self, identity: &Identity, snapshot: &Snapshot, is_there: bool) -> Result<Examined> {
        let (reading, identity) = (snapshot.clone(), identity.clone());
        let looked = tokio::task::spawn_blocking(move || look(&identity, &reading)).await;
        let (end, doubt) = looked.map_err(|error| Error::failed("cannot read what was received").caused_by(error))?;
        let extent = extent(snapshot, end, false);
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(doubt) = doubt else { return Ok(Examined::Store(extent, None)) };
        let (at, why) = (doubt.at, &doubt.why);
        let known = last.as_ref().filter(|(last, _)| *last == doubt).map(|(_, is_told)| *is_told);
        Ok(match known {
            Some(_) if doubt.is_foreign => Examined::Refuse(Failure::Final(
                Error::failed(format!("what the server sends at {at} is no log of this cluster: {why}"))
                    .hint("does conninfo name the right server, and nothing between that changes what it sends?"),
            )),
            Some(true) => Examined::Store(self::extent(snapshot, end, true), None),
            // It was asked for again when it was stored: what came then may have been right.
            _ if !is_there => {
                let warning = format!(
                    "the log cannot be read at {at}: {why}; the server that sent it is gone, and what it sent from there on is \
                     not stored"
                );
                Examined::Store(extent, Some(warning))
            }
            None => {
                let what = format!("the log that the server sent cannot be read at {at}, and is asked for again: {why}");
                *last = Some((doubt, false));
                Examined::Refuse(Failure::Passing(Error::damaged(what)))
            }
            Some(false) => {
                let warning = format!(
                    "the log cannot be read at {at}, and is stored as the server has it: {why}; a restore would end there: \
                     take a full backup now, and look at the server's disk"
                );
                *last = Some((doubt, true));
                Examined::Store(self::extent(snapshot, end, true), Some(warning))
            }
        })
    }
}

/// How much is stored where the log is sound up to `end`, `all` of it or what is sound.
fn extent(snapshot: &Snapshot, end: Lsn, all: bool) -> Extent {
    let start = snapshot.segment.start(snapshot.size);
    let sound = if end > start { end.bytes_since(start) } else { 0 };
    let until = if all { snapshot.raw.len() as u64 } else { sound };
    Extent { until: if until > snapshot.begins_at { until } else { 0 }, sound }
}

/// Up to where it is log, and what is not.
fn look(identity: &Identity, snapshot: &Snapshot) -> (Lsn, Option<Doubt>) {
    let start = snapshot.segment.start(snapshot.size);
    let foreign = |why: String| (start, Some(Doubt { at: start, why, is_foreign: true }));
    if snapshot.raw.len() < LONG_HEADER_BYTES {
        return (start, None);
    }
    match SegmentHeader::parse(&snapshot.raw) {
        Err(error) => return foreign(error.to_string()),
        Ok(header) if header.system_identifier.to_string() != identity.system_identifier => {
            return foreign(format!("it is of the cluster {}", header.system_identifier));
        }
        Ok(_) => {}
    }
    let read = |carry: &Carry| soundness(snapshot.segment, snapshot.size, &snapshot.raw, carry);
    let mut found = read(&snapshot.carry);
    // What this host remembers of the segment before may be another branch's. Whoever reads what is stored has no such excuse.
    if found.doubt.as_ref().is_some_and(|doubt| doubt.kind == DoubtKind::Carry) {
        found = read(&Carry::Unknown);
    }
    let doubt = found.doubt.map(|doubt| Doubt { at: doubt.at, why: doubt.why, is_foreign: doubt.kind == DoubtKind::Header });
    (found.end, doubt)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::engine::archive::read::identity_of;
    use crate::engine::archive::stream::growing::Growing;
    use crate::source::postgres::wal::fixture::Log;

    fn snapshot(log: &Log, bytes: usize, change: impl Fn(&mut [u8])) -> (Identity, Snapshot) {
        let (segment, mut raw) = log.segments().swap_remove(0);
        let header = SegmentHeader::parse(&raw).unwrap();
        let identity = identity_of(u32::from(header.major_version), header.system_identifier, log.size);
        change(&mut raw);
        let mut growing = Growing::new(segment, log.size, Carry::Unknown, 0);
        growing.append(growing.position(), Bytes::from(raw[..bytes].to_vec())).unwrap();
        (identity, growing.snapshot())
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_asked_for_again_and_only_then_stored() {
        let mut log = Log::new();
        let (one, two) = (log.commit(1, 100), log.commit(2, 200));
        let begins = log.segments()[0].0.start(log.size);
        let (inside, end) = (two.start.bytes_since(begins) as usize + 20, two.end.bytes_since(begins) as usize);
        for cut in [1, 30, one.end.bytes_since(begins) as usize, inside, end] {
            let (identity, sound) = snapshot(&log, cut, |_| {});
            let (stored, doubt) = look(&identity, &sound);
            assert_eq!(doubt, None, "{cut}");
            // A record that is not complete is not stored.
            let expected = if cut >= end {
                two.end
            } else if cut >= inside {
                two.start
            } else {
                begins
            };
            assert!(stored <= begins.plus(cut as u64) && stored >= expected.min(begins.plus(cut as u64)), "{cut}: {stored}");
            assert!(cut != inside || stored == two.start, "{stored} is inside a record");
        }
        let (trust, (identity, torn)) = (Trust::default(), snapshot(&log, end, |raw| raw[inside] ^= 1));
        let sound = two.start.bytes_since(begins);
        let (short, all) = (Extent { until: sound, sound }, Extent { until: end as u64, sound });
        let looks = async |is_there| trust.examine(&identity, &torn, is_there).await.unwrap();
        // A server that is gone cannot be asked again.
        assert!(matches!(looks(false).await, Examined::Store(extent, Some(_)) if extent == short));
        assert!(matches!(looks(true).await, Examined::Refuse(Failure::Passing(_))));
        assert!(matches!(looks(false).await, Examined::Store(extent, Some(_)) if extent == short), "nor was it");
        let at = two.start.to_string();
        assert!(matches!(looks(true).await, Examined::Store(extent, Some(told)) if extent == all && told.contains(&at)));
        assert!(matches!(looks(true).await, Examined::Store(extent, None) if extent == all), "told once");
        let (_, zeros) = snapshot(&log, end, |raw| raw[inside - 20..].fill(0));
        assert!(look(&identity, &zeros).1.is_some(), "no server sends what it has not written");
        // The first page's magic, and the system identifier.
        for at in [0, 24] {
            let (_, foreign) = snapshot(&log, end, |raw| raw[at] ^= 1);
            let trust = Trust::default();
            let first = trust.examine(&identity, &foreign, true).await.unwrap();
            let second = trust.examine(&identity, &foreign, true).await.unwrap();
            assert!(matches!(first, Examined::Refuse(Failure::Passing(_))), "{at}");
            assert!(matches!(second, Examined::Refuse(Failure::Final(_))), "{at}");
        }
    }
}
