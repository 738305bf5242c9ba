//! `lifeboat policy …`: what is declared of the sources, checked and shown. Needs no database and no repository.

mod check;
mod list;
mod show;

use std::path::PathBuf;

use crate::base::Result;
use crate::cli::args::PolicyVerb;
use crate::cli::config::{self, Environment, policies};
use crate::cli::context::Context;
use crate::cli::exit::Outcome;
use crate::policy::Policy;

/// Runs one of them.
///
/// # Errors
/// The verb's.
pub fn run(verb: &PolicyVerb, context: &Context) -> Result<Outcome> {
    match verb {
        PolicyVerb::Check(args) => check::run(args, context),
        PolicyVerb::Show(args) => show::run(args, context),
        PolicyVerb::List => list::run(context),
    }
}

/// The policy that somebody typed: a path counts from the present directory, a name from the configuration, if there is one.
fn typed(context: &Context, name: &str) -> Result<(Policy, Option<PathBuf>)> {
    let config_file = match policies::is_path(name) {
        true => None,
        false => config_file(context)?,
    };
    policies::load(name, config_file.as_deref())
}

/// The configuration's file, which is not read.
fn config_file(context: &Context) -> Result<Option<PathBuf>> {
    config::locate(context.global.config.as_deref(), &Environment::of_process())
}

/// Where a policy is, for people.
fn place(file: Option<&str>) -> &str {
    file.unwrap_or("comes with lifeboat")
}

fn shown(file: Option<PathBuf>) -> Option<String> {
    file.map(|file| file.display().to_string())
}
