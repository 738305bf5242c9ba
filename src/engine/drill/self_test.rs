//! Would a drill notice? Faults are planted, and each must make its drill fail.
//!
//! A fault counts as noticed only when something fails that held without it: a drill that fails anyway notices nothing.
//! Nothing of a self-test is recorded as evidence: the drills in it fail on purpose, and the one that does not is only
//! there to compare with.

use std::sync::Arc;

use super::checks::PAGES;
use super::run::{Drilled, Fault};
use crate::base::{ErrorKind, Result};
use crate::engine::restore::Target;
use crate::engine::restore::plan::{RecoveryStop, RestorePlan};
use crate::engine::restore::prepare::{Request, prepare};
use crate::engine::{IdentitySource, Scope};
use crate::repo::CommitLog;
use crate::repo::log::{LogCatalog, tail};
use crate::store::hiding::Hiding;

/// What became of a fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Noticed {
    /// By this check, or in these words.
    By(String),
    /// By nothing; says which check is missing.
    Not(String),
    /// It could not be planted; says what is needed.
    Untestable(String),
}

/// One planted fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FaultResult {
    /// What was broken.
    pub fault: &'static str,
    /// What became of it.
    pub noticed: Noticed,
}

/// Name of the fault in which a segment of the log is missing.
pub const MISSING_SEGMENT: &str = "missing log segment";

/// Name of a fault, for people.
pub fn name(fault: Fault) -> &'static str {
    match fault {
        Fault::FlippedBit => "flipped bit in a page",
        Fault::WrongRow => "wrong row",
    }
}

/// Compares a drill with a fault with the one without.
pub fn compare(fault: Fault, sound: &Drilled, faulty: &Drilled) -> FaultResult {
    let held = |name: &str| sound.checks.iter().any(|check| check.name == name && check.passed);
    let failing = faulty.checks.iter().find(|check| !check.passed && held(&check.name));
    let noticed = match (failing, faulty.why.first()) {
        _ if !faulty.fault_planted => Noticed::Untestable(match fault {
            Fault::FlippedBit => "nobody has made a table with rows".to_owned(),
            Fault::WrongRow => "the policy does not say what a wrong row is: [drill] spoil = \"UPDATE …\"".to_owned(),
        }),
        (Some(check), _) => Noticed::By(check.name.clone()),
        (None, Some(why)) => Noticed::By(why.clone()),
        (None, None) => Noticed::Not(match fault {
            Fault::FlippedBit if !held(PAGES) => {
                "page checksums: they are off in this cluster (pg_checksums --enable turns them on)".to_owned()
            }
            Fault::FlippedBit => "the log repaired the page: take a newer backup and test again".to_owned(),
            Fault::WrongRow => "a [[drill.check]] whose query notices what 'spoil' does".to_owned(),
        }),
    };
    FaultResult { fault: name(fault), noticed }
}

/// Hides the last segment that `plan` needs: no plan may lead to the same place any more.
///
/// # Errors
/// When the repository does not answer.
pub async fn missing_segment(
    scope: &Scope,
    log: &CommitLog,
    identities: &dyn IdentitySource,
    plan: &RestorePlan,
) -> Result<FaultResult> {
    let result = |noticed| FaultResult { fault: MISSING_SEGMENT, noticed };
    let (incarnation, size) = (&plan.backup.incarnation, plan.backup.segment_bytes);
    let catalog = LogCatalog::load(&scope.repository, &scope.source, incarnation, size).await?;
    // One of which nothing was streamed: pieces would stand in for it.
    let tails = tail::load(&scope.repository, &scope.source, incarnation, size).await?;
    let mut hidable = plan.segments.iter().rev().filter(|segment| !tails.segments.contains_key(segment));
    let needed = hidable.find_map(|segment| catalog.segments.get(segment));
    let (Some(object), RecoveryStop::Record { lsn, inclusive }) = (needed, plan.stop) else {
        return Ok(result(Noticed::Untestable("the plan needs no segment".to_owned())));
    };
    let store = Hiding::new(scope.repository.shared_store(), &object.key);
    let hiding = Scope { repository: scope.repository.clone().reading_from(Arc::new(store)), ..scope.clone() };
    let request = Request {
        target: Target::Lsn { lsn, inclusive },
        timeline: Some(plan.timeline),
        incarnation: Some(incarnation.clone()),
        backup: Some(plan.backup.id.clone()),
    };
    match prepare(&hiding, log, identities, &request).await {
        Ok(_) => Ok(result(Noticed::Not("the plan, which leads across the gap: this is a bug".to_owned()))),
        Err(error) if matches!(error.kind(), ErrorKind::Unreachable | ErrorKind::Interrupted) => Err(error),
        Err(error) => Ok(result(Noticed::By(format!("the plan: {}", error.message())))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repo::evidence::CheckResult;

    fn drilled(checks: &[(&str, bool)], why: &[&str]) -> Drilled {
        let check = |(name, passed): &(&str, bool)| CheckResult {
            name: (*name).to_owned(),
            passed: *passed,
            of_data: true,
            detail: String::new(),
            seconds: 0.0,
        };
        Drilled {
            checks: checks.iter().map(check).collect(),
            why: why.iter().map(|why| (*why).to_owned()).collect(),
            fault_planted: true,
            ..Drilled::new(Vec::new())
        }
    }

    #[test]
    fn only_what_held_before_can_notice() {
        let sound = drilled(&[("sum", true), ("count", false), (PAGES, true)], &[]);
        let noticed = |faulty: &Drilled| compare(Fault::WrongRow, &sound, faulty).noticed;
        assert_eq!(noticed(&drilled(&[("sum", false)], &[])), Noticed::By("sum".into()));
        assert!(matches!(noticed(&drilled(&[("sum", true), ("count", false)], &[])), Noticed::Not(_)));
        assert_eq!(noticed(&drilled(&[], &["it ended"])), Noticed::By("it ended".into()));
        let unplanted = Drilled { fault_planted: false, ..drilled(&[("sum", false)], &[]) };
        assert!(matches!(noticed(&unplanted), Noticed::Untestable(_)));
    }
}
