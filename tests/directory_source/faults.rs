//! What happens while a backup looks: files that vanish, change, are replaced, or may not be read.

use std::cell::Cell;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use lifeboat::base::RelPath;
use lifeboat::source::directory::beneath::Root;
use lifeboat::source::directory::chunk::Piece;
use lifeboat::source::directory::entry::{Entry, FileTime, Left, Look, Mark, Reason, look};
use lifeboat::source::directory::read::{Chunk, Reader, Reading, TICK_NANOS, Within};
use lifeboat::source::directory::restore::{Existing, RestoreOptions, Restorer};
use lifeboat::source::directory::scan::Scan;
use lifeboat::source::directory::settle::What;
use lifeboat::source::directory::walk::{Step, Walk};

use crate::Place;
use crate::oracle::{assert_same, snapshot};
use crate::vault::{Collector, Plan, Vault, walk_options};

fn left(backup: &crate::vault::Backup) -> Vec<(String, Reason)> {
    backup.left.iter().map(|Left { path, why }| (path.to_string(), *why)).collect()
}

#[test]
fn what_vanishes_or_is_replaced_between_walk_and_read_is_told_and_harms_nothing_else() {
    let place = Place::new();
    let source = place.source();
    for name in ["a-gone", "b-link", "c-pipe", "d-renamed-over", "e-dir", "f-stays"] {
        fs::write(source.join(name), name).unwrap();
    }
    fs::write(place.path("secret"), "not below the source").unwrap();
    let mut vault = Vault::default();
    let mut meddle = |path: &RelPath| {
        let at = source.join(path.as_path());
        match path.to_string().as_str() {
            "a-gone" => fs::remove_file(at).unwrap(),
            "b-link" => {
                fs::remove_file(&at).unwrap();
                symlink(place.path("secret"), at).unwrap();
            }
            "c-pipe" => {
                fs::remove_file(&at).unwrap();
                let mode = rustix::fs::Mode::RUSR;
                rustix::fs::mknodat(rustix::fs::CWD, &at, rustix::fs::FileType::Fifo, mode, 0).unwrap();
            }
            "d-renamed-over" => {
                fs::write(place.path("new"), "another file, whole").unwrap();
                fs::rename(place.path("new"), at).unwrap();
            }
            "e-dir" => {
                fs::remove_file(&at).unwrap();
                fs::create_dir(at).unwrap();
            }
            _ => {}
        }
    };
    let backup = vault.backup(&source, Plan { before_read: Some(&mut meddle), ..Plan::default() });
    let expected =
        [("a-gone", Reason::Vanished), ("b-link", Reason::Replaced), ("c-pipe", Reason::Replaced), ("e-dir", Reason::Replaced)];
    assert_eq!(left(&backup), expected.map(|(path, why)| (path.to_owned(), why)));
    assert_eq!(expected.map(|(_, why)| why.is_trouble()), [false, true, true, true]);
    vault.restore(&backup, &place.path("target"), &[], Existing::Refuse).unwrap();
    let found: Vec<String> =
        fs::read_dir(place.path("target")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!(fs::read(place.path("target/d-renamed-over")).unwrap(), b"another file, whole");
    assert_eq!(fs::read(place.path("target/f-stays")).unwrap(), b"f-stays");
}

/// The first name of a file carries its content for all of them.
#[test]
fn a_file_is_not_lost_when_its_first_name_goes_away_or_becomes_another_file() {
    for replaced in [false, true] {
        let place = Place::new();
        let source = place.source();
        fs::write(source.join("a"), "the content").unwrap();
        fs::hard_link(source.join("a"), source.join("b")).unwrap();
        fs::hard_link(source.join("a"), source.join("c")).unwrap();
        let mut meddle = |path: &RelPath| {
            if path.as_bytes() == b"a" {
                fs::remove_file(source.join("a")).unwrap();
                if replaced {
                    fs::write(source.join("a"), "quite another").unwrap();
                }
            }
        };
        let mut vault = Vault::default();
        let backup = vault.backup(&source, Plan { before_read: Some(&mut meddle), ..Plan::default() });
        assert_eq!(left(&backup), if replaced { vec![] } else { vec![("a".to_owned(), Reason::Vanished)] });
        vault.restore(&backup, &place.path("target"), &[], Existing::Refuse).unwrap();
        assert_same(&without_top(snapshot(&source)), &without_top(snapshot(&place.path("target"))), "restore");
        assert_eq!(fs::read(place.path("target/b")).unwrap(), b"the content");
    }
}

/// The same of what is no file, and is looked at once more by the walk itself.
#[test]
fn a_link_or_pipe_is_not_lost_when_its_first_name_goes_away() {
    let place = Place::new();
    let source = place.source();
    fs::write(source.join("0"), "read before the others").unwrap();
    symlink("somewhere", source.join("a-link")).unwrap();
    let mode = rustix::fs::Mode::RUSR;
    rustix::fs::mknodat(rustix::fs::CWD, source.join("a-pipe"), rustix::fs::FileType::Fifo, mode, 0).unwrap();
    for (first, others) in [("a-link", ["b-link", "c-link"]), ("a-pipe", ["b-pipe", "c-pipe"])] {
        others.iter().for_each(|other| fs::hard_link(source.join(first), source.join(other)).unwrap());
    }
    let mut meddle = |path: &RelPath| {
        if path.as_bytes() == b"0" {
            ["a-link", "a-pipe"].iter().for_each(|first| fs::remove_file(source.join(first)).unwrap());
        }
    };
    let mut vault = Vault::default();
    let backup = vault.backup(&source, Plan { before_read: Some(&mut meddle), ..Plan::default() });
    assert_eq!(left(&backup), ["a-link", "a-pipe"].map(|path| (path.to_owned(), Reason::Vanished)));
    vault.restore(&backup, &place.path("target"), &[], Existing::Refuse).unwrap();
    assert_same(&without_top(snapshot(&source)), &without_top(snapshot(&place.path("target"))), "restore");
}

/// The base's first name is not believed and is read again; the others must not hold on to it.
#[test]
fn no_name_of_a_file_is_kept_while_its_first_one_is_read_again() {
    for replaced in [false, true] {
        let place = Place::new();
        let source = place.source();
        fs::write(source.join("a"), "the content").unwrap();
        fs::write(source.join("0"), "kept").unwrap();
        ["b", "c"].iter().for_each(|other| fs::hard_link(source.join("a"), source.join(other)).unwrap());
        let mut vault = Vault::default();
        let mut full = vault.backup(&source, Plan::default());
        let at = full.stored.iter().position(|stored| stored.entry.path.as_bytes() == b"a").unwrap();
        full.stored[at].entry.marks.push(Mark::Unsteady);
        let unchanged = vault.backup(&source, Plan { base: Some(&full), ..Plan::default() });
        assert_eq!((unchanged.tally.kept, unchanged.tally.read, unchanged.tally.linked), (1, 1, 2));
        let mut meddle = |path: &RelPath| {
            if path.as_bytes() == b"a" {
                fs::remove_file(source.join("a")).unwrap();
                if replaced {
                    fs::write(source.join("a"), "quite another").unwrap();
                }
            }
        };
        let incr = vault.backup(&source, Plan { base: Some(&full), before_read: Some(&mut meddle), ..Plan::default() });
        vault.restore(&incr, &place.path("target"), &[], Existing::Refuse).unwrap();
        assert_same(&without_top(snapshot(&source)), &without_top(snapshot(&place.path("target"))), "restore");
    }
}

/// What could not be made has no further names either: that is told, and the rest is restored.
#[test]
fn further_names_of_what_is_not_there_are_told() {
    let place = Place::new();
    let source = place.source();
    ["file", "device"].iter().for_each(|name| fs::write(source.join(name), name).unwrap());
    let options = RestoreOptions { existing: Existing::Refuse, owners: None, scratch: place.dir.path().to_owned() };
    let restorer = Restorer::new(&place.path("target"), options).unwrap();
    let mut device = walked(&source, "device");
    device.node.kind = lifeboat::source::directory::entry::Kind::CharacterDevice { major: 1, minor: 3 };
    restorer.link(&walked(&source, "file"), &RelPath::new("not/there").unwrap()).unwrap();
    restorer.link(&device, &RelPath::new("neither").unwrap()).unwrap();
    let shortfalls = restorer.finish(None).unwrap();
    let told: Vec<What> = shortfalls.first.iter().map(|shortfall| shortfall.what).collect();
    assert_eq!((shortfalls.count, shortfalls.missing, told), (2, 2, vec![What::Content, What::Device]));
}

/// A walk over 200 directories, `d000` to `d199`, that has been to the first: it has looked at all, and opened few.
fn walk_begun(place: &Place) -> Walk {
    for n in 0..200 {
        fs::create_dir(place.source().join(format!("d{n:03}"))).unwrap();
    }
    let root = Arc::new(Root::open(&place.source()).unwrap());
    let mut walk = Walk::new(root, walk_options(place.dir.path())).unwrap();
    assert!(matches!(walk.next(), Some(Ok(Step::Found(_)))));
    walk
}

/// It may have been moved to where the walk has been already.
#[test]
fn a_directory_that_is_gone_when_its_turn_comes_is_told() {
    let place = Place::new();
    let (source, walk) = (place.source(), walk_begun(&place));
    fs::rename(source.join("d199"), source.join("aaa")).unwrap();
    let rest: Vec<Step> = walk.map(Result::unwrap).collect();
    let left: Vec<&Left> = rest.iter().filter_map(|step| if let Step::Left(left) = step { Some(left) } else { None }).collect();
    let expected = Left { path: RelPath::new("d199").unwrap(), why: Reason::Moved };
    assert_eq!(left, [&expected]);
    assert!(expected.why.is_trouble());
}

/// As a release that is put in place of the one before.
#[test]
fn a_directory_that_is_another_one_when_its_turn_comes_is_stored_and_told() {
    let place = Place::new();
    let (source, walk) = (place.source(), walk_begun(&place));
    fs::rename(source.join("d199"), source.join("aaa")).unwrap();
    fs::create_dir(source.join("d199")).unwrap();
    fs::write(source.join("d199/new"), "new").unwrap();
    let rest: Vec<Step> = walk.map(Result::unwrap).collect();
    let told = rest.iter().rev().take(3).map(|step| match step {
        Step::Found(found) => (found.entry.path.to_string(), None),
        Step::Left(left) => (left.path.to_string(), Some(left.why)),
    });
    let [found, replaced] = [("d199", None), ("d199", Some(Reason::Replaced))].map(|(path, why)| (path.to_owned(), why));
    assert_eq!(told.collect::<Vec<_>>(), [("d199/new".to_owned(), None), replaced, found]);
    assert_eq!(rest.len(), 201);
}

/// The top's time is from before the meddling.
fn without_top<T>(
    mut tree: std::collections::BTreeMap<std::path::PathBuf, T>,
) -> std::collections::BTreeMap<std::path::PathBuf, T> {
    tree.remove(Path::new(""));
    tree
}

fn top(root: &Root) -> Within {
    Within::Open(Arc::new(root.directory(&[]).unwrap()))
}

fn walked(source: &Path, name: &str) -> Entry {
    let Look::Node(node) = look(File::open(source).unwrap(), name).unwrap() else { panic!("a socket") };
    Entry::new(RelPath::new(name).unwrap(), *node)
}

/// Overwrites bytes in place while a file is read: its length stays, and within one tick of the clock so may its times.
#[test]
fn a_file_that_changes_while_it_is_read_is_read_again_and_then_marked() {
    for changes in [0, 1, 2, 3, 100] {
        let place = Place::new();
        let path = place.source().join("busy");
        fs::write(&path, vec![0; 600_000]).unwrap();
        let (root, mut vault) = (Root::open(&place.source()).unwrap(), Vault::default());
        let done = Cell::new(0_u8);
        let writer = File::options().write(true).open(&path).unwrap();
        let mut sink = Collector::new(&mut vault);
        sink.on_chunk = Box::new(|offset| {
            // One change a reading, after its first chunk and before its last.
            if offset == 0 && done.get() < changes {
                done.set(done.get() + 1);
                writer.write_all_at(&[done.get(); 600_000], 0).unwrap();
            }
        });
        let reading = Reader::new().read(&root, &top(&root), walked(&place.source(), "busy"), &mut sink).unwrap();
        let (pieces, restarts) = (sink.pieces.clone(), sink.restarts);
        drop(sink);
        let Reading::Read(entry) = reading else { panic!("{reading:?}") };
        let content: Vec<u8> = pieces.iter().flat_map(|piece| vault.chunks[&piece.address].clone()).collect();
        if changes >= 3 {
            assert_eq!((entry.marks.as_slice(), restarts), (&[Mark::Unsteady][..], 2), "{changes} changes");
        } else {
            assert_eq!((entry.marks.as_slice(), restarts), (&[][..], usize::from(changes)), "{changes} changes");
            assert!(content == vec![changes; 600_000], "a steady file mixes two of its states");
        }
        assert_eq!(content.len(), 600_000);
    }
}

#[test]
fn a_file_that_shrinks_while_it_is_read_is_no_longer_than_what_was_read() {
    let place = Place::new();
    let path = place.source().join("log");
    fs::write(&path, vec![7; 3_000_000]).unwrap();
    let (root, mut vault) = (Root::open(&place.source()).unwrap(), Vault::default());
    let length = Cell::new(3_000_000_u64);
    let writer = File::options().write(true).open(&path).unwrap();
    let mut sink = Collector::new(&mut vault);
    sink.on_chunk = Box::new(|_| {
        length.set(length.get() - 150_000);
        writer.set_len(length.get()).unwrap();
    });
    let Reading::Read(entry) = Reader::new().read(&root, &top(&root), walked(&place.source(), "log"), &mut sink).unwrap() else {
        panic!()
    };
    let data: u64 = sink.pieces.iter().map(|piece| u64::from(piece.len_bytes)).sum();
    assert_eq!((entry.marks, entry.node.size_bytes), (vec![Mark::Unsteady], data));
}

/// Files are rewritten, renamed and removed as fast as can be; whatever a backup holds without a mark is whole.
#[test]
fn a_directory_that_is_being_rewritten_holds_whole_files_or_marked_ones() {
    let place = Place::new();
    let source = place.source();
    let stop = Arc::new(AtomicBool::new(false));
    let write = |source: &Path, number: u32, state: u8| {
        let content = vec![state; 300_000 + usize::from(state)];
        let path = source.join(format!("f{number}"));
        match state % 3 {
            0 => fs::write(path, content).unwrap(),
            1 => {
                fs::write(source.join("fresh.tmp"), content).unwrap();
                fs::rename(source.join("fresh.tmp"), path).unwrap();
            }
            _ => drop(fs::remove_file(path)),
        }
    };
    (0..20).for_each(|number| write(&source, number, 0));
    let writer = std::thread::spawn({
        let (stop, source) = (Arc::clone(&stop), source.clone());
        move || {
            let mut state = 0_u8;
            while !stop.load(Ordering::SeqCst) {
                state = state.wrapping_add(1);
                write(&source, u32::from(state) % 20, state);
            }
        }
    });
    let mut vault = Vault::default();
    let backups: Vec<_> = (0..4).map(|_| vault.backup(&source, Plan::default())).collect();
    stop.store(true, Ordering::SeqCst);
    writer.join().unwrap();
    for (number, backup) in backups.iter().enumerate() {
        let target = place.path(&format!("target{number}"));
        vault.restore(backup, &target, &[], Existing::Refuse).unwrap();
        for stored in &backup.stored {
            let content = fs::read(target.join(stored.entry.path.as_path())).unwrap();
            let is_uniform = content.iter().all(|byte| Some(byte) == content.first());
            assert!(is_uniform || stored.entry.marks == [Mark::Unsteady], "{} is torn and not marked", stored.entry.path);
        }
    }
}

/// As another user: root may read everything.
#[test]
fn what_may_not_be_read_is_named_with_the_reason_and_the_rest_is_stored() {
    if !crate::trees::is_root() {
        println!("skipped: only root can become somebody else");
        return;
    }
    let place = Place::new();
    let source = place.source();
    fs::set_permissions(source.parent().unwrap(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(source.join("open"), "everyone's").unwrap();
    for (name, mode) in [("closed-dir", 0o000), ("names-only", 0o744)] {
        fs::create_dir(source.join(name)).unwrap();
        fs::write(source.join(name).join("inside"), "x").unwrap();
        fs::set_permissions(source.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    fs::write(source.join("secret"), "root's").unwrap();
    fs::set_permissions(source.join("secret"), fs::Permissions::from_mode(0o600)).unwrap();
    let (mut vault, backup) = std::thread::spawn({
        let source = source.clone();
        move || {
            // Of this thread alone, and of those that it starts.
            nix::unistd::setfsuid(nix::unistd::Uid::from_raw(65_534));
            let mut vault = Vault::default();
            let backup = vault.backup(&source, Plan::default());
            (vault, backup)
        }
    })
    .join()
    .unwrap();
    const DENIED: i32 = 13;
    assert_eq!(backup.get("secret").entry.marks, [Mark::Unread(DENIED)]);
    assert_eq!(backup.get("secret").entry.marks[0].to_string(), "cannot be read: Permission denied (os error 13)");
    assert_eq!(backup.get("closed-dir").entry.marks, [Mark::Unlisted(DENIED)]);
    assert_eq!(left(&backup), [("names-only/inside".to_owned(), Reason::Unseen(DENIED))]);
    assert!(Reason::Unseen(DENIED).is_trouble());
    let shortfalls = vault.restore(&backup, &place.path("target"), &[], Existing::Refuse).unwrap();
    let missing: Vec<_> =
        shortfalls.first.iter().map(|shortfall| (shortfall.path.as_ref().unwrap().to_string(), shortfall.what)).collect();
    assert_eq!(missing, [("secret".to_owned(), What::Content)]);
    assert_eq!(fs::read(place.path("target/open")).unwrap(), b"everyone's");
    assert!(!place.path("target/secret").exists(), "a file that was not read must not come back empty");
    // What a base could not hold is read once it may be.
    let now = vault.backup(&source, Plan { base: Some(&backup), ..Plan::default() });
    assert!(now.get("secret").entry.content.is_some() && now.left.is_empty());
    vault.restore(&now, &place.path("now"), &[], Existing::Refuse).unwrap();
    assert_same(&snapshot(&source), &snapshot(&place.path("now")), "restore");
}

#[test]
fn a_deep_tree_is_walked_with_few_open_files_and_its_moving_away_is_told() {
    const LEVELS: usize = 1500;
    const WIDE: usize = 600;
    let place = Place::new();
    let source = place.source();
    let mut at: std::os::fd::OwnedFd = File::open(&source).unwrap().into();
    for level in 0..LEVELS {
        let mode = rustix::fs::Mode::RWXU;
        if level == 3 {
            // More than are looked at together, and most of them after the long way down.
            for number in 0..WIDE {
                rustix::fs::mkdirat(&at, format!("m{number:04}"), mode).unwrap();
            }
        }
        rustix::fs::mkdirat(&at, "down", mode).unwrap();
        rustix::fs::mkdirat(&at, "zz", mode).unwrap();
        at = rustix::fs::openat(&at, "down", rustix::fs::OFlags::DIRECTORY, mode).unwrap();
    }
    let walk = || Walk::new(Arc::new(Root::open(&source).unwrap()), walk_options(&place.path(""))).unwrap();
    let found = walk().map(|step| matches!(step.unwrap(), Step::Found(_))).collect::<Vec<_>>();
    assert_eq!((found.len(), found.iter().all(|found| *found)), (2 * LEVELS + WIDE, true));
    let mut vault = Vault::default();
    let backup = vault.backup(&source, Plan::default());
    assert_eq!(backup.stored.len(), 2 * LEVELS + WIDE);
    vault.restore(&backup, &place.path("target"), &[], Existing::Refuse).unwrap();
    let restored = vault.backup(&place.path("target"), Plan::default());
    let strip = |backup: &crate::vault::Backup| -> Vec<_> {
        backup.stored.iter().map(|s| (s.entry.path.clone(), s.entry.node.mode, s.entry.node.modified)).collect()
    };
    assert!(strip(&restored) == strip(&backup));
    // The top of it is moved away when the walk is at its lowest.
    let mut told = Vec::new();
    for (step, number) in walk().zip(0..) {
        if number == LEVELS {
            fs::rename(source.join("down"), place.path("moved")).unwrap();
            // Another tree in its place is not taken for it.
            fs::create_dir_all(source.join(["down"; 20].join("/"))).unwrap();
        }
        if let Step::Left(left) = step.unwrap() {
            told.push(left.why);
        }
    }
    assert!(!told.is_empty() && told.iter().all(|why| *why == Reason::Replaced), "{told:?}");
}

#[test]
fn a_restore_refuses_content_that_is_not_what_was_stored() {
    let place = Place::new();
    fs::write(place.source().join("a"), crate::trees::bytes(&mut crate::random::generator(1, 1), 900_000)).unwrap();
    let mut vault = Vault::default();
    let backup = vault.backup(&place.source(), Plan::default());
    let stored = backup.get("a");
    let options = RestoreOptions { existing: Existing::Replace, owners: None, scratch: place.path("") };
    let restorer = Restorer::new(&place.path("target"), options).unwrap();
    let message = |pieces: Vec<Piece>| restorer.file(&stored.entry, pieces, &[]).map(drop).unwrap_err().message().to_owned();
    assert!(message(stored.pieces[1..].to_vec()).contains("not the one that was stored"));
    assert!(message(stored.pieces.iter().rev().copied().collect()).contains("out of order"));
    let writer = restorer.file(&stored.entry, stored.pieces.clone(), &[]).unwrap();
    let piece = stored.pieces[0];
    let mut bytes = vault.chunks[&piece.address].clone();
    bytes[17] ^= 1;
    let error = writer.write(&Chunk { offset: 0, address: piece.address, bytes: &bytes }).unwrap_err();
    assert!(error.message().contains("other bytes than were stored"), "{error:?}");
    assert!(writer.finish(&restorer).unwrap_err().message().contains("is not whole"));
    assert_eq!(fs::read_dir(place.path("target")).unwrap().count(), 0, "nothing is left of it");
}

#[test]
fn a_base_out_of_order_is_refused() {
    let place = Place::new();
    fs::write(place.source().join("a"), "a").unwrap();
    fs::write(place.source().join("b"), "b").unwrap();
    let mut vault = Vault::default();
    let backup = vault.backup(&place.source(), Plan::default());
    let entries: Vec<_> = backup.entries().collect::<Vec<_>>().into_iter().rev().collect();
    let root = Arc::new(Root::open(&place.source()).unwrap());
    let base = (Box::new(entries.into_iter()) as Box<_>, crate::vault::trust_all());
    let scan = lifeboat::source::directory::scan::Scan::new(root, walk_options(&place.path("")), Some(base)).unwrap();
    let errors: Vec<_> = scan.filter_map(Result::err).collect();
    assert!(errors.iter().any(|error| error.message().contains("out of order")), "{errors:?}");
}

/// As in `/proc`, or where a file system's attributes lag behind: what lies beyond the length is not passed over.
#[test]
fn a_file_that_holds_more_than_its_length_says_is_marked() {
    let mut vault = Vault::default();
    let root = Root::open(Path::new("/proc")).unwrap();
    let mut sink = Collector::new(&mut vault);
    let walked = walked(Path::new("/proc"), "version");
    assert_eq!(walked.node.size_bytes, 0);
    let Reading::Read(entry) = Reader::new().read(&root, &top(&root), walked, &mut sink).unwrap() else { panic!() };
    assert_eq!((entry.marks.as_slice(), sink.restarts), (&[Mark::Unsteady][..], 2));
}

/// Its times may be those of any write within the tick.
#[test]
fn a_file_that_never_rests_is_marked() {
    let place = Place::new();
    let path = place.source().join("busy");
    fs::write(&path, b"0").unwrap();
    let (stop, longest_pause_nanos) = (AtomicBool::new(false), std::sync::atomic::AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let writer = File::options().write(true).open(&path).unwrap();
            let mut last = std::time::Instant::now();
            while !stop.load(Ordering::SeqCst) {
                writer.write_all_at(b"1", 0).unwrap();
                longest_pause_nanos.fetch_max(last.elapsed().as_nanos() as u64, Ordering::SeqCst);
                last = std::time::Instant::now();
            }
        });
        let (root, mut vault) = (Root::open(&place.source()).unwrap(), Vault::default());
        let mut sink = Collector::new(&mut vault);
        for _ in 0..10 {
            let reading = Reader::new().read(&root, &top(&root), walked(&place.source(), "busy"), &mut sink).unwrap();
            let Reading::Read(entry) = reading else { panic!("{reading:?}") };
            let did_rest = i128::from(longest_pause_nanos.load(Ordering::SeqCst)) >= TICK_NANOS / 2;
            assert!(did_rest || entry.marks == [Mark::Unsteady], "{entry:?}");
        }
        stop.store(true, Ordering::SeqCst);
    });
}

/// Inode numbers are given anew: only what is known to be the same file speaks for the names that were seen of it.
#[test]
fn another_file_with_the_inode_number_of_the_first_name_does_not_stand_for_the_others() {
    let place = Place::new();
    let source = place.source();
    fs::write(source.join("a"), "content").unwrap();
    fs::hard_link(source.join("a"), source.join("b")).unwrap();
    let earlier = Some(FileTime { seconds: 1, nanos: 0 });
    let later = Some(FileTime { seconds: 2, nanos: 0 });
    let cases = [(earlier, earlier, 1, true), (earlier, later, 2, false), (None, later, 1, false), (None, None, 1, false)];
    for (then, now, links, expected) in cases.into_iter().chain([(earlier, None, 2, true), (None, None, 2, true)]) {
        let root = Arc::new(Root::open(&source).unwrap());
        let mut scan = Scan::new(root, walk_options(place.dir.path()), None).unwrap();
        let mut first = walked(&source, "a");
        first.node.born = then;
        let mut read = first.clone();
        (read.node.born, read.node.links) = (now, links);
        assert_eq!(scan.settle(&first, &Reading::Read(read)).unwrap(), expected, "{then:?} {now:?} {links}");
    }
}

#[test]
fn what_the_reader_finds_gone_is_counted_like_what_the_walk_does() {
    let place = Place::new();
    let source = place.source();
    ["a", "b"].iter().for_each(|name| fs::write(source.join(name), name).unwrap());
    let mut meddle = |path: &RelPath| {
        if path.as_bytes() == b"a" {
            fs::remove_file(source.join("a")).unwrap();
        }
    };
    let backup = Vault::default().backup(&source, Plan { before_read: Some(&mut meddle), ..Plan::default() });
    assert_eq!((backup.left.len(), backup.tally.left, backup.tally.read), (1, 1, 1));
}

/// A disk that is not mounted this time would look like a directory that was emptied.
#[test]
fn a_mount_point_of_the_base_that_is_none_now_is_told() {
    for (mounted, is_told) in [("disk", true), ("deep/disk", true), ("empty", false)] {
        let place = Place::new();
        let source = place.source();
        for path in ["disk/inner/file", "deep/disk/file", "deep/other/file"] {
            fs::create_dir_all(source.join(path).parent().unwrap()).unwrap();
            fs::write(source.join(path), path).unwrap();
        }
        fs::create_dir(source.join("empty")).unwrap();
        let mut vault = Vault::default();
        let mut base = vault.backup(&source, Plan::default());
        let below = |path: &RelPath| path.as_path().starts_with(mounted);
        for stored in base.stored.iter_mut().filter(|stored| below(&stored.entry.path)) {
            stored.entry.node.device += 1;
        }
        for thing in fs::read_dir(source.join(mounted)).unwrap() {
            let path = thing.unwrap().path();
            if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
        }
        let incr = vault.backup(&source, Plan { base: Some(&base), ..Plan::default() });
        let told: Vec<_> = incr.left.iter().map(|left| (left.path.to_string(), left.why.is_trouble())).collect();
        assert_eq!(told, if is_told { vec![(mounted.to_owned(), true)] } else { vec![] }, "{mounted}");
        assert!(incr.find(&RelPath::new(mounted).unwrap()).is_some(), "the directory itself is there");
        // Of the next one this one is the base.
        assert!(vault.backup(&source, Plan { base: Some(&incr), ..Plan::default() }).left.is_empty());
    }
}
