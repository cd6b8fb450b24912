//! The Dockerfile frontend (`dockerfile.v0`): options of a solve request in, a [`Graph`] or an answer out.

use std::collections::BTreeMap;
use std::future::Future;

use crate::Error;
use crate::graph::{Graph, ResolveMode, Vertex};
use crate::platform::Platform;

/// What the frontend asks of the engine. Calls may run at the same time.
pub trait Host: Sync {
    /// Does a source step (`Local`, `Git`, `Http`, with or without a `Copy` that unpacks it: `steps` is a graph of its
    /// own whose last vertex is meant) and reads files of what it gives. One answer for each path; `None` where it is
    /// not there. No file larger than [`MAX_FILE`] is read: that is an error.
    fn read_files(
        &self,
        steps: &[Vertex],
        paths: &[String],
    ) -> impl Future<Output = Result<Vec<Option<Vec<u8>>>, Error>> + Send;

    /// Finds an image's digest and configuration for a platform, under a step of the progress named `request.name`.
    fn resolve_image(
        &self,
        request: ImageRequest,
    ) -> impl Future<Output = Result<ResolvedImage, Error>> + Send;

    /// The platforms this engine can run programs of, its own first. Never empty.
    fn platforms(&self) -> Vec<Platform>;
}

/// Largest Dockerfile, `.dockerignore` or the like that is read, in bytes.
pub const MAX_FILE: usize = 64 << 20;

/// Which image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageRequest {
    /// `[internal] load metadata for docker.io/library/busybox:latest`
    pub name: String,
    /// Canonical, with tag or digest.
    pub reference: String,
    /// For what.
    pub platform: Platform,
    /// Where it may come from.
    pub mode: ResolveMode,
    /// In an OCI layout of the session: its store (`--build-context x=oci-layout://…`).
    pub oci_layout: Option<String>,
}

/// An image that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedImage {
    /// Digest of what the reference means (manifest or list), `sha256:…`. `None` for an image of the store that has no
    /// manifest.
    pub digest: Option<String>,
    /// The configuration document.
    pub config: Vec<u8>,
}

/// What a solve request gives.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// A build.
    Build(Box<Graph>),
    /// An answer to a question (`docker build --call`): the metadata of the result (`result.json`, `result.txt`,
    /// `result.statuscode`, `version`).
    Answer(BTreeMap<String, Vec<u8>>),
}

/// Does a solve request of the frontend `dockerfile.v0` with these options (`FrontendOpt`).
pub async fn solve<H: Host>(_options: &BTreeMap<String, String>, _host: &H) -> Result<Outcome, Error> {
    Err(Error::invalid("building images is not there yet").with_kind(crate::error::Kind::Unsupported))
}
