//! Networks of containers on Linux: bridges, addresses, firewall rules, names, published ports.
//!
//! ```text
//!   container's net namespace            host's (or guest's) net namespace
//!   eth0 ---- veth pair ---- bridge (docker0, br-<id>) ---- routing + nft table `coracle` ---- world
//!   127.0.0.11:53  <- dns (bound inside the container's namespace, served from here)
//! ```
//!
//! This crate holds no durable state: networks are the engine's records; links die with their namespaces.
//! Published ports are asked for through [`Ports`]: on a bare host [`LocalPorts`] binds them; in the guest the
//! engine's own implementation asks the host.

mod addresses;
mod bridge;
mod conntrack;
pub mod dns;
mod error;
mod firewall;
mod forward;
mod listening;
mod netlink;
mod ports;
mod sys;
pub mod vlan;
mod watch;

pub use addresses::{AddressPool, choose_subnet, choose_subnet6, routed_subnets, unique_local};
pub use bridge::{
    Bridge, Carrier, Endpoint, Entry, Side, WayOut, attach, detach, ensure, ensure_once, link_exists, remove,
    set_way_out,
};
pub use error::{Code, Error, Result};
pub use firewall::{Firewall, Redirect};
pub use ipnet::{IpNet, Ipv4Net, Ipv6Net};
pub use listening::{Listening, listening};
pub use ports::{Binding, LocalPorts, PortRequest, Ports, Protocol};

/// Out of descriptors: how long others have to give some back before the next connection is taken.
const BREATH: std::time::Duration = std::time::Duration::from_millis(100);

/// Brings up the loopback link of the network namespace at `netns` (`/proc/PID/ns/net`).
pub async fn loopback_up(netns: &std::path::Path) -> Result<()> {
    sys::in_netns(netns, || netlink::Netlink::open()?.loopback_up()).await
}
