//! `lifeboat demo`: the main job on a throw-away ledger, as an operator would do it.
//!
//! The ledger is a SQLite database, for which nothing but this program is needed, or a private PostgreSQL cluster. Every
//! step runs this very program with the arguments an operator would type. Servers and files are gone at the end, however it
//! ends, unless `--keep`.

mod postgres;
mod sqlite;
mod stage;
mod told;

use self::told::Narrator;
use crate::base::Result;
use crate::cli::args::{DemoArgs, DemoEngine, OutputFormat};
use crate::cli::context::Context;
use crate::cli::exit::Outcome;

/// Plays the story.
///
/// # Errors
/// When there is no server of the chosen kind on this machine, or any step fails.
pub async fn run(args: &DemoArgs, context: &Context) -> Result<Outcome> {
    let narrator = Narrator::new(context.global.quiet || context.global.output == OutputFormat::Json);
    let told = match args.engine {
        DemoEngine::Sqlite => sqlite::play(&narrator, args.keep, context).await?,
        DemoEngine::Postgres => postgres::play(&narrator, args.keep, context).await?,
    };
    context.result("demo", 1, &told, || told.text())?;
    Ok(Outcome::Done)
}
