//! PostgreSQL 13 to 18.

pub mod wal;
