//! An image's configuration, as BuildKit's `DockerOCIImage` reads and writes it (OCI image-spec `config.md` with
//! Docker's additions).
//!
//! Fields are in the order in which Go writes them, and absent where Go leaves them out.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use crate::Error;
use crate::platform::Platform;

/// The configuration of an image.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Image {
    /// RFC 3339; written by the exporter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Who made it (`MAINTAINER`).
    #[serde(default, deserialize_with = "null", skip_serializing_if = "String::is_empty")]
    pub author: String,
    /// Go's name of it.
    #[serde(default, deserialize_with = "null")]
    pub architecture: String,
    /// Go's name of it.
    #[serde(default, deserialize_with = "null")]
    pub os: String,
    /// Windows' build number.
    #[serde(
        default,
        rename = "os.version",
        deserialize_with = "null",
        skip_serializing_if = "String::is_empty"
    )]
    pub os_version: String,
    /// Windows' features.
    #[serde(
        default,
        rename = "os.features",
        deserialize_with = "null",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub os_features: Vec<String>,
    /// Of the architecture.
    #[serde(default, deserialize_with = "null", skip_serializing_if = "String::is_empty")]
    pub variant: String,
    /// How containers of it run.
    #[serde(default, deserialize_with = "null")]
    pub config: Config,
    /// Its layers, uncompressed; written by the exporter.
    #[serde(default, deserialize_with = "null")]
    pub rootfs: RootFs,
    /// How it was made.
    #[serde(default, deserialize_with = "null", skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<History>,
}

impl Image {
    /// An image of nothing.
    pub fn empty(platform: &Platform) -> Image {
        let mut image =
            Image { config: Config { working_dir: "/".into(), ..Config::default() }, ..Image::default() };
        image.rootfs.kind = "layers".into();
        image.set_platform(platform);
        if platform.os != "windows" {
            image.config.env = vec![format!("PATH={DEFAULT_PATH}")];
        }
        image
    }

    /// Reads a configuration document.
    ///
    /// # Errors
    /// It is none.
    pub fn read(document: &[u8]) -> Result<Image, Error> {
        serde_json::from_slice(document)
            .map_err(|why| Error::invalid(format!("failed to parse image config: {why}")))
    }

    /// What it is for.
    pub fn platform(&self) -> Platform {
        Platform {
            os: self.os.clone(),
            architecture: self.architecture.clone(),
            variant: self.variant.clone(),
            os_version: self.os_version.clone(),
        }
    }

    pub(crate) fn set_platform(&mut self, platform: &Platform) {
        self.os = platform.os.clone();
        self.architecture = platform.architecture.clone();
        self.variant = platform.variant.clone();
        self.os_version = platform.os_version.clone();
    }
}

/// `PATH` where an image sets none.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How containers of an image run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Config {
    /// `user[:group]`
    #[serde(default, deserialize_with = "null", skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// `80/tcp`
    #[serde(default, deserialize_with = "null", skip_serializing_if = "BTreeMap::is_empty")]
    pub exposed_ports: BTreeMap<String, Empty>,
    /// `KEY=value`
    #[serde(default, deserialize_with = "null", skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// Program and first arguments.
    #[serde(default, deserialize_with = "null", skip_serializing_if = "Vec::is_empty")]
    pub entrypoint: Vec<String>,
    /// Program, or further arguments.
    #[serde(default, deserialize_with = "null", skip_serializing_if = "Vec::is_empty")]
    pub cmd: Vec<String>,
    /// Folders that are volumes.
    #[serde(default, deserialize_with = "null", skip_serializing_if = "BTreeMap::is_empty")]
    pub volumes: BTreeMap<String, Empty>,
    /// Absolute.
    #[serde(default, deserialize_with = "null", skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    /// Labels.
    #[serde(default, deserialize_with = "null", skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// `SIGTERM`, `15`
    #[serde(default, deserialize_with = "null", skip_serializing_if = "String::is_empty")]
    pub stop_signal: String,
    /// Set by `CMD`; of meaning on Windows only.
    #[serde(default, deserialize_with = "null", skip_serializing_if = "is_false")]
    pub args_escaped: bool,
    /// How to see whether it is well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// Instructions for builds upon this image.
    #[serde(default, deserialize_with = "null", skip_serializing_if = "Vec::is_empty")]
    pub on_build: Vec<String>,
    /// The shell of shell forms.
    #[serde(default, deserialize_with = "null", skip_serializing_if = "Vec::is_empty")]
    pub shell: Vec<String>,
}

/// Go's `struct{}`: `{}`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Empty {}

/// `HEALTHCHECK`; times in nanoseconds, 0 is inherited.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Healthcheck {
    /// `["CMD", …]`, `["CMD-SHELL", …]`, `["NONE"]`
    #[serde(default, deserialize_with = "null", skip_serializing_if = "Vec::is_empty")]
    pub test: Vec<String>,
    /// Between two checks.
    #[serde(default, deserialize_with = "null", skip_serializing_if = "is_zero")]
    pub interval: i64,
    /// Of one check.
    #[serde(default, deserialize_with = "null", skip_serializing_if = "is_zero")]
    pub timeout: i64,
    /// In which failures do not count.
    #[serde(default, deserialize_with = "null", skip_serializing_if = "is_zero")]
    pub start_period: i64,
    /// Between two checks in the start period.
    #[serde(default, deserialize_with = "null", skip_serializing_if = "is_zero")]
    pub start_interval: i64,
    /// Failures until it is unhealthy.
    #[serde(default, deserialize_with = "null", skip_serializing_if = "is_zero")]
    pub retries: i64,
}

/// An image's layers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootFs {
    /// `layers`
    #[serde(default, rename = "type", deserialize_with = "null")]
    pub kind: String,
    /// `sha256:…` of each, uncompressed, lowest first.
    #[serde(default, deserialize_with = "null")]
    pub diff_ids: Vec<String>,
}

/// One step of how an image was made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// The instruction.
    #[serde(default, deserialize_with = "null", skip_serializing_if = "String::is_empty")]
    pub created_by: String,
    /// Who.
    #[serde(default, deserialize_with = "null", skip_serializing_if = "String::is_empty")]
    pub author: String,
    /// `buildkit.dockerfile.v0`
    #[serde(default, deserialize_with = "null", skip_serializing_if = "String::is_empty")]
    pub comment: String,
    /// It made no layer.
    #[serde(default, deserialize_with = "null", skip_serializing_if = "is_false")]
    pub empty_layer: bool,
}

fn is_false(value: &bool) -> bool {
    !value
}

fn is_zero(value: &i64) -> bool {
    *value == 0
}

/// As Go reads JSON: `null` is the zero value.
fn null<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}
