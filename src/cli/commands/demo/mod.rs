//! `lifeboat demo`: the main job on a private throw-away PostgreSQL cluster, as an operator would do it.
//!
//! Every step runs this very program with the arguments an operator would type. Servers and files are gone at the end,
//! however it ends, unless `--keep`.

mod cluster;
mod ledger;
mod stage;
mod story;

use crate::base::Result;
use crate::cli::args::DemoArgs;
use crate::cli::context::Context;
use crate::cli::exit::Outcome;

/// Plays the story.
///
/// # Errors
/// When there is no PostgreSQL on this machine, or any step fails.
pub async fn run(args: &DemoArgs, context: &Context) -> Result<Outcome> {
    let result = story::play(args, context).await?;
    context.result("demo", 1, &result, || result.text())?;
    Ok(Outcome::Done)
}
