//! Whether a warm standby counts, and how long its promotion would take. Pure.
//!
//! It counts when it answers, follows this cluster on a timeline that the archive has not left, and is not stale: it may
//! lag by what it was told to, and by [`STALE`] more. What it takes is the detection, the rest of the log at the rate that
//! drills measured, and the promotion.

use std::time::Duration;

use serde::Serialize;

use super::facts::{Facts, Frontier, StandbyState};
use super::rto::{self, Declared, Prediction};
use crate::base::Timestamp;
use crate::base::units::format_duration;

/// A standby that lags by so much more than it was told to has stopped following.
const STALE: Duration = Duration::from_secs(600);

/// A warm standby.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StandbyReport {
    /// Where it is.
    pub place: String,
    /// Whether a recovery could begin from it.
    pub counts: bool,
    /// Why it does not.
    pub why_not: Option<String>,
    /// The end of what it has replayed.
    pub replay_lsn: Option<String>,
    /// Time of the last transaction end that it has replayed since it was started.
    pub replay_time: Option<Timestamp>,
    /// The timeline that it has noted last.
    pub timeline: Option<u32>,
    /// Bytes of log that are archived and not replayed.
    pub lag_bytes: Option<u64>,
    /// Commit time of the archive's end minus that of the last replayed one; 0 when all is replayed.
    pub lag_seconds: Option<f64>,
    /// By how much it lags on purpose.
    pub delay_seconds: Option<f64>,
    /// How long a promotion would take, detection included; none when it does not count, or no drill has told a rate.
    pub predicted_seconds: Option<f64>,
}

/// What becomes of the standby of `facts`, where the log ends at `frontier`.
pub fn judge(facts: &Facts, frontier: Option<&Frontier>, declared: Declared) -> Option<(StandbyReport, Option<Prediction>)> {
    let standby = facts.standby.as_ref()?;
    let mut report = StandbyReport {
        place: standby.place.clone(),
        counts: false,
        why_not: None,
        replay_lsn: None,
        replay_time: None,
        timeline: None,
        lag_bytes: None,
        lag_seconds: None,
        delay_seconds: None,
        predicted_seconds: None,
    };
    let state = match &standby.state {
        Ok(state) => state,
        Err(why) => {
            report.why_not = Some(why.clone());
            return Some((report, None));
        }
    };
    report.replay_lsn = Some(state.replay_lsn.to_string());
    report.replay_time = state.last_commit;
    report.timeline = Some(state.timeline.0);
    report.delay_seconds = Some(state.delay.as_secs_f64());
    let lag_bytes = frontier.map(|frontier| frontier.end_lsn.bytes_since(state.replay_lsn));
    let lag_seconds = frontier.and_then(|frontier| lag_seconds(state, frontier));
    (report.lag_bytes, report.lag_seconds) = (lag_bytes, lag_seconds);
    report.why_not = why_not(state, frontier.is_some(), lag_seconds);
    report.counts = report.why_not.is_none();
    let rest = lag_bytes.filter(|_| report.counts);
    let prediction = rest.and_then(|bytes| rto::predict_promotion(&facts.drills, bytes, declared));
    report.predicted_seconds = prediction.as_ref().map(|prediction| prediction.total_seconds);
    Some((report, prediction))
}

/// A record that goes on in the next segment is not replayed before that one is there: then its commit decides.
fn lag_seconds(state: &StandbyState, frontier: &Frontier) -> Option<f64> {
    let replayed = state.last_commit;
    match frontier.end_lsn.bytes_since(state.replay_lsn) {
        0 => Some(0.0),
        _ => replayed.map(|replayed| frontier.reaches.since(replayed).as_secs_f64()),
    }
}

fn why_not(state: &StandbyState, has_frontier: bool, lag_seconds: Option<f64>) -> Option<String> {
    let allowed = state.delay + STALE;
    match () {
        () if !state.is_of_source => Some("it is another cluster".to_owned()),
        () if !state.in_recovery => Some("it takes writes: it is no standby any more".to_owned()),
        () if !state.is_on_path => Some("the archive went on without it, on another timeline".to_owned()),
        () if state.is_paused => Some("its replay is paused".to_owned()),
        () if !has_frontier => Some("how far the archive goes is not known".to_owned()),
        () => match lag_seconds {
            None => Some("it lags, and has replayed no commit since it was started".to_owned()),
            Some(seconds) if seconds > allowed.as_secs_f64() => {
                let lag = Duration::try_from_secs_f64(seconds).unwrap_or_default();
                Some(format!("it is {} behind the archive", format_duration(lag)))
            }
            Some(_) => None,
        },
    }
}

#[cfg(test)]
mod tests;
