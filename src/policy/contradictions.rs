//! Where a policy contradicts itself, or the repositories that it is to be kept in.
//!
//! What is refused can never be met, whatever the database does; what is warned about can, but not by this version, or
//! not by what the policy says alone. Each finding shows its sum.

mod engine;

pub use engine::against_engine;

use std::time::Duration;

use super::cron::longest_gap;
use super::{LogMode, Policy};
use crate::base::units::{format_bytes, format_duration};
use crate::base::{DrillLevel, Timestamp};

/// PostgreSQL advises no shorter `archive_timeout` than a minute or so: every segment is stored whole.
const SHORTEST_ARCHIVE_TIMEOUT: Duration = Duration::from_secs(60);
const SEGMENT_BYTES: u64 = 16 << 20;
const DAY: Duration = Duration::from_secs(86_400);

/// What a finding means for whoever acts on the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The policy contradicts itself: nothing acts on it.
    Refused,
    /// Somebody should know.
    Warned,
}

impl Severity {
    /// `refused` or `warning`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Warned => "warning",
        }
    }
}

/// One thing that does not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Whether the policy is refused for it.
    pub severity: Severity,
    /// The key that should change, `log.max_lag`.
    pub key: &'static str,
    /// What does not fit.
    pub sentence: String,
    /// Why, in numbers.
    pub arithmetic: String,
}

/// All that does not fit in `policy` itself; the schedule is looked at from `now` on. Empty when everything does.
pub fn contradictions(policy: &Policy, now: Timestamp) -> Vec<Finding> {
    let mut examiner = Examiner { policy, pauses: Pauses::of(policy, now), findings: Vec::new() };
    examiner.objectives();
    examiner.log();
    examiner.schedule();
    examiner.retention();
    examiner.copies();
    examiner.drills();
    examiner.findings
}

/// What of `policy` does not fit a source that is kept in the repositories `kept_in`.
pub fn against_repositories(policy: &Policy, kept_in: &[String]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (key, names) in [("copies.repositories", &policy.copies.repositories), ("copies.locked", &policy.copies.locked)] {
        let strange: Vec<String> = names.iter().filter(|name| !kept_in.contains(name)).cloned().collect();
        if !strange.is_empty() {
            let (sentence, known) = (format!("the source is not kept in {}", strange.join(", ")), kept_in.join(", "));
            findings.push(Finding { severity: Severity::Refused, key, sentence, arithmetic: format!("it is kept in {known}") });
        }
    }
    findings.extend(too_many_copies(policy, kept_in.len()));
    findings
}

/// Copies that more repositories are needed for than there are.
fn too_many_copies(policy: &Policy, repositories: usize) -> Vec<Finding> {
    let counts = [("copies.log", policy.copies.log), ("copies.backup", policy.copies.backup)];
    let too_many = counts.into_iter().filter_map(|(key, count)| Some((key, count.filter(|count| *count > repositories)?)));
    let finding = |(key, count)| Finding {
        severity: Severity::Refused,
        key,
        sentence: "more copies are wanted than there are repositories".to_owned(),
        arithmetic: format!("{count} copies, {repositories} repositories"),
    };
    too_many.map(finding).collect()
}

/// The longest pauses of the schedule; none where nothing is scheduled.
struct Pauses {
    fulls: Option<Duration>,
    backups: Option<Duration>,
    drills: Option<Duration>,
}

impl Pauses {
    fn of(policy: &Policy, now: Timestamp) -> Self {
        let schedule = &policy.schedule;
        let between = |lines: &[&Option<_>]| {
            let lines: Vec<_> = lines.iter().filter_map(|line| line.as_ref()).collect();
            longest_gap(&lines, now, schedule.timezone)
        };
        Self {
            fulls: between(&[&schedule.full]),
            backups: between(&[&schedule.full, &schedule.diff, &schedule.incr]),
            drills: between(&[&schedule.drill]),
        }
    }
}

struct Examiner<'a> {
    policy: &'a Policy,
    pauses: Pauses,
    findings: Vec<Finding>,
}

impl Examiner<'_> {
    fn refuse(&mut self, key: &'static str, sentence: &str, arithmetic: String) {
        self.findings.push(Finding { severity: Severity::Refused, key, sentence: sentence.to_owned(), arithmetic });
    }

    fn warn(&mut self, key: &'static str, sentence: &str, arithmetic: String) {
        self.findings.push(Finding { severity: Severity::Warned, key, sentence: sentence.to_owned(), arithmetic });
    }

    fn objectives(&mut self) {
        let (objectives, thaw) = (self.policy.objectives, self.policy.copies.thaw.unwrap_or_default());
        let (rto, detection) = (time(objectives.rto), time(objectives.detection));
        let lost = objectives.detection + thaw;
        if objectives.rpo.is_zero() {
            let sum = "a commit is on the host alone until it is stored elsewhere".to_owned();
            self.refuse("objectives.rpo", "no backup loses nothing at all: that takes a synchronous standby", sum);
        }
        if objectives.detection >= objectives.rto {
            let sum = format!("detection {detection}, and the RTO is {rto}");
            self.refuse("objectives.detection", "the RTO is over before anybody begins to restore", sum);
        } else if lost >= objectives.rto {
            let sum = format!("detection {detection} + thaw {} = {}, and the RTO is {rto}", time(thaw), time(lost));
            self.refuse("copies.thaw", "the RTO is over before the backups can be read", sum);
        }
    }

    fn log(&mut self) {
        let (log, rpo) = (self.policy.log, self.policy.objectives.rpo);
        if log.mode == LogMode::None {
            return self.no_log();
        }
        if rpo.is_zero() {
            // Refused already.
            return;
        }
        let (max_lag, limit) = (time(log.max_lag), time(rpo));
        if log.max_lag.is_zero() {
            self.refuse("log.max_lag", "nothing is stored in no time", format!("max_lag {max_lag}"));
        } else if log.max_lag > rpo {
            let sum = format!("max_lag {max_lag}, more than the RPO of {limit}");
            self.refuse("log.max_lag", "a commit may wait longer for its way out than may be lost", sum);
        }
        if log.mode != LogMode::Stream && log.max_lag < SHORTEST_ARCHIVE_TIMEOUT && !log.max_lag.is_zero() {
            let segments = (DAY.as_secs_f64() / log.max_lag.as_secs_f64()) as u64;
            let bytes = format_bytes(segments.saturating_mul(SEGMENT_BYTES));
            let sum = format!("one each {max_lag}: {segments} a day, {bytes} before compression");
            self.warn("log.max_lag", "segments are finished so often that they are mostly empty", sum);
        }
    }

    /// Without a log a restore ends where a backup ended.
    fn no_log(&mut self) {
        let (rpo, window) = (self.policy.objectives.rpo, self.policy.retention.window);
        match self.pauses.backups {
            None => {
                let sum = format!("no full, diff or incr, and the RPO is {}", time(rpo));
                self.refuse("log.mode", "neither log nor backups: nothing can be restored", sum);
            }
            Some(pause) if pause > rpo => {
                let sum = format!("up to {} between two, more than the RPO of {}", time(pause), time(rpo));
                self.refuse("schedule", "without a log all since the last backup is lost: backups are too rare", sum);
            }
            Some(_) => {}
        }
        if !window.is_zero() {
            let sum = format!("window {}, mode none", time(window));
            self.refuse("retention.window", "without a log no moment between two backups can be restored", sum);
        }
    }

    fn schedule(&mut self) {
        let schedule = &self.policy.schedule;
        let builds = schedule.diff.is_some() || schedule.incr.is_some();
        if schedule.full.is_none() && builds {
            let sum = "no full, and each diff or incr builds on one".to_owned();
            self.refuse("schedule.full", "every restore would begin at the same old full backup", sum);
        } else if schedule.full.is_none() && self.policy.log.mode != LogMode::None {
            let sum = "no full, diff or incr in [schedule]".to_owned();
            self.warn("schedule.full", "no backup is scheduled: somebody else must take them", sum);
        }
    }

    fn retention(&mut self) {
        let retention = self.policy.retention;
        let fulls = self.pauses.fulls;
        let days = |count: u32, days: u32| DAY * days.saturating_mul(count);
        let chains = fulls.map_or(Duration::ZERO, |pause| pause.saturating_mul(retention.keep_chains));
        let reach = [
            retention.window,
            retention.keep_for.unwrap_or_default(),
            chains,
            days(retention.daily, 1),
            days(retention.weekly, 7),
            days(retention.monthly, 28),
            days(retention.yearly, 365),
        ];
        let reach = reach.into_iter().max().unwrap_or_default();
        if reach.is_zero() && retention.keep_chains == 0 {
            self.refuse("retention", "nothing is kept", "window 0 s, keep_chains 0, and nothing else".to_owned());
        } else if let Some(pause) = fulls.filter(|pause| reach < *pause) {
            let sum = format!("{} kept, up to {} between two full backups", time(reach), time(pause));
            self.refuse("retention", "a backup would go before the next one is there", sum);
        } else if let Some(pause) = self.pauses.drills.filter(|pause| fulls.is_some() && reach < *pause) {
            let sum = format!("{} kept, up to {} between two drills", time(reach), time(pause));
            self.warn("retention", "what a drill has proven is gone before the next one", sum);
        }
        let minimum = retention.legal_minimum.filter(|minimum| !minimum.is_zero());
        match minimum {
            Some(minimum) if retention.monthly == 0 && retention.yearly == 0 => {
                let sum = format!("legal_minimum {}, monthly 0, yearly 0", time(minimum));
                self.refuse("retention.legal_minimum", "it holds what monthly and yearly keep: they keep nothing", sum);
            }
            None if retention.yearly > 1 => {
                let sum = format!("{} with the running one: {} full years", retention.yearly, retention.yearly - 1);
                let sentence = "years are counted; where the law sets an age, say legal_minimum";
                self.warn("retention.yearly", sentence, sum);
            }
            _ => {}
        }
    }

    fn copies(&mut self) {
        let copies = &self.policy.copies;
        let named = &copies.repositories;
        if named.is_empty() {
            return;
        }
        let count = |name: &String| named.iter().filter(|other| *other == name).count();
        if let Some(twice) = named.iter().find(|name| count(name) > 1) {
            self.refuse("copies.repositories", "a repository is named twice", format!("{twice}: {} times", count(twice)));
        }
        let strange: Vec<&str> = copies.locked.iter().filter(|name| !named.contains(name)).map(String::as_str).collect();
        if !strange.is_empty() {
            let sum = format!("{} is not among {}", strange.join(", "), named.join(", "));
            self.refuse("copies.locked", "a repository is to be locked that holds nothing of the source", sum);
        }
        self.findings.extend(too_many_copies(self.policy, named.len()));
    }

    fn drills(&mut self) {
        let (drill, limit) = (&self.policy.drill, self.policy.objectives.drill_max_age);
        match self.pauses.drills {
            None => {
                let sum = "no drill in [schedule]".to_owned();
                self.warn("schedule.drill", "the objectives stay unproven until somebody drills", sum);
            }
            Some(pause) if pause > limit => {
                let sum = format!("up to {} between two, more than drill_max_age {}", time(pause), time(limit));
                self.refuse("schedule.drill", "each drill is too old before the next one", sum);
            }
            Some(_) => {}
        }
        if drill.levels.iter().all(|level| *level == DrillLevel::Verify) {
            let sum = "levels: verify only".to_owned();
            self.warn("drill.levels", "nothing is restored: the RTO is never measured", sum);
        }
    }
}

/// A declared time: measured ones have fractions, a declared zero has none.
pub fn time(duration: Duration) -> String {
    if duration.is_zero() { "0 s".to_owned() } else { format_duration(duration) }
}

#[cfg(test)]
mod tests;
