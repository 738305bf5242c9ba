//! The manifest: the spilled lines of the walk merged with those of what was stored last, compressed and sealed.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::base::{Error, Result};
use crate::codec::Sha256Digest;
use crate::codec::compress;
use crate::codec::digest::DigestingWriter;
use crate::codec::encrypt::Seal;
use crate::repo::manifest::{FileLine, Footer, Header, ManifestWriter};

/// The manifest as it will be stored.
pub(super) struct Assembled {
    pub path: PathBuf,
    pub sha256: Sha256Digest,
    pub stored_bytes: u64,
    pub footer: Footer,
}

/// Writes the manifest to `path` from the lines in `spill` and the `late` ones, both in ascending order of their paths.
///
/// # Errors
/// When one of the files cannot be read or written.
pub(super) fn assemble(
    path: &Path,
    header: &Header,
    spill: &Path,
    late: Vec<FileLine>,
    seal: &Seal,
    level: i32,
) -> Result<Assembled> {
    let failed = |error: io::Error| Error::io("write", path, error);
    let file = File::create(path).map_err(failed)?;
    let sealed = seal.writer(DigestingWriter::new(BufWriter::new(file))).map_err(failed)?;
    let compressed = compress::stream_writer(sealed, level).map_err(failed)?;
    let mut manifest = ManifestWriter::new(compressed, header).map_err(failed)?;
    let mut late = late.into_iter().peekable();
    for line in spilled(spill)? {
        let line = line?;
        while let Some(earlier) = late.next_if(|late| late.path < line.path) {
            manifest.entry(&earlier).map_err(failed)?;
        }
        manifest.entry(&line).map_err(failed)?;
    }
    for line in late {
        manifest.entry(&line).map_err(failed)?;
    }
    let (compressed, footer) = manifest.finish().map_err(failed)?;
    let sealed = compressed.finish().map_err(failed)?;
    let (mut out, sha256, stored_bytes) = sealed.finish().map_err(failed)?.finish();
    out.flush().map_err(failed)?;
    Ok(Assembled { path: path.to_owned(), sha256, stored_bytes, footer })
}

fn spilled(path: &Path) -> Result<impl Iterator<Item = Result<FileLine>>> {
    let read_error = |error: io::Error| Error::io("read", path, error);
    let file = File::open(path).map_err(read_error)?;
    let path = path.to_owned();
    Ok(BufReader::new(file).split(b'\n').map(move |line| {
        let line = line.map_err(|error| Error::io("read", &path, error))?;
        serde_json::from_slice(&line).map_err(|error| Error::failed(format!("{} is damaged", path.display())).caused_by(error))
    }))
}
