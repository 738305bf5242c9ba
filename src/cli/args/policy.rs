//! `lifeboat policy …`.

use clap::{Args, Subcommand};

const CHECK_HELP: &str = "\
A policy is a file, or the name of one: policies/NAME.toml beside the
configuration, else one that comes with the program (lifeboat policy list).
With none given, the policies of all sources are checked against their
repositories too. Needs no database and no repository.

Ends with 2 when a policy is refused: it cannot be read, or contradicts itself.

Examples:
  lifeboat policy check
  lifeboat policy check policies/shop.toml
  lifeboat policy check e-commerce archive";

const SHOW_HELP: &str = "\
Examples:
  lifeboat policy show e-commerce
  lifeboat policy show policies/shop.toml --output json";

/// `lifeboat policy …`.
#[derive(Debug, Subcommand)]
pub enum PolicyVerb {
    /// Say what in a policy contradicts itself, with the sums
    #[command(after_long_help = CHECK_HELP)]
    Check(PolicyCheckArgs),
    /// Show a policy with its defaults, and the next runs of its schedule
    #[command(after_long_help = SHOW_HELP)]
    Show(PolicyShowArgs),
    /// Show the policies that there are, and who uses them
    List,
}

/// `lifeboat policy check`.
#[derive(Args, Debug)]
pub struct PolicyCheckArgs {
    /// Files or names [default: those of all sources]
    #[arg(value_name = "FILE|NAME")]
    pub policies: Vec<String>,
}

/// `lifeboat policy show`.
#[derive(Args, Debug)]
pub struct PolicyShowArgs {
    /// File or name
    #[arg(value_name = "FILE|NAME")]
    pub policy: String,
}
