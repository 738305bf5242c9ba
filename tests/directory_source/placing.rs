//! Where a restore writes, and what of a backup it takes.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use lifeboat::base::RelPath;
use lifeboat::source::directory::restore::{Existing, RestoreOptions, Restorer, Shortfalls};
use lifeboat::source::directory::select::Selection;

use crate::Place;
use crate::vault::{Plan, Vault};

#[test]
fn a_part_comes_back_with_the_directories_above_it_as_they_were() {
    let place = Place::new();
    let source = place.source();
    fs::create_dir_all(source.join("docs/2026")).unwrap();
    fs::create_dir_all(source.join("photos")).unwrap();
    for file in ["docs/2026/a.txt", "docs/b.txt", "photos/c.jpg"] {
        fs::write(source.join(file), file).unwrap();
    }
    // Both names after the first are wanted, the first is not.
    fs::hard_link(source.join("docs/b.txt"), source.join("photos/d.jpg")).unwrap();
    fs::hard_link(source.join("docs/b.txt"), source.join("photos/e.jpg")).unwrap();
    fs::set_permissions(source.join("docs"), PermissionsExt::from_mode(0o750)).unwrap();
    let mut vault = Vault::default();
    let backup = vault.backup(&source, Plan::default());
    let target = place.path("target");
    vault.restore(&backup, &target, &["docs/2026", "photos/[de]*"], Existing::Refuse).unwrap();
    let mut found = crate::trees::all_paths(&target);
    found.sort();
    let relative: Vec<_> = found.iter().map(|path| path.strip_prefix(&target).unwrap().to_str().unwrap()).collect();
    assert_eq!(relative, ["docs", "docs/2026", "docs/2026/a.txt", "photos", "photos/d.jpg", "photos/e.jpg"]);
    for path in ["docs", "docs/2026", "photos", "photos/d.jpg"] {
        let (was, is) = (fs::metadata(source.join(path)).unwrap(), fs::metadata(target.join(path)).unwrap());
        assert_eq!((was.mode(), was.mtime(), was.mtime_nsec()), (is.mode(), is.mtime(), is.mtime_nsec()), "{path}");
    }
    assert_eq!(fs::read(target.join("photos/e.jpg")).unwrap(), b"docs/b.txt");
    let inode = |path: &str| fs::metadata(target.join(path)).unwrap().ino();
    assert_eq!(inode("photos/d.jpg"), inode("photos/e.jpg"), "still one file");
    let selection = Selection::new(&["docs/2025"]).unwrap();
    assert!(!backup.stored.iter().any(|stored| selection.wants(&stored.entry.path)));
    assert_eq!(selection.unmatched(), ["docs/2025"]);
}

#[test]
fn a_target_that_is_not_empty_is_refused_or_replaced_thing_by_thing() {
    let place = Place::new();
    let source = place.source();
    fs::create_dir(source.join("dir")).unwrap();
    fs::write(source.join("dir/file"), "from the backup").unwrap();
    fs::hard_link(source.join("dir/file"), source.join("dir/name")).unwrap();
    symlink("dir/file", source.join("link")).unwrap();
    let mut vault = Vault::default();
    let backup = vault.backup(&source, Plan::default());
    let target = place.path("target");
    fs::create_dir_all(target.join("dir")).unwrap();
    fs::write(target.join("dir/file"), "newer").unwrap();
    fs::write(target.join("dir/other"), "stays").unwrap();
    fs::write(target.join("link"), "a file now").unwrap();
    let error = vault.restore(&backup, &target, &[], Existing::Refuse).unwrap_err();
    assert!(error.message().ends_with("target is not empty"), "{error:?}");
    assert_eq!(fs::read(target.join("dir/file")).unwrap(), b"newer");
    for _ in 0..2 {
        // The second time every name is in place already.
        vault.restore(&backup, &target, &[], Existing::Replace).unwrap();
        assert_eq!(fs::read(target.join("dir/file")).unwrap(), b"from the backup");
        assert_eq!(fs::read(target.join("dir/other")).unwrap(), b"stays");
        assert_eq!(fs::read_link(target.join("link")).unwrap().to_str(), Some("dir/file"));
        let inode = |path: &str| fs::metadata(target.join(path)).unwrap().ino();
        assert_eq!(inode("dir/file"), inode("dir/name"));
        assert_eq!(crate::trees::all_paths(&target).len(), 5, "no temporary name is left");
    }
    // A directory that would have to go is not taken away for a file.
    fs::remove_file(target.join("dir/file")).unwrap();
    fs::create_dir(target.join("dir/file")).unwrap();
    let error = vault.restore(&backup, &target, &[], Existing::Replace).unwrap_err();
    assert!(error.hints()[0].contains("move it away"), "{error:?}");
    assert!(crate::trees::all_paths(&target).iter().all(|path| !path.to_string_lossy().contains("lifeboat")));
}

/// Whoever may write into the target cannot lead a restore out of it.
#[test]
fn a_link_planted_in_the_target_is_never_followed() {
    let place = Place::new();
    let source = place.source();
    fs::create_dir_all(source.join("dir/deep")).unwrap();
    fs::write(source.join("dir/deep/file"), "content").unwrap();
    fs::write(source.join("plain"), "content").unwrap();
    let mut vault = Vault::default();
    let backup = vault.backup(&source, Plan::default());
    let outside = place.path("outside");
    fs::create_dir_all(outside.join("deep")).unwrap();
    fs::write(outside.join("victim"), "untouched").unwrap();
    let before = crate::oracle::snapshot(&outside);
    for existing in [Existing::Refuse, Existing::Replace] {
        let target = place.path(&format!("target {existing:?}"));
        let options = RestoreOptions { existing, owners: None, scratch: place.path("") };
        let restorer = Restorer::new(&target, options).unwrap();
        restorer.directory(&backup.get("dir").entry).unwrap();
        restorer.directory(&backup.get("dir/deep").entry).unwrap();
        let writer = restorer.file(&backup.get("dir/deep/file").entry, backup.get("dir/deep/file").pieces.clone(), &[]).unwrap();
        fs::rename(target.join("dir"), target.join("moved")).unwrap();
        symlink(&outside, target.join("dir")).unwrap();
        symlink(outside.join("victim"), target.join("plain")).unwrap();
        assert!(vault.file(&restorer, backup.get("dir/deep/file")).is_err(), "through a link above it");
        assert!(restorer.directory(&backup.get("dir").entry).is_err(), "a link for a directory");
        assert!(restorer.link(&backup.get("plain").entry, &RelPath::new("dir/victim").unwrap()).is_err());
        let plain = vault.file(&restorer, backup.get("plain"));
        assert_eq!(plain.is_ok(), existing == Existing::Replace, "a link in its place is replaced, not followed");
        drop(writer);
        assert!(restorer.finish(None).is_err(), "a directory that was restored is a link now");
        assert_eq!(crate::oracle::snapshot(&outside), before);
    }
}

/// A restore into `target` with nobody's owners.
fn restorer(target: &Path, scratch: &Path, existing: Existing) -> Restorer {
    Restorer::new(target, RestoreOptions { existing, owners: None, scratch: scratch.to_owned() }).unwrap()
}

/// A file system that takes `docs` for `Docs` says of it that it is there already.
#[test]
fn two_directories_of_a_backup_are_never_made_one() {
    let place = Place::new();
    let source = place.source();
    for dir in ["Docs", "docs"] {
        fs::create_dir(source.join(dir)).unwrap();
        fs::write(source.join(dir).join("file"), dir).unwrap();
    }
    let mut vault = Vault::default();
    let backup = vault.backup(&source, Plan::default());
    let (upper, lower) = (&backup.get("Docs").entry, &backup.get("docs").entry);
    let target = place.path("target");
    let refusing = restorer(&target, &place.path(""), Existing::Refuse);
    refusing.directory(upper).unwrap();
    fs::create_dir(target.join("docs")).unwrap();
    let error = refusing.directory(lower).unwrap_err();
    assert!(error.hints()[0].contains("two names of the backup are one there"), "{error:?}");
    // One that was made for what lies in it is its own, once.
    let target = place.path("in any order");
    let refusing = restorer(&target, &place.path(""), Existing::Refuse);
    vault.file(&refusing, backup.get("docs/file")).unwrap();
    refusing.directory(lower).unwrap();
    assert!(refusing.directory(lower).is_err());
    // Where things are replaced, it may have been there before.
    let replacing = restorer(&target, &place.path(""), Existing::Replace);
    replacing.directory(lower).unwrap();
    replacing.finish(None).unwrap();
}

/// Where `docs` is taken for `Docs`, a restore of the one leaves it as the one was.
#[test]
fn a_directory_that_nothing_wanted_lies_in_lends_its_looks_to_no_other() {
    let place = Place::new();
    let source = place.source();
    for dir in ["on", "off"] {
        fs::create_dir(source.join(dir)).unwrap();
        fs::write(source.join(dir).join("file"), dir).unwrap();
        fs::set_permissions(source.join(dir), PermissionsExt::from_mode(0o751)).unwrap();
    }
    let mut vault = Vault::default();
    let backup = vault.backup(&source, Plan::default());
    let target = place.path("target");
    let refusing = restorer(&target, &place.path(""), Existing::Refuse);
    for dir in ["off", "on"] {
        refusing.directory_on_the_way(&backup.get(dir).entry).unwrap();
    }
    vault.file(&refusing, backup.get("on/file")).unwrap();
    fs::create_dir(target.join("off")).unwrap();
    fs::set_permissions(target.join("off"), PermissionsExt::from_mode(0o700)).unwrap();
    refusing.finish(None).unwrap();
    let mode = |dir: &str| fs::metadata(target.join(dir)).unwrap().mode() & 0o7777;
    assert_eq!((mode("on"), mode("off")), (0o751, 0o700));
}

#[test]
fn a_directory_that_went_away_is_an_error_unless_it_was_only_on_the_way() {
    let place = Place::new();
    let source = place.source();
    fs::create_dir_all(source.join("way")).unwrap();
    fs::create_dir_all(source.join("wanted")).unwrap();
    let backup = Vault::default().backup(&source, Plan::default());
    let target = place.path("target");
    let refusing = restorer(&target, &place.path(""), Existing::Refuse);
    refusing.directory_on_the_way(&backup.get("way").entry).unwrap();
    refusing.directory(&backup.get("wanted").entry).unwrap();
    fs::remove_dir(target.join("wanted")).unwrap();
    let error = refusing.finish(None).unwrap_err();
    assert!(error.message().contains("wanted"), "{error:?}");
}

fn told(shortfalls: &Shortfalls) -> Vec<(String, String)> {
    let path = |path: &Option<RelPath>| path.as_ref().map(ToString::to_string).unwrap_or_default();
    shortfalls.first.iter().map(|one| (path(&one.path), one.what.to_string())).collect()
}

/// A file system may have no room for a time, and say nothing.
#[test]
fn a_time_that_the_target_does_not_keep_is_told() {
    let place = Place::new();
    let path = place.source().join("late");
    fs::write(&path, "x").unwrap();
    // The year 3000; inodes of ext4 end in 2446 or 2038.
    fs::File::options().write(true).open(&path).unwrap().set_modified(UNIX_EPOCH + Duration::from_secs(32_503_680_000)).unwrap();
    let mut vault = Vault::default();
    let backup = vault.backup(&place.source(), Plan::default());
    let elsewhere = tempfile::tempdir_in("/var/tmp").unwrap();
    let target = elsewhere.path().join("target");
    let shortfalls = vault.restore(&backup, &target, &[], Existing::Refuse).unwrap();
    let time = |path: &Path| fs::metadata(path).unwrap().mtime();
    let is_kept = time(&path) == time(&target.join("late"));
    println!("the time is kept: {is_kept}");
    let expected = if is_kept { vec![] } else { vec![("late".to_owned(), "time of modification".to_owned())] };
    assert_eq!((told(&shortfalls), shortfalls.missing), (expected, 0));
}

/// To a user who is not of a directory's group the kernel says that it set the set-gid bit, and does not.
#[test]
fn a_mode_that_the_target_does_not_keep_is_told() {
    if !crate::trees::is_root() {
        return println!("skipped: only root can make a directory of a group that another user is not of");
    }
    let place = Place::new();
    let shared = place.source().join("shared");
    fs::create_dir(&shared).unwrap();
    fs::set_permissions(&shared, PermissionsExt::from_mode(0o2775)).unwrap();
    let backup = Vault::default().backup(&place.source(), Plan::default());
    let target = place.path("theirs");
    fs::create_dir(&target).unwrap();
    std::os::unix::fs::chown(&target, Some(65_534), Some(1)).unwrap();
    fs::set_permissions(&target, PermissionsExt::from_mode(0o2770)).unwrap();
    fs::set_permissions(place.path(""), PermissionsExt::from_mode(0o755)).unwrap();
    let shortfalls = std::thread::spawn(move || {
        nix::unistd::setfsgid(nix::unistd::Gid::from_raw(65_534));
        nix::unistd::setfsuid(nix::unistd::Uid::from_raw(65_534));
        let refusing = restorer(&target, &target, Existing::Refuse);
        refusing.directory(&backup.get("shared").entry).unwrap();
        let shortfalls = refusing.finish(None).unwrap();
        assert_eq!(fs::metadata(target.join("shared")).unwrap().mode() & 0o7777, 0o775);
        shortfalls
    });
    assert_eq!(told(&shortfalls.join().unwrap()), [("shared".to_owned(), "mode".to_owned())]);
}
