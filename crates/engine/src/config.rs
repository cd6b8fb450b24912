//! The engine's settings: dockerd's `daemon.json`, the keys this engine knows.
//!
//! An unknown key is an error that names it, as with dockerd: a setting that does nothing misleads.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::{Error, Result};

/// `daemon.json`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields)]
pub struct EngineConfig {
    /// Where Docker Hub's images are asked for first.
    pub registry_mirrors: Vec<String>,
    /// Registries (host:port, host or CIDR) that may be spoken to in plain text.
    pub insecure_registries: Vec<String>,
    /// Proxies on the way to registries; without them those of the environment.
    pub proxies: Proxies,
    /// `json-file`, `local` or `none`.
    pub log_driver: Option<String>,
    /// Defaults of containers' log options.
    pub log_opts: BTreeMap<String, String>,
    /// Subnets for networks that ask for none.
    pub default_address_pools: Vec<AddressPool>,
    /// Resolvers for containers instead of the host's.
    pub dns: Vec<String>,
    /// `options` lines for containers' resolv.conf.
    pub dns_opts: Vec<String>,
    /// `search` domains for containers' resolv.conf.
    pub dns_search: Vec<String>,
    /// Largest packet of the default network, in bytes.
    pub mtu: Option<u32>,
    /// What `host-gateway` and `host.docker.internal` mean to containers, instead of the way out of their network.
    pub host_gateway_ip: Option<IpAddr>,
    /// The same, one address of each version.
    pub host_gateway_ips: Vec<IpAddr>,
    /// Labels of the engine.
    pub labels: Vec<String>,
    /// More words in the log.
    pub debug: bool,
    /// Containers outlive the engine: always so here; `false` is refused.
    pub live_restore: Option<bool>,
    /// Seconds a stopped container has before it is killed at shutdown.
    pub shutdown_timeout: Option<u64>,
    /// Where the API is served besides the unix socket: `tcp://ADDRESS:PORT`.
    pub hosts: Vec<String>,
    /// Over TCP clients must show a certificate.
    pub tlsverify: bool,
    /// Certificates that vouch for clients' ones.
    pub tlscacert: Option<PathBuf>,
    /// The engine's certificate.
    pub tlscert: Option<PathBuf>,
    /// The key of the engine's certificate.
    pub tlskey: Option<PathBuf>,
    /// TCP without TLS is wanted, whatever comes of it. A key of ours.
    pub insecure_tcp: bool,
    /// Feature switches; kept for compatibility.
    pub features: BTreeMap<String, bool>,
}

/// `proxies`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields)]
pub struct Proxies {
    /// URL of the proxy for http.
    pub http_proxy: Option<String>,
    /// URL of the proxy for https.
    pub https_proxy: Option<String>,
    /// What is asked directly, separated by commas.
    pub no_proxy: Option<String>,
}

/// One entry of `default-address-pools`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddressPool {
    /// Range.
    pub base: String,
    /// Prefix length of the pieces.
    pub size: u8,
}

impl EngineConfig {
    /// Reads and checks the file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .map_err(|e| Error::invalid(format!("read {}: {e}", path.display())))?;
        Self::parse(&text).map_err(|e| e.context(&path.display().to_string()))
    }

    fn parse(text: &str) -> Result<Self> {
        let config: Self = serde_json::from_str(text).map_err(|e| Error::invalid(e.to_string()))?;
        if config.live_restore == Some(false) {
            return Err(Error::invalid(
                "live-restore: false is not supported: containers always outlive the engine",
            ));
        }
        if let Some(driver) = &config.log_driver
            && !matches!(driver.as_str(), "json-file" | "local" | "none")
        {
            return Err(Error::invalid(format!(
                "log-driver: {driver} is not supported: use json-file, local or none"
            )));
        }
        config.address_pools()?;
        Ok(config)
    }

    /// The proxies to use: those of the settings, else those of the environment.
    pub fn proxies(&self) -> image::Proxies {
        let env = image::Proxies::from_env();
        image::Proxies {
            http: self.proxies.http_proxy.clone().or(env.http),
            https: self.proxies.https_proxy.clone().or(env.https),
            direct: self.proxies.no_proxy.clone().or(env.direct),
        }
    }

    /// Where containers find this host; empty: at the gateway of their network.
    pub fn host_gateways(&self) -> Vec<IpAddr> {
        self.host_gateway_ips.iter().copied().chain(self.host_gateway_ip).collect()
    }

    /// `default-address-pools`, checked; `None`: Docker's defaults.
    pub fn address_pools(&self) -> Result<Option<Vec<(network::Ipv4Net, u8)>>> {
        if self.default_address_pools.is_empty() {
            return Ok(None);
        }
        self.default_address_pools
            .iter()
            .map(|p| match p.base.parse::<network::Ipv4Net>() {
                Ok(base) if (base.prefix_len()..=30).contains(&p.size) => Ok((base, p.size)),
                _ => Err(Error::invalid(format!(
                    "default-address-pools: {} in pieces of /{} cannot be",
                    p.base, p.size
                ))),
            })
            .collect::<Result<Vec<_>>>()
            .map(Some)
    }
}

/// Where things are.
#[derive(Clone, Debug)]
pub struct Paths {
    /// Durable state.
    pub root: PathBuf,
    /// State of this boot: sockets, pids.
    pub exec_root: PathBuf,
    /// The API's socket.
    pub socket: PathBuf,
    /// The shim's program.
    pub shim: PathBuf,
}

impl Paths {
    /// The containers' durable folders.
    pub fn containers(&self) -> PathBuf {
        self.root.join("containers")
    }
    /// A container's durable folder.
    pub fn container(&self, id: &str) -> PathBuf {
        self.containers().join(id)
    }
    /// A volume's folder.
    pub fn volume(&self, name: &str) -> PathBuf {
        self.root.join("volumes").join(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_is_named() {
        let words = EngineConfig::parse(r#"{"registry-mirors": []}"#).unwrap_err().message;
        assert!(words.contains("registry-mirors"), "{words}");
    }

    #[test]
    fn known_keys_are_read() {
        let c = EngineConfig::parse(r#"{"registry-mirrors":["http://127.0.0.1:5000"],"default-address-pools":[{"base":"10.9.0.0/16","size":24}]}"#).unwrap();
        assert_eq!(c.registry_mirrors.len(), 1);
        assert_eq!(c.address_pools().unwrap().unwrap()[0].1, 24);
        assert!(
            EngineConfig::parse(r#"{"default-address-pools":[{"base":"10.9.0.0/16","size":8}]}"#).is_err()
        );
    }
}
