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
    /// Whose subordinate ids containers' ids are: `default`, a user, or `user:group`, by names or numbers.
    pub userns_remap: Option<String>,
    /// Feature switches; kept for compatibility.
    pub features: BTreeMap<String, bool>,
    /// Other OCI runtimes, by the name that `--runtime` takes.
    pub runtimes: BTreeMap<String, RuntimeConfig>,
    /// The runtime of containers that ask for none: [`OWN_RUNTIME`], or one of `runtimes`.
    pub default_runtime: Option<String>,
}

/// The name of the engine's own runtime.
pub const OWN_RUNTIME: &str = "coracle";
/// What else stands for it where nothing else has these names: programs ask for them that know Docker only.
const ALSO_OWN: [&str; 2] = ["runc", "io.containerd.runc.v2"];

/// One of `runtimes`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RuntimeConfig {
    /// The program, which has runc's command line.
    pub path: PathBuf,
    /// What it is told before each command.
    #[serde(default)]
    pub runtime_args: Vec<String>,
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
        if config.runtimes.contains_key(OWN_RUNTIME) {
            return Err(Error::invalid(format!("runtime name '{OWN_RUNTIME}' is reserved")));
        }
        if let Some((name, at)) = config.runtimes.iter().find(|(_, r)| !r.path.is_absolute()) {
            let path = at.path.display();
            return Err(Error::invalid(format!("runtimes: {name}: {path:?} is no absolute path")));
        }
        if let Some(name) = &config.default_runtime
            && config.runtime(name).is_err()
        {
            return Err(Error::invalid(format!("specified default runtime '{name}' does not exist")));
        }
        Ok(config)
    }

    /// The runtime of containers that ask for none.
    pub fn default_runtime(&self) -> &str {
        self.default_runtime.as_deref().unwrap_or(OWN_RUNTIME)
    }

    /// The runtime of that name; `None`: the engine's own, which is meant by no name too.
    pub fn runtime(&self, name: &str) -> Result<Option<&RuntimeConfig>> {
        match self.runtimes.get(name) {
            None if name.is_empty() || name == OWN_RUNTIME || ALSO_OWN.contains(&name) => Ok(None),
            None => Err(Error::invalid(format!("unknown or invalid runtime name: {name}"))),
            found => Ok(found),
        }
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
    fn runtimes_are_checked() {
        let parse = |text: &str| EngineConfig::parse(text).map_err(|e| e.message);
        let config = parse(
            r#"{"runtimes":{"crun":{"path":"/usr/bin/crun","runtimeArgs":["--debug"]}},"default-runtime":"crun"}"#,
        );
        let config = config.unwrap();
        assert_eq!(config.default_runtime(), "crun");
        assert_eq!(config.runtime("crun").unwrap().unwrap().runtime_args, ["--debug"]);
        assert!(config.runtime("runc").unwrap().is_none() && config.runtime("kata").is_err());
        for wrong in [
            r#"{"runtimes":{"coracle":{"path":"/bin/x"}}}"#,
            r#"{"runtimes":{"crun":{"path":"crun"}}}"#,
            r#"{"runtimes":{"kata":{"runtimeType":"io.containerd.kata.v2"}}}"#,
            r#"{"default-runtime":"crun"}"#,
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
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
