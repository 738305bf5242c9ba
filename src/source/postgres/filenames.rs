//! What the names in a data directory mean: relation files, temporary files, and what a backup leaves out.
//!
//! Source: PostgreSQL `src/backend/backup/basebackup.c` (`excludeDirContents`, `excludeFiles`, `sendDir`) and
//! `src/common/relpath.c`, 13 to 18. The lists are the same in all of them.

use crate::source::Fork;

/// A relation file's name, taken apart: `16384`, `16384_fsm`, `16384_vm.1`, `16384_init`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelationFile<'a> {
    /// The digits of the relation's file number.
    pub number: &'a [u8],
    /// The fork.
    pub fork: Fork,
    /// Which file of the fork, counted from 0.
    pub segment: u32,
}

/// Says, in a data directory, that it is a standby which follows an archive.
pub const STANDBY_MARKER: &str = "lifeboat-standby.json";

/// Directories at the top whose content is left out: it is made anew by the server at start.
pub const EMPTIED_DIRECTORIES: [&[u8]; 7] =
    [b"pg_stat_tmp", b"pg_replslot", b"pg_dynshmem", b"pg_notify", b"pg_serial", b"pg_snapshots", b"pg_subtrans"];

/// Directories at the top that belong to the server: followed when somebody replaced one with a symbolic link.
const SERVER_DIRECTORIES: [&[u8]; 10] = [
    b"base",
    b"global",
    b"pg_commit_ts",
    b"pg_logical",
    b"pg_multixact",
    b"pg_stat",
    b"pg_tblspc",
    b"pg_twophase",
    b"pg_wal",
    b"pg_xact",
];

/// True for a top-level directory of the server's own.
pub fn is_server_directory(name: &[u8]) -> bool {
    SERVER_DIRECTORIES.contains(&name) || EMPTIED_DIRECTORIES.contains(&name)
}

/// True for a name that no backup holds, wherever it stands: leftovers, caches and marks of the running server.
///
/// Beyond `basebackup.c` it leaves out `backup_label.old` and `tablespace_map.old`, which a restore must not show, and the
/// marker of a warm standby.
pub fn is_excluded_name(name: &[u8]) -> bool {
    const EXACT: [&[u8]; 11] = [
        b"postgresql.auto.conf.tmp",
        b"current_logfiles.tmp",
        b"backup_label",
        b"backup_label.old",
        b"tablespace_map",
        b"tablespace_map.old",
        b"backup_manifest",
        b"postmaster.pid",
        b"postmaster.opts",
        b".DS_Store",
        STANDBY_MARKER.as_bytes(),
    ];
    EXACT.contains(&name) || name.starts_with(b"pg_internal.init") || name.starts_with(b"pgsql_tmp")
}

/// Parses the name of a permanent or unlogged relation's file.
pub fn parse_relation_file(name: &[u8]) -> Option<RelationFile<'_>> {
    let digits = name.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (number, mut rest) = name.split_at(digits);
    if !(1..=10).contains(&digits) {
        return None;
    }
    let forks: [(&[u8], Fork); 3] = [(b"_fsm", Fork::FreeSpaceMap), (b"_vm", Fork::VisibilityMap), (b"_init", Fork::Init)];
    let mut fork = Fork::Main;
    for (suffix, named) in forks {
        if let Some(after) = rest.strip_prefix(suffix) {
            (fork, rest) = (named, after);
            break;
        }
    }
    let segment = match rest.strip_prefix(b".") {
        Some(segment) => parse_segment(segment)?,
        None if rest.is_empty() => 0,
        None => return None,
    };
    Some(RelationFile { number, fork, segment })
}

/// True for a temporary relation's file: `t<backend>_<number>` with an optional fork and segment.
pub fn is_temporary_relation(name: &[u8]) -> bool {
    let Some(rest) = name.strip_prefix(b"t") else { return false };
    let backend = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    backend > 0 && rest[backend..].strip_prefix(b"_").is_some_and(|number| parse_relation_file(number).is_some())
}

/// True for a name made of digits only, as those of databases and tablespaces.
pub fn is_number(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().all(u8::is_ascii_digit)
}

fn parse_segment(digits: &[u8]) -> Option<u32> {
    let plain = is_number(digits) && digits[0] != b'0';
    plain.then(|| std::str::from_utf8(digits).ok()?.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relation_files_are_taken_apart() {
        for (name, fork, segment) in [
            ("16384", Fork::Main, 0),
            ("16384.12", Fork::Main, 12),
            ("16384_fsm", Fork::FreeSpaceMap, 0),
            ("16384_vm.1", Fork::VisibilityMap, 1),
            ("16384_init", Fork::Init, 0),
        ] {
            let expected = Some(RelationFile { number: b"16384", fork, segment });
            assert_eq!(parse_relation_file(name.as_bytes()), expected, "{name}");
        }
        for bad in [
            "",
            "PG_VERSION",
            "pg_filenode.map",
            "16384_",
            "16384_foo",
            "16384.",
            "16384.0",
            "16384.01",
            "16384.x",
            "12345678901",
        ] {
            assert_eq!(parse_relation_file(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn temporary_relations_are_recognised() {
        for name in ["t3_16384", "t12_16384_fsm", "t3_16384_vm.1"] {
            assert!(is_temporary_relation(name.as_bytes()), "{name}");
        }
        for name in ["3_16384", "t_16384", "t3_", "t3", "tablespace_map", "t3_16384x"] {
            assert!(!is_temporary_relation(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn exclusions_are_by_name_or_prefix() {
        for name in ["postmaster.pid", "pg_internal.init", "pg_internal.init.123", "pgsql_tmp", "pgsql_tmp12.3"] {
            assert!(is_excluded_name(name.as_bytes()), "{name}");
        }
        for name in ["postgresql.auto.conf", "current_logfiles", "backup_label.x", "standby.signal", "pg_control"] {
            assert!(!is_excluded_name(name.as_bytes()), "{name}");
        }
    }
}
