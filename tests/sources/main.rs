//! Sources as they come: tablespaces, odd names, configuration elsewhere, standbys, damaged pages, files that vanish.

#[path = "../support/mod.rs"]
mod support;

mod external;
mod pages;
mod standby;
mod tablespaces;
mod upheaval;

use support::lifeboat::Host;
use support::postgres::{Installation, Options};
use support::scenario::{SOURCE, Scenario};

/// One test function for each of a few majors.
macro_rules! on_majors {
    ($($test:ident: $($name:ident $major:literal),+;)+) => { $(
        mod $test {
            $( #[test] fn $name() { super::$test($major) } )+
        }
    )+ };
}
pub(crate) use on_majors;

/// A running scenario of `major` with small segments; `None`, said aloud, when that major is missing.
pub fn scenario(major: u32) -> Option<Scenario> {
    scenario_with(major, &Options { wal_segment_mib: 1, ..Options::default() })
}

/// A running scenario of `major`; `None`, said aloud, when that major is missing.
pub fn scenario_with(major: u32, options: &Options) -> Option<Scenario> {
    Installation::require(major).map(|installation| Scenario::start(&installation, options))
}

/// How many backups `list` shows.
#[track_caller]
pub fn backups(host: &Host) -> Vec<serde_json::Value> {
    let list = host.json(&["list", SOURCE]);
    let incarnations = &list["repositories"][0]["sources"][0]["incarnations"];
    incarnations[0]["backups"].as_array().cloned().unwrap_or_default()
}
