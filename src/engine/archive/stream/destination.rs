//! One repository that a stream goes to.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::growing::Snapshot;
use super::plan::Holding;
use super::run::World;
use super::settle::{Place, Settling};
use super::trust::Extent;
use crate::base::{Error, ErrorKind, Lsn, Result, Segment, killpoint};
use crate::codec::Sha256Digest;
use crate::codec::encrypt::Seal;
use crate::engine::archive::contents::Compressing;
use crate::engine::archive::named::{Named, Streamed};
use crate::engine::archive::push::{self, Pushed};
use crate::engine::archive::read::LogFile;
use crate::engine::{Scope, Writing};
use crate::repo::log::CommitTime;
use crate::repo::log::tail::{self, Piece};
use crate::repo::queue::Queue;
use crate::repo::{Role, layout};
use crate::source::postgres::history::History;
use crate::source::postgres::wal::Carry;
use crate::store::list_all;

/// Largest piece in bytes.
const LARGEST_PIECE_BYTES: u64 = 16 << 20;
/// So many segments before the one that the slot keeps are looked for.
const LOOKED_FOR: u64 = 1000;

/// A repository, and what it holds of the segment that is received.
pub(super) struct Destination {
    pub name: String,
    pub queue: Queue,
    scope: Option<Scope>,
    at: Option<At>,
    /// Everything before is durable there, or was left to be delivered.
    reached: Lsn,
    /// Pieces of the segment before, which is there whole.
    redundant: Vec<String>,
    /// Small pieces being put together beside the stream.
    settling: Option<Settling>,
    /// Pieces of the segment that were put together of others.
    together: Vec<String>,
    /// Since when pieces have been redundant that a larger one holds as well.
    covered: BTreeMap<String, Instant>,
    /// Whether the credentials in use may not delete.
    keeps: bool,
    /// When it is asked again, after a failure.
    pub rests_until: Option<Instant>,
}

/// What is there of one segment.
struct At {
    segment: Segment,
    /// Bytes from its first on.
    durable: u64,
    /// Up to here reaches a piece of which not all was received yet; 0 when there is none.
    awaited: u64,
    /// Whether somebody archived it whole. Whether it is the same is seen once it is received.
    is_whole: bool,
    /// Pieces that are what the server sent, by their keys.
    agreed: BTreeMap<String, Piece>,
}

impl Destination {
    pub fn new(name: String, queue: Queue) -> Self {
        Self {
            name,
            queue,
            scope: None,
            at: None,
            reached: Lsn(0),
            redundant: Vec::new(),
            settling: None,
            together: Vec::new(),
            covered: BTreeMap::new(),
            keeps: false,
            rests_until: None,
        }
    }

    /// Everything before this position is durable here.
    pub fn reached(&self) -> Lsn {
        self.reached
    }

    /// Whether it answered when it was opened.
    pub fn is_open(&self) -> bool {
        self.scope.is_some()
    }

    /// The open repository; the cluster is on record there.
    ///
    /// # Errors
    /// When it does not answer, the source is another cluster there, or this host may not write.
    pub async fn open(&mut self, world: &World<'_>) -> Result<Scope> {
        if let Some(scope) = &self.scope {
            return Ok(scope.clone());
        }
        let scope = world.surroundings.open(&self.name).await?;
        scope.repository.keyring().require(&world.writing.signer, Role::Write)?;
        let incarnation = world.identity.incarnation.clone();
        let named = Named::new(&scope.source, incarnation, &world.first_file, Sha256Digest::of(b""));
        let named = named.ok_or_else(|| Error::failed(format!("{} is no segment", world.first_file)))?;
        named.require_known(&scope, world.writing, Some(&world.identity)).await?;
        Ok(self.scope.insert(scope).clone())
    }

    /// What there is of the log near `kept_from`, on the way to the server's timeline.
    ///
    /// # Errors
    /// When the repository does not answer.
    pub async fn holding(&mut self, world: &World<'_>, history: &History, kept_from: Lsn) -> Result<Holding> {
        let scope = self.open(world).await?;
        let (size, incarnation) = (world.size(), &world.identity.incarnation);
        let mut holding = Holding::default();
        let timelines = history.steps().iter().map(|step| step.timeline).chain([history.timeline()]);
        for timeline in timelines {
            let prefix = layout::log_timeline(&scope.source, incarnation, timeline);
            let number = (kept_from.0 / size.bytes()).saturating_sub(LOOKED_FOR);
            let after = format!("{prefix}{}", Segment { timeline, number }.name(size));
            for object in list_all(scope.repository.store(), &prefix, Some(&after)).await? {
                let name = object.key[prefix.len()..].get(..24);
                holding.whole.extend(name.and_then(|name| Segment::parse(name, size)));
            }
        }
        let tails = tail::load(&scope.repository, &scope.source, incarnation, size).await?;
        for (segment, pieces) in tails.segments {
            let reach = tail::reach(&pieces);
            if reach > 0 {
                holding.begun.insert(segment);
                holding.streamed.insert(segment, reach);
            }
        }
        Ok(holding)
    }

    /// What straddles into `segment`, as this host remembers it.
    pub fn carry_into(&self, world: &World<'_>, segment: Segment) -> Option<Carry> {
        let scope = self.scope.as_ref()?;
        let bytes = scope.state.carry_into(&scope.source, &world.identity.incarnation, &segment.name(world.size()))?;
        Carry::from_bytes(&bytes)
    }

    /// Makes what was received of a segment durable here, in pieces, as far as `extent` says. While there is a piece of which
    /// not all was received, nothing is stored: it is compared first.
    ///
    /// # Errors
    /// When the repository does not answer; contradicted when there is something else of the same segment, or more than
    /// this server has written.
    pub async fn store_pieces(&mut self, world: &World<'_>, snapshot: &Snapshot, extent: Extent) -> Result<()> {
        let scope = self.open(world).await?;
        let received = snapshot.raw.len() as u64;
        let is_known = |at: &At| at.segment == snapshot.segment && !(1..=received).contains(&at.awaited);
        if !self.at.as_ref().is_some_and(is_known) {
            let at = look(&scope, world, snapshot).await?;
            self.at = Some(at);
        }
        loop {
            let at = self.at.as_mut().ok_or_else(|| Error::failed("no segment is being stored"))?;
            if at.is_whole {
                return Ok(());
            }
            self.reached = self.reached.max(snapshot.segment.start(snapshot.size).plus(at.durable));
            if at.awaited > received {
                return Ok(());
            }
            if at.durable >= extent.until {
                self.settle(&scope, world, snapshot, extent.sound).await;
                return Ok(());
            }
            // What is log, and what is not, are never in one piece.
            let end = if at.durable < extent.sound { extent.sound.min(extent.until) } else { extent.until };
            let (from, to) = (at.durable, end.min(at.durable + LARGEST_PIECE_BYTES));
            put_piece(&scope, world, snapshot, from as u32, to as u32).await?;
            agree(&scope, world, snapshot, at).await?;
            if at.durable < to {
                return Err(Error::failed(format!("a piece of {} is not listed after it was stored", world.file(snapshot))));
            }
            killpoint::reach("stream.piece-listed");
        }
    }

    /// Stores a segment whole; then its pieces are redundant, and those of the one before it are removed.
    ///
    /// # Errors
    /// As [`push::run`].
    pub async fn store_whole(&mut self, world: &World<'_>, snapshot: &Snapshot) -> Result<Pushed> {
        let scope = self.open(world).await?;
        self.settled().await;
        let (reading, writing) = ((scope.clone(), world.file(snapshot), snapshot.clone()), world.writing.clone());
        // Reads all of it: the connection to the server is served meanwhile.
        let read = tokio::task::spawn_blocking(move || {
            let (scope, name, snapshot) = reading;
            LogFile::of_segment(&scope, &writing, &name, snapshot.raw, &snapshot.carry)
        });
        let mut file = read.await.map_err(|error| Error::failed("cannot read a segment").caused_by(error))??;
        file.streamed = self.at.as_ref().filter(|at| at.segment == snapshot.segment).and_then(|at| streamed(at, snapshot));
        let pushed = push::received(&scope, world.writing, file).await?;
        killpoint::reach("stream.segment-stored");
        self.reached = self.reached.max(snapshot.end());
        let agreed = self.at.take().filter(|at| at.segment == snapshot.segment).map(|at| at.agreed.into_keys());
        let pieces = agreed.into_iter().flatten().chain(self.together.drain(..)).collect();
        let before = std::mem::replace(&mut self.redundant, pieces);
        self.remove(&scope, before).await;
        Ok(pushed)
    }

    /// Stores a timeline's history.
    ///
    /// # Errors
    /// As [`push::run`].
    pub async fn store_history(&mut self, world: &World<'_>, history: &History, raw: Bytes) -> Result<Pushed> {
        let scope = self.open(world).await?;
        let file = LogFile::of_history(&scope, world.writing, history.timeline(), raw, world.identity.clone())?;
        push::received(&scope, world.writing, file).await
    }

    /// Begins to put small pieces together as one, beside the stream, and to remove those that have been part of a larger
    /// one for long enough. Only what is log, up to `sound`: one piece that is not would take the others with it.
    async fn settle(&mut self, scope: &Scope, world: &World<'_>, snapshot: &Snapshot, sound: u64) {
        if self.settling.as_ref().is_some_and(|settling| !settling.is_over()) {
            return;
        }
        self.settled().await;
        let Some(at) = self.at.as_ref().filter(|at| !self.keeps && at.segment == snapshot.segment) else { return };
        let pieces: Vec<Piece> = at.agreed.values().filter(|piece| u64::from(piece.name.to) <= sound).cloned().collect();
        let now = Instant::now();
        let redundant: Vec<&str> = tail::redundant(&pieces).map(|piece| piece.key.as_str()).collect();
        self.covered.retain(|key, _| redundant.contains(&key.as_str()));
        for key in redundant {
            self.covered.entry(key.to_owned()).or_insert(now);
        }
        let due = self.covered.iter().filter(|(_, since)| now.duration_since(**since) >= tail::listing_lasts());
        let due: Vec<String> = due.map(|(key, _)| key.clone()).collect();
        let few = tail::small_neighbours(&pieces, LARGEST_PIECE_BYTES);
        if !due.is_empty() || !few.is_empty() {
            let place = Place { incarnation: world.identity.incarnation.clone(), file: world.file(snapshot) };
            self.settling = Some(Settling::begin(scope, world.writing, place, snapshot, few, due));
        }
    }

    /// Waits until nothing is put together any more.
    async fn settled(&mut self) {
        if let Some(settling) = self.settling.take() {
            let made = settling.end().await;
            self.keeps |= made.may_not_delete;
            self.together.extend(made.key);
        }
    }

    /// Removes pieces that nobody needs. What stays is removed by `expire`.
    async fn remove(&mut self, scope: &Scope, keys: Vec<String>) {
        for key in keys {
            if self.keeps {
                return;
            }
            if let Err(error) = scope.repository.store().delete(&key).await {
                self.keeps |= !error.is_retryable();
            }
            killpoint::reach("stream.piece-deleted");
        }
    }
}

/// The timeline ended at `at`: what was stored of it from there on is not of the one that follows. What is `safe` there.
pub(super) fn branch(to: &mut [Destination], safe: Lsn, at: Lsn) -> Lsn {
    for one in to {
        one.reached = one.reached.min(at);
    }
    safe.min(at)
}

/// How the segment arrived before it was whole; none when no piece of it did, or not all of their times are known.
fn streamed(at: &At, snapshot: &Snapshot) -> Option<Streamed> {
    let waits: Vec<Duration> = at.agreed.values().map(Piece::waited).collect::<Option<_>>()?;
    let pieces = waits.into_iter().max().filter(|_| at.durable > 0)?;
    let (from, to) = (at.durable as u32, snapshot.raw.len() as u32);
    let rest = if from < to { snapshot.piece(from, to).0.first } else { CommitTime::None };
    (rest != CommitTime::Unknown).then(|| Streamed { pieces, rest: rest.known() })
}

/// What there is of the segment, as far as it was received.
async fn look(scope: &Scope, world: &World<'_>, snapshot: &Snapshot) -> Result<At> {
    let prefix = layout::log_timeline(&scope.source, &world.identity.incarnation, snapshot.segment.timeline);
    let whole = list_all(scope.repository.store(), &format!("{prefix}{}_", world.file(snapshot)), None).await?;
    let mut at = At { segment: snapshot.segment, durable: 0, awaited: 0, is_whole: !whole.is_empty(), agreed: BTreeMap::new() };
    // Once it is there whole, whatever pieces hold says nothing more.
    if !at.is_whole {
        agree(scope, world, snapshot, &mut at).await?;
        for piece in std::mem::take(&mut at.agreed).into_values() {
            if put_again(scope, world, snapshot, &piece).await? {
                at.agreed.insert(piece.key.clone(), piece);
            }
        }
        at.durable = durable(&at.agreed);
    }
    Ok(at)
}

/// How much of the segment the pieces hold, from its first byte on.
fn durable(agreed: &BTreeMap<String, Piece>) -> u64 {
    tail::reach(&agreed.values().cloned().collect::<Vec<_>>())
}

/// Compares all pieces that are there, and lie within what was received, with what was received. Those that reach beyond
/// are waited for, unless this server has not written as much: then it is behind what was stored in its name.
async fn agree(scope: &Scope, world: &World<'_>, snapshot: &Snapshot, at: &mut At) -> Result<()> {
    let incarnation = &world.identity.incarnation;
    let listed = tail::load_segment(&scope.repository, &scope.source, incarnation, snapshot.segment, snapshot.size).await?;
    // Those that are gone count no longer.
    at.agreed.retain(|key, _| listed.iter().any(|piece| piece.key == *key));
    at.awaited = 0;
    for piece in listed {
        if piece.name.to as usize > snapshot.raw.len() {
            require_written(scope, world, snapshot, &piece)?;
            at.awaited = at.awaited.max(piece.name.to.into());
            continue;
        }
        if at.agreed.contains_key(&piece.key) {
            continue;
        }
        let own = Sha256Digest::of(&snapshot.raw[piece.name.from as usize..piece.name.to as usize]).short();
        if own != piece.name.digest {
            let what = format!("{} of {} is in the repository with other content", world.file(snapshot), scope.source);
            return Err(Error::new(ErrorKind::Contradicted, format!("{what}: two servers write the same log"))
                .detail("piece", piece.key.clone())
                .detail("this server", own)
                .hint(format!(
                    "a piece that was stored with a warning, because it could not be read, may be removed: {}",
                    piece.key
                ))
                .hint("stop the server that is not the primary, or whose disk was rolled back; nothing was overwritten")
                .hint(format!(
                    "then, on the right server, once it has finished this segment: lifeboat archive push {} pg_wal/{}",
                    scope.source,
                    world.file(snapshot)
                )));
        }
        at.agreed.insert(piece.key.clone(), piece);
    }
    at.durable = durable(&at.agreed);
    Ok(())
}

/// That the server has written as much as `piece` holds. Of a standby, and of a timeline that ended, that is not known.
fn require_written(scope: &Scope, world: &World<'_>, snapshot: &Snapshot, piece: &Piece) -> Result<()> {
    let Some((timeline, written)) = world.written else { return Ok(()) };
    let end = snapshot.segment.start(snapshot.size).plus(piece.name.to.into());
    if timeline != snapshot.segment.timeline || end <= written {
        return Ok(());
    }
    let what = format!("this server has written the log up to {written}, and {end} is stored in its name");
    Err(Error::new(ErrorKind::Contradicted, format!("{what}: its disk was rolled back, or another server writes the same log"))
        .detail("piece", piece.key.clone())
        .hint(format!("stop the server that is not the primary; nothing of {} was overwritten", scope.source))
        .hint("if this server is the right one, and what follows is lost: move the piece away, and start the stream again"))
}

async fn put_piece(scope: &Scope, world: &World<'_>, snapshot: &Snapshot, from: u32, to: u32) -> Result<()> {
    let naming = snapshot.clone();
    let named = tokio::task::spawn_blocking(move || naming.piece(from, to)).await;
    let (name, content) = named.map_err(|error| Error::failed("cannot name a piece").caused_by(error))?;
    let seal = push::seal(scope, world.writing, &world.identity.incarnation).await?;
    let timeline = snapshot.segment.timeline;
    let prefix = layout::tail_segment(&scope.source, &world.identity.incarnation, timeline, &world.file(snapshot));
    put(scope, world.writing, &seal, &format!("{prefix}{}", name.text(seal.suffix())), content).await
}

/// A piece that is listed need not be durable: whoever put it may have died before its last sync. A put of the same
/// content finds it there and makes it so. False when it cannot be put under its name: encryption was turned on or off.
async fn put_again(scope: &Scope, world: &World<'_>, snapshot: &Snapshot, piece: &Piece) -> Result<bool> {
    let seal = push::seal(scope, world.writing, &world.identity.incarnation).await?;
    let is_possible = piece.key.ends_with(".age") == matches!(seal, Seal::Age(_));
    if is_possible {
        let content = snapshot.raw.slice(piece.name.from as usize..piece.name.to as usize);
        put(scope, world.writing, &seal, &piece.key, content).await?;
    }
    Ok(is_possible)
}

/// Stores a piece under its name.
pub(super) async fn put(scope: &Scope, writing: &Writing, seal: &Seal, key: &str, content: Bytes) -> Result<()> {
    let failed = |error| Error::failed(format!("cannot encode {key}")).caused_by(error);
    let stored = Compressing::start(content, writing.compression_level).seal(seal).await.map_err(failed)?;
    killpoint::reach("stream.piece-encoded");
    scope.repository.store().put_if_absent(key, Bytes::from(stored).into()).await?;
    killpoint::reach("stream.piece-stored");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use async_trait::async_trait;

    use super::*;
    use crate::base::progress::Silent;
    use crate::base::{SegmentSize, TimelineId};
    use crate::engine::archive::read::identity_of;
    use crate::engine::archive::stream::{Surroundings, growing::Growing, plan, trust::Trust};
    use crate::repo::{KeyEntry, Repository, Signer};
    use crate::source::postgres::wal::fixture::{Log, SYSTEM_IDENTIFIER};
    use crate::store::faulty::FaultyStore;
    use crate::store::memory::MemoryStore;

    struct Here(Scope);

    #[async_trait]
    impl Surroundings for Here {
        async fn open(&self, _repository: &str) -> Result<Scope> {
            Ok(self.0.clone())
        }

        fn deliver(&self) {}
    }

    #[test]
    fn abandoned_log_is_not_safe_on_the_timeline_that_follows() {
        let queue = || Queue::new(std::path::Path::new("/nowhere"), &"s".parse().unwrap(), "r");
        let mut to: Vec<_> =
            [9, 5].map(|reached| Destination { reached: Lsn(reached), ..Destination::new("r".into(), queue()) }).into();
        assert_eq!(branch(&mut to, Lsn(9), Lsn(7)), Lsn(7));
        let reached = || to.iter().map(Destination::reached).collect();
        assert_eq!([1, 2].map(|needed| plan::safe(reached(), needed)), [Lsn(7), Lsn(5)]);
    }

    #[tokio::test]
    async fn a_piece_that_is_only_listed_is_put_again_before_it_counts() {
        let (dir, signer) = (tempfile::tempdir().unwrap(), Signer::generate());
        let roles = vec![Role::Write, Role::Admin];
        let entry = KeyEntry { name: "host".into(), public_key: signer.public_key(), roles };
        let store = Arc::new(FaultyStore::counting(Arc::new(MemoryStore::new())));
        let repository = Repository::create("main", store.clone(), vec![entry], &signer).await.unwrap();
        let here = Here(Scope::new(repository, "orders".parse().unwrap(), dir.path()));
        let writing = Writing { signer, recipients: None, compression_level: 1 };
        let size = SegmentSize::new(1 << 20).unwrap();
        let segment = Segment { timeline: TimelineId(1), number: 5 };
        let trust = Trust::default();
        let world = World {
            surroundings: &here,
            writing: &writing,
            progress: &Silent,
            needed: 1,
            trust: &trust,
            identity: identity_of(17, 7, size),
            written: None,
            first_file: segment.name(size),
        };
        let mut growing = Growing::new(segment, size, Carry::Unknown, 0);
        growing.append(segment.start(size), Bytes::from_static(&[1; 100])).unwrap();
        for (puts, after) in [(1, "the first stream"), (2, "another one")] {
            let mut to = Destination::new("main".into(), Queue::new(dir.path(), &here.0.source, "main"));
            to.store_pieces(&world, &growing.snapshot(), all(&growing)).await.unwrap();
            assert_eq!(to.reached(), segment.start(size).plus(100), "{after}");
            let calls = store.calls().into_iter().filter(|call| call.starts_with("put_if_absent orders/tail/"));
            assert_eq!(calls.count(), puts, "{after}");
        }
    }

    /// A segment of sound log that is received, and a repository that counts its calls.
    struct Scene {
        dir: tempfile::TempDir,
        store: Arc<FaultyStore>,
        here: Here,
        writing: Writing,
        trust: Trust,
        size: SegmentSize,
        segment: Segment,
        raw: Vec<u8>,
    }

    impl Scene {
        async fn new() -> Self {
            let (dir, signer, log) = (tempfile::tempdir().unwrap(), Signer::generate(), sample());
            let entry = KeyEntry { name: "host".into(), public_key: signer.public_key(), roles: vec![Role::Write, Role::Admin] };
            let store = Arc::new(FaultyStore::counting(Arc::new(MemoryStore::new())));
            let repository = Repository::create("main", store.clone(), vec![entry], &signer).await.unwrap();
            let here = Here(Scope::new(repository, "orders".parse().unwrap(), dir.path()));
            let (writing, trust) = (Writing { signer, recipients: None, compression_level: 1 }, Trust::default());
            let (segment, raw) = log.segments().pop().unwrap();
            Self { dir, store, here, writing, trust, size: log.size, segment, raw }
        }

        fn world(&self) -> World<'_> {
            World {
                surroundings: &self.here,
                writing: &self.writing,
                progress: &Silent,
                needed: 1,
                trust: &self.trust,
                identity: identity_of(15, SYSTEM_IDENTIFIER, self.size),
                written: None,
                first_file: self.segment.name(self.size),
            }
        }

        fn destination(&self) -> Destination {
            Destination::new("main".into(), Queue::new(self.dir.path(), &self.here.0.source, "main"))
        }

        /// Nothing of the segment yet.
        fn growing(&self) -> Growing {
            Growing::new(self.segment, self.size, Carry::Unknown, 0)
        }

        /// What is stored of the segment.
        async fn pieces(&self) -> Vec<Piece> {
            let (scope, incarnation) = (&self.here.0, self.world().identity.incarnation);
            tail::load_segment(&scope.repository, &scope.source, &incarnation, self.segment, self.size).await.unwrap()
        }
    }

    /// A segment that stays open: nobody reads a hundred pieces, and none goes before those who list have seen the larger.
    #[tokio::test(start_paused = true)]
    async fn small_pieces_are_put_together_and_go_later() {
        let scene = Scene::new().await;
        let (world, raw) = (scene.world(), &scene.raw);
        let (mut growing, mut to) = (scene.growing(), scene.destination());
        let mut most = 0;
        for at in (0..10_000).step_by(50) {
            growing.append(growing.position(), Bytes::copy_from_slice(&raw[at..at + 50])).unwrap();
            to.store_pieces(&world, &growing.snapshot(), all(&growing)).await.unwrap();
            to.settled().await;
            let there = scene.pieces().await;
            assert_eq!(tail::reach(&there), at as u64 + 50);
            most = most.max(tail::cover(&there).len());
            tokio::time::advance(Duration::from_secs(20)).await;
        }
        assert!(most <= 20, "{most} pieces to read");
        // Those that a listing may still show, and what they are part of.
        let there = scene.pieces().await;
        assert!(there.len() < 60, "{} pieces", there.len());
        let puts = scene.store.calls().iter().filter(|call| call.starts_with("put_if_absent orders/tail/")).count();
        assert!((200..240).contains(&puts), "{puts} puts of 200 pieces");
        // What they tell of their commits together is what each told.
        let one = growing.snapshot().piece(0, 10_000).0;
        let told = tail::joined(&tail::cover(&there).into_iter().cloned().collect::<Vec<_>>(), one.digest.clone()).unwrap();
        assert_eq!((told.first, told.last, told.commits), (one.first, one.last, one.commits));
    }

    fn all(growing: &Growing) -> Extent {
        Extent { until: growing.received(), sound: growing.received() }
    }

    /// What is no log is in pieces of its own, and stays out of those that are put together.
    #[tokio::test]
    async fn log_and_what_is_none_are_never_in_one_piece() {
        let scene = Scene::new().await;
        let (mut world, raw, segment) = (scene.world(), &scene.raw, scene.segment);
        let (mut growing, mut to) = (scene.growing(), scene.destination());
        for at in (0..3000).step_by(100) {
            growing.append(growing.position(), Bytes::copy_from_slice(&raw[at..at + 100])).unwrap();
            let extent = Extent { until: growing.received(), sound: growing.received().min(1250) };
            to.store_pieces(&world, &growing.snapshot(), extent).await.unwrap();
            to.settled().await;
        }
        let pieces = scene.pieces().await;
        let spans: Vec<_> = pieces.iter().map(|piece| (piece.name.from, piece.name.to)).collect();
        assert!(spans.iter().all(|(from, to)| *to <= 1250 || *from >= 1250), "{spans:?}");
        assert!(spans.iter().any(|(from, to)| to - from > 500 && *to <= 1250), "put together: {spans:?}");
        assert!(spans.iter().all(|(from, to)| *from < 1250 || to - from <= 100), "and nothing of the rest: {spans:?}");

        // Another stream receives it anew: before all of a piece was, nothing is stored, and nothing is safe.
        let start = segment.start(scene.size);
        let mut again = scene.growing();
        again.append(start, Bytes::copy_from_slice(&raw[..60])).unwrap();
        let mut to = scene.destination();
        to.store_pieces(&world, &again.snapshot(), all(&again)).await.unwrap();
        assert_eq!(to.reached(), start);
        again.append(again.position(), Bytes::copy_from_slice(&raw[60..3000])).unwrap();
        to.store_pieces(&world, &again.snapshot(), all(&again)).await.unwrap();
        assert_eq!(to.reached(), start.plus(3000));

        // A disk that was rolled back: the server has not written what is stored in its name.
        let mut behind = scene.growing();
        behind.append(start, Bytes::copy_from_slice(&raw[..60])).unwrap();
        for (written, is_behind) in [(start.plus(3000), false), (start.plus(2999), true)] {
            world.written = Some((segment.timeline, written));
            let mut to = scene.destination();
            let stored = to.store_pieces(&world, &behind.snapshot(), all(&behind)).await;
            assert_eq!(stored.is_err_and(|error| error.kind() == ErrorKind::Contradicted), is_behind, "{written}");
            assert_eq!(to.reached(), if is_behind { Lsn(0) } else { start }, "{written}");
        }
    }

    fn sample() -> Log {
        let mut log = Log::new();
        (1..300).for_each(|xid| drop(log.commit(xid, i64::from(xid) * 1_000_000)));
        log
    }
}
