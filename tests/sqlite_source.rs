//! SQLite as it is backed up while others write: known cases one by one, then a laboratory of seeded random ones.
//!
//! Writers, and in the laboratory the capture too, are processes of their own, so that they can be killed at any time.

#[path = "sqlite_source/cases.rs"]
mod cases;
#[path = "sqlite_source/keeper.rs"]
mod keeper;
#[path = "sqlite_source/lab.rs"]
mod lab;
#[path = "sqlite_source/model.rs"]
mod model;
#[path = "sqlite_source/oracle.rs"]
mod oracle;
#[path = "sqlite_source/part.rs"]
mod part;
#[path = "sqlite_source/program.rs"]
mod program;
#[allow(dead_code)]
#[path = "support/random.rs"]
mod random;
#[path = "sqlite_source/stage.rs"]
mod stage;
#[path = "sqlite_source/store.rs"]
mod store;
#[path = "sqlite_source/unusable.rs"]
mod unusable;
#[path = "sqlite_source/writer.rs"]
mod writer;

/// The process that another test started to play a part; by itself it has none.
#[test]
#[ignore = "a part in other tests, which start it"]
fn part_of_another_test() {
    part::play();
}
