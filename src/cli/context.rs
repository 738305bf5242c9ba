//! What every verb is given: the global options, the settings, progress and the wish to stop.

use std::sync::Arc;

use serde::Serialize;

use super::args::GlobalArgs;
use super::config::{self, Environment, Settings};
use super::diagnostics::Console;
use super::exit::{Guard, INTERRUPTED};
use super::{output, progress, signals};
use crate::base::progress::Progress;
use crate::base::{Cancel, Result};

/// The surroundings of one run of one verb.
pub struct Context {
    /// The global options.
    pub global: GlobalArgs,
    /// Who listens to the verb's progress.
    pub progress: Arc<dyn Progress>,
    /// Cancelled by Ctrl-C and SIGTERM.
    pub cancel: Cancel,
}

impl Context {
    /// Prepares progress and starts to listen for signals; a lost terminal ends what `hangs_up`.
    ///
    /// # Errors
    /// When the system refuses signal handlers.
    pub fn new(global: GlobalArgs, console: Console, guard: Guard, hangs_up: bool) -> Result<Self> {
        // What PostgreSQL calls for every segment must not fill its log.
        let quiet = global.quiet || guard != Guard::Ordinary;
        let progress = progress::for_process(console, quiet);
        let cancel = Cancel::new();
        signals::listen(cancel.clone(), Arc::downgrade(&progress), guard.failure(INTERRUPTED), hangs_up)?;
        Ok(Self { global, progress, cancel })
    }

    /// Finds, reads and checks the configuration.
    ///
    /// # Errors
    /// As [`config::load`].
    pub fn settings(&self) -> Result<Settings> {
        config::load(self.global.config.as_deref(), &Environment::of_process())
    }

    /// Ends the progress and writes the verb's result, in the form asked for.
    ///
    /// # Errors
    /// As [`output::result`].
    pub fn result<T: Serialize>(&self, name: &str, version: u32, body: &T, text: impl FnOnce() -> String) -> Result<()> {
        self.progress.finish();
        output::result(self.global.output, name, version, body, text)
    }
}
