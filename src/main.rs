//! Lifeboat's entry point: parse, run, exit code. All of it is in [`lifeboat::cli::run`].

use std::process::ExitCode;

fn main() -> ExitCode {
    lifeboat::cli::run(std::env::args_os())
}
