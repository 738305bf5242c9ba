//! The SDK's client, built when the first call needs it: a process that only asks for help pays nothing.
//!
//! The SDK neither retries nor watches streams here: `call.rs` does. Certificates are read when the first TLS
//! connection is made, and the instance's metadata is asked only after the environment and the profiles.

use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use aws_config::BehaviorVersion;
use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::environment::EnvironmentVariableRegionProvider;
use aws_config::imds::region::ImdsRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::{ProfileFileCredentialsProvider, ProfileFileRegionProvider};
use aws_config::provider_config::ProviderConfig;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    AppName, HttpClient, Region, RequestChecksumCalculation, ResponseChecksumValidation, RuntimeComponents,
    SharedCredentialsProvider, SharedHttpClient, StalledStreamProtectionConfig,
};
use aws_sdk_s3::{Client, Config};
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use aws_smithy_http_client::{Builder, Connector};
use aws_smithy_runtime_api::client::http::{HttpConnectorSettings, SharedHttpConnector};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::failure::Failure;
use super::options::{Credentials, S3Options};

/// Stores close idle connections; one that we close first cannot break a request.
const IDLE_CONNECTION: Duration = Duration::from_secs(15);

/// What stores that have no regions are signed for.
const USUAL_REGION: &str = "us-east-1";

/// A client for these options.
///
/// # Errors
/// Lasting: a certificate file that cannot be used, or no region on AWS.
pub(super) async fn connect(options: &S3Options) -> Result<Client, Failure> {
    let trusted = options.ca_file.as_deref().map(read_certificates).transpose()?;
    let public = SharedHttpClient::new(Transport::tls(None, true));
    let transport = match options.endpoint.as_deref() {
        Some(endpoint) => {
            let by_proxy = !is_loopback(endpoint);
            let plain = endpoint.starts_with("http://");
            if plain { Transport::plain(by_proxy) } else { Transport::tls(trusted, by_proxy) }
        }
        None => Transport::tls(trusted, true),
    };
    let provider = ProviderConfig::without_region().with_http_client(public);
    let region = region(options, &provider).await?;
    let provider = provider.with_region(Some(region.clone()));
    let credentials = credentials(options, provider, &region).await;
    let timeouts = TimeoutConfig::builder().connect_timeout(options.timeouts.connect).build();
    let mut config = Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(region)
        .credentials_provider(credentials)
        .http_client(transport)
        .retry_config(RetryConfig::disabled())
        .timeout_config(timeouts)
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        .force_path_style(options.path_style.unwrap_or(options.endpoint.is_some()));
    if let Ok(name) = AppName::new("lifeboat") {
        config = config.app_name(name);
    }
    config.set_endpoint_url(options.endpoint.clone());
    Ok(Client::from_conf(config.build()))
}

/// Those given, else the profile's that is named, else what every AWS tool finds: environment, default profile, web
/// identity, container, instance.
async fn credentials(options: &S3Options, provider: ProviderConfig, region: &Region) -> SharedCredentialsProvider {
    if let Some(Credentials { access_key_id, secret_access_key }) = &options.credentials {
        return SharedCredentialsProvider::new(aws_sdk_s3::config::Credentials::new(
            access_key_id,
            secret_access_key,
            None,
            None,
            "given",
        ));
    }
    if let Some(profile) = &options.profile {
        let profile = ProfileFileCredentialsProvider::builder().configure(&provider).profile_name(profile).build();
        return SharedCredentialsProvider::new(profile);
    }
    let chain = DefaultCredentialsChain::builder().region(region.clone()).configure(provider).build().await;
    SharedCredentialsProvider::new(chain)
}

/// As configured, else the environment's, the profile's, on AWS the instance's, elsewhere the usual one.
async fn region(options: &S3Options, provider: &ProviderConfig) -> Result<Region, Failure> {
    if let Some(region) = &options.region {
        return Ok(Region::new(region.clone()));
    }
    let mut profile = ProfileFileRegionProvider::builder().configure(provider);
    if let Some(name) = &options.profile {
        profile = profile.profile_name(name);
    }
    let chain = RegionProviderChain::first_try(EnvironmentVariableRegionProvider::new()).or_else(profile.build());
    let found = match options.endpoint {
        Some(_) => chain.or_else(Region::new(USUAL_REGION)).region().await,
        None => chain.or_else(ImdsRegionProvider::builder().configure(provider).build()).region().await,
    };
    found.ok_or_else(|| Failure::lasting("the bucket's region is not known", "set 'region' in lifeboat.toml, or AWS_REGION"))
}

/// Whether the endpoint is on this host, which no proxy leads to.
fn is_loopback(endpoint: &str) -> bool {
    let host = endpoint.split_once("://").map_or(endpoint, |(_, host)| host);
    ["127.", "localhost", "[::1]"].iter().any(|local| host.starts_with(local))
}

/// The text of a certificate file, known to be usable: the connector panics on others.
fn read_certificates(path: &Path) -> Result<Vec<u8>, Failure> {
    let unusable = |why: String| {
        let why = format!("the certificates in {} cannot be used: {why}", path.display());
        Failure::lasting(why, "'ca_file' names a PEM file with the certificate of the authority that signed the store's")
    };
    let text = std::fs::read(path).map_err(|error| unusable(error.to_string()))?;
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&text) {
        let certificate = certificate.map_err(|error| unusable(error.to_string()))?;
        roots.add(certificate).map_err(|error| unusable(error.to_string()))?;
    }
    if roots.is_empty() { Err(unusable("there are none in it".to_owned())) } else { Ok(text) }
}

/// Connections, made ready when the first one is wanted.
#[derive(Debug)]
struct Transport {
    /// `None` without TLS; `Some(None)` trusts what the system does.
    trusted: Option<Option<Vec<u8>>>,
    by_proxy: bool,
    client: OnceLock<SharedHttpClient>,
}

impl Transport {
    fn plain(by_proxy: bool) -> Self {
        Self { trusted: None, by_proxy, client: OnceLock::new() }
    }

    fn tls(certificates: Option<Vec<u8>>, by_proxy: bool) -> Self {
        Self { trusted: Some(certificates), by_proxy, client: OnceLock::new() }
    }

    fn build(&self) -> SharedHttpClient {
        let trusted = self.trusted.clone();
        let proxy = if self.by_proxy { ProxyConfig::from_env() } else { ProxyConfig::disabled() };
        Builder::new().build_with_connector_fn(move |settings, components| {
            let mut builder = Connector::builder().pool_idle_timeout(IDLE_CONNECTION).proxy_config(proxy.clone());
            builder.set_connector_settings(settings.cloned());
            builder.set_sleep_impl(components.and_then(RuntimeComponents::sleep_impl));
            let Some(certificates) = &trusted else { return builder.build_http() };
            let store = match certificates {
                Some(pem) => TrustStore::empty().with_pem_certificate(pem.clone()),
                None => TrustStore::default(),
            };
            let builder = builder.tls_provider(Provider::Rustls(CryptoMode::Ring));
            match TlsContext::builder().with_trust_store(store).build() {
                Ok(context) => builder.tls_context(context).build(),
                Err(_) => builder.build(),
            }
        })
    }
}

impl HttpClient for Transport {
    fn http_connector(&self, settings: &HttpConnectorSettings, components: &RuntimeComponents) -> SharedHttpConnector {
        self.client.get_or_init(|| self.build()).http_connector(settings, components)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_proxy_leads_to_this_host() {
        for (endpoint, local) in [
            ("http://127.0.0.1:9000", true),
            ("https://localhost", true),
            ("http://[::1]:9000", true),
            ("https://s3.example.com", false),
            ("https://example.com/127.0.0.1", false),
        ] {
            assert_eq!(is_loopback(endpoint), local, "{endpoint}");
        }
    }

    #[test]
    fn certificate_files_that_cannot_be_used_are_told() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for content in ["", "nothing", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            std::fs::write(file.path(), content).unwrap();
            assert!(read_certificates(file.path()).is_err(), "{content:?}");
        }
        assert!(read_certificates(Path::new("/nonexistent/ca.pem")).is_err());
    }
}
