//! From what the operator asked to a plan and the keys that open it. Reads the repository, touches nothing else.
//!
//! Names tell when a moment was captured, and a segment's own header which state of the database that is: a way is taken only
//! when it is of the backup's file and the state at its end holds all of the backup it begins with. What cannot be read ends the
//! ways through it, and is told.

use std::collections::BTreeMap;

use super::plan::{Plan, Situation, plans, without};
use crate::base::{BackupId, Engine, Error, ErrorKind, Incarnation, Result, Segment};
use crate::codec::encrypt::Opener;
use crate::engine::archive::get::{fetch, opener};
use crate::engine::chain::{self, Chain, Link};
use crate::engine::restore::Target;
use crate::engine::sqlite::{SIZE, TIMELINE, number};
use crate::engine::{IdentitySource, Scope};
use crate::repo::log::{LogCatalog, SegmentObject};
use crate::repo::manifest::{Facts, SqliteFacts};
use crate::repo::{BackupSummary, CommitLog};
use crate::source::sqlite::{Moment, SegmentHeader, SegmentReader};

/// The largest segment that is read.
const LARGEST_BYTES: u64 = 1 << 30;

/// What to restore.
#[derive(Clone, Debug)]
pub struct Request {
    /// Which moment.
    pub target: Target,
    /// Of which life of the database; of any when none is given.
    pub incarnation: Option<Incarnation>,
    /// The backup; the best when none is given.
    pub backup: Option<BackupId>,
}

/// A plan and what opens the data it names.
pub struct Prepared {
    /// The plan.
    pub plan: Plan,
    /// The backup and what it builds on, itself first.
    pub links: Vec<Link>,
    /// Opens the segments.
    pub(super) log: Opener,
    /// The state that is in the backup.
    pub(super) moment: Moment,
    /// What the database was called on the protected host.
    pub(super) facts: SqliteFacts,
}

impl Prepared {
    /// Stored bytes of all packs, manifests and segments that a restore may have to fetch.
    pub fn fetch_bytes(&self) -> u64 {
        self.links.iter().map(|link| link.summary.stored_bytes).sum::<u64>() + self.plan.log_stored_bytes()
    }
}

/// Makes the plan for `request` from the backups in `log` and unwraps the keys it needs.
///
/// # Errors
/// When the target cannot be reached, no identity fits, or the repository is damaged where it matters.
pub async fn prepare(scope: &Scope, log: &CommitLog, identities: &dyn IdentitySource, request: &Request) -> Result<Prepared> {
    if let Some(backup) = request.backup.as_ref().and_then(|id| log.find(id)) {
        // Why its chain is broken, rather than that it is.
        chain::summaries(scope, log, backup)?;
    }
    let is_wanted = |backup: &&BackupSummary| match &request.incarnation {
        Some(incarnation) => backup.incarnation == *incarnation,
        None => backup.incarnation.engine() == Engine::Sqlite,
    };
    let backups: Vec<&BackupSummary> = log.restorable().filter(is_wanted).collect();
    let logs = logs(scope, &backups).await?;
    let source = scope.source.to_string();
    let situation = Situation { source: &source, backups, logs: &logs };
    let mut ways = plans(&situation, &request.target, request.backup.as_ref())?;
    let (mut passed, mut damage) = (Vec::new(), None);
    while !ways.is_empty() {
        let plan = ways.remove(0);
        let id = plan.backup.id.clone();
        let mut prepared = match open(scope, log, identities, plan).await {
            Err(error) if error.kind() == ErrorKind::Damaged => {
                passed.push(format!("backup {id} cannot be used: {}", error.summary()));
                ways.retain(|way| way.backup.id != id);
                damage.get_or_insert(error);
                continue;
            }
            opened => opened?,
        };
        match objection(scope, &prepared).await? {
            None => {
                let log_of = logs.get(&prepared.plan.backup.incarnation);
                prepared.plan.notes.extend(passed);
                prepared.plan.notes.extend(another_file(scope, identities, &prepared, log_of).await);
                prepared.plan.notes.extend(unused(log, log_of));
                return Ok(prepared);
            }
            Some(Objection::Damaged(key, error)) => {
                passed.push(format!("{key} cannot be used, nor what goes on from it: {}", error.summary()));
                ways = without([vec![prepared.plan], ways].concat(), &key);
                damage.get_or_insert(error);
            }
            Some(Objection::IsOlder(why)) => {
                passed.push(why);
                let end = prepared.plan.segments.last().map(|last| last.key.clone());
                ways.retain(|way| way.segments.last().map(|last| &last.key) != end.as_ref());
            }
            Some(Objection::Unfit(why)) => passed.push(why),
        }
    }
    // But for damage a backup's own moment is always among the ways.
    Err(damage.unwrap_or_else(|| Error::failed(format!("no way to a moment of {source} holds: this is a bug"))))
}

/// What speaks against a way.
enum Objection {
    /// The segment of this key cannot be read.
    Damaged(String, Error),
    /// It ends before the backup that it begins with.
    IsOlder(String),
    /// It is not one way, or nobody can tell.
    Unfit(String),
}

/// Opens the backup that `plan` begins with.
async fn open(scope: &Scope, log: &CommitLog, identities: &dyn IdentitySource, plan: Plan) -> Result<Prepared> {
    let unwrapped = if plan.backup.encrypted { identities.identities()? } else { Vec::new() };
    let links = chain::links(scope, log, &plan.backup, &unwrapped).await?;
    let facts = facts(scope, &links).await?;
    let moment = moment_of(&plan.backup, &facts)?;
    let sample = plan.segments.iter().map(|segment| segment.key.clone()).find(|key| key.ends_with(".age"));
    let log = opener(scope, identities, &plan.backup.incarnation, &sample.unwrap_or_default()).await?;
    Ok(Prepared { plan, links, log, moment, facts })
}

/// What the first and the last of its segments say against a way.
async fn objection(scope: &Scope, prepared: &Prepared) -> Result<Option<Objection>> {
    let Prepared { plan, log, moment, .. } = prepared;
    let id = &plan.backup.id;
    let (Some(first), Some(last)) = (plan.segments.first(), plan.segments.last()) else { return Ok(None) };
    let mut headers = Vec::new();
    for segment in [first, last] {
        match header_of(scope, segment, log).await {
            Ok(header) if segment.name.last.known() == Some(header.to.captured_at) => headers.push(header),
            Ok(header) => {
                let error = Error::damaged(format!("{} leads to another moment than its name says", segment.key));
                let error = error.detail("content", header.to.captured_at.to_string());
                return Ok(Some(Objection::Damaged(segment.key.clone(), error)));
            }
            Err(error) if error.kind() == ErrorKind::Damaged => return Ok(Some(Objection::Damaged(segment.key.clone(), error))),
            Err(error) => return Err(error),
        }
    }
    let (from, reached) = (headers[0].from, headers[1].to);
    let at = reached.captured_at;
    Ok(match from {
        Some(from) if from == *moment => None,
        Some(from) if from.at.file == moment.at.file && moment.may_be_followed_from(&from) => match reached.holds(moment) {
            // The same state may be in both: then the later look at it knows more.
            Some(true) if reached.at != moment.at || at >= moment.captured_at => None,
            Some(_) => Some(Objection::IsOlder(format!("the log up to {at} is not used: it was captured before backup {id}"))),
            None => Some(Objection::Unfit(format!("{at} was captured while backup {id} was taken, and is not told from it"))),
        },
        Some(from) if from.at.file == moment.at.file && !moment.at.may_be_of_one_boot(&from.at) => Some(Objection::Unfit(
            format!("the log up to {at} is of another run of the machine, or of its clone, than backup {id}"),
        )),
        Some(from) if from.at.file == moment.at.file => {
            Some(Objection::Unfit(format!("the log up to {at} does not go on from backup {id}, which lies before it")))
        }
        _ => Some(Objection::Unfit(format!("the log up to {at} is of another database file than backup {id}"))),
    })
}

/// That a backup is of another database file than the log before it: it may have been replaced, or be that of another host.
/// Where the log goes on from the backup that was seen to, or the way not taken.
async fn another_file(
    scope: &Scope,
    identities: &dyn IdentitySource,
    prepared: &Prepared,
    log: Option<&LogCatalog>,
) -> Option<String> {
    let Prepared { plan, moment, .. } = prepared;
    let start = Segment { timeline: TIMELINE, number: number(plan.backup.start_lsn) };
    let (_, before) = log?.segments.range(..start).next_back().filter(|_| plan.segments.is_empty())?;
    let id = &plan.backup.id;
    let header = async {
        let opener = opener(scope, identities, &plan.backup.incarnation, &before.key).await?;
        header_of(scope, before, &opener).await
    };
    match header.await {
        Ok(header) if header.to.at.file == moment.at.file => None,
        Ok(SegmentHeader { to, .. }) => {
            Some(format!("backup {id} is of another database file than the log before it, which ends at {}", to.captured_at))
        }
        Err(error) => Some(format!("whether {} is of the file of backup {id} is not known: {}", before.key, error.summary())),
    }
}

/// What is left out, and why.
fn unused(log: &CommitLog, catalog: Option<&LogCatalog>) -> Vec<String> {
    let problems = log.problems.iter().map(|(key, problem)| format!("{key} is not used: {problem}"));
    let broken = log.broken().map(|(backup, broken)| format!("{} is not used: {broken}", backup.id));
    let splits = catalog.into_iter().flat_map(|catalog| &catalog.split_brains);
    let splits = splits
        .map(|split| format!("{} is not used: it was stored with different contents ({})", split.file, split.digests.join(", ")));
    problems.chain(broken).chain(splits).collect()
}

/// The log of each incarnation that has backups.
async fn logs(scope: &Scope, backups: &[&BackupSummary]) -> Result<BTreeMap<Incarnation, LogCatalog>> {
    let mut logs = BTreeMap::new();
    for incarnation in backups.iter().map(|backup| &backup.incarnation) {
        if !logs.contains_key(incarnation) {
            let catalog = LogCatalog::load(&scope.repository, &scope.source, incarnation, SIZE).await?;
            logs.insert(incarnation.clone(), catalog);
        }
    }
    Ok(logs)
}

/// What the backup's manifest says of the database.
async fn facts(scope: &Scope, links: &[Link]) -> Result<SqliteFacts> {
    let scratch = scope.state.scratch()?;
    let chain = Chain::fetch(scope, links, scratch.path()).await?;
    let entries = chain.entries()?;
    match &entries.header().facts {
        Facts::Sqlite(facts) => Ok(facts.clone()),
        _ => Err(Error::damaged(format!("backup {} is not of a SQLite database", links[0].summary.id))),
    }
}

/// The state that is in a backup.
fn moment_of(backup: &BackupSummary, facts: &SqliteFacts) -> Result<Moment> {
    let at = serde_json::from_value(facts.position.clone())
        .map_err(|error| Error::damaged(format!("the manifest of {} names no position", backup.id)).caused_by(error))?;
    let moment = Moment { complete_at: facts.complete_at, captured_at: facts.captured_at, at };
    if (moment.complete_at, moment.captured_at) != (backup.start_time, backup.stop_time)
        || moment.at.page_size != facts.page_bytes
    {
        return Err(Error::damaged(format!("the manifest of {} is of another moment than its commit entry", backup.id)));
    }
    Ok(moment)
}

/// What a segment says of itself.
async fn header_of(scope: &Scope, segment: &SegmentObject, opener: &Opener) -> Result<SegmentHeader> {
    let raw = read(scope, segment, opener).await?;
    Ok(*SegmentReader::begin(raw.as_slice()).map_err(|error| error.context(&segment.key))?.header())
}

/// A segment's content.
pub(super) async fn read(scope: &Scope, segment: &SegmentObject, opener: &Opener) -> Result<Vec<u8>> {
    fetch(scope, &segment.key, opener, &segment.name.digest, LARGEST_BYTES).await
}
