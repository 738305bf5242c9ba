//! Directories that wait for their modes and times, on disk; they come back in the opposite order.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::base::{Error, Result};

/// Written at once.
const BUFFER_BYTES: usize = 64 << 10;

/// A stack of entries in an unlinked file: each as JSON, then its length in four bytes.
#[derive(Debug)]
pub(super) struct Waiting {
    file: Option<File>,
    /// Written to the file.
    len_bytes: u64,
    /// Not written yet.
    buffer: Vec<u8>,
}

impl Waiting {
    /// An empty stack in the directory `scratch`.
    pub fn new(scratch: &Path) -> Result<Self> {
        let file = tempfile::tempfile_in(scratch).map_err(|error| Error::io("create a scratch file in", scratch, error))?;
        Ok(Self { file: Some(file), len_bytes: 0, buffer: Vec::new() })
    }

    /// A stack that nothing can be put on.
    pub fn none() -> Self {
        Self { file: None, len_bytes: 0, buffer: Vec::new() }
    }

    /// Puts an entry on top.
    pub fn add<T: Serialize>(&mut self, entry: &T) -> Result<()> {
        let before = self.buffer.len();
        serde_json::to_writer(&mut self.buffer, entry).map_err(|error| failed(error.into()))?;
        let length = (self.buffer.len() - before) as u32;
        self.buffer.extend_from_slice(&length.to_le_bytes());
        if self.buffer.len() >= BUFFER_BYTES { self.flush() } else { Ok(()) }
    }

    /// Takes the top entry away; none when the stack is empty.
    pub fn take_last<T: DeserializeOwned>(&mut self) -> Result<Option<T>> {
        self.flush()?;
        let (Some(file), Some(at)) = (&self.file, self.len_bytes.checked_sub(4)) else { return Ok(None) };
        let mut length = [0; 4];
        file.read_exact_at(&mut length, at).map_err(failed)?;
        let length = u32::from_le_bytes(length);
        self.len_bytes = at.checked_sub(length.into()).ok_or_else(|| failed(io::ErrorKind::InvalidData.into()))?;
        let mut bytes = vec![0; length as usize];
        file.read_exact_at(&mut bytes, self.len_bytes).map_err(failed)?;
        serde_json::from_slice(&bytes).map(Some).map_err(|error| failed(error.into()))
    }

    fn flush(&mut self) -> Result<()> {
        let Some(file) = &mut self.file else {
            return if self.buffer.is_empty() { Ok(()) } else { Err(failed(io::ErrorKind::NotFound.into())) };
        };
        file.write_all(&self.buffer).map_err(failed)?;
        self.len_bytes += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

fn failed(error: io::Error) -> Error {
    Error::failed("the scratch file of directories fails").caused_by(error).hint("make room there, or name another state_dir")
}
