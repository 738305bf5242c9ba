//! What an incremental finds when its base, its memory or its clocks were tampered with: it takes a full and says why, or
//! refuses; it is never wrong.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::compare::relation_files;
use super::expect::{REAL_INCREMENTALS, assert_full_and_why, assert_type};
use super::facts;
use super::judge::{Pair, settle};
use super::rows;
use super::stage::{Stage, Target};
use super::support::lifeboat::Host;
use super::support::postgres::{Installation, Options};
use super::support::process::Output;
use super::support::{dirs, listing, random};

/// A stage of 15 with two tables.
fn stage() -> Option<Stage> {
    let stage = Stage::start(&Installation::require(15)?, &Options::default());
    for (table, rows) in [("first", 3000), ("second", 1000)] {
        let create = format!("CREATE TABLE {table} ({}) WITH (fillfactor = 60)", rows::COLUMNS);
        let insert = rows::insert(&mut random::generator(1, u64::from(rows)), table, rows);
        stage.run(&[&create, &insert, &format!("CREATE INDEX ON {table} (k)"), &format!("VACUUM {table}")]);
    }
    Some(stage)
}

fn touch(stage: &Stage, modulus: u32) {
    stage.run(&[&format!("UPDATE first SET v = md5(v || 'touched') WHERE id % {modulus} = 0")]);
}

/// A refusal says what is wrong and what to do; a panic is none.
#[track_caller]
fn assert_refusal(what: &str, output: &Output) {
    assert!(output.code.is_some_and(|code| code != 101), "{what}: {output}");
    let said: Value = serde_json::from_str(&output.stderr).unwrap_or_else(|error| panic!("{what}: {error}\n{output}"));
    let hints = said["error"]["hints"].as_array().expect("hints");
    assert!(said["error"]["message"].as_str().is_some_and(|message| message.len() > 20) && !hints.is_empty(), "{what}: {output}");
    println!("{what}: refused: {}", output.stderr);
}

/// Asks for an incremental where none can be had from what there is: a full with a reason, which is returned with its
/// twin, or a refusal with a hint.
#[track_caller]
fn full_or_refusal(stage: &Stage, what: &str) -> Option<Pair> {
    match Pair::attempt(stage, "incr") {
        Ok(pair) => {
            println!("{what}: {} because {:?}", pair.ours.kind, pair.ours.reason);
            assert_full_and_why(&pair.ours);
            Some(pair)
        }
        Err(output) => {
            assert_refusal(what, &output);
            None
        }
    }
}

/// The repository's objects that belong to the backup `id`: its folder and its entry in the commit log.
fn objects_of(repository: &Path, id: &str) -> Vec<PathBuf> {
    let names = |path: &PathBuf| {
        let text = path.to_string_lossy();
        text.contains(&format!("/backup/{id}/"))
            || (text.contains("/commit/")
                && fs::read_to_string(path).is_ok_and(|entry| entry.contains(&format!("\"id\":\"{id}\""))))
    };
    let found: Vec<PathBuf> = listing::files(repository).into_iter().filter(names).collect();
    assert!(found.iter().any(|path| path.to_string_lossy().contains("/commit/")) && found.len() > 2, "{id}: {found:?}");
    found
}

#[test]
fn the_base_is_gone() {
    let Some(stage) = stage() else { return };
    let base = Pair::quiet(&stage, "full");
    touch(&stage, 5);
    let gone = Pair::quiet(&stage, "incr");
    for object in objects_of(stage.ours.repository.path(), &gone.ours.id) {
        fs::remove_file(object).expect("own repository");
    }
    touch(&stage, 7);
    let mut pairs = vec![base];
    let pair = Pair::attempt(&stage, "incr").unwrap_or_else(|output| {
        assert_refusal("the base is gone", &output);
        // The operator says that it is so on purpose, as the hint tells.
        let heads = listing::files(&stage.ours.host.state_dir()).into_iter().filter(|path| path.ends_with("head.json"));
        heads.for_each(|head| fs::remove_file(head).expect("own directory"));
        Pair::quiet(&stage, "incr")
    });
    // The entry before is there still: an incremental on that one is right too.
    assert_ne!(pair.ours.base.as_deref(), Some(gone.ours.id.as_str()), "its base is gone");
    pairs.push(pair);
    touch(&stage, 3);
    pairs.push(Pair::quiet(&stage, "incr"));
    pairs.iter().for_each(|pair| pair.judge(&stage));
}

/// What a host remembers of bases.
fn memory(host: &Host) -> Vec<PathBuf> {
    let state = host.state_dir();
    let is_base = |path: &PathBuf| path.strip_prefix(&state).expect("below").to_string_lossy().contains("base");
    listing::files(&state).into_iter().filter(is_base).collect()
}

/// What the host remembers of the twin's repository, put where it remembers ours: of the bases, then all of it.
#[test]
fn the_memory_of_another_repository() {
    let Some(stage) = stage() else { return };
    let base = Pair::quiet(&stage, "full");
    touch(&stage, 5);
    // The twin's repository knows a later moment than ours.
    stage.twin_backup();
    let (ours, twin) = (memory(&stage.ours.host), memory(&stage.twin.host));
    assert_eq!(ours.len(), twin.len(), "{ours:?}, twin {twin:?}");
    assert!(!REAL_INCREMENTALS || !ours.is_empty(), "nothing is remembered of a base");
    for (ours, twin) in ours.iter().zip(&twin) {
        fs::write(ours, fs::read(twin).expect("own file")).expect("own file");
    }
    touch(&stage, 7);
    let first = full_or_refusal(&stage, "the bases of another repository");

    stage.twin_backup();
    let (ours, twin) = (stage.ours.host.state_dir(), stage.twin.host.state_dir());
    fs::remove_dir_all(&ours).expect("own directory");
    dirs::copy_tree(&twin, &ours);
    touch(&stage, 9);
    let second = full_or_refusal(&stage, "the memory of another repository");
    [Some(base), first, second].iter().flatten().for_each(|pair| pair.judge(&stage));
}

/// Every file of the memory, one after the other, with a flipped bit, cut short, and emptied.
#[test]
fn a_damaged_memory() {
    let Some(stage) = stage() else { return };
    let base = Pair::quiet(&stage, "full");
    type Damage = fn(&mut Vec<u8>);
    let damages: [(&str, Damage); 4] = [
        ("a flipped bit in the middle", |content| {
            let middle = content.len() / 2;
            content[middle] ^= 0x10;
        }),
        ("a flipped bit at the end", |content| {
            let last = content.len() - 1;
            content[last] ^= 1;
        }),
        ("half of it", |content| content.truncate(content.len() / 2)),
        ("nothing", Vec::clear),
    ];
    let memory = || memory(&stage.ours.host);
    assert!(!REAL_INCREMENTALS || !memory().is_empty(), "nothing is remembered of a base");
    let (mut pairs, mut number) = (vec![base], 0);
    // A full writes its memory anew, so the files are looked up again each time.
    while let Some(path) = memory().get(number) {
        for (what, damage) in damages {
            let Some(path) = memory().get(number).cloned() else { break };
            let mut content = fs::read(&path).expect("own file");
            if content.is_empty() {
                continue;
            }
            damage(&mut content);
            fs::write(&path, content).expect("own file");
            touch(&stage, 9);
            let what = format!("{} with {what}", path.display());
            match full_or_refusal(&stage, &what) {
                Some(pair) => pairs.push(pair),
                // The operator takes the hint.
                None => pairs.push(Pair::quiet(&stage, "full")),
            }
        }
        println!("{} was damaged in every way", path.display());
        number += 1;
    }
    pairs.iter().for_each(|pair| pair.judge(&stage));
}

/// Sets the time of last change of every relation file, as a host with a wrong clock does; `time` is told the present one.
fn set_times(data: &Path, time: impl Fn(SystemTime) -> SystemTime) {
    for location in relation_files(data).into_values() {
        let file = File::options().write(true).open(&location).expect("own file");
        let present = file.metadata().and_then(|metadata| metadata.modified()).expect("own file");
        file.set_modified(time(present)).expect("own file");
    }
}

/// A pair with the times of all files set right before it.
#[track_caller]
fn pair_with_times(stage: &Stage, kind: &str, time: impl Fn(SystemTime) -> SystemTime) -> Pair {
    settle(&stage.cluster);
    set_times(&stage.cluster.data, time);
    let (ours, twin) = (stage.backup(kind), stage.twin_backup());
    Pair { ours, twin, target: Target::Immediate, facts: facts::of(&stage.cluster) }
}

/// Files that change and keep a time in the future: size and time equal the base's, and prove nothing.
#[test]
fn times_in_the_future() {
    let Some(stage) = stage() else { return };
    let future = SystemTime::now() + Duration::from_secs(3600);
    let base = pair_with_times(&stage, "full", |_| future);
    touch(&stage, 5);
    let same = pair_with_times(&stage, "incr", |_| future);
    stage.run(&["UPDATE second SET k = k + 1 WHERE id % 3 = 0", "VACUUM"]);
    let again = pair_with_times(&stage, "incr", |_| future);
    [base, same, again].iter().for_each(|pair| pair.judge(&stage));
}

/// The clock was set back between the base and now: what changed looks older than the base.
#[test]
fn a_clock_set_back() {
    let Some(stage) = stage() else { return };
    let base = Pair::quiet(&stage, "full");
    touch(&stage, 5);
    let past = SystemTime::now() - Duration::from_secs(7200);
    let older = pair_with_times(&stage, "incr", |_| past);
    assert_type(&older.ours, "incr");
    // And once more: now every file's time was seen before, by the base, long before it began.
    stage.run(&["UPDATE second SET v = md5(v) WHERE id % 2 = 0"]);
    let next = pair_with_times(&stage, "incr", |present| {
        // Only the files that did not change keep that time: equal times of changed files can be told by nobody.
        if present == past { past } else { past + Duration::from_secs(1) }
    });
    [base, older, next].iter().for_each(|pair| pair.judge(&stage));
}

/// A file changed within the same tick of a coarse clock, right before and right after its copy was taken.
#[test]
fn the_same_tick() {
    let Some(stage) = stage() else { return };
    let tick = SystemTime::now() + Duration::from_millis(500);
    let base = pair_with_times(&stage, "full", |_| tick);
    touch(&stage, 5);
    let later = pair_with_times(&stage, "incr", |_| tick);
    [base, later].iter().for_each(|pair| pair.judge(&stage));
}
