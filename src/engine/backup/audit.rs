//! What an audit makes of a page that the log did not tell of: an error, evidence, and reading from then on.

use super::collect::Missed;
use super::run::host_name;
use crate::base::{BackupId, DrillLevel, Error, Result, Timestamp};
use crate::engine::drill::evidence::Circumstances;
use crate::engine::{Scope, Writing};
use crate::repo::evidence::{KeyUse, Record};

/// Fails when the log did not tell of every page that changed. Before it does, this host remembers not to ask the log any
/// more, and the repository gets evidence of it; what fails in that is told with the error.
///
/// # Errors
/// Damaged data, with file, page and LSN of the first pages.
pub(super) async fn judge_log(scope: &Scope, writing: &Writing, missed: &Missed, base: Option<&BackupId>) -> Result<()> {
    if missed.untold_pages == 0 {
        return Ok(());
    }
    let source = &scope.source;
    let places: Vec<String> = missed.untold.iter().map(|(path, page, lsn)| format!("{path}, page {page}, LSN {lsn}")).collect();
    let message = format!("the log did not tell of {} changed pages of {source}", missed.untold_pages);
    let mut error = Error::damaged(message.clone())
        .detail("pages", places.join("\n"))
        .detail("base", base.map_or_else(String::new, BackupId::to_string))
        .hint(format!("lifeboat backup {source} --type full   depends on no change detection; take it now"))
        .hint(
            "until then files are read; diffs and incrs since the last full may lack these changes: tell the makers of lifeboat",
        );
    let now = Timestamp::now();
    let distrust = || {
        let mut trust = scope.state.page_trust(source).unwrap_or_default();
        trust.missed = Some(now);
        scope.state.remember_page_trust(source, &trust)
    };
    if let Err(failed) = distrust() {
        error = error.detail("not remembered", failed.summary());
    }
    match store_evidence(scope, writing, &message, &places, now).await {
        Ok(key) => error = error.detail("evidence", key),
        Err(failed) => error = error.detail("no evidence was stored", failed.summary()),
    }
    Err(error)
}

async fn store_evidence(scope: &Scope, writing: &Writing, message: &str, places: &[String], now: Timestamp) -> Result<String> {
    let circumstances = Circumstances {
        host: host_name(),
        level: DrillLevel::Verify,
        declared: now,
        policy: None,
        seed: None,
        target: "audit of changed pages".to_owned(),
        key_use: KeyUse::None,
    };
    let evidence = circumstances.of_refusal(format!("{message}: {}", places.join("; ")));
    let record = Record::load(&scope.repository, &scope.source).await?;
    record.append(&scope.repository, &scope.source, &writing.signer, evidence).await
}
