//! `lifeboat completions SHELL`.

use clap::CommandFactory;

use crate::base::Result;
use crate::cli::args::{Cli, CompletionsArgs};
use crate::cli::exit::Outcome;
use crate::cli::output;

/// Prints the completion script.
///
/// # Errors
/// When stdout cannot be written to.
pub fn run(args: &CompletionsArgs) -> Result<Outcome> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "lifeboat", &mut script);
    output::print(&String::from_utf8_lossy(&script))?;
    Ok(Outcome::Done)
}
