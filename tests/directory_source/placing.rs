//! Where a restore writes, and what of a backup it takes.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use lifeboat::base::RelPath;
use lifeboat::source::directory::restore::{Existing, RestoreOptions, Restorer};
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
    fs::set_permissions(source.join("docs"), std::os::unix::fs::PermissionsExt::from_mode(0o750)).unwrap();
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
