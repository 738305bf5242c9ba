//! age (age-encryption.org/v1) with X25519 recipients, or nothing where encryption was declared off.
//!
//! Data is never encrypted to the operators' recipients directly: each backup and each stretch of log has an identity
//! of its own ([`DataKey`]), and only that is wrapped to them. So rotation rewraps small files, and the host that
//! encrypts holds nothing that decrypts.

use std::io::{self, BufRead, Read, Seek, SeekFrom, Write};
use std::str::FromStr;

use age::secrecy::ExposeSecret;
pub use age::x25519::{Identity, Recipient};

use super::CodecError;

/// How data is sealed on its way to the repository.
#[derive(Clone)]
pub enum Seal {
    /// Encrypted to one recipient.
    Age(Recipient),
    /// Stored as it is, because the configuration says `mode = "off"`.
    Plain,
}

/// What opens sealed data.
#[derive(Clone)]
pub enum Opener {
    /// Decrypts with the first of these identities that fits.
    Age(Vec<Identity>),
    /// The data was stored as it is.
    Plain,
}

impl Seal {
    /// What object names end in after their own suffix: `.age`, or nothing.
    pub fn suffix(&self) -> &'static str {
        match self {
            Self::Age(_) => ".age",
            Self::Plain => "",
        }
    }

    /// A writer that seals what passes through; call [`SealWriter::finish`] on it.
    ///
    /// # Errors
    /// When the header cannot be written to `inner`.
    pub fn writer<W: Write>(&self, inner: W) -> io::Result<SealWriter<W>> {
        match self {
            Self::Age(recipient) => encrypt_to(std::slice::from_ref(recipient), inner).map(SealWriter::Age),
            Self::Plain => Ok(SealWriter::Plain(inner)),
        }
    }

    /// `raw`, sealed.
    ///
    /// # Errors
    /// Only when memory runs out.
    pub fn seal(&self, raw: &[u8]) -> io::Result<Vec<u8>> {
        let mut writer = self.writer(Vec::with_capacity(raw.len() + raw.len() / 4096 + 1024))?;
        writer.write_all(raw)?;
        writer.finish()
    }
}

fn encrypt_to<W: Write>(recipients: &[Recipient], inner: W) -> io::Result<age::stream::StreamWriter<W>> {
    let recipients = recipients.iter().map(|recipient| recipient as &dyn age::Recipient);
    age::Encryptor::with_recipients(recipients).map_err(io::Error::other)?.wrap_output(inner)
}

/// See [`Seal::writer`].
pub enum SealWriter<W: Write> {
    /// Encrypting.
    Age(age::stream::StreamWriter<W>),
    /// Passing through.
    Plain(W),
}

impl<W: Write> SealWriter<W> {
    /// Writes what is still held back and gives the inner writer back.
    ///
    /// # Errors
    /// When the inner writer fails.
    pub fn finish(self) -> io::Result<W> {
        match self {
            Self::Age(writer) => writer.finish(),
            Self::Plain(inner) => Ok(inner),
        }
    }
}

impl<W: Write> Write for SealWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Age(writer) => writer.write(bytes),
            Self::Plain(inner) => inner.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Age(writer) => writer.flush(),
            Self::Plain(inner) => inner.flush(),
        }
    }
}

impl Opener {
    /// A reader of the content of a sealed file. Authenticity is checked as it is read: an `io::Error` in the
    /// middle means that the file was altered or cut short.
    ///
    /// # Errors
    /// [`CodecError::NoMatchingIdentity`] when none of the keys fits, [`CodecError::Encryption`] when it is not age or altered.
    pub fn reader<R: BufRead>(&self, inner: R) -> Result<OpenReader<R>, CodecError> {
        let Self::Age(identities) = self else { return Ok(OpenReader::Plain(inner)) };
        let decryptor = age::Decryptor::new_buffered(inner).map_err(explain)?;
        let identities = identities.iter().map(|identity| identity as &dyn age::Identity);
        decryptor.decrypt(identities).map(OpenReader::Age).map_err(explain)
    }

    /// The whole content of a sealed file.
    ///
    /// # Errors
    /// As [`Opener::reader`], and when any part of it was altered.
    pub fn open(&self, sealed: &[u8]) -> Result<Vec<u8>, CodecError> {
        let mut raw = Vec::with_capacity(sealed.len());
        self.reader(sealed)?.read_to_end(&mut raw).map_err(|error| CodecError::Encryption(error.to_string()))?;
        Ok(raw)
    }
}

/// What an error of the library means. Its own words come from a catalogue of languages, which a build with debug
/// assertions reads from the library's source directory, and panics where that is not there to read.
fn explain(error: age::DecryptError) -> CodecError {
    use age::DecryptError as E;
    let what = match error {
        E::NoMatchingKeys => return CodecError::NoMatchingIdentity,
        E::Io(error) => return CodecError::Encryption(error.to_string()),
        E::InvalidHeader => "its header is not that of an age file",
        E::InvalidMac => "its header was altered",
        E::UnknownFormat => "it is no age file, or one of an unknown version",
        E::ExcessiveWork { .. } => "it is encrypted to a passphrase",
        // And whatever later versions of the library tell apart.
        _ => "it does not decrypt: it was altered",
    };
    CodecError::Encryption(what.to_owned())
}

/// See [`Opener::reader`].
pub enum OpenReader<R: Read> {
    /// Decrypting.
    Age(age::stream::StreamReader<R>),
    /// Passing through.
    Plain(R),
}

impl<R: Read> Read for OpenReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Age(reader) => reader.read(buffer),
            Self::Plain(inner) => inner.read(buffer),
        }
    }
}

impl<R: Read + Seek> Seek for OpenReader<R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        match self {
            Self::Age(reader) => reader.seek(to),
            Self::Plain(inner) => inner.seek(to),
        }
    }
}

/// Length of a wrapped secret: `AGE-SECRET-KEY-1…` and a line feed.
const SECRET_BYTES: usize = 75;

/// The identity of one backup or one stretch of log, made on the spot.
pub struct DataKey(Identity);

impl DataKey {
    /// A fresh one from the system's randomness.
    pub fn generate() -> Self {
        Self(Identity::generate())
    }

    /// What encrypts to it.
    pub fn recipient(&self) -> Recipient {
        self.0.to_public()
    }

    /// What decrypts with it.
    pub fn identity(&self) -> &Identity {
        &self.0
    }

    /// Its secret as an age identity file, encrypted to `recipients`, any of which can unwrap it:
    /// `age -d -i IDENTITY key-1.age` prints the identity that opens the data.
    ///
    /// # Errors
    /// When there are no recipients.
    pub fn wrap(&self, recipients: &[Recipient]) -> io::Result<Vec<u8>> {
        let secret = self.0.to_string();
        let mut writer = encrypt_to(recipients, Vec::new())?;
        writer.write_all(secret.expose_secret().as_bytes())?;
        writer.write_all(b"\n")?;
        writer.finish()
    }

    /// Looks at the outer form of what [`DataKey::wrap`] made, without any identity: a whole age header, and as many
    /// bytes after it as a wrapped secret has. An altered byte inside shows only when it is unwrapped.
    ///
    /// # Errors
    /// [`CodecError::Encryption`] when it is cut short or something else.
    pub fn check_form(wrapped: &[u8]) -> Result<(), CodecError> {
        match Opener::Age(Vec::new()).reader(wrapped).map(|_| ()) {
            Ok(()) | Err(CodecError::NoMatchingIdentity) => {}
            Err(error) => return Err(error),
        }
        // The header ends with the line of its MAC, `--- …`; then a nonce, the text and its tag.
        let mac = wrapped.windows(5).position(|window| window == b"\n--- ").map_or(0, |at| at + 1);
        let header = mac + wrapped[mac..].iter().position(|b| *b == b'\n').map_or(0, |at| at + 1);
        let payload = wrapped.len() - header;
        if payload == 16 + SECRET_BYTES + 16 {
            Ok(())
        } else {
            Err(CodecError::Encryption(format!("{payload} bytes after the header are not a wrapped key")))
        }
    }

    /// Undoes [`DataKey::wrap`] with one of the recipients' identities.
    ///
    /// # Errors
    /// [`CodecError::NoMatchingIdentity`] when none fits, [`CodecError::Encryption`] when the wrapping is damaged.
    pub fn unwrap(wrapped: &[u8], identities: &[Identity]) -> Result<Self, CodecError> {
        let secret = Opener::Age(identities.to_vec()).open(wrapped)?;
        let text = std::str::from_utf8(&secret).map_err(|_| CodecError::Encryption("the wrapped key is not text".into()))?;
        let identity = Identity::from_str(text.trim()).map_err(|error| CodecError::Encryption(error.to_owned()))?;
        Ok(Self(identity))
    }
}

/// The identities in an age identity file: lines of `AGE-SECRET-KEY-1…`, `#` comments.
///
/// # Errors
/// Says which line is none; never repeats its content.
pub fn parse_identity_file(text: &str) -> Result<Vec<Identity>, String> {
    let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim()));
    let identities: Vec<Identity> = lines
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .map(|(number, line)| {
            Identity::from_str(line).map_err(|error| format!("line {number} is not an age X25519 identity: {error}"))
        })
        .collect::<Result<_, _>>()?;
    if identities.is_empty() { Err("it holds no identity".to_owned()) } else { Ok(identities) }
}

/// An age identity file's text for a fresh identity, and its recipient.
pub fn fresh_identity_file(created: &str) -> (String, Recipient) {
    let identity = Identity::generate();
    let recipient = identity.to_public();
    (format!("# created: {created}\n# public key: {recipient}\n{}\n", identity.to_string().expose_secret()), recipient)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealed_data_opens_with_the_data_key_alone() {
        let key = DataKey::generate();
        let raw: Vec<u8> = (0..200_000u32).map(|n| n as u8).collect();
        let sealed = Seal::Age(key.recipient()).seal(&raw).unwrap();
        let opener = Opener::Age(vec![DataKey::generate().identity().clone(), key.identity().clone()]);
        assert_eq!(opener.open(&sealed).unwrap(), raw);
        let stranger = Opener::Age(vec![DataKey::generate().identity().clone()]);
        assert!(matches!(stranger.open(&sealed), Err(CodecError::NoMatchingIdentity)));
        assert_eq!(Opener::Plain.open(&Seal::Plain.seal(&raw).unwrap()).unwrap(), raw);
    }

    #[test]
    fn every_altered_or_missing_byte_is_noticed() {
        let key = DataKey::generate();
        let sealed = Seal::Age(key.recipient()).seal(&[5; 70_000]).unwrap();
        let opener = Opener::Age(vec![key.identity().clone()]);
        let spread = sealed.len() / 97;
        for at in (0..sealed.len()).step_by(spread) {
            let mut damaged = sealed.clone();
            damaged[at] ^= 0x10;
            assert!(opener.open(&damaged).is_err(), "byte {at}");
            assert!(opener.open(&sealed[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn keys_are_wrapped_to_every_recipient() {
        let (operations, offline, stranger) = (Identity::generate(), Identity::generate(), Identity::generate());
        let key = DataKey::generate();
        let wrapped = key.wrap(&[operations.to_public(), offline.to_public()]).unwrap();
        for identity in [operations, offline] {
            let unwrapped = DataKey::unwrap(&wrapped, &[identity]).unwrap();
            assert_eq!(unwrapped.recipient().to_string(), key.recipient().to_string());
        }
        assert!(matches!(DataKey::unwrap(&wrapped, &[stranger]), Err(CodecError::NoMatchingIdentity)));
        assert!(key.wrap(&[]).is_err());
    }

    #[test]
    fn the_form_of_a_wrapped_key_shows_without_an_identity() {
        let recipients = [Identity::generate().to_public(), Identity::generate().to_public()];
        for recipients in [&recipients[..1], &recipients[..]] {
            let wrapped = DataKey::generate().wrap(recipients).unwrap();
            DataKey::check_form(&wrapped).unwrap();
            for length in 0..wrapped.len() {
                assert!(DataKey::check_form(&wrapped[..length]).is_err(), "cut to {length}");
            }
            assert!(DataKey::check_form(&[wrapped.as_slice(), b"x"].concat()).is_err());
        }
    }

    #[test]
    fn identity_files_are_read_as_age_writes_them() {
        let (text, recipient) = fresh_identity_file("2026-11-20T21:40:02Z");
        let identities = parse_identity_file(&text).unwrap();
        assert_eq!(identities[0].to_public().to_string(), recipient.to_string());
        assert!(parse_identity_file("# nothing\n").is_err());
        let error = parse_identity_file("AGE-SECRET-KEY-1NONSENSE\n").err().unwrap();
        assert!(error.contains("line 1") && !error.contains("NONSENSE"), "{error}");
    }
}
