//! Warm standbys: they follow the archive, and are ended at its end or at a moment, with nothing lost and nothing too much.

mod follow;
mod interruptions;
mod moments;
mod outages;
mod refusals;
mod stage;
#[path = "../support/mod.rs"]
mod support;
