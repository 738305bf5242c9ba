//! PostgreSQL 13 to 18: what a base backup reads, and how a restored cluster is told to recover.
//!
//! No repository, no store and no printing here: the engine holds those.

pub mod changes;
pub mod cluster_pages;
pub mod connect;
pub mod conninfo;
pub mod control;
pub mod external_config;
pub mod filenames;
pub mod history;
pub mod inventory;
pub mod label;
pub mod live;
pub mod names;
pub mod page;
mod pgpass;
pub mod recovery_config;
pub mod replication;
pub mod scratch_checks;
pub mod scratch_server;
pub mod server;
pub mod session;
pub mod standby;
mod tls;
pub mod touched;
pub mod unlogged;
pub mod wal;
pub mod walk;
