//! Diffs and incrs under `verify`, `list` and `restore`: what a chain lacks or what is wrong in it is named, and nothing is
//! restored from it.

use std::fs;
use std::path::Path;

use lifeboat::base::{Lsn, RelPath, Timestamp};
use lifeboat::codec::FrameDigest;
use lifeboat::repo::layout;
use lifeboat::repo::manifest::{Facts, FileKind, FileLine, SqliteFacts};
use lifeboat::repo::pack::FrameRef;
use serde_json::Value;

use super::chain::{Chain, DIFF, Draft, FULL, INCR, LAST, Line, OTHER, RELATION, SAME, Stored};
use super::fixture::{copy_tree, source};
use super::{DEEP, MISCHIEF, backups, damage};

/// The ids of backups that are not intact, in order.
fn useless(document: &Value) -> Vec<String> {
    backups(document).into_iter().filter(|(_, intact)| !intact).map(|(id, _)| id).collect()
}

/// Every damage found in the source.
fn findings(document: &Value) -> Vec<Value> {
    let all = document["repositories"][0]["sources"][0]["findings"].as_array().unwrap();
    all.iter().filter(|finding| finding["severity"] == "damage").cloned().collect()
}

/// The backups that a finding makes useless, in order.
fn affected(finding: &Value) -> Vec<String> {
    let others = finding["others"].as_array().unwrap().iter();
    let mut all: Vec<String> = others.chain([&finding["backup"]]).map(|id| id.as_str().unwrap().to_owned()).collect();
    all.sort();
    all
}

#[track_caller]
fn assert_restores(chain: &Chain) {
    let output = chain.restore_last();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for (path, content) in &chain.last {
        assert!(fs::read(chain.fixture.path("restored").join(path)).unwrap() == *content, "{path} differs");
    }
    assert!(chain.could_start());
}

/// Asserts that the last incr is refused and that nothing could start from what is left; gives what was said.
#[track_caller]
fn assert_refused(chain: &Chain, codes: &[i32], what: &str) -> String {
    let output = chain.restore_last();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(codes.contains(&output.status.code().unwrap()) && said.contains("error: "), "{what}: {:?} {said}", output.status);
    assert!(!chain.could_start(), "{what}: a server could start");
    said
}

#[test]
fn a_sound_chain_is_found_sound_and_restores() {
    let chain = Chain::sound();
    let (plain, deep) = (chain.fixture.json("verify", 0), chain.fixture.json(DEEP, 0));
    for document in [&plain, &deep] {
        assert_eq!((damage(document), useless(document)), (vec![], vec![]));
        assert_eq!(backups(document).len(), 4);
    }
    let counted = |document: &Value, what: &str| document["repositories"][0]["sources"][0][what].as_u64().unwrap();
    for what in ["checked_objects", "checked_bytes"] {
        assert_eq!(counted(&plain, what), counted(&deep, what), "{what}: a deep run fetches every object once as well");
    }
    assert_restores(&chain);
    let scratch = chain.fixture.path("state");
    let left = fs::read_dir(scratch).unwrap().map(|entry| entry.unwrap().path().join("scratch"));
    for dir in left.filter(|dir| dir.is_dir()) {
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 0, "{} is not cleared", dir.display());
    }
}

/// The objects that hold the backup with this index, by what they are.
fn objects(chain: &Chain, index: usize) -> Vec<(&'static str, String)> {
    let (source, id) = (source(), &chain.ids[index]);
    vec![
        ("commit entry", layout::commit(&source, index as u32 + 1)),
        ("key", layout::backup_key(&source, id, 1)),
        ("pack", layout::pack(&source, id, 1, ".age")),
        ("other pack", layout::pack(&source, id, 2, ".age")),
        ("list of packs", layout::packs_list(&source, id)),
        ("manifest", chain.manifest(index)),
    ]
}

#[test]
fn whatever_is_damaged_in_a_chain_spoils_what_builds_on_it_and_nothing_else() {
    let chain = Chain::sound();
    for index in [FULL, INCR, LAST, DIFF] {
        for (what, key) in objects(&chain, index) {
            let file = chain.fixture.object(&key);
            let whole = fs::read(&file).unwrap();
            for (how, mischief) in MISCHIEF {
                mischief(&file);
                let told = format!("{what} of backup {index} {how}");
                // The diff's own control file lies in its other pack, the full's is not restored: whatever is needed is refused.
                let needed = index != DIFF && !(what == "other pack" && index == INCR);
                if needed {
                    assert_refused(&chain, &[1, 22], &told);
                } else {
                    assert_restores(&chain);
                }
                assert_named(&chain, index, (what, how), &key);
                fs::write(&file, &whole).unwrap();
            }
        }
    }
    assert_eq!(damage(&chain.fixture.json(DEEP, 0)), []);
    assert_restores(&chain);
}

/// Asserts that `verify` names the object `key` of the backup with this index, and every backup that is useless without it.
#[track_caller]
fn assert_named(chain: &Chain, index: usize, (what, how): (&str, &str), key: &str) {
    // Inside a wrapped key only an identity sees.
    let lines = if (what, how) == ("key", "flipped") { &[DEEP][..] } else { &["verify", DEEP] };
    for line in lines {
        let document = chain.fixture.json(line, 22);
        let told = format!("{line}: {what} of backup {index} {how}");
        let found = findings(&document);
        let expected = chain.named(Chain::useless_without(index));
        if what == "commit entry" {
            // It is not listed any more itself.
            let others: Vec<String> = expected.into_iter().filter(|id| *id != chain.ids[index].to_string()).collect();
            assert_eq!(useless(&document), others, "{told}");
            let needs = |finding: &&Value| finding["what"].as_str().unwrap().contains("which is gone");
            let mut broken: Vec<String> = found.iter().filter(needs).flat_map(affected).collect();
            broken.sort();
            assert_eq!(broken, others, "{told}");
            let gone = found.iter().any(|finding| finding["key"] == key);
            assert!(gone, "{told}: {found:?}");
        } else {
            assert_eq!(useless(&document), expected, "{told}");
            assert_eq!(found.len(), 1, "{told}: {found:?}");
            assert_eq!((&found[0]["key"], affected(&found[0])), (&key.into(), expected), "{told}");
        }
    }
}

#[test]
fn text_tells_what_builds_on_a_damaged_backup() {
    let chain = Chain::sound();
    fs::remove_file(chain.fixture.object(&chain.manifest(INCR))).unwrap();
    let text = String::from_utf8(chain.fixture.run("verify").stdout).unwrap();
    assert!(text.contains(&format!("backup {} is useless without it", chain.ids[INCR])), "{text}");
    assert!(text.contains(&format!("and so is {}\n", chain.ids[LAST])), "{text}");
    assert!(text.contains("1 OBJECT IS DAMAGED"), "{text}");
}

/// A change of one backup that its host signs.
type Lie = fn(&mut Draft, &Stored);

/// Lies in the last incr's manifest.
const LIES: [(&str, Lie); 15] = [
    ("a frame of the full, one byte further", |draft, _| draft.entry(RELATION).frames[0].offset += 1),
    ("a frame of the full, as a longer one", |draft, _| draft.entry(RELATION).frames[1].stored_len += 1),
    ("a frame of the full, with another digest", |draft, _| draft.entry(RELATION).frames[1].digest = FrameDigest::of(b"lie")),
    ("a frame of the full in a pack that is not there", |draft, _| draft.entry(RELATION).frames[0].pack = 9),
    ("another file's frame", |draft, stored| {
        let frame = FrameRef { owner: 2, ..stored[&(FULL, OTHER)] };
        let at = draft.at(SAME);
        let path = RelPath::new(SAME).unwrap();
        let entry = FileLine { path, kind: FileKind::File, size_bytes: frame.raw_len.into(), ..draft.entry(RELATION).clone() };
        draft.lines[at] = Line::Entry(FileLine { frames: vec![frame], patches: vec![], states: vec![], ..entry });
    }),
    ("a frame of the full as the incr's", |draft, _| draft.entry(RELATION).frames.iter_mut().for_each(|frame| frame.owner = 1)),
    ("a patch at another page", |draft, _| draft.entry(RELATION).patches[0].runs[0].0 = 2),
    ("a patch with another's place", |draft, _| draft.entry(RELATION).patches[0].frame.offset += 7),
    ("a patch that the full never had", |draft, _| {
        draft.entry(RELATION).patches[0].frame.owner = 2;
    }),
    ("a reference to a reference", |draft, _| {
        let at = draft.at(SAME);
        draft.lines[at] = Line::Ref(RelPath::new(SAME).unwrap(), 1);
    }),
    ("a reference to nothing", |draft, _| {
        let at = draft.at(SAME);
        draft.lines[at] = Line::Ref(RelPath::new("base/1/350").unwrap(), 2);
    }),
    ("owners in another order", |draft, _| draft.header.owners.swap(1, 2)),
    ("an owner twice", |draft, _| draft.header.owners.push(draft.header.owners[1].clone())),
    ("another kind of source", |draft, _| {
        let (path, moment) = ("/var/lib/orders.db".to_owned(), Timestamp::now());
        let position = serde_json::Value::Null;
        let facts = SqliteFacts { path, page_bytes: 4096, complete_at: moment, captured_at: moment, position };
        draft.header.facts = Facts::Sqlite(facts);
    }),
    ("a stranger's name", |draft, _| draft.header.backup = draft.header.owners[2].clone()),
];

#[test]
fn lies_in_a_manifest_are_found_by_a_deep_run_and_not_restored() {
    for (what, lie) in LIES {
        let chain = Chain::with_lies(|index, draft, stored| {
            if index == LAST {
                lie(draft, stored);
            }
        });
        assert_eq!(damage(&chain.fixture.json("verify", 0)), [], "{what}");
        let document = chain.fixture.json(DEEP, 22);
        let found = damage(&document);
        assert_eq!(found.len(), 1, "{what}: {found:?}");
        assert_eq!((&found[0].0, useless(&document)), (&chain.manifest(LAST), chain.named(&[LAST])), "{what}: {found:?}");
        assert_refused(&chain, &[22], what);
        assert!(!chain.fixture.path("restored").exists(), "{what}: refused before anything is touched");
    }
}

#[test]
fn totals_are_those_of_the_whole_tree() {
    let lies: [(&str, Lie); 3] = [
        ("entries", |draft, _| draft.summary.entries += 1),
        ("bytes", |draft, _| draft.summary.raw_bytes -= 1),
        ("bad pages", |draft, _| draft.summary.bad_pages = 1),
    ];
    for (what, lie) in lies {
        let chain = Chain::with_lies(|index, draft, stored| {
            if index == LAST {
                lie(draft, stored);
            }
        });
        let found = damage(&chain.fixture.json(DEEP, 22));
        assert!(found.len() == 1 && found[0].0 == chain.manifest(LAST), "{what}: {found:?}");
        assert!(found[0].1.contains(what) && found[0].1.contains("where the commit entry says"), "{what}: {found:?}");
    }
}

#[test]
fn a_lie_in_a_base_spoils_what_builds_on_it() {
    let lies: [(&str, usize, Lie); 4] = [
        ("another owner", INCR, |draft, _| draft.header.owners.insert(1, draft.header.backup.clone())),
        ("a frame of nobody", INCR, |draft, _| draft.entry(RELATION).frames[0].offset += 1),
        ("an own frame in a pack that is not there", FULL, |draft, _| draft.entry(SAME).frames[0].pack = 9),
        ("an own frame that is not there", FULL, |draft, _| draft.entry(SAME).frames[0].offset += 1),
    ];
    for (what, at, lie) in lies {
        let chain = Chain::with_lies(|index, draft, stored| {
            if index == at {
                lie(draft, stored);
            }
        });
        let document = chain.fixture.json(DEEP, 22);
        assert_eq!(useless(&document), chain.named(Chain::useless_without(at)), "{what}: {:?}", findings(&document));
        let found = findings(&document);
        assert_eq!(found.len(), 1, "{what}: {found:?}");
        assert_eq!(affected(&found[0]), chain.named(Chain::useless_without(at)), "{what}: {found:?}");
        // What the incr says of the full is of no use to the last one, which says it again.
        if what != "a frame of nobody" {
            assert_refused(&chain, &[22], what);
        }
    }
}

#[test]
fn unsound_chains_are_named_without_a_key() {
    let lies: [(&str, Lie); 4] = [
        ("before its base", |draft, _| draft.summary.start_lsn = Lsn(0)),
        ("of another cluster", |draft, _| draft.summary.incarnation = "pg15-7".parse().unwrap()),
        ("names no base", |draft, _| draft.summary.base = None),
        ("committed before its base", |draft, _| draft.summary.base = Some(draft.header.backup.clone())),
    ];
    for (what, lie) in lies {
        let chain = Chain::with_lies(|index, draft, stored| {
            if index == LAST {
                lie(draft, stored);
            }
        });
        let document = chain.fixture.json("verify", 22);
        let key = layout::commit(&source(), LAST as u32 + 1);
        let found = damage(&document);
        assert!(found.iter().any(|(found, told)| *found == key && told.contains(what)), "{what}: {found:?}");
        assert_eq!(useless(&document), chain.named(&[LAST]), "{what}");
        assert_refused(&chain, &[1, 22], what);
    }
}

/// Removes the commit entry and the directory of a backup.
fn remove(chain: &Chain, index: usize) {
    fs::remove_file(chain.fixture.object(&layout::commit(&source(), index as u32 + 1))).unwrap();
    fs::remove_dir_all(chain.fixture.object(&layout::backup(&source(), &chain.ids[index]))).unwrap();
}

/// The ids that `list` offers, in order, and what it says is not used.
fn listed(chain: &Chain) -> (Vec<String>, Vec<String>) {
    let document = chain.fixture.json("list orders", 0);
    let listed = &document["repositories"][0]["sources"][0];
    let backups = listed["incarnations"][0]["backups"].as_array().unwrap().iter();
    let mut ids: Vec<String> = backups.map(|backup| backup["id"].as_str().unwrap().to_owned()).collect();
    ids.sort();
    let problems = listed["problems"].as_array().unwrap().iter().map(|problem| problem.as_str().unwrap().to_owned());
    (ids, problems.collect())
}

#[test]
fn a_backup_whose_base_is_gone_is_not_offered_and_it_is_said_why() {
    let chain = Chain::sound();
    assert_eq!(listed(&chain), (chain.named(&[FULL, INCR, LAST, DIFF]), vec![]));
    let sound = chain.fixture.path("sound");
    copy_tree(&chain.fixture.path("repo"), &sound);
    remove(&chain, INCR);
    let gone = format!("it needs {}, which is gone", chain.ids[INCR]);
    let (offered, problems) = listed(&chain);
    assert_eq!(offered, chain.named(&[FULL, DIFF]));
    assert!(problems.iter().any(|problem| *problem == format!("{}: {gone}", chain.ids[LAST])), "{problems:?}");
    let dry = "restore orders --into dry --to-immediate --dry-run";
    let plan = chain.fixture.json(dry, 0);
    assert_eq!((&plan["backup"], &plan["chain"][1]), (&chain.ids[DIFF].as_str().into(), &chain.ids[FULL].as_str().into()));
    let note = format!("{} is not used: {gone}", chain.ids[LAST]);
    assert!(plan["notes"].as_array().unwrap().iter().any(|found| *found == note), "{plan:#}");
    let asked = chain.fixture.run(&format!("{dry} --backup {}", chain.ids[LAST]));
    let said = String::from_utf8_lossy(&asked.stderr);
    assert!(asked.status.code() == Some(1) && said.contains(&gone) && said.contains("hint: lifeboat list orders"), "{said}");

    replace(&chain.fixture.path("repo"), &sound);
    remove(&chain, FULL);
    let (offered, problems) = listed(&chain);
    assert_eq!(offered, Vec::<String>::new());
    assert_eq!(problems.iter().filter(|problem| problem.contains("which is gone")).count(), 3, "{problems:?}");
    let refused = chain.fixture.run(dry);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    for id in chain.named(&[INCR, LAST, DIFF]) {
        assert!(said.contains(&id) && said.contains(&format!("it needs {}, which is gone", chain.ids[FULL])), "{said}");
    }
    assert!(!chain.fixture.path("dry").exists());
    let document = chain.fixture.json("verify", 22);
    assert_eq!(useless(&document), chain.named(&[INCR, LAST, DIFF]));
}

fn replace(repository: &Path, by: &Path) {
    fs::remove_dir_all(repository).unwrap();
    copy_tree(by, repository);
}
