//! `ls` and `diff`.

use std::os::unix::fs::{PermissionsExt, symlink};

use crate::stage::{SOURCE, Stage, id};

#[test]
fn backups_are_listed_and_compared_without_being_restored() {
    let stage = Stage::as_root("");
    stage.write("docs/a.txt", b"a");
    stage.write("docs/gone.txt", b"gone");
    stage.write("docs/deep/b.txt", b"bb");
    stage.write("odd\nname", b"odd");
    symlink("docs/a.txt", stage.tree.join("link")).expect("own directory");
    let first = id(&stage.backup("full"));
    std::fs::remove_file(stage.tree.join("docs/gone.txt")).expect("own file");
    stage.write("docs/new.txt", b"new");
    stage.write("docs/a.txt", b"A");
    std::fs::set_permissions(stage.tree.join("docs/deep/b.txt"), PermissionsExt::from_mode(0o600)).expect("own file");
    std::fs::remove_file(stage.tree.join("link")).expect("own link");
    symlink("elsewhere", stage.tree.join("link")).expect("own directory");
    let second = id(&stage.backup("incr"));

    let text = |arguments: &[&str]| stage.run(&stage.rescue, arguments).success().stdout;
    assert_eq!(text(&["ls", SOURCE]), "docs/\nlink -> elsewhere\nodd\\nname\n");
    assert_eq!(text(&["ls", SOURCE, "docs", "--backup", &first]), "docs/a.txt\ndocs/deep/\ndocs/gone.txt\n");
    assert_eq!(text(&["ls", SOURCE, "docs/", "--recursive"]), "docs/a.txt\ndocs/deep/\ndocs/deep/b.txt\ndocs/new.txt\n");
    let long = text(&["ls", SOURCE, "docs/deep", "--long"]);
    assert!(long.starts_with("-rw-------") && long.ends_with("UTC  docs/deep/b.txt\n"), "{long}");
    stage.run(&stage.rescue, &["ls", SOURCE, "docs/nothing"]).refuses(1, &["docs/nothing", &second]);
    stage.run(&stage.rescue, &["ls", SOURCE, "--to", "2001-01-01"]).refuses(1, &["no backup of docs had ended by"]);
    let listed = stage.json(&stage.rescue, &["ls", SOURCE, "docs/deep"]);
    assert_eq!((&listed["lifeboat"]["document"], &listed["backup"]), (&"ls".into(), &second.as_str().into()));
    let entry = &listed["entries"][0];
    assert_eq!((&entry["path"], &entry["mode"], &entry["size_bytes"]), (&"docs/deep/b.txt".into(), &"0600".into(), &2.into()));

    assert_eq!(
        text(&["diff", SOURCE, &first, "latest"]),
        "M docs/a.txt  (content, modified)\nM docs/deep/b.txt  (mode)\n- docs/gone.txt\n+ docs/new.txt\nM link  (target, modified)\n"
    );
    assert_eq!(text(&["diff", SOURCE, &second, "latest"]), "");
    let differing = stage.json(&stage.rescue, &["diff", SOURCE, &second, &first]);
    let changes: Vec<&str> =
        differing["differences"].as_array().unwrap().iter().map(|one| one["change"].as_str().unwrap()).collect();
    assert_eq!(changes, ["changed", "changed", "added", "removed", "changed"]);
    // Without the identity nothing is told, and why.
    let refused = stage.run(&stage.protected, &["ls", SOURCE]);
    assert!(refused.code == Some(1) || refused.code == Some(2), "{refused}");
    assert!(refused.stderr.contains("identity"), "{refused}");
}
