//! The log, ahead of PostgreSQL's archiver: of each source a socket, where `archive push` asks, and a thread that stores.
//!
//! PostgreSQL hands over one file at a time and waits for each. Once it has asked for one, those that wait behind it are
//! stored as well, several at a time, and later asked for in vain: they are durable by then. What is said of a file, and
//! when, is [`crate::engine::archive::handover`]'s; a file is stored exactly as `archive push` stores it. Each source has
//! a thread and a runtime of its own, connections of its own, and so many bytes at a time: no backup can starve it.
//! Nothing is stored that nobody asked for, or that does not wait behind what somebody asked for.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::watch;

use super::Config;
use super::log::{Level, Log};
use crate::base::{Engine, Error, Result, SourceName};
use crate::cli::background;
use crate::cli::commands::archive::enough::Wanted;
use crate::cli::commands::archive::handover_socket;
use crate::cli::config::{RepositorySettings, Settings};
use crate::cli::context::Context;
use crate::cli::scope::{self, Use};
use crate::codec::FrameDigest;
use crate::engine::archive::handover::{self, Answer, Ledger, Request, Stored};
use crate::engine::archive::push::{self, Company, Pushed};
use crate::engine::archive::socket;
use crate::engine::{Scope, Writing};
use crate::store::layer::bulkhead::{Bulkhead, Stream};

/// Files stored at one time …
const MOST_FILES: usize = 8;
/// … and no more than so many bytes of them: they are held in memory, once for each repository.
const MOST_BYTES: u64 = 64 << 20;
/// Calls to a repository at one time.
const MOST_CALLS: usize = 16;
/// An open repository is opened anew after so long: its keys may have changed.
const OPEN_FOR: Duration = Duration::from_secs(60);
/// Pushes of one source that are answered at one time. PostgreSQL has one; whoever is not answered stores the file itself.
const MOST_ASKING: usize = 32;

/// The archivers of all sources; they stop, and their sockets go, when this does.
pub(super) struct Archivers {
    context: Arc<Context>,
    config: watch::Receiver<Arc<Config>>,
    log: Log,
    running: BTreeMap<SourceName, (Arc<Ledger>, PathBuf)>,
    /// Those that could not be started; tried again with another configuration.
    refused: BTreeSet<SourceName>,
    seen: Option<Arc<Config>>,
}

impl Archivers {
    /// None yet.
    pub(super) fn new(context: &Context, config: watch::Receiver<Arc<Config>>, log: Log) -> Self {
        let Context { global, progress, cancel } = context;
        let context = Context { global: global.clone(), progress: Arc::clone(progress), cancel: cancel.clone() };
        Self { context: Arc::new(context), config, log, running: BTreeMap::new(), refused: BTreeSet::new(), seen: None }
    }

    /// One for each cluster of the configuration. Where one cannot be started, pushes store their files themselves.
    pub(super) fn start_missing(&mut self) {
        // The others of a source's repositories would be lacking, and nobody would know.
        if self.context.global.repository.is_some() {
            return;
        }
        let config = self.config.borrow().clone();
        if !self.seen.as_ref().is_some_and(|seen| Arc::ptr_eq(seen, &config)) {
            self.refused.clear();
            self.seen = Some(Arc::clone(&config));
        }
        self.forget_ended();
        let clusters = config.settings.sources.values().filter(|source| source.kind.engine() == Engine::Postgres);
        for source in clusters.map(|source| &source.name) {
            if self.running.contains_key(source) || self.refused.contains(source) {
                continue;
            }
            match self.start(source, &config.settings) {
                Ok(started) => drop(self.running.insert(source.clone(), started)),
                Err(error) => {
                    let told = format!("archive push is not handed over: {}", error.summary());
                    self.log.say(Level::Warn, Some(source), None, &told);
                    self.refused.insert(source.clone());
                }
            }
        }
    }

    /// Those whose thread has ended, which only a bug can do: another is started in their place.
    fn forget_ended(&mut self) {
        if self.context.cancel.is_cancelled() {
            return;
        }
        let (log, mut ended) = (self.log, Vec::new());
        self.running.retain(|source, (ledger, _)| {
            if ledger.is_closed() {
                ended.push(source.clone());
            }
            !ledger.is_closed()
        });
        for source in ended {
            log.say(Level::Error, Some(&source), None, "what archives ahead has ended, which is a bug; it is started again");
        }
    }

    fn start(&self, source: &SourceName, settings: &Settings) -> Result<(Arc<Ledger>, PathBuf)> {
        let path = handover_socket(&settings.state_dir, source);
        let failed = |what: &'static str| move |error: io::Error| Error::failed(what).caused_by(error);
        let listener = socket::bind(&path).map_err(|error| Error::io("listen at", &path, error))?;
        let ledger = Arc::new(Ledger::default());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed("cannot start"))?;
        let (context, config, log) = (Arc::clone(&self.context), self.config.clone(), self.log);
        let (own, kept) = (source.clone(), Arc::clone(&ledger));
        let work = move || {
            // Whatever ends the work, a panic too, nobody is to wait for it.
            let _closing = Closing(Arc::clone(&kept));
            let archiver = Archiver { context, source: own, config, log, ledger: kept, told: RefCell::default() };
            runtime.block_on(archiver.run());
            runtime.shutdown_background();
        };
        let thread = |name: &str| thread::Builder::new().name(format!("{name}-{source}"));
        thread("archiver").spawn(work).map_err(failed("cannot start a thread"))?;
        let (config, told) = (self.config.clone(), Mutex::default());
        let desk = Desk { source: source.clone(), config, ledger: Arc::clone(&ledger), log, told };
        thread("handover").spawn(move || serve(&listener, &Arc::new(desk))).map_err(failed("cannot start a thread"))?;
        Ok((ledger, path))
    }
}

impl Drop for Archivers {
    fn drop(&mut self) {
        for (ledger, path) in self.running.values() {
            ledger.close();
            // One that is left behind says no more than that nobody listens.
            let _ = fs::remove_file(path);
        }
    }
}

/// Closes the ledger when it is dropped.
struct Closing(Arc<Ledger>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Who answers.
struct Desk {
    source: SourceName,
    config: watch::Receiver<Arc<Config>>,
    ledger: Arc<Ledger>,
    log: Log,
    /// Why pushes are sent away, as it was told since one was answered.
    told: Mutex<BTreeSet<&'static str>>,
}

fn serve(listener: &std::os::unix::net::UnixListener, desk: &Arc<Desk>) {
    let asking = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        let Ok(stream) = stream else {
            // Out of descriptors, say: it must not spin.
            thread::sleep(Duration::from_millis(100));
            continue;
        };
        if asking.fetch_add(1, Ordering::SeqCst) >= MOST_ASKING {
            asking.fetch_sub(1, Ordering::SeqCst);
            continue;
        }
        let (desk, one) = (Arc::clone(desk), Arc::clone(&asking));
        let answer = move || {
            // Whoever asked and is gone asks again.
            let _ = socket::serve(stream, |request: &Request, patience| desk.answer(request, patience));
            one.fetch_sub(1, Ordering::SeqCst);
        };
        if thread::Builder::new().name("handover".into()).spawn(answer).is_err() {
            asking.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

impl Desk {
    fn answer(&self, request: &Request, patience: Duration) -> Option<Answer> {
        let config = self.config.borrow().clone();
        let settings = &config.settings;
        if let Some(why) = self.difference(request, settings) {
            if self.told().insert(why) {
                self.log.say(Level::Warn, Some(&self.source), None, &format!("archive push is left to itself: {why}"));
            }
            return Some(Answer::yourself(why));
        }
        let Some(source) = settings.sources.get(&self.source) else {
            return Some(Answer::yourself("it does not know the source"));
        };
        if !request.file.is_absolute() || !handover::is_of_the_log(&request.file) {
            return Some(Answer::yourself("that is no file of the log"));
        }
        // The policy is read again each time: it may ask for more copies than when the file was stored.
        let under = match Wanted::new(settings, source, None) {
            Ok(wanted) => wanted.under(),
            Err(error) => return Some(Answer::yourself(error.summary())),
        };
        let answer = self.ledger.ask(&request.file, &under, patience);
        if matches!(answer, Some(Answer::Durable(_))) {
            self.told().clear();
        }
        answer
    }

    /// What of `request` is not as here.
    fn difference(&self, request: &Request, settings: &Settings) -> Option<&'static str> {
        if request.version != env!("CARGO_PKG_VERSION") {
            return Some("it is of another version of lifeboat; start the scheduler again");
        }
        if request.source != self.source || request.config_file != settings.config_file {
            return Some("it has another configuration file");
        }
        let same = request.config_sha256 == settings.config_sha256;
        (!same).then_some("the configuration file was changed; have it read again with SIGHUP")
    }

    fn told(&self) -> MutexGuard<'_, BTreeSet<&'static str>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who stores.
struct Archiver {
    context: Arc<Context>,
    source: SourceName,
    config: watch::Receiver<Arc<Config>>,
    log: Log,
    ledger: Arc<Ledger>,
    /// The trouble that was told last.
    told: RefCell<Option<String>>,
}

/// A configuration, and the repositories that were opened as it says, by name. A file is stored within one generation from
/// its beginning to its end: what an older one opens late is no other's.
struct Generation {
    config: Arc<Config>,
    open: RefCell<BTreeMap<String, Rc<Open>>>,
}

impl Generation {
    fn new(config: Arc<Config>) -> Rc<Self> {
        Rc::new(Self { config, open: RefCell::default() })
    }

    /// So many files of `source` are stored at one time. Where the line is what limits, each takes its turn: what is asked
    /// for is not to share it with what nobody waits for.
    fn most_files(&self, source: &SourceName) -> usize {
        let settings = &self.config.settings;
        let Some(source) = settings.sources.get(source) else { return MOST_FILES };
        let mut repositories = settings.repositories_of(source, None).into_iter().flatten();
        if repositories.any(|chosen| chosen.archive_limit_rate_bytes.is_some()) { 1 } else { MOST_FILES }
    }
}

/// A repository, and what is shared by the pushes that go on in it.
struct Open {
    scope: Scope,
    writing: Writing,
    company: Company,
    since: Instant,
}

impl Archiver {
    async fn run(&self) {
        let mut watched = self.config.clone();
        let mut storing = FuturesUnordered::new();
        let bytes = Bytes::default();
        let mut generation = Generation::new(watched.borrow_and_update().clone());
        while !self.context.cancel.is_cancelled() {
            let most_files = generation.most_files(&self.source);
            while storing.len() < most_files && (storing.is_empty() || bytes.0.get() < MOST_BYTES) {
                let Some((file, age)) = self.ledger.next() else { break };
                let (generation, held) = (Rc::clone(&generation), bytes.hold(&file));
                storing.push(async move {
                    let outcome = self.store(&generation, &file).await;
                    drop(held);
                    (file, age, outcome)
                });
            }
            tokio::select! {
                biased;
                () = self.context.cancel.cancelled() => {}
                changed = watched.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    // Seen here and nowhere else: no change is passed over.
                    generation = Generation::new(watched.borrow_and_update().clone());
                    self.ledger.start_anew();
                }
                Some((file, age, outcome)) = storing.next() => self.settle(&generation, file, age, outcome),
                () = self.ledger.asked.notified() => {}
            }
        }
    }

    fn settle(&self, generation: &Generation, file: PathBuf, age: u64, outcome: Result<Stored>) {
        let mut told = self.told.borrow_mut();
        match &outcome {
            Ok(_) if told.take().is_some() => self.log.say(Level::Info, Some(&self.source), None, "the log is archived again"),
            Ok(_) => {}
            Err(error) => {
                generation.open.borrow_mut().clear();
                let summary = error.summary();
                if told.as_ref() != Some(&summary) {
                    let what = format!("{} is left to archive push: {summary}", file.display());
                    self.log.say(Level::Warn, Some(&self.source), None, &what);
                    *told = Some(summary);
                }
            }
        }
        self.ledger.settle(file, age, outcome.map_err(|error| error.summary()));
    }

    async fn store(&self, generation: &Generation, file: &Path) -> Result<Stored> {
        let settings = &generation.config.settings;
        let source = settings.source(&self.source)?;
        let wanted = Wanted::new(settings, source, None)?;
        let unreadable = |error| Error::io("read", file, error);
        let (began, before) = (SystemTime::now(), handover::stamp(file).map_err(unreadable)?);
        let content = content_of(file).await.map_err(unreadable)?;
        let ids = RefCell::default();
        let push = |chosen| self.push(generation, chosen, file, &ids);
        let (durable, raw_sha256) = wanted.store(file, push).await?;
        if !durable.queued.is_empty() {
            background::deliver(&self.context, settings, source);
        }
        // Whether these are the bytes that were stored is known only of a file that stayed what it was.
        if handover::stamp(file).map_err(unreadable)? != before {
            return Err(Error::failed(format!("{} changed while it was stored", file.display())));
        }
        let (settled, since) = (handover::is_settled(&before, began), Instant::now());
        let (config_sha256, repository_ids) = (settings.config_sha256, ids.into_inner());
        Ok(Stored { stamp: before, settled, raw_sha256, content, durable, config_sha256, repository_ids, since })
    }

    /// Notes in `ids` which repository it was.
    async fn push(
        &self,
        generation: &Generation,
        chosen: &RepositorySettings,
        file: &Path,
        ids: &RefCell<BTreeMap<String, String>>,
    ) -> Result<Pushed> {
        let settings = &generation.config.settings;
        let known = generation.open.borrow().get(&chosen.name).filter(|open| open.since.elapsed() < OPEN_FOR).cloned();
        let open = match known {
            Some(open) => open,
            None => {
                let mut layers = scope::layers(&self.context, chosen, Use::ArchivePush);
                layers.bulkhead = Some((Arc::new(Bulkhead::new(MOST_CALLS, 1)), Stream::Log));
                let scope = scope::open(&self.context, settings, chosen, &self.source, &layers).await?;
                let (writing, company) = (scope::writing(settings)?, Company::default());
                let open = Rc::new(Open { scope, writing, company, since: Instant::now() });
                // Another may have opened it meanwhile: then that one counts, so that all share it.
                let mut all = generation.open.borrow_mut();
                let entry = all.entry(chosen.name.clone()).or_insert_with(|| Rc::clone(&open));
                if entry.since.elapsed() >= OPEN_FOR {
                    *entry = open;
                }
                self.ledger.note_repository(settings.config_sha256, &chosen.name, entry.scope.repository.id());
                Rc::clone(entry)
            }
        };
        ids.borrow_mut().insert(chosen.name.clone(), open.scope.repository.id().to_owned());
        push::beside(&open.scope, &open.writing, file, &open.company).await
    }
}

/// What whoever asks compares with the file that it has.
async fn content_of(file: &Path) -> io::Result<FrameDigest> {
    let file = file.to_owned();
    let reading = tokio::task::spawn_blocking(move || FrameDigest::of_reader(fs::File::open(file)?));
    reading.await.map_err(io::Error::other)?
}

/// Bytes of the files that are being stored.
#[derive(Clone, Default)]
struct Bytes(Rc<Cell<u64>>);

impl Bytes {
    fn hold(&self, file: &Path) -> Held {
        // One that is not there is not read either.
        let bytes = fs::metadata(file).map_or(0, |metadata| metadata.len());
        self.0.set(self.0.get() + bytes);
        Held { all: self.clone(), bytes }
    }
}

/// Counted until it is dropped.
struct Held {
    all: Bytes,
    bytes: u64,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.all.0.set(self.all.0.get() - self.bytes);
    }
}
