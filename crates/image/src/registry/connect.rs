//! HTTP clients: certificates, proxies, redirects, time limits.
//!
//! ```text
//! CERTIFICATES/HOST[:PORT]/   as Docker's certs.d; read anew when it changes
//!   *.crt                     certificate authorities, besides the system's
//!   NAME.cert + NAME.key      a certificate to show, and its key
//! ```
//! Credentials are for the host they were given for: the client drops them when a redirect leads to another host.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use reqwest::{Client, NoProxy, Proxy};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::Error;

/// Time to make a connection.
const CONNECT: Duration = Duration::from_secs(20);
/// Longest silence of a server.
const SILENCE: Duration = Duration::from_secs(60);
/// Redirects followed for one request.
const REDIRECTS: usize = 10;
/// What is never asked for by a proxy, as Go has it.
const ALWAYS_DIRECT: &str = "localhost,127.0.0.0/8,::1";

/// Proxies for what goes to registries.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    /// URL of the proxy for http.
    pub http: Option<String>,
    /// URL of the proxy for https.
    pub https: Option<String>,
    /// Hosts, domains, addresses and CIDR blocks that are asked directly, separated by commas.
    pub direct: Option<String>,
}

/// A proxy's URL may hold a password.
impl std::fmt::Debug for Proxies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let set = |p: &Option<String>| p.as_ref().map(|_| "..");
        f.debug_struct("Proxies")
            .field("http", &set(&self.http))
            .field("https", &set(&self.https))
            .field("direct", &self.direct)
            .finish()
    }
}

impl Proxies {
    /// `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY` (or in small letters), as Go's programs read them.
    pub fn from_env() -> Proxies {
        let read = |name: &str| {
            [name.to_owned(), name.to_ascii_lowercase()]
                .iter()
                .find_map(|n| std::env::var(n).ok())
                .filter(|v| !v.is_empty())
        };
        Proxies { http: read("HTTP_PROXY"), https: read("HTTPS_PROXY"), direct: read("NO_PROXY") }
    }

    fn list(&self) -> Result<Vec<Proxy>, Error> {
        let direct = match &self.direct {
            Some(direct) => format!("{direct},{ALWAYS_DIRECT}"),
            None => ALWAYS_DIRECT.to_owned(),
        };
        let mut out = Vec::new();
        for (url, make) in [(&self.http, Proxy::http as fn(String) -> _), (&self.https, Proxy::https)] {
            let Some(url) = url else { continue };
            let url = if url.contains("://") { url.clone() } else { format!("http://{url}") };
            // The URL may hold a password: it is not repeated.
            let proxy = make(url).map_err(|_| Error::Invalid("a proxy's address is not a URL".into()))?;
            out.push(proxy.no_proxy(NoProxy::from_string(&direct)));
        }
        Ok(out)
    }
}

/// The clients in use.
#[derive(Debug)]
pub(super) struct Connections {
    folders: Vec<PathBuf>,
    proxies: Proxies,
    made: Mutex<HashMap<Kind, (Stamp, Client)>>,
}

/// Hosts without certificates of their own share a client.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Kind {
    own: Option<String>,
    verify: bool,
}

/// Names and times of a host's certificates: another stamp, another client.
type Stamp = Vec<(PathBuf, Option<SystemTime>)>;

impl Connections {
    pub(super) fn new(folders: &[PathBuf], proxies: &Proxies) -> Result<Connections, Error> {
        // What is wrong with the settings is said at start.
        proxies.list()?;
        Ok(Connections { folders: folders.to_vec(), proxies: proxies.clone(), made: Mutex::default() })
    }

    /// The client for a host (with its port, if it was named with one).
    pub(super) fn to(&self, host: &str, insecure: bool) -> Result<Client, Error> {
        let stamp = self.stamp(host);
        let kind = Kind { own: (!stamp.is_empty()).then(|| host.to_owned()), verify: !insecure };
        let mut made = self.made.lock().unwrap_or_else(|e| e.into_inner());
        if let Some((known, client)) = made.get(&kind)
            && *known == stamp
        {
            return Ok(client.clone());
        }
        let client = client(!insecure, &Certificates::read(&stamp)?, &self.proxies)?;
        made.insert(kind, (stamp, client.clone()));
        Ok(client)
    }

    fn stamp(&self, host: &str) -> Stamp {
        let mut stamp = Stamp::new();
        // A host is a file name here.
        if host.is_empty() || host.starts_with('.') || host.contains(['/', '\\', '\0']) {
            return stamp;
        }
        for folder in &self.folders {
            let Ok(items) = std::fs::read_dir(folder.join(host)) else { continue };
            for item in items.flatten() {
                let path = item.path();
                let wanted = path.extension().and_then(|e| e.to_str());
                if matches!(wanted, Some("crt" | "cert" | "key")) {
                    let changed = std::fs::metadata(&path).and_then(|m| m.modified()).ok();
                    stamp.push((path, changed));
                }
            }
        }
        stamp.sort();
        stamp
    }
}

/// What a host's folder holds.
#[derive(Default)]
struct Certificates {
    authorities: Vec<CertificateDer<'static>>,
    own: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
}

impl Certificates {
    fn read(stamp: &Stamp) -> Result<Certificates, Error> {
        let mut out = Certificates::default();
        let bad = |path: &Path, e: &dyn std::fmt::Display| Error::Invalid(format!("{}: {e}", path.display()));
        let chain = |path: &Path| -> Result<Vec<_>, Error> {
            let list: Result<Vec<_>, _> =
                CertificateDer::pem_file_iter(path).map_err(|e| bad(path, &e))?.collect();
            list.map_err(|e| bad(path, &e))
        };
        for (path, _) in stamp {
            match path.extension().and_then(|e| e.to_str()) {
                Some("crt") => out.authorities.extend(chain(path)?),
                Some("cert") => {
                    let key = path.with_extension("key");
                    if !key.exists() {
                        return Err(Error::Invalid(format!(
                            "missing key {} for client certificate {}. CA certificates must use the extension .crt",
                            key.display(),
                            path.display()
                        )));
                    }
                    let secret = PrivateKeyDer::from_pem_file(&key).map_err(|e| bad(&key, &e))?;
                    out.own = Some((chain(path)?, secret));
                }
                _ if !path.with_extension("cert").exists() => {
                    return Err(Error::Invalid(format!(
                        "missing client certificate {} for key {}",
                        path.with_extension("cert").display(),
                        path.display()
                    )));
                }
                _ => {}
            }
        }
        Ok(out)
    }
}

fn client(verify: bool, certificates: &Certificates, proxies: &Proxies) -> Result<Client, Error> {
    let failed = |e: &dyn std::fmt::Display| Error::Invalid(format!("setting up TLS: {e}"));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| failed(&e))?;
    let builder = if verify {
        let mut roots = RootCertStore::empty();
        // The system's bundle (and SSL_CERT_FILE); a machine without one gets Mozilla's list.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        }
        for authority in &certificates.authorities {
            roots.add(authority.clone()).map_err(|e| failed(&e))?;
        }
        builder.with_root_certificates(roots)
    } else {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(unverified::AnyCertificate(provider)))
    };
    let mut tls = match &certificates.own {
        Some((chain, key)) => {
            builder.with_client_auth_cert(chain.clone(), key.clone_key()).map_err(|e| failed(&e))?
        }
        None => builder.with_no_client_auth(),
    };
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let redirects = reqwest::redirect::Policy::custom(move |attempt| {
        let downgrade = verify && attempt.url().scheme() != "https";
        if downgrade {
            attempt.error("a redirect to plain http from a registry that is not insecure")
        } else if attempt.previous().len() > REDIRECTS {
            attempt.error("too many redirects")
        } else {
            attempt.follow()
        }
    });
    let mut builder = Client::builder()
        .tls_backend_preconfigured(tls)
        .redirect(redirects)
        .connect_timeout(CONNECT)
        .read_timeout(SILENCE)
        // A fixed 64 KiB window would bound a layer's speed by the distance to the registry.
        .http2_adaptive_window(true)
        .user_agent(concat!("coracle/", env!("CARGO_PKG_VERSION")))
        // Only those of the settings: what the environment says is in them.
        .no_proxy();
    for proxy in proxies.list()? {
        builder = builder.proxy(proxy);
    }
    builder.build().map_err(|e| failed(&e))
}

mod unverified {
    use std::sync::Arc;

    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::crypto::CryptoProvider;
    use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
    use rustls::{DigitallySignedStruct, Error, SignatureScheme};

    /// For registries the user named insecure: encrypted, but to whom is anyone's guess.
    #[derive(Debug)]
    pub(super) struct AnyCertificate(pub(super) Arc<CryptoProvider>);

    impl ServerCertVerifier for AnyCertificate {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            rustls::crypto::verify_tls12_signature(
                message,
                cert,
                dss,
                &self.0.signature_verification_algorithms,
            )
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            rustls::crypto::verify_tls13_signature(
                message,
                cert,
                dss,
                &self.0.signature_verification_algorithms,
            )
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.0.signature_verification_algorithms.supported_schemes()
        }
    }
}
