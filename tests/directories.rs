//! Directories end to end: the real binary backs trees up, changes are made, and what comes back is compared by an oracle
//! that knows none of the code.
//!
//! `LIFEBOAT_TEST_FILES` sets how many files the test of size makes.

mod support;

#[path = "directories/chains.rs"]
mod chains;
#[path = "directories/crashes.rs"]
mod crashes;
#[path = "directories/faults.rs"]
mod faults;
#[path = "directories/looking.rs"]
mod looking;
#[path = "directory_source/oracle.rs"]
mod oracle;
#[path = "directories/owners.rs"]
mod owners;
#[path = "directories/parts.rs"]
mod parts;
#[path = "faults/plant.rs"]
mod plant;
#[path = "directories/races.rs"]
mod races;
#[path = "directories/refusals.rs"]
mod refusals;
#[path = "directories/scale.rs"]
mod scale;
#[path = "directories/stage.rs"]
mod stage;
#[path = "directory_source/trees.rs"]
mod trees;
#[path = "directories/trouble.rs"]
mod trouble;
