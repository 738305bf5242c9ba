//! `lifeboat archive push SOURCE FILE`.
//!
//! Where `lifeboat run` works beside PostgreSQL, it stores the segments that wait ahead of their turn, and is asked first
//! ([`crate::engine::archive::handover`]). Whatever it does not answer for is stored here.

use std::time::Duration;

use serde::Serialize;

use super::enough::Wanted;
use crate::base::Result;
use crate::cli::args::ArchivePushArgs;
use crate::cli::background;
use crate::cli::config::{RepositorySettings, Settings, SourceSettings};
use crate::cli::context::Context;
use crate::cli::exit::Outcome;
use crate::cli::runtime::brief;
use crate::cli::scope::{self, Use};
use crate::engine::archive::handover::{Answer, Archived, Durable, Request};
use crate::engine::archive::push::{self, Pushed};
use crate::engine::archive::socket::{Line, Unanswered};

/// As long as `run` says that it works on a file it is waited for: on a slow line two who store it would take twice as long.
const LONGEST_WAIT: Duration = Duration::from_secs(600);

#[derive(Serialize)]
struct Document {
    source: String,
    #[serde(flatten)]
    durable: Shown,
}

/// [`Durable`] without its warnings, which are told apart.
#[derive(Serialize)]
struct Shown {
    archived: Vec<Archived>,
    /// Repositories that get it in the background.
    queued: Vec<String>,
}

/// Archives one file in as many repositories of the source as must hold it, and leaves the others to the background.
/// Silent when all went well: PostgreSQL's log is no place for good news.
///
/// # Errors
/// When the file is not durable in enough of them. The others are tried all the same.
pub fn run(args: &ArchivePushArgs, context: &Context) -> Result<Outcome> {
    let settings = context.settings()?;
    let source = settings.source(&args.source)?;
    source.postgres("archive push")?;
    let durable = match ask(args, context, &settings, source) {
        Said::Durable(durable) => durable,
        Said::Nothing => brief(&context.cancel, store(args, context, &settings, source, false))?,
        Said::StillAtIt => brief(&context.cancel, store(args, context, &settings, source, true))?,
    };
    durable.warnings.iter().for_each(|warning| context.progress.warn(warning));
    let Durable { archived, queued, .. } = durable;
    let document = Document { source: source.name.to_string(), durable: Shown { archived, queued } };
    context.result("archive_push", 1, &document, String::new).map(|()| Outcome::Done)
}

/// What `lifeboat run` says of a file.
enum Said {
    Durable(Durable),
    /// Not that it is durable.
    Nothing,
    /// It is storing it, and others behind it.
    StillAtIt,
}

fn ask(args: &ArchivePushArgs, context: &Context, settings: &Settings, source: &SourceSettings) -> Said {
    // It stores in all of a source's repositories, as its configuration says.
    if context.global.repository.is_some() {
        return Said::Nothing;
    }
    let (Ok(file), Ok(wanted)) = (std::path::absolute(&args.file), Wanted::new(settings, source, None)) else {
        return Said::Nothing;
    };
    let request = Request {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        source: args.source.clone(),
        config_file: settings.config_file.clone(),
        config_sha256: settings.config_sha256,
        file,
    };
    let path = super::handover_socket(&settings.state_dir, &args.source);
    match (Line { path, cancel: &context.cancel, longest_wait: LONGEST_WAIT }).ask(&request) {
        Ok(Answer::Durable(assurance)) => match assurance.objection(&request, &wanted.under()) {
            None => Said::Durable(assurance.durable),
            Some(why) => {
                let file = args.file.display();
                context.progress.warn(&format!("lifeboat run says that {file} is archived, and is not believed: {why}"));
                Said::Nothing
            }
        },
        Ok(Answer::Yourself { .. }) | Err(Unanswered::Nobody) => Said::Nothing,
        Err(Unanswered::StillAtIt) => Said::StillAtIt,
    }
}

/// `alone` leaves the files behind it to `run`.
async fn store(
    args: &ArchivePushArgs,
    context: &Context,
    settings: &Settings,
    source: &SourceSettings,
    alone: bool,
) -> Result<Durable> {
    let mut wanted = Wanted::new(settings, source, context.global.repository.as_deref())?;
    // Told also when it is the reason why the push fails.
    wanted.doubt.take().iter().for_each(|doubt| context.progress.warn(doubt));
    let push = |chosen| push_to(args, context, settings, chosen, alone);
    let (durable, _) = wanted.store(&args.file, push).await?;
    background::deliver(context, settings, source);
    Ok(durable)
}

async fn push_to(
    args: &ArchivePushArgs,
    context: &Context,
    settings: &Settings,
    chosen: &RepositorySettings,
    alone: bool,
) -> Result<Pushed> {
    let layers = scope::layers(context, chosen, Use::ArchivePush);
    let scope = scope::open(context, settings, chosen, &args.source, &layers).await?;
    let writing = scope::writing(settings)?;
    if alone { push::alone(&scope, &writing, &args.file).await } else { push::run(&scope, &writing, &args.file).await }
}
