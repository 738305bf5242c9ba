//! The names in one directory, sorted by their bytes, in bounded memory.
//!
//! A directory is listed at once, so that the time between listing and reading is short and no position in a listing has to
//! survive changes. Names beyond [`HELD_BYTES`] go to an unlinked file in sorted runs, which are merged as they are taken:
//! an external merge sort. A name that the kernel lists twice, as some file systems do while names are added, comes once.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::RawDir;
use rustix::io::Errno;

use crate::base::{Error, Result};

/// Names held in memory, with their places, before a run of them goes to disk.
const HELD_BYTES: usize = 1 << 20;
/// Read from a run at once while merging.
const RUN_BUFFER_BYTES: usize = 16 << 10;
/// For the kernel to fill with names.
const LISTING_BYTES: usize = 32 << 10;

/// Names that come out in ascending order.
#[derive(Debug)]
pub struct Names(Source);

#[derive(Debug)]
enum Source {
    Held(Held),
    Spilled(Merge),
}

/// All names below `directory`, without `.` and `..`; and the kernel's error when it ended the listing early.
///
/// # Errors
/// When a run cannot be written to `scratch`.
pub fn list(directory: impl AsFd, scratch: &Path) -> Result<(Names, Option<Errno>)> {
    list_with(directory, scratch, HELD_BYTES)
}

fn list_with(directory: impl AsFd, scratch: &Path, held_bytes: usize) -> Result<(Names, Option<Errno>)> {
    let failed = |error: io::Error| {
        Error::io("write names to a scratch file in", scratch, error).hint("make room there, or name another state_dir")
    };
    let mut room = [MaybeUninit::uninit(); LISTING_BYTES];
    let mut listing = RawDir::new(directory.as_fd(), &mut room);
    let mut held = Held::default();
    let mut spill: Option<Spill> = None;
    let mut early_end = None;
    while let Some(found) = listing.next() {
        let name = match &found {
            Ok(found) => found.file_name().to_bytes(),
            Err(error) => {
                early_end = Some(*error);
                break;
            }
        };
        if matches!(name, b"." | b"..") {
            continue;
        }
        if held.size_bytes() + name.len() > held_bytes {
            let spill = match &mut spill {
                Some(spill) => spill,
                none => none.insert(Spill::new(scratch).map_err(failed)?),
            };
            spill.write_run(&mut held).map_err(failed)?;
        }
        held.push(name);
    }
    let Some(mut spill) = spill else {
        held.sort();
        return Ok((Names(Source::Held(held)), early_end));
    };
    spill.write_run(&mut held).map_err(failed)?;
    Ok((Names(Source::Spilled(spill.merge().map_err(failed)?)), early_end))
}

impl Names {
    /// The next name; none after the last.
    ///
    /// # Errors
    /// When the scratch file cannot be read.
    pub fn take_next(&mut self) -> Result<Option<OsString>> {
        let name = match &mut self.0 {
            Source::Held(held) => held.take_next(),
            Source::Spilled(merge) => {
                merge.take_next().map_err(|error| Error::failed("cannot read names back from a scratch file").caused_by(error))?
            }
        };
        Ok(name.map(OsString::from_vec))
    }
}

/// Names end to end, and where each begins and ends.
#[derive(Debug, Default)]
struct Held {
    bytes: Vec<u8>,
    spans: Vec<(u32, u32)>,
    taken: usize,
}

impl Held {
    fn size_bytes(&self) -> usize {
        self.bytes.len() + self.spans.len() * size_of::<(u32, u32)>()
    }

    fn push(&mut self, name: &[u8]) {
        let at = self.bytes.len() as u32;
        self.bytes.extend_from_slice(name);
        self.spans.push((at, self.bytes.len() as u32));
    }

    fn sort(&mut self) {
        let Self { bytes, spans, .. } = self;
        let name = |span: &(u32, u32)| &bytes[span.0 as usize..span.1 as usize];
        spans.sort_unstable_by(|a, b| name(a).cmp(name(b)));
        spans.dedup_by(|a, b| name(a) == name(b));
    }

    fn take_next(&mut self) -> Option<Vec<u8>> {
        let (from, to) = *self.spans.get(self.taken)?;
        self.taken += 1;
        Some(self.bytes[from as usize..to as usize].to_vec())
    }
}

/// Sorted runs, one after the other in one file; each name after its length in two bytes.
struct Spill {
    file: File,
    ends: Vec<u64>,
}

impl Spill {
    fn new(scratch: &Path) -> io::Result<Self> {
        Ok(Self { file: tempfile::tempfile_in(scratch)?, ends: Vec::new() })
    }

    /// Appends a run and empties `held`.
    fn write_run(&mut self, held: &mut Held) -> io::Result<()> {
        held.sort();
        let mut out = BufWriter::new(&self.file);
        let mut end = self.ends.last().copied().unwrap_or(0);
        for (from, to) in &held.spans {
            // A name has 255 bytes at most.
            out.write_all(&((to - from) as u16).to_le_bytes())?;
            out.write_all(&held.bytes[*from as usize..*to as usize])?;
            end += 2 + u64::from(to - from);
        }
        out.flush()?;
        drop(out);
        self.ends.push(end);
        *held = Held::default();
        Ok(())
    }

    fn merge(self) -> io::Result<Merge> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        let runs = starts.zip(&self.ends).map(|(at, end)| Run { at, end: *end, buffer: Vec::new(), used: 0 });
        let mut merge = Merge { file: self.file, runs: runs.collect(), heads: BinaryHeap::new(), last: None };
        for index in 0..merge.runs.len() {
            merge.advance(index)?;
        }
        Ok(merge)
    }
}

#[derive(Debug)]
struct Merge {
    file: File,
    runs: Vec<Run>,
    /// The next name of each run that has one.
    heads: BinaryHeap<Reverse<(Vec<u8>, usize)>>,
    last: Option<Vec<u8>>,
}

#[derive(Debug)]
struct Run {
    /// What is not in the buffer yet.
    at: u64,
    end: u64,
    buffer: Vec<u8>,
    used: usize,
}

impl Merge {
    fn take_next(&mut self) -> io::Result<Option<Vec<u8>>> {
        while let Some(Reverse((name, run))) = self.heads.pop() {
            self.advance(run)?;
            if self.last.as_ref() != Some(&name) {
                self.last = Some(name.clone());
                return Ok(Some(name));
            }
        }
        Ok(None)
    }

    fn advance(&mut self, run: usize) -> io::Result<()> {
        if let Some(name) = self.runs[run].next(&self.file)? {
            self.heads.push(Reverse((name, run)));
        }
        Ok(())
    }
}

impl Run {
    fn next(&mut self, file: &File) -> io::Result<Option<Vec<u8>>> {
        if self.used == self.buffer.len() && self.at == self.end {
            return Ok(None);
        }
        let length = self.bytes(file, 2)?;
        let length = usize::from(u16::from_le_bytes([length[0], length[1]]));
        Ok(Some(self.bytes(file, length)?))
    }

    /// The next `count` bytes, which are there: a run is read as it was written.
    fn bytes(&mut self, file: &File, count: usize) -> io::Result<Vec<u8>> {
        if self.buffer.len() - self.used < count {
            self.buffer.drain(..self.used);
            self.used = 0;
            let held = self.buffer.len();
            let more = usize::try_from(self.end - self.at).unwrap_or(usize::MAX).min(RUN_BUFFER_BYTES);
            self.buffer.resize(held + more, 0);
            file.read_exact_at(&mut self.buffer[held..], self.at)?;
            self.at += more as u64;
        }
        let bytes = self.buffer.get(self.used..self.used + count).ok_or(io::ErrorKind::UnexpectedEof)?.to_vec();
        self.used += count;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn names_come_sorted_whether_they_fit_or_not() {
        let dir = tempfile::tempdir().unwrap();
        let scratch = tempfile::tempdir().unwrap();
        let mut expected: Vec<OsString> =
            (0..3000_u32).map(|n| OsString::from(format!("{:x}", n.wrapping_mul(2_654_435_761)))).collect();
        expected.push(OsString::from("long".repeat(60)));
        expected.push(OsString::from_vec(b"\xff\xfe odd\n".to_vec()));
        for name in &expected {
            fs::write(dir.path().join(name), b"").unwrap();
        }
        expected.sort();
        for held_bytes in [usize::MAX, 64 << 10, 500] {
            let (mut names, early_end) = list_with(File::open(dir.path()).unwrap(), scratch.path(), held_bytes).unwrap();
            let mut found = Vec::new();
            while let Some(name) = names.take_next().unwrap() {
                found.push(name);
            }
            assert_eq!((found, early_end), (expected.clone(), None), "{held_bytes}");
        }
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_name_listed_twice_comes_once_within_a_run_and_across_runs() {
        let scratch = tempfile::tempdir().unwrap();
        let mut spill = Spill::new(scratch.path()).unwrap();
        for run in [&["b", "a", "b"][..], &["b", "c"], &[]] {
            let mut held = Held::default();
            run.iter().for_each(|name| held.push(name.as_bytes()));
            spill.write_run(&mut held).unwrap();
        }
        let mut merge = spill.merge().unwrap();
        let found: Vec<Vec<u8>> = std::iter::from_fn(|| merge.take_next().unwrap()).collect();
        assert_eq!(found, [b"a", b"b", b"c"]);
    }
}
