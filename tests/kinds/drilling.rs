//! The drill of a directory: the real restore, counted again by somebody who knows nothing of it, timed, on record, gone.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::dirs;
use crate::world::{APP, DOCS, World};

/// A world whose directory holds a little of everything, with one backup of it.
fn drillable(docs: &str) -> World {
    let world = World::new("", docs);
    let tree = world.host.dir().join("tree");
    fs::create_dir(tree.join("deep")).expect("own directory");
    fs::write(tree.join("deep/large"), vec![7; 700_000]).expect("own directory");
    fs::hard_link(tree.join("deep/large"), tree.join("again")).expect("own directory");
    symlink("/nowhere", tree.join("link")).expect("own directory");
    let sparse = fs::File::create(tree.join("sparse")).expect("own directory");
    sparse.set_len(3 << 20).expect("own file");
    dirs::give_tree(&tree);
    world.host.ok(&["backup", DOCS, "--type", "full", "--repository", "main"]);
    world
}

/// What is left of scratch directories.
fn scratch(world: &World) -> Vec<PathBuf> {
    let below = |path: &Path| fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path()).collect::<Vec<_>>();
    below(&world.host.state_dir().join("scratch")).into_iter().chain(below(&world.host.state_dir().join("drills"))).collect()
}

#[test]
fn a_directory_is_rehearsed_timed_and_counts_for_its_objectives() {
    let policy = "policy = \"own\"\n";
    let world = drillable(policy);
    let text = "[objectives]\nrto = '1h'\nrpo = '4h'\n[schedule]\nfull = '@hourly'\n[log]\nmode = 'none'\n[retention]\nkeep_for = '2d'\n\
                [copies]\nbackup = 1\n";
    world.policy("own", text);
    let report = world.host.json(&["drill", DOCS, "--repository", "main"]);
    let evidence = &report["evidence"];
    assert_eq!((&evidence["outcome"], &evidence["target"]), (&"passed".into(), &"latest".into()), "{report:#}");
    let checks = evidence["checks"].as_array().expect("a list");
    assert_eq!((checks.len(), &checks[0]["name"], &checks[0]["passed"]), (1, &"the restored tree".into(), &true.into()));
    assert!(checks[0]["detail"].as_str().expect("text").starts_with("6 entries"), "{report:#}");
    assert!(evidence["rto_seconds"].as_f64().expect("measured") > 0.0 && evidence["rpo_is_upper_bound"] == true, "{report:#}");
    assert_eq!(scratch(&world), Vec::<PathBuf>::new(), "nothing is left");
    let told = &world.host.json(&["status", DOCS, "--repository", "main"])["sources"][0];
    assert!(told["rto"]["predicted_seconds"].as_f64().expect("a prediction") > 0.0, "{told:#}");
    assert_eq!(told["verdict"], "ok", "{told:#}");
    let parts: Vec<&str> =
        told["rto"]["parts"].as_array().expect("a list").iter().filter_map(|part| part["part"].as_str()).collect();
    assert!(parts.contains(&"fetch") && !parts.contains(&"replay") && !parts.contains(&"start"), "{parts:?}");
    let verified = world.host.ok(&["verify", DOCS, "--repository", "main"]).stdout;
    assert!(verified.contains("nothing is damaged") && !verified.contains("log"), "it has none: {verified}");

    let shown = world.host.ok(&["drill", DOCS, "--repository", "main", "--to", "random"]).stdout;
    assert!(
        shown.contains("drill of docs, level component: passed") && shown.contains("moment") && shown.contains("seed"),
        "{shown}"
    );
    assert_eq!(scratch(&world), Vec::<PathBuf>::new());
    world
        .host
        .run(&["drill", DOCS, "--repository", "main", "--to", "2020-01-01 00:00Z"])
        .refuses(1, &["no backup had ended by then"]);
}

#[test]
fn what_is_kept_is_the_tree_and_is_removed_as_told() {
    let world = drillable("");
    let report = world.host.json(&["drill", DOCS, "--repository", "main", "--keep"]);
    let directory = PathBuf::from(report["kept"]["directory"].as_str().expect("text"));
    assert_eq!(fs::read(directory.join("data/deep/large")).expect("it was restored").len(), 700_000);
    assert!(report["kept"]["connect"].is_null(), "{report:#}");
    let remove = report["kept"]["remove"].as_str().expect("a command").to_owned();
    let removed = std::process::Command::new("sh").arg("-c").arg(&remove).status().expect("a shell");
    assert!(removed.success() && !directory.exists(), "{remove}");
}

#[test]
fn damage_fails_the_drill_and_goes_on_record() {
    let world = drillable("");
    let backups = world.main.path().join(DOCS).join("backup");
    let id = fs::read_dir(&backups).expect("a backup").flatten().next().expect("a backup").path();
    let pack = fs::read_dir(&id).expect("objects").flatten().map(|entry| entry.path());
    let pack = pack.into_iter().find(|path| path.display().to_string().contains("/pack-")).expect("a pack");
    let mut content = fs::read(&pack).expect("own object");
    let middle = content.len() / 2;
    content[middle] ^= 1;
    let _ = fs::remove_file(&pack);
    fs::write(&pack, content).expect("own object");
    dirs::give_tree(world.main.path());
    let failed = world.host.run(&["drill", DOCS, "--repository", "main", "--output", "json"]).exits(1);
    let report: Value = serde_json::from_str(&failed.stdout).unwrap_or_else(|error| panic!("{error}\n{failed}"));
    assert_eq!((&report["evidence"]["outcome"], &report["evidence"]["rto_seconds"]), (&"failed".into(), &Value::Null));
    assert!(
        !report["evidence"]["why"].as_array().expect("a list").is_empty() && report["evidence_key"].is_string(),
        "{report:#}"
    );
    assert_eq!(scratch(&world), Vec::<PathBuf>::new());
}

#[test]
fn what_a_killed_drill_left_is_removed_by_the_next() {
    let world = drillable("");
    world.host.run_killed_at("drill.restored", &["drill", DOCS, "--repository", "main"]).killed();
    assert!(!scratch(&world).is_empty());
    let next = world.host.ok(&["drill", DOCS, "--repository", "main"]);
    assert!(next.stderr.contains("which a drill of docs left when it was killed"), "{next}");
    assert_eq!(scratch(&world), Vec::<PathBuf>::new());
}

#[test]
fn a_database_is_restored_asked_and_timed() {
    let world = World::new("policy = \"own\"\n", "");
    let text = "[objectives]\nrto = '1h'\nrpo = '1h'\n[schedule]\nfull = '@hourly'\n[log]\nmode = 'none'\n[retention]\nkeep_for = '2d'\n\
                [copies]\nbackup = 1\n[[drill.check]]\nname = 'users'\nsql = 'SELECT count(*) FROM user'\nat_least = 1\n";
    world.policy("own", text);
    world.host.ok(&["backup", APP, "--type", "full", "--repository", "main"]);
    let report = world.host.json(&["drill", APP, "--repository", "main"]);
    let names: Vec<&str> =
        report["evidence"]["checks"].as_array().expect("a list").iter().filter_map(|check| check["name"].as_str()).collect();
    assert_eq!(
        (&report["evidence"]["outcome"], names.as_slice()),
        (&"passed".into(), &["integrity_check", "users"][..]),
        "{report:#}"
    );
    assert_eq!(scratch(&world), Vec::<PathBuf>::new());
    world.policy("own", &text.replace("at_least = 1", "at_least = 2"));
    world.host.run(&["drill", APP, "--repository", "main"]).exits(1);
}
