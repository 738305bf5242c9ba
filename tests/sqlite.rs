//! SQLite databases through the real binary: backups, the log of their commits, restores; then a storm.
//!
//! Writers are processes of their own, so that they can be killed; what each moment must hold is told by the ledger that they
//! keep outside of the database (`tests/sqlite_source/`).

mod support;

#[path = "sqlite/cases.rs"]
mod cases;
#[path = "sqlite/drilling.rs"]
mod drilling;
#[path = "sqlite/faults.rs"]
mod faults;
#[path = "sqlite/kills.rs"]
mod kills;
#[path = "sqlite/several.rs"]
mod several;
#[path = "sqlite/storm.rs"]
mod storm;
#[path = "sqlite/trouble.rs"]
mod trouble;
#[path = "sqlite/world.rs"]
mod world;

#[allow(dead_code)]
#[path = "sqlite_source/keeper.rs"]
mod keeper;
#[allow(dead_code)]
#[path = "sqlite_source/model.rs"]
mod model;
#[allow(dead_code)]
#[path = "sqlite_source/oracle.rs"]
mod oracle;
#[allow(dead_code)]
#[path = "sqlite_source/part.rs"]
mod part;
#[allow(dead_code)]
#[path = "sqlite_source/program.rs"]
mod program;
#[allow(dead_code)]
#[path = "sqlite_source/store.rs"]
mod store;
#[allow(dead_code)]
#[path = "sqlite_source/writer.rs"]
mod writer;

/// The process that another test started to play a part; by itself it has none.
#[test]
#[ignore = "a part in other tests, which start it"]
fn part_of_another_test() {
    part::play();
}
