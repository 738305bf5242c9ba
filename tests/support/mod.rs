//! What the tests share: private PostgreSQL clusters, the `lifeboat` binary run as their user, a load generator and its oracle.
//!
//! PostgreSQL refuses to run as root, so tests run as root start servers and `lifeboat` as the user `postgres`;
//! any other user runs everything as itself.
#![allow(dead_code)] // Each test binary compiles all of this and uses a part.

pub mod amcheck;
pub mod dirs;
pub mod ledger;
pub mod lifeboat;
pub mod listing;
pub mod majors;
pub mod oracle;
pub mod pgoutput;
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod random;
pub mod rclone;
pub mod repository;
pub mod s3;
pub mod scenario;
pub mod sql;
pub mod tmpfs;
