//! What would be lost: the RPO that is achieved now, and the worst of a stretch of time. Pure.
//!
//! Exposure is counted from the first commit that is not in the archive, never from a backup's age. With the archived log
//! in order, a commit in segment s was safe from the moment on at which everything from some backup's start up to s had
//! arrived, or a later backup was committed. With c(s) the earliest such moment over the repositories and f(s) the first
//! commit in s, the exposure rose to c(s) − f(s) before it fell: the worst of a stretch is the largest of those. Where there is no log, what
//! is told is the most that it can have been; where the log does not tell when its commits were made, nothing is.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use crate::base::Timestamp;

use super::facts::{Facts, RepositoryFacts};

/// What a disaster now would lose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exposure {
    /// No commit lies beyond the frontier.
    Nothing,
    /// This is the time of the first commit beyond the frontier.
    Since(Timestamp),
    /// Not known; everything that was committed until then is there.
    AtMostSince {
        /// The frontier's own commit time.
        frontier: Timestamp,
        /// Why no more is known.
        why: String,
        /// By then something was committed that is certainly lost.
        lost: Option<Timestamp>,
    },
}

/// Time for which a commit that was found counts at least: it is not nothing, whatever a clock says.
const LEAST_SECONDS: f64 = 0.001;

/// By so much clocks differ that are in order.
const TOLERATED_SKEW: Duration = Duration::from_secs(5);

impl Exposure {
    /// In seconds at the moment `now`, at most. Never negative, whatever a clock does.
    pub fn seconds(&self, now: Timestamp) -> f64 {
        match self {
            Self::Nothing => 0.0,
            Self::Since(time) => now.since(*time).as_secs_f64().max(LEAST_SECONDS),
            Self::AtMostSince { frontier, .. } => now.since(*frontier).as_secs_f64().max(self.at_least_seconds(now)),
        }
    }

    /// What of that is certain.
    pub fn at_least_seconds(&self, now: Timestamp) -> f64 {
        self.lost().map_or(0.0, |time| now.since(time).as_secs_f64().max(LEAST_SECONDS))
    }

    /// When something was committed that is certainly lost.
    pub fn lost(&self) -> Option<Timestamp> {
        match self {
            Self::Nothing => None,
            Self::Since(time) => Some(*time),
            Self::AtMostSince { lost, .. } => *lost,
        }
    }

    /// Whether a commit that it rests on is of a time that has not come: then it says nothing.
    pub fn is_of_the_future(&self, now: Timestamp) -> bool {
        let of_frontier = match self {
            Self::AtMostSince { frontier, .. } => Some(*frontier),
            Self::Nothing | Self::Since(_) => None,
        };
        self.lost().into_iter().chain(of_frontier).any(|time| time.since(now) > TOLERATED_SKEW)
    }

    /// Whether it may be less.
    pub fn is_bound(&self) -> bool {
        matches!(self, Self::AtMostSince { .. })
    }
}

/// What is lost with the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The database's host.
    HostLost,
    /// Its whole site, with every repository there.
    SiteLost,
    /// The host, to somebody who destroys what its credentials can destroy.
    CredentialsStolen,
}

impl Scope {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::HostLost, Self::SiteLost, Self::CredentialsStolen];

    /// `host_lost`, `site_lost` or `credentials_stolen`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::HostLost => "host_lost",
            Self::SiteLost => "site_lost",
            Self::CredentialsStolen => "credentials_stolen",
        }
    }

    /// For people.
    pub fn words(self) -> &'static str {
        match self {
            Self::HostLost => "host lost",
            Self::SiteLost => "site lost",
            Self::CredentialsStolen => "credentials stolen",
        }
    }
}

/// What survives in one scope.
#[derive(Clone, Debug, PartialEq)]
pub enum Survival {
    /// The configuration does not say enough: why.
    NotAssessed(String),
    /// No repository that survives answers: which those would be.
    Unknown(Vec<String>),
    /// Nothing that could be restored: why.
    Nothing(String),
    /// The best of the repositories that survive.
    Best {
        /// Its name.
        repository: String,
        /// What would be lost.
        exposure: Exposure,
    },
}

/// One scope, judged by what survives in it.
#[derive(Clone, Debug, PartialEq)]
pub struct ScopeFacts {
    /// Which.
    pub scope: Scope,
    /// Whether objectives are held against it; else it is shown only.
    pub is_judged: bool,
    /// What survives.
    pub survival: Survival,
    /// The worst of the last 24 hours; none while a repository that counts does not answer, or there is no backup.
    pub worst_24h: Option<Duration>,
    /// The worst of the last 30 days, likewise.
    pub worst_30d: Option<Duration>,
}

/// Every scope of a source.
pub fn scopes(facts: &Facts) -> Vec<ScopeFacts> {
    Scope::ALL.into_iter().map(|scope| assess(facts, scope)).collect()
}

fn assess(facts: &Facts, scope: Scope) -> ScopeFacts {
    let unassessed = |why: &str| ScopeFacts {
        scope,
        is_judged: false,
        survival: Survival::NotAssessed(why.to_owned()),
        worst_24h: None,
        worst_30d: None,
    };
    let all = || facts.repositories.iter();
    let (members, is_judged): (Vec<&RepositoryFacts>, bool) = match scope {
        Scope::HostLost => (all().collect(), true),
        Scope::SiteLost => {
            let Some(own) = &facts.site else { return unassessed("the source declares no site") };
            let elsewhere: Vec<_> = all().filter(|repository| repository.site.as_ref().is_some_and(|site| site != own)).collect();
            if elsewhere.is_empty() && all().any(|repository| repository.site.is_none()) {
                return unassessed("no repository declares another site");
            }
            (elsewhere, true)
        }
        Scope::CredentialsStolen => {
            let is_declared = facts.policy.as_ref().is_some_and(|policy| !policy.copies.locked.is_empty());
            (all().filter(|repository| repository.protected_by.is_some()).collect(), is_declared)
        }
    };
    let survival = survival(facts.now, scope, &members);
    let coverages: Vec<&Coverage> = members.iter().filter_map(|member| Some(&member.held.as_ref().ok()?.coverage)).collect();
    let open = match &survival {
        Survival::Best { exposure, .. } => exposure.lost().map(|first| facts.now.since(first)),
        _ => None,
    };
    let is_whole = members.iter().all(|member| member.held.is_ok());
    let worst_of = |days: u64| {
        let from = facts.now.minus(Duration::from_secs(days * 86_400));
        let seen = facts
            .history
            .iter()
            .filter(|sample| (from..=facts.now).contains(&sample.time))
            .filter_map(|sample| sample.exposure_of(scope));
        // What one that does not answer had in time would be told as lost.
        let archived = is_whole.then(|| worst(&coverages, from, facts.now)).flatten()?;
        seen.chain(open).chain([archived]).max()
    };
    ScopeFacts { scope, is_judged, worst_24h: worst_of(1), worst_30d: worst_of(30), survival }
}

fn survival(now: Timestamp, scope: Scope, members: &[&RepositoryFacts]) -> Survival {
    if members.is_empty() {
        return Survival::Nothing(match scope {
            Scope::HostLost => "the source has no repository".to_owned(),
            Scope::SiteLost => "every repository stands on the source's own site".to_owned(),
            Scope::CredentialsStolen => "no repository is known to be proof against the host's credentials".to_owned(),
        });
    }
    let answers: Vec<_> = members.iter().filter_map(|member| Some((member.name.as_str(), member.held.as_ref().ok()?))).collect();
    if answers.is_empty() {
        return Survival::Unknown(members.iter().map(|member| member.name.clone()).collect());
    }
    let frontiers = answers.iter().filter_map(|(name, held)| Some((*name, held.frontier.as_ref()?)));
    let rank = |exposure: &Exposure| (exposure.seconds(now), exposure.is_bound());
    let best = frontiers.min_by(|(_, a), (_, b)| {
        let (a, b) = (rank(&a.exposure), rank(&b.exposure));
        a.0.total_cmp(&b.0).then(a.1.cmp(&b.1))
    });
    match best {
        Some((name, frontier)) => Survival::Best { repository: name.to_owned(), exposure: frontier.exposure.clone() },
        None => {
            let why = answers.iter().find_map(|(_, held)| held.no_frontier.clone());
            Survival::Nothing(why.unwrap_or_else(|| "there is no backup that can be restored".to_owned()))
        }
    }
}

/// When which part of the log arrived in one repository, on the timelines that a restore would follow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// The archived segments by their numbers.
    pub segments: BTreeMap<u64, SegmentPoint>,
    /// Numbers of segments that are not there because they were let go: they had arrived, and are no gap.
    pub let_go: Vec<Range<u64>>,
    /// The backups, in the order of the log.
    pub backups: Vec<BackupCover>,
    /// What of this tells when commits were made.
    pub witness: Witness,
}

/// What tells when something was committed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Witness {
    /// The segments of the log, commit by commit.
    #[default]
    Log,
    /// Nothing: the log tells when its segments were captured, and a commit may be any time older.
    Nobody,
    /// There is no log: what was changed between two backups may have been changed at once.
    Backups,
}

impl Coverage {
    /// The range with this number that was let go; none when it was not.
    fn let_go_with(&self, number: u64) -> Option<&Range<u64>> {
        self.let_go.iter().find(|range| range.contains(&number))
    }

    /// The first number from `from` up to `to` that none of these let go.
    fn first_kept(coverages: &[&Self], mut from: u64, to: u64) -> Option<u64> {
        while let Some(range) = coverages.iter().find_map(|coverage| coverage.let_go_with(from)) {
            from = range.end;
        }
        (from <= to).then_some(from)
    }
}

/// An archived segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentPoint {
    /// The first commit in it.
    pub first: FirstCommit,
    /// The latest transaction end in it, where it is known.
    pub last: Option<Timestamp>,
    /// When it was durable.
    pub arrived: Timestamp,
}

/// The first commit in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstCommit {
    /// There is none.
    None,
    /// Perhaps there is one.
    Unknown,
    /// Its time.
    At(Timestamp),
}

/// The stretch of log that a backup needs, and when it was committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackupCover {
    /// Number of the first segment that its restore replays.
    pub first_segment: u64,
    /// Number of the last segment that it needs to be consistent.
    pub last_segment: u64,
    /// When it began: it holds what was there by then.
    pub started: Timestamp,
    /// When it ended.
    pub stopped: Timestamp,
    /// When its commit entry was written.
    pub committed: Timestamp,
}

/// The worst exposure between `from` and `now` of what is in the archive by now, and of the gaps in it; none before there
/// was a backup. What is still open at the end of the log is not in it.
pub fn worst(coverages: &[&Coverage], from: Timestamp, now: Timestamp) -> Option<Duration> {
    let exposures = exposures(coverages, now)?;
    let within = exposures.into_iter().filter(|(until, _)| *until >= from);
    Some(within.map(|(_, exposure)| exposure).max().unwrap_or_default())
}

/// Every exposure that ended, or was still open, by `now`: the moment and how long it was, in the order of the log. None
/// before there was a backup, and where nobody tells.
pub fn exposures(coverages: &[&Coverage], now: Timestamp) -> Option<Vec<(Timestamp, Duration)>> {
    // One that holds nothing yet knows of no kind.
    match coverages.iter().map(|coverage| coverage.witness).max() {
        Some(Witness::Backups) => return between_backups(coverages),
        Some(Witness::Nobody) => return None,
        Some(Witness::Log) | None => {}
    }
    let first_backup = coverages.iter().flat_map(|coverage| &coverage.backups).min_by_key(|backup| backup.committed)?;
    let mut exposures = Vec::new();
    // A commit of unknown time is not older than the latest one before it.
    let mut latest = first_backup.stopped;
    for (number, safe) in earliest(coverages) {
        let points: Vec<&SegmentPoint> = coverages.iter().filter_map(|coverage| coverage.segments.get(&number)).collect();
        let first = first_commit(&points).map_or(Some(latest), |known| known);
        if number > first_backup.last_segment
            && let Some(first) = first
        {
            let until = safe.unwrap_or(now).min(now);
            exposures.push((until, until.since(first)));
        }
        latest = latest.max(points.iter().filter_map(|point| point.last).max().unwrap_or(latest));
    }
    Some(exposures)
}

/// Without a log: from the beginning of each backup until the next one was there, as if something had changed at once.
fn between_backups(coverages: &[&Coverage]) -> Option<Vec<(Timestamp, Duration)>> {
    let mut backups: BTreeMap<Timestamp, Timestamp> = BTreeMap::new();
    for backup in coverages.iter().flat_map(|coverage| &coverage.backups) {
        let committed = backups.entry(backup.started).or_insert(backup.committed);
        *committed = backup.committed.min(*committed);
    }
    let next = backups.iter().skip(1);
    let exposures = backups.keys().zip(next).map(|(started, (_, committed))| (*committed, committed.since(*started)));
    (!backups.is_empty()).then(|| exposures.collect())
}

/// Of a segment as the repositories name it: none when that is not known, else the first commit if there is one.
fn first_commit(points: &[&SegmentPoint]) -> Option<Option<Timestamp>> {
    points.iter().find_map(|point| match point.first {
        FirstCommit::None => Some(None),
        FirstCommit::At(time) => Some(Some(time)),
        FirstCommit::Unknown => None,
    })
}

/// The numbers of all segments, and one for each gap between them, with the moment from which on it was safe; none when it
/// never was.
fn earliest(coverages: &[&Coverage]) -> BTreeMap<u64, Option<Timestamp>> {
    let mut numbers: BTreeMap<u64, Option<Timestamp>> = BTreeMap::new();
    let known: std::collections::BTreeSet<u64> =
        coverages.iter().flat_map(|coverage| coverage.segments.keys().copied()).collect();
    let mut previous: Option<u64> = None;
    for number in known {
        // What one of them let go it had.
        if let Some(gap) = previous.and_then(|previous| Coverage::first_kept(coverages, previous + 1, number - 1)) {
            numbers.insert(gap, None);
        }
        numbers.insert(number, None);
        previous = Some(number);
    }
    let is_there = |number: u64| coverages.iter().any(|coverage| coverage.segments.contains_key(&number));
    for coverage in coverages {
        for (number, safe) in safe_in(coverage, numbers.keys().copied().collect(), is_there) {
            let best = numbers.entry(number).or_default();
            *best = match (*best, safe) {
                (Some(best), Some(safe)) => Some(best.min(safe)),
                (best, safe) => best.or(safe),
            };
        }
    }
    numbers
}

/// From when on each of `numbers` was safe in one repository. When one arrived that was let go is not known any more: where
/// one `is_there` that tells of its own arrival, that counts; else it was there in time.
fn safe_in(coverage: &Coverage, numbers: Vec<u64>, is_there: impl Fn(u64) -> bool) -> Vec<(u64, Option<Timestamp>)> {
    let earlier = |a: Option<Timestamp>, b: Option<Timestamp>| a.into_iter().chain(b).min();
    let mut backups: Vec<&BackupCover> = coverage.backups.iter().collect();
    backups.sort_by_key(|backup| backup.first_segment);
    // By the log from a backup on: all of it must have arrived.
    let mut next = 0;
    let mut by_log: Option<Timestamp> = None;
    let mut safe = Vec::with_capacity(numbers.len());
    for number in numbers {
        while let Some(backup) = backups.get(next).filter(|backup| backup.first_segment <= number) {
            by_log = earlier(by_log, Some(backup.committed));
            next += 1;
        }
        let arrived = coverage.segments.get(&number).map(|point| point.arrived);
        let is_let_go = arrived.is_none() && coverage.let_go_with(number).is_some();
        if !is_let_go {
            by_log = by_log.zip(arrived).map(|(before, arrived)| before.max(arrived));
        }
        safe.push((number, by_log.filter(|_| !is_let_go || !is_there(number))));
    }
    // By a later backup, which holds what was committed before it.
    let mut by_backup: Option<Timestamp> = None;
    for (number, safe) in safe.iter_mut().rev() {
        while let Some(backup) = backups.last().filter(|backup| backup.first_segment > *number) {
            by_backup = earlier(by_backup, Some(backup.committed));
            backups.pop();
        }
        *safe = earlier(*safe, by_backup);
    }
    safe
}

#[cfg(test)]
mod tests;
