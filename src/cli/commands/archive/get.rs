//! `lifeboat archive get SOURCE NAME DEST`.

use super::joined;
use crate::base::{Error, ErrorKind, Result};
use crate::cli::args::ArchiveGetArgs;
use crate::cli::config::{RepositorySettings, Settings};
use crate::cli::context::Context;
use crate::cli::exit::Outcome;
use crate::cli::scope;
use crate::engine::archive::get::{self, Got};
use crate::engine::retry::{Patience, retrying};
use crate::repo::layout;
use crate::store;

/// Fetches one file from the first repository that has it. A repository that fails does not hide the file in the next;
/// "not there" is said only when every repository says so.
///
/// # Errors
/// Whenever it is not certain that the file is not archived.
pub async fn run(args: &ArchiveGetArgs, context: &Context) -> Result<Outcome> {
    let settings = context.settings()?;
    let source = settings.source(&args.source)?;
    let mut errors: Vec<(String, Error)> = Vec::new();
    for chosen in settings.repositories_of(source, context.global.repository.as_deref())? {
        match get_from(args, context, &settings, chosen).await {
            Ok(Got::Found) => {
                for (name, error) in errors {
                    context.progress.warn(&format!("repository {name} was passed over: {}", error.summary()));
                }
                return Ok(Outcome::Done);
            }
            Ok(Got::NotThere) => {}
            Err(error) => errors.push((chosen.name.clone(), error)),
        }
    }
    joined(errors).map_or(Ok(Outcome::NotInArchive), Err)
}

async fn get_from(args: &ArchiveGetArgs, context: &Context, settings: &Settings, chosen: &RepositorySettings) -> Result<Got> {
    let scope = match scope::open(context, settings, chosen, &args.source).await {
        // PostgreSQL gives up recovery at the first error: what may pass is waited for.
        Err(error) if error.kind() == ErrorKind::Unreachable => {
            let store = store::open(&chosen.url)?;
            retrying(Patience::SHORT, || store.head(layout::DESCRIPTOR)).await?;
            scope::open(context, settings, chosen, &args.source).await?
        }
        outcome => outcome?,
    };
    get::run(&scope, &settings.encryption, args.incarnation.clone(), &args.name, &args.dest).await
}
