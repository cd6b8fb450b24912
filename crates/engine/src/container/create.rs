//! Making a container: the request checked and merged with the image, one record written.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::config::{Config, EndpointSettings, HostConfig, NetworkingConfig};
use super::mounts::{self, MountKind, MountPoint};
use super::validate::validate;
use super::{Handle, LastRun, Record, images, links, task};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::store::{Durability, Kind};

/// A container that was made.
pub struct Made {
    /// It.
    pub handle: Handle,
    /// Its id.
    pub id: String,
    /// What the person should know, in Docker's words where it has them.
    pub warnings: Vec<String>,
}

/// Makes a container.
pub async fn create(
    engine: &Arc<Engine>,
    name: Option<&str>,
    mut config: Config,
    mut host: HostConfig,
    networking: NetworkingConfig,
) -> Result<Made> {
    if let Some(name) = name
        && !crate::names::is_valid(name)
    {
        return Err(Error::invalid(format!(
            "Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
        )));
    }
    let warnings = validate(engine, &config, &mut host)?;
    if config.image.is_empty() {
        command(&config)?;
    }
    let image = engine.images.get(&config.image).await?;
    if let Some(kind) = &image.artifact {
        return Err(Error::invalid(format!(
            "{} is no image but an artifact ({kind}): nothing to run",
            config.image
        )));
    }
    merge_image(&mut config, &image.config);
    if !config.working_dir.is_empty() {
        config.working_dir = mounts::clean(config.working_dir.as_ref()).display().to_string();
    }
    let command = command(&config)?;
    let networks = match config.network_disabled {
        // A network namespace with nothing in it.
        true => BTreeMap::new(),
        false => networks(engine, &mut host, networking, &mut config.mac_address)?,
    };
    let links = links::resolve(engine, &host.links.take().unwrap_or_default())?;
    let mut mounts = mounts::collect(&host, &config.volumes, mounts::inherited(&engine.containers, &host)?)?;
    for mount in &mounts {
        super::spec::check_source(engine, mount).await?;
    }
    images::resolve(engine, &mut mounts).await?;

    let id = crate::names::random_id();
    if config.hostname.is_empty() {
        config.hostname = match links::network_owner(engine, &host) {
            Ok(Some(owner)) => owner.view().record.config.hostname.clone(),
            _ if host.network_mode == "host" => host_name(),
            _ => id[..12].to_owned(),
        };
    }
    let name = reserve(engine, name, &id)?;
    let made = async {
        let durability = if host.auto_remove { Durability::Lazy } else { Durability::Durable };
        let prepared =
            prepare_volumes(engine, &id, &image.id, &mut mounts, &host.volume_driver, durability).await;
        engine.volumes.release(&id).await;
        prepared?;
        images::keep(engine, &id, &mounts).await?;
        tokio::fs::create_dir_all(engine.paths.container(&id)).await?;
        let record = Record {
            id: id.clone(),
            name: name.clone(),
            created: crate::time::now(),
            image_id: image.id.to_string(),
            path: command.0,
            args: command.1,
            config,
            host,
            networks,
            links,
            mounts: mounts.clone(),
            last: LastRun::default(),
            restart_count: 0,
            stopped_by_user: false,
        };
        engine.store.put(Kind::Container, &id, &record, durability).await?;
        Ok::<_, Error>(record)
    }
    .await;
    let record = match made {
        Ok(record) => record,
        Err(e) => {
            engine.containers.forget(&id);
            engine.containers.release_name(&name, &id);
            if let Err(e) = images::discard(engine, &id, &mounts).await {
                tracing::warn!("container {name}: {e}");
            }
            // Nothing else knows the folder: a failure to remove it only wastes space.
            let _ = tokio::fs::remove_dir_all(engine.paths.container(&id)).await;
            return Err(e);
        }
    };
    engine.container_event(&record, "create", &[]);
    let handle = task::spawn(engine, record, None);
    engine.containers.insert(&id, handle.clone());
    Ok(Made { handle, id, warnings })
}

fn reserve(engine: &Engine, name: Option<&str>, id: &str) -> Result<String> {
    if let Some(name) = name {
        engine.containers.reserve_name(name, id)?;
        return Ok(name.to_owned());
    }
    for attempt in 0.. {
        let name = crate::names::random_name(attempt);
        match engine.containers.reserve_name(&name, id) {
            Ok(()) => return Ok(name),
            // With digits there are tens of thousands: when all are taken, the id itself is a name.
            Err(_) if attempt < 20 => {}
            Err(_) => break,
        }
    }
    engine.containers.reserve_name(id, id).map(|()| id.to_owned())
}

/// What the image says where the request says nothing.
fn merge_image(config: &mut Config, image: &image::ImageConfig) {
    config.inherit(&Config::from(image));
    // `--entrypoint ""` takes the image's away.
    if config.entrypoint.as_deref() == Some(&[String::new()]) {
        config.entrypoint = None;
    }
}

fn command(config: &Config) -> Result<(String, Vec<String>)> {
    let entrypoint = config.entrypoint.iter().flatten();
    let mut words = entrypoint.chain(config.cmd.iter().flatten()).cloned();
    match words.next() {
        Some(path) => Ok((path, words.collect())),
        None => Err(Error::invalid("no command specified")),
    }
}

/// The networks by name, with what was asked of each.
fn networks(
    engine: &Engine,
    host: &mut HostConfig,
    networking: NetworkingConfig,
    mac_address: &mut String,
) -> Result<BTreeMap<String, EndpointSettings>> {
    if links::shares_network(host) {
        // One that is not there fails the start, as with dockerd.
        if let Ok(Some(owner)) = links::network_owner(engine, host) {
            host.network_mode = format!("container:{}", owner.view().record.id);
        }
        if networking.endpoints_config.values().flatten().any(asks_for_address) {
            return Err(Error::invalid(format!(
                "invalid config for network {}: invalid endpoint settings:\nuser specified IP address is supported on user defined networks only",
                host.network_mode
            )));
        }
        return Ok(BTreeMap::new());
    }
    let mode = match host.network_mode.as_str() {
        "" | "default" => "bridge",
        other => other,
    };
    let mut all = BTreeMap::new();
    for (name, settings) in networking.endpoints_config {
        let network = match engine.networks.find(&name) {
            Ok(network) => network.name.clone(),
            // Checked when the container starts, as dockerd does.
            Err(_) => name,
        };
        all.insert(network, settings.unwrap_or_default());
    }
    let mode = engine.networks.find(mode).map_or_else(|_| mode.to_owned(), |n| n.name.clone());
    let user_defined = !matches!(mode.as_str(), "bridge" | "host" | "none");
    let main: &mut EndpointSettings = all.entry(mode).or_default();
    if main.mac_address.is_empty() {
        // Where clients before API 1.44 say it.
        mac_address.clone_into(&mut main.mac_address);
    } else {
        main.mac_address.clone_into(mac_address);
    }
    if user_defined {
        // Where there is a name server, links are names of it. Clients say them in both places.
        let links = host.links.take().filter(|l| !l.is_empty());
        main.links = main.links.take().or(links);
    }
    if all.len() > 1 && (all.contains_key("host") || all.contains_key("none")) {
        return Err(Error::invalid(
            "conflicting options: cannot attach both user-defined and non-user-defined network-modes",
        ));
    }
    for (name, settings) in &all {
        // One that is not there fails the start, as with dockerd.
        let checked = match engine.networks.find(name) {
            Ok(network) => network.check_endpoint(settings),
            Err(_) => crate::networks::check_words(settings),
        };
        checked.map_err(|e| e.context(&format!("invalid config for network {name}")))?;
    }
    Ok(all)
}

fn asks_for_address(settings: &EndpointSettings) -> bool {
    let asked = settings.ipam_config.as_ref();
    asked.is_some_and(|ipam| !ipam.ipv4_address.is_empty() || !ipam.ipv6_address.is_empty())
}

/// Makes the volumes a container needs and fills new ones with what the image has there.
async fn prepare_volumes(
    engine: &Arc<Engine>,
    id: &str,
    image_id: &image::Digest,
    mounts: &mut [MountPoint],
    driver: &str,
    durability: Durability,
) -> Result<()> {
    let mut fill = Vec::new();
    for mount in mounts.iter_mut().filter(|m| m.kind == MountKind::Volume) {
        let mut labels = mount.labels.clone();
        let name = mount.volume.clone().unwrap_or_else(|| {
            labels.insert(crate::volumes::ANONYMOUS.into(), String::new());
            crate::names::random_id()
        });
        let labels = (!labels.is_empty()).then_some(labels);
        let options = (!mount.driver_options.is_empty()).then(|| mount.driver_options.clone());
        let (_, new) = engine.volumes.create(&name, driver, labels, options, durability).await?;
        if new {
            engine.volume_event(&name, "create", BTreeMap::new());
        }
        if mount.copy_up {
            engine.volumes.acquire(std::iter::once(name.as_str()), id, &engine.host_paths).await?;
        }
        // A part is looked at where it can be opened without leaving the volume.
        if mount.copy_up && (!mount.subpath.is_empty() || is_empty(&engine.volumes.data(&name)).await) {
            fill.push((mount.destination.clone(), engine.volumes.data(&name), mount.subpath.clone()));
        }
        mount.volume = Some(name);
    }
    if fill.is_empty() {
        return Ok(());
    }
    let rootfs = engine.images.mount(image_id, id).await?;
    let scratch = engine.paths.exec_root.join("rootfs");
    crate::rootfs::merged(rootfs, scratch, move |root| {
        for (inside, volume, part) in fill {
            let Some(source) = crate::rootfs::open_inside(root, &inside)? else { continue };
            if !source.metadata()?.is_dir() {
                continue;
            }
            let source = crate::rootfs::path_of(&source);
            if part.is_empty() {
                crate::rootfs::copy_tree(&source, &volume)?;
                continue;
            }
            // A part that is not there, or is a file, is refused when the container starts.
            let Ok(Some(place)) = crate::rootfs::open_inside(&volume, Path::new(&part)) else { continue };
            let at = crate::rootfs::path_of(&place);
            if place.metadata()?.is_dir() && std::fs::read_dir(&at)?.next().is_none() {
                crate::rootfs::copy_tree(&source, &at)?;
            }
        }
        Ok(())
    })
    .await
}

async fn is_empty(folder: &Path) -> bool {
    match tokio::fs::read_dir(folder).await {
        Ok(mut entries) => matches!(entries.next_entry().await, Ok(None)),
        Err(_) => false,
    }
}

/// The digest of a container's image.
pub fn image_digest(record: &Record) -> Result<image::Digest> {
    record.image_id.parse().map_err(Error::from)
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_entrypoint_drops_the_images_command() {
        let image = image::ImageConfig {
            entrypoint: Some(vec!["/entry".into()]),
            cmd: Some(vec!["default".into()]),
            env: vec!["A=image".into(), "B=image".into()],
            ..Default::default()
        };
        let mut plain = Config { env: vec!["A=mine".into()].into(), ..Config::default() };
        merge_image(&mut plain, &image);
        assert_eq!(command(&plain).unwrap(), ("/entry".into(), vec!["default".into()]));
        assert_eq!(plain.env[..2], ["A=mine", "B=image"]);
        assert_eq!(plain.env.len(), 2);

        let mut other = Config { entrypoint: Some(vec!["sh".into()]), ..Config::default() };
        merge_image(&mut other, &image);
        assert_eq!(command(&other).unwrap(), ("sh".into(), vec![]));

        let mut none = Config { entrypoint: Some(vec![String::new()]), ..Config::default() };
        merge_image(&mut none, &image);
        assert_eq!(command(&none).unwrap_err().message, "no command specified");
    }
}
