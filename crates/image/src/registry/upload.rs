//! The verbs of pushing (distribution-spec, "Push"). Never to a mirror.

use std::path::Path;

use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use reqwest::{Body, Client, Method, Response, StatusCode, Url};
use tokio_util::io::ReaderStream;

use super::{Endpoint, Repository, host_of, registry};
use crate::{Digest, Error};

/// Bytes read from a blob and sent at once.
const CHUNK: usize = 128 * 1024;

/// Where the bytes of an upload come from.
pub(crate) enum Source<'a> {
    File(&'a Path),
    Bytes(&'a [u8]),
}

/// How a blob came to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sent {
    Existed,
    Mounted,
    Uploaded,
}

impl Repository {
    /// Settles on the endpoint that answers; all else goes there. A registry that is not insecure has but one.
    /// `mounts` are other repositories that blobs may be taken from.
    pub(crate) async fn for_push(mut self, mounts: Vec<String>) -> Result<Repository, Error> {
        self.endpoints.retain(|e| !e.mirror);
        let mut last = None;
        for endpoint in &self.endpoints {
            let url = format!("{}/v2/", endpoint.base);
            match self.exchange(endpoint, &url, |client| Ok(client.get(&url))).await {
                Ok(_) => {
                    let endpoint = endpoint.clone();
                    self.endpoints = vec![endpoint];
                    // Its token is for nothing in particular.
                    self.tokens.lock().unwrap_or_else(|e| e.into_inner()).clear();
                    self.mounts = mounts;
                    return Ok(self);
                }
                Err(e) => last = Some(e),
            }
        }
        Err(last.unwrap_or_else(|| registry(self.reference.domain(), "no endpoint")))
    }

    fn endpoint(&self) -> Result<&Endpoint, Error> {
        self.endpoints.first().ok_or_else(|| registry(self.reference.domain(), "no endpoint"))
    }

    /// Sends a blob unless it is there already; `from` is another repository of the same registry that has it.
    pub(crate) async fn send_blob(
        &self,
        digest: &Digest,
        size: u64,
        source: &Source<'_>,
        from: Option<&str>,
        sent: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<Sent, Error> {
        let endpoint = self.endpoint()?;
        let path = format!("blobs/{digest}");
        let url = self.url(endpoint, &path);
        let head = self.exchange(endpoint, &url, |client| Ok(client.head(&url))).await?;
        match head.status() {
            status if status.is_success() => return Ok(Sent::Existed),
            StatusCode::NOT_FOUND => {}
            _ => return Err(self.push_refusal(head, &path).await),
        }
        let mut start = self.url(endpoint, "blobs/uploads/");
        if let Some(from) = from {
            start = format!("{start}?mount={digest}&from={from}");
        }
        let begun = self
            .exchange(endpoint, &start, |client| Ok(client.post(&start).header(CONTENT_LENGTH, 0)))
            .await?;
        match begun.status() {
            StatusCode::CREATED => return Ok(Sent::Mounted),
            StatusCode::ACCEPTED => {}
            _ => return Err(self.push_refusal(begun, "blobs/uploads/").await),
        }
        let mut target = self.location(endpoint, &begun)?;
        target.query_pairs_mut().append_pair("digest", &digest.to_string());
        let url = target.to_string();
        let done = self
            .exchange(endpoint, &url, |client| body(client, Method::PUT, &url, size, source, sent))
            .await?;
        if done.status() == StatusCode::CREATED {
            Ok(Sent::Uploaded)
        } else {
            Err(self.push_refusal(done, "blobs/uploads/").await)
        }
    }

    /// Sends an index or manifest under the reference's tag, or by its digest.
    pub(crate) async fn send_document(
        &self,
        target: &str,
        media_type: &str,
        data: &[u8],
    ) -> Result<(), Error> {
        let endpoint = self.endpoint()?;
        let path = format!("manifests/{target}");
        let url = self.url(endpoint, &path);
        let done = self
            .exchange(endpoint, &url, |client| {
                Ok(client.put(&url).header(CONTENT_TYPE, media_type).body(data.to_vec()))
            })
            .await?;
        if done.status().is_success() { Ok(()) } else { Err(self.push_refusal(done, &path).await) }
    }

    fn location(&self, endpoint: &Endpoint, response: &Response) -> Result<Url, Error> {
        let url = response
            .headers()
            .get(LOCATION)
            .and_then(|l| l.to_str().ok())
            .and_then(|l| response.url().join(l).ok())
            .ok_or_else(|| registry(response.url().as_str(), "no location to upload to"))?;
        if url.scheme() != "https" && !endpoint.insecure {
            return Err(registry(url.as_str(), "an upload in plain http to a registry that is not insecure"));
        }
        tracing::debug!(host = host_of(url.as_str()), "uploading");
        Ok(url)
    }

    async fn push_refusal(&self, response: Response, path: &str) -> Error {
        match self.refusal(response, path).await {
            Error::PullDenied(_) => Error::Denied("requested access to the resource is denied".into()),
            other => other,
        }
    }
}

/// A request with a blob as its body.
fn body(
    client: &Client,
    method: Method,
    url: &str,
    size: u64,
    source: &Source<'_>,
    sent: &(dyn Fn(u64) + Send + Sync),
) -> Result<reqwest::RequestBuilder, Error> {
    sent(0);
    let body = match source {
        Source::Bytes(data) => Body::from(data.to_vec()),
        Source::File(path) => {
            let file = std::fs::File::open(path).map_err(|e| Error::os("open", path, e))?;
            Body::wrap_stream(ReaderStream::with_capacity(tokio::fs::File::from_std(file), CHUNK))
        }
    };
    Ok(client
        .request(method, url)
        .header(CONTENT_TYPE, "application/octet-stream")
        .header(CONTENT_LENGTH, size)
        .body(body))
}
