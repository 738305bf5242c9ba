//! An audit finds a lie planted in change detection, and a restore shows that the lie would have been one.

use crate::stage;
use crate::support::postgres::{Options, RECOVERY_TIMEOUT};
use crate::support::process::{self, Output};
use crate::support::scenario::{SOURCE, Scenario};

/// Runs a backup with a lie in its change detection.
fn lying(scenario: &Scenario, lie: &str, more: &[&str]) -> Output {
    let mut command = scenario.protected.command(&[&["backup", SOURCE, "--type", "incr"], more].concat());
    command.env("LIFEBOAT_LIE", lie);
    process::run(command, RECOVERY_TIMEOUT)
}

#[test]
fn a_lie_about_pages_or_files_is_caught() {
    for lie in ["pages", "files"] {
        let Some(scenario) = stage::start(&Options::default()) else { return };
        // Where the log tells which pages changed, its lies are those of told.rs.
        stage::policy(&scenario, "changed_pages = \"read\"");
        let data = scenario.cluster.data.clone();
        stage::scatter(&scenario, 100);
        let honest = stage::backup(&scenario, "incr", &["--audit"]);
        assert_eq!(honest["type"], "incr", "an honest audit finds nothing: {honest:#}");
        stage::scatter(&scenario, 100);
        lying(&scenario, lie, &["--audit"]).refuses(22, &["change detection missed", "base/"]);
        lying(&scenario, lie, &[]).success();
        let id = crate::support::listing::backups(&scenario.protected).pop().expect("the lying one");
        let there = stage::relation_files(&data);
        let restored = stage::restore(&scenario, &id, "lied");
        let outcome = std::panic::catch_unwind(|| stage::assert_same(&restored, &there));
        assert!(outcome.is_err(), "the comparison of files did not see the lie about {lie}");
    }
}
