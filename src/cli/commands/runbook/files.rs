//! The plan for what has no server: a SQLite database, a directory.

use std::fmt::Write;
use std::path::Path;

use super::{Book, word};
use crate::policy::SqlCheck;

impl Book<'_> {
    /// The steps for the database that lies at `path` on the protected host.
    pub(super) fn of_database(&self, path: &Path) -> Vec<String> {
        vec![self.decide_on("database"), self.restore_database(path), self.check_database(), self.use_database(path)]
    }

    /// The steps for the directory at `path`.
    pub(super) fn of_directory(&self, path: &Path) -> Vec<String> {
        vec![self.decide_on("directory"), self.restore_directory(), self.check_directory(), self.use_directory(path)]
    }

    fn decide_on(&self, what: &str) -> String {
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
             2. Stop every program that writes to the {what}, and what stores it:\n   \
                `lifeboat run` or `lifeboat archive stream {name}` on that host.\n\
             3. What can be brought back, and what is lost?\n\n       \
                {lifeboat} status {name}\n       \
                {lifeboat} list {name}\n\n   \
                {reach}\n\
             4. Somebody deleted or changed what they should not have? Then restore to the\n   \
                moment before it, with `--to`, and not to the latest.\n"
        )
    }

    fn restore_database(&self, path: &Path) -> String {
        let (name, lifeboat, all) = (self.name(), &self.lifeboat, self.expected(&["plan", "fetch", "replay", "other"]));
        let file = path.file_name().map_or_else(|| "app.db".into(), |file| file.to_string_lossy().into_owned());
        let moment = self.frontier().map_or(self.facts.now, |(_, frontier)| frontier.reaches).human_seconds();
        let into = format!("/srv/recovery/{file}");
        let into = word(Path::new(&into));
        format!(
            "## 2. Restore ({all})\n\n\
             1. A place on a disk with enough room, as the user who owns the database:\n\n       \
                mkdir -p /srv/recovery\n\n\
             2. What would be done, without doing it:\n\n       \
                {lifeboat} restore {name} --into {into} --dry-run\n\n\
             3. Fetch and write it; the file gets its name once it is whole and checked:\n\n       \
                {lifeboat} restore {name} --into {into}\n\n   \
                or, to a moment, with its time zone:\n\n       \
                {lifeboat} restore {name} --into {into} --to '{moment}'\n"
        )
    }

    fn check_database(&self) -> String {
        let mut text = format!("## 3. Check ({})\n\n", self.expected(&["first_check"]));
        text += "1. `PRAGMA integrity_check` answers `ok`; the restore has asked it already.\n\
                 2. The newest rows of a busy table are the ones expected.\n";
        let checks = self.facts.policy.as_ref().map(|policy| policy.drill.checks.as_slice()).unwrap_or_default();
        for (number, SqlCheck { name, sql, expect, .. }) in (3..).zip(checks) {
            let _ = writeln!(text, "{number}. {name}: must answer {expect}.\n");
            let _ = writeln!(text, "       {}", sql.trim().replace('\n', "\n       "));
        }
        if checks.is_empty() {
            text += "3. The policy declares no checks of the data: ask the application's owner.\n";
        }
        text
    }

    fn use_database(&self, path: &Path) -> String {
        let (name, lifeboat, others) = (self.name(), &self.lifeboat, self.other_repositories());
        let shown = word(path);
        format!(
            "## 4. Go live\n\n\
             1. Keep the broken files together, under another name: `{shown}`, and beside it\n   \
                what ends in `-wal`, `-shm` and `-journal`. An old log beside the restored\n   \
                file would be applied to it.\n\
             2. Give the restored file the name, owner and mode of the old one; start the\n   \
                programs.\n\
             3. It is protected only from its first backup on:\n\n       \
                {lifeboat} check {name}\n       {lifeboat} backup {name} --type full\n\n\
             4. Note the time, and what was lost.\n\n\
             ## If it goes wrong\n\n\
             1. The wrong moment was restored: restore again into another file with another\n   \
                `--to`. A restore changes nothing in the repository.\n\
             {others}\
             3. What is stored looks damaged: `{lifeboat} verify {name} --deep` says what.\n"
        )
    }

    fn restore_directory(&self) -> String {
        let (name, lifeboat, all) = (self.name(), &self.lifeboat, self.expected(&["plan", "fetch", "other"]));
        let moment = self.frontier().map_or(self.facts.now, |(_, frontier)| frontier.reaches).human_seconds();
        let into = format!("/srv/recovery/{name}");
        format!(
            "## 2. Restore ({all})\n\n\
             1. As root, or files get the owner who restores them. What would be done:\n\n       \
                {lifeboat} restore {name} --into {into} --dry-run\n\n\
             2. Fetch and write it:\n\n       \
                {lifeboat} restore {name} --into {into}\n\n   \
                or as it was at a moment, with its time zone; the last backup before it is\n   \
                taken, since nothing is known of what lies between two:\n\n       \
                {lifeboat} restore {name} --into {into} --to '{moment}'\n\n   \
                or a part of it:\n\n       \
                {lifeboat} restore {name} --into {into} --path 'some/folder'\n"
        )
    }

    fn check_directory(&self) -> String {
        let (name, lifeboat) = (self.name(), &self.lifeboat);
        format!(
            "## 3. Check ({})\n\n\
             1. The restore has compared every piece of every file with its digest; what it\n   \
                names as not whole was not whole in the backup.\n\
             2. What was in the backup, and what changed between two of them:\n\n       \
                {lifeboat} ls {name}\n       {lifeboat} diff {name} OLD NEW\n\n\
             3. Ask the owner of the files to open some of them.\n",
            self.expected(&["first_check"])
        )
    }

    fn use_directory(&self, path: &Path) -> String {
        let (name, lifeboat, others) = (self.name(), &self.lifeboat, self.other_repositories());
        let shown = word(path);
        format!(
            "## 4. Go live\n\n\
             1. Move what is left of `{shown}` aside, and the restored directory into its place.\n\
             2. Start the programs that use it.\n\
             3. What is changed from now on is protected only by the next backup:\n\n       \
                {lifeboat} check {name}\n       {lifeboat} backup {name} --type full\n\n\
             4. Note the time, and what was lost. Then rehearse again: `{lifeboat} drill {name}`.\n\n\
             ## If it goes wrong\n\n\
             1. The wrong moment was restored: restore again into another directory with\n   \
                another `--to`. A restore changes nothing in the repository.\n\
             {others}\
             3. What is stored looks damaged: `{lifeboat} verify {name} --deep` says what.\n"
        )
    }
}
