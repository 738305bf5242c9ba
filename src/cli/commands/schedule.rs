//! `lifeboat schedule print`: the policies' schedules for cron and systemd, each job with its whole command.

use serde::Serialize;

use super::run::scheduled;
use crate::base::{Error, Result};
use crate::cli::args::{ScheduleFormat, SchedulePrintArgs};
use crate::cli::config::{Settings, SourceSettings};
use crate::cli::context::Context;
use crate::cli::exit::Outcome;

use self::quote::{for_cron, for_systemd};

/// Where the units belong.
const UNIT_DIR: &str = "/etc/systemd/system";

/// Timers start within so many seconds after their time, so that many hosts do not start at once.
const RANDOM_DELAY_SECONDS: u32 = 60;

/// The document `schedule`, version 1.
#[derive(Serialize)]
struct Document {
    files: Vec<Generated>,
}

#[derive(Serialize)]
struct Generated {
    /// `crontab`, or a unit's path.
    path: String,
    content: String,
}

/// Prints the schedule of one source, or of all that have a policy.
///
/// # Errors
/// Usage errors in the configuration or a policy; when nothing is scheduled.
pub fn run(args: &SchedulePrintArgs, context: &Context) -> Result<Outcome> {
    let settings = context.settings()?;
    let sources: Vec<&SourceSettings> = match &args.source {
        Some(name) => vec![settings.source(name)?],
        None => settings.sources.values().collect(),
    };
    let program = std::env::current_exe().map_err(|error| Error::failed("cannot find this program").caused_by(error))?;
    let fixed =
        vec![program.display().to_string(), "--config".into(), settings.config_file.display().to_string(), "--quiet".into()];
    let mut files = Vec::new();
    for source in sources {
        files.extend(files_of(args.format, &settings, source, &fixed)?);
    }
    if files.is_empty() {
        return Err(Error::usage("nothing is scheduled: no source here has a policy with a [schedule]")
            .hint("add policy = \"NAME\" to a [source.…]; policies/ holds examples"));
    }
    let document = Document { files };
    context.result("schedule", 1, &document, || text(args.format, &document))?;
    Ok(Outcome::Done)
}

fn files_of(format: ScheduleFormat, settings: &Settings, source: &SourceSettings, fixed: &[String]) -> Result<Vec<Generated>> {
    let Some(policy) = settings.policy_of(source)? else { return Ok(Vec::new()) };
    let jobs = scheduled(settings, &policy, &source.name);
    let zone = policy.schedule.timezone;
    let words = |arguments: &[String]| [fixed, arguments].concat();
    Ok(match format {
        ScheduleFormat::Crontab if jobs.is_empty() => Vec::new(),
        ScheduleFormat::Crontab => {
            let lines = jobs.iter().map(|(_, cron, arguments)| format!("{} {}\n", cron.crontab(), for_cron(&words(arguments))));
            let content = format!("CRON_TZ={zone}\n{}", lines.collect::<String>());
            vec![Generated { path: "crontab".to_owned(), content }]
        }
        ScheduleFormat::Systemd => {
            let units = jobs.iter().flat_map(|(job, cron, arguments)| {
                let name = format!("{UNIT_DIR}/lifeboat-{}-{job}", source.name);
                let description = format!("lifeboat: {job} of {}", source.name);
                let calendars = cron.calendar_expressions(zone);
                let service = service(&description, &for_systemd(&words(arguments)));
                let timer = timer(&description, &calendars);
                [(format!("{name}.service"), service), (format!("{name}.timer"), timer)]
            });
            units.map(|(path, content)| Generated { path, content }).collect()
        }
    })
}

fn service(description: &str, command: &str) -> String {
    let user = whoami::username().unwrap_or_else(|_| "postgres".to_owned());
    format!(
        "[Unit]\nDescription={description}\nWants=network-online.target\nAfter=network-online.target\n\n\
         [Service]\nType=oneshot\nUser={user}\nExecStart={command}\n"
    )
}

fn timer(description: &str, calendars: &[String]) -> String {
    let calendars: String = calendars.iter().map(|calendar| format!("OnCalendar={calendar}\n")).collect();
    format!(
        "[Unit]\nDescription={description}\n\n[Timer]\n{calendars}Persistent=true\n\
         RandomizedDelaySec={RANDOM_DELAY_SECONDS}\n\n[Install]\nWantedBy=timers.target\n"
    )
}

fn text(format: ScheduleFormat, document: &Document) -> String {
    let files = document.files.iter();
    match format {
        ScheduleFormat::Crontab => {
            let head = "# CRON_TZ is for cronie; Debian's cron reads all times in the system's zone\n";
            head.to_owned() + &files.map(|file| file.content.as_str()).collect::<String>()
        }
        ScheduleFormat::Systemd => files.map(|file| format!("# {}\n{}", file.path, file.content)).collect::<Vec<_>>().join("\n"),
    }
}

/// Words as other programs take them apart again.
mod quote {
    /// For cron, which gives the line to `sh` and makes line ends of bare `%`.
    pub(super) fn for_cron(words: &[String]) -> String {
        let plain = |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./,:=+@".contains(&b));
        let one = |word: &String| if plain(word) { word.clone() } else { format!("'{}'", word.replace('\'', r"'\''")) };
        words.iter().map(one).collect::<Vec<_>>().join(" ").replace('%', r"\%")
    }

    /// For `ExecStart=`, which knows `%` specifiers, `$` variables and C escapes.
    pub(super) fn for_systemd(words: &[String]) -> String {
        let one = |word: &String| {
            let escaped = word.replace('\\', r"\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$");
            if escaped.contains([' ', '\'', '"', ';']) || escaped.is_empty() { format!("\"{escaped}\"") } else { escaped }
        };
        words.iter().map(one).collect::<Vec<_>>().join(" ")
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn nothing_in_a_path_is_taken_for_more_than_a_letter() {
            let words = |text: &[&str]| text.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
            assert_eq!(for_cron(&words(&["/usr/bin/lifeboat", "it's 100%.toml"])), r"/usr/bin/lifeboat 'it'\''s 100\%.toml'");
            assert_eq!(for_systemd(&words(&["/opt/my tools/$x", "100%"])), r#""/opt/my tools/$$x" 100%%"#);
        }
    }
}
