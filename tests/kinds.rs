//! Every verb on every kind of source: what a directory and a SQLite database are told of, kept by, and refused.
//!
//! The repositories are fabricated, signed as a host would sign them, so that years and gaps cost nothing; databases and
//! directories are real.

mod support;

#[path = "kinds/drilling.rs"]
mod drilling;
#[path = "kinds/keeping.rs"]
mod keeping;
#[path = "kinds/looking.rs"]
mod looking;
#[path = "kinds/refusing.rs"]
mod refusing;
#[path = "kinds/world.rs"]
mod world;
