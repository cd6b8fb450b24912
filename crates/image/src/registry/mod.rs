//! The client side of the registry protocol (OCI distribution-spec 1.1).
//!
//! Where a request goes:
//! * `docker.io`: each mirror in turn, then `https://registry-1.docker.io`; credentials go to the latter only.
//! * a registry named insecure, or at a loopback address: https, its certificate not verified, then plain http.
//! * any other: https with a verified certificate. Nothing goes to it in plain text, also not by a redirect or to a
//!   token server it names.

pub(crate) mod auth;
mod connect;
mod login;
mod query;
mod token;
mod upload;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::TryStreamExt as _;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, RANGE, WWW_AUTHENTICATE};
use reqwest::{Client, Method, Response, StatusCode, Url};

use auth::Challenge;
pub use auth::Credentials;
use connect::Connections;
pub use connect::Proxies;
pub use query::{Distribution, Found};
use token::Question;
pub(crate) use upload::{Sent, Source};

use crate::spec::{DOCKER_INDEX, DOCKER_MANIFEST, DOCUMENT_BYTES, OCI_INDEX, OCI_MANIFEST};
use crate::{Descriptor, Digest, Error, Reference};

const HUB: &str = "https://registry-1.docker.io";
const HUB_HOST: &str = "registry-1.docker.io";
/// Attempts at one request to a server that answers 5xx or 429, or breaks off.
pub(crate) const ATTEMPTS: u32 = 5;
/// Pause after the first failed attempt; doubled each time.
const BACKOFF: Duration = Duration::from_millis(200);
/// Longest pause that a registry may ask for by `Retry-After`; with a longer one the pull fails and says so.
const RETRY_AFTER: Duration = Duration::from_secs(30);
/// Longest answer of a token server or error text read, bytes.
const ANSWER_BYTES: u64 = 1024 * 1024;

/// The pause before attempt `n + 1`.
pub(crate) async fn back_off(n: u32) {
    tokio::time::sleep(BACKOFF * 2u32.saturating_pow(n)).await;
}

/// One registry client for all registries.
#[derive(Debug)]
pub(crate) struct Registries {
    connections: Connections,
    mirrors: Vec<String>,
    insecure: Vec<String>,
    /// Endpoint that worked last, by domain: spares a failed TLS handshake each time.
    working: Mutex<HashMap<String, String>>,
}

/// A document a registry sent.
pub(crate) struct Fetched {
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) data: Vec<u8>,
}

/// One repository at one registry, for the length of one operation: holds its tokens.
#[derive(Clone)]
pub(crate) struct Repository {
    registries: Arc<Registries>,
    reference: Reference,
    endpoints: Vec<Endpoint>,
    credentials: Option<Credentials>,
    /// Other repositories of the registry that a push may take blobs from: its token must allow to read them.
    mounts: Vec<String>,
    /// `Authorization` header that worked, by endpoint.
    tokens: Arc<Mutex<HashMap<String, String>>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Endpoint {
    base: String,
    /// Plain http and unverified certificates are allowed here.
    insecure: bool,
    mirror: bool,
}

impl Registries {
    pub(crate) fn new(config: &crate::Config) -> Result<Registries, Error> {
        let mirrors: Vec<String> =
            config.registry_mirrors.iter().map(|m| m.trim_end_matches('/').to_string()).collect();
        for mirror in &mirrors {
            Url::parse(mirror)
                .ok()
                .filter(|u| matches!(u.scheme(), "http" | "https"))
                .ok_or_else(|| Error::Invalid(format!("invalid mirror: {mirror:?} is not an http(s) URL")))?;
        }
        Ok(Registries {
            connections: Connections::new(&config.certificates, &config.proxies)?,
            mirrors,
            insecure: config.insecure_registries.clone(),
            working: Mutex::default(),
        })
    }

    pub(crate) fn repository(
        self: &Arc<Self>,
        reference: &Reference,
        credentials: Option<Credentials>,
    ) -> Repository {
        let mut endpoints = self.endpoints(reference.domain());
        if let Some(base) = self.working.lock().unwrap_or_else(|e| e.into_inner()).get(reference.domain()) {
            endpoints.sort_by_key(|e| e.base != *base);
        }
        Repository {
            registries: self.clone(),
            reference: reference.clone(),
            endpoints,
            credentials,
            mounts: Vec::new(),
            tokens: Arc::default(),
        }
    }

    /// Reads what any URL stands for.
    pub(crate) async fn open_url(
        &self,
        url: &str,
    ) -> Result<impl tokio::io::AsyncRead + Send + Unpin + use<>, Error> {
        let parsed = Url::parse(url).map_err(|e| Error::Invalid(format!("{url}: {e}")))?;
        if !matches!(parsed.scheme(), "http" | "https") {
            return Err(Error::Invalid(format!("{url}: neither http nor https")));
        }
        let response = self
            .connections
            .to(host_of(url), false)?
            .get(parsed)
            .send()
            .await
            .map_err(|e| registry(url, causes(&e)))?;
        if !response.status().is_success() {
            return Err(registry(url, format!("unexpected status {}", response.status())));
        }
        let body = response.bytes_stream().map_err(|e| std::io::Error::other(causes(&e)));
        Ok(tokio_util::io::StreamReader::new(Box::pin(body)))
    }

    /// Asks a web server, by POST where there is a body; whatever it answers is no error.
    pub(crate) async fn ask_url(
        &self,
        url: &str,
        headers: &[(String, String)],
        body: Option<Vec<u8>>,
    ) -> Result<Response, Error> {
        let parsed = Url::parse(url).map_err(|e| Error::Invalid(format!("{url}: {e}")))?;
        if !matches!(parsed.scheme(), "http" | "https") {
            return Err(Error::Invalid(format!("{url}: neither http nor https")));
        }
        let client = self.connections.to(host_of(url), false)?;
        let mut request = match body {
            Some(body) => client.post(parsed).body(body),
            None => client.get(parsed),
        };
        for (name, value) in headers {
            request = request.header(name, value);
        }
        request.send().await.map_err(|e| registry(url, causes(&e)))
    }

    /// Starts reading a file at `offset` bytes from a server that is no registry; where it really starts.
    async fn elsewhere(&self, url: &str, offset: u64) -> Result<(Response, u64), Error> {
        let parsed = Url::parse(url).map_err(|e| Error::Invalid(format!("{url}: {e}")))?;
        let insecure = self.is_insecure(host_of(url));
        if parsed.scheme() != "https" && !(insecure && parsed.scheme() == "http") {
            return Err(Error::Invalid(format!("{url}: not https, and its host is not named insecure")));
        }
        let mut request = self.connections.to(host_of(url), insecure)?.get(parsed);
        if offset > 0 {
            request = request.header(RANGE, format!("bytes={offset}-"));
        }
        let response = request.send().await.map_err(|e| registry(url, causes(&e)))?;
        if !response.status().is_success() {
            return Err(registry(url, format!("unexpected status {}", response.status())));
        }
        started(response, offset)
    }

    fn endpoints(&self, domain: &str) -> Vec<Endpoint> {
        if domain == crate::reference::DEFAULT_DOMAIN {
            let mirrors = self.mirrors.iter().map(|m| Endpoint {
                base: m.clone(),
                // A mirror written with http was named insecure by that.
                insecure: m.starts_with("http://") || self.is_insecure(host_of(m)),
                mirror: true,
            });
            let hub = Endpoint { base: HUB.into(), insecure: self.is_insecure(HUB_HOST), mirror: false };
            return mirrors.chain([hub]).collect();
        }
        let insecure = self.is_insecure(domain);
        let schemes: &[&str] = if insecure { &["https", "http"] } else { &["https"] };
        schemes
            .iter()
            .map(|s| Endpoint { base: format!("{s}://{domain}"), insecure, mirror: false })
            .collect()
    }

    /// Loopback addresses, `localhost`, and what the settings name: `host`, `host:port` or a CIDR block.
    fn is_insecure(&self, domain: &str) -> bool {
        let host = match domain.strip_prefix('[').and_then(|d| d.split_once(']')) {
            Some((host, _)) => host,
            None => domain.split(':').next().unwrap_or(domain),
        };
        let ip: Option<IpAddr> = host.parse().ok();
        if host == "localhost" || ip.is_some_and(|ip| ip.is_loopback()) {
            return true;
        }
        self.insecure
            .iter()
            .any(|named| named == domain || named == host || ip.is_some_and(|ip| in_block(named, ip)))
    }

    fn client(&self, endpoint: &Endpoint) -> Result<Client, Error> {
        self.connections.to(host_of(&endpoint.base), endpoint.insecure)
    }
}

fn in_block(block: &str, ip: IpAddr) -> bool {
    let Some((network, bits)) = block.split_once('/') else { return false };
    let (Ok(network), Ok(bits)) = (network.parse::<IpAddr>(), bits.parse::<u32>()) else { return false };
    match (network, ip) {
        (IpAddr::V4(n), IpAddr::V4(ip)) if bits <= 32 => {
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            n.to_bits() & mask == ip.to_bits() & mask
        }
        (IpAddr::V6(n), IpAddr::V6(ip)) if bits <= 128 => {
            let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
            n.to_bits() & mask == ip.to_bits() & mask
        }
        _ => false,
    }
}

fn host_of(url: &str) -> &str {
    url.split_once("://").map_or(url, |(_, rest)| rest).split('/').next().unwrap_or_default()
}

impl Repository {
    /// The reference as users write it.
    pub(crate) fn familiar(&self) -> String {
        self.reference.familiar()
    }

    /// Asks for the digest a tag has now, without transferring it (the Hub does not count this against its limits).
    /// `None`: the registry does not say.
    pub(crate) async fn resolve(&self) -> Result<Option<Digest>, Error> {
        let response = self.manifest(Method::HEAD, &self.reference.target()).await?;
        Ok(response
            .headers()
            .get("docker-content-digest")
            .and_then(|d| d.to_str().ok())
            .and_then(|d| d.parse().ok()))
    }

    /// Fetches an index or manifest, by digest or else by the reference's tag, and verifies it.
    pub(crate) async fn document(&self, digest: Option<&Digest>) -> Result<Fetched, Error> {
        let target = digest.map_or_else(|| self.reference.target(), Digest::to_string);
        let expected: Option<Digest> = target.parse().ok();
        let response = self.manifest(Method::GET, &target).await?;
        let media_type = response
            .headers()
            .get(CONTENT_TYPE)
            .and_then(|t| t.to_str().ok())
            .map(|t| t.split(';').next().unwrap_or_default().trim().to_string())
            .unwrap_or_default();
        let url = response.url().to_string();
        let data = read_bounded(response, DOCUMENT_BYTES).await.map_err(|e| registry(&url, e))?;
        let digest = Digest::of(&data);
        if let Some(expected) = expected.filter(|e| *e != digest) {
            return Err(Error::Verification {
                what: format!("manifest of {}", self.reference.familiar()),
                expected: expected.to_string(),
                got: digest.to_string(),
            });
        }
        Ok(Fetched { media_type, digest, data })
    }

    /// Starts reading a blob at `offset` bytes. The answer says where it really starts: 0 when the server does not
    /// know ranges.
    pub(crate) async fn blob(&self, digest: &Digest, offset: u64) -> Result<(Response, u64), Error> {
        let path = format!("blobs/{digest}");
        let range = (offset > 0).then(|| format!("bytes={offset}-"));
        let response = self.request(Method::GET, &path, None, range.as_deref()).await?;
        started(response, offset)
    }

    /// As [`Self::blob`]; what is foreign also from where its descriptor says, without credentials.
    pub(crate) async fn content(&self, of: &Descriptor, offset: u64) -> Result<(Response, u64), Error> {
        let mut answer = self.blob(&of.digest, offset).await;
        for url in of.urls.iter().filter(|_| of.is_foreign()) {
            if answer.is_ok() {
                break;
            }
            answer = self.registries.elsewhere(url, offset).await;
        }
        answer
    }

    async fn manifest(&self, method: Method, target: &str) -> Result<Response, Error> {
        let accept = [DOCKER_MANIFEST, DOCKER_INDEX, OCI_INDEX, OCI_MANIFEST].join(", ");
        self.request(method, &format!("manifests/{target}"), Some(&accept), None).await
    }

    /// One request to the first endpoint that serves it.
    async fn request(
        &self,
        method: Method,
        path: &str,
        accept: Option<&str>,
        range: Option<&str>,
    ) -> Result<Response, Error> {
        let mut last = None;
        for endpoint in &self.endpoints {
            match self.request_at(endpoint, &method, path, accept, range).await {
                Ok(response) => {
                    if !endpoint.mirror {
                        self.registries
                            .working
                            .lock()
                            .unwrap_or_else(|e| e.into_inner())
                            .insert(self.reference.domain().into(), endpoint.base.clone());
                    }
                    return Ok(response);
                }
                Err(e) => {
                    tracing::debug!(endpoint = endpoint.base, error = %e, "registry endpoint failed");
                    // An answer weighs more than a connection that failed, except a mirror's.
                    let answered = !matches!(e, Error::Registry { .. });
                    if answered && !endpoint.mirror {
                        return Err(e);
                    }
                    last = Some(e);
                }
            }
        }
        Err(last.unwrap_or_else(|| registry(self.reference.domain(), "no endpoint")))
    }

    async fn request_at(
        &self,
        endpoint: &Endpoint,
        method: &Method,
        path: &str,
        accept: Option<&str>,
        range: Option<&str>,
    ) -> Result<Response, Error> {
        let url = self.url(endpoint, path);
        let response = self
            .exchange(endpoint, &url, |client| {
                let mut request = client.request(method.clone(), &url);
                if let Some(accept) = accept {
                    request = request.header(ACCEPT, accept);
                }
                if let Some(range) = range {
                    request = request.header(RANGE, range);
                }
                Ok(request)
            })
            .await?;
        if response.status().is_success() { Ok(response) } else { Err(self.refusal(response, path).await) }
    }

    fn url(&self, endpoint: &Endpoint, path: &str) -> String {
        format!("{}/v2/{}/{path}", endpoint.base, self.reference.path())
    }

    /// Sends what `build` makes (a plain function: an async one would not be known to be Send), answering one challenge and trying again where the server is at fault. Returns any
    /// other answer, also a refusal.
    async fn exchange(
        &self,
        endpoint: &Endpoint,
        url: &str,
        build: impl Fn(&Client) -> Result<reqwest::RequestBuilder, Error> + Send + Sync,
    ) -> Result<Response, Error> {
        let client = self.registries.client(endpoint)?;
        let mut attempt = 0;
        let mut authorised = false;
        loop {
            let mut request = build(&client)?;
            let token = self.tokens.lock().unwrap_or_else(|e| e.into_inner()).get(&endpoint.base).cloned();
            // An upload may be sent elsewhere: the token is not for there.
            if let Some(token) = token.filter(|_| host_of(url) == host_of(&endpoint.base)) {
                request = request.header(AUTHORIZATION, token);
            }
            let response = request.send().await.map_err(|e| registry(url, causes(&e)))?;
            let status = response.status();
            if status == StatusCode::UNAUTHORIZED && !authorised {
                authorised = true;
                if let Some(header) = self.answer(endpoint, &response).await? {
                    self.tokens
                        .lock()
                        .unwrap_or_else(|e| e.into_inner())
                        .insert(endpoint.base.clone(), header);
                    continue;
                }
            }
            let again = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
            let asked = retry_after(&response);
            if !again || attempt + 1 == ATTEMPTS || asked.is_some_and(|pause| pause > RETRY_AFTER) {
                return Ok(response);
            }
            match asked {
                Some(pause) => tokio::time::sleep(pause).await,
                None => back_off(attempt).await,
            }
            attempt += 1;
        }
    }

    /// Answers a challenge with an `Authorization` header; `None` when there is nothing to answer with.
    async fn answer(&self, endpoint: &Endpoint, response: &Response) -> Result<Option<String>, Error> {
        // A mirror is someone else: the user's password is not for it.
        let credentials = self.credentials.as_ref().filter(|_| !endpoint.mirror);
        if let Some(Credentials::RegistryToken(token)) = credentials {
            return Ok(Some(format!("Bearer {token}")));
        }
        let challenges = response.headers().get_all(WWW_AUTHENTICATE);
        let challenge = challenges.iter().filter_map(|h| h.to_str().ok()).find_map(Challenge::parse);
        match challenge {
            Some(Challenge::Basic) => Ok(credentials.and_then(Credentials::basic)),
            Some(Challenge::Bearer { realm, service, scope }) => {
                let mut scopes: Vec<String> = scope.split_whitespace().map(str::to_owned).collect();
                if scopes.is_empty() {
                    scopes.push(format!("repository:{}:pull", self.reference.path()));
                }
                for from in &self.mounts {
                    let prefix = format!("repository:{from}:");
                    if !scopes.iter().any(|s| s.starts_with(&prefix)) {
                        scopes.push(format!("{prefix}pull"));
                    }
                }
                let question = Question { realm: &realm, service: &service, scopes: &scopes, login: None };
                match self.registries.token(endpoint, credentials, &question).await? {
                    Some(token) => Ok(Some(format!("Bearer {}", token.access))),
                    None => Err(Error::Unauthorized {
                        url: realm,
                        message: "incorrect username or password".into(),
                    }),
                }
            }
            None => Ok(None),
        }
    }

    /// The error for an answer that is not a success, in Docker's words.
    async fn refusal(&self, response: Response, path: &str) -> Error {
        let (status, url) = (response.status(), response.url().to_string());
        let asked = retry_after(&response);
        let body = read_bounded(response, ANSWER_BYTES).await.unwrap_or_default();
        let (code, message) = first_error(&body);
        let name = self.reference.familiar_name();
        match (status, code.as_str()) {
            (_, "NAME_UNKNOWN" | "DENIED") | (StatusCode::FORBIDDEN, _) => Error::PullDenied(name),
            (StatusCode::NOT_FOUND, _) if path.starts_with("manifests/") => {
                Error::ManifestUnknown(self.reference.familiar())
            }
            (StatusCode::UNAUTHORIZED, _) if self.credentials.is_none() => Error::PullDenied(name),
            (StatusCode::UNAUTHORIZED, _) => Error::Unauthorized {
                url,
                message: if message.is_empty() { "authentication required".into() } else { message },
            },
            (StatusCode::TOO_MANY_REQUESTS, _) => {
                let when =
                    asked.map(|p| format!(" (try again in {} seconds)", p.as_secs())).unwrap_or_default();
                let message = if message.is_empty() { "too many requests" } else { &message };
                Error::RateLimited(format!("{message}{when}"))
            }
            _ if message.is_empty() => registry(&url, format!("unexpected status {status}")),
            _ => registry(&url, format!("{status}: {message}")),
        }
    }
}

/// An answer to a request for what follows `offset`, and where it starts: 0 when the server does not know ranges.
fn started(response: Response, offset: u64) -> Result<(Response, u64), Error> {
    let start = match response.status() {
        StatusCode::PARTIAL_CONTENT => response
            .headers()
            .get("content-range")
            .and_then(|r| r.to_str().ok())
            .and_then(|r| r.strip_prefix("bytes ")?.split('-').next()?.parse().ok())
            .unwrap_or(offset),
        _ => 0,
    };
    if start > offset {
        return Err(registry(response.url().as_str(), "answered another range than was asked for"));
    }
    Ok((response, start))
}

/// The pause a server asks for (RFC 9110, 10.2.3): seconds, or a date.
fn retry_after(response: &Response) -> Option<Duration> {
    let text = response.headers().get("retry-after")?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = chrono::DateTime::parse_from_rfc2822(text).ok()?;
    (at.to_utc() - chrono::Utc::now()).to_std().ok()
}

mod url {
    /// Encodes a form body.
    pub(super) fn form(pairs: &[(&str, &str)]) -> String {
        let mut out = reqwest::Url::parse("http://x/").map(|mut url| {
            url.query_pairs_mut().extend_pairs(pairs);
            url.query().unwrap_or_default().to_string()
        });
        out.as_mut().map(std::mem::take).unwrap_or_default()
    }
}

fn first_error(body: &[u8]) -> (String, String) {
    #[derive(serde::Deserialize)]
    struct Errors {
        errors: Vec<One>,
    }
    #[derive(serde::Deserialize)]
    struct One {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    serde_json::from_slice::<Errors>(body)
        .ok()
        .and_then(|e| e.errors.into_iter().next())
        .map(|e| (e.code, e.message))
        .unwrap_or_default()
}

async fn read_bounded(mut response: Response, limit: u64) -> Result<Vec<u8>, String> {
    let mut data = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|e| causes(&e))? {
        if data.len() as u64 + chunk.len() as u64 > limit {
            return Err(format!("answer longer than {limit} bytes"));
        }
        data.extend_from_slice(&chunk);
    }
    Ok(data)
}

pub(crate) fn registry(url: &str, message: impl ToString) -> Error {
    Error::Registry { url: url.to_string(), message: message.to_string() }
}

/// An error with all that caused it: the outermost alone says little.
pub(crate) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        // The operating system's words as Go writes them: users and scripts know `connection refused`.
        if let Some(os) = cause.downcast_ref::<std::io::Error>().filter(|e| e.raw_os_error().is_some()) {
            let words = os.to_string();
            let words = words.split(" (os error").next().unwrap_or_default().to_lowercase();
            return format!("dial tcp: connect: {words}");
        }
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_only_for_what_is_insecure() {
        let config = |mirror: &str| crate::Config {
            registry_mirrors: vec![mirror.into()],
            insecure_registries: vec!["reg:5000".into(), "10.0.0.0/8".into()],
            ..crate::Config::default()
        };
        let registries = Registries::new(&config("http://127.0.0.1:5000/")).unwrap();
        let bases = |d: &str| registries.endpoints(d).into_iter().map(|e| e.base).collect::<Vec<_>>();
        assert_eq!(bases("docker.io"), ["http://127.0.0.1:5000", HUB]);
        assert_eq!(bases("ghcr.io"), ["https://ghcr.io"]);
        for insecure in ["127.0.0.1:5000", "127.9.9.9", "localhost:1", "[::1]:5", "reg:5000", "10.1.2.3:80"] {
            assert_eq!(bases(insecure), [format!("https://{insecure}"), format!("http://{insecure}")]);
        }
        for secure in ["reg", "reg:5001", "11.0.0.1", "localhost.example.com"] {
            assert_eq!(bases(secure).len(), 1, "{secure}");
        }
        assert!(Registries::new(&config("ftp://x")).is_err());
    }
}
