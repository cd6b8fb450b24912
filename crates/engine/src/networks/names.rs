//! What names mean inside one container.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use wire::names::HOST_NAMES;

use super::{Entry, Member, Networks};

/// Names inside one container: those of the other members of the user networks it is in at the time of a question.
pub struct ContainerNames {
    /// The networks to look in.
    pub networks: Arc<Networks>,
    /// The container.
    pub container: String,
    /// Resolvers for the rest: the container's `--dns` or the host's.
    pub upstreams: Vec<SocketAddr>,
}

/// The user networks a container is in, with its own place in each.
fn user_networks<'a>(
    entries: &'a BTreeMap<String, Entry>,
    container: &'a str,
) -> impl Iterator<Item = (&'a Entry, &'a Member)> {
    entries
        .values()
        .filter(|e| !e.network.is_predefined())
        .filter_map(move |e| e.members.get(container).map(|(_, own)| (e, own)))
}

impl network::dns::Names for ContainerNames {
    fn lookup(&self, name: &str) -> Option<Vec<IpAddr>> {
        let entries = self.networks.lock();
        let mut found = Vec::new();
        if HOST_NAMES.contains(&name) {
            let given = self.networks.host_gateway.iter().copied();
            let own = user_networks(&entries, &self.container).flat_map(|(_, own)| own.gateways());
            found = if self.networks.host_gateway.is_empty() { own.collect() } else { given.collect() };
            return (!found.is_empty()).then_some(found);
        }
        for (entry, own) in user_networks(&entries, &self.container) {
            let suffix = format!(".{}", entry.network.name.to_ascii_lowercase());
            let bare = name.strip_suffix(&suffix).unwrap_or(name);
            let linked = own.links.iter().find(|(alias, _)| alias.eq_ignore_ascii_case(bare));
            let wanted = linked.map_or(bare, |(_, other)| other);
            found.extend(
                entry
                    .members
                    .iter()
                    .filter_map(|(id, (container, member))| {
                        let meant = container.eq_ignore_ascii_case(wanted)
                            || (wanted.len() >= 12 && id.starts_with(wanted))
                            || member.names.iter().any(|n| n.eq_ignore_ascii_case(wanted));
                        meant.then(|| member.addresses())
                    })
                    .flatten(),
            );
        }
        (!found.is_empty()).then_some(found)
    }

    fn reverse(&self, address: IpAddr) -> Option<String> {
        let entries = self.networks.lock();
        user_networks(&entries, &self.container).find_map(|(e, _)| {
            e.members.values().find_map(|(name, m)| {
                m.addresses().any(|own| own == address).then(|| format!("{name}.{}", e.network.name))
            })
        })
    }

    /// None for who is in networks alone that lead nowhere: what it asks would leave by the engine's own way, and its
    /// answers come in so.
    fn upstreams(&self) -> Vec<SocketAddr> {
        let entries = self.networks.lock();
        let mut own = entries.values().filter_map(|e| e.members.get(&self.container));
        if own.any(|(_, own)| !own.ways_out().is_empty()) { self.upstreams.clone() } else { Vec::new() }
    }
}
