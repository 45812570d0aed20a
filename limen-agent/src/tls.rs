//! TLS by files.

use std::path::Path;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::config::TlsFiles;

/// TLS 1.2 and 1.3 with the certificate chain and key in `files`.
///
/// # Errors
/// A file cannot be read, has no certificate or key, or the two are not of each other.
pub(crate) fn acceptor(files: &TlsFiles) -> Result<TlsAcceptor, String> {
    let bad = |name: &str, path: &Path, error: &dyn std::fmt::Display| {
        format!("{name}: {} cannot be used: {error}.", path.display())
    };
    let of_certificate = |error: &dyn std::fmt::Display| bad("TLS_CERT_FILE", &files.certificate, error);
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(&files.certificate)
        .map_err(|error| of_certificate(&error))?
        .collect::<Result<_, _>>()
        .map_err(|error| of_certificate(&error))?;
    if chain.is_empty() {
        return Err(of_certificate(&"there is no certificate in it"));
    }
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| bad("TLS_KEY_FILE", &files.key, &error))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS: {error}."))?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| bad("TLS_KEY_FILE", &files.key, &error))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}
