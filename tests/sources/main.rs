//! Sources as they come: tablespaces, odd names, configuration elsewhere, standbys, damaged pages, files that vanish.

#[path = "../support/mod.rs"]
mod support;

mod external;
mod pages;
mod standby;
mod tablespaces;
mod upheaval;

use support::lifeboat::Host;
use support::postgres::Options;
use support::scenario::{SOURCE, Scenario};

/// A running scenario of `major` with small segments; `None`, said aloud, when that major is missing.
pub fn scenario(major: u32) -> Option<Scenario> {
    Scenario::on(major, &Options { wal_segment_mib: 1, ..Options::default() })
}

/// How many backups `list` shows.
#[track_caller]
pub fn backups(host: &Host) -> Vec<serde_json::Value> {
    let list = host.json(&["list", SOURCE]);
    let incarnations = &list["repositories"][0]["sources"][0]["incarnations"];
    incarnations[0]["backups"].as_array().cloned().unwrap_or_default()
}
