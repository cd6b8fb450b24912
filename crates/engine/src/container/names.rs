//! The files by which a container knows names: `/etc/hosts`, `/etc/hostname`, `/etc/resolv.conf`.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Record, links};
use crate::engine::Engine;
use crate::error::Result;
use crate::networks::{ContainerNames, Member, leading};

/// Resolvers a container's questions go to: its own `--dns`, else the engine's.
pub fn upstreams(engine: &Engine, record: &Record) -> Vec<SocketAddr> {
    if record.host.dns.is_empty() {
        return engine.networks.upstreams().to_vec();
    }
    record
        .host
        .dns
        .iter()
        .filter_map(|ip| ip.parse::<IpAddr>().ok())
        .map(|ip| SocketAddr::new(ip, 53))
        .collect()
}

/// A name server in the namespace at `netns`, for what the container's networks know.
pub async fn serve(engine: &Engine, record: &Record, netns: &Path) -> Result<network::dns::Server> {
    let names = ContainerNames {
        networks: engine.networks.clone(),
        container: record.id.clone(),
        upstreams: upstreams(engine, record),
    };
    Ok(network::dns::serve(netns, Arc::new(names)).await?)
}

/// Where the files are: with `--network container:` they are the other container's, as its network is.
pub fn folder(engine: &Engine, record: &Record) -> PathBuf {
    match links::network_owner(engine, &record.host) {
        Ok(Some(owner)) => engine.paths.container(&owner.view().record.id),
        _ => engine.paths.container(&record.id),
    }
}

/// The names a container has itself, in `/etc/hosts`.
fn own_names(record: &Record) -> String {
    match record.config.domainname.as_str() {
        "" => record.config.hostname.clone(),
        domain => format!("{0}.{domain} {0}", record.config.hostname),
    }
}

/// Enters a further address of the container; what else stands in the file stays, also what programs wrote there.
pub async fn add_to_hosts(engine: &Engine, record: &Record, address: IpAddr) -> Result<()> {
    let path = engine.paths.container(&record.id).join("hosts");
    let mut text = tokio::fs::read_to_string(&path).await?;
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text.push_str(&format!("{address}\t{}\n", own_names(record)));
    tokio::fs::write(path, text).await?;
    Ok(())
}

/// Takes an address of the container out again.
pub async fn remove_from_hosts(engine: &Engine, record: &Record, address: IpAddr) -> Result<()> {
    let path = engine.paths.container(&record.id).join("hosts");
    let own = format!("{address}\t{}", own_names(record));
    let text = tokio::fs::read_to_string(&path).await?;
    let kept: String = text.lines().filter(|line| *line != own).flat_map(|line| [line, "\n"]).collect();
    tokio::fs::write(path, kept).await?;
    Ok(())
}

/// Where a container finds this host: what the settings say, else the way out of its network.
fn host_addresses(engine: &Engine, members: &[Member]) -> Vec<IpAddr> {
    match engine.networks.host_gateway() {
        [] => {
            let gateway = |v6| leading(members, v6)?.gateways().find(|ip| ip.is_ipv6() == v6);
            [false, true].into_iter().filter_map(gateway).collect()
        }
        given => given.to_vec(),
    }
}

/// Writes the addresses that linked containers have now; what else stands in the file stays.
pub async fn relink(engine: &Engine, record: &Record) -> Result<()> {
    let linked = links::linked(engine, record)?;
    let path = engine.paths.container(&record.id).join("hosts");
    let text = tokio::fs::read_to_string(&path).await?;
    let renew = |line: &str| linked.iter().find_map(|l| l.renewed(line)).unwrap_or_else(|| line.to_owned());
    let renewed: String = text.lines().flat_map(|line| [renew(line), "\n".to_owned()]).collect();
    if renewed != text {
        tokio::fs::write(path, renewed).await?;
    }
    Ok(())
}

/// Takes out what a link's container was known by; what else stands in the file stays.
pub async fn unlink(engine: &Engine, record: &Record, link: &links::Link) -> Result<()> {
    let path = engine.paths.container(&record.id).join("hosts");
    let text = tokio::fs::read_to_string(&path).await?;
    let kept: String =
        text.lines().filter(|line| !link.wrote(engine, line)).flat_map(|line| [line, "\n"]).collect();
    tokio::fs::write(path, kept).await?;
    Ok(())
}

/// `/etc/hosts` of a container: its own names, and those asked for.
pub async fn write_hosts(engine: &Engine, record: &Record, members: &[Member]) -> Result<()> {
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\nff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n",
    );
    for extra in record.host.extra_hosts.iter().flatten() {
        let Some((name, address)) = extra.split_once([':', '=']) else { continue };
        if address != "host-gateway" {
            text.push_str(&format!("{}\t{name}\n", address.trim_matches(['[', ']'])));
            continue;
        }
        for address in host_addresses(engine, members) {
            text.push_str(&format!("{address}\t{name}\n"));
        }
    }
    // Before it starts and again with its addresses: what the links lead to runs by then.
    if !members.is_empty() {
        for line in links::linked(engine, record)?.iter().filter_map(links::Linked::hosts_line) {
            text.push_str(&format!("{line}\n"));
        }
    }
    let full = own_names(record);
    for member in members {
        for address in member.addresses() {
            text.push_str(&format!("{address}\t{full}\n"));
        }
    }
    tokio::fs::write(engine.paths.container(&record.id).join("hosts"), text).await?;
    Ok(())
}

/// `/etc/hostname` and `/etc/resolv.conf`, before the container's namespaces are made.
pub async fn write_names(engine: &Engine, record: &Record) -> Result<()> {
    let folder = engine.paths.container(&record.id);
    tokio::fs::create_dir_all(&folder).await?;
    if links::shares_network(&record.host) {
        return Ok(());
    }
    tokio::fs::write(folder.join("hostname"), format!("{}\n", record.config.hostname)).await?;
    write_resolv_conf(engine, record).await?;
    // Written for good when the addresses are known; the file must be there to be mounted.
    write_hosts(engine, record, &[]).await
}

/// `/etc/resolv.conf`, in place: it is mounted in the container while that runs.
pub async fn write_resolv_conf(engine: &Engine, record: &Record) -> Result<()> {
    let text = if record.networks.contains_key("host") && record.host.dns.is_empty() {
        tokio::fs::read_to_string("/etc/resolv.conf").await.unwrap_or_default()
    } else {
        resolv_conf(engine, record)
    };
    tokio::fs::write(engine.paths.container(&record.id).join("resolv.conf"), text).await?;
    Ok(())
}

fn resolv_conf(engine: &Engine, record: &Record) -> String {
    let own_server = record.networks.keys().any(|n| !matches!(n.as_str(), "bridge" | "host" | "none"));
    let mut text = String::from("# Generated by Coracle.\n");
    if own_server {
        text.push_str(&format!("nameserver {}\n", network::dns::ADDRESS));
    } else {
        for upstream in upstreams(engine, record) {
            text.push_str(&format!("nameserver {}\n", upstream.ip()));
        }
    }
    let or_engines =
        |own: &[String], engines: &[String]| if own.is_empty() { engines.to_vec() } else { own.to_vec() };
    let search = or_engines(&record.host.dns_search, &engine.config.dns_search);
    if !search.is_empty() && search != ["."] {
        text.push_str(&format!("search {}\n", search.join(" ")));
    }
    let mut options = or_engines(&record.host.dns_options, &engine.config.dns_opts);
    if own_server && !options.iter().any(|o| o.starts_with("ndots:")) {
        options.push("ndots:0".into());
    }
    if !options.is_empty() {
        text.push_str(&format!("options {}\n", options.join(" ")));
    }
    text
}
