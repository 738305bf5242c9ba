//! A database file or a directory: is it there, and can this process read all of it.

use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Access, AtFlags, accessat};

use super::{Finding, Level, Subject};
use crate::base::units::format_bytes;
use crate::base::{Cancel, Error, Result};
use crate::engine::{Scope, joined};
use crate::source::directory::beneath::{Root, split};
use crate::source::directory::entry::Kind;
use crate::source::directory::exclude::Excludes;
use crate::source::directory::walk::{Step, Walk, WalkOptions};
use crate::source::sqlite::{Options, Probe, Watch, probe};

/// Threads that look ahead in a directory.
const THREADS: usize = 4;

/// Looks at a database and takes hold of its present state, as a backup would; copies nothing.
///
/// # Errors
/// When looking was broken off.
pub(super) async fn database(subject: &Subject<'_>, path: &Path) -> Result<Vec<Finding>> {
    const SUBJECT: &str = "database";
    let (own, absent, is_followed) = (path.to_owned(), subject.level_of_absence(), subject.is_streamed());
    let looking = tokio::task::spawn_blocking(move || {
        let found = probe(&own)?;
        if let Some(refusal) = found.refusal(&own) {
            return Ok(vec![Finding::of_error(absent, SUBJECT, &refusal)]);
        }
        let at = Watch::new(&own, Options::default()).snapshot()?.moment.at;
        let bytes = u64::from(at.page_size) * u64::from(at.pages);
        let shown = format!("{} can be read: {} in pages of {} bytes", own.display(), format_bytes(bytes), at.page_size);
        let mut findings = vec![Finding::ok(SUBJECT, shown)];
        findings.push(match (found, is_followed) {
            (Probe::Wal(_), _) => Finding::ok("journal", "is a write-ahead log: its commits can be followed"),
            (_, true) => Finding::fault("journal", "is a rollback journal: its commits cannot be followed")
                .hint(format!("sqlite3 {} 'PRAGMA journal_mode = WAL'", own.display()))
                .hint("or [log] mode = \"none\" in the policy: then only its backups can be restored"),
            (_, false) => Finding::warning("journal", "is a rollback journal: commits wait while a backup copies")
                .hint(format!("sqlite3 {} 'PRAGMA journal_mode = WAL'", own.display())),
        });
        Ok(findings)
    });
    Ok(joined(looking.await).unwrap_or_else(|error: Error| vec![Finding::of_error(absent, SUBJECT, &error)]))
}

/// Walks through a directory as a backup would, and asks whether each file may be read.
///
/// # Errors
/// Interrupted.
pub(super) async fn directory(
    scope: &Scope,
    subject: &Subject<'_>,
    path: &Path,
    exclude: &[String],
    one_file_system: bool,
    cancel: &Cancel,
) -> Result<Vec<Finding>> {
    const SUBJECT: &str = "directory";
    let (own, absent, cancel) = (path.to_owned(), subject.level_of_absence(), cancel.clone());
    let scratch = scope.state.scratch()?;
    let options = WalkOptions {
        excludes: match Excludes::new(exclude) {
            Ok(excludes) => excludes,
            Err(error) => return Ok(vec![Finding::of_error(Level::Fault, "exclude", &error)]),
        },
        one_file_system,
        threads: THREADS,
        scratch: scratch.path().to_owned(),
    };
    let asked = cancel.clone();
    let walking = tokio::task::spawn_blocking(move || {
        let seen = walk(Arc::new(Root::open(&own)?), options, &cancel)?;
        let mut findings = Vec::new();
        if let Some(first) = &seen.first_trouble {
            let message = format!("{} of it cannot be read, the first: {first}", seen.troubles);
            findings.push(Finding::fault(SUBJECT, message).hint("run lifeboat as a user who may read it, or exclude it"));
        }
        let shown = format!("{}: {} in {} entries", own.display(), format_bytes(seen.bytes), seen.entries);
        findings.push(Finding::ok(SUBJECT, shown));
        Ok(findings)
    });
    let found = joined(walking.await);
    asked.check()?;
    Ok(found.unwrap_or_else(|error: Error| vec![Finding::of_error(absent, SUBJECT, &error)]))
}

/// What a walk met.
#[derive(Default)]
struct Seen {
    entries: u64,
    bytes: u64,
    troubles: u64,
    first_trouble: Option<String>,
}

impl Seen {
    fn trouble(&mut self, told: String) {
        self.troubles += 1;
        self.first_trouble.get_or_insert(told);
    }
}

fn walk(root: Arc<Root>, options: WalkOptions, cancel: &Cancel) -> Result<Seen> {
    let mut seen = Seen::default();
    for step in Walk::new(root, options)? {
        cancel.check()?;
        match step? {
            Step::Found(found) => {
                let entry = &found.entry;
                (seen.entries, seen.bytes) = (seen.entries + 1, seen.bytes + entry.node.size_bytes);
                entry.marks.iter().for_each(|mark| seen.trouble(format!("{} {mark}", entry.path)));
                let asked = || accessat(&found.parent.fd, split(&entry.path).1, Access::READ_OK, AtFlags::empty());
                if entry.node.kind == Kind::File
                    && let Err(errno) = asked()
                    && errno != rustix::io::Errno::NOENT
                {
                    seen.trouble(format!("{} cannot be read: {}", entry.path, std::io::Error::from(errno)));
                }
            }
            Step::Left(left) if left.why.is_trouble() => seen.trouble(format!("{} {}", left.path, left.why)),
            Step::Left(_) => {}
        }
    }
    Ok(seen)
}
