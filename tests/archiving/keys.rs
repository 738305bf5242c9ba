//! A protected host cannot read what it wrote: it has no identity, and nothing it has serves as one.

use crate::support::listing::files;
use crate::support::postgres::{Installation, Options};
use crate::support::scenario::{SOURCE, Scenario};

#[test]
fn the_protected_host_can_decrypt_nothing() {
    let Some(installation) = Installation::require(15) else { return };
    let scenario = Scenario::start(&installation, &Options { wal_segment_mib: 1, ..Options::default() });
    scenario.cluster.sql().execute("CREATE TABLE rows AS SELECT 1 AS n");
    scenario.full_backup();
    let segment = scenario.archive_now();
    let (protected, rescue) = (&scenario.protected, &scenario.rescue);

    let into = scenario.restored.join("by-the-protected-host");
    let restore = ["restore", SOURCE, "--into", into.to_str().expect("plain")];
    let destination = protected.dir().join("fetched");
    let get = ["archive", "get", SOURCE, &segment, destination.to_str().expect("plain")];
    protected.run(&restore).refuses(2, &["no age identity", "identity_file"]);
    protected.run(&get).refuses(255, &["no age identity"]);

    // Whoever takes the host has its whole directory, and tries every file in it as the identity.
    let loot = files(protected.dir().path());
    assert!(loot.len() >= 4, "configuration, key and state: {loot:?}");
    let configuration = protected.configuration();
    for file in &loot {
        let content = std::fs::read(file).expect("readable");
        assert!(!String::from_utf8_lossy(&content).contains("AGE-SECRET-KEY"), "{} holds an identity", file.display());
        let line = format!("[encryption]\nidentity_file = {}", toml_text(&file.display().to_string()));
        protected.configure_text(&configuration.replace("[encryption]", &line));
        protected.run(&restore).exits(2);
        protected.run(&get).exits(255);
    }
    assert!(!into.exists() && !destination.exists());
    rescue.ok(&get);
    assert_eq!(scenario.restore_and_start("by-the-restore-host", &[]).sql().number("SELECT n FROM rows"), 1);
}

fn toml_text(text: &str) -> String {
    format!("'{text}'")
}
