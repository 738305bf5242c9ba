//! Attributes, access control lists, holes, links and names: what a tree has besides bytes.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use lifeboat::source::directory::entry::Reason;
use lifeboat::source::directory::restore::Existing;
use rustix::fs::{CWD, FileType, Mode, XattrFlags, lsetxattr, mknodat};

use crate::oracle::{assert_same, snapshot};
use crate::trees::access_list;
use crate::vault::{Plan, Vault};
use crate::{Place, assert_restores};

fn set(path: &Path, name: &str, value: &[u8]) -> bool {
    let outcome = lsetxattr(path, name, value, XattrFlags::empty());
    if let Err(error) = outcome {
        println!("skipped: {name} cannot be set here: {error}");
    }
    outcome.is_ok()
}

#[test]
fn attributes_access_lists_and_capabilities_come_back_and_no_others() {
    let place = Place::new();
    let source = place.source();
    let path = source.join("file");
    fs::write(&path, "x").unwrap();
    fs::create_dir(source.join("dir")).unwrap();
    symlink("file", source.join("link")).unwrap();
    mknodat(CWD, source.join("pipe"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    set(&path, "user.empty", b"");
    set(&path, "user.long", &[7; 3000]);
    set(&source, "user.top", b"of the directory itself");
    set(&path, "system.posix_acl_access", &access_list(1000, None));
    set(&source.join("dir"), "system.posix_acl_default", &access_list(1000, None));
    if crate::trees::is_root() {
        set(&source.join("link"), "trusted.link", b"the link's own");
        mknodat(CWD, source.join("null"), FileType::CharacterDevice, Mode::RUSR, rustix::fs::makedev(1, 3)).unwrap();
        std::os::unix::fs::chown(&path, Some(1234), Some(1234)).unwrap();
        // CAP_NET_BIND_SERVICE, permitted and effective: version 2.
        set(&path, "security.capability", &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    }
    let expected = snapshot(&source);
    let count: usize = expected.values().map(|thing| thing.attributes.len()).sum();
    println!("{count} attributes");
    assert!(count > 0, "this file system has no attributes at all: nothing was tested");
    let mut vault = Vault::default();
    let backup = vault.backup(&source, Plan::default());
    assert_restores(&vault, &backup, &place, &expected);
    // A target whose default list everything made below it inherits.
    let target = place.path("inheriting");
    fs::create_dir(&target).unwrap();
    set(&target, "system.posix_acl_default", &access_list(1000, None));
    let shortfalls = vault.restore(&backup, &target, &[], Existing::Refuse).unwrap();
    assert_eq!(shortfalls.count, 0);
    assert_same(&expected, &snapshot(&target), "inheriting target");
    // Changing an attribute alone changes what an incr holds.
    set(&path, "user.empty", b"not any more");
    let incr = vault.backup(&source, Plan { base: Some(&backup), ..Plan::default() });
    assert_eq!((incr.tally.read, incr.new_chunks), (1, 0));
    assert_restores(&vault, &incr, &place, &snapshot(&source));
}

#[test]
fn holes_stay_holes_and_cost_no_chunks() {
    let place = Place::new();
    let source = place.source();
    let sparse = File::create(source.join("sparse")).unwrap();
    for at in [0, 4096, 50_000_000, 300_000_001] {
        sparse.write_all_at(b"data", at).unwrap();
    }
    sparse.set_len(400_000_000).unwrap();
    let comb = File::create(source.join("comb")).unwrap();
    for tooth in 0..200 {
        comb.write_all_at(&[1; 4096], tooth * 16_384).unwrap();
    }
    File::create(source.join("void")).unwrap().set_len(100 << 20).unwrap();
    fs::write(source.join("zeros"), vec![0; 1_000_000]).unwrap();
    let mut vault = Vault::default();
    let backup = vault.backup(&source, Plan::default());
    assert_eq!(backup.get("void").pieces, []);
    assert!(backup.get("sparse").pieces.len() <= 4, "{:?}", backup.get("sparse").pieces);
    assert!(backup.get("comb").pieces.len() < 60, "short holes lie within chunks");
    assert!(backup.get("zeros").holes.is_empty());
    let target = place.path("target");
    vault.restore(&backup, &target, &[], Existing::Refuse).unwrap();
    for name in ["sparse", "comb", "void", "zeros"] {
        let (was, is) = (fs::metadata(source.join(name)).unwrap(), fs::metadata(target.join(name)).unwrap());
        assert_eq!((was.len(), was.mtime_nsec()), (is.len(), is.mtime_nsec()), "{name}");
        assert!(is.blocks() <= was.blocks(), "{name}: {} blocks became {}", was.blocks(), is.blocks());
    }
    for name in ["comb", "zeros"] {
        assert!(fs::read(source.join(name)).unwrap() == fs::read(target.join(name)).unwrap(), "{name}");
    }
    let (was, is) = (File::open(source.join("sparse")).unwrap(), File::open(target.join("sparse")).unwrap());
    for at in [0, 4000, 60_000, 49_999_990, 299_999_990, 399_995_000] {
        let (mut a, mut b) = ([1; 10_000], [2; 10_000]);
        let (there, here) = (was.read_at(&mut a, at).unwrap(), is.read_at(&mut b, at).unwrap());
        assert!(there > 0 && a[..there] == b[..here], "at {at}");
    }
}

#[test]
fn links_that_loop_are_kept_and_sockets_are_told() {
    let place = Place::new();
    let source = place.source();
    fs::create_dir_all(source.join("a/b")).unwrap();
    symlink("loop", source.join("loop")).unwrap();
    symlink("..", source.join("a/up")).unwrap();
    symlink("../../a", source.join("a/b/again")).unwrap();
    symlink(".", source.join("self")).unwrap();
    let expected = snapshot(&source);
    let _listener = UnixListener::bind(source.join("a/socket")).unwrap();
    fs::File::open(source.join("a")).unwrap().set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    let mut expected_a = expected[Path::new("a")].clone();
    expected_a.modified = (0, 0);
    let expected =
        expected.into_iter().map(|(path, thing)| if path == Path::new("a") { (path, expected_a.clone()) } else { (path, thing) });
    let mut vault = Vault::default();
    let backup = vault.backup(&source, Plan::default());
    let told: Vec<_> = backup.left.iter().map(|left| (left.path.to_string(), left.why)).collect();
    assert_eq!(told, [("a/socket".to_owned(), Reason::Socket)]);
    assert!(!Reason::Socket.is_trouble());
    assert_restores(&vault, &backup, &place, &expected.collect());
}

#[test]
fn excluded_things_are_left_out_with_all_they_hold() {
    let place = Place::new();
    let source = place.source();
    for dir in ["cache/deep", "docs/cache", "docs/keep"] {
        fs::create_dir_all(source.join(dir)).unwrap();
    }
    for file in ["cache/deep/x", "docs/cache/x", "docs/keep/y.tmp", "docs/keep/z", "a.tmp", "keep.tmp"] {
        fs::write(source.join(file), file).unwrap();
    }
    let mut vault = Vault::default();
    let backup = vault.backup(&source, Plan { excludes: &["/cache/", "*.tmp", "!keep.tmp"], ..Plan::default() });
    let paths: Vec<_> = backup.stored.iter().map(|stored| stored.entry.path.to_string()).collect();
    assert_eq!(paths, ["docs", "docs/cache", "docs/cache/x", "docs/keep", "docs/keep/z", "keep.tmp"]);
    let left: Vec<_> = backup.left.iter().map(|left| (left.path.to_string(), left.why)).collect();
    assert_eq!(left, ["a.tmp", "cache", "docs/keep/y.tmp"].map(|path| (path.to_owned(), Reason::Excluded)));
    // What the rules leave out from now on is gone from the next backup, and not what they do not.
    let next = vault.backup(&source, Plan { base: Some(&backup), excludes: &["docs"], ..Plan::default() });
    assert_eq!((next.tally.gone, next.tally.kept), (5, 1));
}

#[test]
fn another_file_system_is_stored_as_an_empty_directory() {
    let other = Path::new("/dev/shm");
    let is_mount = fs::metadata(other).is_ok_and(|shm| fs::metadata("/dev").is_ok_and(|dev| dev.dev() != shm.dev()));
    if !is_mount {
        println!("skipped: /dev/shm is no file system of its own");
        return;
    }
    let _inside = tempfile::NamedTempFile::new_in(other).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let root = std::sync::Arc::new(lifeboat::source::directory::beneath::Root::open(Path::new("/dev")).unwrap());
    let scan = lifeboat::source::directory::scan::Scan::new(root, crate::vault::walk_options(scratch.path()), None).unwrap();
    let paths: Vec<String> = scan
        .filter_map(|task| match task.unwrap() {
            lifeboat::source::directory::scan::Task::Store(entry) => Some(entry.path.to_string()),
            _ => None,
        })
        .collect();
    assert!(paths.iter().any(|path| path == "shm"));
    assert!(!paths.iter().any(|path| path.starts_with("shm/")), "{paths:?}");
}

#[test]
fn modes_that_forbid_even_their_owner_come_back() {
    let place = Place::new();
    let source = place.source();
    fs::create_dir_all(source.join("a/b")).unwrap();
    fs::write(source.join("a/b/file"), "x").unwrap();
    fs::write(source.join("a/setuid"), "x").unwrap();
    fs::set_permissions(source.join("a/setuid"), fs::Permissions::from_mode(0o4755)).unwrap();
    let mut vault = Vault::default();
    for (path, mode) in [("a/b/file", 0o000), ("a/b", 0o555), ("a", 0o500)] {
        if crate::trees::is_root() || path != "a/b/file" {
            fs::set_permissions(source.join(path), fs::Permissions::from_mode(mode)).unwrap();
        }
    }
    let backup = vault.backup(&source, Plan::default());
    assert_restores(&vault, &backup, &place, &snapshot(&source));
    if !crate::trees::is_root() {
        return;
    }
    // As another user, to whom nothing may belong: set-uid bits are not given to whoever restores, and that is told.
    let target = place.path("theirs");
    fs::create_dir(&target).unwrap();
    fs::set_permissions(place.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    let uid = nix::unistd::Uid::from_raw(65_534);
    std::os::unix::fs::chown(&target, Some(uid.as_raw()), None).unwrap();
    let shortfalls = std::thread::spawn(move || {
        nix::unistd::setfsuid(uid);
        let options = lifeboat::source::directory::restore::RestoreOptions {
            existing: Existing::Refuse,
            owners: None,
            scratch: target.clone(),
        };
        let restorer = lifeboat::source::directory::restore::Restorer::new(&target, options).unwrap();
        for path in ["a", "a/b"] {
            restorer.directory(&backup.get(path).entry).unwrap();
        }
        for path in ["a/setuid", "a/b/file"] {
            vault.file(&restorer, backup.get(path)).unwrap();
        }
        let shortfalls = restorer.finish(None).unwrap();
        assert_eq!(fs::metadata(target.join("a/setuid")).unwrap().mode() & 0o7777, 0o755);
        assert_eq!(fs::metadata(target.join("a")).unwrap().mode() & 0o7777, 0o500);
        shortfalls
    })
    .join()
    .unwrap();
    let told: Vec<_> = shortfalls.first.iter().map(|s| (s.path.as_ref().unwrap().to_string(), s.what.to_string())).collect();
    assert_eq!(told, [("a/setuid".to_owned(), "mode".to_owned())]);
}
