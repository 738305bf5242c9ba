//! The keys of a new repository: which there are, which are to be made, and making them.
//!
//! Files are written once, mode 0600, in a directory of mode 0700, durably, and never overwritten.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::base::{Error, Result, Timestamp, durable};
use crate::cli::config::Settings;
use crate::codec::encrypt::{Recipient, fresh_identity_file, parse_identity_file};
use crate::repo::Signer;

/// Where a key comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyFile {
    /// From a file that is there.
    Existing(PathBuf),
    /// From a file to be made.
    New(PathBuf),
}

impl KeyFile {
    /// `path`, made unless it is there.
    fn at(path: PathBuf) -> Self {
        if path.exists() { Self::Existing(path) } else { Self::New(path) }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        match self {
            Self::Existing(path) | Self::New(path) => path,
        }
    }

    /// Whether it is to be made.
    pub fn is_new(&self) -> bool {
        matches!(self, Self::New(_))
    }
}

/// The keys a new repository needs.
#[derive(Clone, Debug)]
pub struct Keys {
    /// Signs what this host writes.
    pub signing: KeyFile,
    /// Signs expiries, resolutions and new keys; without one the signing key has all rights.
    pub operator: Option<KeyFile>,
    /// Decrypts; none when the configuration names recipients already, or turns encryption off.
    pub identity: Option<KeyFile>,
    directory: Option<PathBuf>,
}

/// The keys, read or made.
pub struct Made {
    /// Of [`Keys::signing`].
    pub signing: Signer,
    /// Of [`Keys::operator`].
    pub operator: Option<Signer>,
    /// Of [`Keys::identity`].
    pub recipient: Option<Recipient>,
}

impl Keys {
    /// What the configuration lacks is made in `directory`; without one, nothing may be lacking.
    ///
    /// # Errors
    /// Usage, when there is no key to sign with.
    pub fn plan(settings: &Settings, directory: Option<&Path>) -> Result<Self> {
        let configured = settings.signing_key_file.clone();
        let Some(directory) = directory else {
            let signing = configured.ok_or_else(|| {
                Error::usage("a repository needs a key to sign what is written to it")
                    .hint("lifeboat init --generate-keys DIR   makes all keys")
                    .hint("or name one: [signing] key_file = \"…\"")
            })?;
            return Ok(Self { signing: KeyFile::Existing(signing), operator: None, identity: None, directory: None });
        };
        let directory = std::path::absolute(directory).map_err(|error| Error::io("resolve", directory, error))?;
        let signing = match configured.filter(|file| file.exists()) {
            Some(file) => KeyFile::Existing(file),
            None => KeyFile::at(directory.join("signing.key")),
        };
        let has_recipients = settings.encryption.off || !settings.encryption.recipients.is_empty();
        Ok(Self {
            signing,
            operator: Some(KeyFile::at(directory.join("operator.key"))),
            identity: (!has_recipients).then(|| KeyFile::at(directory.join("identity.age"))),
            directory: Some(directory),
        })
    }

    /// Reads the keys that are there and makes those that are not.
    ///
    /// # Errors
    /// When a file cannot be read or written, or holds something else.
    pub fn make(&self) -> Result<Made> {
        if let Some(directory) = &self.directory {
            create_private(directory)?;
        }
        Ok(Made {
            signing: signer(&self.signing)?,
            operator: self.operator.as_ref().map(signer).transpose()?,
            recipient: self.identity.as_ref().map(recipient).transpose()?,
        })
    }
}

fn signer(file: &KeyFile) -> Result<Signer> {
    match file {
        KeyFile::Existing(path) => Signer::read(path),
        KeyFile::New(path) => {
            let signer = Signer::generate();
            write(path, signer.to_pem().as_bytes())?;
            Ok(signer)
        }
    }
}

fn recipient(file: &KeyFile) -> Result<Recipient> {
    match file {
        KeyFile::New(path) => {
            let (text, recipient) = fresh_identity_file(&Timestamp::now().rfc3339());
            write(path, text.as_bytes())?;
            Ok(recipient)
        }
        KeyFile::Existing(path) => {
            let text = fs::read_to_string(path).map_err(|error| Error::io("read", path, error))?;
            let identities = parse_identity_file(&text).map_err(|why| Error::usage(format!("{}: {why}", path.display())))?;
            match identities.first() {
                Some(identity) => Ok(identity.to_public()),
                None => Err(Error::usage(format!("{} holds no identity", path.display()))),
            }
        }
    }
}

fn create_private(directory: &Path) -> Result<()> {
    if let Some(parent) = directory.parent() {
        durable::create_dir_all(parent).map_err(|error| Error::io("create", parent, error))?;
    }
    match fs::DirBuilder::new().mode(0o700).create(directory).and_then(|()| durable::sync_parent(directory)) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && directory.is_dir() => Ok(()),
        outcome => outcome.map_err(|error| Error::io("create", directory, error)),
    }
}

fn write(path: &Path, content: &[u8]) -> Result<()> {
    durable::write_new(path, content, 0o600)
        .and_then(|()| durable::sync_parent(path))
        .map_err(|error| Error::io("write", path, error))
}
