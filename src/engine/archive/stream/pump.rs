//! The loop of one stream: receives, stores beside that, and reports what is safe.
//!
//! One thing is stored at a time. While a whole segment is, the next one is received; when that is complete as well, the
//! server is not listened to until the first is stored. In memory are at most these two, a copy of the second or of the
//! first when that was begun to be stored in pieces before it was complete, and for each repository what it is sent,
//! compressed. Each flush copies what was received of the segment so far, and reads it from the segment's beginning: that
//! grows with the size of segments.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep_until};

use super::destination::{self, Destination};
use super::growing::{Growing, Snapshot};
use super::plan;
use super::round::{self, Job, Outcome, Told};
use super::run::{Setting, Streamed, World};
use super::watch::{self, Seen, Watch};
use crate::base::{Error, ErrorKind, Lsn, Result as Checked, Segment, killpoint};
use crate::source::postgres::replication::{Client, Event, Failure, LogStream, Next, Result};
use crate::source::postgres::wal::Carry;

/// The server hears from us at least this often; it gives us up after `wal_sender_timeout`, a minute by default.
const REPORT_EVERY: Duration = Duration::from_secs(10);
/// So much is stored at once, however short the time.
const LARGEST_PIECE_BYTES: u64 = 16 << 20;
/// First wait after nothing could be stored, and the longest.
const PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// What was received of a server that is gone is tried to be stored for so long.
const LOST_PATIENCE: Duration = Duration::from_secs(600);
/// A server that asks again so soon, though it was answered and has sent nothing, waits for us before it stops …
const ASKS_AGAIN_WITHIN: Duration = Duration::from_secs(3);
/// … and gets its next answer when something was stored, or after this.
const NEXT_ANSWER: Duration = Duration::from_secs(1);
/// The slot is looked at so soon after the stream has begun.
const FIRST_LOOK: Duration = Duration::from_millis(200);

/// How a stream ended without an error.
pub(super) enum End {
    /// Somebody asked for it.
    Stopped,
    /// The timeline ended.
    Timeline(Box<Ended>),
}

/// What goes on on the next timeline.
pub(super) struct Ended {
    pub client: Client,
    pub to: Vec<Destination>,
    pub watch: Watch,
    /// What straddles into the segment in which the timeline ended.
    pub carry: Carry,
    /// Everything before is safe: never more than the new timeline has in common with the old one.
    pub safe: Lsn,
    pub next: Next,
}

type Storing<'w> = Pin<Box<dyn Future<Output = (Vec<Destination>, Checked<Outcome>)> + 'w>>;
type Looking = Pin<Box<dyn Future<Output = (Watch, Seen)>>>;

/// Why nothing more is received.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Closing {
    Stop,
    TimelineEnd,
    /// The server is gone, perhaps for good: what was received of it is stored all the same.
    Lost,
}

impl Closing {
    /// Whether a failure to store ends it, the server being gone for so long. One that is there keeps what is not safe;
    /// of one that is not, what was received may be all that is left.
    fn gives_up(self, lost_for: Option<Duration>) -> bool {
        match self {
            Self::Stop => true,
            Self::TimelineEnd => false,
            Self::Lost => lost_for.is_some_and(|lost_for| lost_for >= LOST_PATIENCE),
        }
    }
}

pub(super) struct Pump<'w> {
    setting: &'w Setting<'w>,
    world: &'w World<'w>,
    streamed: &'w mut Streamed,
    /// None once the server is gone.
    stream: Option<LogStream>,
    /// Here while nothing is stored.
    to: Option<Vec<Destination>>,
    storing: Option<Storing<'w>>,
    watch: Option<Watch>,
    looking: Option<Looking>,
    look_at: Instant,
    growing: Growing,
    /// The segment before `growing`, until it is stored whole.
    whole: Option<Snapshot>,
    /// What was received beyond `growing` when that was complete.
    beyond: Option<(Lsn, Bytes)>,
    /// Bytes of `growing` that were stored.
    stored: u64,
    /// What is being stored: up to so many bytes of a segment, or all of one.
    job: Option<(Segment, u64)>,
    /// Since when there is something in `growing` that is not.
    waiting_since: Option<Instant>,
    /// Commits wait for us: nothing is held back.
    awaited: bool,
    /// The server wants to know our position: what waits is stored now.
    is_urgent: bool,
    /// When it asked last; none when log came since.
    asked_at: Option<Instant>,
    closing: Option<Closing>,
    /// Why the stream was lost, and when.
    lost: Option<(Failure, Instant)>,
    safe: Lsn,
    report_at: Instant,
    retry_at: Instant,
    pause: Duration,
    told: Told,
}

/// What happened next.
enum Happened {
    Received(Result<Event>),
    Stored(Vec<Destination>, Checked<Outcome>),
    Looked(Watch, Seen),
    Asked,
    Time,
}

impl<'w> Pump<'w> {
    #[expect(clippy::too_many_arguments, reason = "they become the fields")]
    pub fn new(
        setting: &'w Setting<'w>,
        world: &'w World<'w>,
        stream: LogStream,
        to: Vec<Destination>,
        growing: Growing,
        watch: Watch,
        safe: Lsn,
        streamed: &'w mut Streamed,
    ) -> Self {
        let now = Instant::now();
        Self {
            setting,
            world,
            stream: Some(stream),
            to: Some(to),
            storing: None,
            watch: Some(watch),
            looking: None,
            look_at: now + FIRST_LOOK,
            growing,
            whole: None,
            beyond: None,
            stored: 0,
            waiting_since: None,
            awaited: false,
            is_urgent: false,
            asked_at: None,
            job: None,
            closing: None,
            lost: None,
            safe,
            report_at: now + REPORT_EVERY,
            retry_at: now,
            pause: PAUSE,
            told: Told::default(),
            streamed,
        }
    }

    /// Runs until the timeline ends or somebody asks to stop; what was received is stored first.
    pub async fn run(mut self) -> Result<End> {
        loop {
            self.begin_to_store();
            self.begin_to_look();
            self.let_go();
            if self.closing.is_some() && self.storing.is_none() && (self.is_stored() || self.gives_up()) {
                return self.end().await;
            }
            match self.next().await {
                Happened::Received(Ok(event)) => self.received(event).await?,
                Happened::Received(Err(failure)) => self.lose(failure),
                Happened::Stored(to, outcome) => {
                    (self.to, self.storing) = (Some(to), None);
                    self.stored(outcome).await?;
                }
                Happened::Looked(watch, seen) => self.looked(watch, seen),
                Happened::Asked => self.closing = Some(Closing::Stop),
                Happened::Time if Instant::now() >= self.report_at => self.report().await,
                Happened::Time => {}
            }
        }
    }

    async fn next(&mut self) -> Happened {
        let wake_at = self.wake_at();
        let listens = self.closing.is_none() && !self.growing.is_whole();
        let is_asked = self.closing == Some(Closing::Stop);
        if let Some(stream) = self.stream.as_mut().filter(|_| !listens) {
            stream.rest();
        }
        let Self { stream, storing, looking, setting, .. } = self;
        tokio::select! {
            (to, outcome) = poll(storing) => Happened::Stored(to, outcome),
            event = listen(stream), if listens => Happened::Received(event),
            (watch, seen) = poll(looking) => Happened::Looked(watch, seen),
            () = setting.cancel.cancelled(), if !is_asked => Happened::Asked,
            () = sleep_until(wake_at) => Happened::Time,
        }
    }

    /// When there is something to do though nothing happens.
    fn wake_at(&self) -> Instant {
        let store_at = (self.storing.is_none() && !self.is_stored()).then(|| self.store_at().max(self.retry_at));
        let look_at = self.watch.as_ref().map(|_| self.look_at);
        [store_at, look_at].into_iter().flatten().fold(self.report_at, Instant::min)
    }

    /// When what waits is stored, unless a failure is waited out.
    fn store_at(&self) -> Instant {
        let unstored = self.growing.storable().saturating_sub(self.stored);
        let is_asked = self.awaited || self.is_urgent || self.closing.is_some();
        let at_once = is_asked || self.whole.is_some() || unstored >= LARGEST_PIECE_BYTES;
        let since = self.waiting_since.filter(|_| !at_once);
        since.map_or(self.retry_at, |since| since + self.setting.options.flush)
    }

    /// Whether everything that was received is stored.
    fn is_stored(&self) -> bool {
        self.whole.is_none() && self.growing.storable() <= self.stored
    }

    /// Whether repositories that do not answer are left alone because the stream is over.
    fn gives_up(&self) -> bool {
        let lost_for = self.lost.as_ref().map(|(_, at)| at.elapsed());
        self.retry_at > Instant::now() && self.closing.is_some_and(|closing| closing.gives_up(lost_for))
    }

    fn begin_to_store(&mut self) {
        let now = Instant::now();
        if self.is_stored() || self.retry_at > now || self.store_at() > now {
            return;
        }
        let Some(to) = self.to.take() else { return };
        let job = match &self.whole {
            Some(whole) => Job::Whole(whole.clone()),
            None => {
                (self.waiting_since, self.is_urgent) = (None, false);
                Job::Pieces(self.growing.snapshot())
            }
        };
        self.job = match &job {
            Job::Whole(snapshot) | Job::Pieces(snapshot) => Some((snapshot.segment, snapshot.raw.len() as u64)),
            Job::History(..) => None,
        };
        self.storing = Some(Box::pin(round::run(to, self.world, job, self.stream.is_some())));
    }

    fn begin_to_look(&mut self) {
        if self.look_at <= Instant::now()
            && let Some(watch) = self.watch.take()
        {
            self.looking = Some(Box::pin(watch.look(self.world.size())));
        }
    }

    /// Closes the connection. Whoever asked to stop does not wait longer for that.
    fn lose(&mut self, failure: Failure) {
        self.stream = None;
        self.lost.get_or_insert((failure, Instant::now()));
        self.closing = self.closing.filter(|closing| *closing == Closing::Stop).or(Some(Closing::Lost));
    }

    async fn received(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Log { start, bytes } => {
                self.asked_at = None;
                self.streamed.received_bytes += bytes.len() as u64;
                self.beyond = Some((start, bytes));
                self.take_in().await
            }
            Event::Silence => {
                self.report().await;
                Ok(())
            }
            Event::Alive { asks: false } => Ok(()),
            Event::Alive { asks: true } => {
                self.asked().await;
                Ok(())
            }
            Event::TimelineEnded => {
                self.closing = Some(Closing::TimelineEnd);
                Ok(())
            }
        }
    }

    /// The server wants to know our position. One that stops asks at every answer anew, until all it sent is stored:
    /// where nothing can be stored now it would never stop.
    async fn asked(&mut self) {
        let now = Instant::now();
        self.is_urgent = true;
        let asks_again = self.asked_at.replace(now).is_some_and(|before| now.duration_since(before) < ASKS_AGAIN_WITHIN);
        match asks_again {
            false => self.report().await,
            true if self.is_failing() => self.lose(held_up()),
            true => self.report_at = self.report_at.min(now + NEXT_ANSWER),
        }
    }

    /// Nothing more is received, and nothing can be stored: a server that stops would wait for us to listen again.
    fn let_go(&mut self) {
        if self.closing.is_none() && self.growing.is_whole() && self.is_failing() {
            self.lose(held_up());
        }
    }

    /// Whether nothing could be stored when it was tried last.
    fn is_failing(&self) -> bool {
        self.pause > PAUSE
    }

    /// Adds what was received to the segment, and to the next one if there is room for it.
    async fn take_in(&mut self) -> Result<()> {
        while !self.growing.is_whole()
            && let Some((start, bytes)) = self.beyond.take()
        {
            let before = self.growing.position();
            let rest = self.growing.append(start, bytes)?;
            if self.growing.storable() > self.stored {
                self.waiting_since.get_or_insert_with(Instant::now);
            }
            let taken = self.growing.position().bytes_since(before);
            self.beyond = (!rest.is_empty()).then(|| (start.plus(taken), rest));
            self.turn_over().await?;
        }
        Ok(())
    }

    /// Puts a segment that is complete aside to be stored whole, when the one before it is stored.
    async fn turn_over(&mut self) -> Result<()> {
        if !self.growing.is_whole() || self.whole.is_some() {
            return Ok(());
        }
        let whole = self.growing.take();
        let reading = whole.clone();
        let carry = tokio::task::spawn_blocking(move || reading.carry_out()).await;
        let carry = carry.map_err(|error| Error::failed("cannot read a segment").caused_by(error))?;
        self.growing = Growing::new(whole.segment.next(), whole.size, carry, 0);
        (self.whole, self.stored, self.waiting_since) = (Some(whole), 0, None);
        Ok(())
    }

    async fn stored(&mut self, outcome: Checked<Outcome>) -> Result<()> {
        let mut outcome = match outcome {
            Ok(outcome) => outcome,
            Err(error) if error.kind() == ErrorKind::Contradicted => return Err(Failure::Final(error)),
            Err(error) => Outcome { errors: vec![("of this host".to_owned(), error)], ..Outcome::default() },
        };
        // What a server sent that is gone cannot be asked for again, and who asked to stop does not wait for it.
        let asks_again = self.stream.is_some() && self.closing != Some(Closing::Stop);
        if let Some(refusal) = outcome.refused.take()
            && (asks_again || matches!(refusal, Failure::Final(_)))
        {
            return Err(refusal);
        }
        for warning in &outcome.warnings {
            self.world.progress.warn(warning);
        }
        for news in self.told.news(&outcome, self.world.needed) {
            self.world.progress.warn(&news);
        }
        let Some((segment, bytes)) = self.job.take().filter(|_| outcome.stored.len() >= self.world.needed) else {
            self.retry_at = Instant::now() + self.pause;
            self.pause = (self.pause * 2).min(self.setting.options.longest_pause.clamp(PAUSE * 2, LONGEST_PAUSE));
            return Ok(());
        };
        self.pause = PAUSE;
        if self.whole.as_ref().is_some_and(|whole| whole.segment == segment && whole.raw.len() as u64 == bytes) {
            self.whole = None;
            self.streamed.segments += u64::from(!outcome.is_cut);
        } else {
            self.streamed.flushes += 1;
            if self.growing.segment == segment {
                self.stored = bytes;
            }
        }
        self.report().await;
        self.turn_over().await?;
        self.take_in().await
    }

    fn looked(&mut self, watch: Watch, seen: Seen) {
        (self.watch, self.looking, self.look_at) = (Some(watch), None, Instant::now() + watch::EVERY);
        self.awaited = seen.awaited.unwrap_or(self.awaited);
        if let Some(warning) = seen.warning {
            self.world.progress.warn(&warning);
        }
    }

    /// Tells the server what is safe.
    async fn report(&mut self) {
        if let Some(to) = &self.to {
            self.safe = self.safe.max(plan::safe(to.iter().map(Destination::reached).collect(), self.world.needed));
        }
        if self.safe > Lsn(0) {
            self.streamed.safe_lsn = self.safe;
        }
        self.report_at = Instant::now() + REPORT_EVERY;
        let Some(stream) = &mut self.stream else { return };
        if let Err(failure) = stream.report(self.safe).await {
            self.lose(failure);
        }
        killpoint::reach("stream.reported");
    }

    async fn end(mut self) -> Result<End> {
        self.report().await;
        let is_stored = self.is_stored();
        if let Some((failure, _)) = self.lost {
            if !is_stored {
                self.world.progress.warn("what was received last is not stored: only the server has it");
            }
            return Err(failure);
        }
        let stream = self.stream.ok_or_else(|| Error::failed("there is no stream"))?;
        if self.closing == Some(Closing::Stop) {
            if !is_stored {
                self.world.progress.warn("what was received last is not stored yet: the server keeps it");
            }
            stream.end(self.safe).await?;
            return Ok(End::Stopped);
        }
        let (client, next) = stream.follow().await?;
        let ended = Error::failed(format!("the server ended its stream of {}", client.place()));
        let next = next.ok_or(Failure::Passing(ended))?;
        let watch = match (self.watch, self.looking) {
            (Some(watch), _) => watch,
            (None, Some(looking)) => looking.await.0,
            (None, None) => return Err(Error::failed("the watch of the slot is gone").into()),
        };
        let mut to = self.to.ok_or_else(|| Error::failed("a store is still under way"))?;
        let safe = destination::branch(&mut to, self.safe, next.start);
        Ok(End::Timeline(Box::new(Ended { client, to, watch, carry: self.growing.carry, safe, next })))
    }
}

/// The slot keeps what is not stored, whether we are connected or not.
fn held_up() -> Failure {
    Failure::Passing(Error::failed("too few repositories take the log, and the server is not to wait for them"))
}

/// What comes; never anything once the server is gone.
async fn listen(stream: &mut Option<LogStream>) -> Result<Event> {
    match stream {
        Some(stream) => stream.event().await,
        None => std::future::pending().await,
    }
}

/// What a future comes to; never anything while there is none.
async fn poll<T>(future: &mut Option<Pin<Box<dyn Future<Output = T> + '_>>>) -> T {
    match future {
        Some(future) => future.as_mut().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_lost_server_sent_last_is_not_given_up_after_one_failure() {
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        assert!(!Closing::Lost.gives_up(seconds(1)) && !Closing::Lost.gives_up(seconds(599)));
        assert!(Closing::Lost.gives_up(seconds(600)) && Closing::Stop.gives_up(None) && Closing::Stop.gives_up(seconds(1)));
        assert!(!Closing::TimelineEnd.gives_up(None));
    }
}
