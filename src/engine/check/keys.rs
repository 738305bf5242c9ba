//! The recovery key: an untested key is the first thing that fails.

use super::{Finding, Level, Subject};
use crate::engine::Scope;
use crate::repo::{CommitLog, backup};

const SUBJECT: &str = "recovery key";

pub(super) async fn check(scope: &Scope, log: &CommitLog, subject: &Subject<'_>) -> Vec<Finding> {
    let identities = match subject.identities.identities() {
        Ok(identities) => identities,
        Err(error) => return vec![Finding::of_error(Level::Fault, SUBJECT, &error)],
    };
    let Some(newest) = log.backups().next_back() else {
        return vec![Finding::warning(SUBJECT, "not tried: there is no backup yet")];
    };
    if !newest.encrypted {
        return vec![Finding::warning(SUBJECT, format!("not needed: backup {} is not encrypted", newest.id))];
    }
    if identities.is_empty() {
        return vec![
            Finding::warning(SUBJECT, "never tried from this host, which holds none (as a protected host should)")
                .hint(format!("on the host that would restore, with identity_file set: lifeboat check {}", scope.source)),
        ];
    }
    vec![match backup::opener(&scope.repository, &scope.source, &newest.id, true, &identities).await {
        Ok(_) => Finding::ok(SUBJECT, format!("opens the newest backup, {}", newest.id)),
        Err(error) => Finding::of_error(Level::Fault, SUBJECT, &error),
    }]
}
