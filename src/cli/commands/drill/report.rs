//! What a drill tells: as a document, and for people.

use std::time::Duration;

use serde::Serialize;

use crate::base::units::{format_bytes, format_duration};
use crate::base::{Engine, SourceName};
use crate::cli::output::wrapped;
use crate::engine::Scope;
use crate::engine::drill::evidence::Standing;
use crate::engine::drill::run::Drilled;
use crate::repo::evidence::{DrillOutcome, Evidence, KeyUse, PhaseKind};

/// The document `drill`, version 1.
#[derive(Serialize)]
pub(super) struct Document {
    source: String,
    repository: String,
    /// The stored evidence.
    evidence_key: Option<String>,
    evidence: Evidence,
    /// `met`, `broken` or `unproven`; none without a policy, or when it did not pass.
    objectives: Option<&'static str>,
    /// Why they are broken or unproven.
    objectives_why: Vec<String>,
    notes: Vec<String>,
    /// The restored server's own last complaints, after a failure.
    server_log: Vec<String>,
    kept: Option<KeptPart>,
}

#[derive(Serialize)]
struct KeptPart {
    directory: String,
    connect: Option<String>,
    remove: String,
}

impl Document {
    pub fn new(
        source: &SourceName,
        scope: &Scope,
        evidence_key: Option<String>,
        evidence: &Evidence,
        drilled: Option<Drilled>,
        standing: Option<&Standing>,
    ) -> Self {
        let (objectives, objectives_why) = match standing {
            None => (None, Vec::new()),
            Some(Standing::Met) => (Some("met"), Vec::new()),
            Some(Standing::Broken(why)) => (Some("broken"), why.clone()),
            Some(Standing::Unproven(why)) => (Some("unproven"), why.clone()),
        };
        let (mut notes, server_log, kept) =
            drilled.map(|drilled| (drilled.notes, drilled.log_lines, drilled.kept)).unwrap_or_default();
        if evidence.key_use == KeyUse::File {
            notes.push("the recovery key itself was not tested: it was read from a file at hand".to_owned());
        }
        let kept = kept.map(|kept| KeptPart {
            directory: kept.directory.display().to_string(),
            connect: kept.connect,
            remove: kept.remove,
        });
        Self {
            source: source.to_string(),
            repository: scope.repository.name().to_owned(),
            evidence_key,
            evidence: evidence.clone(),
            objectives,
            objectives_why,
            notes,
            server_log,
            kept,
        }
    }

    pub fn text(&self) -> String {
        let Self { source, evidence, .. } = self;
        let said = |name: &str, text: &str| wrapped(&format!("  {name:11}  "), 15, text).trim_end().to_owned();
        let mut lines = vec![format!("drill of {source}, level {}: {}", evidence.level, outcome_text(evidence.outcome))];
        lines.extend(evidence.why.iter().map(|why| said("why", why)));
        lines.push(format!("  repository   {}", self.repository));
        lines.extend(self.restored());
        if !evidence.verified.is_empty() {
            lines.push(format!("  verified     {} backups; nothing was restored", evidence.verified.len()));
        }
        lines.extend(evidence.phases.iter().map(|phase| {
            let bytes = phase.bytes.map(|bytes| format!("  {}", format_bytes(bytes))).unwrap_or_default();
            format!("  {:11}  {:>8}{bytes}", phase_text(phase.phase), seconds_text(phase.seconds))
        }));
        lines.extend(evidence.rto_seconds.map(|seconds| format!("  RTO          {:>8}", seconds_text(seconds))));
        lines.extend(evidence.rpo_seconds.map(|seconds| {
            let bound = if evidence.rpo_is_upper_bound { "  at most" } else { "" };
            format!("  RPO          {:>8}{bound}", seconds_text(seconds))
        }));
        lines.extend(evidence.checks.iter().map(|check| {
            let verdict = if check.passed { "ok" } else { "FAILED" };
            said(verdict, &format!("{}: {}", check.name, check.detail))
        }));
        lines.extend(self.objectives.map(|objectives| format!("  objectives   {objectives}")));
        lines.extend(self.objectives_why.iter().map(|why| said("", why)));
        lines.extend(self.notes.iter().map(|note| said("note", note)));
        lines.extend(self.server_log.iter().map(|line| format!("  server log   {line}")));
        lines.extend(self.evidence_key.iter().map(|key| format!("  evidence     {key}")));
        if let Some(kept) = &self.kept {
            lines.push(format!("  kept         {}", kept.directory));
            lines.extend(kept.connect.iter().map(|connect| format!("  connect      {connect}")));
            lines.push(format!("  remove       {}", kept.remove));
        }
        lines.into_iter().map(|line| line + "\n").collect()
    }

    fn restored(&self) -> Vec<String> {
        let Some(restored) = &self.evidence.restored else { return Vec::new() };
        let mut lines = vec![format!("  target       {}", self.evidence.target), format!("  backup       {}", restored.backup)];
        let reached = match restored.incarnation.engine() {
            Engine::Postgres => "last commit",
            Engine::Sqlite | Engine::Directory => "moment",
        };
        lines.extend(restored.last_commit.map(|time| format!("  {reached:11}  {}", time.human())));
        lines.extend(self.evidence.seed.map(|seed| format!("  seed         {seed}")));
        lines
    }
}

/// An outcome as people call it.
pub(super) fn outcome_text(outcome: DrillOutcome) -> &'static str {
    match outcome {
        DrillOutcome::Passed => "passed",
        DrillOutcome::Failed => "failed",
        DrillOutcome::Inconclusive => "inconclusive",
    }
}

/// A measured length of time.
pub(super) fn seconds_text(seconds: f64) -> String {
    format_duration(Duration::from_secs_f64(seconds))
}

fn phase_text(phase: PhaseKind) -> &'static str {
    match phase {
        PhaseKind::Plan => "plan",
        PhaseKind::Fetch => "fetch",
        PhaseKind::Start => "start",
        PhaseKind::Replay => "replay",
        PhaseKind::Promote => "promote",
        PhaseKind::FirstCheck => "first check",
        PhaseKind::Checks => "checks",
    }
}
