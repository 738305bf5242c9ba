//! Every page of a stopped cluster compared with its checksum; and, for a self-test, one bit of one page flipped.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::control::ControlFile;
use super::page::{PAGE_BYTES, Page, PageState, is_in_rows, page_lsn, verify_page};
use super::walk::{Walk, WalkOptions};
use crate::base::{Cancel, Error, Result};
use crate::source::{Entry, EntryKind, Fork};

/// Bad pages that are named; more only repeat themselves.
const MOST_NAMED: usize = 20;
/// Pages that are looked at to choose one to spoil.
const MOST_CANDIDATES: u32 = 4096;
/// Lowest file number of what users make.
const FIRST_USER_FILE: u32 = 16384;
/// Where in the page the bit is flipped: among the rows, which grow from the page's end.
const FLIPPED_BYTE: usize = PAGE_BYTES - 100;

/// What the pages of a cluster are like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageSurvey {
    /// Pages read.
    pub pages: u64,
    /// Those that PostgreSQL would refuse.
    pub bad: u64,
    /// Path and block of the first of them.
    pub named: Vec<String>,
}

/// Reads every page of the cluster in `data`, whose server must not run; `None` when it has no checksums.
///
/// # Errors
/// When a file cannot be read, or on the wish to stop.
pub fn survey_pages(data: &Path, major: u32, cancel: &Cancel) -> Result<Option<PageSurvey>> {
    let control = ControlFile::read(data)?;
    if control.data_checksum_version == 0 {
        return Ok(None);
    }
    let mut survey = PageSurvey::default();
    for entry in Walk::new(data, WalkOptions::new(major, &control))? {
        cancel.check()?;
        let entry = entry?;
        let EntryKind::Pages { first_block, .. } = entry.kind else { continue };
        let judged = each_page(&entry.location, |at, page| {
            survey.pages += 1;
            if verify_page(page, first_block + at, true).is_bad() {
                survey.bad += 1;
                if survey.named.len() < MOST_NAMED {
                    survey.named.push(format!("{} block {}", entry.path, first_block + at));
                }
            }
            true
        });
        judged.map_err(|error| Error::io("read", &entry.location, error))?;
    }
    Ok(Some(survey))
}

/// A page that a self-test spoiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpoiledPage {
    /// The file.
    pub file: PathBuf,
    /// The page within the file.
    pub page: u32,
}

/// Flips one bit in the page of a user's relation that was changed the longest ago, which replay will hardly write
/// again; `None` when nobody has made a relation with rows.
///
/// # Errors
/// When a file cannot be read or written.
pub fn flip_bit(data: &Path, major: u32) -> Result<Option<SpoiledPage>> {
    let control = ControlFile::read(data)?;
    let (mut looked_at, mut oldest) = (0, None);
    for entry in Walk::new(data, WalkOptions::new(major, &control))? {
        let entry = entry?;
        let EntryKind::Pages { first_block, fork: Fork::Main } = entry.kind else { continue };
        if !is_users(&entry) {
            continue;
        }
        let judged = each_page(&entry.location, |at, page| {
            looked_at += 1;
            let lsn = page_lsn(page);
            let older = oldest.as_ref().is_none_or(|(oldest, _)| lsn < *oldest);
            let good = verify_page(page, first_block + at, false) == PageState::Good;
            if older && good && is_in_rows(page, FLIPPED_BYTE) {
                oldest = Some((lsn, SpoiledPage { file: entry.location.clone(), page: at }));
            }
            looked_at < MOST_CANDIDATES
        });
        judged.map_err(|error| Error::io("read", &entry.location, error))?;
        if looked_at >= MOST_CANDIDATES && oldest.is_some() {
            break;
        }
    }
    let Some((_, spoiled)) = oldest else { return Ok(None) };
    let offset = u64::from(spoiled.page) * PAGE_BYTES as u64 + FLIPPED_BYTE as u64;
    let flip = || {
        let file = OpenOptions::new().read(true).write(true).open(&spoiled.file)?;
        let mut byte = [0];
        file.read_exact_at(&mut byte, offset)?;
        file.write_all_at(&[byte[0] ^ 1], offset)
    };
    flip().map_err(|error| Error::io("write", &spoiled.file, error))?;
    Ok(Some(spoiled))
}

fn is_users(entry: &Entry) -> bool {
    let name = entry.location.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.split('.').next().and_then(|number| number.parse().ok()).is_some_and(|number: u32| number >= FIRST_USER_FILE)
}

/// Calls `look` with every whole page of a file and its number there, until it says no.
fn each_page(path: &Path, mut look: impl FnMut(u32, &Page) -> bool) -> io::Result<()> {
    let mut reader = io::BufReader::with_capacity(64 * PAGE_BYTES, File::open(path)?);
    let mut page = [0; PAGE_BYTES];
    for at in 0.. {
        match reader.read_exact(&mut page) {
            Ok(()) if look(at, &page) => {}
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
