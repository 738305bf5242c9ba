//! `expire`: backups go in two phases, and the log that nothing needs any more with them.
//!
//! Phase one marks ([`mark`]), phase two carries out what is due ([`run`]): it decides afresh on what is there then
//! ([`plan`]), puts a tombstone into the commit log, and only after that deletes anything. Whatever interrupts the
//! deletion, the next run goes on with it: readers have taken the backups for gone since the tombstone. What crashed
//! backups left is another matter ([`orphans`]).
//!
//! Which backups are to go is decided elsewhere: nothing here knows a policy. An operator names them, or rules do, of which
//! this knows only what they say ([`rules`]).

mod delete;
pub mod log;
pub mod mark;
pub mod orphans;
pub mod plan;
pub mod rules;
pub mod run;
mod survey;
mod tail;

pub use plan::{Fate, Verdict};
