//! What `EXPOSE` says: `80`, `80/udp`, `8000-8010/tcp`, and what it should not say.

use std::net::IpAddr;

use crate::dockerfile::text::quote;

/// A port as written, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ports {
    /// `80/tcp` for each.
    pub ports: Vec<String>,
    /// It names an address or a port of the host, which has no effect.
    pub host: bool,
    /// Its protocol is not in lower case.
    pub casing: bool,
}

/// Reads `[ip:][host:]port[-port][/protocol]`.
///
/// # Errors
/// What is wrong with it, in BuildKit's words.
pub fn parse(text: &str) -> Result<Ports, String> {
    let parts: Vec<&str> = text.split(':').collect();
    let (ip, host, container) = match parts[..] {
        [container] => (String::new(), "", container),
        [host, container] => (String::new(), host, container),
        _ => (parts[..parts.len() - 2].join(":"), parts[parts.len() - 2], parts[parts.len() - 1]),
    };
    let (port, written) = container.split_once('/').unwrap_or((container, ""));
    if port.is_empty() {
        return Err(format!("invalid port: {}: no port specified", quote(text)));
    }
    let protocol = match written.to_lowercase() {
        p if p.is_empty() => "tcp".to_owned(),
        p if matches!(p.as_str(), "tcp" | "udp" | "sctp") => p,
        p => return Err(format!("invalid port: {}: invalid proto: {p}", quote(text))),
    };
    let address = ip.strip_prefix('[').and_then(|i| i.strip_suffix(']')).unwrap_or(&ip);
    if !address.is_empty() && address.parse::<IpAddr>().is_err() {
        return Err(format!("invalid IP address: {ip}"));
    }
    let (start, end) = range(port).ok_or_else(|| format!("invalid containerPort: {port}"))?;
    if !host.is_empty() {
        let (from, to) = range(host).ok_or_else(|| format!("invalid hostPort: {host}"))?;
        if to - from != end - start && end != start {
            return Err(format!("invalid ranges specified for container and host Ports: {port} and {host}"));
        }
    }
    Ok(Ports {
        ports: (start..=end).map(|p| format!("{p}/{protocol}")).collect(),
        host: !ip.is_empty() || !host.is_empty(),
        casing: !written.is_empty() && written != protocol,
    })
}

fn range(text: &str) -> Option<(u16, u16)> {
    let number = |t: &str| match t.bytes().all(|b| b.is_ascii_digit()) {
        true => t.parse::<u16>().ok(),
        false => None,
    };
    match text.split_once('-') {
        None => number(text).map(|p| (p, p)),
        Some((start, end)) => {
            let (start, end) = (number(start)?, number(end)?);
            (start <= end).then_some((start, end))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read() {
        assert_eq!(parse("80").unwrap().ports, ["80/tcp"]);
        assert_eq!(
            parse("80-82/UDP").unwrap(),
            Ports {
                ports: vec!["80/udp".into(), "81/udp".into(), "82/udp".into()],
                host: false,
                casing: true
            }
        );
        assert!(parse("127.0.0.1:81:82").unwrap().host);
        for (text, expected) in [
            ("a", "invalid containerPort: a"),
            ("9-8", "invalid containerPort: 9-8"),
            ("70000", "invalid containerPort: 70000"),
            ("80/foo", "invalid port: \"80/foo\": invalid proto: foo"),
        ] {
            assert_eq!(parse(text), Err(expected.into()));
        }
    }
}
