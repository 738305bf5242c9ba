//! Names of numeric owners, also of those in access control lists: a backup keeps both, because another host may number its
//! accounts otherwise.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use nix::errno::Errno;
use nix::unistd::{Gid, Group, Uid, User};

use super::attributes::Attribute;
use super::entry::Node;

/// An access control list as an attribute: its version, and entries of tag, permissions and number, 2, 2 and 4 bytes,
/// little-endian. Of these tags the number is an account's.
const ACL_VERSION: [u8; 4] = [2, 0, 0, 0];
const ACL_USER: u16 = 0x02;
const ACL_GROUP: u16 = 0x08;
const LIST_ENTRY_BYTES: usize = 8;

/// The owners met in a backup; grows with the number of accounts, not of files.
#[derive(Clone, Debug, Default)]
pub struct Owners {
    uids: BTreeSet<u32>,
    gids: BTreeSet<u32>,
}

impl Owners {
    /// Takes note of who owns `node`, and of whom its access control lists name.
    pub fn add(&mut self, node: &Node) {
        self.uids.insert(node.uid);
        self.gids.insert(node.gid);
        for entry in node.attributes.iter().filter_map(list_of).flat_map(|list| list.chunks_exact(LIST_ENTRY_BYTES)) {
            match account(entry) {
                (ACL_USER, uid) => self.uids.insert(uid),
                (ACL_GROUP, gid) => self.gids.insert(gid),
                _ => continue,
            };
        }
    }

    /// Names of users and of groups as this host knows them.
    pub fn names(&self) -> Names {
        let user = |uid: u32| Ok(User::from_uid(Uid::from_raw(uid))?.map(|user| user.name));
        let group = |gid: u32| Ok(Group::from_gid(Gid::from_raw(gid))?.map(|group| group.name));
        self.names_by(user, group)
    }

    fn names_by(
        &self,
        user: impl Fn(u32) -> nix::Result<Option<String>>,
        group: impl Fn(u32) -> nix::Result<Option<String>>,
    ) -> Names {
        let mut unanswered = Unanswered::default();
        let users = self.uids.iter().filter_map(|uid| Some((*uid, unanswered.or_name(user(*uid))?))).collect();
        let groups = self.gids.iter().filter_map(|gid| Some((*gid, unanswered.or_name(group(*gid))?))).collect();
        Names { users, groups, unanswered: unanswered.told() }
    }
}

/// Names of accounts, by number.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// Of users; those without a name are left out.
    pub users: BTreeMap<u32, String>,
    /// Of groups, likewise.
    pub groups: BTreeMap<u32, String>,
    /// Says so when this host could not find out whether some have a name.
    pub unanswered: Option<String>,
}

/// Look-ups that failed: whoever keeps the accounts did not answer, which is not the same as "no such name".
#[derive(Default)]
struct Unanswered {
    count: u64,
    first: Option<Errno>,
}

impl Unanswered {
    fn or_name<T>(&mut self, answer: nix::Result<Option<T>>) -> Option<T> {
        match answer {
            Ok(found) => found,
            // Some services say "no such name" like this; getpwnam(3) lists them.
            Err(Errno::ENOENT | Errno::ESRCH | Errno::EBADF | Errno::EPERM) => None,
            Err(error) => {
                self.count += 1;
                self.first.get_or_insert(error);
                None
            }
        }
    }

    fn told(&self) -> Option<String> {
        let first = std::io::Error::from(self.first?);
        let accounts = if self.count == 1 { "an account".to_owned() } else { format!("{} accounts", self.count) };
        Some(format!("{accounts} could not be looked up on this host: {first}"))
    }
}

/// The entries of `attribute` when it is an access control list of a known form.
fn list_of(attribute: &Attribute) -> Option<&[u8]> {
    let (version, entries) = attribute.value.split_at_checked(ACL_VERSION.len())?;
    let is_list = attribute.name.starts_with(b"system.posix_acl_") && version == ACL_VERSION;
    (is_list && entries.len() % LIST_ENTRY_BYTES == 0).then_some(entries)
}

/// Tag and number of one entry of a list.
fn account(entry: &[u8]) -> (u16, u32) {
    (u16::from_le_bytes([entry[0], entry[1]]), u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]))
}

/// Owners to set on the host that is restored to.
#[derive(Clone, Debug, Default)]
pub struct OwnerMap {
    uids: BTreeMap<u32, u32>,
    gids: BTreeMap<u32, u32>,
}

impl OwnerMap {
    /// By name where this host has an account of that name, by number otherwise; says so when this host could not find out
    /// whether it has.
    pub fn by_name(users: &BTreeMap<u32, String>, groups: &BTreeMap<u32, String>) -> (Self, Option<String>) {
        let mut unanswered = Unanswered::default();
        let mut uid = |name: &str| unanswered.or_name(User::from_name(name)).map(|user| user.uid.as_raw());
        let uids = users.iter().filter_map(|(number, name)| Some((*number, uid(name)?))).collect();
        let mut gid = |name: &str| unanswered.or_name(Group::from_name(name)).map(|group| group.gid.as_raw());
        let gids = groups.iter().filter_map(|(number, name)| Some((*number, gid(name)?))).collect();
        (Self { uids, gids }, unanswered.told())
    }

    /// The numbers as they were.
    pub fn by_number() -> Self {
        Self::default()
    }

    /// `attribute` as it is to be set on this host: the accounts that an access control list names are mapped as owners are.
    /// A list whose form is unknown stays as it is.
    pub fn attribute<'a>(&self, attribute: &'a Attribute) -> Cow<'a, Attribute> {
        if list_of(attribute).is_none() {
            return Cow::Borrowed(attribute);
        }
        let mut mapped = attribute.clone();
        for entry in mapped.value[ACL_VERSION.len()..].chunks_exact_mut(LIST_ENTRY_BYTES) {
            let here = match account(entry) {
                (ACL_USER, uid) => self.uids.get(&uid),
                (ACL_GROUP, gid) => self.gids.get(&gid),
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
        let (map, unanswered) = OwnerMap::by_name(&users, &BTreeMap::new());
        assert_eq!((map.uids.get(&4711), map.uids.get(&4712), unanswered), (Some(&0), None, None));
        let owners = Owners { uids: BTreeSet::from([0, 4_294_967_000]), gids: BTreeSet::from([0]) };
        let Names { users, groups, unanswered } = owners.names();
        assert_eq!((users.len(), users[&0].as_str(), groups[&0].as_str(), unanswered), (1, "root", "root", None));
    }

    #[test]
    fn a_service_that_does_not_answer_is_told_from_one_that_knows_no_such_account() {
        let owners = Owners { uids: BTreeSet::from([1, 2, 3]), gids: BTreeSet::from([1, 4]) };
        let answer = |number: u32| match number {
            1 => Ok(Some("one".to_owned())),
            2 => Ok(None),
            3 => Err(Errno::ESRCH),
            _ => Err(Errno::EAGAIN),
        };
        let Names { users, groups, unanswered } = owners.names_by(answer, answer);
        assert_eq!((users.len(), groups.len()), (1, 1));
        let told = unanswered.unwrap();
        assert!(told.starts_with("an account could not be looked up on this host: "), "{told}");
        assert_eq!(owners.names_by(answer, |_| Ok(None)).unanswered, None);
    }
}
