//! Names of numeric owners: a backup keeps both, because another host may number its accounts otherwise.

use std::collections::{BTreeMap, BTreeSet};

use nix::unistd::{Gid, Group, Uid, User};

/// The names of `uids` on this host; those without one are left out.
pub fn user_names(uids: &BTreeSet<u32>) -> BTreeMap<u32, String> {
    let name = |uid: u32| User::from_uid(Uid::from_raw(uid)).ok().flatten().map(|user| user.name);
    uids.iter().filter_map(|uid| Some((*uid, name(*uid)?))).collect()
}

/// The names of `gids` on this host; those without one are left out.
pub fn group_names(gids: &BTreeSet<u32>) -> BTreeMap<u32, String> {
    let name = |gid: u32| Group::from_gid(Gid::from_raw(gid)).ok().flatten().map(|group| group.name);
    gids.iter().filter_map(|gid| Some((*gid, name(*gid)?))).collect()
}

/// The number that `name` has on this host.
pub fn uid_of(name: &str) -> Option<u32> {
    User::from_name(name).ok().flatten().map(|user| user.uid.as_raw())
}

/// The number that group `name` has on this host.
pub fn gid_of(name: &str) -> Option<u32> {
    Group::from_name(name).ok().flatten().map(|group| group.gid.as_raw())
}
