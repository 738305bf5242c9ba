//! `lifeboat archive get SOURCE NAME DEST`.

use super::joined;
use crate::base::{Error, ErrorKind, Result};
use crate::cli::args::ArchiveGetArgs;
use crate::cli::config::{RepositorySettings, Settings};
use crate::cli::context::Context;
use crate::cli::exit::Outcome;
use crate::cli::scope;
use crate::engine::archive::get::{self, Got};
use crate::engine::list;
use crate::engine::retry::{Patience, retrying};
use crate::repo::layout;
use crate::store;

/// Fetches one file from the first repository that has it. A repository that fails does not hide the file in the next;
/// "not there" is said only when every repository says so.
///
/// A host that only restores need not describe the source; then some repository must know it, because a misspelt name
/// must not read as the end of the log.
///
/// # Errors
/// Whenever it is not certain that the file is not archived.
pub async fn run(args: &ArchiveGetArgs, context: &Context) -> Result<Outcome> {
    let settings = context.settings()?;
    let wanted = context.global.repository.as_deref();
    let (repositories, mut unknown) = match settings.source(&args.source) {
        Ok(source) => (settings.repositories_of(source, wanted)?, None),
        Err(unknown) if wanted.is_none() => (settings.repositories.values().collect(), Some(unknown)),
        Err(unknown) => (vec![settings.repository(wanted)?], Some(unknown)),
    };
    let undeclared = unknown.is_some();
    let mut errors: Vec<(String, Error)> = Vec::new();
    for chosen in repositories {
        match get_from(args, context, &settings, chosen, undeclared).await {
            Ok(Some(Got::Found)) => {
                for (name, error) in errors {
                    context.progress.warn(&format!("repository {name} was passed over: {}", error.summary()));
                }
                return Ok(Outcome::Done);
            }
            Ok(Some(Got::NotThere)) => unknown = None,
            Ok(None) => {}
            // The next repository may hold the wrong server's content alone, and would hand it over.
            Err(error) if error.kind() == ErrorKind::Contradicted => return Err(error),
            Err(error) => errors.push((chosen.name.clone(), error)),
        }
    }
    match joined(errors).or(unknown) {
        Some(error) => Err(error),
        None => Ok(Outcome::NotInArchive),
    }
}

/// `None` when the source is `undeclared` and the repository does not know it either.
async fn get_from(
    args: &ArchiveGetArgs,
    context: &Context,
    settings: &Settings,
    chosen: &RepositorySettings,
    undeclared: bool,
) -> Result<Option<Got>> {
    let scope = match scope::open(context, settings, chosen, &args.source).await {
        // PostgreSQL gives up recovery at the first error: what may pass is waited for.
        Err(error) if error.kind() == ErrorKind::Unreachable => {
            let store = store::open(&chosen.url, &chosen.options)?;
            retrying(Patience::SHORT, || store.head(layout::DESCRIPTOR)).await?;
            scope::open(context, settings, chosen, &args.source).await?
        }
        outcome => outcome?,
    };
    if undeclared && !list::sources(&scope.repository).await?.contains(&args.source) {
        return Ok(None);
    }
    get::run(&scope, &settings.encryption, args.incarnation.clone(), &args.name, &args.dest).await.map(Some)
}
