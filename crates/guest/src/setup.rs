//! What the user of the host set for the engine ([`wire::setup`]).
//!
//! ```text
//! /data/config/setup.json   as the host told it last: the next boot begins with it
//! /run/engine.json          the engine's settings, when there are some
//! /run/certificates.pem     the usual certificates and the user's, when there are some
//! ```

use std::{
    fs,
    io::Write,
    net::IpAddr,
    path::{Path, PathBuf},
    process::Command,
};

use wire::setup::Setup;

use crate::{disk, say};

const CONFIG: &str = "/run/engine.json";
const CERTIFICATES: &str = "/run/certificates.pem";
const USUAL: &str = "/etc/ssl/certs/ca-certificates.crt";

fn kept_at() -> PathBuf {
    Path::new(disk::MOUNT).join("config/setup.json")
}

/// As the host told it before this boot; empty when it never did.
pub fn kept() -> Setup {
    let Ok(json) = fs::read(kept_at()) else { return Setup::default() };
    serde_json::from_slice(&json).unwrap_or_else(|error| {
        say(format_args!("{} is of no use: {error}", kept_at().display()));
        Setup::default()
    })
}

/// Keeps it for the next boot: all of it or the one before.
pub fn keep(setup: &Setup) {
    let path = kept_at();
    let write = || -> std::io::Result<()> {
        let folder = path.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(folder)?;
        let new = path.with_extension("new");
        let mut file = fs::File::create(&new)?;
        file.write_all(&serde_json::to_vec(setup)?)?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
        fs::File::open(folder)?.sync_all()
    };
    if let Err(error) = write() {
        say(format_args!("{} was not written: {error}", path.display()));
    }
}

/// Gives it to an engine that is about to be started. `gateway`: where the host's own loopback is.
pub fn apply(setup: &Setup, gateway: Option<IpAddr>, command: &mut Command) -> std::io::Result<()> {
    let mut trusted = USUAL;
    if !setup.certificates.is_empty() {
        let usual = fs::read_to_string(USUAL).unwrap_or_default();
        fs::write(CERTIFICATES, format!("{usual}\n{}", setup.certificates))?;
        trusted = CERTIFICATES;
    }
    command.env("SSL_CERT_FILE", trusted);
    if !setup.engine.trim().is_empty() {
        fs::write(CONFIG, &setup.engine)?;
        command.args(["--config", CONFIG]);
    }
    let proxies = &setup.proxies;
    for (name, url) in [("HTTP_PROXY", &proxies.http), ("HTTPS_PROXY", &proxies.https)] {
        if !url.is_empty() {
            command.env(name, reached(url, gateway));
        }
    }
    if !proxies.direct.is_empty() {
        command.env("NO_PROXY", &proxies.direct);
    }
    Ok(())
}

/// A proxy on the host's loopback is at the gateway from here.
fn reached(url: &str, gateway: Option<IpAddr>) -> String {
    let Some(gateway) = gateway else { return url.to_owned() };
    let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
    let end = rest.find('/').unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let (user, place) = match authority.rsplit_once('@') {
        Some((user, place)) => (format!("{user}@"), place),
        None => (String::new(), authority),
    };
    let port = ["localhost", "127.0.0.1", "[::1]"]
        .iter()
        .find_map(|own| place.strip_prefix(own).filter(|port| port.is_empty() || port.starts_with(':')));
    match port {
        Some(port) => format!("{scheme}://{user}{gateway}{port}{path}"),
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_of_the_hosts_loopback_is_at_the_gateway() {
        let gateway: IpAddr = "10.0.2.2".parse().unwrap();
        for (url, expected) in [
            ("http://localhost:3128", "http://10.0.2.2:3128"),
            ("http://me:pass@127.0.0.1:3128/", "http://me:pass@10.0.2.2:3128/"),
            ("localhost:3128", "http://10.0.2.2:3128"),
            ("http://[::1]", "http://10.0.2.2"),
            ("http://localhost.example:3128", "http://localhost.example:3128"),
            ("http://proxy.example:3128", "http://proxy.example:3128"),
        ] {
            assert_eq!(reached(url, Some(gateway)), expected);
        }
        assert_eq!(reached("http://localhost:3128", None), "http://localhost:3128");
    }
}
