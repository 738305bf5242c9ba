//! PostgreSQL 13 to 18: what a base backup reads, and how a restored cluster is told to recover.
//!
//! No repository, no store and no printing here: the engine holds those.

pub mod control;
pub mod filenames;
pub mod history;
pub mod page;
pub mod wal;
pub mod walk;
