//! The one place that chooses a runtime for a verb.
//!
//! What PostgreSQL calls for every file of its log runs on one thread and starts in milliseconds; verbs that run for
//! minutes get a few workers. When the verb has ended, threads that still block on a store are not waited for: what
//! they write is durable as a whole or not at all.

use tokio::runtime::{Builder, Runtime};

use crate::base::{Cancel, Error, Result};

/// Runtime workers of a long verb. They only move bytes between sockets and channels: the work is done on threads of
/// the verb's own.
const WORKERS: usize = 2;

/// Runs a verb that handles one file or a few objects; a signal ends it between two steps.
///
/// # Errors
/// The verb's; interrupted when `cancel` came first.
pub fn brief<T>(cancel: &Cancel, verb: impl Future<Output = Result<T>>) -> Result<T> {
    drive(Builder::new_current_thread(), async {
        tokio::select! {
            outcome = verb => outcome,
            () = cancel.cancelled() => Err(Error::interrupted()),
        }
    })
}

/// Runs a verb that may take long and looks at the wish to stop itself.
///
/// # Errors
/// The verb's.
pub fn long<T>(verb: impl Future<Output = Result<T>>) -> Result<T> {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(WORKERS);
    drive(builder, verb)
}

fn drive<T>(mut builder: Builder, verb: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime: Runtime = builder.enable_all().build().map_err(|error| Error::failed("cannot start").caused_by(error))?;
    let outcome = runtime.block_on(verb);
    runtime.shutdown_background();
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ErrorKind;

    #[test]
    fn a_brief_verb_ends_when_asked_to_and_does_not_wait_for_blocked_threads() {
        let cancel = Cancel::new();
        assert_eq!(brief(&cancel, async { Ok(7) }).unwrap(), 7);
        let (hold, held) = std::sync::mpsc::channel::<()>();
        let asking = cancel.clone();
        let outcome = brief(&cancel, async move {
            let blocked = tokio::task::spawn_blocking(move || held.recv());
            asking.cancel();
            let _ = blocked.await;
            Ok(())
        });
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Interrupted);
        drop(hold);
        assert_eq!(long(async { Ok(7) }).unwrap(), 7);
    }
}
