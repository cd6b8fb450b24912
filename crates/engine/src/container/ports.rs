//! Published ports: from what a container asks to what the host opens.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use network::{PortRequest, Protocol};

use super::config::{HostConfig, PortBinding};
use super::{PublishedPort, Record};
use crate::error::{Error, Result};
use crate::networks::Member;

/// The ports a container asks the host for: on `own_address` of the host where it names none and the network has
/// one, else on all addresses of both families.
pub fn port_requests(
    record: &Record,
    member: &Member,
    own_address: Option<IpAddr>,
) -> Result<Vec<PortRequest>> {
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
        for binding in asked {
            let ips: Vec<IpAddr> = match (binding.host_ip.as_str(), own_address) {
                ("", Some(own)) => vec![own],
                ("", None) => everywhere(member),
                (text, _) => {
                    vec![text.parse().map_err(|_| Error::invalid(format!("invalid IP address: {text}")))?]
                }
            };
            let (host_port, last_port) = port_range(&binding.host_port)?;
            for host_ip in ips {
                let Some(address) = target(member, host_ip) else { continue };
                let target = SocketAddr::new(address, number);
                requests.push(PortRequest { protocol, host_ip, host_port, last_port, target });
            }
        }
    }
    Ok(requests)
}

/// All addresses of the host from which a container is reached: those of IPv6 in any case, by a relay if it has none
/// itself; those of IPv4 not if it has none, as with dockerd.
fn everywhere(member: &Member) -> Vec<IpAddr> {
    let v4 = member.address.map(|_| Ipv4Addr::UNSPECIFIED.into());
    v4.into_iter().chain([Ipv6Addr::UNSPECIFIED.into()]).collect()
}

/// Refuses ports to publish that are none.
pub fn check(host: &HostConfig) -> Result<()> {
    for (port, bindings) in &host.port_bindings {
        // What this engine cannot publish is told at the start, as what is in use is.
        let number = port.split('/').next().unwrap_or_default();
        if number.parse::<u16>().is_err() {
            return Err(Error::invalid(format!("invalid port specification: \"{number}\"")));
        }
        bindings.iter().flatten().try_for_each(|binding| port_range(&binding.host_port).map(drop))?;
    }
    Ok(())
}

/// `8080`, `8000-8010` or nothing: the first and last number that will do.
pub fn port_range(text: &str) -> Result<(u16, u16)> {
    if text.is_empty() {
        return Ok((0, 0));
    }
    let bad = || Error::invalid(format!("invalid port specification: \"{text}\""));
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse().map_err(|_| bad())?, last.parse().map_err(|_| bad())?);
    if first > last { Err(bad()) } else { Ok((first, last)) }
}

/// The container's address that a port of the host leads to: of the same family, if it has one.
fn target(member: &Member, host_ip: IpAddr) -> Option<IpAddr> {
    let same = member.addresses().find(|ip| ip.is_ipv4() == host_ip.is_ipv4());
    same.or_else(|| member.addresses().next())
}

/// A port that is none of this host's: it is reached at the container's own address.
pub fn routed(request: &PortRequest) -> PublishedPort {
    let unspecified: IpAddr = match request.host_ip {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let port = format!("{}/{}", request.target.port(), request.protocol.name());
    PublishedPort { port, host_ip: unspecified, host_port: 0 }
}

/// Those of a container found running that are reached at its own address.
pub fn admitted(ports: &[PublishedPort], member: &Member) -> Vec<(Protocol, SocketAddr)> {
    let admitted = |p: &PublishedPort| {
        let (number, protocol) = parse_port(&p.port).ok()?;
        Some((protocol, SocketAddr::new(target(member, p.host_ip)?, number)))
    };
    ports.iter().filter(|p| p.host_port == 0).filter_map(admitted).collect()
}

/// The same ports of this host once more, for a container found running or in another network.
pub fn ports_again(ports: &[PublishedPort], member: &Member) -> Vec<PortRequest> {
    let request = |p: &PublishedPort| {
        if p.host_port == 0 {
            return None;
        }
        let (number, protocol) = parse_port(&p.port).ok()?;
        let target = SocketAddr::new(target(member, p.host_ip)?, number);
        let (host_port, last_port) = (p.host_port, p.host_port);
        Some(PortRequest { protocol, host_ip: p.host_ip, host_port, last_port, target })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_number_a_range_or_none() {
        assert_eq!(port_range("8080").unwrap(), (8080, 8080));
        assert_eq!(port_range("8000-8010").unwrap(), (8000, 8010));
        assert_eq!(port_range("").unwrap(), (0, 0));
        for bad in ["8010-8000", "x", "1-2-3", "70000", "-1"] {
            assert!(port_range(bad).is_err(), "{bad}");
        }
    }
}
