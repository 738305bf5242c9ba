//! Whether what the server sends is log of its cluster, before any of it is stored.
//!
//! A network may change bytes that nobody checks on the way, so what cannot be read is asked for once more. If the server
//! sends the same again it has it so on its disk: then it is stored all the same, and told, as nothing may wedge the slot;
//! but never what is of another cluster or no log at all.

use std::ops::ControlFlow;
use std::sync::{Mutex, PoisonError};

use super::growing::Snapshot;
use crate::base::{Error, Lsn, Result};
use crate::repo::identity::Identity;
use crate::source::postgres::replication::Failure;
use crate::source::postgres::wal::{Carry, Fault, LONG_HEADER_BYTES, SegmentHeader, Stop, WalError, scan};

/// What could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Doubt {
    at: Lsn,
    why: String,
    /// Not log of this cluster.
    is_foreign: bool,
}

/// What follows from a look.
pub(super) enum Examined {
    /// It is to be stored; with a warning, the first time.
    Store(Option<String>),
    /// It is not.
    Refuse(Failure),
}

/// What could not be read of what was received last, over all connections.
#[derive(Default)]
pub(super) struct Trust(Mutex<Option<(Doubt, bool)>>);

impl Trust {
    /// Looks at what was received of a segment.
    ///
    /// # Errors
    /// When this process cannot.
    pub async fn examine(&self, identity: &Identity, snapshot: &Snapshot) -> Result<Examined> {
        let (reading, identity) = (snapshot.clone(), identity.clone());
        let looked = tokio::task::spawn_blocking(move || doubt(&identity, &reading)).await;
        let doubt = looked.map_err(|error| Error::failed("cannot read what was received").caused_by(error))?;
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(doubt) = doubt else { return Ok(Examined::Store(None)) };
        let (at, why) = (doubt.at, &doubt.why);
        let known = last.as_ref().filter(|(last, _)| *last == doubt).map(|(_, is_told)| *is_told);
        Ok(match known {
            None => {
                let what = format!("the log that the server sent cannot be read at {at}, and is asked for again: {why}");
                *last = Some((doubt, false));
                Examined::Refuse(Failure::Passing(Error::damaged(what)))
            }
            Some(_) if doubt.is_foreign => Examined::Refuse(Failure::Final(
                Error::failed(format!("what the server sends at {at} is no log of this cluster: {why}"))
                    .hint("does conninfo name the right server, and nothing between that changes what it sends?"),
            )),
            Some(false) => {
                let warning = format!(
                    "the log cannot be read at {at}, and is stored as the server has it: {why}; a restore would end there: \
                     take a full backup now, and look at the server's disk"
                );
                *last = Some((doubt, true));
                Examined::Store(Some(warning))
            }
            Some(true) => Examined::Store(None),
        })
    }
}

fn doubt(identity: &Identity, snapshot: &Snapshot) -> Option<Doubt> {
    let start = snapshot.segment.start(snapshot.size);
    let foreign = |why: String| Some(Doubt { at: start, why, is_foreign: true });
    if snapshot.raw.len() < LONG_HEADER_BYTES {
        return None;
    }
    match SegmentHeader::parse(&snapshot.raw) {
        Err(error) => return foreign(error.to_string()),
        Ok(header) if header.system_identifier.to_string() != identity.system_identifier => {
            return foreign(format!("it is of the cluster {}", header.system_identifier));
        }
        Ok(_) => {}
    }
    let read =
        |carry: &Carry| scan(snapshot.segment, snapshot.size, &snapshot.raw, carry, |_, _| ControlFlow::<()>::Continue(()));
    let read = match read(&snapshot.carry) {
        // What this host remembers of the segment before may be another branch's.
        Err(error) if error.is_carry_mismatch() => read(&Carry::Unknown),
        outcome => outcome,
    };
    match read {
        // Its checksum is right: the server that wrote it can read it.
        Err(WalError::Malformed { .. }) | Ok(ControlFlow::Break(())) => None,
        Err(error) => foreign(error.to_string()),
        Ok(ControlFlow::Continue(end)) => match end.stop {
            Stop::SegmentEnd | Stop::EndOfLog { fault: Fault::NoMoreBytes, .. } => None,
            Stop::EndOfLog { at, fault } | Stop::Damaged { at, fault } => {
                Some(Doubt { at, why: fault.to_string(), is_foreign: false })
            }
        },
    }
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
            assert_eq!(doubt(&identity, &sound), None, "{cut}");
        }
        let (trust, (identity, torn)) = (Trust::default(), snapshot(&log, end, |raw| raw[inside] ^= 1));
        let looks = async |snapshot: &Snapshot| trust.examine(&identity, snapshot).await.unwrap();
        assert!(matches!(looks(&torn).await, Examined::Refuse(Failure::Passing(_))));
        assert!(matches!(looks(&torn).await, Examined::Store(Some(told)) if told.contains(&two.start.to_string())));
        assert!(matches!(looks(&torn).await, Examined::Store(None)), "told once");
        let (_, zeros) = snapshot(&log, end, |raw| raw[inside - 20..].fill(0));
        assert!(doubt(&identity, &zeros).is_some(), "no server sends what it has not written");
        // The first page's magic, and the system identifier.
        for at in [0, 24] {
            let (_, foreign) = snapshot(&log, end, |raw| raw[at] ^= 1);
            let trust = Trust::default();
            let first = trust.examine(&identity, &foreign).await.unwrap();
            let second = trust.examine(&identity, &foreign).await.unwrap();
            assert!(matches!(first, Examined::Refuse(Failure::Passing(_))), "{at}");
            assert!(matches!(second, Examined::Refuse(Failure::Final(_))), "{at}");
        }
    }
}
