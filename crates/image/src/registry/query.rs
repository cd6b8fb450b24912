//! What can be asked of a registry besides content: tags, platforms, searches.

use reqwest::header::LINK;
use reqwest::{Method, Url};

use super::{ANSWER_BYTES, Registries, Repository, causes, read_bounded, registry};
use crate::pull::{descriptor, fetch_config};
use crate::spec::{ConfigDocument, Document};
use crate::{Descriptor, Error, Platform};

/// Pages of a list of tags followed.
const PAGES: usize = 1000;
/// Where Docker Hub is searched.
const HUB_SEARCH: &str = "https://index.docker.io";

/// What a registry says of an image without it being pulled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Distribution {
    /// Index or manifest the name stands for.
    pub descriptor: Descriptor,
    /// Platforms it is there for.
    pub platforms: Vec<Platform>,
}

/// One result of a search, as the Hub gives it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
#[serde(default)]
#[derive(Default)]
pub struct Found {
    /// Name.
    pub name: String,
    /// What it says of itself.
    pub description: String,
    /// How many like it.
    pub star_count: i64,
    /// Whether it is one of the Hub's own.
    pub is_official: bool,
    /// Whether the Hub builds it.
    pub is_automated: bool,
}

impl Repository {
    /// All tags of the repository, in the registry's order.
    pub(crate) async fn tags(&self) -> Result<Vec<String>, Error> {
        #[derive(serde::Deserialize)]
        struct List {
            tags: Option<Vec<String>>,
        }
        let mut tags = Vec::new();
        let mut path = "tags/list".to_owned();
        for _ in 0..PAGES {
            let response = self.request(Method::GET, &path, None, None).await?;
            let url = response.url().clone();
            let next = response.headers().get(LINK).and_then(|l| l.to_str().ok()).and_then(next_page);
            let body = read_bounded(response, crate::spec::DOCUMENT_BYTES).await;
            let body = body.map_err(|e| registry(url.as_str(), e))?;
            let list: List = serde_json::from_slice(&body).map_err(|e| registry(url.as_str(), e))?;
            tags.extend(list.tags.unwrap_or_default());
            // Only the question of the link counts: it may not lead anywhere else.
            match next.and_then(|n| url.join(&n).ok()).and_then(|n| n.query().map(str::to_owned)) {
                Some(query) => path = format!("tags/list?{query}"),
                None => return Ok(tags),
            }
        }
        Err(registry(self.reference.domain(), format!("more than {PAGES} pages of tags")))
    }

    /// What the reference stands for at the registry.
    pub(crate) async fn distribution(&self) -> Result<Distribution, Error> {
        let top = self.document(self.reference.digest()).await?;
        let name = self.reference.familiar();
        let (document, media_type) = Document::parse(&top.media_type, &top.data, &name)?;
        let platforms = match document {
            Document::Index(index) => index.manifests.into_iter().filter_map(|m| m.platform).collect(),
            Document::Manifest(manifest) => {
                let data = fetch_config(self, &manifest.config).await?;
                let config: ConfigDocument =
                    serde_json::from_slice(&data).map_err(|e| Error::content(name, e))?;
                vec![config.platform]
            }
        };
        Ok(Distribution { descriptor: descriptor(&media_type, top.digest, &top.data), platforms })
    }
}

/// The address of `<...>; rel="next"`.
fn next_page(link: &str) -> Option<String> {
    let (address, rest) = link.strip_prefix('<')?.split_once('>')?;
    rest.contains("next").then(|| address.to_owned())
}

impl Registries {
    /// Searches the Hub, or the registry that the term begins with (`host/term`).
    pub(crate) async fn search(&self, term: &str, limit: u32) -> Result<Vec<Found>, Error> {
        let (bases, term) = match term.split_once('/') {
            Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" => {
                let host = if host == "docker.io" { None } else { Some(host) };
                (host.map(|h| self.endpoints(h)), rest)
            }
            _ => (None, term),
        };
        let bases = bases.unwrap_or_else(|| {
            vec![super::Endpoint { base: HUB_SEARCH.into(), insecure: false, mirror: false }]
        });
        let mut last = None;
        for endpoint in bases {
            let mut url = Url::parse(&format!("{}/v1/search", endpoint.base))
                .map_err(|e| registry(&endpoint.base, e))?;
            url.query_pairs_mut().append_pair("q", term).append_pair("n", &limit.to_string());
            let shown = url.to_string();
            let response = match self.client(&endpoint)?.get(url).send().await {
                Ok(response) => response,
                Err(e) => {
                    last = Some(registry(&shown, causes(&e)));
                    continue;
                }
            };
            if !response.status().is_success() {
                return Err(registry(
                    &shown,
                    format!("Unexpected status code {}", response.status().as_u16()),
                ));
            }
            #[derive(serde::Deserialize)]
            struct Answer {
                results: Vec<Found>,
            }
            let body = read_bounded(response, ANSWER_BYTES).await.map_err(|e| registry(&shown, e))?;
            let answer: Answer = serde_json::from_slice(&body).map_err(|e| registry(&shown, e))?;
            return Ok(answer.results);
        }
        Err(last.unwrap_or_else(|| registry(HUB_SEARCH, "no endpoint")))
    }
}
