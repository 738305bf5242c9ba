//! The slot: that it is there and ours to use, and how long the server will keep what it needs.

use std::time::Duration;

use crate::base::{Error, Lsn, Result as Checked, SegmentSize, Timestamp};
use crate::engine::archive::slot::Slot;
use crate::source::postgres::connect::Session;
use crate::source::postgres::replication::{Client, Failure, Result, Server, SlotState, System};

/// How often the slot is looked at.
pub(super) const EVERY: Duration = Duration::from_secs(10);

/// A session of its own beside the stream: a connection for physical replication answers no queries.
pub(super) struct Watch {
    server: Server,
    slot: String,
    session: Option<Box<Session>>,
    /// What the operator was told last.
    told: Option<&'static str>,
    /// The cluster's number.
    system_identifier: u64,
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
    pub fn new(server: Server, slot: &str, system_identifier: u64) -> Self {
        Self { server, slot: slot.to_owned(), session: None, told: None, system_identifier }
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

    /// Whether the server is one that writes log of its own, and not a standby.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn writes(&mut self) -> Result<bool> {
        let asked = async { self.session().await?.is_in_recovery().await };
        Ok(!asked.await.map_err(Failure::Passing)?)
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
            let holder = self.session().await.map_err(Failure::Passing)?.served_by(pid).await.ok().flatten();
            let who = holder.unwrap_or_else(|| format!("SELECT * FROM pg_stat_replication WHERE pid = {pid}   tells the owner"));
            return Err(Failure::Passing(
                Error::busy(format!("slot {slot} is used by another process: the server's process {pid} serves {who}"))
                    .hint("stop the other stream, or give this one a slot of its own: [source.NAME] slot = \"…\""),
            ));
        }
        Ok((!state.is_lost()).then(|| state.restart_lsn.unwrap_or(system.flushed)))
    }

    /// Looks at the slot, `size` being that of a segment. What cannot be asked is no news: the stream itself tells.
    pub async fn look(mut self, size: SegmentSize) -> (Self, Seen) {
        let seen = match self.ask().await {
            Ok((state, awaited)) => {
                let slot = Slot { name: self.slot.clone(), state, free_bytes: self.free_bytes().await, size };
                let threat = slot.threats(Timestamp::now()).into_iter().next();
                let news = threat.as_ref().filter(|threat| self.told != Some(threat.kind));
                let news = news.map(|threat| format!("{}; {}", threat.message, threat.command));
                self.told = threat.map(|threat| threat.kind);
                Seen { warning: news, awaited: Some(awaited) }
            }
            Err(_) => Seen { warning: None, awaited: None },
        };
        (self, seen)
    }

    /// Where the server's own log begins, if it tells.
    pub async fn oldest_log(&mut self, size: SegmentSize) -> Option<Lsn> {
        self.session().await.ok()?.oldest_log(size).await.ok().flatten()
    }

    /// Free bytes on the disk of `pg_wal`, where that is this host's and this role may know.
    async fn free_bytes(&mut self) -> Option<u64> {
        let data = self.session().await.ok()?.data_directory().await.ok()?;
        Slot::free_bytes(&data, self.system_identifier)
    }

    async fn ask(&mut self) -> Checked<(Option<SlotState>, bool)> {
        let state = self.state().await?;
        let slot = self.slot.clone();
        Ok((state, self.session().await?.waits_for(&slot).await?))
    }
}

/// The slot has lost what it kept: what is in the repositories ends at `stored`, the server's own log begins at `oldest`,
/// where that is known, and ends at `end`.
pub(super) fn lost(slot: &str, stored: Option<Lsn>, oldest: Option<Lsn>, end: Lsn) -> Error {
    let held = stored.map_or("nothing".to_owned(), |stored| format!("the log up to {stored}"));
    let (begins, drop) = (stored.unwrap_or_default(), format!("SELECT pg_drop_replication_slot('{slot}');"));
    let error = Error::failed(format!("slot {slot} is lost: the server has removed log that it kept")).detail("stored", held);
    let again = format!("{drop}   then start the stream again");
    match oldest {
        Some(oldest) if stored.is_some() && oldest <= begins => error
            .detail("lost", format!("nothing: the server has everything behind it still, from {oldest} to {end}"))
            .hint(again),
        Some(oldest) => error
            .detail(
                "lost",
                format!("the log from {begins} to {oldest}, unless archive push has stored it; the server has it no more"),
            )
            .hint(again)
            .hint("lifeboat backup SOURCE --type full   starts a new chain behind the gap"),
        None => error
            .detail("lost", format!("of what follows, up to {end}, what the server has no more"))
            .hint(again)
            .hint("lifeboat backup SOURCE --type full   starts a new chain behind the gap"),
    }
}
