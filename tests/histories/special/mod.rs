//! One deterministic history each for what is rare and dangerous between a base and its incremental.

mod databases;
mod failover;
mod incarnation;
mod relations;
mod rewind;
mod tablespaces;

use super::rows;
use super::stage::Stage;
use super::support::postgres::{Installation, Options};
use super::support::random;

/// A running stage with two tables of rows, vacuumed; `None`, said aloud, when that major is missing.
#[track_caller]
fn scene(major: u32, options: &Options) -> Option<Stage> {
    let stage = Stage::start(&Installation::require(major)?, options);
    fill(&stage, "first", 3000);
    fill(&stage, "second", 1000);
    Some(stage)
}

/// A table of that name with `rows` rows.
#[track_caller]
fn fill(stage: &Stage, table: &str, rows: u32) {
    let create = format!("CREATE TABLE {table} ({}) WITH (fillfactor = 60)", rows::COLUMNS);
    let index = format!("CREATE INDEX ON {table} (k)");
    let insert = rows::insert(&mut random::generator(1, u64::from(rows)), table, rows);
    stage.run(&[&create, &insert, &index, &format!("VACUUM {table}")]);
}

/// Some of the rows change in place.
#[track_caller]
fn touch(stage: &Stage, table: &str, modulus: u32) {
    stage.run(&[&format!("UPDATE {table} SET v = md5(v || 'touched') WHERE id % {modulus} = 0")]);
}
