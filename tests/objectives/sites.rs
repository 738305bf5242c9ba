//! Two repositories on two sites, one of which goes away.

use std::fs;

use serde_json::Value;

use crate::stage::{Stage, add_keys, assert_near, has_reason, scope};
use crate::support::dirs::Dir;
use crate::support::scenario::SOURCE;

/// A stage with the repository `second` on another site, which gets every file of the log as well.
fn start() -> Option<(Stage, Dir)> {
    let stage = Stage::without_backup("rpo = \"6s\"\nrto = \"30min\"")?;
    let second = Dir::new();
    let host = stage.host();
    add_keys(host, "site = \"cellar\"");
    let text = host.configuration().replace("[repository.main]\n", "[repository.main]\nsite = \"cellar\"\n");
    let section = format!("[repository.second]\nurl = \"file://{}\"\nsite = \"attic\"\n", second.path().display());
    host.configure_text(&format!("{text}\n{section}"));
    let keys = stage.scenario.rescue.dir().join("keys-of-second");
    host.ok(&["init", "--repository", "second", "--generate-keys", keys.to_str().expect("plain")]);
    stage.scenario.full_backup();
    stage.scenario.archive_now();
    Some((stage, second))
}

#[test]
fn what_only_one_site_holds_is_lost_with_it() {
    let Some((mut stage, second)) = start() else { return };
    let whole = stage.status();
    for name in ["host_lost", "site_lost"] {
        assert_eq!(scope(&whole, name)["rpo_seconds"], 0.0, "{whole:#}");
    }
    assert_eq!(scope(&whole, "site_lost")["repository"], "second");
    assert_eq!((&whole["copies"]["backup_held"], &whole["copies"]["log_held"]), (&2.into(), &2.into()));
    assert_eq!(scope(&whole, "credentials_stolen")["verdict"], Value::Null, "nothing is declared as locked");

    // From here on only the site's own repository gets the log.
    let host = stage.host();
    stage.archive_by(host.server_command("archive_command", &["archive", "push", SOURCE, "%p", "--repository", "main"], ""));
    let first_lost = stage.commit();
    stage.scenario.archive_now();
    let earliest = stage.clock();
    let status = stage.status();
    assert_eq!(scope(&status, "host_lost")["rpo_seconds"], 0.0, "{status:#}");
    let site_lost = scope(&status, "site_lost");
    assert_eq!(site_lost["kind"], "exact");
    assert_near(&site_lost["rpo_seconds"], earliest.since(first_lost), stage.clock().since(first_lost), "site lost");
    // The log on the server itself goes, too; the names in the other repository still tell.
    stage.sql.execute("CHECKPOINT");
    stage.scenario.archive_now();
    stage.sql.execute("CHECKPOINT");
    let status = stage.status();
    assert_near(
        &scope(&status, "site_lost")["rpo_seconds"],
        earliest.since(first_lost),
        stage.clock().since(first_lost),
        "again",
    );

    fs::rename(second.path(), second.path().with_extension("away")).expect("own directory");
    let away = stage.status();
    assert_eq!(scope(&away, "host_lost")["rpo_seconds"], 0.0, "the one that is away hides nothing: {away:#}");
    assert_eq!(
        (&scope(&away, "site_lost")["kind"], &scope(&away, "site_lost")["verdict"]),
        (&"unknown".into(), &"at_risk".into())
    );
    assert!(has_reason(&away, "repository") && has_reason(&away, "copies"), "{away:#}");
    stage.gate().exits(11);
    stage.host().run(&["status", "--format", "nagios"]).exits(1);

    fs::rename(stage.scenario.repository.path(), second.path().with_extension("main")).expect("own directory");
    stage.host().run(&["status"]).refuses(20, &["no repository of orders answers", "main", "second"]);
    let nagios = stage.host().run(&["status", "--format", "nagios"]).exits(3);
    assert!(nagios.stdout.starts_with("LIFEBOAT UNKNOWN - orders"), "{nagios}");
    fs::rename(second.path().with_extension("main"), stage.scenario.repository.path()).expect("own directory");
    fs::rename(second.path().with_extension("away"), second.path()).expect("own directory");
}

#[test]
fn what_is_not_declared_is_not_assessed_and_what_is_declared_as_locked_must_be() {
    let Some(stage) = Stage::start("rpo = \"6s\"\nrto = \"30min\"\n[copies]\nlocked = [\"main\"]") else { return };
    let status = stage.status();
    assert_eq!(
        (&scope(&status, "site_lost")["kind"], &scope(&status, "site_lost")["verdict"]),
        (&"not_assessed".into(), &Value::Null)
    );
    let stolen = scope(&status, "credentials_stolen");
    assert_eq!((&stolen["kind"], &stolen["verdict"]), (&"infinite".into(), &"breach".into()), "{status:#}");
    assert!(has_reason(&status, "copies"), "{status:#}");

    // All on one site, said so: nothing would be left.
    add_keys(stage.host(), "site = \"cellar\"");
    let text = stage.host().configuration().replace("[repository.main]\n", "[repository.main]\nsite = \"cellar\"\n");
    stage.host().configure_text(&text);
    let status = stage.status();
    assert_eq!(
        (&scope(&status, "site_lost")["kind"], &scope(&status, "site_lost")["verdict"]),
        (&"infinite".into(), &"breach".into())
    );
}
