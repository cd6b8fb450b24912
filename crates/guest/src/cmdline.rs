//! The boot arguments that are ours.

use std::net::Ipv4Addr;

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
}

/// A fixed IPv4 configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Net {
    /// Own address.
    pub address: Ipv4Addr,
    /// Length of the network's prefix.
    pub prefix: u8,
    /// Default gateway.
    pub gateway: Ipv4Addr,
    /// Name server.
    pub dns: Ipv4Addr,
}

impl Arguments {
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
                _ => {}
            }
        }
        Ok(arguments)
    }
}

impl Net {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(',');
        let (address, prefix) = parts.next()?.split_once('/')?;
        let net = Self {
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
        assert_eq!(arguments.net.unwrap().prefix, 24);
        assert!(Arguments::parse("coracle.net=10.0.2.15/99,10.0.2.2,10.0.2.3").is_err());
        assert!(Arguments::parse("coracle.net=nonsense").is_err());
    }
}
