//! Accounts by name: on a host that numbers them otherwise, everything belongs to whom it belonged.

use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::unistd::{Group, User};
use rustix::fs::{XattrFlags, lgetxattr, lsetxattr};

use crate::stage::{SOURCE, Stage, wrapped};
use crate::support::process;
use crate::trees::{access_list, is_root};

const OWNER: &str = "daemon";
const NAMED: &str = "games";
/// Named by a default list alone.
const INHERITED: &str = "mail";
const RUN_TIMEOUT: Duration = Duration::from_secs(60);

fn list_of(path: &Path, name: &str) -> Vec<u8> {
    let mut room = [0; 1024];
    let length = lgetxattr(path, name, &mut room[..]).unwrap_or(0);
    room[..length].to_vec()
}

fn user(name: &str) -> u32 {
    User::from_name(name).expect("accounts").expect("an account of every Debian").uid.as_raw()
}

fn group(name: &str) -> u32 {
    Group::from_name(name).expect("groups").expect("a group of every Debian").gid.as_raw()
}

/// The host's accounts, those with a number in `numbers` under that one.
fn renumbered(from: &str, numbers: &[(&str, u32)], into: PathBuf) -> PathBuf {
    let lines = std::fs::read_to_string(from).expect("readable");
    let line = |line: &str| {
        let mut fields: Vec<String> = line.split(':').map(str::to_owned).collect();
        if let Some((_, number)) = numbers.iter().find(|(name, _)| *name == fields[0]) {
            fields[2] = number.to_string();
        }
        fields.join(":") + "\n"
    };
    std::fs::write(&into, lines.lines().map(line).collect::<String>()).expect("own directory");
    into
}

/// `command` where other accounts are.
fn elsewhere(command: &Command, users: &Path, groups: &Path) -> Command {
    let script = "mount --bind \"$1\" /etc/passwd && mount --bind \"$2\" /etc/group && shift 2 && exec \"$@\"";
    let mut wrapper = Command::new("unshare");
    wrapper.args(["--mount", "sh", "-c", script, "sh"]).arg(users).arg(groups);
    wrapped(wrapper, command)
}

#[test]
fn owners_and_access_lists_follow_the_names_to_another_host() {
    let stage = Stage::as_root("");
    if !is_root() {
        return println!("skipped: only root can give files away, or number accounts otherwise");
    }
    chown(&stage.tree, Some(user(OWNER)), Some(group(OWNER))).expect("own directory");
    let file = stage.write("shared.txt", b"shared");
    let inner = stage.tree.join("inner");
    std::fs::create_dir(&inner).expect("own directory");
    for (path, name, list) in [
        (&file, "system.posix_acl_access", access_list(user(NAMED), Some(group(NAMED)))),
        (&inner, "system.posix_acl_default", access_list(user(INHERITED), Some(group(INHERITED)))),
    ] {
        if let Err(error) = lsetxattr(path, name, &list, XattrFlags::empty()) {
            return println!("skipped: {name} cannot be set here: {error}");
        }
    }
    stage.backup("full");

    let numbers = |first: u32| [(OWNER, first), (NAMED, first + 1), (INHERITED, first + 2)];
    let users = renumbered("/etc/passwd", &numbers(47_110), stage.restored.join("passwd"));
    let groups = renumbered("/etc/group", &numbers(47_210), stage.restored.join("group"));
    let into = stage.restored.join("there");
    let command = stage.command(&stage.rescue, &["restore", SOURCE, "--into", &into.display().to_string()]);
    let output = process::run(elsewhere(&command, &users, &groups), RUN_TIMEOUT).success();
    assert!(!output.stderr.contains("looked up"), "every name was found: {output}");
    let top = into.metadata().expect("restored");
    assert_eq!((top.uid(), top.gid()), (47_110, 47_210), "the directory itself");
    assert_eq!(list_of(&into.join("shared.txt"), "system.posix_acl_access"), access_list(47_111, Some(47_211)));
    assert_eq!(list_of(&into.join("inner"), "system.posix_acl_default"), access_list(47_112, Some(47_212)));
}
