//! `lifeboat promote SOURCE`: the end of a warm standby.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::base::units::{format_bytes, format_duration};
use crate::base::{Error, Result, SourceName, Timestamp, durable};
use crate::cli::args::PromoteArgs;
use crate::cli::config::{Settings, StandbyPlace};
use crate::cli::context::Context;
use crate::cli::exit::Outcome;
use crate::cli::restoring::{self, Plan, Wanted};
use crate::engine::restore::Target;
use crate::engine::restore::prepare::Request;
use crate::engine::standby::marker::Marker;
use crate::engine::standby::plan::{Goal, Position};
use crate::engine::standby::promote::{SourceState, Stage, Standby, Wait, ask_source, put_back, start_log};
use crate::engine::standby::seen;
use crate::source::postgres::connect::{Session, connect};
use crate::source::postgres::conninfo;
use crate::source::postgres::live::leader;
use crate::source::postgres::scratch_server::Account;
use crate::source::postgres::server::ArchiveMode;

/// The document `promote`, version 1; also of a dry run, without what only a promotion knows.
#[derive(Default, Serialize)]
struct Document {
    source: String,
    directory: String,
    target: String,
    /// None when an earlier command's promotion was waited for.
    repository: Option<String>,
    /// `signal`, `restart` or `resumed`.
    way: &'static str,
    /// Where it stood when the command began.
    replayed_lsn: Option<String>,
    replayed_timeline: Option<u32>,
    /// Bytes of log from there to the target.
    remaining_bytes: Option<u64>,
    stop_lsn: Option<String>,
    stop_inclusive: Option<bool>,
    last_commit: Option<Timestamp>,
    first_left_out: Option<Timestamp>,
    done: bool,
    /// That on which it takes writes.
    timeline: Option<u32>,
    /// Whether the server archives its log.
    archives: Option<bool>,
    duration_seconds: Option<f64>,
    notes: Vec<String>,
}

/// Ends the standby, or waits for the end of what an earlier command began.
///
/// # Errors
/// When it is no standby of the source, cannot reach the target, the source lives, or the time is up.
pub async fn run(args: &PromoteArgs, context: &Context) -> Result<Outcome> {
    let began = Instant::now();
    let settings = context.settings()?;
    let (source, directory) = place(args, context, &settings).await?;
    let standby = Standby::open(&directory, &source, users(&settings, &source, &directory)?)?;
    durable::create_dir_all(&settings.state_dir).map_err(|error| Error::io("create", &settings.state_dir, error))?;
    let (progress, cancel) = (context.progress.clone(), context.cancel.clone());
    let wait = Wait { timeout: args.timeout, began, progress, cancel };
    let mut promotion = Promotion {
        log: start_log(&settings.state_dir, &source),
        document: Document { source: source.to_string(), directory: directory.display().to_string(), ..Document::default() },
        args,
        context,
        settings: &settings,
        source: &source,
        standby,
        wait,
    };
    let session = match promotion.standby.stage {
        Stage::Following => promotion.end().await?,
        Stage::Ending | Stage::Ended => promotion.resume().await?,
    };
    let mut document = match session {
        Some(session) => promotion.concluded(&session).await?,
        None => promotion.document,
    };
    document.duration_seconds = document.done.then(|| began.elapsed().as_secs_f64());
    context.result("promote", 1, &document, || text(&document))?;
    Ok(Outcome::Done)
}

/// The source and its standby's directory.
async fn place(args: &PromoteArgs, context: &Context, settings: &Settings) -> Result<(SourceName, PathBuf)> {
    if let Some(dir) = &args.dir {
        let dir = std::path::absolute(dir).map_err(|error| Error::io("find", dir, error))?;
        if let Some(source) = &args.source {
            return Ok((source.clone(), dir));
        }
        let none = || {
            Error::failed(format!("{} is no standby: it was not restored as one", dir.display()))
                .hint("lifeboat restore SOURCE --into DIR --standby   makes one")
        };
        let source = Marker::read(&dir)?.ok_or_else(none)?.source;
        return Ok((source, dir));
    }
    let Some(source) = &args.source else { return Err(Error::usage("say which standby: its source, or --dir DIR")) };
    let postgres = settings.source(source)?.postgres("promote")?;
    match &postgres.standby {
        Some(StandbyPlace::Directory(dir)) => Ok((source.clone(), dir.clone())),
        Some(StandbyPlace::Server(conninfo)) => Ok((source.clone(), directory_of(conninfo, source, context, settings).await?)),
        None => Err(Error::usage(format!("where the standby of {source} is, the configuration does not say"))
            .hint(format!("lifeboat promote {source} --dir DIR"))
            .hint(format!("standby = \"DIR\" in [source.{source}]   says it once and for all"))),
    }
}

/// The data directory of a server on this host: what it says, or where it was when it answered last.
async fn directory_of(conninfo: &str, source: &SourceName, context: &Context, settings: &Settings) -> Result<PathBuf> {
    let info = match async { connect(conninfo).await?.info().await }.await {
        Ok(info) => info,
        Err(error) => {
            let Some(directory) = seen::recall(&settings.state_dir, source, conninfo) else {
                let known = "needs no answer from it, also where a promotion was begun";
                return Err(error.hint(format!("lifeboat promote {source} --dir DIR   {known}")));
            };
            let place = directory.display();
            context.progress.warn(&format!("it does not answer ({}); its directory was {place}", error.summary()));
            return Ok(directory);
        }
    };
    if leader(&info.data_directory)?.is_some() {
        if let Err(error) = seen::remember(&settings.state_dir, source, conninfo, &info.data_directory) {
            context.progress.warn(&format!("where the standby is will not be known without an answer: {}", error.summary()));
        }
        return Ok(info.data_directory);
    }
    Err(Error::failed(format!("the standby of {source} does not run on this host"))
        .detail("its directory", info.data_directory.display().to_string())
        .hint("type the command on the standby's own host"))
}

/// Who may be able to log in to the standby, which has the users of the source.
fn users(settings: &Settings, source: &SourceName, directory: &Path) -> Result<Vec<String>> {
    let mut users = Vec::new();
    if let Ok(postgres) = settings.source(source).and_then(|found| found.postgres("promote")) {
        if let Some(StandbyPlace::Server(conninfo)) = &postgres.standby {
            users.extend(conninfo::user(conninfo));
        }
        users.extend(conninfo::user(&postgres.conninfo));
    }
    users.extend(["postgres".to_owned(), Account::owner_of(directory)?.name]);
    let mut distinct = Vec::new();
    users.into_iter().for_each(|user| {
        if !distinct.contains(&user) {
            distinct.push(user)
        }
    });
    Ok(distinct)
}

struct Promotion<'a> {
    args: &'a PromoteArgs,
    context: &'a Context,
    settings: &'a Settings,
    source: &'a SourceName,
    standby: Standby,
    wait: Wait,
    /// Where what the server writes at its start goes.
    log: PathBuf,
    document: Document,
}

impl Promotion<'_> {
    /// Ends a standby that follows the archive; none after a dry run.
    async fn end(&mut self) -> Result<Option<Session>> {
        let target = self.args.target().unwrap_or(Target::Latest);
        let planned = self.plan(&target).await?;
        let plan = &planned.prepared.plan;
        let data = self.standby.server.data.clone();
        let (source, path, away) = (self.source, &planned.prepared.path, planned.away.as_slice());
        let goal = Goal { source, data: &data, target: &target, path, plan, away };
        let session = self.standby.patient_session(&self.wait).await?;
        if session.is_none() && self.standby.server.is_running()? {
            let why = self.standby.session().await.err().map(|error| format!(" ({})", error.summary())).unwrap_or_default();
            self.document.notes.push(format!("its server lets nobody in{why}: it is stopped, and started again"));
        }
        let at = self.standby.position(session.as_ref()).await?;
        goal.check(&at)?;
        let running = session.filter(|_| self.can_stay_up(&goal, &at));
        self.describe(&goal, &at, planned.scope.repository.name(), running.is_some());
        self.check_source().await?;
        if self.args.dry_run {
            return Ok(None);
        }
        match running {
            Some(session) => {
                let delay = self.standby.catch_up(&session, &goal, &self.wait).await?;
                if let Err(error) = self.ready(&session, &goal).await {
                    return Err(put_back(&session, delay, error).await);
                }
                session.promote().await?;
            }
            None => {
                let name = planned.scope.repository.name();
                let pinned = plan.needs_pieces || !planned.away.is_empty();
                let only = self.context.global.repository.as_deref().or(pinned.then_some(name));
                let command = restoring::command(self.source, self.settings, plan, only)?;
                let log = self.log.clone();
                let ran = tokio::task::block_in_place(|| self.standby.halt(&goal, &log))?;
                if target == Target::Latest
                    && let Err(error) = self.look_again(&goal).await
                {
                    let released = tokio::task::block_in_place(|| self.standby.release(ran, &log));
                    return Err(match released {
                        Ok(()) => error,
                        Err(why) => error.detail("its server", format!("does not follow again: {}", why.summary())),
                    });
                }
                tokio::task::block_in_place(|| self.standby.end_stopped(&goal, &command, &log))?;
            }
        }
        self.standby.wait_for_writes(&self.log, &self.wait).await.map(Some)
    }

    /// What a restore to the target would do: where it would stop counts.
    async fn plan(&self, target: &Target) -> Result<Plan> {
        let repositories = restoring::repositories(self.source, self.context, self.settings)?;
        let incarnation = Some(self.standby.marker.incarnation.clone());
        let request = Request { target: target.clone(), timeline: self.args.timeline, incarnation, backup: None };
        let wanted = Wanted { source: self.source, request, limit_rate: None, identities: &self.settings.encryption };
        restoring::plan(&wanted, self.context, self.settings, &repositories).await.map_err(|error| reworded(&error))
    }

    /// Whether the server can be told to promote as it runs: it fetches the log from the same places as we look at, all of
    /// them answer, and it is on the timeline that counts already. One that lags would go on with an older one beyond where
    /// that was left, as long as it finds log of it.
    fn can_stay_up(&self, goal: &Goal<'_>, at: &Position) -> bool {
        let asks_all =
            self.args.timeline.is_none() && self.context.global.repository.is_none() && self.standby.marker.repository.is_none();
        *goal.target == Target::Latest && asks_all && goal.away.is_empty() && at.timeline == goal.plan.timeline
    }

    /// The last look before a running server is promoted; the marker says so then.
    async fn ready(&mut self, session: &Session, goal: &Goal<'_>) -> Result<()> {
        self.look_again(goal).await?;
        self.standby.check_way(session, goal).await?;
        self.standby.begin(goal.target)
    }

    fn describe(&mut self, goal: &Goal<'_>, at: &Position, repository: &str, stays_up: bool) {
        let (lsn, inclusive) = goal.stop();
        let document = &mut self.document;
        document.target = goal.target.to_string();
        document.repository = Some(repository.to_owned());
        document.way = if stays_up { "signal" } else { "restart" };
        (document.replayed_lsn, document.replayed_timeline) = (Some(at.replayed.to_string()), Some(at.timeline.0));
        document.remaining_bytes = Some(goal.remaining_bytes(at));
        (document.stop_lsn, document.stop_inclusive) = (Some(lsn.to_string()), Some(inclusive));
        document.last_commit = goal.plan.reaches.max(at.last_commit.filter(|_| *goal.target == Target::Latest));
        document.first_left_out = goal.plan.leaves_out;
        document.notes.extend(goal.plan.notes.iter().cloned());
    }

    /// Two servers that take writes contradict each other.
    async fn check_source(&mut self) -> Result<()> {
        let Ok(postgres) = self.settings.source(self.source).and_then(|found| found.postgres("promote")) else { return Ok(()) };
        let conninfo = postgres.primary_conninfo.as_ref().unwrap_or(&postgres.conninfo);
        let living = match ask_source(conninfo, &self.standby.marker.incarnation).await {
            SourceState::IsNone => return Ok(()),
            SourceState::Silent(why) => {
                self.document.notes.push(format!("the source was not reached ({why}): make sure that it is off"));
                return Ok(());
            }
            SourceState::TurnsAway(why) if self.args.force => {
                self.document.notes.push(format!("the source may live ({why}): two servers may take writes"));
                return Ok(());
            }
            SourceState::TurnsAway(why) => {
                return Err(Error::failed(format!("the source {} answers and lets nobody in: it may take writes", self.source))
                    .detail("answer", why)
                    .hint("stop it first, or cut it off: what it writes from now on would be lost")
                    .hint("add --force   if you are sure that it takes no writes"));
            }
            SourceState::TakesWrites(living) => living,
        };
        if self.args.force {
            self.document.notes.push(format!("the source lives ({living}): two servers take writes"));
            return Ok(());
        }
        Err(Error::failed(format!("the source {} lives: its server takes writes", self.source))
            .detail("server", living)
            .hint("stop it first, or cut it off: what it writes from now on would be lost")
            .hint("add --force   if two servers shall take writes, such as for a test"))
    }

    /// Somebody who still writes is noticed by newer log, too.
    async fn look_again(&mut self, goal: &Goal<'_>) -> Result<()> {
        let again = self.plan(goal.target).await?;
        let silent: Vec<&str> = again.away.iter().filter(|name| !goal.away.contains(name)).map(String::as_str).collect();
        if !silent.is_empty() {
            let names = silent.join(", ");
            return Err(Error::failed(format!("repository {names} fell silent meanwhile: the standby was not promoted"))
                .hint("type the same command again   to go on without it"));
        }
        let now = (again.prepared.plan.timeline, again.prepared.plan.consistent_at);
        if now <= (goal.plan.timeline, goal.plan.consistent_at) {
            return Ok(());
        }
        let (newer, source) = (format!("{} on timeline {}", now.1, now.0), self.source);
        if self.args.force {
            self.document.notes.push(format!("newer log arrived meanwhile, up to {newer}: somebody writes"));
            return Ok(());
        }
        Err(Error::failed(format!("newer log of {source} arrived meanwhile: its server, or one that has its log, still writes"))
            .detail("was", format!("{} on timeline {}", goal.plan.consistent_at, goal.plan.timeline))
            .detail("is", newer)
            .hint("stop the source first; the standby goes on following")
            .hint("type the same command again   if that was the last of it")
            .hint("add --force   if two servers shall take writes"))
    }

    /// Waits for the end of what an earlier command began, starting the server where it does not run.
    async fn resume(&mut self) -> Result<Option<Session>> {
        let Some(promoting) = self.standby.marker.promoting.clone() else {
            return Err(Error::failed("no promotion was begun: this is a bug"));
        };
        if let Some(asked) = self.args.target().map(|target| target.to_string()).filter(|asked| *asked != promoting.target) {
            return Err(Error::failed(format!("a promotion of the standby of {} is under way to another target", self.source))
                .detail("asked for", asked)
                .detail("under way", format!("{}, since {}", promoting.target, promoting.began.human_seconds()))
                .hint(format!("lifeboat promote {} --dir '{}'   goes on with it", self.source, self.document.directory))
                .hint("lifeboat restore … --standby --delta   begins anew"));
        }
        self.document.target = promoting.target;
        self.document.way = "resumed";
        if self.standby.stage == Stage::Ending && !self.standby.server.is_running()? {
            self.check_source().await?;
        }
        if self.args.dry_run {
            self.document.notes.push(format!("a promotion is under way since {}", promoting.began.human_seconds()));
            return Ok(None);
        }
        tokio::task::block_in_place(|| self.standby.start_again(&self.log))?;
        self.standby.wait_for_writes(&self.log, &self.wait).await.map(Some)
    }

    /// The server takes writes: what it says of itself.
    async fn concluded(mut self, session: &Session) -> Result<Document> {
        let info = session.info().await?;
        let replayed = session.following().await?.last_commit;
        let document = &mut self.document;
        document.done = true;
        document.last_commit = replayed.or(document.last_commit);
        document.timeline = Some(info.timeline.0);
        document.archives = Some(info.archive_mode != ArchiveMode::Off);
        self.standby.finish()?;
        Ok(self.document)
    }
}

/// The refusal of a plan, whose hints are those of a restore, as far as they fit a promotion.
fn reworded(error: &Error) -> Error {
    let named = Error::new(error.kind(), error.message());
    let named = error.details().iter().fold(named, |error, (label, value)| error.detail(label.clone(), value.clone()));
    let named = match std::error::Error::source(error) {
        Some(cause) => named.caused_by(cause.to_string()),
        None => named,
    };
    // A promotion knows its directory, and neither chooses a backup nor a cluster.
    let fits = |hint: &&String| !hint.contains("--backup") && !hint.contains("--incarnation");
    let fitting = error.hints().iter().filter(fits);
    fitting.fold(named, |error, hint| error.hint(hint.replace("lifeboat restore", "lifeboat promote").replace(" --into DIR", "")))
}

fn text(document: &Document) -> String {
    let Document { source, directory, target, .. } = document;
    let mut lines: Vec<(&str, String)> = Vec::new();
    let on = |timeline: Option<u32>| timeline.map(|timeline| format!(" on timeline {timeline}")).unwrap_or_default();
    if let Some(lsn) = &document.replayed_lsn {
        let rest = document.remaining_bytes.unwrap_or(0);
        let rest = if rest > 0 { format!(", {} before the target", format_bytes(rest)) } else { String::new() };
        lines.push(("stood at", format!("{lsn}{}{rest}", on(document.replayed_timeline))));
    }
    match (&document.stop_lsn, document.stop_inclusive) {
        (Some(lsn), Some(true)) => lines.push(("stop", format!("after the record at {lsn}"))),
        (Some(lsn), _) => lines.push(("stop", format!("before the record at {lsn}"))),
        (None, _) => {}
    }
    lines.extend(document.last_commit.map(|time| ("last commit", time.human())));
    lines.extend(document.first_left_out.map(|time| ("left out", format!("everything from {} on", time.human()))));
    lines.extend(document.notes.iter().map(|note| ("note", note.clone())));
    let heading = if document.done {
        let took = document.duration_seconds.map_or_else(String::new, |seconds| {
            format!(" after {}", format_duration(Duration::try_from_secs_f64(seconds).unwrap_or_default()))
        });
        if document.archives == Some(false) {
            lines.push(("note", "it does not archive its log: archive_mode = on, and a restart".to_owned()));
        }
        lines.push(("next", format!("lifeboat check {source}   once its conninfo names this server")));
        lines.push(("", format!("lifeboat backup {source} --type full   protects it from here on")));
        format!("promoted the standby of {source} in {directory}:\nit takes writes{}{took}\n", on(document.timeline))
    } else {
        let how = match document.way {
            "signal" => "without a stop of its server, once it has replayed what is archived",
            "restart" => "with a restart of its server",
            _ => "as was begun",
        };
        lines.push(("how", how.to_owned()));
        format!("would promote the standby of {source} in {directory}\nto {target}\n")
    };
    let lines: String = lines.iter().map(|(label, value)| format!("  {label:11}  {value}\n")).collect();
    format!("{heading}{lines}")
}
