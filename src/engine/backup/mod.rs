//! `backup`: everything of a source, or what changed since another backup, into a new one.

mod assemble;
mod audit;
pub mod auto;
mod base;
mod begin;
pub(in crate::engine) mod collect;
mod compare;
mod copy;
pub(in crate::engine) mod draft;
mod how;
mod late;
mod packs;
pub mod plan;
pub(in crate::engine) mod pool;
mod prepare;
mod preview;
mod resume;
pub mod run;
mod told;
mod wait;
pub(in crate::engine) mod worker;

pub use how::{Detection, Reading};
pub use plan::{Decision, Wish};
pub use preview::{Preview, preview};
pub use run::{BackupOptions, BackupReport, host_name, run};
