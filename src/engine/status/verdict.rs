//! The verdict, and every reason for it. Pure.
//!
//! | verdict | when |
//! |---|---|
//! | `breach` | an objective is known to be missed |
//! | `at_risk` | one may be missed soon, or is not known to be met; something that keeps them is broken |
//! | `unproven` | nothing proves the objectives: not declared, never rehearsed, or too long ago |
//! | `ok` | none of these |
//!
//! The worst of the reasons is the verdict. An exposure that is only bounded from above is at risk, never a breach: an idle
//! server that cannot be asked looks the same as one that loses data. What is certainly lost counts by itself.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::base::units::format_duration;
use crate::base::{Engine, Timestamp};
use crate::engine::archive::slot::Threat;
use crate::policy::{LogMode, Objectives};
use crate::repo::evidence::{DrillOutcome, Evidence, KeyUse};

use super::facts::{Facts, Held, PolicyProblem, RepositoryFacts, Window};
use super::report::CopiesHeld;
use super::rpo::{Scope, ScopeFacts, Survival};
use super::rto::{self, Declared, Prediction};
use super::schedule::Standing;
use super::standby::StandbyReport;

/// Part of the RPO above which an exposure is a risk.
pub(super) const RPO_AT_RISK: f64 = 0.75;
/// Said of commits whose times have not come.
pub(super) const CLOCK_SET_BACK: &str =
    "how old the first commit is that would be lost is not known: the server's clock was set back";
/// Part of the RTO above which a prediction is a risk.
const RTO_AT_RISK: f64 = 0.8;

/// Whether a source would survive; the better before the worse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It would, within its objectives.
    Ok,
    /// Nothing proves it.
    Unproven,
    /// It might not.
    AtRisk,
    /// It would not.
    Breach,
}

impl Verdict {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Ok, Self::Unproven, Self::AtRisk, Self::Breach];

    /// `ok`, `unproven`, `at_risk` or `breach`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Unproven => "unproven",
            Self::AtRisk => "at_risk",
            Self::Breach => "breach",
        }
    }
}

/// What a reason is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// What would be lost.
    Rpo,
    /// How long it would take.
    Rto,
    /// There is no backup to restore, or one was missed.
    Backup,
    /// The declared standby cannot be relied on.
    Standby,
    /// Something is missing in the log.
    Gap,
    /// The server's archiver.
    Archiver,
    /// The slot of the source's stream.
    Slot,
    /// Too few repositories hold what they should, or are as protected as they should be.
    Copies,
    /// A repository does not answer, or holds what is not trusted.
    Repository,
    /// The last drill failed.
    DrillFailed,
    /// There was no drill, or only an old one.
    StaleDrill,
    /// Drills proved nothing.
    Inconclusive,
    /// The recovery key was never used.
    Key,
    /// The record of drills is not whole.
    Evidence,
    /// Nothing is declared, or it cannot be used.
    Policy,
}

/// Why a verdict is what it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// What follows from it; `ok` for what is only told.
    pub verdict: Verdict,
    /// What it is about.
    pub class: Class,
    /// The scope that it concerns; all when none is named.
    pub scope: Option<&'static str>,
    /// In a sentence.
    pub message: String,
    /// What to type next.
    pub command: String,
}

impl Reason {
    /// Whether it is about how long a recovery takes, or whether that is known.
    pub fn is_of_recovery(&self) -> bool {
        matches!(self.class, Class::Rto | Class::DrillFailed | Class::StaleDrill | Class::Inconclusive)
    }
}

/// What was worked out of the facts.
pub struct Findings<'a> {
    /// What would be lost.
    pub scopes: &'a [ScopeFacts],
    /// How long it would take; none when it is not known.
    pub prediction: Option<&'a Prediction>,
    /// The warm standby.
    pub standby: Option<&'a StandbyReport>,
    /// What is declared beside the phases.
    pub declared: Declared,
    /// Backups against their schedule.
    pub schedule: &'a [Standing],
    /// How many repositories hold what.
    pub copies: CopiesHeld,
}

/// Every reason, the worst first.
pub fn reasons(facts: &Facts, findings: &Findings<'_>) -> Vec<Reason> {
    let judge = Judge { facts, objectives: facts.policy.as_ref().map(|policy| policy.objectives) };
    let mut reasons = Vec::new();
    for scope in findings.scopes.iter().filter(|scope| scope.is_judged) {
        reasons.extend(judge.rpo(scope));
    }
    reasons.extend(judge.rto(findings));
    reasons.extend(findings.standby.and_then(|standby| judge.standby(standby)));
    reasons.extend(judge.drills());
    reasons.extend(judge.archiver());
    reasons.extend(judge.slot());
    reasons.extend(facts.repositories.iter().flat_map(|repository| judge.repository(repository)));
    reasons.extend(judge.copies(findings.copies));
    reasons.extend(judge.schedule(findings.schedule));
    if let Some(PolicyProblem { name, why }) = &facts.policy_problem {
        let message = format!("its policy cannot be used: {why}");
        reasons.push(judge.reason(Verdict::AtRisk, Class::Policy, message, format!("lifeboat policy check {name}")));
    } else if facts.policy.is_none() {
        let command = format!("policy = \"NAME\" in [source.{}] of lifeboat.toml   declares them", facts.source);
        reasons.push(judge.reason(Verdict::Unproven, Class::Policy, "no objectives are declared", command));
    }
    // One of the same kind stays in the order in which it was found.
    reasons.sort_by_key(|reason| std::cmp::Reverse(reason.verdict));
    reasons
}

#[cfg(test)]
pub(super) mod tests;

struct Judge<'a> {
    facts: &'a Facts,
    objectives: Option<Objectives>,
}

fn seconds(seconds: f64) -> String {
    Duration::try_from_secs_f64(seconds).map_or_else(|_| "for ever".to_owned(), format_duration)
}

impl Judge<'_> {
    fn reason(&self, verdict: Verdict, class: Class, message: impl Into<String>, command: impl Into<String>) -> Reason {
        Reason { verdict, class, scope: None, message: message.into(), command: command.into() }
    }

    /// `lifeboat VERB SOURCE`, and what it does.
    fn command(&self, verb: &str, does: &str) -> String {
        format!("lifeboat {}{does}", verb.replacen("SOURCE", &self.facts.source.to_string(), 1))
    }

    fn rpo(&self, scope: &ScopeFacts) -> Option<Reason> {
        let check = || match self.facts.engine {
            Engine::Postgres => self.command("check SOURCE", "   tests the way from the server to the repository"),
            Engine::Sqlite => self.command("check SOURCE", "   tests the way from the database to the repository"),
            // Only another backup knows of what was changed since.
            Engine::Directory => self.command("backup SOURCE", "   holds what was changed since"),
        };
        let mut reason = match &scope.survival {
            Survival::NotAssessed(_) => return None,
            Survival::Unknown(repositories) => {
                let message = format!("what survives is not known: {} does not answer", repositories.join(", "));
                self.reason(Verdict::AtRisk, Class::Repository, message, check())
            }
            Survival::Nothing(why) => {
                let verdict = if self.objectives.is_some() { Verdict::Breach } else { Verdict::AtRisk };
                let full = match scope.scope {
                    Scope::HostLost => self.command("backup SOURCE --type full", ""),
                    Scope::SiteLost | Scope::CredentialsStolen => self.command("copy --help", "   fills another repository"),
                };
                self.reason(verdict, Class::Backup, format!("everything would be lost: {why}"), full)
            }
            Survival::Best { exposure, .. } if exposure.is_of_the_future(self.facts.now) => {
                self.reason(Verdict::AtRisk, Class::Rpo, CLOCK_SET_BACK, check())
            }
            Survival::Best { exposure, .. } => {
                let objectives = self.objectives?;
                let (lost, rpo) = (exposure.seconds(self.facts.now), objectives.rpo.as_secs_f64());
                let certain = exposure.at_least_seconds(self.facts.now);
                let (how, told, verdict) = match () {
                    () if certain > rpo => (if exposure.is_bound() { "at least " } else { "" }, certain, Verdict::Breach),
                    () if lost > RPO_AT_RISK * rpo => (if exposure.is_bound() { "up to " } else { "" }, lost, Verdict::AtRisk),
                    () => return None,
                };
                let message = format!("{how}{} would be lost, the RPO is {}", seconds(told), format_duration(objectives.rpo));
                self.reason(verdict, Class::Rpo, message, check())
            }
        };
        reason.message = format!("{}: {}", scope.scope.words(), reason.message);
        reason.scope = Some(scope.scope.as_str());
        Some(reason)
    }

    fn rto(&self, findings: &Findings<'_>) -> Vec<Reason> {
        let Some(objectives) = self.objectives else { return Vec::new() };
        let objective = objectives.rto.as_secs_f64();
        let told = |what: &str, took: f64| format!("{what} {}, the RTO is {}", seconds(took), format_duration(objectives.rto));
        let drill = || self.command("drill SOURCE", "   measures it again");
        let mut reasons = Vec::new();
        if let Some(predicted) = findings.prediction.map(|prediction| prediction.total_seconds) {
            let verdict = match predicted / objective {
                part if part > 1.0 => Some(Verdict::Breach),
                part if part > RTO_AT_RISK => Some(Verdict::AtRisk),
                _ => None,
            };
            let message = told("a recovery would take about", predicted);
            reasons.extend(verdict.map(|verdict| self.reason(verdict, Class::Rto, message, drill())));
        }
        if let Some((_, took)) = rto::measured(&self.facts.drills) {
            let took = took + findings.declared.detection.as_secs_f64() + findings.declared.thaw.as_secs_f64();
            if took > objective {
                reasons.push(self.reason(Verdict::Breach, Class::Rto, told("the last drill took", took), drill()));
            }
        }
        reasons
    }

    /// A recovery from the repositories is predicted without it; yet somebody counts on it.
    fn standby(&self, standby: &StandbyReport) -> Option<Reason> {
        let why = standby.why_not.as_ref()?;
        let message = format!("the standby ({}) counts for nothing: {why}", standby.place);
        let seed = self.command("restore SOURCE --into DIR --standby --delta", "   seeds it again");
        Some(self.reason(Verdict::AtRisk, Class::Standby, message, seed))
    }

    fn drills(&self) -> Vec<Reason> {
        let drills: Vec<&Evidence> = self.facts.drills.iter().map(|kept| &kept.evidence).collect();
        let drill = || self.command("drill SOURCE", "");
        let mut reasons = Vec::new();
        if let Some(last) = drills.last().filter(|last| last.outcome == DrillOutcome::Failed) {
            let why = last.why.first().map(|why| format!(": {why}")).unwrap_or_default();
            let message = format!("the last drill failed at {}{why}", last.finished.human_seconds());
            reasons.push(self.reason(Verdict::AtRisk, Class::DrillFailed, message, drill()));
        }
        match rto::telling(&self.facts.drills).last() {
            None => {
                let inconclusive = drills.iter().any(|drill| drill.outcome == DrillOutcome::Inconclusive);
                let (class, message) = match inconclusive {
                    true => (Class::Inconclusive, "no drill has checked any data yet"),
                    false => (Class::StaleDrill, "a recovery was never rehearsed"),
                };
                reasons.push(self.reason(Verdict::Unproven, class, message, drill()));
            }
            Some(last) => {
                reasons.extend(self.stale(last.finished).map(|message| {
                    let newest = drills.last().map(|last| last.outcome);
                    let inconclusive = newest == Some(DrillOutcome::Inconclusive);
                    let class = if inconclusive { Class::Inconclusive } else { Class::StaleDrill };
                    self.reason(Verdict::Unproven, class, message, drill())
                }));
                reasons.extend(self.key());
            }
        }
        reasons.extend(self.facts.evidence_problems.first().map(|problem| {
            let more = match self.facts.evidence_problems.len() {
                1 => String::new(),
                count => format!(" (and {} more)", count - 1),
            };
            let message = format!("the record of drills is not whole: {problem}{more}");
            self.reason(Verdict::AtRisk, Class::Evidence, message, self.command("verify SOURCE", ""))
        }));
        reasons
    }

    fn stale(&self, passed: Timestamp) -> Option<String> {
        let most = self.objectives?.drill_max_age;
        let age = self.facts.now.since(passed);
        (age > most)
            .then(|| format!("the last drill that passed is {} old, {} is allowed", format_duration(age), format_duration(most)))
    }

    /// Drills that passed with a key at hand say nothing of the key that a disaster would need. Told, and not held against
    /// the source: the file may be where the key is kept.
    fn key(&self) -> Option<Reason> {
        let tested = |drill: &&Evidence| drill.key_use != KeyUse::File;
        if rto::telling(&self.facts.drills).iter().any(tested) {
            return None;
        }
        let message = "the recovery key was never fetched from where it is kept: every drill used a file at hand";
        let command = self.command("drill SOURCE --identity-command 'COMMAND'", "   COMMAND prints the key");
        Some(self.reason(Verdict::Ok, Class::Key, message, command))
    }

    fn archiver(&self) -> Option<Reason> {
        let server = self.facts.server()?;
        let wants_log = self.facts.policy.as_ref().is_some_and(|policy| policy.log.mode == LogMode::Segments);
        if server.archiver.is_none() && !server.in_recovery && wants_log {
            let message = "the server does not archive its log: archive_mode is off";
            return Some(self.reason(Verdict::AtRisk, Class::Archiver, message, self.command("check SOURCE", "")));
        }
        let archiver = server.archiver.as_ref().filter(|archiver| archiver.failing)?;
        let file = archiver.last_failed_file.as_deref().unwrap_or("a file");
        let time = archiver.last_failed_time.map(|time| format!(" at {}", time.human_seconds())).unwrap_or_default();
        let message = format!("the archiver fails: {file}{time}, {} failures in all", archiver.failed_count);
        let command = self.command("check SOURCE", "   and the server's log says why");
        Some(self.reason(Verdict::AtRisk, Class::Archiver, message, command))
    }

    fn slot(&self) -> Vec<Reason> {
        let mode = self.facts.policy.as_ref().map(|policy| policy.log.mode);
        let threats = match &self.facts.slot {
            Some(Ok(slot)) => slot.judged(mode, self.facts.now),
            // What nobody streams from is not missed.
            Some(Err(why)) if mode == Some(LogMode::Stream) => {
                let message = format!("the slot of the stream cannot be looked at: {why}");
                return vec![self.reason(Verdict::AtRisk, Class::Slot, message, self.command("check SOURCE", ""))];
            }
            Some(Err(_)) | None => Vec::new(),
        };
        let source = self.facts.source.to_string();
        let reason = |threat: Threat| {
            let command = threat.command.replacen("SOURCE", &source, 1);
            self.reason(Verdict::AtRisk, Class::Slot, threat.message, command)
        };
        threats.into_iter().map(reason).collect()
    }

    fn repository(&self, repository: &RepositoryFacts) -> Vec<Reason> {
        let name = &repository.name;
        let mut reasons = Vec::new();
        let check = || self.command("check SOURCE", "");
        match &repository.held {
            Err(why) => {
                let message = format!("repository {name} does not answer: {why}");
                reasons.push(self.reason(Verdict::AtRisk, Class::Repository, message, check()));
            }
            Ok(held) => reasons.extend(self.held(name, held)),
        }
        match &repository.queue {
            Err(why) => {
                let message = format!("what waits for repository {name} is not known: {why}");
                reasons.push(self.reason(Verdict::AtRisk, Class::Copies, message, self.command("queue SOURCE", "")));
            }
            Ok(queue) if queue.given_up > 0 => {
                let message = format!("{} items for repository {name} were given up", queue.given_up);
                let command = self.command("queue SOURCE --deliver --retry", "");
                reasons.push(self.reason(Verdict::AtRisk, Class::Copies, message, command));
            }
            Ok(_) => {}
        }
        let declared = self.facts.policy.as_ref().is_some_and(|policy| policy.copies.locked.contains(name));
        if declared && repository.held.is_ok() && repository.protected_by.is_none() {
            let message = format!("repository {name} is declared as locked, and nothing shows that it is");
            reasons.push(self.reason(Verdict::AtRisk, Class::Copies, message, check()));
        }
        reasons
    }

    fn held(&self, name: &str, held: &Held) -> Vec<Reason> {
        let verify = || self.command("verify SOURCE", "");
        let mut reasons = Vec::new();
        if let Some(split) = held.split_brains.first() {
            let message = format!("repository {name} holds two versions of {split}: two servers write the same log");
            reasons.push(self.reason(Verdict::AtRisk, Class::Gap, message, verify()));
        }
        if let Some(problem) = held.problems.first() {
            let message = format!("in repository {name} something is not used: {problem}");
            reasons.push(self.reason(Verdict::AtRisk, Class::Repository, message, verify()));
        }
        reasons.extend(held.window.windows(2).filter_map(|pair| self.gap(name, &pair[0], &pair[1])));
        reasons
    }

    /// What lies between two stretches of the window, where it should not be missing.
    fn gap(&self, repository: &str, before: &Window, after: &Window) -> Option<Reason> {
        let window = self.facts.policy.as_ref().map(|policy| policy.retention.window);
        let begins = window.map(|window| self.facts.now.minus(window));
        let is_inside = begins.is_none_or(|begins| after.interval.from > begins);
        let why = match self.facts.engine {
            Engine::Postgres => format!("{} is missing", before.missing),
            // Snapshots that nobody followed are moments: nothing is missing between them.
            Engine::Sqlite if before.interval.is_moment() && window.is_none() => return None,
            Engine::Sqlite => "its commits were not followed without a break".to_owned(),
            Engine::Directory => return None,
        };
        let exact = |time: Timestamp| if self.facts.engine == Engine::Postgres { time.human_seconds() } else { time.human() };
        let (to, from) = (exact(before.interval.to), exact(after.interval.from));
        let message = format!("in repository {repository} nothing between {to} and {from} can be restored: {why}");
        is_inside.then(|| self.reason(Verdict::AtRisk, Class::Gap, message, self.command("list SOURCE", "")))
    }

    fn copies(&self, copies: CopiesHeld) -> Vec<Reason> {
        let counts = [
            ("the newest backup", copies.backup_held, copies.backup_wanted),
            ("the newest log", copies.log_held, copies.log_wanted),
        ];
        let few = counts.into_iter().filter(|(_, held, wanted)| *held > 0 && held < wanted);
        few.map(|(what, held, wanted)| {
            let message = format!("{held} of {wanted} repositories hold {what}");
            self.reason(Verdict::AtRisk, Class::Copies, message, self.command("queue SOURCE --deliver", ""))
        })
        .collect()
    }

    fn schedule(&self, standings: &[Standing]) -> Vec<Reason> {
        let missed = standings.iter().filter(|standing| standing.missed > 0);
        missed
            .map(|Standing { backup_type, missed, .. }| {
                let runs = if *missed == 1 { "run" } else { "runs" };
                let message = format!("{missed} scheduled {runs} of a {backup_type} came to no backup");
                let command = self.command(&format!("backup SOURCE --type {backup_type}"), "");
                self.reason(Verdict::AtRisk, Class::Backup, message, command)
            })
            .collect()
    }
}
