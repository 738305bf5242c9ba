//! Diffs and incrs on a real server: what they store, what they restore to, and when a full is taken instead.

mod support;

#[path = "incrementals/audit.rs"]
mod audit;
#[path = "incrementals/chain.rs"]
mod chain;
#[path = "incrementals/delta.rs"]
mod delta;
#[path = "incrementals/elsewhere.rs"]
mod elsewhere;
#[path = "incrementals/gap.rs"]
mod gap;
#[path = "incrementals/resume.rs"]
mod resume;
#[path = "incrementals/stage.rs"]
mod stage;
#[path = "incrementals/told.rs"]
mod told;
