//! The boot arguments that are ours.

use std::{net::Ipv4Addr, path::PathBuf};

use crate::GuestError;

/// `coracle.*` of the kernel's command line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Arguments {
    /// Device of the root.
    pub root: Option<String>,
    /// Device of the data disk.
    pub data: Option<String>,
    /// The first network interface.
    pub net: Option<Net>,
    /// The link's channel.
    pub link: Link,
    /// Folders of the host.
    pub shares: Vec<Share>,
    /// Where the host is, where that isn't the network's gateway.
    pub host: Option<Ipv4Addr>,
    /// Whether the link leads to the host's loopback ([`crate::loopback`]).
    pub loopback_by_link: bool,
    /// The tag of Rosetta, where the host gives it.
    pub rosetta: Option<String>,
    /// Where the host's own network leads: subnets that containers don't get.
    pub taken: Vec<String>,
}

/// A folder of the host: mounted by virtio-fs, or seen by a distribution that this runs in ([`crate::hosted`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// The device's tag.
    pub tag: String,
    /// The folder's path on the host.
    pub host: String,
}

impl Share {
    /// Where it is mounted.
    pub fn place(&self) -> String {
        format!("/run/host/{}", self.tag)
    }

    /// Where a distribution of WSL2 sees the folder: drives are below `/mnt`.
    pub fn seen_here(&self) -> String {
        match drive(&self.host) {
            Some((drive, below)) => {
                format!("/mnt/{}/{}", drive.to_ascii_lowercase(), below.replace('\\', "/"))
            }
            None => self.host.clone(),
        }
    }

    /// `TAG,PATH`, everything but letters, digits and `/._-` of the path as `%XX`.
    fn parse(text: &str) -> Option<Self> {
        let (tag, path) = text.split_once(',')?;
        let fine = |b: u8| b.is_ascii_alphanumeric();
        let host = unescape(path)?;
        (!tag.is_empty() && tag.bytes().all(fine) && (host.starts_with('/') || drive(&host).is_some()))
            .then(|| Self { tag: tag.to_owned(), host })
    }
}

/// A path of Windows (`C:\x`, `c:/x`): its drive's letter, and what is below.
fn drive(path: &str) -> Option<(char, &str)> {
    let mut chars = path.chars();
    let letter = chars.next().filter(char::is_ascii_alphabetic)?;
    let below = chars.as_str().strip_prefix(':')?;
    below.starts_with(['\\', '/']).then(|| (letter, &below[1..]))
}

fn unescape(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut out = Vec::new();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => {
                let digits = [bytes.next()?, bytes.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(out).ok()
}

/// Where an interface's addresses come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Net {
    /// A fixed IPv4 configuration.
    Fixed {
        /// Own address.
        address: Ipv4Addr,
        /// Length of the network's prefix.
        prefix: u8,
        /// Default gateway.
        gateway: Ipv4Addr,
        /// Name server.
        dns: Ipv4Addr,
    },
    /// The network gives them.
    Dhcp,
}

/// How the host is reached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Link {
    /// By a virtio-serial port.
    #[default]
    Serial,
    /// By vsock: the host connects to this port.
    Vsock(u32),
    /// By a socket of this path: the host's programs bring connections to it.
    Unix(PathBuf),
}

impl Link {
    fn parse(text: &str) -> Option<Self> {
        match text.split_once(':') {
            None if text == "serial" => Some(Self::Serial),
            Some(("vsock", port)) => port.parse().ok().map(Self::Vsock),
            Some(("unix", path)) if path.starts_with('/') => Some(Self::Unix(path.into())),
            _ => None,
        }
    }
}

impl Arguments {
    /// Whether the kernel and the distribution around are somebody else's ([`crate::hosted`]): those have the link so.
    pub fn is_hosted(&self) -> bool {
        matches!(self.link, Link::Unix(_))
    }

    /// Reads a command line; what isn't ours is skipped.
    pub fn parse(line: &str) -> Result<Self, GuestError> {
        let mut arguments = Self::default();
        for word in line.split_whitespace() {
            match word.split_once('=') {
                Some(("coracle.root", device)) => arguments.root = Some(device.to_owned()),
                Some(("coracle.data", device)) => arguments.data = Some(device.to_owned()),
                Some(("coracle.net", net)) => {
                    let net = Net::parse(net).ok_or_else(|| {
                        GuestError::Invalid(format!("a boot argument that is not understood: {word}"))
                    })?;
                    arguments.net = Some(net);
                }
                Some(("coracle.link", link)) => {
                    arguments.link = Link::parse(link).ok_or_else(|| {
                        GuestError::Invalid(format!("a boot argument that is not understood: {word}"))
                    })?;
                }
                Some(("coracle.host", host)) => {
                    arguments.host = Some(host.parse().map_err(|_| {
                        GuestError::Invalid(format!("a boot argument that is not understood: {word}"))
                    })?);
                }
                Some(("coracle.loopback", way)) => arguments.loopback_by_link = way == "link",
                Some(("coracle.rosetta", tag)) => arguments.rosetta = Some(tag.to_owned()),
                Some(("coracle.taken", subnets)) => {
                    arguments.taken = subnets.split(',').map(str::to_owned).collect();
                }
                Some(("coracle.share", share)) => {
                    let share = Share::parse(share).ok_or_else(|| {
                        GuestError::Invalid(format!("a boot argument that is not understood: {word}"))
                    })?;
                    arguments.shares.push(share);
                }
                _ => {}
            }
        }
        Ok(arguments)
    }
}

impl Net {
    fn parse(text: &str) -> Option<Self> {
        if text == "dhcp" {
            return Some(Self::Dhcp);
        }
        let mut parts = text.split(',');
        let (address, prefix) = parts.next()?.split_once('/')?;
        let net = Self::Fixed {
            address: address.parse().ok()?,
            prefix: prefix.parse().ok().filter(|p| *p <= 32)?,
            gateway: parts.next()?.parse().ok()?,
            dns: parts.next()?.parse().ok()?,
        };
        parts.next().is_none().then_some(net)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_among_the_kernels() {
        let arguments = Arguments::parse(
            "quiet coracle.root=/dev/vda panic=-1 coracle.net=10.0.2.15/24,10.0.2.2,10.0.2.3",
        )
        .unwrap();
        assert_eq!(arguments.root.as_deref(), Some("/dev/vda"));
        assert!(matches!(arguments.net, Some(Net::Fixed { prefix: 24, .. })));
        assert_eq!(arguments.link, Link::Serial);
        assert_eq!(Arguments::parse("coracle.net=dhcp").unwrap().net, Some(Net::Dhcp));
        assert_eq!(Arguments::parse("coracle.link=vsock:1024").unwrap().link, Link::Vsock(1024));
        assert_eq!(Arguments::parse("coracle.link=unix:/l").unwrap().link, Link::Unix("/l".into()));
        let host = Arguments::parse("coracle.host=172.20.0.1").unwrap().host;
        assert_eq!(host, Some(Ipv4Addr::new(172, 20, 0, 1)));
        assert!(Arguments::parse("coracle.host=here").is_err());
        assert!(Arguments::parse("coracle.loopback=link").unwrap().loopback_by_link);
        assert!(!Arguments::parse("coracle.loopback=network").unwrap().loopback_by_link);
        assert_eq!(Arguments::parse("coracle.rosetta=r").unwrap().rosetta.as_deref(), Some("r"));
        let taken = Arguments::parse("coracle.taken=192.168.1.0/24,10.0.0.0/8").unwrap().taken;
        assert_eq!(taken, ["192.168.1.0/24", "10.0.0.0/8"]);
        // The last one holds.
        assert_eq!(Arguments::parse("coracle.link=vsock:1 coracle.link=serial").unwrap().link, Link::Serial);
        assert!(Arguments::parse("coracle.link=carrier-pigeon").is_err());
        assert!(Arguments::parse("coracle.net=10.0.2.15/99,10.0.2.2,10.0.2.3").is_err());
        assert!(Arguments::parse("coracle.net=nonsense").is_err());
    }

    #[test]
    fn shares_have_any_path() {
        let arguments =
            Arguments::parse("coracle.share=share0,/home/me coracle.share=s1,/a%20b%c3%a4%2c").unwrap();
        assert_eq!(arguments.shares[0].place(), "/run/host/share0");
        assert_eq!(arguments.shares[1].host, "/a bä,");
        let windows = Arguments::parse("coracle.share=s,C%3a%5cUsers%5cme coracle.share=t,d%3a/").unwrap();
        let seen: Vec<String> = windows.shares.iter().map(Share::seen_here).collect();
        assert_eq!(seen, ["/mnt/c/Users/me", "/mnt/d/"]);
        for bad in ["x,c%3ax", "x,%5c%5cserver%5cshare", "x", "x,y", "a/b,/x", "x,/%2", "x,/%zz", "x,/%ff"] {
            assert!(Arguments::parse(&format!("coracle.share={bad}")).is_err(), "{bad}");
        }
    }
}
