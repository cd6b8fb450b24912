//! What `ps` shows of a container, and what it shares with `inspect`: written to the answer as it is read, without a
//! document in between, because lists of hundreds are asked for by whatever watches an engine.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Serialize, Serializer};

use super::size_of;
use crate::container::config::{EndpointIpam, EndpointSettings};
use crate::container::mounts::MountKind;
use crate::container::{Record, Status, View, health};
use crate::engine::Engine;
use crate::networks::Member;
use crate::time;

/// Docker's sentence about a state: `Up 3 minutes`, `Exited (0) 2 hours ago`.
fn sentence(view: &View) -> String {
    let last = &view.record.last;
    let ago = |text: &str| {
        let at = time::parse(text).unwrap_or(SystemTime::UNIX_EPOCH);
        time::human(SystemTime::now().duration_since(at).unwrap_or_default().as_secs())
    };
    match &view.status {
        Status::Created => "Created".into(),
        Status::Running { paused: true, .. } => format!("Up {} (Paused)", ago(&last.started_at)),
        Status::Running { .. } => match &last.health {
            Some(h) if h.status == health::Status::Starting => {
                format!("Up {} (health: starting)", ago(&last.started_at))
            }
            Some(h) => format!("Up {} ({})", ago(&last.started_at), h.status.name()),
            None => format!("Up {}", ago(&last.started_at)),
        },
        Status::Restarting => format!("Restarting ({}) {} ago", last.exit_code, ago(&last.finished_at)),
        Status::Exited => format!("Exited ({}) {} ago", last.exit_code, ago(&last.finished_at)),
        Status::Removing | Status::Removed => "Removal In Progress".into(),
    }
}

/// A container's place in a network.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Endpoint<'a> {
    #[serde(rename = "IPAMConfig")]
    ipam_config: Option<&'a EndpointIpam>,
    links: Option<&'a [String]>,
    aliases: Option<&'a [String]>,
    mac_address: &'a str,
    driver_opts: Option<&'a BTreeMap<String, String>>,
    gw_priority: i64,
    #[serde(rename = "NetworkID")]
    network_id: Cow<'a, str>,
    #[serde(rename = "EndpointID")]
    endpoint_id: &'a str,
    #[serde(serialize_with = "or_empty")]
    gateway: Option<IpAddr>,
    #[serde(rename = "IPAddress", serialize_with = "or_empty")]
    ip_address: Option<IpAddr>,
    #[serde(rename = "IPPrefixLen")]
    ip_prefix_len: u8,
    #[serde(rename = "IPv6Gateway", serialize_with = "or_empty")]
    ipv6_gateway: Option<IpAddr>,
    #[serde(rename = "GlobalIPv6Address", serialize_with = "or_empty")]
    global_ipv6_address: Option<IpAddr>,
    #[serde(rename = "GlobalIPv6PrefixLen")]
    global_ipv6_prefix_len: u8,
    #[serde(rename = "DNSNames")]
    dns_names: Option<Vec<&'a str>>,
}

/// An address, or nothing as Go writes it.
pub fn or_empty<S: Serializer>(address: &Option<IpAddr>, to: S) -> Result<S::Ok, S::Error> {
    match address {
        Some(address) => address.serialize(to),
        None => to.serialize_str(""),
    }
}

impl<'a> Endpoint<'a> {
    fn of(engine: &Engine, record: &'a Record, name: &str, asked: &'a EndpointSettings) -> Self {
        let member: Option<&Member> = record.last.members.iter().find(|m| m.network == name);
        let address = member.and_then(|m| m.address);
        let address6 = member.and_then(|m| m.address6);
        let network_id = match member {
            Some(member) => Cow::Borrowed(member.network_id.as_str()),
            // A container that ended keeps its place in the network, without addresses.
            None if !record.last.started_at.is_empty() => {
                Cow::Owned(engine.networks.find(name).map(|n| n.id.clone()).unwrap_or_default())
            }
            None => Cow::Borrowed(""),
        };
        // Names are given when the container first starts.
        let answers = !matches!(name, "bridge" | "host" | "none") && !record.last.started_at.is_empty();
        let dns_names = answers.then(|| {
            let mut names = vec![record.name.as_str()];
            names.extend(asked.aliases.iter().flatten().map(String::as_str));
            names.push(&record.id[..12]);
            names.dedup();
            names
        });
        Self {
            ipam_config: asked.ipam_config.as_ref(),
            links: asked.links.as_deref(),
            aliases: asked.aliases.as_deref(),
            mac_address: member.map_or(&asked.mac_address, |m| &m.mac),
            driver_opts: asked.driver_opts.as_ref(),
            gw_priority: asked.gw_priority,
            network_id,
            endpoint_id: member.map_or("", |m| &m.endpoint_id),
            gateway: member.and_then(|m| m.gateway).map(IpAddr::V4),
            ip_address: address.map(|a| IpAddr::V4(a.addr())),
            ip_prefix_len: address.map_or(0, |a| a.prefix_len()),
            ipv6_gateway: member.and_then(|m| m.gateway6).map(IpAddr::V6),
            global_ipv6_address: address6.map(|a| IpAddr::V6(a.addr())),
            global_ipv6_prefix_len: address6.map_or(0, |a| a.prefix_len()),
            dns_names,
        }
    }
}

/// The same in a list of containers, where dockerd leaves out the names they answer to.
fn listed_endpoints<'a>(engine: &Engine, record: &'a Record) -> impl Serialize + use<'a> {
    let listed =
        |name: &'a str, asked| Endpoint { dns_names: None, ..Endpoint::of(engine, record, name, asked) };
    let all = record.networks.iter().map(|(name, asked)| (name.as_str(), listed(name, asked)));
    all.collect::<BTreeMap<_, _>>()
}

/// The container's places in networks, by their names.
pub fn endpoints<'a>(engine: &Engine, record: &'a Record) -> impl Serialize + use<'a> {
    record
        .networks
        .iter()
        .map(|(name, asked)| (name.as_str(), Endpoint::of(engine, record, name, asked)))
        .collect::<BTreeMap<_, _>>()
}

/// A mount as it is shown.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Mount<'a> {
    r#type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    source: Cow<'a, Path>,
    destination: &'a PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    driver: Option<&'static str>,
    mode: &'a str,
    #[serde(rename = "RW")]
    rw: bool,
    propagation: &'a str,
}

/// The container's mounts.
pub fn mounts<'a>(engine: &Engine, record: &'a Record) -> impl Serialize + use<'a> {
    let shown = |m: &'a crate::container::mounts::MountPoint| match (&m.image, &m.volume) {
        (Some(image), _) => Mount {
            r#type: "image",
            name: Some(&image.name),
            // dockerd has a folder of its own's there, where the tree is mounted: here it is on no host's path.
            source: Cow::Borrowed(Path::new(&image.id)),
            destination: &m.destination,
            driver: None,
            mode: "",
            rw: false,
            propagation: &m.propagation,
        },
        (None, Some(name)) => Mount {
            r#type: "volume",
            name: Some(name),
            source: Cow::Owned(engine.volumes.data(name)),
            destination: &m.destination,
            driver: Some("local"),
            mode: &m.mode,
            rw: m.rw,
            propagation: "",
        },
        (None, None) => Mount {
            r#type: m.kind.name(),
            name: None,
            source: Cow::Borrowed(&m.source),
            destination: &m.destination,
            driver: None,
            mode: &m.mode,
            rw: m.rw,
            propagation: &m.propagation,
        },
    };
    // Those of `--tmpfs` are in the configuration alone, as dockerd has it.
    let is_plain_tmpfs = |m: &&crate::container::mounts::MountPoint| {
        m.kind == MountKind::Tmpfs
            && record.host.tmpfs.keys().any(|path| std::path::Path::new(path) == m.destination)
    };
    record.mounts.iter().filter(|m| !is_plain_tmpfs(m)).map(shown).collect::<Vec<_>>()
}

/// The images that one answer speaks of, each asked for once: a list of many containers names few of them.
pub struct Images<'a> {
    engine: &'a Engine,
    known: HashMap<String, Option<Arc<image::Image>>>,
}

impl<'a> Images<'a> {
    /// For one answer.
    pub fn of(engine: &'a Engine) -> Self {
        Self { engine, known: HashMap::new() }
    }

    /// By name or id; `None` when there is no such image.
    pub async fn get(&mut self, reference: &str) -> Option<Arc<image::Image>> {
        if let Some(known) = self.known.get(reference) {
            return known.clone();
        }
        let found = self.engine.images.get(reference).await.ok().map(Arc::new);
        self.known.insert(reference.to_owned(), found.clone());
        found
    }
}

/// The image's manifest for this machine, as the containerd store describes it.
pub struct Manifest(Arc<image::Image>);

impl Manifest {
    /// `None` when the image is gone.
    pub async fn of(images: &mut Images<'_>, image: &str) -> Option<Self> {
        images.get(image).await.map(Self)
    }
}

impl Serialize for Manifest {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Platform<'a> {
            architecture: &'a str,
            os: &'a str,
            #[serde(skip_serializing_if = "str::is_empty")]
            variant: &'a str,
        }
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Shown<'a> {
            media_type: &'a str,
            digest: String,
            size: u64,
            platform: Platform<'a>,
        }
        let Self(image) = self;
        let platform = Platform { architecture: &image.architecture, os: &image.os, variant: &image.variant };
        Shown {
            media_type: &image.descriptor.media_type,
            digest: image.descriptor.digest.to_string(),
            size: image.descriptor.size,
            platform,
        }
        .serialize(to)
    }
}

/// A port: published, or only exposed.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Port<'a> {
    #[serde(rename = "IP", skip_serializing_if = "Option::is_none")]
    ip: Option<IpAddr>,
    private_port: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    public_port: Option<u16>,
    r#type: &'a str,
}

fn ports(view: &View) -> Vec<Port<'_>> {
    fn split(port: &str) -> (u16, &str) {
        let (number, kind) = port.split_once('/').unwrap_or((port, "tcp"));
        (number.parse().unwrap_or(0), kind)
    }
    let record = &view.record;
    let published = record.last.ports.iter().map(|p| {
        let (private_port, r#type) = split(&p.port);
        Port {
            ip: Some(p.host_ip),
            private_port,
            public_port: (p.host_port != 0).then_some(p.host_port),
            r#type,
        }
    });
    let exposed = record
        .config
        .exposed_ports
        .keys()
        .filter(|port| view.status.is_running() && !record.last.ports.iter().any(|p| p.port == **port))
        .map(|port| {
            let (private_port, r#type) = split(port);
            Port { ip: None, private_port, public_port: None, r#type }
        });
    published.chain(exposed).collect()
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Host<'a> {
    network_mode: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Networks<N> {
    networks: N,
}

/// One entry of `GET /containers/json`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Summary<'a, N, M> {
    id: &'a str,
    names: [String; 1],
    image: &'a str,
    #[serde(rename = "ImageID")]
    image_id: &'a str,
    command: String,
    created: u64,
    ports: Vec<Port<'a>>,
    labels: &'a BTreeMap<String, String>,
    state: &'static str,
    status: String,
    host_config: Host<'a>,
    network_settings: Networks<N>,
    mounts: M,
    #[serde(skip_serializing_if = "Option::is_none")]
    size_rw: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size_root_fs: Option<u64>,
    /// From API 1.48 on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_manifest_descriptor: Option<Manifest>,
}

/// What `ps` shows of this container; with its sizes where they are asked for.
pub async fn summary<'a>(
    images: &mut Images<'_>,
    view: &'a View,
    size: bool,
) -> Summary<'a, impl Serialize + use<'a>, impl Serialize + use<'a>> {
    let engine = images.engine;
    let record = &*view.record;
    let created = time::parse(&record.created).and_then(|t| t.duration_since(SystemTime::UNIX_EPOCH).ok());
    let (size_rw, size_root_fs) = match size {
        true => (
            Some(size_of(engine, record).await),
            Some(images.get(&record.image_id).await.map_or(0, |i| i.size)),
        ),
        false => (None, None),
    };
    Summary {
        id: &record.id,
        names: [format!("/{}", record.name)],
        image: shown_image(images, record).await,
        image_id: &record.image_id,
        command: command_line(record),
        created: created.map_or(0, |c| c.as_secs()),
        ports: ports(view),
        labels: &record.config.labels,
        state: view.status.name(),
        status: sentence(view),
        host_config: Host { network_mode: network_mode(record) },
        network_settings: Networks { networks: listed_endpoints(engine, record) },
        mounts: mounts(engine, record),
        size_rw,
        size_root_fs,
        image_manifest_descriptor: None,
    }
}

/// The image's name, or its id once the name is gone or means another.
async fn shown_image<'a>(images: &mut Images<'_>, record: &'a Record) -> &'a str {
    let named = images.get(&record.config.image).await;
    if named.is_some_and(|i| record.image_id.parse().is_ok_and(|id| i.id == id)) {
        &record.config.image
    } else {
        &record.image_id
    }
}

/// The network it runs in, as dockerd names the default.
pub fn network_mode(record: &Record) -> &str {
    if matches!(record.host.network_mode.as_str(), "" | "default") {
        "bridge"
    } else {
        &record.host.network_mode
    }
}

/// The command as dockerd shows it: quotes around words with spaces, and no thought for a shell.
fn command_line(record: &Record) -> String {
    let quote = |word: &String| if word.contains(' ') { format!("'{word}'") } else { word.clone() };
    std::iter::once(record.path.clone()).chain(record.args.iter().map(quote)).collect::<Vec<_>>().join(" ")
}
