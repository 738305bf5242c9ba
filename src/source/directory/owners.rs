//! Names of numeric owners, also of those in access control lists: a backup keeps both, because another host may number its
//! accounts otherwise.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use nix::unistd::{Gid, Group, Uid, User};

use super::attributes::Attribute;
use super::entry::Node;

/// An access control list as an attribute: its version, and entries of tag, permissions and number, 2, 2 and 4 bytes,
/// little-endian. Of these tags the number is an account's.
const ACL_VERSION: [u8; 4] = [2, 0, 0, 0];
const ACL_USER: u16 = 0x02;
const ACL_GROUP: u16 = 0x08;

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

    /// `attribute` as it is to be set on this host: the accounts that an access control list names are mapped as owners are.
    /// A list whose form is unknown stays as it is.
    pub fn attribute<'a>(&self, attribute: &'a Attribute) -> Cow<'a, Attribute> {
        let Some((version, entries)) = attribute.value.split_at_checked(4) else { return Cow::Borrowed(attribute) };
        let is_list = attribute.name.starts_with(b"system.posix_acl_") && version == ACL_VERSION && entries.len() % 8 == 0;
        if !is_list {
            return Cow::Borrowed(attribute);
        }
        let mut mapped = attribute.clone();
        for entry in mapped.value[4..].chunks_exact_mut(8) {
            let (tag, id) =
                (u16::from_le_bytes([entry[0], entry[1]]), u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]));
            let here = match tag {
                ACL_USER => self.uids.get(&id),
                ACL_GROUP => self.gids.get(&id),
                _ => None,
            };
            if let Some(here) = here {
                entry[4..].copy_from_slice(&here.to_le_bytes());
            }
        }
        Cow::Owned(mapped)
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
    fn accounts_in_access_lists_are_mapped_as_owners_are() {
        let map = OwnerMap { uids: BTreeMap::from([(1000, 2000)]), gids: BTreeMap::from([(1000, 3000)]) };
        let list = |entries: &[(u16, u32)]| {
            let entry = |(tag, id): &(u16, u32)| [&tag.to_le_bytes()[..], &[7, 0], &id.to_le_bytes()].concat();
            [ACL_VERSION.to_vec(), entries.iter().flat_map(entry).collect()].concat()
        };
        let named = |name: &str, value: Vec<u8>| Attribute { name: name.into(), value };
        let before = list(&[(0x01, u32::MAX), (0x02, 1000), (0x02, 1001), (0x08, 1000), (0x10, 1000)]);
        let after = list(&[(0x01, u32::MAX), (0x02, 2000), (0x02, 1001), (0x08, 3000), (0x10, 1000)]);
        for name in ["system.posix_acl_access", "system.posix_acl_default"] {
            assert_eq!(*map.attribute(&named(name, before.clone())), named(name, after.clone()));
        }
        let others = [named("user.a", before.clone()), named("system.posix_acl_access", vec![2]), named("user.b", vec![])];
        let torn = named("system.posix_acl_access", before[..before.len() - 1].to_vec());
        for other in others.iter().chain([&torn]) {
            assert_eq!(&*map.attribute(other), other);
        }
    }

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
