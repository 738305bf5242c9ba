//! One source in several repositories: what a push and a backup wait for, what is delivered later, and readers that go to
//! another repository when one fails.

mod backup;
mod delivery;
mod outage;
mod push;
mod reading;
mod stage;
#[path = "../support/mod.rs"]
mod support;
