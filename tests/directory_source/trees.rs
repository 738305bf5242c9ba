//! Random trees and random changes to them.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rand::rngs::StdRng;
use rand::{Rng, RngExt};
use rustix::fs::{CWD, Mode, XattrFlags, lsetxattr};

/// Names that break careless code.
const ODD: &[&[u8]] = &[
    b" ",
    b"-rf",
    b"a\nb",
    b"\xff\xfe",
    b"\\",
    b"*",
    b"a-b",
    b"a.b",
    b"a",
    b"A",
    b"~",
    b"$HOME",
    b"\x01",
    b"...",
    b"a\xcc\x81",
    "日本".as_bytes(),
    b"%2e%2e",
    b"'\"",
];

/// An access control list, version 2: what the owner, `user`, the group, `group`, the mask and others may.
pub fn access_list(user: u32, group: Option<u32>) -> Vec<u8> {
    let entry = |tag: u16, bits: u16, id: u32| [&tag.to_le_bytes()[..], &bits.to_le_bytes(), &id.to_le_bytes()].concat();
    let none = u32::MAX;
    let named_group = group.map(|group| entry(8, 4, group)).unwrap_or_default();
    let users = [2_u32.to_le_bytes().to_vec(), entry(1, 6, none), entry(2, 6, user)];
    [users.concat(), entry(4, 4, none), named_group, entry(16, 6, none), entry(32, 0, none)].concat()
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn name(random: &mut StdRng) -> Vec<u8> {
    match random.random_range(0..6) {
        0 => ODD[random.random_range(0..ODD.len())].to_vec(),
        1 => vec![b'n'; random.random_range(1..256)],
        _ => format!("f{}", random.random_range(0..200)).into_bytes(),
    }
}

/// Bytes that chunk, compress and repeat in all ways.
pub fn bytes(random: &mut StdRng, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    if random.random_bool(0.8) {
        random.fill_bytes(&mut bytes);
    }
    bytes
}

fn write_some(random: &mut StdRng, path: &Path) {
    let file = File::create(path).unwrap();
    let len = match random.random_range(0..8) {
        0 => 0,
        1 => 1,
        2 => random.random_range(0..1_500_000),
        _ => random.random_range(0..20_000),
    };
    file.write_all_at(&bytes(random, len), 0).unwrap();
    if random.random_bool(0.2) {
        // Holes of all lengths, at odd places, and one at the end.
        for _ in 0..random.random_range(1..5) {
            let at = random.random_range(0..4_000_000);
            file.write_all_at(&bytes(random, 5000), at).unwrap();
        }
        file.set_len(file.metadata().unwrap().len() + random.random_range(0..300_000)).unwrap();
    }
}

fn decorate(random: &mut StdRng, path: &Path) {
    let kind = fs::symlink_metadata(path).unwrap().file_type();
    if is_root() && random.random_bool(0.3) {
        lchown(path, Some(random.random_range(0..3000)), Some(random.random_range(0..3000))).unwrap();
    }
    if (kind.is_file() || kind.is_dir()) && random.random_bool(0.3) {
        for _ in 0..random.random_range(1..4) {
            let (name, len) = (format!("user.a{}", random.random_range(0..9)), random.random_range(0..1000));
            let value = bytes(random, len);
            lsetxattr(path, name.as_str(), &value, XattrFlags::empty()).unwrap();
        }
    }
    if kind.is_symlink() {
        return;
    }
    let bits = if kind.is_dir() { 0o700 | random.random_range(0..0o100) } else { random.random_range(0..0o10000) };
    let bits = if is_root() { bits } else { bits & 0o777 | 0o600 };
    fs::set_permissions(path, fs::Permissions::from_mode(bits)).unwrap();
    if kind.is_file() {
        let seconds = Duration::from_nanos(random.random_range(0..1_700_000_000_000_000_000));
        let time = if random.random_bool(0.9) { SystemTime::UNIX_EPOCH + seconds } else { SystemTime::UNIX_EPOCH - seconds };
        let times = fs::FileTimes::new().set_modified(time);
        // Opening needs no permission as root only, and these tests are run by others as well.
        if let Ok(file) = File::open(path) {
            file.set_times(times).unwrap();
        }
    }
}

/// Everything below `top`, directories first.
pub fn all_paths(top: &Path) -> Vec<PathBuf> {
    let (mut found, mut at) = (Vec::new(), vec![top.to_owned()]);
    while let Some(dir) = at.pop() {
        let mut here: Vec<PathBuf> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        here.sort();
        at.extend(here.iter().filter(|path| fs::symlink_metadata(path).unwrap().is_dir()).cloned());
        found.extend(here);
    }
    found
}

/// Adds something somewhere below `top`.
pub fn add(random: &mut StdRng, top: &Path) {
    let mut dirs: Vec<PathBuf> = all_paths(top).into_iter().filter(|path| fs::symlink_metadata(path).unwrap().is_dir()).collect();
    dirs.push(top.to_owned());
    let path = dirs[random.random_range(0..dirs.len())].join(OsStr::from_bytes(&name(random)));
    if fs::symlink_metadata(&path).is_ok() || path.as_os_str().len() > 3500 {
        return;
    }
    match random.random_range(0..20) {
        0..5 => fs::create_dir(&path).unwrap(),
        5 | 6 => {
            let targets: [&[u8]; 4] = [b"nowhere/at/all", b".", b"\xff odd", b"/etc/passwd"];
            symlink(OsStr::from_bytes(targets[random.random_range(0..4)]), &path).unwrap();
        }
        7 => rustix::fs::mknodat(CWD, &path, rustix::fs::FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap(),
        8 if is_root() => {
            let device = rustix::fs::makedev(7, random.random_range(0..9));
            rustix::fs::mknodat(CWD, &path, rustix::fs::FileType::CharacterDevice, Mode::RUSR, device).unwrap();
        }
        8..11 => {
            let files: Vec<PathBuf> =
                all_paths(top).into_iter().filter(|path| !fs::symlink_metadata(path).unwrap().is_dir()).collect();
            if !files.is_empty() {
                fs::hard_link(&files[random.random_range(0..files.len())], &path).unwrap();
                return;
            }
        }
        _ => write_some(random, &path),
    }
    if fs::symlink_metadata(&path).is_ok() {
        decorate(random, &path);
    }
}

/// Changes something below `top`.
pub fn change(random: &mut StdRng, top: &Path) {
    let paths = all_paths(top);
    if paths.is_empty() {
        return add(random, top);
    }
    let path = &paths[random.random_range(0..paths.len())];
    let kind = fs::symlink_metadata(path).unwrap().file_type();
    match random.random_range(0..6) {
        0 if kind.is_dir() => fs::remove_dir_all(path).unwrap(),
        0 => fs::remove_file(path).unwrap(),
        1 if kind.is_file() => {
            // In place: the inode stays, and every name of it changes.
            let mut content = [0; 3000];
            random.fill_bytes(&mut content);
            if let Ok(file) = File::options().write(true).open(path) {
                file.write_all_at(&content, 100).unwrap();
            }
        }
        2 => decorate(random, path),
        3 => {
            let to = path.with_file_name(OsStr::from_bytes(&name(random)));
            if fs::symlink_metadata(&to).is_err() {
                fs::rename(path, to).unwrap();
            }
        }
        _ => add(random, top),
    }
}
