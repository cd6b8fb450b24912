//! The guest's own network: loopback and the first interface, as the boot arguments say.

use std::{fs, net::Ipv4Addr, path::Path, time::Duration};

use crate::{GuestError, cmdline::Net, sys};

/// Name of the first interface.
const FIRST: &str = "eth0";
/// Time in which the interface must appear after its driver was loaded.
const LIMIT: Duration = Duration::from_secs(5);
/// What programs ask for names; `/etc/resolv.conf` leads here.
const RESOLV: &str = "/run/resolv.conf";

/// Brings the network up.
pub fn up(net: Option<&Net>) -> Result<(), GuestError> {
    let configure = |interface: &sys::Interface| {
        sys::configure_interface(interface).map_err(GuestError::io("configuring", interface.name))
    };
    configure(&sys::Interface { name: "lo", address: (Ipv4Addr::LOCALHOST, 8), gateway: None })?;
    let Some(net) = net else { return Ok(()) };
    fs::write(RESOLV, format!("nameserver {}\n", net.dns)).map_err(GuestError::io("writing", RESOLV))?;
    sys::wait_for_path(&Path::new("/sys/class/net").join(FIRST), LIMIT)?;
    configure(&sys::Interface { name: FIRST, address: (net.address, net.prefix), gateway: Some(net.gateway) })
}
