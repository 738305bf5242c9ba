//! `lifeboat ls SOURCE [PATH]`: what lies in a backup.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::base::{BackupId, Error, RelPath, Result, Timestamp};
use crate::cli::args::{LsArgs, OutputFormat};
use crate::cli::catalogue::{self, StreamedDocument, StreamedText, printable, unless_enough};
use crate::cli::context::Context;
use crate::cli::exit::Outcome;
use crate::engine::directory::catalogue::{Catalogue, Item};

/// The document `ls`, version 1, but for its list `entries`.
#[derive(Serialize)]
struct Head<'a> {
    source: String,
    backup: &'a BackupId,
    /// The moment of which it is.
    moment: Timestamp,
}

/// One of its entries.
#[derive(Serialize)]
struct Entry<'a> {
    path: &'a RelPath,
    kind: &'static str,
    /// Octal, as `chmod` takes it.
    mode: String,
    uid: u32,
    gid: u32,
    size_bytes: u64,
    modified: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<&'a str>,
    /// The first name of the same file.
    #[serde(skip_serializing_if = "Option::is_none")]
    link: Option<&'a RelPath>,
    /// What is wrong with it in the backup.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    marks: &'a [&'static str],
}

/// Lists a directory of a backup.
///
/// # Errors
/// When there is no such backup, no such path in it, or no identity that opens it.
pub async fn run(args: &LsArgs, context: &Context) -> Result<Outcome> {
    let settings = context.settings()?;
    let place = args.path.as_ref().map(place).transpose()?.flatten();
    let opened = catalogue::open(context, &settings, &args.source, &[&args.which()]).await?;
    let [catalogue] = opened.as_slice() else { return Err(Error::failed("there is no backup to list")) };
    context.progress.finish();
    let wanted = Wanted { place, recursive: args.recursive };
    let listed = match context.global.output {
        OutputFormat::Json => json(args, context, catalogue, &wanted),
        OutputFormat::Text => text(args, context, catalogue, &wanted),
    };
    unless_enough(context, listed)?;
    Ok(Outcome::Done)
}

/// The path as the backup has it; none for the top.
fn place(path: &std::ffi::OsString) -> Result<Option<RelPath>> {
    use std::os::unix::ffi::OsStrExt;
    let bytes = path.as_bytes();
    let bytes = bytes.strip_prefix(b"./").unwrap_or(bytes);
    let end = bytes.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last + 1);
    if bytes[..end].is_empty() || &bytes[..end] == b"." {
        return Ok(None);
    }
    RelPath::new(&bytes[..end])
        .map(Some)
        .map_err(|why| Error::usage(why).hint("write it relative to the protected directory, for example: docs/letters"))
}

/// What is listed.
struct Wanted {
    place: Option<RelPath>,
    recursive: bool,
}

impl Wanted {
    /// Whether an item is told. What is no directory is told itself, of a directory what lies in it.
    fn wants(&self, item: &Item) -> bool {
        let path = item.path.as_bytes();
        let rest = match &self.place {
            None => path,
            Some(place) if *place == item.path => return item.kind != "directory",
            Some(place) => match path.strip_prefix(place.as_bytes()).and_then(|rest| rest.strip_prefix(b"/")) {
                Some(rest) => rest,
                None => return false,
            },
        };
        self.recursive || !rest.contains(&b'/')
    }

    /// Whether the item shows that the place is there.
    fn is_there(&self, item: &Item) -> bool {
        let below = |place: &RelPath| {
            item.path.as_bytes().strip_prefix(place.as_bytes()).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
        };
        self.place.as_ref().is_none_or(below)
    }

    /// Hands what is wanted to `tell`.
    fn each(&self, context: &Context, catalogue: &Catalogue, mut tell: impl FnMut(&Item) -> Result<()>) -> Result<()> {
        let mut is_there = self.place.is_none();
        for item in catalogue.items()? {
            context.cancel.check()?;
            let item = item?;
            is_there |= self.is_there(&item);
            if self.wants(&item) {
                tell(&item)?;
            }
        }
        match &self.place {
            Some(place) if !is_there => {
                Err(Error::failed(format!("{} is not in backup {}", printable(place.as_bytes()), catalogue.backup.id))
                    .hint("leave PATH out to see the top; it counts from the protected directory"))
            }
            _ => Ok(()),
        }
    }
}

fn json(args: &LsArgs, context: &Context, catalogue: &Catalogue, wanted: &Wanted) -> Result<()> {
    let backup = &catalogue.backup;
    let head = Head { source: args.source.to_string(), backup: &backup.id, moment: backup.stop_time };
    let mut document = StreamedDocument::begin("ls", 1, &head, "entries")?;
    wanted.each(context, catalogue, |item| {
        document.item(&Entry {
            path: &item.path,
            kind: item.kind,
            mode: format!("{:04o}", item.mode),
            uid: item.uid,
            gid: item.gid,
            size_bytes: item.size_bytes,
            modified: item.modified,
            target: item.target.as_deref(),
            link: item.link.as_ref(),
            marks: &item.marks,
        })
    })?;
    document.finish()
}

fn text(args: &LsArgs, context: &Context, catalogue: &Catalogue, wanted: &Wanted) -> Result<()> {
    let header = catalogue.header()?;
    let mut out = StreamedText::begin();
    wanted.each(context, catalogue, |item| {
        let name = shown(item);
        match args.long {
            true => out.line(&long(item, &name, &header.users, &header.groups)),
            false => out.line(&name),
        }
    })?;
    out.finish()
}

/// A directory has a slash at its end; what is wrong with an entry stands behind it.
fn shown(item: &Item) -> String {
    let mut text = printable(item.path.as_bytes());
    if item.kind == "directory" {
        text.push('/');
    }
    if let Some(target) = &item.target {
        text += &format!(" -> {}", printable(target.as_bytes()));
    }
    if let Some(first) = &item.link {
        text += &format!(" = {}", printable(first.as_bytes()));
    }
    if !item.marks.is_empty() {
        text += &format!("  ({})", item.marks.join(", "));
    }
    text
}

fn long(item: &Item, name: &str, users: &BTreeMap<u32, String>, groups: &BTreeMap<u32, String>) -> String {
    let called = |names: &BTreeMap<u32, String>, id: u32| names.get(&id).cloned().unwrap_or_else(|| id.to_string());
    let (user, group) = (called(users, item.uid), called(groups, item.gid));
    let time = item.modified.human_seconds();
    format!("{} {user:8} {group:8} {:>12} {time}  {name}", mode(item), item.size_bytes)
}

/// As `ls -l` has it: `drwxr-xr-x`.
fn mode(item: &Item) -> String {
    let kind = match item.kind {
        "directory" => 'd',
        "symlink" | "tablespace" => 'l',
        "fifo" => 'p',
        "character_device" => 'c',
        "block_device" => 'b',
        _ => '-',
    };
    let bit = |bit: u32, letter: char| if item.mode & bit != 0 { letter } else { '-' };
    let last = |execute: u32, special: u32, (both, only): (char, char)| match (item.mode & special != 0, item.mode & execute != 0)
    {
        (false, _) => bit(execute, 'x'),
        (true, true) => both,
        (true, false) => only,
    };
    [
        kind,
        bit(0o400, 'r'),
        bit(0o200, 'w'),
        last(0o100, 0o4000, ('s', 'S')),
        bit(0o040, 'r'),
        bit(0o020, 'w'),
        last(0o010, 0o2000, ('s', 'S')),
        bit(0o004, 'r'),
        bit(0o002, 'w'),
        last(0o001, 0o1000, ('t', 'T')),
    ]
    .iter()
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(path: &str, kind: &'static str, mode: u32) -> Item {
        Item {
            path: RelPath::new(path).unwrap(),
            kind,
            mode,
            uid: 0,
            gid: 7,
            size_bytes: 5,
            modified: Timestamp::from_unix_micros(0).unwrap(),
            target: None,
            link: None,
            marks: Vec::new(),
        }
    }

    #[test]
    fn a_directory_is_listed_and_what_is_none_is_told_itself() {
        let items = [
            item("docs", "directory", 0o755),
            item("docs/a", "file", 0o644),
            item("docs/deep", "directory", 0o755),
            item("docs/deep/b", "file", 0o644),
            item("docs-old", "file", 0o644),
        ];
        let listed = |path: &str, recursive: bool| -> Vec<String> {
            let wanted = Wanted { place: place(&path.into()).unwrap(), recursive };
            items.iter().filter(|item| wanted.wants(item)).map(|item| item.path.to_string()).collect()
        };
        assert_eq!(listed("", false), ["docs", "docs-old"]);
        assert_eq!(listed("./docs/", false), ["docs/a", "docs/deep"]);
        assert_eq!(listed("docs", true), ["docs/a", "docs/deep", "docs/deep/b"]);
        assert_eq!(listed("docs/a", false), ["docs/a"]);
        assert!(place(&"../up".into()).is_err() && place(&"/".into()).unwrap().is_none());
        let is_there =
            |path: &str| items.iter().any(|item| Wanted { place: place(&path.into()).unwrap(), recursive: false }.is_there(item));
        assert!(is_there("docs/deep") && !is_there("doc") && !is_there("docs/deep/b/c"));
    }

    #[test]
    fn modes_read_as_ls_shows_them() {
        for (kind, bits, shown) in [
            ("directory", 0o1777, "drwxrwxrwt"),
            ("file", 0o6711, "-rws--s--x"),
            ("symlink", 0o7000, "l--S--S--T"),
            ("fifo", 0o640, "prw-r-----"),
        ] {
            assert_eq!(mode(&item("x", kind, bits)), shown);
        }
        let names = BTreeMap::from([(0, "root".to_owned())]);
        assert_eq!(
            long(&item("x", "file", 0o644), "x", &names, &names),
            "-rw-r--r-- root     7                   5 1970-01-01 00:00:00 UTC  x"
        );
    }
}
