//! `lifeboat verify [SOURCE] [--deep]`.

mod report;

use std::collections::BTreeSet;
use std::time::Instant;

use self::report::{Document, RepositoryPart};
use crate::base::{ErrorKind, Result, SourceName};
use crate::cli::args::VerifyArgs;
use crate::cli::config::{RepositorySettings, Settings};
use crate::cli::context::Context;
use crate::cli::exit::Outcome;
use crate::cli::scope;
use crate::engine::verify::{self, Finding};
use crate::engine::{IdentitySource, Scope};
use crate::repo::{Repository, layout};
use crate::store;

/// Verifies what every repository holds of one source, or of all.
///
/// # Errors
/// When a repository does not answer, or there is no identity to decrypt with; damage is the outcome [`Outcome::Damaged`].
pub async fn run(args: &VerifyArgs, context: &Context) -> Result<Outcome> {
    let settings = context.settings()?;
    let only = context.global.repository.as_deref();
    let repositories = match &args.source {
        Some(source) => settings.repositories_of(settings.source(source)?, only)?,
        None if only.is_some() => vec![settings.repository(only)?],
        None if settings.repositories.is_empty() => vec![settings.repository(None)?],
        None => settings.repositories.values().collect(),
    };
    let began = Instant::now();
    let mut document = Document { deep: args.deep, repositories: Vec::new(), duration_seconds: 0.0 };
    for chosen in repositories {
        document.repositories.push(one_repository(args, context, &settings, chosen).await?);
    }
    document.duration_seconds = began.elapsed().as_secs_f64();
    context.result("verify", 1, &document, || document.text())?;
    Ok(if document.is_damaged() { Outcome::Damaged } else { Outcome::Done })
}

async fn one_repository(
    args: &VerifyArgs,
    context: &Context,
    settings: &Settings,
    chosen: &RepositorySettings,
) -> Result<RepositoryPart> {
    let mut part = RepositoryPart::new(chosen);
    let Some(repository) = open(context, settings, chosen, &mut part).await? else { return Ok(part) };
    part.root_sha256 = Some(repository.keyring().root.to_string());
    let (stored, findings) = verify::sources(&repository).await?;
    let wanted: BTreeSet<SourceName> = match &args.source {
        Some(source) => BTreeSet::from([source.clone()]),
        None => {
            part.findings.extend(findings);
            // Also those that are gone: this host may remember them.
            let configured = settings.sources.values().filter(|source| source.repositories.contains(&chosen.name));
            stored.into_iter().chain(configured.map(|source| source.name.clone())).collect()
        }
    };
    for source in wanted {
        let scope = Scope::new(repository.clone(), source, &settings.state_dir);
        let identities = args.deep.then_some(&settings.encryption as &dyn IdentitySource);
        part.sources.push(verify::run(&scope, identities, context.progress.clone(), &context.cancel).await?);
    }
    Ok(part)
}

/// Opens a repository; one whose descriptor or keys are damaged is a finding.
async fn open(
    context: &Context,
    settings: &Settings,
    chosen: &RepositorySettings,
    part: &mut RepositoryPart,
) -> Result<Option<Repository>> {
    match scope::open_repository(context, settings, chosen).await {
        Ok(repository) => Ok(Some(repository)),
        Err(error) if error.kind() == ErrorKind::Damaged => {
            let key = if error.message().starts_with(layout::DESCRIPTOR) { layout::DESCRIPTOR } else { layout::KEYS };
            part.findings.push(Finding::damage(key, error.summary()));
            Ok(None)
        }
        Err(error) => {
            // Keys without a descriptor: there was a repository.
            let keys = store::open(&chosen.url, &chosen.options)?.list(layout::KEYS, None).await;
            if error.kind() == ErrorKind::Failed && keys.is_ok_and(|page| !page.objects.is_empty()) {
                part.findings.push(Finding::damage(layout::DESCRIPTOR, "is missing"));
                return Ok(None);
            }
            Err(error)
        }
    }
}
