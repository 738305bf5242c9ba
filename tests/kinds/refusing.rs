//! What a kind cannot have is refused in so many words, and schedules hold what it can.

use crate::world::{APP, DOCS, HOUR, World};

#[test]
fn verbs_of_clusters_say_what_the_source_is() {
    let world = World::new("", "");
    for (source, is) in [(APP, "app is a SQLite database"), (DOCS, "docs is a directory")] {
        let refused = |arguments: &[&str], exit: i32| world.host.run(arguments).refuses(exit, &[is, "PostgreSQL clusters"]);
        refused(&["archive", "push", source, "pg_wal/000000010000000000000001"], 2);
        refused(&["archive", "get", source, "000000010000000000000001", "here"], 255);
        refused(&["promote", source], 2);
        for arguments in [&["--level", "failover"][..], &["--self-test"]] {
            let refused = world.host.run(&[&["drill", source][..], arguments].concat());
            refused.refuses(2, &[is.split_once(" is ").expect("a sentence").1, "--level component"]);
        }
    }
}

#[test]
fn a_policy_that_asks_for_what_the_kind_cannot_have_is_refused_with_the_way_out() {
    let world = World::new("policy = \"own\"\n", "policy = \"own\"\n");
    let policy = "[objectives]\nrto = '1h'\nrpo = '1d'\n[schedule]\nfull = '@daily'\ndrill = '@weekly'\n";
    world.policy("own", &format!("{policy}[backup]\naudit = '1d'\n"));
    let refused = world.host.run(&["policy", "check"]).exits(2);
    for line in [
        "own (policies/own.toml), source app",
        "app is a SQLite database: no server hands over segments; its commits can be followed",
        "mode segments; say mode = \"stream\", or \"none\"",
        "docs is a directory: it has no log, only the moments of its backups",
        "mode segments; say mode = \"none\"",
        "[backup] is for PostgreSQL clusters; leave it out",
    ] {
        let line = line.replace("policies/own.toml", &world.host.dir().join("policies/own.toml").display().to_string());
        assert!(refused.stdout.contains(&line), "{line} is not in\n{refused}");
    }
    for source in [APP, DOCS] {
        world.host.run(&["backup", source]).exits(2);
        let checked = world.host.run(&["check", source, "--repository", "main"]).exits(1);
        assert!(checked.stdout.contains("log.mode"), "{checked}");
    }
    world.host.run(&["run", "--list"]).refuses(2, &["log.mode"]);
    world.policy("own", &format!("{policy}[log]\nmode = 'none'\n"));
    world.host.ok(&["policy", "check"]);
}

#[test]
fn ready_policies_are_scheduled_as_they_are() {
    let mut world = World::new("policy = \"app-database\"\n", "policy = \"shared-files\"\n");
    world.backup(DOCS, HOUR, None, 0);
    world.backup(APP, HOUR, None, 1);
    world.host.ok(&["policy", "check"]);
    let listed = world.host.ok(&["run", "--list"]).stdout;
    assert!(listed.contains("the log of app is not streamed by this host now\n") && !listed.contains("slot"), "{listed}");
    let crontab = world.host.ok(&["schedule", "print", "--format", "crontab"]).stdout;
    for line in ["backup docs --type full", "drill docs --level component", "backup app --type auto", "drill app --level verify"]
    {
        assert!(crontab.contains(line), "{line} is not in\n{crontab}");
    }
    for source in [APP, DOCS] {
        let drill = world.host.run(&["drill", source, "--level", "verify", "--repository", "main"]).success();
        assert!(drill.stdout.contains("1 backups"), "{drill}");
        let told = world.host.json(&["status", source, "--repository", "main"]);
        let drills = &told["sources"][0]["drills"];
        assert_eq!((&drills["last"]["level"], &drills["last_passed"]), (&"verify".into(), &serde_json::Value::Null));
    }
    assert!(world.host.ok(&["queue"]).stdout.contains("docs") || world.host.ok(&["queue"]).stdout.contains("nothing"));
}
