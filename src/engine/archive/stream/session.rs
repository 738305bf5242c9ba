//! One connection: who the server is, what its slot keeps, where to begin, and one timeline after the other.

use bytes::Bytes;

use super::destination::Destination;
use super::growing::Growing;
use super::plan::{self, Holding};
use super::pump::{End, Pump};
use super::round::{self, Job};
use super::run::{Setting, Streamed, World};
use super::watch::{self, Watch};
use crate::base::{Error, ErrorKind, Lsn, Segment, SegmentSize, TimelineId};
use crate::engine::archive::read::identity_of;
use crate::repo::identity::Identity;
use crate::source::postgres::connect::SUPPORTED_MAJORS;
use crate::source::postgres::history::History;
use crate::source::postgres::replication::{Client, Failure, Result, Started, System};
use crate::source::postgres::wal::Carry;

/// Streams over one connection until somebody asks to stop; `from_slot` says to begin where the slot does, though a
/// repository lacks log from before.
///
/// # Errors
/// Whatever ends the connection; removed when the server has not the log from before its slot.
pub(super) async fn run(setting: &Setting<'_>, streamed: &mut Streamed, from_slot: bool) -> Result<()> {
    let options = setting.options;
    let mut client = Client::connect(&options.conninfo, &options.slot).await?;
    let system = client.identify().await?;
    let identity = identify(&mut client, &system).await?;
    let size = identity.segment_bytes;
    let (history, history_file) = client.history(system.timeline).await?;
    let mut world = World {
        surroundings: setting.surroundings,
        writing: setting.writing,
        progress: setting.progress,
        needed: options.needed,
        trust: setting.trust,
        identity,
        written: None,
        first_file: plan::segment(&history, system.flushed.0 / size.bytes(), size).name(size),
    };
    let repositories = options.repositories.iter().cloned();
    let mut to: Vec<Destination> = repositories.map(|(name, queue)| Destination::new(name, queue)).collect();
    // Before the slot is made: a server that is not this source's is left as it is.
    open_enough(&mut to, &world).await?;
    let mut watch = Watch::new(client.server().clone(), &options.slot, system.system_identifier);
    world.written = watch.writes().await?.then_some((system.timeline, system.flushed));
    let Some(kept_from) = watch.kept_from(&mut client, &system).await? else {
        let holdings = holdings(&mut to, &world, &history, Lsn(0)).await?;
        let (stored, oldest) = (plan::stored_up_to(&history, size, &holdings), watch.oldest_log(size).await);
        return Err(watch::lost(&options.slot, stored, oldest, system.flushed).into());
    };
    let holdings = holdings(&mut to, &world, &history, kept_from).await?;
    let kept = plan::segment(&history, kept_from.0 / size.bytes(), size);
    let first = if from_slot { kept } else { plan::first_segment(&history, kept_from, size, &holdings) };
    let before = streamed.received_bytes;
    let connection = Connection { client, to, watch, history, history_file };
    match connection.follow(setting, &world, streamed, first).await {
        // What was received is stored: where to go on is seen anew.
        Err(Failure::Removed(why)) if streamed.received_bytes > before => Err(Failure::Passing(why)),
        Err(Failure::Removed(why)) => Err(removed(setting, (first, kept), size, why)),
        outcome => outcome,
    }
}

/// A connection before its stream.
struct Connection {
    client: Client,
    to: Vec<Destination>,
    watch: Watch,
    history: History,
    /// The file that tells it, until it is archived.
    history_file: Option<Bytes>,
}

impl Connection {
    /// Streams from a segment on, and goes on from timeline to timeline.
    async fn follow(self, setting: &Setting<'_>, world: &World<'_>, streamed: &mut Streamed, mut segment: Segment) -> Result<()> {
        let Self { mut client, mut to, mut watch, mut history, mut history_file } = self;
        // Nothing is safe before the repositories were looked at: the server takes no note of this position.
        let (slot, size, mut carry, mut safe) = (&setting.options.slot, world.size(), None, Lsn(0));
        loop {
            (client, to) = archive_histories(client, to, world, &history, history_file.take()).await?;
            let carry_in = match carry.take() {
                Some(carry) => carry,
                None => to.iter().find_map(|one| one.carry_into(world, segment)).unwrap_or(Carry::Unknown),
            };
            let growing = Growing::new(segment, size, carry_in.clone(), plan::begins_at(&history, segment, size));
            let next = match client.stream(slot, segment.timeline, segment.start(size)).await? {
                Started::Streaming(stream) => {
                    streamed.timeline = Some(segment.timeline);
                    let from = segment.start(size);
                    setting.progress.note(&format!("streaming timeline {} from {from} on", segment.timeline));
                    let pump = Pump::new(setting, world, stream, to, growing, watch, safe, streamed);
                    let End::Timeline(ended) = pump.run().await? else { return Ok(()) };
                    (client, to, watch, carry, safe) = (ended.client, ended.to, ended.watch, Some(ended.carry), ended.safe);
                    ended.next
                }
                Started::Ended(back, next) => {
                    (client, carry) = (back, Some(carry_in));
                    next
                }
            };
            (history, history_file) = client.history(next.timeline).await?;
            segment = plan::segment(&history, next.start.0 / size.bytes(), size);
        }
    }
}

/// The server has not the segment that was `wanted`: says what is missing up to the one from which on the slot keeps.
/// Final when it is what the slot should have kept.
fn removed(setting: &Setting<'_>, (wanted, kept): (Segment, Segment), size: SegmentSize, why: Error) -> Failure {
    let (slot, from) = (&setting.options.slot, wanted.start(size));
    if wanted.number < kept.number {
        setting.progress.warn(&format!(
            "the log from {from} to {} is not on the server any more, nor in every repository; streaming goes on behind it: {}",
            kept.start(size),
            why.summary()
        ));
        return Failure::Removed(why);
    }
    Failure::Final(
        Error::failed(format!("slot {slot} keeps the log from {from} on, and the server has removed it"))
            .caused_by(why.summary())
            .hint(format!("SELECT pg_drop_replication_slot('{slot}');   the next stream makes a new one"))
            .hint("lifeboat backup SOURCE --type full   starts a new chain behind the gap"),
    )
}

/// The cluster that the server is.
async fn identify(client: &mut Client, system: &System) -> Result<Identity> {
    let wrong = |what: &str, found: &str| Error::failed(format!("the server's {what} is '{found}', which is not understood"));
    let version = client.show("server_version_num").await?;
    let major = version.parse::<u32>().map_err(|_| wrong("version", &version))? / 10_000;
    if !SUPPORTED_MAJORS.contains(&major) {
        return Err(Error::failed(format!("PostgreSQL {major} at {} is not supported; 13 to 18 are", client.place()))
            .hint("correct conninfo, or upgrade that server; its log stays there")
            .into());
    }
    let shown = client.show("wal_segment_size").await?;
    let size = segment_size(&shown).ok_or_else(|| wrong("segment size", &shown))?;
    Ok(identity_of(major, system.system_identifier, size))
}

/// `16MB`, `1GB`.
fn segment_size(shown: &str) -> Option<SegmentSize> {
    let (number, unit) = shown.split_at(shown.find(|c: char| !c.is_ascii_digit())?);
    let unit_bytes = match unit {
        "MB" => 1 << 20,
        "GB" => 1 << 30,
        _ => return None,
    };
    SegmentSize::new(number.parse::<u32>().ok()?.checked_mul(unit_bytes)?)
}

/// Opens the repositories: as many as must hold the log must answer, and none may refuse this cluster.
async fn open_enough(to: &mut [Destination], world: &World<'_>) -> Result<()> {
    let mut away = Vec::new();
    let mut open = 0;
    for one in to.iter_mut() {
        match one.open(world).await {
            Ok(_) => open += 1,
            Err(error) => away.push(passing(error.context(format!("repository {}", one.name)))?),
        }
    }
    if open >= world.needed {
        return Ok(());
    }
    Err(away.pop().map_or_else(|| Error::usage("the source names too few repositories").into(), Failure::Passing))
}

async fn holdings(to: &mut [Destination], world: &World<'_>, history: &History, kept_from: Lsn) -> Result<Vec<Holding>> {
    let mut holdings = Vec::new();
    // The others get what is streamed from now on, and the rest by `copy`.
    for one in to.iter_mut().filter(|one| one.is_open()) {
        match one.holding(world, history, kept_from).await {
            Ok(holding) => holdings.push(holding),
            Err(error) => world.progress.warn(&format!("repository {}: {}", one.name, passing(error)?.summary())),
        }
    }
    Ok(holdings)
}

/// An error that may be over in a moment.
pub(super) fn passing(error: Error) -> Result<Error> {
    match error.kind() {
        ErrorKind::Unreachable | ErrorKind::Busy | ErrorKind::Interrupted => Ok(error),
        _ => Err(Failure::Final(error)),
    }
}

/// Archives the history of the timeline that is followed, `own`, and those of its ancestors that the server still has.
async fn archive_histories(
    mut client: Client,
    mut to: Vec<Destination>,
    world: &World<'_>,
    history: &History,
    own: Option<Bytes>,
) -> Result<(Client, Vec<Destination>)> {
    let Some(own) = own else { return Ok((client, to)) };
    let mut files = Vec::new();
    for step in history.steps().iter().filter(|step| step.timeline > TimelineId(1)) {
        // An old one may be gone; without it in the archive a restore says so.
        if let Ok((ancestor, Some(file))) = client.history(step.timeline).await {
            files.push((ancestor, file));
        }
    }
    files.push((history.clone(), own));
    for (history, file) in files {
        let outcome;
        (to, outcome) = round::run(to, world, Job::History(history, file), true).await;
        let outcome = outcome?;
        if outcome.stored.len() < world.needed {
            let error = outcome.errors.into_iter().next().map(|(name, error)| error.context(format!("repository {name}")));
            return Err(Failure::Passing(error.unwrap_or_else(|| Error::failed("a timeline's history is not archived"))));
        }
    }
    Ok((client, to))
}
