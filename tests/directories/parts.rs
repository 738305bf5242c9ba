//! Parts of a backup: paths, globs, and hard links of which only one name is wanted.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::oracle::{assert_same, snapshot};
use crate::stage::{SOURCE, Stage};

fn paths(dir: &Path) -> BTreeSet<String> {
    snapshot(dir).keys().map(|path| path.display().to_string()).filter(|path| !path.is_empty()).collect()
}

#[test]
fn paths_and_globs_bring_back_what_they_name_and_nothing_else() {
    let stage = Stage::as_root("");
    for path in ["docs/a.txt", "docs/b.jpg", "docs-old/a.txt", "photos/2026/1.jpg", "photos/2026/2.png", "x"] {
        stage.write(path, path.as_bytes());
    }
    stage.backup("full");
    stage.write("docs/new.txt", b"new");
    stage.backup("incr");
    let part = |name: &str, patterns: &[&str]| {
        let arguments: Vec<&str> = patterns.iter().flat_map(|pattern| ["--path", pattern]).collect();
        paths(&stage.restore(name, &arguments))
    };
    let set = |paths: &[&str]| paths.iter().map(|path| (*path).to_owned()).collect::<BTreeSet<String>>();
    assert_eq!(part("docs", &["docs"]), set(&["docs", "docs/a.txt", "docs/b.jpg", "docs/new.txt"]));
    assert_eq!(part("jpg", &["**/*.jpg", "x"]), set(&["docs", "docs/b.jpg", "photos", "photos/2026", "photos/2026/1.jpg", "x"]));
    // Directories on the way look as they did.
    let modified = |dir: &Path| dir.join("photos/2026").metadata().map(|found| (found.mtime(), found.mtime_nsec(), found.mode()));
    assert_eq!(modified(&stage.restored.join("jpg")).unwrap(), modified(&stage.tree).unwrap());

    let into = stage.restored.join("misspelt").display().to_string();
    let output = stage.run(&stage.rescue, &["restore", SOURCE, "--into", &into, "--path", "docs", "--path", "phtoos"]);
    output.refuses(1, &["phtoos", "lifeboat ls"]);
    assert!(!Path::new(&into).exists(), "nothing was touched");
}

/// What looks like a pattern may be a name.
#[test]
fn a_file_comes_back_by_its_name_whatever_the_name_looks_like() {
    let stage = Stage::as_root("");
    for path in ["r[1].txt", "r1.txt", "r2.txt", "what?/is{this}"] {
        stage.write(path, path.as_bytes());
    }
    stage.backup("full");
    let set = |paths: &[&str]| paths.iter().map(|path| (*path).to_owned()).collect::<BTreeSet<String>>();
    let into = stage.restore("named", &["--path", "r[1].txt", "--path", "what?"]);
    assert_eq!(paths(&into), set(&["r1.txt", "r[1].txt", "what?", "what?/is{this}"]));
    assert_eq!(std::fs::read(into.join("r[1].txt")).expect("restored"), b"r[1].txt");
    assert_eq!(paths(&stage.restore("exactly", &["--path", "./r[1].txt"])), set(&["r[1].txt"]));
}

#[test]
fn one_name_of_a_file_with_several_comes_with_its_content() {
    let stage = Stage::as_root("");
    stage.write("a/first", &[7; 300_000]);
    for name in ["b-second", "c-third"] {
        std::fs::hard_link(stage.tree.join("a/first"), stage.tree.join(name)).expect("own directory");
    }
    stage.backup("full");
    let into = stage.restore("later", &["--path", "b-second", "--path", "c-third"]);
    assert_eq!(paths(&into), ["b-second", "c-third"].map(str::to_owned).into());
    assert_eq!(std::fs::read(into.join("b-second")).expect("restored"), vec![7; 300_000]);
    let inode = |name: &str| into.join(name).metadata().expect("restored").ino();
    assert_eq!(inode("b-second"), inode("c-third"), "still one file");
    let all = stage.restore("all", &[]);
    assert_same(&snapshot(&stage.tree), &snapshot(&all), "all names");
}
