//! How long a recovery would take: predicted for the plan of today from what this source's own drills took. Pure.
//!
//! Each phase of the passed drills is modelled by itself. One that depends on bytes is a line, `fixed + bytes ÷ rate`, neither
//! part negative, nor the fixed one large while their sizes are close; while all drills handled about as much it is a rate
//! alone: one size does not tell the two parts apart. So is the first check by the size of the database, which counts as
//! fixed until drills differ in it. The others are the mean of the latest few. What a drill took beside its phases counts as
//! one more. Where no drill replayed as much as [`TELLING_BYTES`], what that took is fixed, and the rate an assumed one: ten
//! milliseconds for a few records of log say nothing of a gigabyte.

use std::time::Duration;

use crate::base::{DrillLevel, Timestamp};
use crate::policy::choice::Rates;
use crate::repo::evidence::{DrillOutcome, Evidence, PhaseKind};

/// Drills that are looked at, the newest.
const DRILLS: usize = 10;
/// Drills over which a phase is averaged that depends on nothing.
const LATEST: usize = 3;
/// How much more the largest must have handled than the smallest before a line is drawn.
const SPREAD: f64 = 1.2;
/// How much more it must have handled before the fixed part of a line is believed whatever it is …
const WIDE: f64 = 4.0;
/// … and the part of what the largest took that it is at most until then: a slow small drill would promise that size does
/// not matter.
const MOST_FIXED: f64 = 1.0 / 3.0;

/// A replay of less tells no rate.
const TELLING_BYTES: f64 = 4.0 * 1024.0 * 1024.0;
/// What is assumed until one did, in bytes a second: less than PostgreSQL replays on any disk of today.
const ASSUMED_RATE: f64 = 20.0 * 1024.0 * 1024.0;

/// What a restore to the latest moment would have to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    /// Bytes that it writes.
    pub write_bytes: u64,
    /// Bytes of log that it replays.
    pub replay_bytes: u64,
}

/// What is declared beside the phases of a recovery.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Declared {
    /// Until somebody knows of the disaster and begins.
    pub detection: Duration,
    /// Until the backups can be read.
    pub thaw: Duration,
}

/// A predicted recovery.
#[derive(Clone, Debug, PartialEq)]
pub struct Prediction {
    /// The whole, declared times included.
    pub total_seconds: f64,
    /// Its parts in their order, by name.
    pub parts: Vec<(&'static str, f64)>,
    /// Passed drills that it rests on.
    pub drills: usize,
}

/// The drills that tell how long a recovery takes, oldest first: those that restored, and passed.
pub fn telling<D: AsRef<Evidence>>(drills: &[D]) -> Vec<&Evidence> {
    let tells = |drill: &&Evidence| {
        drill.outcome == DrillOutcome::Passed && drill.level >= DrillLevel::Component && drill.rto_seconds.is_some()
    };
    drills.iter().map(AsRef::as_ref).filter(tells).collect()
}

/// What a recovery that does `work` would take; none when nothing was ever rehearsed.
pub fn predict<D: AsRef<Evidence>>(drills: &[D], work: Work, declared: Declared) -> Option<Prediction> {
    let recent = recent(drills);
    if recent.is_empty() {
        return None;
    }
    let mut parts = Vec::new();
    for (name, declared) in [("detection", declared.detection), ("thaw", declared.thaw)] {
        if !declared.is_zero() {
            parts.push((name, declared.as_secs_f64()));
        }
    }
    for (kind, name, line, _) in modelled(&recent) {
        let bytes = if kind == PhaseKind::Replay { work.replay_bytes } else { work.write_bytes };
        parts.push((name, line.seconds(bytes as f64)));
    }
    let beside = beside_phases_of(&recent);
    if beside > 0.0 {
        parts.push(("other", beside));
    }
    Some(Prediction { total_seconds: parts.iter().map(|(_, seconds)| seconds).sum(), parts, drills: recent.len() })
}

/// What the promotion of a standby would take that still has `replay_bytes` of log to fetch and replay; none when no drill
/// has told a rate.
pub fn predict_promotion<D: AsRef<Evidence>>(drills: &[D], replay_bytes: u64, declared: Declared) -> Option<Prediction> {
    let recent = recent(drills);
    let mut parts = Vec::new();
    if !declared.detection.is_zero() {
        parts.push(("detection", declared.detection.as_secs_f64()));
    }
    let before = parts.len();
    for (kind, name, line, _) in modelled(&recent) {
        match kind {
            PhaseKind::Replay => parts.push((name, line.seconds(replay_bytes as f64))),
            PhaseKind::Promote => parts.push((name, line.seconds(0.0))),
            _ => {}
        }
    }
    (parts.len() > before).then(|| Prediction {
        total_seconds: parts.iter().map(|(_, seconds)| seconds).sum(),
        parts,
        drills: recent.len(),
    })
}

/// The same as rates, for the choice of a backup's type: the phases that it does not weigh are as long as in the largest
/// drill.
pub fn rates<D: AsRef<Evidence>>(drills: &[D]) -> Rates {
    let recent = recent(drills);
    let mut rates = Rates::default();
    let mut besides = beside_phases_of(&recent);
    for (kind, _, line, largest_bytes) in modelled(&recent) {
        let rate = (line.seconds_per_byte > 0.0).then(|| 1.0 / line.seconds_per_byte);
        besides += match kind {
            PhaseKind::Fetch => {
                rates.fetch_bytes_per_second = rate;
                line.fixed_seconds
            }
            PhaseKind::Replay => {
                rates.replay_bytes_per_second = rate;
                line.fixed_seconds
            }
            _ => line.seconds(largest_bytes),
        };
    }
    Rates { besides: Duration::try_from_secs_f64(besides).unwrap_or_default(), ..rates }
}

/// The newest of those that tell.
fn recent<D: AsRef<Evidence>>(drills: &[D]) -> Vec<&Evidence> {
    let telling = telling(drills);
    telling[telling.len().saturating_sub(DRILLS)..].to_vec()
}

/// The phases that were measured, in their order: kind, name, model, and the most bytes that a drill handled in it.
fn modelled(recent: &[&Evidence]) -> Vec<(PhaseKind, &'static str, Line, f64)> {
    let measured = PHASES.into_iter().filter_map(|(kind, name)| {
        let samples: Vec<Sample> = recent.iter().filter_map(|drill| sample(drill, kind)).collect();
        let largest_bytes = samples.iter().filter_map(|sample| sample.bytes).fold(0.0, f64::max);
        (!samples.is_empty()).then(|| (kind, name, model(kind, &samples), largest_bytes))
    });
    measured.collect()
}

fn beside_phases_of(recent: &[&Evidence]) -> f64 {
    mean_of_latest(&recent.iter().map(|drill| beside_phases(drill)).collect::<Vec<_>>())
}

/// The last recovery that was measured: when, and how long until a server took writes and data was checked.
pub fn measured<D: AsRef<Evidence>>(drills: &[D]) -> Option<(Timestamp, f64)> {
    let last = telling(drills).into_iter().next_back()?;
    Some((last.finished, last.rto_seconds?))
}

/// The phases of a recovery. The checks after the first are none.
const PHASES: [(PhaseKind, &str); 6] = [
    (PhaseKind::Plan, "plan"),
    (PhaseKind::Fetch, "fetch"),
    (PhaseKind::Start, "start"),
    (PhaseKind::Replay, "replay"),
    (PhaseKind::Promote, "promote"),
    (PhaseKind::FirstCheck, "first_check"),
];

/// What one phase took in one drill, and the bytes that it handled where it depends on them.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Sample {
    seconds: f64,
    bytes: Option<f64>,
}

fn sample(drill: &Evidence, kind: PhaseKind) -> Option<Sample> {
    let found: Vec<_> = drill.phases.iter().filter(|phase| phase.phase == kind).collect();
    if found.is_empty() {
        return None;
    }
    let told = found.iter().filter_map(|phase| phase.bytes).reduce(|a, b| a + b);
    // A check reads the data, more of it in a larger database, but nobody counts how much.
    let restored = drill.restored.as_ref().map(|restored| restored.raw_bytes).filter(|_| kind == PhaseKind::FirstCheck);
    let seconds = found.iter().map(|phase| phase.seconds).sum();
    Some(Sample { seconds, bytes: told.or(restored).map(|bytes| bytes as f64) })
}

fn beside_phases(drill: &Evidence) -> f64 {
    let in_phases: f64 = drill.phases.iter().filter(|phase| phase.phase != PhaseKind::Checks).map(|phase| phase.seconds).sum();
    (drill.rto_seconds.unwrap_or(0.0) - in_phases).max(0.0)
}

/// `fixed_seconds + bytes × seconds_per_byte`.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Line {
    fixed_seconds: f64,
    seconds_per_byte: f64,
}

impl Line {
    fn seconds(self, bytes: f64) -> f64 {
        self.fixed_seconds + bytes * self.seconds_per_byte
    }
}

fn model(kind: PhaseKind, samples: &[Sample]) -> Line {
    let points: Vec<(f64, f64)> =
        samples.iter().filter_map(|sample| Some((sample.bytes.filter(|bytes| *bytes > 0.0)?, sample.seconds))).collect();
    let seconds: Vec<f64> = samples.iter().map(|sample| sample.seconds).collect();
    let fixed = Line { fixed_seconds: mean_of_latest(&seconds), seconds_per_byte: 0.0 };
    let sizes = || points.iter().map(|(bytes, _)| *bytes);
    let (smallest, largest) = (sizes().fold(f64::INFINITY, f64::min), sizes().fold(0.0, f64::max));
    match kind {
        PhaseKind::Replay if largest < TELLING_BYTES => return Line { seconds_per_byte: 1.0 / ASSUMED_RATE, ..fixed },
        _ if points.is_empty() => return fixed,
        _ => {}
    }
    match largest >= smallest * SPREAD {
        true if largest >= smallest * WIDE => nonnegative_line(&points),
        true => believable(nonnegative_line(&points), &points),
        false if kind == PhaseKind::FirstCheck => fixed,
        false => proportional(&points),
    }
}

/// The line through the origin.
fn proportional(points: &[(f64, f64)]) -> Line {
    let (bytes, seconds) = points.iter().fold((0.0, 0.0), |(x, y), point| (x + point.0, y + point.1));
    Line { fixed_seconds: 0.0, seconds_per_byte: seconds / bytes }
}

/// `line`, or one to the same place at the largest of `points`, with the largest fixed part that is believed.
fn believable(line: Line, points: &[(f64, f64)]) -> Line {
    let (bytes, seconds) = points.iter().copied().max_by(|a, b| a.0.total_cmp(&b.0)).unwrap_or((1.0, 0.0));
    // A line that does not rise misses the largest by what made the smaller ones slow.
    let at_largest = if line.seconds_per_byte > 0.0 { line.seconds(bytes) } else { seconds };
    let fixed_seconds = line.fixed_seconds.min(at_largest * MOST_FIXED);
    Line { fixed_seconds, seconds_per_byte: (at_largest - fixed_seconds) / bytes }
}

/// The least-squares line of which neither part is negative. `points` differ in their first number.
fn nonnegative_line(points: &[(f64, f64)]) -> Line {
    let count = points.len() as f64;
    let mean_x = points.iter().map(|point| point.0).sum::<f64>() / count;
    let mean_y = points.iter().map(|point| point.1).sum::<f64>() / count;
    let covariance: f64 = points.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum();
    let variance: f64 = points.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    let slope = covariance / variance;
    if slope <= 0.0 {
        return Line { fixed_seconds: mean_y, seconds_per_byte: 0.0 };
    }
    let fixed = mean_y - slope * mean_x;
    if fixed >= 0.0 {
        return Line { fixed_seconds: fixed, seconds_per_byte: slope };
    }
    // With the fixed part held at nothing, the best slope is another one.
    let slope = points.iter().map(|(x, y)| x * y).sum::<f64>() / points.iter().map(|(x, _)| x * x).sum::<f64>();
    Line { fixed_seconds: 0.0, seconds_per_byte: slope }
}

fn mean_of_latest(values: &[f64]) -> f64 {
    let latest = &values[values.len().saturating_sub(LATEST)..];
    if latest.is_empty() { 0.0 } else { latest.iter().sum::<f64>() / latest.len() as f64 }
}

#[cfg(test)]
pub(super) mod tests;
