//! What `status` says of a real cluster, against what the test knows to be true.

mod bad_input;
mod evidence;
mod exposition;
mod exposure;
mod formats;
mod papers;
mod rehearsal;
mod sites;
mod stage;
mod standby;
#[path = "../support/mod.rs"]
mod support;
