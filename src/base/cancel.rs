//! The wish to stop, told to every thread and task of a running verb.
//!
//! Once cancelled, a token and all its clones stay cancelled.

use std::sync::Arc;

use tokio::sync::watch;

use super::error::{Error, Result};

/// A clonable token: one side asks to stop, the other looks between two steps of its work.
#[derive(Clone, Debug)]
pub struct Cancel(Arc<watch::Sender<bool>>);

impl Cancel {
    /// A token that nobody has cancelled.
    pub fn new() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }

    /// Asks everyone who holds a clone to stop. Calling it again changes nothing.
    pub fn cancel(&self) {
        self.0.send_replace(true);
    }

    /// Whether someone asked to stop. Cheap enough to ask for every frame of a copy.
    pub fn is_cancelled(&self) -> bool {
        *self.0.borrow()
    }

    /// For a `?` between two steps.
    ///
    /// # Errors
    /// [`Error::interrupted`] once cancelled.
    pub fn check(&self) -> Result<()> {
        if self.is_cancelled() { Err(Error::interrupted()) } else { Ok(()) }
    }

    /// Waits until someone asks to stop; for a `select!` beside the work.
    pub async fn cancelled(&self) {
        let mut receiver = self.0.subscribe();
        // The sender lives in `self`, so the channel cannot be closed while this waits.
        let _ = receiver.wait_for(|cancelled| *cancelled).await;
    }
}

impl Default for Cancel {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::base::ErrorKind;

    #[test]
    fn every_clone_sees_it_and_it_lasts() {
        let cancel = Cancel::new();
        let clone = cancel.clone();
        assert!(clone.check().is_ok());
        cancel.cancel();
        cancel.cancel();
        assert!(clone.is_cancelled());
        assert_eq!(clone.check().unwrap_err().kind(), ErrorKind::Interrupted);
    }

    #[tokio::test]
    async fn waiting_ends_whether_it_began_before_or_after() {
        let cancel = Cancel::new();
        let waiting = tokio::spawn({
            let cancel = cancel.clone();
            async move { cancel.cancelled().await }
        });
        assert!(tokio::time::timeout(Duration::from_millis(20), cancel.cancelled()).await.is_err());
        cancel.cancel();
        tokio::time::timeout(Duration::from_secs(10), waiting).await.unwrap().unwrap();
        tokio::time::timeout(Duration::from_secs(10), cancel.cancelled()).await.unwrap();
    }
}
