//! Age identities from the files that `[encryption] identity_file` names. Read only when something must be
//! decrypted: a protected host has none.

use std::path::Path;

use age::x25519::Identity;

use super::settings::Encryption;
use crate::base::{Error, Result};

impl Encryption {
    /// All identities of all files, in the order given; at least one.
    ///
    /// # Errors
    /// A usage error when the configuration names no file, a file cannot be read, or holds something else than
    /// X25519 identities in age's own text form (`AGE-SECRET-KEY-1…`, one a line, `#` comments).
    pub fn identities(&self) -> Result<Vec<Identity>> {
        if self.identity_files.is_empty() {
            return Err(Error::usage("no age identity to decrypt with")
                .hint("add [encryption] identity_file = \"FILE\"; a protected host should have none, so run this elsewhere"));
        }
        let mut identities = Vec::new();
        for path in &self.identity_files {
            identities.extend(read(path)?);
        }
        Ok(identities)
    }
}

fn read(path: &Path) -> Result<Vec<Identity>> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        Error::usage(format!("cannot read the identity file {}", path.display()))
            .caused_by(error)
            .hint("[encryption] identity_file in lifeboat.toml names it; is the disk that holds it mounted?")
    })?;
    parse(&format!("the identity file {}", path.display()), &text)
}

/// The identities in `text`, which came from `origin`. Nothing of the text is ever shown.
///
/// # Errors
/// A usage error when it holds none, or something else.
pub fn parse(origin: &str, text: &str) -> Result<Vec<Identity>> {
    if text.starts_with("age-encryption.org/v1") || text.starts_with("-----BEGIN AGE ENCRYPTED FILE-----") {
        return Err(Error::usage(format!("{origin} is protected by a passphrase"))
            .hint("decrypt it to a private place first: age --decrypt --output FILE …"));
    }
    let mut identities = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        // The line may be a secret with a slip in it: it is not shown.
        let identity = line
            .parse()
            .map_err(|why| Error::usage(format!("{origin}:{}: not an age identity (AGE-SECRET-KEY-1…): {why}", index + 1)))?;
        identities.push(identity);
    }
    if identities.is_empty() {
        return Err(Error::usage(format!("{origin} holds no identity")).hint("lifeboat init --generate-keys DIR"));
    }
    Ok(identities)
}

#[cfg(test)]
mod tests {
    use age::secrecy::ExposeSecret;

    use super::*;

    fn from_file(content: &str) -> Result<Vec<Identity>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("identity");
        std::fs::write(&path, content).unwrap();
        Encryption { identity_files: vec![path], ..Encryption::default() }.identities()
    }

    #[test]
    fn identities_are_read_and_nothing_of_a_broken_one_is_shown() {
        let identity = Identity::generate();
        let text = identity.to_string().expose_secret().to_owned();
        let read = from_file(&format!("# created: today\n\n{text}\n")).unwrap();
        assert_eq!(read[0].to_public().to_string(), identity.to_public().to_string());

        let broken = &text[..text.len() - 1];
        let error = from_file(&format!("\n{broken}\n")).err().unwrap();
        assert!(error.message().contains("identity:2: not an age identity"), "{error}");
        assert!(!format!("{error:?}").contains(&broken[20..]), "{error:?}");
    }

    #[test]
    fn files_without_a_plain_identity_are_refused_with_the_reason() {
        for (content, reason) in [
            ("# nothing\n", "holds no identity"),
            ("age-encryption.org/v1\n-> scrypt", "passphrase"),
            ("age1qqqq", "not an age identity"),
        ] {
            let error = from_file(content).err().unwrap();
            assert!(error.message().contains(reason), "{error}");
        }
        assert!(Encryption::default().identities().err().unwrap().message().contains("no age identity"));
    }
}
