//! What one repository holds of a source, and how far a restore from it would get.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use crate::base::{Engine, Incarnation, Lsn, Result, Segment, SegmentSize, TimelineId, Timestamp};
use crate::engine::restore::plan::newest_timeline;
use crate::engine::timeline::{Runs, TimelinePath};
use crate::engine::window::window;
use crate::engine::{Scope, chain, head, sqlite};
use crate::repo::evidence::Record;
use crate::repo::identity::{self, Identity};
use crate::repo::log::name::{CommitTime, SegmentName};
use crate::repo::log::{LogCatalog, Piece, index, listing, tail};
use crate::repo::probe::{self, LockSeen, ProbeReport};
use crate::repo::{BackupSummary, CommitLog};
use crate::source::postgres::wal::Carry;
use crate::source::sqlite::Moment;

use super::super::facts::{BackupPoint, Frontier, Held, Window};
use super::super::rpo::{BackupCover, Coverage, Exposure, FirstCommit, SegmentPoint, Witness};
use super::super::unarchived::{self, Known, Named, OwnLog, Reached, SilentLog};
use super::database::Seen;

/// So far back the signed index is asked for arrivals; what came before by the store's clock. It is read object by object,
/// and its times are better than the store's by less than a second or two.
const INDEX_READ_FOR: Duration = Duration::from_secs(25 * 3600);

/// A repository as it was read.
pub(super) struct Loaded {
    scope: Scope,
    log: CommitLog,
    problems: Vec<String>,
    /// What this host could not look up or remember.
    pub(super) warning: Option<String>,
    /// What is protected now, if this repository knows it.
    identity: Option<Identity>,
    catalog: LogCatalog,
    /// When segments arrived, by the signed index.
    arrivals: BTreeMap<String, Timestamp>,
    /// Of segments that were streamed before they were whole: how long the commits in them waited at most.
    streamed: BTreeMap<String, Duration>,
    pub(super) record: Record,
    /// The last probe by the host that wrote the newest backup.
    pub(super) probe: Option<ProbeReport>,
}

/// What is known of the source's own log beyond what is archived of it.
pub(super) enum Beyond {
    /// Of a cluster: its log when the server answers, what is known of it when it does not.
    Server { own: Option<OwnLog>, silent: Option<SilentLog> },
    /// Of a database.
    Database(Seen),
    /// A directory has no log.
    Nothing,
}

/// Reads everything that is needed of one repository. `running` is the cluster that the server says it is.
///
/// # Errors
/// When the repository does not answer.
pub(super) async fn load(scope: &Scope, engine: Engine, running: Option<&Incarnation>) -> Result<Loaded> {
    let seen = head::look(scope).await?;
    let (identities, damaged) = identity::survey(&scope.repository, &scope.source).await?;
    let log = seen.log;
    // What was fenced off was meant to be: it calls for nothing.
    let of_log = if log.is_whole() { &[][..] } else { &log.problems };
    let mut problems: Vec<String> = of_log.iter().chain(&damaged).map(|(key, why)| format!("{key}: {why}")).collect();
    problems.extend(log.broken().map(|(backup, broken)| format!("{}: {broken}", backup.id)));
    problems.extend(seen.wound_back.map(|wound_back| wound_back.text()));
    let identity = match running {
        Some(running) => identities.into_iter().find(|identity| identity.incarnation == *running),
        None => identities.into_iter().rfind(|identity| identity.engine == engine.as_str()),
    };
    let (mut catalog, mut arrivals, mut streamed) = (LogCatalog::default(), BTreeMap::new(), BTreeMap::new());
    if let Some(identity) = identity.as_ref().filter(|_| engine != Engine::Directory) {
        let place = listing::Place {
            repository: &scope.repository,
            state: &scope.state,
            source: &scope.source,
            incarnation: &identity.incarnation,
            size: identity.segment_bytes,
        };
        // The pieces first: a segment that becomes whole in between is not missed.
        let tails = tail::load(&scope.repository, &scope.source, &identity.incarnation, identity.segment_bytes).await?;
        catalog = listing::catalog(place, &log).await?;
        catalog.add_tail(tails, identity.segment_bytes);
        problems.extend(catalog.contradicted_pieces.iter().map(|pieces| format!("{}: {pieces}", pieces.file)));
        let since = Timestamp::now().minus(INDEX_READ_FOR);
        // What this host has archived and not signed yet; another host's segments count by the store's clock until then.
        let waiting = scope.state.unsigned_lines(&scope.source, &identity.incarnation);
        let index = index::load_since(&scope.repository, &scope.source, &identity.incarnation, since).await?;
        for line in index.lines.into_iter().chain(waiting) {
            if let Some(micros) = line.streamed_within_micros {
                streamed.insert(line.file.clone(), Duration::from_micros(micros));
            }
            let earliest = arrivals.entry(line.file).or_insert(line.arrived);
            *earliest = line.arrived.min(*earliest);
        }
    }
    let writer = log.entries.iter().rev().find(|entry| entry.backup().is_some()).map(|entry| entry.host.clone());
    let probe = match writer {
        Some(host) => probe::latest_by(&scope.repository, &host).await?,
        None => None,
    };
    let record = Record::load(&scope.repository, &scope.source).await?;
    let (scope, warning) = (scope.clone(), seen.warning);
    Ok(Loaded { scope, log, problems, warning, identity, catalog, arrivals, streamed, record, probe })
}

/// What each repository holds, with what would be lost beyond it.
pub(super) async fn measure(loaded: &[Result<Loaded, String>], beyond: &Beyond) -> Vec<Result<Held, String>> {
    let mut held = Vec::new();
    for one in loaded {
        held.push(match one {
            Ok(one) => Ok(one.held(loaded, beyond).await),
            Err(why) => Err(why.clone()),
        });
    }
    held
}

/// Why nobody with the credentials of the host that was probed can destroy what is stored; none when that is not known.
pub(super) fn protected_by(probe: Option<&ProbeReport>, lock_mode: Option<&str>) -> Option<String> {
    let report = probe.filter(|report| report.can_be_destroyed() == Some(false))?;
    match (&report.guard.lock, lock_mode) {
        (Some(LockSeen::Broken | LockSeen::Refused { .. }), _) => return None,
        (Some(LockSeen::Proven { .. } | LockSeen::Recorded { .. }), Some(mode)) => return Some(format!("object lock, {mode}")),
        // Objects are put under a lock where it is configured: that the store can lock says nothing of others.
        (Some(LockSeen::Proven { .. } | LockSeen::Recorded { .. }) | None, _) => {}
    }
    let mut without_lock = report.clone();
    without_lock.guard.lock = None;
    let refuses = without_lock.can_be_destroyed() == Some(false);
    refuses.then(|| "the store refuses to overwrite and delete".to_owned())
}

impl Loaded {
    /// What this host remembers to have stored last of a database that is protected now.
    pub(super) fn stored_moment(&self) -> Option<Moment> {
        sqlite::stored_moment(&self.scope, &self.identity.as_ref()?.incarnation)
    }

    async fn held(&self, all: &[Result<Loaded, String>], beyond: &Beyond) -> Held {
        let mut held = Held {
            backups: self.backup_points(),
            split_brains: self.catalog.split_brains.iter().map(|split| split.file.clone()).collect(),
            problems: self.problems.clone(),
            ..Held::default()
        };
        let Some(identity) = &self.identity else {
            held.no_frontier = Some(match beyond {
                Beyond::Server { .. } => "the cluster that runs now has no backup".to_owned(),
                Beyond::Database(_) | Beyond::Nothing => "there is no backup".to_owned(),
            });
            return held;
        };
        let size = identity.segment_bytes;
        let backups: Vec<&BackupSummary> =
            self.log.restorable().filter(|backup| backup.incarnation == identity.incarnation).collect();
        let path = match newest_timeline(&backups, &self.catalog).map(|newest| TimelinePath::to(newest, &self.catalog, size)) {
            Some(Ok(path)) => path,
            Some(Err(error)) => {
                held.no_frontier = Some(error.summary());
                return held;
            }
            None => {
                held.no_frontier = Some("there is no backup".to_owned());
                return held;
            }
        };
        let window = window(backups.iter().copied(), &self.catalog, &path);
        let shown = |interval: crate::engine::window::Interval| Window { missing: interval.missing.name(size), interval };
        held.window = window.intervals.into_iter().map(shown).collect();
        let mut serving: Vec<&BackupSummary> =
            backups.iter().copied().filter(|backup| path.serves(&self.catalog, backup)).collect();
        serving.sort_by_key(|backup| backup.stop_lsn);
        held.coverage = self.coverage(&serving, &path);
        match serving.last() {
            Some(newest) => {
                held.frontier = Some(self.frontier(identity, newest, &path, beyond, all).await);
            }
            None if backups.is_empty() => held.no_frontier = Some("there is no backup".to_owned()),
            None => held.no_frontier = Some("the log that the backups need is not archived".to_owned()),
        }
        held
    }

    /// Whether what is replayed of `at` up to `replayed` lies on the way to `timeline`.
    pub(super) fn leads_to(&self, timeline: TimelineId, at: TimelineId, replayed: Lsn) -> bool {
        let size = self.identity.as_ref().map(|identity| identity.segment_bytes);
        let path = size.and_then(|size| TimelinePath::to(timeline, &self.catalog, size).ok());
        path.is_some_and(|path| path.contains(at, replayed))
    }

    /// Whether this is the cluster that is protected now.
    pub(super) fn is_of(&self, incarnation: &Incarnation) -> bool {
        self.identity.as_ref().is_some_and(|identity| identity.incarnation == *incarnation)
    }

    async fn frontier(
        &self,
        identity: &Identity,
        backup: &BackupSummary,
        path: &TimelinePath,
        beyond: &Beyond,
        all: &[Result<Loaded, String>],
    ) -> Frontier {
        let reach = Runs::on(path, &self.catalog).from(backup.start_lsn);
        // A standby's clock is no witness of what the primary had committed by then. Files are read from the start on, and
        // of a database everything is there that was committed by then.
        let is_told_by_end = matches!(beyond, Beyond::Server { .. }) && !backup.from_standby;
        let stopped = if is_told_by_end { backup.stop_time } else { backup.start_time };
        let time = reach.latest_end.max(Some(stopped)).unwrap_or(stopped);
        let reached = Reached { timeline: path.timeline(), end_lsn: reach.end_lsn, time };
        let exposure = match beyond {
            Beyond::Server { own, silent } => {
                let own = own.clone().unwrap_or_else(|| own_log(identity, path, silent.as_ref()));
                self.exposure(backup, path, own, reached, all).await
            }
            // What is remembered of a state is when it was captured.
            Beyond::Database(seen) => seen.exposure(reach.latest_end.max(Some(backup.stop_time)).unwrap_or(time)),
            Beyond::Nothing => {
                Exposure::AtMostSince { frontier: time, why: "changes since then are not looked for".to_owned(), lost: None }
            }
        };
        let chain = chain::summaries(&self.scope, &self.log, backup).unwrap_or_else(|_| vec![backup]);
        let replay_bytes = match beyond {
            Beyond::Server { .. } => reach.end_lsn.bytes_since(backup.start_lsn),
            Beyond::Database(_) | Beyond::Nothing => self.stored_log_bytes(path, backup.start_lsn, reach.end_lsn),
        };
        Frontier {
            backup: backup.id.clone(),
            server_version: backup.server_version,
            timeline: path.timeline(),
            end_lsn: reach.end_lsn,
            reaches: time,
            exposure,
            replay_bytes,
            fetch_bytes: chain.iter().map(|summary| summary.stored_bytes).sum(),
            write_bytes: backup.raw_bytes,
        }
    }

    /// Stored bytes of the segments on `path` between two positions: what is known of the size of a log whose positions
    /// count its segments.
    fn stored_log_bytes(&self, path: &TimelinePath, from: Lsn, to: Lsn) -> u64 {
        let size = path.segment_size();
        let between = |segment: &Segment| segment.start(size) >= from && segment.start(size) < to;
        let on_path = self.catalog.segments.iter().filter(|(segment, _)| path.segment(segment.number) == **segment);
        on_path.filter(|(segment, _)| between(segment)).map(|(_, object)| object.stored_bytes).sum()
    }

    /// What would be lost with a cluster beyond what was `reached`.
    async fn exposure(
        &self,
        backup: &BackupSummary,
        path: &TimelinePath,
        own: OwnLog,
        reached: Reached,
        all: &[Result<Loaded, String>],
    ) -> Exposure {
        let same = |other: &&Loaded| other.identity.as_ref().map(|identity| &identity.incarnation) == Some(&backup.incarnation);
        let named: Vec<(u64, Named)> = all.iter().flatten().filter(same).flat_map(|other| other.named(path)).collect();
        let (unknown, known): (Vec<_>, Vec<_>) = named.into_iter().partition(|(_, named)| named.first == FirstCommit::Unknown);
        let (scope, incarnation, size) = (self.scope.clone(), backup.incarnation.clone(), own.size);
        let carry_into = move |segment: Segment| {
            Carry::from_bytes(&scope.state.carry_into(&scope.source, &incarnation, &segment.name(size))?)
        };
        let known = Known { named: unknown.into_iter().chain(known).collect(), carry_into };
        let looking = tokio::task::spawn_blocking(move || unarchived::exposure(&own, reached, &known));
        looking.await.unwrap_or_else(|_| Exposure::AtMostSince {
            frontier: reached.time,
            why: "reading the server's log was broken off".to_owned(),
            lost: None,
        })
    }

    /// What the names of the segments on `path` tell of their commits; what was streamed of the last one tells nothing of
    /// those that follow.
    fn named(&self, path: &TimelinePath) -> impl Iterator<Item = (u64, Named)> {
        let is_whole = |segment: &Segment| self.catalog.streamed_end(*segment, path.segment_size()).is_none();
        let on_path = self.catalog.segments.iter().filter(|(segment, _)| path.segment(segment.number) == **segment);
        let on_path = on_path.filter(move |(segment, _)| is_whole(segment));
        on_path.map(|(segment, object)| {
            let has_commits = object.name.commits.is_some_and(|commits| commits > 0);
            let committed_by = object.name.last.known().filter(|_| has_commits);
            (segment.number, Named { first: first_commit(&object.name), committed_by })
        })
    }

    fn coverage(&self, serving: &[&BackupSummary], path: &TimelinePath) -> Coverage {
        let size = path.segment_size();
        let begins = serving.iter().map(|backup| backup.start_lsn.0 / size.bytes()).min().unwrap_or(u64::MAX);
        let on_path = self.catalog.segments.iter().filter(|(segment, _)| path.segment(segment.number) == **segment);
        let segments = on_path.filter(|(segment, _)| segment.number >= begins).map(|(segment, object)| {
            let arrived = self.arrivals.get(&segment.name(size)).copied().unwrap_or(object.arrived);
            let first = first_commit(&object.name);
            let arrived = self.streamed_at(*segment, size, first).map_or(arrived, |streamed| streamed.min(arrived));
            (segment.number, SegmentPoint { first, last: object.name.last.known(), arrived })
        });
        let committed = |backup: &BackupSummary| {
            let entry = self.log.entries.iter().rev().find(|entry| entry.backup().is_some_and(|other| other.id == backup.id));
            entry.map_or(backup.stop_time, |entry| entry.written)
        };
        let backups = serving.iter().map(|backup| BackupCover {
            first_segment: backup.start_lsn.0 / size.bytes(),
            last_segment: backup.stop_lsn.0.saturating_sub(1) / size.bytes(),
            started: backup.start_time,
            stopped: backup.stop_time,
            committed: committed(backup),
        });
        let witness = match serving.first().map(|backup| backup.incarnation.engine()) {
            Some(Engine::Postgres) | None => Witness::Log,
            Some(Engine::Sqlite) => Witness::Nobody,
            Some(Engine::Directory) => Witness::Backups,
        };
        Coverage { segments: segments.collect(), let_go: self.let_go(path), backups: backups.collect(), witness }
    }

    /// Numbers of the segments on `path` that were let go.
    fn let_go(&self, path: &TimelinePath) -> Vec<Range<u64>> {
        let Some(identity) = &self.identity else { return Vec::new() };
        let cut = self.log.log_cut(&identity.incarnation);
        let parts = path.parts().flat_map(|(timeline, part)| {
            let gone = cut.segments(timeline, path.segment_size());
            gone.map(move |gone| gone.start.max(part.start)..gone.end.min(part.end)).collect::<Vec<_>>()
        });
        parts.filter(|range| !range.is_empty()).collect()
    }

    /// When the commits of a segment were durable, each as long after it as the one that waited longest; none where the
    /// segment arrived as a whole only.
    fn streamed_at(&self, segment: Segment, size: SegmentSize, first: FirstCommit) -> Option<Timestamp> {
        let FirstCommit::At(first) = first else { return None };
        let in_pieces = self.catalog.tail.get(&segment).and_then(|tail| {
            let used = tail::cover(&tail.pieces).into_iter().filter(|piece| piece.name.first.known().is_some());
            used.filter_map(Piece::waited).max()
        });
        let within = in_pieces.or_else(|| self.streamed.get(&segment.name(size)).copied())?;
        Some(first.plus(within))
    }

    fn backup_points(&self) -> Vec<BackupPoint> {
        let point = |backup: &BackupSummary, expired| BackupPoint {
            id: backup.id.clone(),
            backup_type: backup.backup_type,
            started: backup.start_time,
            stopped: backup.stop_time,
            raw_bytes: backup.raw_bytes,
            expired,
        };
        let expired = self.log.expired().map(|backup| point(backup, true));
        let mut points: Vec<BackupPoint> = expired.chain(self.log.backups().map(|backup| point(backup, false))).collect();
        points.sort_by_key(|point| point.stopped);
        points
    }
}

/// The log of a server that does not answer: its directory is looked at where the configuration names it.
fn own_log(identity: &Identity, path: &TimelinePath, silent: Option<&SilentLog>) -> OwnLog {
    OwnLog {
        directory: silent.map(|silent| silent.directory.clone()),
        system_identifier: identity.system_identifier.parse().unwrap_or_default(),
        timeline: silent.map_or(path.timeline(), |silent| silent.timeline),
        end_lsn: None,
        is_whole: silent.is_none_or(|silent| !silent.is_standby),
        size: identity.segment_bytes,
    }
}

fn first_commit(name: &SegmentName) -> FirstCommit {
    match (name.first, name.commits) {
        (CommitTime::None, _) | (_, Some(0)) => FirstCommit::None,
        (CommitTime::Unknown, _) => FirstCommit::Unknown,
        // Perhaps a ROLLBACK came first: then the exposure is told too large, never too small.
        (CommitTime::At(time), _) => FirstCommit::At(time),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repo::probe::{Abilities, Answer, Guard};

    fn report(lock: Option<LockSeen>, delete: Answer) -> ProbeReport {
        ProbeReport {
            format: 1,
            repository: "r".to_owned(),
            time: Timestamp::now(),
            host: "db1".to_owned(),
            abilities: Abilities {
                conditional_put: Answer::Yes,
                overwrite_protection: if delete == Answer::No { Answer::Yes } else { Answer::No },
                read_after_write: Answer::Yes,
                list_after_write: Answer::Yes,
                listing_order: Answer::Yes,
                ranged_read: Answer::Yes,
                delete,
                delete_visibility: Answer::Yes,
                object_lock: Answer::Yes,
                versioning: Answer::Yes,
            },
            guard: Guard { reads_oldest_versions: false, deletes_versions: Answer::Yes, lock },
            clock_skew_seconds: None,
        }
    }

    #[test]
    fn a_lock_is_believed_when_a_probe_has_seen_it_and_not_because_it_is_configured() {
        let mode = Some("compliance");
        let (locked, refuses) = ("object lock, compliance", "the store refuses to overwrite and delete");
        let proven = || Some(LockSeen::Proven { mode: "compliance".to_owned() });
        for (lock, delete, configured, expected) in [
            (proven(), Answer::Yes, mode, Some(locked)),
            (Some(LockSeen::Recorded { mode: "compliance".to_owned() }), Answer::Yes, mode, Some(locked)),
            (None, Answer::Yes, mode, None),
            (Some(LockSeen::Broken), Answer::No, mode, None),
            (Some(LockSeen::Refused { why: "no".to_owned() }), Answer::No, mode, None),
            (proven(), Answer::Yes, None, None),
            (None, Answer::No, None, Some(refuses)),
            (None, Answer::No, mode, Some(refuses)),
            (None, Answer::Yes, None, None),
        ] {
            let seen = protected_by(Some(&report(lock.clone(), delete)), configured);
            assert_eq!(seen.as_deref(), expected, "{lock:?} {delete:?} {configured:?}");
        }
        assert_eq!(protected_by(None, mode), None, "never probed");
    }
}
