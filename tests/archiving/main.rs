//! The archive on real servers: what `push` accepts and refuses, two servers that write one log, and exit codes of
//! `get` that never let PostgreSQL end a recovery too early.

#[path = "../support/mod.rs"]
mod support;

mod get;
mod handover;
mod keys;
mod outage;
mod push;
mod recovery;
mod requests;
mod split_brain;
mod spool;
mod stage;
