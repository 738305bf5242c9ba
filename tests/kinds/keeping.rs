//! Chains of these kinds are counted, kept, let go, copied and verified as clusters' are, and the log of a database with them.

use serde_json::Value;

use crate::world::{APP, DOCS, HOUR, World};

/// `expire` of a source in `main` with the operator's key.
fn expire(world: &World, source: &str) -> Value {
    let key = world.host.dir().join("keys/operator.key");
    let words = ["expire", source, "--repository", "main", "--grace", "0s", "--key", key.to_str().expect("plain")];
    world.host.json(&words)["repositories"][0].clone()
}

/// Ids of the backups that a repository holds.
fn held(world: &World, source: &str, repository: &str) -> Vec<String> {
    let document = world.host.json(&["list", source, "--repository", repository]);
    let incarnations = document["repositories"][0]["sources"][0]["incarnations"].as_array().expect("a list").clone();
    let backups = incarnations.iter().flat_map(|incarnation| incarnation["backups"].as_array().expect("a list").clone());
    backups.map(|backup| backup["id"].as_str().expect("text").to_owned()).collect()
}

/// What verification finds fault with, as `key: what`.
fn faults(world: &World, arguments: &[&str], exit: i32) -> Vec<String> {
    let output = world.host.run(&[&["verify", "--output", "json"][..], arguments].concat()).exits(exit);
    let document: Value = serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}\n{output}"));
    let sources = document["repositories"][0]["sources"].as_array().expect("a list").clone();
    let findings = sources.iter().flat_map(|source| source["findings"].as_array().expect("a list").clone());
    findings.map(|finding| format!("{}: {}", finding["key"], finding["what"])).collect()
}

const OBJECTIVES: &str = "[objectives]\nrto = '1h'\nrpo = '1d'\n";

#[test]
fn what_a_directory_keeps_is_counted_by_chains() {
    let mut world = World::new("", "policy = \"own\"\n");
    let all = world.years_of_docs();
    let none = "[log]\nmode = 'none'\n[schedule]\nfull = '@daily'\n[retention]\nkeep_for = '5d'\nkeep_chains = 0\n";
    world.policy("own", &format!("{OBJECTIVES}{none}"));
    let marked = expire(&world, DOCS);
    assert_eq!(marked["marked"]["backups"].as_array().map(Vec::len), Some(3), "{marked:#}");
    assert_eq!(held(&world, DOCS, "main").len(), 6, "a run deletes nothing of what it marks");
    let done = expire(&world, DOCS);
    let kept: Vec<String> = all[3..].iter().map(|backup| backup.id.to_string()).collect();
    assert_eq!(held(&world, DOCS, "main"), kept, "{done:#}");
    assert_eq!(faults(&world, &[DOCS, "--repository", "main"], 0), [""; 0]);
    let text = world.host.ok(&["expire", DOCS, "--repository", "main", "--explain"]).stdout;
    assert!(text.contains("younger than 5 d") || text.contains("5 d"), "{text}");
}

#[test]
fn the_log_of_a_database_goes_with_the_backups_that_need_it_and_no_further() {
    let mut world = World::new("policy = \"own\"\n", "");
    let [alone, full, after, incr] = world.years_of_app();
    let window = "[log]\nmode = 'stream'\n[schedule]\nfull = '@daily'\n[retention]\nwindow = '36h'\nkeep_chains = 0\n";
    world.policy("own", &format!("{OBJECTIVES}{window}"));
    assert_eq!(world.log_in(&world.main), [2, 3, 4, 6, 7]);
    let marked = expire(&world, APP);
    let gone = serde_json::json!([alone.id, full.id]);
    assert_eq!(marked["marked"]["backups"], gone, "{marked:#}");
    assert_eq!(world.log_in(&world.main), [2, 3, 4, 6, 7]);
    let done = expire(&world, APP);
    assert_eq!(done["carried_out"]["logs"][0]["needed_by"], after.id.as_str(), "{done:#}");
    assert_eq!(world.log_in(&world.main), [6, 7]);
    assert_eq!(held(&world, APP, "main"), [after.id.to_string(), incr.id.to_string()]);
    assert_eq!(faults(&world, &[APP, "--repository", "main"], 0), [""; 0], "what was let go is no damage");
    let again = expire(&world, APP);
    assert_eq!((&again["carried_out"]["tombstone"], world.log_in(&world.main)), (&Value::Null, vec![6, 7]));
}

#[test]
fn thinned_log_leaves_each_backup_its_own_moment() {
    let mut world = World::new("policy = \"own\"\n", "");
    let [alone, full, ..] = world.years_of_app();
    let thin = "[log]\nmode = 'stream'\n[schedule]\nfull = '@daily'\n[retention]\nwindow = '36h'\nkeep_for = '30d'\n\
                thin_log = true\n";
    world.policy("own", &format!("{OBJECTIVES}{thin}"));
    expire(&world, APP);
    let done = expire(&world, APP);
    assert_eq!(held(&world, APP, "main").len(), 4, "{done:#}");
    assert_eq!(world.log_in(&world.main), [6, 7], "what lies between old backups is not wanted any more: {done:#}");
    let listed = world.host.ok(&["list", APP, "--repository", "main"]).stdout;
    for backup in [&alone, &full] {
        assert!(listed.contains(&format!("    {}\n", backup.stop_time.human())), "{listed}");
    }
    assert_eq!(faults(&world, &[APP, "--repository", "main"], 0), [""; 0]);
}

#[test]
fn another_repository_gets_backups_and_log_and_is_verified_there() {
    let mut world = World::new("", "");
    world.years_of_app();
    let docs = world.years_of_docs();
    world.host.ok(&["copy", "--from", "main", "--to", "far"]);
    for source in [APP, DOCS] {
        assert_eq!(held(&world, source, "far"), held(&world, source, "main"), "{source}");
        assert_eq!(faults(&world, &[source, "--repository", "far"], 0), [""; 0], "{source}");
    }
    assert_eq!(world.log_in(&world.far), [2, 3, 4, 6, 7]);
    // Later only what is new.
    world.backup(DOCS, HOUR, Some(&docs[5]), 0);
    let again = world.host.json(&["copy", "--from", "main", "--to", "far"]);
    let copied = again.to_string().matches("\"copied\"").count();
    assert_eq!((copied, held(&world, DOCS, "far").len()), (1, 7), "{again:#}");
    // With the newest backup and log in both, nothing is lacking.
    let report = &world.host.json(&["status", APP])["sources"][0]["copies"];
    assert_eq!((&report["backup_held"], &report["log_held"]), (&2.into(), &2.into()), "{report}");
}

#[test]
fn a_deep_verification_follows_the_chain_of_a_databases_log() {
    let mut world = World::new("", "");
    world.years_of_app();
    let of_log = |world: &World| -> Vec<String> {
        let found = faults(world, &[APP, "--repository", "main", "--deep"], 22);
        // The manifests of a fabricated world are none.
        found.into_iter().filter(|fault| fault.contains("/log/")).collect()
    };
    assert_eq!(of_log(&world), [""; 0], "a number that is left out begins a new chain");
    world.segment(8, (3 * HOUR, 2 * HOUR), 1);
    let found = of_log(&world);
    assert!(found.len() == 1 && found[0].contains("goes on from"), "{found:?}");
}
