//! Names of numeric owners: a backup keeps both, because another host may number its accounts otherwise.

use std::collections::{BTreeMap, BTreeSet};

use nix::unistd::{Gid, Group, Uid, User};

use super::entry::Node;

/// The owners met in a backup; grows with the number of accounts, not of files.
#[derive(Clone, Debug, Default)]
pub struct Owners {
    uids: BTreeSet<u32>,
    gids: BTreeSet<u32>,
}

impl Owners {
    /// Takes note of who owns `node`.
    pub fn add(&mut self, node: &Node) {
        self.uids.insert(node.uid);
        self.gids.insert(node.gid);
    }

    /// Names of users and of groups, by number; those that this host knows no name for are left out.
    pub fn names(&self) -> (BTreeMap<u32, String>, BTreeMap<u32, String>) {
        let user = |uid: u32| User::from_uid(Uid::from_raw(uid)).ok().flatten().map(|user| user.name);
        let group = |gid: u32| Group::from_gid(Gid::from_raw(gid)).ok().flatten().map(|group| group.name);
        let users = self.uids.iter().filter_map(|uid| Some((*uid, user(*uid)?))).collect();
        (users, self.gids.iter().filter_map(|gid| Some((*gid, group(*gid)?))).collect())
    }
}

/// Owners to set on the host that is restored to.
#[derive(Clone, Debug, Default)]
pub struct OwnerMap {
    uids: BTreeMap<u32, u32>,
    gids: BTreeMap<u32, u32>,
}

impl OwnerMap {
    /// By name where this host has an account of that name, by number otherwise.
    pub fn by_name(users: &BTreeMap<u32, String>, groups: &BTreeMap<u32, String>) -> Self {
        let uid = |name: &str| User::from_name(name).ok().flatten().map(|user| user.uid.as_raw());
        let gid = |name: &str| Group::from_name(name).ok().flatten().map(|group| group.gid.as_raw());
        Self {
            uids: users.iter().filter_map(|(number, name)| Some((*number, uid(name)?))).collect(),
            gids: groups.iter().filter_map(|(number, name)| Some((*number, gid(name)?))).collect(),
        }
    }

    /// The numbers as they were.
    pub fn by_number() -> Self {
        Self::default()
    }

    /// Owner and group of `node` on this host.
    pub fn of(&self, node: &Node) -> (u32, u32) {
        (*self.uids.get(&node.uid).unwrap_or(&node.uid), *self.gids.get(&node.gid).unwrap_or(&node.gid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_to_this_hosts_numbers_and_others_stay() {
        let users = BTreeMap::from([(4711, "root".to_owned()), (4712, "nobody-has-this-name".to_owned())]);
        let map = OwnerMap::by_name(&users, &BTreeMap::new());
        assert_eq!((map.uids.get(&4711), map.uids.get(&4712)), (Some(&0), None));
        let owners = Owners { uids: BTreeSet::from([0, 4_294_967_000]), gids: BTreeSet::from([0]) };
        let (users, groups) = owners.names();
        assert_eq!((users.len(), users[&0].as_str(), groups[&0].as_str()), (1, "root", "root"));
    }
}
