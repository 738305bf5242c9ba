//! Buckets that are not what they should be: the wrong one, somewhere else, without a permission, no bucket at all. Each
//! command tells what is denied and what to change, within 80 columns a line, and loses nothing.

use std::time::Duration;

use crate::support::lifeboat::Host;
use crate::support::postgres::{Installation, Options};
use crate::support::process::{self, Output};
use crate::support::scenario::{Place, SOURCE, Scenario};

/// What a policy can allow one by one, and what S3 calls it.
const PERMISSIONS: [(&str, &[&str]); 4] = [
    ("s3:ListBucket", &["ListObjectsV2", "HeadBucket"]),
    // One permission for both.
    ("s3:GetObject", &["GetObject", "HeadObject"]),
    ("s3:PutObject", &["PutObject"]),
    ("s3:DeleteObject", &["DeleteObject"]),
];

/// A cluster with the row 1, backed up twice and archived into a bucket, and an empty repository beside it.
fn one_row() -> Option<Scenario> {
    let installation = Installation::require(15)?;
    let scenario = Scenario::start_in(Place::Bucket, &installation, &Options { wal_segment_mib: 1, ..Options::default() });
    let second = scenario.repository.another("second");
    for host in [&scenario.protected, &scenario.rescue] {
        let text = host.configuration();
        let only = format!("[source.{SOURCE}]\nrepositories = [\"main\"]\n");
        host.configure_text(&format!("{}\n{}", text.replace(&format!("[source.{SOURCE}]\n"), &only), second.section("second")));
    }
    let keys = scenario.rescue.dir().join("keys-of-second").display().to_string();
    scenario.protected.ok(&["init", "--repository", "second", "--generate-keys", &keys]);
    scenario.cluster.sql().execute("CREATE TABLE rows AS SELECT 1 AS n");
    scenario.full_backup();
    scenario.full_backup();
    scenario.archive_now();
    Some(scenario)
}

#[test]
fn explore() {
    let Some(scenario) = one_row() else { return };
    let server = scenario.repository.server().expect("in a bucket");
    let segment = scenario.cluster.data.join("pg_wal").join(scenario.cluster.switch_wal()).display().to_string();
    let archived = scenario.repository.log_objects();
    let archived = archived.iter().filter_map(|key| key.rsplit('/').next()?.split('_').next()).find(|name| name.len() == 24);
    let archived = archived.expect("a segment").to_owned();
    let key = scenario.operator_key.display().to_string();
    let into = scenario.restored.join("x").display().to_string();
    let fetched = scenario.rescue.dir().join("fetched").display().to_string();
    let doomed = crate::support::listing::backups(&scenario.rescue).remove(0);
    scenario.rescue.ok(&["expire", SOURCE, "--key", &key, "--backup", &doomed, "--grace", "0s"]);
    scenario.cluster.configure(["archive_command = 'false'"]);
    let (protected, rescue) = (&scenario.protected, &scenario.rescue);
    let commands: Vec<(&Host, Vec<&str>)> = vec![
        (protected, vec!["backup", SOURCE, "--type", "full"]),
        (protected, vec!["archive", "push", SOURCE, &segment]),
        (rescue, vec!["archive", "get", SOURCE, &archived, &fetched]),
        (rescue, vec!["restore", SOURCE, "--into", &into]),
        (rescue, vec!["list"]),
        (protected, vec!["check", SOURCE]),
        (rescue, vec!["expire", SOURCE, "--key", &key]),
        (rescue, vec!["verify", SOURCE]),
        (protected, vec!["copy", "--from", "main", "--to", "second", SOURCE]),
    ];
    for (permission, operations) in PERMISSIONS {
        operations.iter().for_each(|operation| server.refuse(operation, "", "AccessDenied"));
        for (host, command) in &commands {
            let output = host.run(command);
            println!("##### {permission} {}\n{output}", command.join(" "));
            let _ = std::fs::remove_dir_all(&into);
            let _ = std::fs::remove_file(&fetched);
        }
        server.relent();
    }
}
