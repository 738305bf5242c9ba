//! What every demo tells: the steps as they are done, and in the end what came of it.

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::base::units::format_duration;
use crate::base::{Cancel, Error, Result};
use crate::cli::output;

/// The document `demo`, version 1.
#[derive(Serialize)]
pub(super) struct Told {
    /// What the ledger was kept in, and its version.
    pub engine: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub postgres_major: Option<u32>,
    /// Transactions committed before the disaster.
    pub transactions: u64,
    pub entries_before: i64,
    pub entries_after: i64,
    /// From the decision to restore to the first answer of what was restored.
    pub recovery_time_seconds: f64,
    /// From the last restored transaction to the disaster.
    pub recovery_point_seconds: f64,
    /// Entries that were committed before the disaster and are missing.
    pub lost_entries: i64,
    /// What a drill afterwards measured from its declaration to the first check.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drilled_seconds: Option<f64>,
    /// The directory that was kept.
    pub kept: Option<String>,
}

impl Told {
    pub fn text(&self) -> String {
        let mut text = format!(
            "\nrecovery time   {}   from the decision to the first answer\n\
             recovery point  {}   before the DROP TABLE\n\
             entries         {} of {} are back, {} lost\n",
            format_duration(Duration::from_secs_f64(self.recovery_time_seconds)),
            format_duration(Duration::from_secs_f64(self.recovery_point_seconds)),
            self.entries_after,
            self.entries_before,
            self.lost_entries
        );
        match &self.kept {
            Some(home) => {
                text += &format!("kept in {home}; look around with: {home}/lifeboat --config {home}/lifeboat.toml list\n")
            }
            None => text += "everything was cleaned up; --keep keeps it\n",
        }
        text
    }
}

/// Tells each step as it is done, and when.
pub(super) struct Narrator {
    quiet: bool,
    began: Instant,
}

impl Narrator {
    /// One that says nothing when it is `quiet`.
    pub fn new(quiet: bool) -> Self {
        Self { quiet, began: Instant::now() }
    }

    /// Tells of a step that is done.
    pub fn say(&self, text: &str) -> Result<()> {
        if self.quiet {
            return Ok(());
        }
        let lead = format!("{:5.1} s  ", self.began.elapsed().as_secs_f64());
        output::print(&output::wrapped(&lead, lead.len(), text))
    }
}

/// Waits, unless the operator wants to leave.
///
/// # Errors
/// Interrupted.
pub(super) async fn pause(duration: Duration, cancel: &Cancel) -> Result<()> {
    tokio::select! {
        () = tokio::time::sleep(duration) => Ok(()),
        () = cancel.cancelled() => Err(Error::interrupted()),
    }
}
