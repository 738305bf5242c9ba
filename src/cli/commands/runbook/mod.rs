//! `lifeboat runbook SOURCE`: the plan for the disaster, as Markdown that can be printed before it.
//!
//! Nothing in it is a guess: a duration stands there when drills measured it, and where nothing did it says so.

mod files;

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use crate::base::units::{format_bytes, format_duration};
use crate::base::{Engine, Result};
use crate::cli::args::RunbookArgs;
use crate::cli::commands::status;
use crate::cli::config::{Settings, SourceKind, SourceSettings};
use crate::cli::context::Context;
use crate::cli::exit::Outcome;
use crate::cli::output;
use crate::engine::status::StatusReport;
use crate::engine::status::facts::{Facts, Frontier};
use crate::engine::status::rto;
use crate::policy::Policy;

/// Writes the plan to the file asked for, else to standard output.
///
/// # Errors
/// Usage errors, and when the file cannot be written. A repository that does not answer is told in the plan.
pub async fn run(args: &RunbookArgs, context: &Context) -> Result<Outcome> {
    let settings = context.settings()?;
    let source = settings.source(&args.source)?;
    let facts = status::facts(context, &settings, source).await?;
    let lifeboat = match &context.global.config {
        Some(_) => format!("lifeboat --config {}", word(&settings.config_file)),
        None => "lifeboat".to_owned(),
    };
    let book = Book { settings: &settings, source, facts: &facts, report: StatusReport::of(&facts), lifeboat };
    let text = book.markdown();
    context.progress.finish();
    match &args.file {
        Some(file) => output::write_file(file, &text)?,
        None => output::print(&text)?,
    }
    Ok(Outcome::Done)
}

struct Book<'a> {
    settings: &'a Settings,
    source: &'a SourceSettings,
    facts: &'a Facts,
    report: StatusReport,
    /// The program, with the configuration when that is not where it is looked for.
    lifeboat: String,
}

impl Book<'_> {
    fn markdown(&self) -> String {
        let common = [self.head(), self.objectives(), self.contacts(), self.prerequisites()];
        let own = match &self.source.kind {
            SourceKind::Postgres(_) => {
                vec![self.decide(), self.promote(), self.restore(), self.verify(), self.go_live(), self.rollback()]
            }
            SourceKind::Sqlite(sqlite) => self.of_database(&sqlite.path),
            SourceKind::Directory(directory) => self.of_directory(&directory.path),
        };
        let parts = common.into_iter().chain(own).filter(|part| !part.is_empty());
        parts.collect::<Vec<_>>().join("\n")
    }

    fn name(&self) -> String {
        self.source.name.to_string()
    }

    /// The best place to restore from: that whose log goes farthest.
    fn frontier(&self) -> Option<(&str, &Frontier)> {
        let held = self.facts.repositories.iter();
        let frontiers = held.filter_map(|place| Some((place.name.as_str(), place.held.as_ref().ok()?.frontier.as_ref()?)));
        frontiers.max_by_key(|(_, frontier)| frontier.reaches)
    }

    /// What phases called `names` are expected to take together.
    fn expected(&self, names: &[&str]) -> String {
        if self.report.rto.parts.is_empty() {
            return "never rehearsed".to_owned();
        }
        let parts = self.report.rto.parts.iter();
        let seconds: f64 = parts.filter(|part| names.contains(&part.part)).map(|part| part.seconds).sum();
        format!("about {}", duration(seconds))
    }

    fn head(&self) -> String {
        let (name, lifeboat) = (self.name(), &self.lifeboat);
        format!(
            "# Disaster recovery: {name}\n\n\
             Written {} by lifeboat {}, policy {}.\n\
             Make it anew when the configuration changes, and keep a copy where the\n\
             disaster does not reach:\n\n    \
             {lifeboat} runbook {name} --file runbook-{name}.md\n",
            self.facts.now.human_seconds(),
            env!("CARGO_PKG_VERSION"),
            self.facts.policy.as_ref().map_or("(none is declared)", |policy| policy.name.as_str()),
        )
    }

    fn objectives(&self) -> String {
        let mut text = "## What was promised\n\n".to_owned();
        let measured = rto::measured(&self.facts.drills);
        let measured = measured
            .map_or_else(|| "never".to_owned(), |(when, seconds)| format!("{} ({})", duration(seconds), when.human_seconds()));
        let predicted = self.report.rto.predicted_seconds.map_or_else(
            || "unknown: no drill has passed".to_owned(),
            |seconds| match self.report.rto.drills {
                1 => format!("{} (from 1 drill)", duration(seconds)),
                drills => format!("{} (from {drills} drills)", duration(seconds)),
            },
        );
        match &self.facts.policy {
            Some(Policy { objectives, .. }) => {
                let rto = format_duration(objectives.rto);
                let rpo = format_duration(objectives.rpo);
                let what = if self.facts.engine == Engine::Directory { "The files are" } else { "Service is" };
                let _ = write!(text, "- {what} back within **{rto}** (RTO)");
                text += &match objectives.detection {
                    Duration::ZERO => ".\n".to_owned(),
                    detection => format!(", {} of it until somebody begins.\n", format_duration(detection)),
                };
                let what = if self.facts.engine == Engine::Directory { "changes" } else { "commits" };
                let _ = writeln!(text, "- At most **{rpo}** of {what} are lost (RPO).");
            }
            None => text += "- No objectives are declared.\n",
        }
        let _ = writeln!(text, "- Predicted for today: {predicted}.\n- Measured last: {measured}.");
        text
    }

    fn contacts(&self) -> String {
        let mut text = "## Whom to call\n\n".to_owned();
        if self.settings.contacts.is_empty() {
            return text + "Nobody is named. Add `[[contact]]` sections to lifeboat.toml.\n";
        }
        text += "| Name | Role | Reach |\n|---|---|---|\n";
        for contact in &self.settings.contacts {
            let _ = writeln!(text, "| {} | {} | {} |", cell(&contact.name), cell(&contact.role), cell(&contact.reach));
        }
        text
    }

    fn prerequisites(&self) -> String {
        let mut text = "## What is needed\n\n".to_owned();
        let _ = writeln!(
            text,
            "- A host with lifeboat {} or later, and on it {}",
            env!("CARGO_PKG_VERSION"),
            self.settings.config_file.display()
        );
        text += "  as on the protected host, with its policies beside it; `[encryption]` with\n  `identity_file = \"…\"`, no `[signing]`. Keep copies of both with this page.\n";
        for name in &self.source.repositories {
            let url = self.settings.repositories.get(name).map_or("", |repository| repository.url.as_str());
            let _ = writeln!(text, "- Credentials to read repository {name}: `{url}`");
        }
        text += match (self.settings.encryption.off, self.settings.encryption.recipients.len()) {
            (true, _) => "- No key: the backups are not encrypted.\n",
            (false, 0 | 1) => "- The recovery key (age identity). **There is one only: if it is lost, so is everything.**\n",
            (false, _) => "- One of the recovery keys (age identities) that the recipients belong to.\n",
        };
        if let Some((_, frontier)) = self.frontier() {
            let _ = match self.facts.engine {
                Engine::Postgres => writeln!(
                    text,
                    "- Free disk: {} for the data, {} for the log.",
                    format_bytes(frontier.write_bytes),
                    format_bytes(frontier.replay_bytes)
                ),
                Engine::Sqlite | Engine::Directory => {
                    writeln!(text, "- Free disk: {}.", format_bytes(frontier.write_bytes + frontier.replay_bytes))
                }
            };
        }
        text + &self.programs()
    }

    /// What must be installed beside lifeboat.
    fn programs(&self) -> String {
        match (self.facts.engine, self.major()) {
            (Engine::Postgres, Some(major)) => {
                format!("- PostgreSQL {major}, the same major version; extensions as on the source.\n")
            }
            (Engine::Postgres, None) => "- PostgreSQL of the source's major version; `lifeboat list` shows it.\n".to_owned(),
            (Engine::Sqlite, _) => "- The programs that use the database; `sqlite3` for a look.\n".to_owned(),
            (Engine::Directory, _) => "- To give files their owners again: root.\n".to_owned(),
        }
    }

    fn major(&self) -> Option<u32> {
        self.frontier().map(|(_, frontier)| frontier.server_version / 10_000)
    }

    fn decide(&self) -> String {
        let (name, lifeboat) = (self.name(), &self.lifeboat);
        let reach = match self.frontier() {
            Some((repository, frontier)) => format!(
                "When this was written: everything up to {}, from\n   repository {repository}.",
                frontier.reaches.human_seconds()
            ),
            None => "When this was written there was **nothing that could be restored**.".to_owned(),
        };
        format!(
            "## 1. Decide\n\n\
             1. Note the time: this is when the recovery began.\n\
             2. Keep the broken server from taking writes: stop it, or cut it off. Two\n   \
                servers with one archive contradict each other.\n\
             3. What can be brought back, and what is lost?\n\n       \
                {lifeboat} status {name}\n       \
                {lifeboat} list {name}\n\n   \
                {reach}\n\
             4. Somebody deleted or changed what they should not have? Then restore to the\n   \
                moment before it, with `--to`, and not to the latest.\n"
        )
    }

    /// The shorter way, where a standby is declared; empty where none is.
    fn promote(&self) -> String {
        let Some(standby) = &self.report.standby else { return String::new() };
        let (name, lifeboat) = (self.name(), &self.lifeboat);
        let takes = standby
            .predicted_seconds
            .map_or_else(|| "never measured".to_owned(), |seconds| format!("about {}", duration(seconds)));
        let state = match &standby.why_not {
            None => "When this was written it could be relied on.".to_owned(),
            Some(why) => format!("When this was written it **could not be relied on**: {why}."),
        };
        format!(
            "## 2a. Or promote the standby ({takes})\n\n\
             Not when somebody deleted or changed what they should not have: it has done\n\
             the same, unless it lags on purpose. Its place: {}.\n{state}\n\n\
             1. On the standby's host, as its owner; what would be done, without doing it:\n\n       \
                {lifeboat} promote {name} --dry-run\n\n\
             2. It replays what is archived, and takes writes:\n\n       \
                {lifeboat} promote {name}\n\n   \
                It refuses while the old server takes writes: see 1. Go on with 3.\n",
            standby.place
        )
    }

    fn restore(&self) -> String {
        let (name, lifeboat) = (self.name(), &self.lifeboat);
        let moment = self.frontier().map_or(self.facts.now, |(_, frontier)| frontier.reaches).human_seconds();
        let bin = self.major().map_or_else(String::new, |major| format!("/usr/lib/postgresql/{major}/bin/"));
        let [all, fetch, start] =
            [&["plan", "fetch", "start", "replay", "promote", "other"][..], &["plan", "fetch"], &["start", "replay", "promote"]]
                .map(|names| self.expected(names));
        format!(
            "## 2. Restore ({all})\n\n\
             1. As root, a place on a disk with enough room:\n\n       \
                install -d -m 700 -o postgres -g postgres /srv/recovery\n\n   \
                All that follows as the user postgres.\n\
             2. What would be done, without doing it:\n\n       \
                {lifeboat} restore {name} --into /srv/recovery/data --dry-run\n\n\
             3. Fetch and write it ({fetch}):\n\n       \
                {lifeboat} restore {name} --into /srv/recovery/data\n\n   \
                or, to a moment, with its time zone:\n\n       \
                {lifeboat} restore {name} --into /srv/recovery/data --to '{moment}'\n\n\
             4. Start it; it replays the log and then takes writes ({start}):\n\n       \
                {bin}pg_ctl -D /srv/recovery/data -l /srv/recovery/log -t 86400 start\n\n   \
                Follow /srv/recovery/log. `archive recovery complete` is the end. If it\n   \
                stops, its last lines say which file is missing; it never skips one.\n"
        )
    }

    fn verify(&self) -> String {
        let mut text = format!("## 3. Check ({})\n\n", self.expected(&["first_check"]));
        text += "1. It takes writes: `SELECT pg_is_in_recovery()` answers `f`.\n\
                 2. The last commit is the one expected: `SELECT pg_last_xact_replay_timestamp()`\n   \
                    before it is started again, or the newest rows of a busy table.\n";
        let checks = self.facts.policy.as_ref().map(|policy| policy.drill.checks.as_slice()).unwrap_or_default();
        for (number, check) in (3..).zip(checks) {
            let _ = writeln!(text, "{number}. {}, in database `{}`: must answer {}.\n", check.name, check.database, check.expect);
            let _ = writeln!(text, "       {}", check.sql.trim().replace('\n', "\n       "));
        }
        if checks.is_empty() {
            text += "3. The policy declares no checks of the data: ask the application's owner.\n";
        }
        text
    }

    fn go_live(&self) -> String {
        let (name, lifeboat) = (self.name(), &self.lifeboat);
        format!(
            "## 4. Go live\n\n\
             1. Point the application at the new server.\n\
             2. Let it archive: `archive_mode = on`, and\n\n       \
                archive_command = '{lifeboat} archive push {name} %p'\n\n   \
                with a configuration that names the new server and has a `[signing]` key.\n\
             3. The new server is protected only from its first backup on:\n\n       \
                {lifeboat} check {name}\n       {lifeboat} backup {name} --type full\n\n\
             4. Note the time, and what was lost. Then rehearse again: `{lifeboat} drill {name}`.\n"
        )
    }

    /// Where else the data is.
    fn other_repositories(&self) -> String {
        if self.source.repositories.len() > 1 {
            format!("2. A repository is damaged or away: `--repository NAME`, one of {}.\n", self.source.repositories.join(", "))
        } else {
            "2. The only repository is away: nothing can be restored until it is back.\n".to_owned()
        }
    }

    fn rollback(&self) -> String {
        let (name, lifeboat, others) = (self.name(), &self.lifeboat, self.other_repositories());
        format!(
            "## If it goes wrong\n\n\
             1. The wrong moment was restored: stop it, and restore again into another\n   \
                directory with another `--to`. A restore changes nothing in the repository.\n\
             {others}\
             3. The broken server comes back: keep it off the network. Its disk may hold\n   \
                commits that were never archived: copy its `pg_wal` before anything else.\n\
             4. Without lifeboat: docs/RECOVERY-WITHOUT-LIFEBOAT.md does it with\n   \
                stock tools.\n\
             5. What is stored looks damaged: `{lifeboat} verify {name} --deep` says what.\n"
        )
    }
}

fn duration(seconds: f64) -> String {
    format_duration(Duration::try_from_secs_f64(seconds).unwrap_or_default())
}

/// A table's cell: a bar would end it.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

/// A path as one word of a shell command.
fn word(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = text.chars().all(|letter| letter.is_ascii_alphanumeric() || "/._-+".contains(letter));
    if is_plain { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}
