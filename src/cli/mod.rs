//! The edge: words become settings, verbs run, results and errors become text or JSON and an exit code.
//!
//! Nothing below this floor prints, reads the environment's settings or knows an exit code. A panic anywhere ends as a
//! failure of the verb, with the code that whoever called can bear ([`exit::Guard`]).

pub mod args;
pub mod background;
pub mod catalogue;
pub mod commands;
pub mod config;
pub mod context;
pub mod diagnostics;
pub mod exit;
pub mod output;
pub mod progress;
pub mod restoring;
pub mod runtime;
pub mod scope;
pub mod signals;

use std::cell::Cell;
use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use clap::Parser;

use self::args::{Cli, OutputFormat, Verb};
use self::context::Context;
use self::diagnostics::{Console, install_panic_hook};
use self::exit::Guard;
use crate::base::{Error, ErrorKind};

/// Runs the command line `words`, the first of which is the program's name, and tells how to exit.
pub fn run(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let words: Vec<OsString> = words.into_iter().collect();
    let operands = words.get(1..).unwrap_or_default();
    let console = Console::of_process(asked_format(operands));
    install_panic_hook(console);
    // Known before anything can fail; made exact once the words are understood.
    let guard = Cell::new(Guard::of_words(operands));
    let code = catch_unwind(AssertUnwindSafe(|| attempt(&words, console, &guard)));
    ExitCode::from(code.unwrap_or_else(|_| guard.get().failure(exit::PANIC)))
}

fn attempt(words: &[OsString], console: Console, guard: &Cell<Guard>) -> u8 {
    let cli = match Cli::try_parse_from(words) {
        Ok(cli) => cli,
        Err(error) => return explain(&error, words.get(1..).unwrap_or_default(), console, guard.get()),
    };
    guard.set(Guard::of_verb(&cli.verb));
    let guard = guard.get();
    if background::outlives_its_caller(&cli.verb) {
        background::let_go_of_inherited_files();
    }
    let hangs_up = !matches!(cli.verb, Verb::Run(_));
    let result = Context::new(cli.global, console, guard, hangs_up).and_then(|context| {
        let outcome = commands::run(cli.verb, &context);
        outcome.map_err(|error| if context.cancel.is_cancelled() { of_interruption(error) } else { error })
    });
    match result {
        Ok(outcome) => guard.success(outcome),
        Err(error) => {
            let code = guard.failure(exit::code_of(error.kind()));
            console.show(&error, code);
            tell_monitor(guard, &error.summary());
            code
        }
    }
}

/// A monitor reads standard output only.
fn tell_monitor(guard: Guard, why: &str) {
    if guard == Guard::Nagios {
        // That this cannot be written changes nothing: the code says what it must.
        let _ = output::print(&commands::status::unknown(why));
    }
}

/// A repository that does not answer is waited for; whoever ends the waiting interrupts, and need not be told of an outage.
fn of_interruption(error: Error) -> Error {
    if error.kind() == ErrorKind::Unreachable { Error::interrupted().caused_by(error) } else { error }
}

/// Shows help, the version, or what is wrong with the command line.
fn explain(error: &clap::Error, operands: &[OsString], console: Console, guard: Guard) -> u8 {
    if !error.use_stderr() {
        let help = error.render();
        let colours = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        return match output::print(&if colours { help.ansi().to_string() } else { help.to_string() }) {
            Ok(()) => guard.help(operands),
            Err(error) => {
                console.show(&error, exit::PANIC);
                guard.failure(exit::code_of(error.kind()))
            }
        };
    }
    let code = guard.failure(exit::USAGE);
    tell_monitor(guard, "the command line is not understood");
    match console.format {
        OutputFormat::Json => {
            let text = error.render().to_string();
            let sentence: Vec<&str> = text.lines().take_while(|line| !line.is_empty()).map(str::trim).collect();
            console.show(&Error::usage(sentence.join(" ").trim_start_matches("error: ")), code);
        }
        OutputFormat::Text => diagnostics::show_usage(console, error),
    }
    code
}

/// The format that the words ask for, found without understanding them: errors in them are shown in it too.
fn asked_format(operands: &[OsString]) -> OutputFormat {
    let json = operands.iter().any(|word| word == "--output=json")
        || operands.windows(2).any(|pair| pair[0] == "--output" && pair[1] == "json");
    if json { OutputFormat::Json } else { OutputFormat::Text }
}
