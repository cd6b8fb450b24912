//! Published ports: from what a container asks to what the host opens.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use network::{PortRequest, Protocol};

use super::config::PortBinding;
use super::{PublishedPort, Record};
use crate::error::{Error, Result};

/// The ports a container asks the host for, both families where it names no address.
pub fn port_requests(record: &Record, address: Ipv4Addr) -> Result<Vec<PortRequest>> {
    let mut bindings: BTreeMap<String, Vec<PortBinding>> = BTreeMap::new();
    for (port, asked) in &record.host.port_bindings {
        bindings.insert(port.clone(), asked.clone().unwrap_or_else(|| vec![PortBinding::default()]));
    }
    if record.host.publish_all_ports {
        for port in record.config.exposed_ports.keys() {
            bindings.entry(port.clone()).or_insert_with(|| vec![PortBinding::default()]);
        }
    }
    let mut requests = Vec::new();
    for (port, asked) in bindings {
        let (number, protocol) = parse_port(&port)?;
        let target = SocketAddr::from((address, number));
        for binding in asked {
            let ips: Vec<IpAddr> = match binding.host_ip.as_str() {
                "" => vec![Ipv4Addr::UNSPECIFIED.into(), std::net::Ipv6Addr::UNSPECIFIED.into()],
                text => {
                    vec![text.parse().map_err(|_| Error::invalid(format!("invalid IP address: {text}")))?]
                }
            };
            let bad_port =
                || Error::invalid(format!("invalid port specification: \"{}\"", binding.host_port));
            // A range: the first of it is asked for (dockerd takes the first that is free).
            let first = binding.host_port.split('-').next().unwrap_or_default();
            let host_port = if first.is_empty() { 0 } else { first.parse().map_err(|_| bad_port())? };
            requests.extend(ips.into_iter().map(|host_ip| PortRequest {
                protocol,
                host_ip,
                host_port,
                target,
            }));
        }
    }
    Ok(requests)
}

/// The same ports once more, for a container found running.
pub fn ports_again(ports: &[PublishedPort], address: Ipv4Addr) -> Vec<PortRequest> {
    let request = |p: &PublishedPort| {
        let (number, protocol) = parse_port(&p.port).ok()?;
        let target = SocketAddr::from((address, number));
        Some(PortRequest { protocol, host_ip: p.host_ip, host_port: p.host_port, target })
    };
    ports.iter().filter_map(request).collect()
}

/// `80/tcp` or `80`.
fn parse_port(text: &str) -> Result<(u16, Protocol)> {
    let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let number =
        number.parse().map_err(|_| Error::invalid(format!("invalid port specification: \"{text}\"")))?;
    match protocol {
        "tcp" => Ok((number, Protocol::Tcp)),
        "udp" => Ok((number, Protocol::Udp)),
        "sctp" => Err(Error::not_implemented("publishing SCTP ports is not there yet")),
        other => Err(Error::invalid(format!("invalid proto: {other}"))),
    }
}
