//! The documents of an image (OCI image-spec 1.1 and Docker's distribution formats), as far as we read them.
//!
//! What is stored and passed on is always the original bytes: these types only look into them. Unknown fields are
//! ignored and `null` counts as absent, as in Go.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use crate::{Digest, Error, Platform};

pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub(crate) const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub(crate) const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
pub(crate) const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
pub(crate) const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
pub(crate) const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
pub(crate) const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Media types of layers, OCI's and Docker's for the same.
const LAYER_TYPES: [(&str, &str); 3] = [
    (OCI_LAYER, DOCKER_LAYER),
    (OCI_LAYER_GZIP, DOCKER_LAYER_GZIP),
    (OCI_LAYER_ZSTD, "application/vnd.docker.image.rootfs.diff.tar.zstd"),
];

/// A layer's media type as OCI's or Docker's; what is neither stays.
pub(crate) fn layer_type(media_type: &str, docker: bool) -> &str {
    let found = LAYER_TYPES.into_iter().find(|(oci, other)| [*oci, *other].contains(&media_type));
    found.map_or(media_type, |(oci, other)| if docker { other } else { oci })
}

const DOCKER_SCHEMA1: [&str; 2] = [
    "application/vnd.docker.distribution.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
];

/// Largest index, manifest or configuration accepted, bytes (containerd's limit is the same).
pub(crate) const DOCUMENT_BYTES: u64 = 8 * 1024 * 1024;
/// Most layers of one image: overlayfs takes no more lower folders than this (Docker's own limit is 127).
pub(crate) const LAYERS: usize = 500;

fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(d: D) -> Result<T, D::Error> {
    Option::<T>::deserialize(d).map(Option::unwrap_or_default)
}

/// What names a piece of content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Media type of the content.
    #[serde(default, deserialize_with = "or_default")]
    pub media_type: String,
    /// Digest of the content.
    pub digest: Digest,
    /// Length of the content, bytes.
    pub size: u64,
    /// Platform, for the manifests of an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Where the content is besides the registry (foreign layers).
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// Annotations.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// Annotations by which BuildKit marks attestations.
const REFERENCE_TYPE: &str = "vnd.docker.reference.type";
const REFERENCE_DIGEST: &str = "vnd.docker.reference.digest";
const ATTESTATION: &str = "attestation-manifest";

/// Annotations of an attestation of the manifest of this digest.
pub(crate) fn attestation_of(manifest: &Digest) -> BTreeMap<String, String> {
    let pairs = [(REFERENCE_DIGEST, manifest.to_string()), (REFERENCE_TYPE, ATTESTATION.into())];
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

impl Descriptor {
    /// Whether this is a layer that its maker gives out himself, not by registries: fetched from [`Self::urls`] where
    /// the registry does not have it, never pushed.
    pub(crate) fn is_foreign(&self) -> bool {
        self.media_type.contains(".foreign.") || self.media_type.contains(".nondistributable.")
    }

    /// The digest of the manifest that this one attests, when it is an attestation.
    pub(crate) fn attests(&self) -> Option<&str> {
        let marked = self.annotations.get(REFERENCE_TYPE).is_some_and(|t| t == ATTESTATION);
        marked.then(|| self.annotations.get(REFERENCE_DIGEST).map_or("", String::as_str))
    }
}

/// An index or manifest list.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Index {
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) manifests: Vec<Descriptor>,
}

/// A manifest.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    pub(crate) artifact_type: Option<String>,
    pub(crate) config: Descriptor,
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) layers: Vec<Descriptor>,
}

impl Manifest {
    /// Whether it is something else than an image (a chart, a signature, ...): nothing to unpack or run.
    pub(crate) fn is_artifact(&self) -> bool {
        !matches!(self.config.media_type.as_str(), "" | OCI_CONFIG | DOCKER_CONFIG)
    }

    /// What kind of artifact it is: its own word, or what its configuration is.
    pub(crate) fn kind(&self) -> &str {
        self.artifact_type.as_deref().unwrap_or(&self.config.media_type)
    }
}

/// An index or a manifest.
pub(crate) enum Document {
    Index(Index),
    Manifest(Box<Manifest>),
}

impl Document {
    /// Reads a document by the media type its server gives, else by what it says of itself.
    pub(crate) fn parse(media_type: &str, data: &[u8], name: &str) -> Result<(Document, String), Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Probe {
            #[serde(default, deserialize_with = "or_default")]
            schema_version: u32,
            #[serde(default, deserialize_with = "or_default")]
            media_type: String,
            manifests: Option<serde::de::IgnoredAny>,
            config: Option<serde::de::IgnoredAny>,
        }
        let probe: Probe = serde_json::from_slice(data).map_err(|e| Error::content(name, e))?;
        if DOCKER_SCHEMA1.contains(&media_type) || probe.schema_version == 1 {
            return Err(Error::Schema1 { reference: name.into() });
        }
        // Both kinds at once is how one document is made to mean two things (CVE-2021-41190).
        if probe.manifests.is_some() && probe.config.is_some() {
            return Err(Error::content(name, "both an index and a manifest"));
        }
        let is_index = probe.manifests.is_some();
        let stated = if probe.media_type.is_empty() { media_type } else { &probe.media_type };
        let media_type = match (is_index, stated) {
            (true, OCI_INDEX | DOCKER_INDEX) | (false, OCI_MANIFEST | DOCKER_MANIFEST) => stated,
            (_, OCI_INDEX | DOCKER_INDEX | OCI_MANIFEST | DOCKER_MANIFEST) => {
                return Err(Error::content(name, format!("media type {stated} does not fit")));
            }
            (true, _) => OCI_INDEX,
            (false, _) => OCI_MANIFEST,
        };
        let document = if is_index {
            Document::Index(serde_json::from_slice(data).map_err(|e| Error::content(name, e))?)
        } else {
            let manifest: Manifest = serde_json::from_slice(data).map_err(|e| Error::content(name, e))?;
            if manifest.layers.len() > LAYERS {
                return Err(Error::content(name, format!("more than {LAYERS} layers")));
            }
            Document::Manifest(Box::new(manifest))
        };
        Ok((document, media_type.to_string()))
    }
}

/// An image's configuration document.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct ConfigDocument {
    pub(crate) created: Option<String>,
    pub(crate) author: Option<String>,
    #[serde(flatten)]
    pub(crate) platform: Platform,
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) config: ImageConfig,
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) rootfs: RootFsDocument,
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) history: Vec<History>,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct RootFsDocument {
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) diff_ids: Vec<Digest>,
}

/// One step of how an image was made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct History {
    /// When, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// By which instruction.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub created_by: String,
    /// By whom.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub author: String,
    /// Remark.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub comment: String,
    /// Whether the step made no layer.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
}

/// What containers of an image start with.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ImageConfig {
    /// User (and group) to run as.
    #[serde(default, deserialize_with = "or_default")]
    pub user: String,
    /// Ports like `80/tcp`.
    #[serde(default, deserialize_with = "keys")]
    pub exposed_ports: Vec<String>,
    /// `NAME=value`.
    #[serde(default, deserialize_with = "or_default")]
    pub env: Vec<String>,
    /// Program and first arguments.
    pub entrypoint: Option<Vec<String>>,
    /// Default arguments, or the program where there is no entrypoint.
    pub cmd: Option<Vec<String>>,
    /// Health check, as Docker writes it.
    pub healthcheck: Option<serde_json::Value>,
    /// Whether `cmd` is one escaped string (Windows).
    #[serde(default, deserialize_with = "or_default")]
    pub args_escaped: bool,
    /// Paths that become volumes.
    #[serde(default, deserialize_with = "keys")]
    pub volumes: Vec<String>,
    /// Folder to start in.
    #[serde(default, deserialize_with = "or_default")]
    pub working_dir: String,
    /// Instructions for builds on top.
    #[serde(default, deserialize_with = "or_default")]
    pub on_build: Vec<String>,
    /// Labels.
    #[serde(default, deserialize_with = "or_default")]
    pub labels: BTreeMap<String, String>,
    /// Signal that stops a container.
    pub stop_signal: Option<String>,
    /// Shell of the Dockerfile's shell form.
    pub shell: Option<Vec<String>>,
}

/// Go's `map[string]struct{}`: a set.
fn keys<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<String>, D::Error> {
    let map = Option::<BTreeMap<String, serde::de::IgnoredAny>>::deserialize(d)?;
    Ok(map.unwrap_or_default().into_keys().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockers_configuration_reads_with_nulls_and_extra_fields() {
        let text = r#"{"architecture":"amd64","os":"linux","created":"2026-01-01T00:00:00Z","container":"x",
            "docker_version":"28","config":{"Hostname":"","Env":["A=b"],"Cmd":null,"Entrypoint":["/x"],"OnBuild":null,
            "Labels":null,"ExposedPorts":{"80/tcp":{}},"Volumes":null,"Healthcheck":{"Test":["CMD","x"]}},
            "rootfs":{"type":"layers","diff_ids":[]},"history":[{"created_by":"x","empty_layer":true}]}"#;
        let config: ConfigDocument = serde_json::from_str(text).unwrap();
        assert_eq!(config.platform.architecture, "amd64");
        assert_eq!(config.config.exposed_ports, ["80/tcp"]);
        assert_eq!(config.config.cmd, None);
        assert!(config.history[0].empty_layer);
    }

    #[test]
    fn a_document_means_one_thing() {
        let digest = Digest::of(b"x");
        let descriptor = format!(r#"{{"digest":"{digest}","size":1}}"#);
        let manifest = format!(r#"{{"schemaVersion":2,"config":{descriptor},"layers":[]}}"#);
        assert!(matches!(
            Document::parse("", manifest.as_bytes(), "x").unwrap(),
            (Document::Manifest(_), t) if t == OCI_MANIFEST
        ));
        let both = format!(r#"{{"schemaVersion":2,"config":{descriptor},"layers":[],"manifests":[]}}"#);
        assert!(Document::parse(OCI_INDEX, both.as_bytes(), "x").is_err());
        assert!(Document::parse(OCI_INDEX, manifest.as_bytes(), "x").is_err());
        let old = br#"{"schemaVersion":1,"fsLayers":[]}"#;
        assert!(matches!(Document::parse("", old, "x"), Err(Error::Schema1 { .. })));
    }
}
