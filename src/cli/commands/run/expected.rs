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
        let wanted = Wanted { job, explicit: false, drills: None };
        Some((job, table.line(job)?.clone(), arguments(settings, policy, source, wanted)))
    };
    table.jobs().filter_map(job).collect()
}

/// A job to be put into words.
pub(super) struct Wanted {
    /// Which.
    pub job: Job,
    /// Whether it must not become a heavier one.
    pub explicit: bool,
    /// How many drills of the source were done before, where that is known.
    pub drills: Option<usize>,
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
            match (restoring.as_slice(), wanted.drills) {
                ([], _) => owned(&["drill", &source, "--level", "verify"]),
                // The verb itself takes the level that was drilled the longest ago.
                ([_, _, ..], None) => owned(&["drill", &source]),
                (levels, drills) => match levels[drills.unwrap_or_default() % levels.len()] {
                    // It goes to the end of the archive.
                    level @ DrillLevel::Failover => owned(&["drill", &source, "--level", level.as_str()]),
                    level => owned(&["drill", &source, "--level", level.as_str(), "--to", "random"]),
                },
            }
        }
        Job::Expire => {
            let key = settings.run.expire_key_file.as_deref().map(|path| path.display().to_string());
            owned(&["expire", &source, "--key", &key.unwrap_or_default()])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::{Cli, Verb};
    use crate::cli::commands::drill::refuse_contradictions;
    use crate::cli::config::{self, Environment};
    use crate::policy::parse::parse;
    use clap::Parser;

    fn settings() -> Settings {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lifeboat.toml");
        let text = "state_dir = \"state\"\n[repository.main]\nurl = \"file:///srv\"\n[run]\nexpire_key_file = \"key\"\n";
        std::fs::write(&path, text).unwrap();
        config::load(Some(&path), &Environment::of_process()).unwrap()
    }

    /// Asserts that the words are understood by the grammar, and by the verb itself where it refuses more.
    #[track_caller]
    fn assert_understood(words: &[String]) {
        let line = ["lifeboat".to_owned()].into_iter().chain(words.iter().cloned());
        let cli = Cli::try_parse_from(line).unwrap_or_else(|error| panic!("{words:?}: {error}"));
        if let Verb::Drill(args) = cli.verb {
            refuse_contradictions(&args).unwrap_or_else(|error| panic!("{words:?}: {error}"));
        }
    }

    #[test]
    fn every_job_of_every_ready_policy_is_a_command_line_that_is_understood() {
        let (settings, source) = (settings(), "orders".parse().unwrap());
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("policies");
        let mut with_failover = 0;
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "toml") {
                continue;
            }
            let policy = parse("ready", &path, &std::fs::read_to_string(&path).unwrap()).unwrap();
            with_failover += usize::from(policy.drill.levels.contains(&DrillLevel::Failover));
            scheduled(&settings, &policy, &source).iter().for_each(|(_, _, words)| assert_understood(words));
            for job in Job::ALL {
                for drills in [None, Some(0), Some(1), Some(2)] {
                    assert_understood(&arguments(&settings, &policy, &source, Wanted { job, explicit: true, drills }));
                }
            }
        }
        assert!(with_failover >= 2);
    }

    #[test]
    fn drills_take_the_levels_in_turn_and_without_a_memory_leave_the_choice_to_the_verb() {
        let text = "[objectives]\nrto = \"30min\"\nrpo = \"15min\"\n";
        let mut policy = parse("p", "p.toml".as_ref(), text).unwrap();
        let settings = settings();
        policy.drill.levels = vec![DrillLevel::Failover, DrillLevel::Verify, DrillLevel::Component];
        let words = |policy: &Policy, drills| {
            let wanted = Wanted { job: Job::Drill, explicit: false, drills };
            arguments(&settings, policy, &"orders".parse().unwrap(), wanted).join(" ")
        };
        assert_eq!(words(&policy, Some(2)), "drill orders --level failover");
        assert_eq!(words(&policy, Some(3)), "drill orders --level component --to random");
        assert_eq!(words(&policy, None), "drill orders");
        policy.drill.levels = vec![DrillLevel::Failover];
        assert_eq!(words(&policy, None), "drill orders --level failover");
        policy.drill.levels = vec![DrillLevel::Verify];
        assert_eq!(words(&policy, None), "drill orders --level verify");
    }
}
