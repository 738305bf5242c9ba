//! A bucket that keeps what it has: locks, versions, and a stolen backup host that tries everything.

#[path = "../support/mod.rs"]
mod support;

mod bucket;
mod canary;
mod expiry;
mod fabricated;
mod locks;
mod thief;
mod versions;
