//! The repository: can it be written, and what does it hold of the source.

use super::{Finding, Level, Subject, System, probe};
use crate::base::Timestamp;
use crate::base::units::format_duration;
use crate::engine::Scope;
use crate::engine::list::{Survey, survey};
use crate::repo::{CommitLog, Role};

pub(super) fn check(scope: &Scope, subject: &Subject<'_>) -> Vec<Finding> {
    let mut findings = probe::findings(scope.repository.store().url(), subject.probe);
    let root = scope.repository.keyring().root;
    findings.push(if subject.pinned {
        Finding::ok("keys", "the repository's keys are the pinned ones")
    } else {
        Finding::warning("keys", "the repository's keys are not pinned: a forged repository would be trusted by a new host")
            .hint(format!("add to [repository.{}] in lifeboat.toml: root = \"{root}\"", scope.repository.name()))
    });
    findings.extend(scope.repository.keyring().problems.iter().map(|(key, why)| {
        Finding::fault("keys", format!("{key} is not used: {why}")).hint("somebody with these or other credentials put it there")
    }));
    findings.push(match subject.writing {
        Ok(writing) => match scope.repository.keyring().require(&writing.signer, Role::Write) {
            Ok(()) => Finding::ok("signing key", format!("{} may write", writing.signer.id())),
            Err(error) => Finding::of_error(Level::Fault, "signing key", &error),
        },
        Err(error) => Finding::of_error(Level::Warning, "signing key", error),
    });
    if let Ok(writing) = subject.writing
        && writing.recipients.is_none()
    {
        findings.push(Finding::warning("encryption", "is off: whoever reads the repository reads the data"));
    }
    findings
}

/// What could be restored now.
pub(super) async fn check_window(scope: &Scope, log: &CommitLog, subject: &Subject<'_>) -> Vec<Finding> {
    match survey(scope, log).await {
        Ok(survey) => window_findings(scope, &survey, subject),
        Err(error) => vec![Finding::of_error(Level::Fault, "recovery window", &error)],
    }
}

fn window_findings(scope: &Scope, survey: &Survey, subject: &Subject<'_>) -> Vec<Finding> {
    const SUBJECT: &str = "recovery window";
    let verify = format!("lifeboat verify {}   names everything that is damaged", scope.source);
    let problem = |(key, why): &(String, String)| Finding::fault("commit log", format!("{key}: {why}")).hint(verify.clone());
    let mut findings: Vec<Finding> = survey.problems.iter().map(problem).collect();
    for split in survey.incarnations.iter().flat_map(|incarnation| &incarnation.split_brains) {
        findings.push(
            Finding::fault("archive", format!("{} was archived with different contents", split.file))
                .hint(format!("lifeboat archive resolve {} {} --keep DIGEST --key FILE", scope.source, split.file)),
        );
    }
    let latest = survey.incarnations.iter().rev().flat_map(|incarnation| &incarnation.timelines).find_map(|timeline| {
        let interval = timeline.window.as_ref().ok()?.intervals.last()?;
        Some((timeline.timeline, interval))
    });
    findings.push(match latest {
        Some((timeline, interval)) => {
            let age = format_duration(Timestamp::now().since(interval.to));
            let (from, to) = (interval.from.human_seconds(), interval.to.human_seconds());
            let shown = match subject.system {
                System::Postgres(_) => format!("{from} to {to} on timeline {timeline} ({age} ago)"),
                System::Sqlite(_) | System::Directory { .. } if interval.is_moment() => format!("the newest: {to} ({age} ago)"),
                System::Sqlite(_) | System::Directory { .. } => format!("{from} to {to} ({age} ago)"),
            };
            Finding::ok(SUBJECT, shown)
        }
        None => Finding::warning(SUBJECT, "there is no backup yet: nothing can be restored")
            .hint(format!("lifeboat backup {}", scope.source)),
    });
    findings
}
