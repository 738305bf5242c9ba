//! The manifest: the spilled lines of the walk merged with those of what was stored last, compressed and sealed.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::base::{Error, Result};
use crate::codec::Sha256Digest;
use crate::codec::compress;
use crate::codec::digest::DigestingWriter;
use crate::codec::encrypt::Seal;
use crate::repo::base_cache::{BaseLine, BaseWriter};
use crate::repo::manifest::{Header, ManifestWriter};
use crate::repo::resume::GuardedLines;
use crate::source::postgres::unlogged::UnloggedNow;

/// The manifest as it will be stored, and what the next backup needs of it.
pub(super) struct Assembled {
    pub path: PathBuf,
    pub sha256: Sha256Digest,
    pub stored_bytes: u64,
    /// What a restore makes.
    pub tree: Tree,
    /// The lines for this host's cache, and their digest.
    pub lines: (PathBuf, Sha256Digest),
}

/// Counts of the tree that a restore makes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tree {
    pub entries: u64,
    pub raw_bytes: u64,
    pub bad_pages: u64,
}

/// Writes the manifest into `scratch` from the `entries` lines in `spill` and the `late` ones, both in ascending order of their
/// paths, and beside it the lines that this host keeps. Files of relations that turned out to be `unlogged` are left out.
///
/// # Errors
/// When one of the files cannot be read or written.
pub(super) fn assemble(
    scratch: &Path,
    header: &Header,
    (spill, entries): (&Path, u64),
    late: Vec<BaseLine>,
    mut unlogged: UnloggedNow,
    seal: &Seal,
    level: i32,
) -> Result<Assembled> {
    let path = scratch.join("manifest");
    let failed = |error: io::Error| Error::io("write", &path, error);
    let file = File::create(&path).map_err(failed)?;
    let sealed = seal.writer(DigestingWriter::new(BufWriter::new(file))).map_err(failed)?;
    let compressed = compress::stream_writer(sealed, level).map_err(failed)?;
    let mut manifest = ManifestWriter::new(compressed, header).map_err(failed)?;
    let lines_path = scratch.join("base");
    let mut lines = BaseWriter::create(&lines_path)?;
    let mut tree = Tree::default();
    let mut write = |line: &BaseLine| {
        tree.entries += 1;
        tree.raw_bytes += line.line.size_bytes;
        tree.bad_pages += line.line.bad_blocks.len() as u64;
        let written = match line.holder {
            0 => manifest.entry(&line.line),
            holder => manifest.reference(&line.line.path, holder),
        };
        written.map_err(failed)?;
        lines.line(line)
    };
    let mut late = late.into_iter().peekable();
    let mut spilled = 0;
    for line in GuardedLines::open(spill)? {
        spilled += 1;
        while let Some(earlier) = late.next_if(|late| late.line.path < line.line.path) {
            write(&earlier)?;
        }
        if !unlogged.holds(&line.line.path)? {
            write(&line)?;
        }
    }
    for line in late {
        write(&line)?;
    }
    if spilled != entries {
        return Err(Error::failed(format!("{} is damaged: it has {spilled} of {entries} entries", spill.display())));
    }
    let (compressed, _) = manifest.finish().map_err(failed)?;
    let sealed = compressed.finish().map_err(failed)?;
    let (mut out, sha256, stored_bytes) = sealed.finish().map_err(failed)?.finish();
    out.flush().map_err(failed)?;
    let lines = (lines_path, lines.finish()?);
    Ok(Assembled { path, sha256, stored_bytes, tree, lines })
}
