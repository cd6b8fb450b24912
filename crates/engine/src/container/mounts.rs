//! What is mounted in a container beside its root: `-v`, `--mount`, `--tmpfs` and the image's volumes.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Containers;
use super::config::{HostConfig, Set};
use crate::error::{Error, Result};
use crate::host_paths::clean_windows;

/// Kind of a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MountKind {
    /// A path of the host.
    Bind,
    /// A volume.
    Volume,
    /// An image's tree.
    Image,
    /// Memory.
    Tmpfs,
}

impl MountKind {
    /// Docker's word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bind => "bind",
            Self::Volume => "volume",
            Self::Image => "image",
            Self::Tmpfs => "tmpfs",
        }
    }
}

/// An image whose tree is mounted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MountedImage {
    /// As it was asked for.
    pub name: String,
    /// Its digest; empty until the container is made.
    pub id: String,
}

/// A mount of a container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MountPoint {
    /// What it is.
    pub kind: MountKind,
    /// The volume's name; `None` for an anonymous one until the container is made.
    pub volume: Option<String>,
    /// The image of an image mount.
    #[serde(default)]
    pub image: Option<MountedImage>,
    /// The host's path of a bind; empty otherwise.
    pub source: PathBuf,
    /// Where in the container: absolute, without `.` and `..`.
    pub destination: PathBuf,
    /// The mode words as given (`ro`, `z`).
    pub mode: String,
    /// Whether it can be written.
    pub rw: bool,
    /// `rprivate` unless asked otherwise; empty for volumes.
    pub propagation: String,
    /// A new volume gets what the image has there.
    pub copy_up: bool,
    /// Make the bind's source when it is missing, as `-v` does.
    pub create_source: bool,
    /// Part of the volume or the image.
    pub subpath: String,
    /// Labels for a new volume.
    pub labels: BTreeMap<String, String>,
    /// Driver options for a new volume.
    #[serde(default)]
    pub driver_options: BTreeMap<String, String>,
    /// Options of a tmpfs, as mount(8) takes them.
    pub tmpfs_options: Vec<String>,
    /// Mounts below the source come along.
    pub recursive: bool,
}

impl MountPoint {
    fn new(kind: MountKind, destination: PathBuf) -> Self {
        Self {
            kind,
            volume: None,
            image: None,
            source: PathBuf::new(),
            destination,
            mode: String::new(),
            rw: true,
            propagation: String::new(),
            copy_up: kind == MountKind::Volume,
            create_source: false,
            subpath: String::new(),
            labels: BTreeMap::new(),
            driver_options: BTreeMap::new(),
            tmpfs_options: Vec::new(),
            recursive: true,
        }
    }
}

fn destination(text: &str, spec: &str, kind: MountKind) -> Result<PathBuf> {
    let path = clean(Path::new(text));
    let invalid = |words: &str| {
        let kind = kind.name();
        let words = format!("invalid mount config for type \"{kind}\": {words}");
        Err(Error::invalid(format!("invalid volume specification: '{spec}': {words}")))
    };
    if !text.starts_with('/') {
        return invalid(&format!("invalid mount path: '{text}' mount path must be absolute"));
    }
    if path == Path::new("/") {
        return invalid("invalid specification: destination can't be '/'");
    }
    Ok(path)
}

/// The path without `.`, `..` and doubled slashes, as Go's `filepath.Clean` makes it for an absolute path.
pub fn clean(path: &Path) -> PathBuf {
    let mut out = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => out.push(name),
            Component::ParentDir => {
                out.pop();
            }
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    out
}

/// A path of the host's, clean: of Linux, or of Windows where that is the host. `None` for one that isn't absolute.
fn absolute(text: &str) -> Option<PathBuf> {
    if text.starts_with('/') {
        return Some(clean(Path::new(text)));
    }
    clean_windows(text).map(PathBuf::from)
}

/// A word that may stand behind the last colon of a `-v`.
fn is_mode(word: &str) -> bool {
    let known = [
        "rw",
        "ro",
        "nocopy",
        "z",
        "Z",
        "consistent",
        "cached",
        "delegated",
        "private",
        "rprivate",
        "shared",
        "rshared",
        "slave",
        "rslave",
    ];
    known.contains(&word)
}

/// One `-v` of the form `[source:]destination[:mode]`.
fn parse_bind(spec: &str) -> Result<MountPoint> {
    let bad = || Error::invalid(format!("invalid volume specification: '{spec}'"));
    let mut parts: Vec<&str> = spec.split(':').collect();
    // Windows' `C:\x` has a colon of its own. (One letter alone names no volume: two are the least.)
    let is_drive = |parts: &[&str]| {
        parts[0].len() == 1 && parts[0].starts_with(|c: char| c.is_ascii_alphabetic()) && parts.len() > 1
    };
    if is_drive(&parts) && (parts[1].starts_with('\\') || parts[1].starts_with('/') && parts.len() > 2) {
        parts.splice(..2, [&spec[..parts[0].len() + 1 + parts[1].len()]]);
    }
    let (source, target, mode) = match parts[..] {
        [target] => ("", target, ""),
        // An anonymous volume with a mode, or a name and a place that is none.
        [target, mode] if target.starts_with('/') && mode.split(',').all(is_mode) => ("", target, mode),
        [source, target] => (source, target, ""),
        [source, target, mode] => (source, target, mode),
        _ => return Err(bad()),
    };
    if target.is_empty() {
        return Err(bad());
    }
    let kind = if absolute(source).is_some() { MountKind::Bind } else { MountKind::Volume };
    let destination = destination(target, spec, kind)?;
    let mut mount = if let Some(path) = absolute(source) {
        let mut bind = MountPoint::new(MountKind::Bind, destination);
        bind.source = path;
        bind.create_source = true;
        bind.propagation = "rprivate".into();
        bind
    } else {
        let mut volume = MountPoint::new(MountKind::Volume, destination);
        if !source.is_empty() {
            if !crate::names::is_valid(source) {
                return Err(Error::invalid(format!(
                    "create {source}: \"{source}\" includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path"
                )));
            }
            volume.volume = Some(source.to_owned());
        }
        volume
    };
    mount.mode = shown_mode(mount.kind, mode);
    for word in mode.split(',').filter(|w| !w.is_empty()) {
        match word {
            "rw" => mount.rw = true,
            "ro" => mount.rw = false,
            "nocopy" if mount.kind == MountKind::Volume => mount.copy_up = false,
            // SELinux labels: nothing to do where SELinux is not.
            "z" | "Z" => {}
            "consistent" | "cached" | "delegated" => {}
            "private" | "rprivate" | "shared" | "rshared" | "slave" | "rslave"
                if mount.kind == MountKind::Bind =>
            {
                mount.propagation = word.to_owned();
            }
            _ => return Err(Error::invalid(format!("invalid mode: {mode}"))),
        }
    }
    Ok(mount)
}

/// dockerd shows `z` for a volume without a mode.
fn shown_mode(kind: MountKind, mode: &str) -> String {
    if mode.is_empty() && kind == MountKind::Volume { "z".into() } else { mode.to_owned() }
}

fn from_mount(m: &super::config::Mount) -> Result<MountPoint> {
    let invalid =
        |words: &str| Error::invalid(format!("invalid mount config for type \"{}\": {words}", m.r#type));
    let options = [
        ("bind", "BindOptions", m.bind_options.is_some()),
        ("volume", "VolumeOptions", m.volume_options.is_some()),
        ("tmpfs", "TmpfsOptions", m.tmpfs_options.is_some()),
    ];
    if let Some((_, field, _)) = options.iter().find(|(of, _, given)| *given && *of != m.r#type) {
        let words = format!("{field} must not be specified on mount type {:?}", m.r#type);
        return Err(Error::invalid(words));
    }
    if m.target.is_empty() {
        return Err(invalid("field Target must not be empty"));
    }
    if !m.target.starts_with('/') {
        return Err(invalid(&format!("invalid mount path: '{}' mount path must be absolute", m.target)));
    }
    let destination = clean(Path::new(&m.target));
    if destination == Path::new("/") {
        return Err(invalid("invalid specification: destination can't be '/'"));
    }
    if m.image_options.is_some() && m.r#type != "image" {
        return Err(invalid("field ImageOptions must not be specified"));
    }
    let mut mount = match m.r#type.as_str() {
        "bind" => {
            if m.source.is_empty() {
                return Err(invalid("field Source must not be empty"));
            }
            let Some(source) = absolute(&m.source) else {
                return Err(invalid(&format!(
                    "invalid mount path: '{}' mount path must be absolute",
                    m.source
                )));
            };
            let mut bind = MountPoint::new(MountKind::Bind, destination);
            bind.source = source;
            bind.propagation = "rprivate".into();
            if let Some(o) = &m.bind_options {
                if !o.propagation.is_empty() {
                    bind.propagation.clone_from(&o.propagation);
                }
                bind.create_source = o.create_mountpoint;
                bind.recursive = !o.non_recursive;
            }
            bind
        }
        "volume" => {
            let mut volume = MountPoint::new(MountKind::Volume, destination);
            volume.volume = (!m.source.is_empty()).then(|| m.source.clone());
            if let Some(o) = &m.volume_options {
                volume.copy_up = !o.no_copy;
                volume.labels.clone_from(&o.labels);
                volume.subpath.clone_from(&o.subpath);
                if let Some(d) = &o.driver_config {
                    if !matches!(d.name.as_str(), "" | "local") {
                        return Err(Error::not_found(format!(
                            "error looking up volume plugin {0}: plugin \"{0}\" not found",
                            d.name
                        )));
                    }
                    volume.driver_options.clone_from(&d.options);
                }
            }
            if !volume.subpath.is_empty() && volume.volume.is_none() {
                return Err(invalid("must not set Subpath when using anonymous volumes"));
            }
            if !is_part(&volume.subpath) {
                return Err(invalid(NO_PART));
            }
            volume
        }
        "tmpfs" => {
            if !m.source.is_empty() {
                return Err(invalid("field Source must not be specified"));
            }
            let mut tmpfs = MountPoint::new(MountKind::Tmpfs, destination);
            if let Some(o) = &m.tmpfs_options {
                if o.size_bytes > 0 {
                    tmpfs.tmpfs_options.push(format!("size={}", o.size_bytes));
                }
                if o.mode != 0 {
                    tmpfs.tmpfs_options.push(format!("mode={:o}", o.mode));
                }
            }
            tmpfs
        }
        "image" => image_mount(m, destination)?,
        "npipe" | "cluster" => {
            return Err(Error::not_implemented(format!("mounts of type {} are not there yet", m.r#type)));
        }
        _ => return Err(invalid("mount type unknown")),
    };
    mount.rw = !m.read_only && mount.kind != MountKind::Image;
    mount.mode = shown_mode(mount.kind, "");
    Ok(mount)
}

/// dockerd's words, also where it is no volume.
const NO_PART: &str = "subpath must be a relative path within the volume";

/// Whether it names a part of something.
fn is_part(path: &str) -> bool {
    !path.starts_with('/') && !Path::new(path).components().any(|c| c == Component::ParentDir)
}

fn image_mount(m: &super::config::Mount, destination: PathBuf) -> Result<MountPoint> {
    let invalid = |words: &str| Error::invalid(format!("invalid mount config for type \"image\": {words}"));
    if m.source.is_empty() {
        return Err(invalid("field Source must not be empty"));
    }
    let mut image = MountPoint::new(MountKind::Image, destination);
    image.image = Some(MountedImage { name: m.source.clone(), id: String::new() });
    image.propagation = "rprivate".into();
    image.subpath = m.image_options.as_ref().map(|o| o.subpath.clone()).unwrap_or_default();
    if !is_part(&image.subpath) {
        return Err(invalid(NO_PART));
    }
    Ok(image)
}

/// The mounts of other containers that `--volumes-from` names: their volumes and binds, `CONTAINER[:ro|rw]`.
pub fn inherited(containers: &Containers, host: &HostConfig) -> Result<Vec<MountPoint>> {
    let mut all: BTreeMap<PathBuf, MountPoint> = BTreeMap::new();
    for spec in host.volumes_from.iter().flatten() {
        let (name, mode) = spec.split_once(':').unwrap_or((spec, "rw"));
        if name.is_empty() {
            return Err(Error::invalid(format!("malformed 'VolumesFrom' specification: {spec}")));
        }
        let mut writable = true;
        for word in mode.split(',') {
            match word {
                "rw" | "z" | "Z" => {}
                "ro" => writable = false,
                _ => return Err(Error::invalid(format!("invalid mode: {mode}"))),
            }
        }
        // 400, not 404: the CLI would take that for a missing image.
        let other = containers.find(name).map_err(|e| Error::invalid(e.message))?;
        for mount in &other.view().record.mounts {
            if mount.kind != MountKind::Tmpfs {
                let mut mount = mount.clone();
                mount.rw &= writable;
                mount.copy_up = false;
                all.insert(mount.destination.clone(), mount);
            }
        }
    }
    Ok(all.into_values().collect())
}

/// All mounts a container asks for, one per destination, parents before children. Explicit ones win over those of
/// other containers, and these over the image's volumes.
pub fn collect(host: &HostConfig, volumes: &Set, inherited: Vec<MountPoint>) -> Result<Vec<MountPoint>> {
    let mut all: BTreeMap<PathBuf, MountPoint> = BTreeMap::new();
    let mut add = |m: MountPoint| match all.insert(m.destination.clone(), m) {
        None => Ok(()),
        Some(old) => Err(Error::invalid(format!("Duplicate mount point: {}", old.destination.display()))),
    };
    for spec in host.binds.iter().flatten() {
        add(parse_bind(spec)?)?;
    }
    for mount in &host.mounts {
        add(from_mount(mount)?)?;
    }
    for (path, options) in &host.tmpfs {
        if !path.starts_with('/') {
            return Err(Error::invalid(format!("invalid mount path: '{path}' mount path must be absolute")));
        }
        let mut tmpfs = MountPoint::new(MountKind::Tmpfs, destination(path, path, MountKind::Volume)?);
        tmpfs.tmpfs_options = options.split(',').filter(|o| !o.is_empty()).map(str::to_owned).collect();
        add(tmpfs)?;
    }
    for mount in inherited {
        all.entry(mount.destination.clone()).or_insert(mount);
    }
    for path in volumes.keys() {
        let volume = MountPoint::new(MountKind::Volume, destination(path, path, MountKind::Volume)?);
        all.entry(volume.destination.clone()).or_insert(volume);
    }
    Ok(all.into_values().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind(spec: &str) -> MountPoint {
        parse_bind(spec).unwrap()
    }

    #[test]
    fn a_path_is_a_bind_and_a_word_is_a_volume() {
        let b = bind("/srv/../src:/app:ro");
        assert_eq!((b.kind, b.source.to_str(), b.rw), (MountKind::Bind, Some("/src"), false));
        let v = bind("data:/var/lib/data:nocopy");
        assert_eq!((v.kind, v.volume.as_deref(), v.copy_up), (MountKind::Volume, Some("data"), false));
        assert_eq!(bind("/anon").volume, None);
    }

    #[test]
    fn windows_paths_are_binds() {
        for (spec, source, rw) in [
            (r"C:\Users\me:/app", r"C:\Users\me", true),
            (r"c:\a\..\b:/app:ro", r"c:\b", false),
            ("d:/x/y:/app", r"d:\x\y", true),
            ("d:/x:/app:ro", r"d:\x", false),
        ] {
            let b = bind(spec);
            assert_eq!((b.kind, b.source.to_str(), b.rw), (MountKind::Bind, Some(source), rw), "{spec}");
            assert_eq!(b.destination, Path::new("/app"));
        }
        // dockerd's words for what is none.
        for bad in [r"C:\x", "c:/x", r"C:x:/y", r"C:\x:y"] {
            assert!(parse_bind(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for bad in ["a:b:c:d", "data:rel", "x:/", "data:/x:bogus", "..:/x", ""] {
            assert!(parse_bind(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn one_place_has_one_mount_and_explicit_ones_win_over_the_images() {
        let host = HostConfig { binds: Some(vec!["first:/data".into()]), ..HostConfig::default() };
        let volumes =
            Set::from([("/data".into(), Default::default()), ("/other".into(), Default::default())]);
        let all = collect(&host, &volumes, Vec::new()).unwrap();
        assert_eq!(all.len(), 2);
        assert_eq!(all[0].volume.as_deref(), Some("first"));
        let twice =
            HostConfig { binds: Some(vec!["first:/d".into(), "second:/d".into()]), ..HostConfig::default() };
        assert_eq!(
            collect(&twice, &Set::new(), Vec::new()).unwrap_err().message,
            "Duplicate mount point: /d"
        );
    }
}
