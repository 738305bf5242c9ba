//! Which pages the log says were touched between two positions: [`keep`] while a segment passes, [`gather`] for a backup.
//!
//! Invariants: a stretch is told whole or not at all; whatever is missing in it ([`Hole`]) makes the backup read.
//! Nothing here changes what a backup holds but by what it need not read.

mod gather;
mod keep;
mod told;

pub use gather::{Hole, Stretch, gather};
pub(in crate::engine) use keep::{Kept, keep};
pub use told::Told;
