//! The manifest: the spilled lines, with those of the base that hold still, compressed and sealed; and beside it what this host
//! keeps of them. Streams on all sides.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::gather::{SpillReader, Spilled};
use super::line::entry_of;
use crate::base::{Error, RelPath, Result};
use crate::codec::Sha256Digest;
use crate::codec::compress;
use crate::codec::digest::DigestingWriter;
use crate::codec::encrypt::Seal;
use crate::repo::base_cache::{BaseLine, BaseReader, BaseWriter, PageMarks};
use crate::repo::manifest::{Header, ManifestWriter};
use crate::source::directory::links::LinkCheck;

/// The manifest as it will be stored, and what the next backup needs of it.
pub(super) struct Assembled {
    pub path: PathBuf,
    pub sha256: Sha256Digest,
    pub stored_bytes: u64,
    /// Entries in the tree.
    pub entries: u64,
    /// Bytes of data in it.
    pub raw_bytes: u64,
    /// Entries that are not whole.
    pub flaws: u64,
    /// The lines for this host's cache, and their digest.
    pub lines: (PathBuf, Sha256Digest),
}

/// The base's lines, as a backup that builds on it counts owners.
struct Base(Option<std::iter::Peekable<BaseReader>>);

impl Base {
    fn open(path: Option<&Path>) -> Result<Self> {
        Ok(Self(path.map(BaseReader::open).transpose()?.map(Iterator::peekable)))
    }

    /// The line for `path`; paths are asked for in ascending order.
    fn line(&mut self, path: &RelPath) -> Result<Option<BaseLine>> {
        let Some(lines) = &mut self.0 else { return Ok(None) };
        while lines.next_if(|line| line.as_ref().is_ok_and(|line| line.line.path < *path)).is_some() {}
        // An error is handed out, too.
        let found = lines.next_if(|line| !line.as_ref().is_ok_and(|line| line.line.path > *path)).transpose()?;
        Ok(found.map(BaseLine::shifted))
    }
}

/// Writes the manifest into `scratch` from the `expected` lines in `spill` and what they keep of the base, whose lines are in
/// the file `base`.
///
/// # Errors
/// When one of the files cannot be read or written, or is not whole.
pub(super) fn assemble(
    scratch: &Path,
    header: &Header,
    (spill, expected): (&Path, u64),
    base: Option<&Path>,
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
    let mut base = Base::open(base)?;
    let (mut entries, mut raw_bytes, mut flaws) = (0, 0, 0);
    let mut links = LinkCheck::new(scratch);
    for spilled in SpillReader::open(spill)? {
        let line = resolve(spilled?, &mut base)?;
        links.check(&entry_of(&line.line)?)?;
        entries += 1;
        raw_bytes += line.line.size_bytes;
        flaws += line.line.flaws();
        let written = match line.holder {
            0 => manifest.entry(&line.line),
            holder => manifest.reference(&line.line.path, holder),
        };
        written.map_err(failed)?;
        lines.line(&line)?;
    }
    if entries != expected {
        return Err(Error::failed(format!("{} is damaged: it has {entries} of {expected} entries", spill.display())));
    }
    let (compressed, _) = manifest.finish().map_err(failed)?;
    let sealed = compressed.finish().map_err(failed)?;
    let (mut out, sha256, stored_bytes) = sealed.finish().map_err(failed)?.finish();
    out.flush().map_err(failed)?;
    Ok(Assembled { path, sha256, stored_bytes, entries, raw_bytes, flaws, lines: (lines_path, lines.finish()?) })
}

/// The line that `spilled` stands for. One that is to the last byte what the base has is the base's.
fn resolve(spilled: Spilled, base: &mut Base) -> Result<BaseLine> {
    match spilled {
        Spilled::Kept(path) => base
            .line(&path)?
            .ok_or_else(|| Error::failed(format!("the base's line for {path} was lost on the way: this is a bug"))),
        Spilled::Line(line) => match base.line(&line.path)? {
            Some(known) if known.line == *line => Ok(known),
            _ => Ok(BaseLine { line: *line, holder: 0, stamp: None, marks: PageMarks::default() }),
        },
    }
}
