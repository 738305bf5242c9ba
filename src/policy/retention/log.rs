//! Which log stays. Pure.
//!
//! By positions, whatever the timeline: a range goes only when nothing on any branch needs it. A backup needs its own
//! log, from its start to its stop; the window needs all from its base on, and so does what is in flight. Unless the
//! policy thins it, everything from the oldest kept backup on stays. What is contradicted stays whole.

use serde::Serialize;

use super::{Extent, Facts};
use crate::base::units::format_duration;
use crate::base::{Incarnation, Lsn};
use crate::policy::Retention;

/// What becomes of a stretch of log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LogVerdict {
    /// The incarnation.
    pub incarnation: Incarnation,
    /// Its first byte.
    pub from: Lsn,
    /// One past its last byte.
    pub to: Lsn,
    /// Whether it stays.
    pub kept: bool,
    /// Why.
    pub why: String,
}

/// A stretch that is needed; to the end of the log, when it has none.
struct Need {
    from: Lsn,
    to: Option<Lsn>,
    why: String,
}

/// Decides on the log of every incarnation, when exactly the backups among `facts` stay: in order and without a gap.
pub fn decide_log(retention: &Retention, facts: &Facts) -> Vec<LogVerdict> {
    facts.logs.iter().flat_map(|log| verdicts(log, needs(retention, facts, log))).collect()
}

fn needs(retention: &Retention, facts: &Facts, log: &Extent) -> Vec<Need> {
    if let Some(why) = facts.contradicted.get(&log.incarnation) {
        return vec![Need { from: Lsn(0), to: None, why: why.clone() }];
    }
    let mut needs = window(retention, facts, log);
    for begun in &facts.begun {
        let (from, why) = match &begun.log_start {
            Some((incarnation, from)) if *incarnation == log.incarnation => (*from, format!("{} is being taken", begun.id)),
            Some(_) => continue,
            None => (Lsn(0), format!("{} was begun, and does not say which log it needs", begun.id)),
        };
        needs.push(Need { from, to: None, why });
    }
    let own = || facts.backups.iter().filter(|backup| backup.incarnation == log.incarnation);
    match own().min_by_key(|backup| backup.start_lsn) {
        Some(oldest) if !retention.thin_log => {
            needs.push(Need { from: oldest.start_lsn, to: None, why: format!("{} and what follows it stay", oldest.id) });
        }
        _ => {
            let need = |(from, to, why): (Lsn, Lsn, String)| Need { from, to: Some(to), why };
            needs.extend(own().map(|backup| need((backup.start_lsn, backup.stop_lsn, format!("{} needs it", backup.id)))));
        }
    }
    needs
}

/// What the window needs: on each branch all from its base on; without a base all that there is, for it may come to have one.
fn window(retention: &Retention, facts: &Facts, log: &Extent) -> Vec<Need> {
    let start = retention.window_start(facts.now);
    let window = format_duration(retention.window);
    let mut needs = Vec::new();
    let within = facts.backups.iter().filter(|backup| backup.incarnation == log.incarnation && backup.stop_time > start);
    let need = |from, to, why| Need { from, to, why };
    needs.extend(within.map(|backup| need(backup.start_lsn, None, format!("{} ended within the {window} window", backup.id))));
    for branch in facts.branches_in_window(start).filter(|branch| branch.incarnation == log.incarnation) {
        let base = branch.base(facts, start);
        let first =
            branch.holdings(facts).filter(|backup| branch.ends_in_window(backup, start)).map(|backup| backup.start_lsn).min();
        needs.push(match (base, first) {
            (Some(base), first) => {
                let from = first.map_or(base.start_lsn, |first| first.min(base.start_lsn));
                need(from, None, format!("the {window} window needs it, from {} on", base.id))
            }
            (None, Some(first)) => need(first, None, format!("the {window} window needs it")),
            (None, None) => {
                need(Lsn(0), None, format!("timeline {} reaches into the window, and has no backup", branch.timeline))
            }
        });
    }
    needs
}

/// The extent of a log, cut between segments where what is needed begins and ends.
fn verdicts(log: &Extent, mut needs: Vec<Need>) -> Vec<LogVerdict> {
    needs.sort_by_key(|need| (need.from, need.to.is_some()));
    let mut found: Vec<LogVerdict> = Vec::new();
    let mut at = log.from;
    let verdict = |from, to, kept, why| LogVerdict { incarnation: log.incarnation.clone(), from, to, kept, why };
    for need in needs {
        let to = need.to.map_or(log.to, |to| Lsn(to.0.next_multiple_of(log.segment_bytes)).min(log.to));
        if to <= at {
            continue;
        }
        let from = Lsn(need.from.0 - need.from.0 % log.segment_bytes).clamp(at, log.to);
        if from > at {
            let why = if at == log.from { "older than all that is kept" } else { "between kept backups, before the window" };
            found.push(verdict(at, from, false, why.to_owned()));
        }
        if from < to {
            found.push(verdict(from, to, true, need.why));
        }
        at = to;
    }
    if at < log.to {
        let why = if at == log.from { "nothing of this incarnation is kept" } else { "newer than all that is kept of it" };
        found.push(verdict(at, log.to, false, why.to_owned()));
    }
    found
}
