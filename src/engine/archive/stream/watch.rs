//! The slot: that it is there and ours to use, and how long the server will keep what it needs.

use std::time::Duration;

use crate::base::units::format_bytes;
use crate::base::{Error, Lsn, Result as Checked, SegmentSize};
use crate::source::postgres::connect::Session;
use crate::source::postgres::replication::{Client, Failure, Result, Server, SlotState, System, WalStatus};

/// How often the slot is looked at.
pub(super) const EVERY: Duration = Duration::from_secs(10);
/// The operator is told when fewer segments than this may be written before the slot is lost.
const FEW_SEGMENTS: i64 = 8;

/// A session of its own beside the stream: a connection for physical replication answers no queries.
pub(super) struct Watch {
    server: Server,
    slot: String,
    session: Option<Box<Session>>,
    /// What the operator was told last.
    told: Option<String>,
}

/// What a look found.
pub(super) struct Seen {
    /// What the operator should know, when it is not what was told before.
    pub warning: Option<String>,
    /// Whether commits wait for us; none when the server could not be asked.
    pub awaited: Option<bool>,
}

impl Watch {
    /// Of the server that is streamed from, which is one of those that the connection string may name.
    pub fn new(server: Server, slot: &str) -> Self {
        Self { server, slot: slot.to_owned(), session: None, told: None }
    }

    async fn session(&mut self) -> Checked<&Session> {
        if self.session.as_ref().is_none_or(|session| session.is_closed()) {
            self.session = Some(Box::new(self.server.session().await?));
        }
        self.session.as_deref().ok_or_else(|| Error::failed("there is no session"))
    }

    async fn state(&mut self) -> Checked<Option<SlotState>> {
        let slot = self.slot.clone();
        self.session().await?.slot(&slot).await
    }

    /// From where on the slot keeps the log; none when it has [lost] it. One that is not there is made.
    ///
    /// # Errors
    /// When it is no physical slot, or another process uses it.
    pub async fn kept_from(&mut self, client: &mut Client, system: &System) -> Result<Option<Lsn>> {
        let slot = self.slot.clone();
        let state = match self.state().await.map_err(Failure::Passing)? {
            Some(state) => state,
            None => {
                client.create_slot(&slot).await?;
                let made = self.state().await.map_err(Failure::Passing)?;
                made.ok_or_else(|| Error::failed(format!("slot {slot} is gone after it was made")))?
            }
        };
        if !state.is_physical {
            return Err(Error::failed(format!("slot {slot} is one for logical replication"))
                .hint("give this source a slot of its own: [source.NAME] slot = \"…\"")
                .into());
        }
        if let Some(pid) = state.active_pid {
            return Err(Failure::Passing(
                Error::busy(format!("slot {slot} is used by another process: the server's process {pid} serves it"))
                    .detail("who", format!("SELECT * FROM pg_stat_replication WHERE pid = {pid}"))
                    .hint("stop the other stream, or give this one a slot of its own: [source.NAME] slot = \"…\""),
            ));
        }
        let is_lost = state.wal_status == Some(WalStatus::Lost);
        Ok((!is_lost).then(|| state.restart_lsn.unwrap_or(system.flushed)))
    }

    /// Looks at the slot, `size` being that of a segment. What cannot be asked is no news: the stream itself tells.
    pub async fn look(mut self, size: SegmentSize) -> (Self, Seen) {
        let seen = match self.ask().await {
            Ok((state, awaited)) => {
                let warning = state.and_then(|state| warning(&self.slot, &state, size));
                let news = warning.clone().filter(|warning| self.told.as_ref() != Some(warning));
                self.told = warning;
                Seen { warning: news, awaited: Some(awaited) }
            }
            Err(_) => Seen { warning: None, awaited: None },
        };
        (self, seen)
    }

    async fn ask(&mut self) -> Checked<(Option<SlotState>, bool)> {
        let state = self.state().await?;
        let slot = self.slot.clone();
        Ok((state, self.session().await?.waits_for(&slot).await?))
    }
}

/// The slot has lost what it kept; the whole segments in the repositories end at `stored`, the server's log at `end`.
pub(super) fn lost(slot: &str, stored: Option<Lsn>, end: Lsn) -> Error {
    let held = stored.map_or("nothing".to_owned(), |stored| format!("the log up to {stored}, and what was streamed behind it"));
    Error::failed(format!("slot {slot} is lost: the server has removed log that it kept"))
        .detail("stored", held)
        .detail("lost", format!("of what follows, up to {end}, what the server has no more"))
        .hint(format!("SELECT pg_drop_replication_slot('{slot}');   then start the stream again"))
        .hint("lifeboat backup SOURCE --type full   starts a new chain behind the gap")
}

/// What threatens the slot, or the server's disk.
fn warning(slot: &str, state: &SlotState, size: SegmentSize) -> Option<String> {
    let few_bytes = FEW_SEGMENTS * size.bytes() as i64;
    match (state.wal_status, state.safe_wal_bytes) {
        (Some(WalStatus::Lost), _) => Some(format!("slot {slot} is lost: the server has removed log that is in no repository")),
        (Some(WalStatus::Unreserved), _) => {
            Some(format!("slot {slot} is about to be lost: the server removes the log that it keeps at its next checkpoint"))
        }
        (_, Some(left)) if left < few_bytes => Some(format!(
            "slot {slot} is lost after less than {} more of log (max_slot_wal_keep_size)",
            format_bytes(few_bytes as u64)
        )),
        (Some(WalStatus::Extended), None) => Some(format!(
            "slot {slot} keeps more than max_wal_size, and without max_slot_wal_keep_size until the server's disk is full"
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_threatens_the_slot_or_the_disk_is_told() {
        let told = |wal_status, safe_wal_bytes| {
            let state = SlotState {
                is_physical: true,
                active_pid: None,
                restart_lsn: None,
                wal_status: Some(wal_status),
                safe_wal_bytes,
            };
            warning("s", &state, SegmentSize::DEFAULT).unwrap_or_default()
        };
        assert_eq!(told(WalStatus::Reserved, None), "");
        assert_eq!(told(WalStatus::Extended, Some(1 << 40)), "");
        assert!(told(WalStatus::Extended, None).contains("disk is full"));
        assert!(told(WalStatus::Reserved, Some(1 << 20)).contains("max_slot_wal_keep_size"));
        assert!(told(WalStatus::Unreserved, Some(-5)).contains("about to be lost"));
        assert!(told(WalStatus::Lost, None).contains("is lost"));
    }
}
