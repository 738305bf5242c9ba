//! The timetables of a source's lanes, and the command line of each job.

use crate::base::{DrillLevel, Job, SourceName};
use crate::cli::config::Settings;
use crate::policy::Policy;
use crate::policy::cadence::Timetable;
use crate::policy::cron::Cron;

/// What `policy` schedules of `jobs`, and expiry where this host has the key for it.
pub(super) fn timetable(settings: &Settings, policy: &Policy, jobs: &[Job]) -> Timetable {
    let mut table = Timetable::of(&policy.schedule, jobs);
    if jobs.contains(&Job::Expire) && settings.run.expire_key_file.is_some() {
        table.insert(Job::Expire, settings.run.expire.clone());
    }
    table
}

/// Every job of `source` with its line and the arguments of its verb: what a scheduler without a memory runs.
pub(crate) fn scheduled(settings: &Settings, policy: &Policy, source: &SourceName) -> Vec<(Job, Cron, Vec<String>)> {
    let table = timetable(settings, policy, &Job::ALL);
    let job = |job: Job| {
        Some((job, table.line(job)?.clone(), arguments(settings, policy, source, Wanted { job, explicit: false, drills: 0 })))
    };
    table.jobs().filter_map(job).collect()
}

/// A job to be put into words.
pub(super) struct Wanted {
    /// Which.
    pub job: Job,
    /// Whether it must not become a heavier one.
    pub explicit: bool,
    /// How many drills of the source were done before.
    pub drills: usize,
}

/// The arguments of the verb that does what is wanted.
pub(super) fn arguments(settings: &Settings, policy: &Policy, source: &SourceName, wanted: Wanted) -> Vec<String> {
    let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    let source = source.to_string();
    match wanted.job {
        Job::Full => owned(&["backup", &source, "--type", "full"]),
        Job::Diff => owned(&["backup", &source, "--type", "diff"]),
        Job::Incr => owned(&["backup", &source, "--type", if wanted.explicit { "incr" } else { "auto" }]),
        Job::Verify => owned(&["drill", &source, "--level", "verify"]),
        Job::Drill => {
            let restoring: Vec<DrillLevel> =
                policy.drill.levels.iter().copied().filter(|level| *level != DrillLevel::Verify).collect();
            // Each in turn; one that restores nothing has no moment to go to.
            match restoring.get(wanted.drills % restoring.len().max(1)) {
                Some(level) => owned(&["drill", &source, "--level", level.as_str(), "--to", "random"]),
                None => owned(&["drill", &source, "--level", "verify"]),
            }
        }
        Job::Expire => {
            let key = settings.run.expire_key_file.as_deref().map(|path| path.display().to_string());
            owned(&["expire", &source, "--key", &key.unwrap_or_default()])
        }
    }
}
