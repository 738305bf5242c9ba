//! TLS to the server, through rustls with the ring provider.
//!
//! libpq's `require` encrypts without asking who is at the other end, and `verify-ca` does not look at the name; rustls
//! refuses both unless told so here. Signatures of the handshake are always verified.

use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::base::{Error, Result};

use super::conninfo::Verification;

/// A connector that checks certificates as `verification` asks. Fails when the root certificates cannot be read.
pub fn connector(verification: &Verification) -> Result<MakeRustlsConnect> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::failed("cannot set up TLS").caused_by(error))?;
    let authority = match verification {
        Verification::AuthorityAndName(path) => {
            return Ok(MakeRustlsConnect::new(builder.with_root_certificates(roots(path)?).with_no_client_auth()));
        }
        Verification::Authority(path) => Some(authority_verifier(path, &provider)?),
        Verification::None => None,
    };
    let verifier = Arc::new(LenientVerifier { provider, authority });
    Ok(MakeRustlsConnect::new(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()))
}

fn authority_verifier(path: &Path, provider: &Arc<CryptoProvider>) -> Result<Arc<WebPkiServerVerifier>> {
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots(path)?), Arc::clone(provider))
        .build()
        .map_err(|error| root_error(path).caused_by(error))
}

fn roots(path: &Path) -> Result<RootCertStore> {
    let mut store = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(path).map_err(|error| root_error(path).caused_by(error.to_string()))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| root_error(path).caused_by(error.to_string()))?;
        store.add(certificate).map_err(|error| root_error(path).caused_by(error))?;
    }
    if store.is_empty() { Err(root_error(path).caused_by("it holds no certificate")) } else { Ok(store) }
}

fn root_error(path: &Path) -> Error {
    Error::failed(format!("cannot use the root certificate {}", path.display()))
        .hint("point sslrootcert to a PEM file with the certificate that signed the server's")
}

/// Accepts any name, and any certificate too when there is no authority.
#[derive(Debug)]
struct LenientVerifier {
    provider: Arc<CryptoProvider>,
    authority: Option<Arc<WebPkiServerVerifier>>,
}

impl ServerCertVerifier for LenientVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(authority) = &self.authority else { return Ok(ServerCertVerified::assertion()) };
        // The chain and the dates are judged before the name, so a wrong name means that the rest is right.
        match authority.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
