//! From what a drill found out to the record of it, and to a verdict. Pure but for the host's name.

use crate::base::{BackupId, DrillLevel, Timestamp};
use crate::engine::verify::SourceReport;
use crate::policy::Objectives;
use crate::repo::evidence::{CheckResult, DrillOutcome, Evidence, KeyUse};

use super::run::Drilled;

/// What a drill came to that ran these checks and could not be carried through for these reasons.
pub fn outcome(checks: &[CheckResult], why: &[String]) -> DrillOutcome {
    if !why.is_empty() || checks.iter().any(|check| !check.passed) {
        DrillOutcome::Failed
    } else if checks.iter().any(|check| check.of_data) {
        DrillOutcome::Passed
    } else {
        DrillOutcome::Inconclusive
    }
}

/// What is known of a drill before it began.
#[derive(Clone, Debug)]
pub struct Circumstances {
    /// This host.
    pub host: String,
    /// How far it was to go.
    pub level: DrillLevel,
    /// When the disaster was declared.
    pub declared: Timestamp,
    /// The policy's name.
    pub policy: Option<String>,
    /// The seed of a random target.
    pub seed: Option<u64>,
    /// `latest` or a moment.
    pub target: String,
    /// Where the key came from.
    pub key_use: KeyUse,
}

/// What would have been lost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Loss {
    /// For how long commits were lost.
    pub seconds: f64,
    /// Whether it may be less.
    pub is_upper_bound: bool,
}

impl Circumstances {
    /// The record of a drill that restored.
    pub fn of_restore(&self, drilled: &Drilled, loss: Option<Loss>) -> Evidence {
        let failed = drilled.checks.iter().filter(|check| !check.passed);
        let mut why = drilled.why.clone();
        why.extend(failed.map(|check| format!("{}: {}", check.name, check.detail)));
        let outcome = drilled.outcome();
        if outcome == DrillOutcome::Inconclusive {
            why.push("no check looked at the data: there is no query in the policy, and no amcheck on this host".to_owned());
        }
        Evidence {
            outcome,
            restored: drilled.restored.clone(),
            phases: drilled.phases.clone(),
            rto_seconds: drilled.rto_seconds.filter(|_| outcome == DrillOutcome::Passed),
            rpo_seconds: loss.map(|loss| loss.seconds),
            rpo_is_upper_bound: loss.is_some_and(|loss| loss.is_upper_bound),
            checks: drilled.checks.clone(),
            why,
            ..self.empty()
        }
    }

    /// The record of a drill that only read what is stored.
    pub fn of_verification(&self, report: &SourceReport) -> Evidence {
        let verified: Vec<BackupId> = report.backups.iter().filter(|b| b.intact).map(|b| b.id.clone()).collect();
        let damage = report.findings.iter().filter(|finding| finding.is_damage());
        let mut why: Vec<String> = damage.map(|finding| format!("{}: {}", finding.key, finding.what)).collect();
        if verified.is_empty() {
            why.push("there is no backup that could be restored".to_owned());
        }
        let outcome = if why.is_empty() { DrillOutcome::Passed } else { DrillOutcome::Failed };
        Evidence { outcome, verified, why, ..self.empty() }
    }

    /// The record of a drill for which no plan could be made.
    pub fn of_refusal(&self, why: String) -> Evidence {
        Evidence { why: vec![why], ..self.empty() }
    }

    fn empty(&self) -> Evidence {
        Evidence {
            previous: None,
            host: self.host.clone(),
            program_version: env!("CARGO_PKG_VERSION").to_owned(),
            level: self.level,
            outcome: DrillOutcome::Failed,
            declared: self.declared,
            finished: Timestamp::now(),
            policy: self.policy.clone(),
            seed: self.seed,
            target: self.target.clone(),
            restored: None,
            verified: Vec::new(),
            phases: Vec::new(),
            rto_seconds: None,
            rpo_seconds: None,
            rpo_is_upper_bound: false,
            checks: Vec::new(),
            key_use: self.key_use,
            why: Vec::new(),
        }
    }
}

/// How a drill stands against the objectives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// All of them are met.
    Met,
    /// These are broken.
    Broken(Vec<String>),
    /// These are neither shown to be met nor broken.
    Unproven(Vec<String>),
}

/// Compares what was measured with what was declared.
pub fn standing(evidence: &Evidence, objectives: &Objectives) -> Standing {
    let (mut broken, mut unproven) = (Vec::new(), Vec::new());
    match evidence.rto_seconds {
        Some(seconds) => {
            let total_seconds = seconds + objectives.detection.as_secs_f64();
            if total_seconds > objectives.rto.as_secs_f64() {
                broken
                    .push(format!("RTO: {total_seconds:.1} s with detection, {:.1} s are allowed", objectives.rto.as_secs_f64()));
            }
        }
        None => unproven.push("no RTO was measured".to_owned()),
    }
    if let Some(seconds) = evidence.rpo_seconds.filter(|seconds| *seconds > objectives.rpo.as_secs_f64()) {
        let allowed = objectives.rpo.as_secs_f64();
        if evidence.rpo_is_upper_bound {
            unproven
                .push(format!("RPO: at most {seconds:.1} s, {allowed:.1} s are allowed; the source's server could not be asked"));
        } else {
            broken.push(format!("RPO: {seconds:.1} s, {allowed:.1} s are allowed"));
        }
    }
    match (broken.is_empty(), unproven.is_empty()) {
        (false, _) => Standing::Broken(broken),
        (true, false) => Standing::Unproven(unproven),
        (true, true) => Standing::Met,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn check(passed: bool, of_data: bool) -> CheckResult {
        CheckResult { name: "x".into(), passed, of_data, detail: String::new(), seconds: 0.0 }
    }

    #[test]
    fn nothing_passes_without_a_check_of_data() {
        use DrillOutcome::{Failed, Inconclusive, Passed};
        assert_eq!(outcome(&[], &[]), Inconclusive);
        assert_eq!(outcome(&[check(true, false)], &[]), Inconclusive);
        assert_eq!(outcome(&[check(true, false), check(true, true)], &[]), Passed);
        assert_eq!(outcome(&[check(true, true), check(false, false)], &[]), Failed);
        assert_eq!(outcome(&[check(true, true)], &["why".into()]), Failed);
    }

    #[test]
    fn objectives_are_broken_only_by_what_is_known() {
        let seconds = Duration::from_secs;
        let objectives =
            Objectives { rto: seconds(60), rpo: seconds(10), detection: seconds(20), drill_max_age: seconds(86_400) };
        let circumstances = Circumstances {
            host: "h".into(),
            level: DrillLevel::Component,
            declared: Timestamp::now(),
            policy: None,
            seed: None,
            target: "latest".into(),
            key_use: KeyUse::None,
        };
        let stands = |rto: Option<f64>, rpo: Option<f64>, bound: bool| {
            let evidence = Evidence {
                rto_seconds: rto,
                rpo_seconds: rpo,
                rpo_is_upper_bound: bound,
                ..circumstances.of_refusal("x".into())
            };
            standing(&evidence, &objectives)
        };
        assert_eq!(stands(Some(40.0), Some(10.0), false), Standing::Met);
        assert_eq!(stands(Some(40.0), None, false), Standing::Met);
        assert!(matches!(stands(Some(40.1), Some(0.0), false), Standing::Broken(_)));
        assert!(matches!(stands(Some(1.0), Some(10.1), false), Standing::Broken(_)));
        assert!(matches!(stands(Some(1.0), Some(10.1), true), Standing::Unproven(_)));
        assert!(matches!(stands(None, Some(0.0), false), Standing::Unproven(_)));
    }
}
