//! What every store must do (`suite`, run over each of them), and what the local one must do beyond that.

mod buckets;
mod child;
mod crash;
mod durability;
mod faulty;
mod foreign_files;
mod listing;
#[path = "../support/rclone.rs"]
#[allow(dead_code)] // Used in part.
mod rclone_server;
#[path = "../support/s3.rs"]
#[allow(dead_code)] // Used in part.
mod s3_server;
mod suite;
mod support;
mod trouble;
