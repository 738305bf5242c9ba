//! Exit codes, and the guards that keep PostgreSQL from misreading them.
//!
//! `archive get` ends in 0 (found), 1 (a listing shows that it is not there) or 255: PostgreSQL takes every code from
//! 1 to 125 for the end of the log and promotes. `archive push` fails with a code from 1 to 125: above, PostgreSQL's
//! archiver dies. `status --format nagios` ends in 0 (ok), 1 (at risk or unproven), 2 (breach) or 3 (unknown: every error).

use std::ffi::OsString;

use super::args::{ArchiveVerb, StatusFormat, Verb};
use crate::base::ErrorKind;

/// The code for a command line that is not understood.
pub const USAGE: u8 = 2;
/// The code after a bug in this program.
pub const PANIC: u8 = 1;
/// The code after a second Ctrl-C, and after a first that stopped the work cleanly.
pub const INTERRUPTED: u8 = 130;
/// Somebody else is at work.
pub const BUSY: u8 = 21;

/// What a verb that did its work came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All is well.
    Done,
    /// `archive get`: a successful listing shows that the file is not in the archive.
    NotInArchive,
    /// `verify`, `check` and `timeline`: stored data is damaged, and the result said which.
    Damaged,
    /// `check` and `drill`: something does not work; `restore` of a directory: something is not there. The result said what.
    Faults,
    /// An objective is breached.
    Breached,
    /// An objective is at risk.
    AtRisk,
    /// Nothing proves that the objectives are met.
    Unproven,
}

impl Outcome {
    fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::NotInArchive | Self::Faults => 1,
            Self::Breached => 10,
            Self::AtRisk => 11,
            Self::Unproven => 12,
            Self::Damaged => 22,
        }
    }
}

/// The ordinary code of a failure.
pub fn code_of(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::Failed => 1,
        ErrorKind::Usage => USAGE,
        ErrorKind::Unreachable => 20,
        ErrorKind::Busy => BUSY,
        ErrorKind::Damaged | ErrorKind::Contradicted => 22,
        ErrorKind::Interrupted => INTERRUPTED,
    }
}

/// Who reads the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// A person or a script that knows the documented codes.
    Ordinary,
    /// PostgreSQL's archiver.
    ArchivePush,
    /// PostgreSQL's recovery.
    ArchiveGet,
    /// A monitor that reads codes as Nagios does.
    Nagios,
    /// Nobody: a process that was left behind, whose parent PostgreSQL may become.
    LeftBehind,
}

fn leads_its_group() -> bool {
    rustix::process::getpgrp() == rustix::process::getpid()
}

/// Nagios' code for what is not known.
const NAGIOS_UNKNOWN: u8 = 3;

impl Guard {
    /// The guard of a verb that was understood.
    pub fn of_verb(verb: &Verb) -> Self {
        match verb {
            // In another's process group it is a restore_command, to which 0 would say that the file is there.
            Verb::Archive(ArchiveVerb::Get(args)) if args.fetch_ahead && leads_its_group() => Self::LeftBehind,
            Verb::Archive(ArchiveVerb::Get(_)) => Self::ArchiveGet,
            Verb::Archive(ArchiveVerb::Push(_)) => Self::ArchivePush,
            Verb::Status(args) if args.format == Some(StatusFormat::Nagios) => Self::Nagios,
            _ => Self::Ordinary,
        }
    }

    /// The guard of a command line, `words` without the program's name, that was not understood, or not yet.
    ///
    /// In doubt it is [`Guard::ArchiveGet`]: a person loses nothing by reading 255 instead of 2.
    pub fn of_words(words: &[OsString]) -> Self {
        let has = |wanted: &str| words.iter().any(|word| word == wanted);
        if has("status") && (has("nagios") || has("--format=nagios")) && !has("archive") && !has("get") {
            return Self::Nagios;
        }
        let mut after = words.iter().skip_while(|word| *word != "archive");
        if after.next().is_none() {
            let misspelt_archive = words.iter().any(|word| word == "get");
            return if misspelt_archive { Self::ArchiveGet } else { Self::Ordinary };
        }
        match after.find(|word| ["push", "get", "resolve", "stream"].iter().any(|verb| word == verb)) {
            Some(verb) if verb == "push" => Self::ArchivePush,
            Some(verb) if verb == "resolve" || verb == "stream" => Self::Ordinary,
            _ => Self::ArchiveGet,
        }
    }

    /// The code to exit with after a failure whose ordinary code is `code`.
    pub fn failure(self, code: u8) -> u8 {
        match self {
            Self::Ordinary => code,
            Self::ArchivePush if (1..=125).contains(&code) => code,
            Self::ArchivePush => 1,
            Self::ArchiveGet => 255,
            Self::Nagios => NAGIOS_UNKNOWN,
            Self::LeftBehind => 0,
        }
    }

    /// The code to exit with after `outcome`.
    pub fn success(self, outcome: Outcome) -> u8 {
        match (self, outcome) {
            (_, Outcome::Done) => 0,
            (Self::ArchiveGet, Outcome::NotInArchive) => 1,
            (Self::Nagios, Outcome::AtRisk | Outcome::Unproven) => 1,
            (Self::Nagios, Outcome::Breached) => 2,
            (_, other) => self.failure(other.code()),
        }
    }

    /// The code after help or the version was printed as `words` asked.
    ///
    /// A `restore_command` that also names a file did not get it: that is not a success.
    pub fn help(self, words: &[OsString]) -> u8 {
        if self == Self::Nagios {
            // Help is no answer to a monitor's question.
            return NAGIOS_UNKNOWN;
        }
        let is_operand = |word: &&OsString| {
            let grammar = ["help", "archive", "get"].iter().any(|known| word == known);
            !grammar && !word.to_string_lossy().starts_with('-')
        };
        if self == Self::ArchiveGet && words.iter().any(|word| is_operand(&word)) { self.failure(USAGE) } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<OsString> {
        text.split_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn no_failure_of_archive_get_reads_as_the_end_of_the_log() {
        for code in 0..=255 {
            assert_eq!(Guard::ArchiveGet.failure(code), 255);
            assert!((1..=125).contains(&Guard::ArchivePush.failure(code)), "{code}");
        }
        assert_eq!(Guard::ArchiveGet.success(Outcome::Done), 0);
        assert_eq!(Guard::ArchiveGet.success(Outcome::NotInArchive), 1);
        assert_eq!(Guard::ArchiveGet.success(Outcome::Damaged), 255);
        assert_eq!(Guard::Ordinary.success(Outcome::Damaged), 22);
    }

    #[test]
    fn a_monitor_sees_nothing_but_0_to_3() {
        for code in 0..=255 {
            assert_eq!(Guard::Nagios.failure(code), 3);
        }
        let codes = [Outcome::Done, Outcome::AtRisk, Outcome::Unproven, Outcome::Breached, Outcome::Faults, Outcome::Damaged];
        assert_eq!(codes.map(|outcome| Guard::Nagios.success(outcome)), [0, 1, 1, 2, 3, 3]);
        assert_eq!(Guard::Nagios.help(&words("status --format nagios --help")), 3);
        assert_eq!(Guard::Ordinary.success(Outcome::AtRisk), 11);
    }

    #[test]
    fn the_guard_is_known_before_the_words_are_understood() {
        for (line, guard) in [
            ("archive get a b c", Guard::ArchiveGet),
            ("--config push archive --oops get", Guard::ArchiveGet),
            ("archive --config f get", Guard::ArchiveGet),
            ("archive", Guard::ArchiveGet),
            ("archive gte a b c", Guard::ArchiveGet),
            ("arcive get a b c", Guard::ArchiveGet),
            ("archive push a get", Guard::ArchivePush),
            ("archive push", Guard::ArchivePush),
            ("archive resolve a", Guard::Ordinary),
            ("status --format nagios --oops", Guard::Nagios),
            ("--config f status orders --format=nagios x y", Guard::Nagios),
            ("status --format text --oops", Guard::Ordinary),
            ("arcive get status nagios", Guard::ArchiveGet),
            ("backup", Guard::Ordinary),
            ("", Guard::Ordinary),
        ] {
            assert_eq!(Guard::of_words(&words(line)), guard, "{line}");
        }
    }

    #[test]
    fn help_is_a_success_only_when_nothing_else_was_asked_for() {
        for (line, code) in [
            ("archive get --help", 0),
            ("help archive get", 0),
            ("archive get -h", 0),
            ("archive get orders 00000002.history pg_wal/RECOVERYHISTORY --help", 255),
            ("--version archive get orders x y", 255),
        ] {
            assert_eq!(Guard::of_words(&words(line)).help(&words(line)), code, "{line}");
        }
        assert_eq!(Guard::Ordinary.help(&words("backup orders --help")), 0);
    }
}
