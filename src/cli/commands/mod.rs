//! One file a verb. Each takes its own arguments and the [`Context`], and returns an [`Outcome`].

mod completions;
mod man;

use super::args::{ArchiveVerb, Verb};
use super::context::Context;
use super::exit::Outcome;
use crate::base::{Error, Result, killpoint};

/// Runs one verb.
///
/// # Errors
/// The verb's.
pub fn run(verb: Verb, context: &Context) -> Result<Outcome> {
    match verb {
        Verb::Completions(args) => completions::run(&args),
        Verb::Man(args) => man::run(&args),
        Verb::Archive(ArchiveVerb::Push(_)) => {
            killpoint::reach("push.start");
            not_built("archive push", context)
        }
        Verb::Archive(ArchiveVerb::Get(_)) => {
            killpoint::reach("get.start");
            not_built("archive get", context)
        }
        Verb::Archive(ArchiveVerb::Resolve(_)) => not_built("archive resolve", context),
        Verb::Init(_) => not_built("init", context),
        Verb::Check(_) => not_built("check", context),
        Verb::Backup(_) => not_built("backup", context),
        Verb::List(_) => not_built("list", context),
        Verb::Restore(_) => not_built("restore", context),
        Verb::Verify(_) => not_built("verify", context),
        Verb::Demo(_) => Err(Error::failed("'lifeboat demo' is not built yet")),
    }
}

fn not_built(verb: &str, context: &Context) -> Result<Outcome> {
    context.settings()?;
    Err(Error::failed(format!("'lifeboat {verb}' is not built yet")))
}
