//! `backup`: everything of a source into one new backup.

mod assemble;
mod collect;
mod copy;
mod late;
mod packs;
pub mod plan;
mod pool;
mod prepare;
mod preview;
pub mod run;
mod wait;
mod worker;

pub use plan::{Decision, Wish, decide};
pub use preview::{Preview, preview};
pub use run::{BackupOptions, BackupReport, run};
