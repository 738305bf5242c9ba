//! `lifeboat archive push SOURCE FILE`.

use serde::Serialize;

use super::joined;
use crate::base::{Error, Result};
use crate::cli::args::ArchivePushArgs;
use crate::cli::config::{RepositorySettings, Settings};
use crate::cli::context::Context;
use crate::cli::exit::Outcome;
use crate::cli::scope::{self, Use};
use crate::engine::archive::push::{self, Pushed};

#[derive(Serialize)]
struct Document {
    source: String,
    archived: Vec<Archived>,
}

#[derive(Serialize)]
struct Archived {
    repository: String,
    key: String,
    already_there: bool,
}

/// Archives one file in every repository of the source. Silent when all went well: PostgreSQL's log is no place for
/// good news.
///
/// # Errors
/// When the file is not durable in one of them. The others are tried all the same.
pub async fn run(args: &ArchivePushArgs, context: &Context) -> Result<Outcome> {
    let settings = context.settings()?;
    let source = settings.source(&args.source)?;
    let mut document = Document { source: source.name.to_string(), archived: Vec::new() };
    let mut errors: Vec<(String, Error)> = Vec::new();
    for chosen in settings.repositories_of(source, context.global.repository.as_deref())? {
        match push_to(args, context, &settings, chosen).await {
            Ok(pushed) => {
                for warning in &pushed.warnings {
                    context.progress.warn(&format!("repository {}: {warning}", chosen.name));
                }
                let Pushed { key, already_there, .. } = pushed;
                document.archived.push(Archived { repository: chosen.name.clone(), key, already_there });
            }
            Err(error) => errors.push((chosen.name.clone(), error)),
        }
    }
    match joined(errors) {
        Some(error) => Err(error),
        None => context.result("archive_push", 1, &document, String::new).map(|()| Outcome::Done),
    }
}

async fn push_to(args: &ArchivePushArgs, context: &Context, settings: &Settings, chosen: &RepositorySettings) -> Result<Pushed> {
    let layers = scope::layers(context, chosen, Use::ArchivePush);
    let scope = scope::open(context, settings, chosen, &args.source, &layers).await?;
    push::run(&scope, &scope::writing(settings)?, &args.file).await
}
