//! A database file from a snapshot, or the image of a backup, and the batches after it.
//!
//! **An image.** A page of a batch is its last version, so batches may be applied to an image that lies somewhere between the
//! moments that they lead from and to. What that makes is a state of the database again once a batch has led to one that
//! holds all of the image; whatever lies in between is never handed out.
//!
//! Write order: a new file beside the target, pages in place, its length, fsync, SQLite's own check of the whole file,
//! then the name (never over an existing file), then the directory. Whatever fails, nothing has the target's name.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::check::integrity_problems;
use super::connection::beside;
use super::header::{HEADER_BYTES, Header};
use super::position::{Moment, Position};
use super::segment::SegmentReader;
use crate::base::{Error, Result, durable};

/// A database being written.
pub struct Restore {
    target: PathBuf,
    temporary: PathBuf,
    file: File,
    at: Option<Moment>,
    /// The image's moment, until a batch has led to one that holds it.
    image: Option<Moment>,
}

/// A database that was restored and checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restored {
    /// The state that it is in.
    pub moment: Moment,
    /// Its size.
    pub bytes: u64,
}

impl Restore {
    /// Refuses a target that exists, or beside which a log or journal lies that SQLite would apply to it. Touches nothing.
    pub fn check(target: &Path) -> Result<()> {
        for suffix in ["", "-wal", "-shm", "-journal"] {
            let path = beside(target, suffix);
            match std::fs::symlink_metadata(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(Error::io("look at", &path, error)),
                Ok(_) => {
                    let message = format!("cannot restore to {}: {} exists", target.display(), path.display());
                    return Err(Error::failed(message).hint("choose another name, or move what is there away"));
                }
            }
        }
        Ok(())
    }

    /// Begins, unless [`Restore::check`] refuses.
    pub fn begin(target: &Path) -> Result<Self> {
        Self::check(target)?;
        let temporary = durable::temporary_beside(target);
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&temporary);
        let file = file.map_err(|error| Error::io("create", &temporary, error))?;
        Ok(Self { target: target.to_owned(), temporary, file, at: None, image: None })
    }

    /// The file that is being written, for whoever writes the image of a backup into it.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The name that the file will have.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Tells that the file holds, page by page, the state of `moment`; nothing was applied before.
    ///
    /// # Errors
    /// When the file has another length.
    pub fn hold_image(&mut self, moment: Moment) -> Result<()> {
        let bytes = u64::from(moment.at.pages) * u64::from(moment.at.page_size);
        let length = self.file.metadata().map_err(|error| Error::io("look at", &self.temporary, error))?.len();
        if length != bytes {
            let message = format!("cannot restore {}: its image has {length} bytes instead of {bytes}", self.target.display());
            return Err(Error::damaged(message));
        }
        (self.at, self.image) = (Some(moment), Some(moment));
        Ok(())
    }

    /// Writes a segment's pages: a snapshot first, then what goes on from it, without a gap.
    ///
    /// After an error nothing can be added any more.
    pub fn apply(&mut self, segment: impl BufRead) -> Result<()> {
        let before = self.at.take();
        let mut reader = SegmentReader::begin(segment)?;
        let header = *reader.header();
        let fits = match (&before, &header.from) {
            (None, None) => true,
            // The first one after an image: it must not lead from beyond it.
            (Some(before), Some(from)) if self.image == Some(*before) => before == from || before.holds(from) != Some(false),
            (Some(before), Some(from)) => before == from && before.captured_at < header.to.captured_at,
            _ => false,
        };
        if !fits {
            return Err(self.gap(before.as_ref(), header.from.as_ref()));
        }
        let at = &header.to.at;
        if header.from.is_some_and(|from| from.at.page_size != at.page_size) {
            return Err(Error::damaged("a SQLite segment changes the page size, which no transaction can"));
        }
        let (mut page, mut pages) = (Vec::new(), 0);
        while let Some(number) = reader.next_page(&mut page)? {
            let offset = u64::from(number - 1) * u64::from(at.page_size);
            self.file.write_all_at(&page, offset).map_err(|error| Error::io("write", &self.temporary, error))?;
            pages += 1;
        }
        if header.from.is_none() && pages != at.pages {
            return Err(Error::damaged(format!("a SQLite snapshot has {pages} of its {} pages", at.pages)));
        }
        let bytes = u64::from(at.pages) * u64::from(at.page_size);
        self.file.set_len(bytes).map_err(|error| Error::io("set the size of", &self.temporary, error))?;
        self.at = Some(header.to);
        // Not held by `to`, it stays: then this state is none.
        self.image = self.image.filter(|image| header.to.holds(image) != Some(true));
        Ok(())
    }

    fn gap(&self, before: Option<&Moment>, from: Option<&Moment>) -> Error {
        let show = |moment: Option<&Moment>| match moment {
            Some(Moment { captured_at, at, .. }) => format!("{captured_at} (log {:016x}, frame {})", at.salts.0, at.frame),
            None => "nothing (a snapshot)".to_owned(),
        };
        Error::damaged(format!("cannot restore {}: the log has a gap", self.target.display()))
            .detail("restored up to", show(before))
            .detail("next goes on from", show(from))
    }

    /// Makes it durable, has SQLite check it, and gives it its name.
    pub fn finish(self) -> Result<Restored> {
        let missing = || Error::failed(format!("cannot restore {}: there is no snapshot", self.target.display()));
        let moment = self.at.ok_or_else(missing)?;
        if let Some(image) = self.image.filter(|image| *image != moment) {
            let message = format!("cannot restore {}: the log does not lead beyond the backup", self.target.display());
            return Err(Error::damaged(message)
                .detail("backup", image.captured_at.to_string())
                .detail("log", format!("up to {}", moment.captured_at)));
        }
        let bytes = u64::from(moment.at.pages) * u64::from(moment.at.page_size);
        self.check_header(&moment.at)?;
        self.file.sync_all().map_err(|error| Error::io("write", &self.temporary, error))?;
        let problems = integrity_problems(&self.temporary)?;
        if let Some(first) = problems.first() {
            let message = format!("cannot restore {}: SQLite's integrity_check finds it damaged", self.target.display());
            let error = Error::damaged(message).detail("first finding", first).detail("findings", problems.len().to_string());
            return Err(error.hint("an earlier moment may be whole; the database itself may have been damaged: check it as well"));
        }
        self.rename().map_err(|error| Error::io("create", &self.target, error))?;
        durable::sync_parent(&self.target).map_err(|error| Error::io("create", &self.target, error))?;
        Ok(Restored { moment, bytes })
    }

    fn check_header(&self, at: &Position) -> Result<()> {
        let mut bytes = [0; HEADER_BYTES];
        self.file.read_exact_at(&mut bytes, 0).map_err(|error| Error::io("read", &self.temporary, error))?;
        let header = Header::parse(&bytes)
            .map_err(|fault| Error::damaged(format!("cannot restore {}: {fault}", self.target.display())))?;
        if header.page_size == at.page_size && header.pages.is_none_or(|pages| pages == at.pages) {
            return Ok(());
        }
        Err(Error::damaged(format!("cannot restore {}: its first page tells another size", self.target.display())))
    }

    /// Fails when the target exists.
    fn rename(&self) -> io::Result<()> {
        match renameat_with(CWD, &self.temporary, CWD, &self.target, RenameFlags::NOREPLACE) {
            // Some file systems cannot; a link cannot replace either, and the temporary name goes on drop.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => std::fs::hard_link(&self.temporary, &self.target),
            result => result.map_err(io::Error::from),
        }
    }
}

impl Drop for Restore {
    fn drop(&mut self) {
        // After the rename there is nothing of that name; what is left after a failure is not missed.
        let _ = std::fs::remove_file(&self.temporary);
    }
}
