//! The facts, judged: what `status` tells of one source. Also the document: names are stable, units are in them.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::facts::{BackupPoint, Facts, Frontier, Held, RepositoryFacts, SystemFacts};
use super::forecast::{self, Size};
use super::history::Sample;
use super::rpo::{self, Exposure, Scope, ScopeFacts, Survival};
use super::rto::{self, Declared, Prediction, Work};
use super::schedule::{self, Standing};
use super::standby::{self, StandbyReport};
use super::verdict::{self, Findings, Reason, Verdict};
use crate::base::{BackupId, Engine, Timestamp};
use crate::engine::archive::slot::Slot;
use crate::repo::evidence::Evidence;

/// What `status` tells of one source.
#[derive(Clone, Debug, Serialize)]
pub struct StatusReport {
    /// The source.
    pub source: String,
    /// What kind of system it is.
    pub kind: Engine,
    /// The moment of which it speaks, by the database's clock where that answers.
    pub time: Timestamp,
    /// Whether the source would survive.
    pub verdict: Verdict,
    /// Why, the worst first.
    pub reasons: Vec<Reason>,
    /// What was declared; none when the source names no policy.
    pub objectives: Option<ObjectivesReport>,
    /// What would be lost, by what is lost with the server.
    pub scopes: Vec<ScopeReport>,
    /// How long a recovery would take.
    pub rto: RtoReport,
    /// The warm standby, where one is declared.
    pub standby: Option<StandbyReport>,
    /// What can be restored from the best repository.
    pub window: Vec<IntervalReport>,
    /// The drills.
    pub drills: DrillsReport,
    /// The newest backup of each type.
    pub backups: Vec<BackupReport>,
    /// How many repositories hold what.
    pub copies: CopiesHeld,
    /// The repositories.
    pub repositories: Vec<RepositoryReport>,
    /// The server; none where there is none.
    pub server: Option<ServerReport>,
    /// The database file or directory, where it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathReport>,
    /// When growth breaks the RTO; none when that is not to be seen.
    pub forecast: Option<ForecastReport>,
}

/// What was declared.
#[derive(Clone, Debug, Serialize)]
pub struct ObjectivesReport {
    /// The policy's name.
    pub policy: String,
    /// Longest stretch of commits that may be lost.
    pub rpo_seconds: f64,
    /// Longest time to a server that takes writes.
    pub rto_seconds: f64,
    /// Age after which a drill proves nothing.
    pub drill_max_age_seconds: f64,
}

/// What an exposure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// `rpo_seconds` is known.
    Exact,
    /// It is at most `rpo_seconds`.
    UpperBound,
    /// Everything would be lost; there is no `rpo_seconds`.
    Infinite,
    /// Nobody who could tell answers, or the clocks contradict the log; there is no `rpo_seconds`.
    Unknown,
    /// The configuration does not say enough; there is no `rpo_seconds`.
    NotAssessed,
}

/// One scope.
#[derive(Clone, Debug, Serialize)]
pub struct ScopeReport {
    /// `host_lost`, `site_lost` or `credentials_stolen`.
    pub scope: &'static str,
    /// Its own verdict; none when objectives are not held against it.
    pub verdict: Option<Verdict>,
    /// What `rpo_seconds` is.
    pub kind: Kind,
    /// What would be lost now.
    pub rpo_seconds: Option<f64>,
    /// What of that is certain: as much when it is exact, 0 when nothing is.
    pub rpo_at_least_seconds: Option<f64>,
    /// Why it is not known exactly.
    pub why: Option<String>,
    /// The repository that would be restored from.
    pub repository: Option<String>,
    /// The worst of the last 24 hours.
    pub worst_24h_seconds: Option<f64>,
    /// The worst of the last 30 days.
    pub worst_30d_seconds: Option<f64>,
}

/// How long a recovery would take.
#[derive(Clone, Debug, Serialize)]
pub struct RtoReport {
    /// Predicted, detection included; none when it was never rehearsed or there is nothing to restore.
    pub predicted_seconds: Option<f64>,
    /// By what: `restore`, or `standby` where that is promoted sooner.
    pub by: Option<&'static str>,
    /// Predicted for a restore, also where a standby is faster.
    pub restore_seconds: Option<f64>,
    /// Its parts.
    pub parts: Vec<PartReport>,
    /// Drills that it rests on.
    pub drills: usize,
    /// What the last drill that passed took, without detection.
    pub measured_seconds: Option<f64>,
    /// Stored bytes of the backups that may have to be fetched.
    pub fetch_bytes: Option<u64>,
    /// Bytes that would be written.
    pub write_bytes: Option<u64>,
    /// Bytes of log that would be replayed.
    pub replay_bytes: Option<u64>,
}

/// A part of a predicted recovery.
#[derive(Clone, Debug, Serialize)]
pub struct PartReport {
    /// Which.
    pub part: &'static str,
    /// How long.
    pub seconds: f64,
}

/// A stretch of the recovery window.
#[derive(Clone, Debug, Serialize)]
pub struct IntervalReport {
    /// First moment.
    pub from: Timestamp,
    /// Last moment that is certain.
    pub to: Timestamp,
    /// The segment that is missing after it, of a cluster's log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missing: Option<String>,
}

/// The drills.
#[derive(Clone, Debug, Serialize)]
pub struct DrillsReport {
    /// The newest.
    pub last: Option<DrillReport>,
    /// The newest that restored, and passed.
    pub last_passed: Option<DrillReport>,
    /// What is wrong with their record.
    pub problems: Vec<String>,
}

/// A drill.
#[derive(Clone, Debug, Serialize)]
pub struct DrillReport {
    /// When it was over.
    pub finished: Timestamp,
    /// How long ago.
    pub age_seconds: f64,
    /// How far it went.
    pub level: &'static str,
    /// What it came to.
    pub outcome: crate::repo::evidence::DrillOutcome,
}

/// The backups of one type.
#[derive(Clone, Debug, Serialize)]
pub struct BackupReport {
    /// `full`, `diff` or `incr`.
    #[serde(rename = "type")]
    pub backup_type: &'static str,
    /// The newest.
    pub newest: Option<BackupId>,
    /// How long ago it ended.
    pub age_seconds: Option<f64>,
    /// When the next is due.
    pub next_due: Option<Timestamp>,
    /// Scheduled runs since that came to no backup.
    pub missed: usize,
}

/// How many of the repositories that answer hold what, and how many must.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct CopiesHeld {
    /// The newest backup.
    pub backup_held: usize,
    /// How many must.
    pub backup_wanted: usize,
    /// The log as far as any of them does, or as far as the RPO asks.
    pub log_held: usize,
    /// How many must.
    pub log_wanted: usize,
}

/// One repository.
#[derive(Clone, Debug, Serialize)]
pub struct RepositoryReport {
    /// Its name in the configuration.
    pub repository: String,
    /// The site that it stands on.
    pub site: Option<String>,
    /// Why it does not answer.
    pub error: Option<String>,
    /// Why nobody with the host's credentials can destroy what it holds.
    pub protected_by: Option<String>,
    /// The backup that would be restored.
    pub backup: Option<BackupId>,
    /// Where its log ends.
    pub frontier_lsn: Option<String>,
    /// Everything that was committed by then is there.
    pub frontier_time: Option<Timestamp>,
    /// Gaps in its recovery window.
    pub gaps: usize,
    /// Items that wait to be delivered to it; none when the queue cannot be read.
    pub queue_items: Option<usize>,
    /// Items that were given up, likewise.
    pub queue_given_up: Option<usize>,
    /// How long the oldest has waited.
    pub queue_oldest_seconds: Option<f64>,
    /// Why the last delivery failed.
    pub queue_last_error: Option<String>,
    /// Its clock minus that of the host that probed it.
    pub clock_skew_seconds: Option<f64>,
}

/// The server.
#[derive(Clone, Debug, Serialize)]
pub struct ServerReport {
    /// Why it does not answer.
    pub error: Option<String>,
    /// The end of its log.
    pub wal_lsn: Option<String>,
    /// Its clock minus this host's.
    pub clock_skew_seconds: Option<f64>,
    /// Whether its archiver's latest attempt failed; none when it does not archive.
    pub archiver_failing: Option<bool>,
    /// Failures of its archiver since its statistics were reset.
    pub archiver_failed_count: Option<u64>,
    /// The file of the last failure.
    pub archiver_last_failed_file: Option<String>,
    /// When that was.
    pub archiver_last_failed_time: Option<Timestamp>,
    /// The slot of the source's stream; none when there is none.
    pub slot: Option<SlotReport>,
}

/// A database file or a directory.
#[derive(Clone, Debug, Serialize)]
pub struct PathReport {
    /// Where it lies on this host.
    pub path: String,
    /// Why it cannot be looked at.
    pub error: Option<String>,
}

/// A replication slot.
#[derive(Clone, Debug, Serialize)]
pub struct SlotReport {
    /// Its name.
    pub name: String,
    /// Whether a stream uses it.
    pub active: bool,
    /// Whether the server has removed log that it kept.
    pub lost: bool,
    /// Bytes of log that the server keeps for it.
    pub retained_bytes: Option<u64>,
    /// Bytes that may still be written before it is lost; none without `max_slot_wal_keep_size`.
    pub safe_bytes: Option<u64>,
    /// Free bytes on the disk of `pg_wal`, where that is this host's.
    pub disk_free_bytes: Option<u64>,
}

/// When growth breaks the RTO.
#[derive(Clone, Debug, Serialize)]
pub struct ForecastReport {
    /// When, about.
    pub rto_breach: Timestamp,
    /// How fast the database grows.
    pub growth_bytes_per_day: f64,
}

impl StatusReport {
    /// Judges `facts`.
    pub fn of(facts: &Facts) -> Self {
        let scopes = rpo::scopes(facts);
        let best = best(facts, &scopes);
        let work = best.map(|frontier| Work { write_bytes: frontier.write_bytes, replay_bytes: frontier.replay_bytes });
        let declared = facts.policy.as_ref().map_or_else(Declared::default, |policy| Declared {
            detection: policy.objectives.detection,
            thaw: policy.copies.thaw.unwrap_or_default(),
        });
        let by_restore = work.and_then(|work| rto::predict(&facts.drills, work, declared));
        let (standby, by_standby) = standby::judge(facts, best, declared).unzip();
        let fastest = Fastest::of(by_restore, by_standby.flatten());
        let prediction = &fastest.prediction;
        let backups = backups(facts);
        let kept: Vec<BackupPoint> = backups.iter().filter(|backup| !backup.expired).cloned().collect();
        let schedule = schedule::standings(facts.policy.as_ref().map(|policy| &policy.schedule), &kept, facts.now);
        let copies = copies(facts);
        let findings = Findings {
            scopes: &scopes,
            prediction: prediction.as_ref(),
            standby: standby.as_ref(),
            declared,
            schedule: &schedule,
            copies,
        };
        let reasons = verdict::reasons(facts, &findings);
        Self {
            source: facts.source.to_string(),
            kind: facts.engine,
            time: facts.now,
            verdict: reasons.iter().map(|reason| reason.verdict).max().unwrap_or(Verdict::Ok),
            objectives: facts.policy.as_ref().map(|policy| ObjectivesReport {
                policy: policy.name.clone(),
                rpo_seconds: policy.objectives.rpo.as_secs_f64(),
                rto_seconds: policy.objectives.rto.as_secs_f64(),
                drill_max_age_seconds: policy.objectives.drill_max_age.as_secs_f64(),
            }),
            scopes: scopes.iter().map(|scope| scope_report(facts, scope, &reasons)).collect(),
            forecast: work.filter(|_| fastest.by != Some("standby")).and_then(|work| forecast(facts, &backups, work, declared)),
            rto: rto_report(facts, fastest, best),
            standby,
            window: window(facts, &scopes),
            drills: drills(facts),
            backups: schedule.iter().map(|standing| backup_report(standing, facts.now)).collect(),
            copies,
            repositories: facts.repositories.iter().map(|repository| repository_report(facts, repository)).collect(),
            server: server(facts),
            path: path(facts),
            reasons,
        }
    }

    /// What the history keeps of it: no exposure while a repository is away that may have more.
    pub fn sample(&self) -> Sample {
        let is_whole = self.repositories.iter().all(|repository| repository.error.is_none());
        let exposure = |scope: Scope| {
            let found = self.scopes.iter().find(|found| found.scope == scope.as_str() && found.kind == Kind::Exact);
            found.filter(|_| is_whole).and_then(|found| found.rpo_seconds)
        };
        Sample {
            time: self.time,
            host_lost_seconds: exposure(Scope::HostLost),
            site_lost_seconds: exposure(Scope::SiteLost),
            credentials_stolen_seconds: exposure(Scope::CredentialsStolen),
            rto_predicted_seconds: self.rto.predicted_seconds,
            raw_bytes: self.rto.write_bytes,
            verdict: self.verdict,
        }
    }

    /// Whether no repository of the source answers: then nothing is known of it.
    pub fn is_blind(&self) -> bool {
        !self.repositories.is_empty() && self.repositories.iter().all(|repository| repository.error.is_some())
    }
}

/// The frontier of the repository that would be restored from, were the host lost.
fn best<'f>(facts: &'f Facts, scopes: &[ScopeFacts]) -> Option<&'f Frontier> {
    best_repository(facts, scopes)?.held.as_ref().ok()?.frontier.as_ref()
}

fn best_repository<'f>(facts: &'f Facts, scopes: &[ScopeFacts]) -> Option<&'f RepositoryFacts> {
    let host_lost = scopes.iter().find(|scope| scope.scope == Scope::HostLost)?;
    let Survival::Best { repository, .. } = &host_lost.survival else { return None };
    facts.repositories.iter().find(|found| found.name == *repository)
}

/// The backups of all repositories, each once; expired only where it expired everywhere.
fn backups(facts: &Facts) -> Vec<BackupPoint> {
    let mut all: BTreeMap<BackupId, BackupPoint> = BTreeMap::new();
    for backup in facts.repositories.iter().filter_map(|repository| repository.held.as_ref().ok()).flat_map(|held| &held.backups)
    {
        let known = all.entry(backup.id.clone()).or_insert_with(|| backup.clone());
        known.expired &= backup.expired;
    }
    all.into_values().collect()
}

fn copies(facts: &Facts) -> CopiesHeld {
    let held = || facts.repositories.iter().filter_map(|repository| repository.held.as_ref().ok());
    let frontiers = || held().filter_map(|held| held.frontier.as_ref());
    let newest = backups(facts).into_iter().filter(|backup| !backup.expired).max_by_key(|backup| backup.stopped);
    let holds = |backups: &[BackupPoint]| {
        newest.as_ref().is_some_and(|newest| backups.iter().any(|backup| backup.id == newest.id && !backup.expired))
    };
    let end_of = |frontier: &Frontier| (frontier.timeline, frontier.end_lsn);
    let end = frontiers().map(end_of).max();
    // What is on its way from one repository to the other is not missing yet.
    let in_time = |frontier: &Frontier| {
        let rpo = facts.policy.as_ref().map_or(0.0, |policy| policy.objectives.rpo.as_secs_f64());
        Some(end_of(frontier)) == end || frontier.exposure.seconds(facts.now) <= verdict::RPO_AT_RISK * rpo
    };
    CopiesHeld {
        backup_held: held().filter(|held| holds(&held.backups)).count(),
        backup_wanted: facts.copies_wanted.backup,
        // Where none is wanted there is no log.
        log_held: if facts.copies_wanted.log == 0 { 0 } else { frontiers().filter(|frontier| in_time(frontier)).count() },
        log_wanted: facts.copies_wanted.log,
    }
}

fn scope_report(facts: &Facts, scope: &ScopeFacts, reasons: &[Reason]) -> ScopeReport {
    let name = scope.scope.as_str();
    let own = reasons.iter().filter(|reason| reason.scope == Some(name)).map(|reason| reason.verdict).max();
    let (kind, rpo_seconds, why, repository) = match &scope.survival {
        Survival::NotAssessed(why) => (Kind::NotAssessed, None, Some(why.clone()), None),
        Survival::Unknown(names) => (Kind::Unknown, None, Some(format!("no answer from {}", names.join(", "))), None),
        Survival::Nothing(why) => (Kind::Infinite, None, Some(why.clone()), None),
        Survival::Best { repository, exposure } if exposure.is_of_the_future(facts.now) => {
            (Kind::Unknown, None, Some(verdict::CLOCK_SET_BACK.to_owned()), Some(repository.clone()))
        }
        Survival::Best { repository, exposure } => {
            let (kind, why) = match exposure {
                Exposure::AtMostSince { why, .. } => (Kind::UpperBound, Some(why.clone())),
                Exposure::Nothing | Exposure::Since(_) => (Kind::Exact, None),
            };
            (kind, Some(exposure.seconds(facts.now)), why, Some(repository.clone()))
        }
    };
    let rpo_at_least_seconds = match &scope.survival {
        Survival::Best { exposure, .. } => rpo_seconds.map(|_| exposure.at_least_seconds(facts.now)),
        _ => None,
    };
    let declared = if facts.policy.is_some() { Verdict::Ok } else { Verdict::Unproven };
    ScopeReport {
        scope: name,
        verdict: scope.is_judged.then(|| own.unwrap_or(declared)),
        kind,
        rpo_seconds,
        rpo_at_least_seconds,
        why,
        repository,
        worst_24h_seconds: scope.worst_24h.map(|worst| worst.as_secs_f64()),
        worst_30d_seconds: scope.worst_30d.map(|worst| worst.as_secs_f64()),
    }
}

/// The way back that is the shortest.
struct Fastest {
    prediction: Option<Prediction>,
    by: Option<&'static str>,
    restore_seconds: Option<f64>,
}

impl Fastest {
    fn of(restore: Option<Prediction>, standby: Option<Prediction>) -> Self {
        let seconds = |prediction: &Option<Prediction>| prediction.as_ref().map(|prediction| prediction.total_seconds);
        let restore_seconds = seconds(&restore);
        let is_standby = match (seconds(&standby), restore_seconds) {
            (Some(standby), Some(restore)) => standby < restore,
            (standby, None) => standby.is_some(),
            (None, Some(_)) => false,
        };
        let prediction = if is_standby { standby } else { restore };
        let by = prediction.as_ref().map(|_| if is_standby { "standby" } else { "restore" });
        Self { prediction, by, restore_seconds }
    }
}

fn rto_report(facts: &Facts, fastest: Fastest, best: Option<&Frontier>) -> RtoReport {
    let Fastest { prediction, by, restore_seconds } = fastest;
    let parts = prediction.iter().flat_map(|prediction| &prediction.parts);
    RtoReport {
        parts: parts.map(|(part, seconds)| PartReport { part, seconds: *seconds }).collect(),
        drills: prediction.as_ref().map_or(0, |prediction| prediction.drills),
        predicted_seconds: prediction.map(|prediction| prediction.total_seconds),
        by,
        restore_seconds,
        measured_seconds: rto::measured(&facts.drills).map(|(_, seconds)| seconds),
        fetch_bytes: best.map(|frontier| frontier.fetch_bytes),
        write_bytes: best.map(|frontier| frontier.write_bytes),
        replay_bytes: best.map(|frontier| frontier.replay_bytes),
    }
}

fn window(facts: &Facts, scopes: &[ScopeFacts]) -> Vec<IntervalReport> {
    let held = best_repository(facts, scopes).and_then(|repository| repository.held.as_ref().ok());
    let stretches = held.iter().flat_map(|held| &held.window);
    let missing = |stretch: &super::facts::Window| (facts.engine == Engine::Postgres).then(|| stretch.missing.clone());
    let shown = |stretch: &super::facts::Window| IntervalReport {
        from: stretch.interval.from,
        to: stretch.interval.to,
        missing: missing(stretch),
    };
    stretches.map(shown).collect()
}

fn drills(facts: &Facts) -> DrillsReport {
    let report = |drill: &Evidence| DrillReport {
        finished: drill.finished,
        age_seconds: facts.now.since(drill.finished).as_secs_f64(),
        level: drill.level.as_str(),
        outcome: drill.outcome,
    };
    DrillsReport {
        last: facts.drills.last().map(|kept| report(&kept.evidence)),
        last_passed: rto::telling(&facts.drills).last().copied().map(report),
        problems: facts.evidence_problems.clone(),
    }
}

fn backup_report(standing: &Standing, now: Timestamp) -> BackupReport {
    BackupReport {
        backup_type: standing.backup_type.as_str(),
        newest: standing.newest.as_ref().map(|backup| backup.id.clone()),
        age_seconds: standing.newest.as_ref().map(|backup| now.since(backup.stopped).as_secs_f64()),
        next_due: standing.next_due,
        missed: standing.missed,
    }
}

fn repository_report(facts: &Facts, repository: &RepositoryFacts) -> RepositoryReport {
    let held = repository.held.as_ref().ok();
    let frontier = held.and_then(|held| held.frontier.as_ref());
    let queue = repository.queue.as_ref().ok();
    RepositoryReport {
        repository: repository.name.clone(),
        site: repository.site.clone(),
        error: repository.held.as_ref().err().cloned(),
        protected_by: repository.protected_by.clone(),
        backup: frontier.map(|frontier| frontier.backup.clone()),
        frontier_lsn: frontier.filter(|_| facts.engine == Engine::Postgres).map(|frontier| frontier.end_lsn.to_string()),
        frontier_time: frontier.map(|frontier| frontier.reaches),
        gaps: held.map_or(0, |held| gaps(facts.engine, held)),
        queue_items: queue.map(|queue| queue.waiting),
        queue_given_up: queue.map(|queue| queue.given_up),
        queue_oldest_seconds: queue.and_then(|queue| queue.oldest).map(|oldest| facts.now.since(oldest).as_secs_f64()),
        queue_last_error: queue.and_then(|queue| queue.last_error.clone()),
        clock_skew_seconds: repository.clock_skew_seconds,
    }
}

/// What lies between the stretches of the window and should not be missing: a directory has moments only.
fn gaps(engine: Engine, held: &Held) -> usize {
    match engine {
        Engine::Postgres => held.window.len().saturating_sub(1),
        Engine::Sqlite => held.window.windows(2).filter(|pair| !pair[0].interval.is_moment()).count(),
        Engine::Directory => 0,
    }
}

fn path(facts: &Facts) -> Option<PathReport> {
    let SystemFacts::Path { path, problem } = &facts.system else { return None };
    Some(PathReport { path: path.display().to_string(), error: problem.clone() })
}

fn server(facts: &Facts) -> Option<ServerReport> {
    let SystemFacts::Server(asked) = &facts.system else { return None };
    let server = asked.as_ref().ok();
    let archiver = server.and_then(|server| server.archiver.as_ref());
    Some(ServerReport {
        error: asked.as_ref().err().cloned(),
        wal_lsn: server.map(|server| server.wal_lsn.to_string()),
        clock_skew_seconds: server.map(|server| server.clock_skew_seconds),
        archiver_failing: archiver.map(|archiver| archiver.failing),
        archiver_failed_count: archiver.map(|archiver| archiver.failed_count),
        archiver_last_failed_file: archiver.and_then(|archiver| archiver.last_failed_file.clone()),
        archiver_last_failed_time: archiver.and_then(|archiver| archiver.last_failed_time),
        slot: facts.slot.as_ref().and_then(|seen| slot(seen.as_ref().ok()?)),
    })
}

fn slot(slot: &Slot) -> Option<SlotReport> {
    let state = slot.state.as_ref()?;
    let bytes = |bytes: i64| u64::try_from(bytes).unwrap_or_default();
    Some(SlotReport {
        name: slot.name.clone(),
        active: state.active_pid.is_some(),
        lost: state.is_lost(),
        retained_bytes: state.retained_bytes.map(bytes),
        safe_bytes: state.safe_wal_bytes.map(bytes),
        disk_free_bytes: slot.free_bytes,
    })
}

/// From the sizes of all backups, expired ones too, and from what earlier runs saw of others.
fn forecast(facts: &Facts, backups: &[BackupPoint], work: Work, declared: Declared) -> Option<ForecastReport> {
    let objective = facts.policy.as_ref()?.objectives.rto;
    let mut sizes: Vec<Size> = backups.iter().map(|backup| Size { time: backup.stopped, raw_bytes: backup.raw_bytes }).collect();
    let mut previous = None;
    for sample in &facts.history {
        // Until the next backup every run sees the size of the same one.
        if let Some(raw_bytes) = sample.raw_bytes.filter(|raw_bytes| previous != Some(*raw_bytes)) {
            let is_known = backups.iter().any(|backup| backup.raw_bytes == raw_bytes);
            sizes.extend((!is_known).then_some(Size { time: sample.time, raw_bytes }));
            previous = Some(raw_bytes);
        }
    }
    let growth = forecast::growth(&sizes, facts.now)?;
    let seconds = |bytes: u64| {
        let predicted = rto::predict(&facts.drills, Work { write_bytes: bytes, ..work }, declared);
        predicted.map_or(0.0, |prediction| prediction.total_seconds)
    };
    let rto_breach = forecast::breach(growth, facts.now, Duration::as_secs_f64(&objective), seconds)?;
    Some(ForecastReport { rto_breach, growth_bytes_per_day: growth.bytes_per_day })
}
