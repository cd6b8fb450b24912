//! Which operation answers which path: one table for what is there, what is not there yet and why.
//!
//! The README's list of missing operations is generated from [`OPERATIONS`] (`coracle-engine operations`).

use std::pin::Pin;
use std::sync::Arc;

use hyper::Method;

use super::reply::Reply;
use super::request::{Call, decode};
use super::{build, classic, containers, exec, images, make, networks, registry, system, volumes};
use crate::engine::Engine;
use crate::error::Result;

type Answer = Pin<Box<dyn Future<Output = Result<Reply>> + Send>>;

/// What an operation does.
pub enum Handler {
    /// Answers.
    Serves(fn(Arc<Engine>, Call) -> Answer),
    /// Not there yet: 501 with the operation's name.
    Missing,
    /// Never there, with the reason: 501.
    Refused(&'static str),
    /// Needs a swarm: answered as an engine that is in none does (503).
    NeedsSwarm,
}

/// One operation of the API.
pub struct Operation {
    /// HTTP method.
    pub method: Method,
    /// Path without the version; `{x}` is one segment, `{x...}` one or more.
    pub path: &'static str,
    /// Its name in the specification.
    pub id: &'static str,
    /// What it does.
    pub handler: Handler,
}

impl Operation {
    /// Whether its answer tells what containers do, or changes it.
    pub fn sees_containers(&self) -> bool {
        let first = self.path.trim_start_matches("/coracle/v1").split('/').nth(1);
        matches!(first, Some("containers" | "exec" | "commit" | "networks" | "info" | "system"))
    }
}

macro_rules! operations {
    ($($method:ident $path:literal $id:ident => $handler:tt $(:: $function:ident)? $(($reason:literal))?;)*) => {
        &[$(Operation {
            method: Method::$method,
            path: $path,
            id: stringify!($id),
            handler: operations!(@ $handler $(:: $function)? $(($reason))?),
        }),*]
    };
    (@ missing) => { Handler::Missing };
    (@ swarm) => { Handler::NeedsSwarm };
    (@ refused ($reason:literal)) => { Handler::Refused($reason) };
    (@ $module:ident :: $function:ident) => { Handler::Serves(|engine, call| Box::pin($module::$function(engine, call))) };
}

/// All operations. The order matters only where a fixed path could also be a parameter.
pub const OPERATIONS: &[Operation] = operations! {
    GET "/_ping" SystemPing => system::ping;
    HEAD "/_ping" SystemPingHead => system::ping;
    GET "/version" SystemVersion => system::version;
    GET "/info" SystemInfo => system::info;
    GET "/events" SystemEvents => system::events;
    GET "/system/df" SystemDataUsage => system::disk_usage;
    POST "/auth" SystemAuth => registry::auth;
    GET "/coracle/v1/features" CoracleFeatures => system::features;
    GET "/coracle/v1/images/prunable" CoraclePrunable => images::prunable;
    GET "/coracle/v1/images/{name...}/history" CoracleImageHistory => images::layers;
    GET "/coracle/v1/images/{name...}/files" CoracleLayerFiles => images::layer_files;
    PUT "/coracle/v1/containers/{id}/file" CoracleFileWrite => containers::file_put;

    GET "/containers/json" ContainerList => containers::list;
    POST "/containers/create" ContainerCreate => containers::create;
    POST "/containers/prune" ContainerPrune => containers::prune;
    GET "/containers/{id}/json" ContainerInspect => containers::inspect;
    GET "/containers/{id}/top" ContainerTop => containers::top;
    GET "/containers/{id}/logs" ContainerLogs => containers::logs;
    GET "/containers/{id}/changes" ContainerChanges => containers::changes;
    GET "/containers/{id}/export" ContainerExport => containers::export;
    GET "/containers/{id}/stats" ContainerStats => containers::stats;
    POST "/containers/{id}/resize" ContainerResize => containers::resize;
    POST "/containers/{id}/start" ContainerStart => containers::start;
    POST "/containers/{id}/stop" ContainerStop => containers::stop;
    POST "/containers/{id}/restart" ContainerRestart => containers::restart;
    POST "/containers/{id}/kill" ContainerKill => containers::kill;
    POST "/containers/{id}/update" ContainerUpdate => containers::update;
    POST "/containers/{id}/rename" ContainerRename => containers::rename;
    POST "/containers/{id}/pause" ContainerPause => containers::pause;
    POST "/containers/{id}/unpause" ContainerUnpause => containers::unpause;
    POST "/containers/{id}/attach" ContainerAttach => containers::attach;
    GET "/containers/{id}/attach/ws" ContainerAttachWebsocket => containers::attach_websocket;
    POST "/containers/{id}/wait" ContainerWait => containers::wait;
    GET "/containers/{id}/checkpoints" CheckpointList => refused("checkpoints need CRIU, which this engine does not drive");
    POST "/containers/{id}/checkpoints" CheckpointCreate => refused("checkpoints need CRIU, which this engine does not drive");
    DELETE "/containers/{id}/checkpoints/{checkpoint}" CheckpointDelete => refused("checkpoints need CRIU, which this engine does not drive");
    DELETE "/containers/{name...}" ContainerDelete => containers::delete;
    HEAD "/containers/{id}/archive" ContainerArchiveInfo => containers::archive_info;
    GET "/containers/{id}/archive" ContainerArchive => containers::archive_get;
    PUT "/containers/{id}/archive" PutContainerArchive => containers::archive_put;
    POST "/containers/{id}/exec" ContainerExec => exec::create;
    POST "/exec/{id}/start" ExecStart => exec::start;
    POST "/exec/{id}/resize" ExecResize => exec::resize;
    GET "/exec/{id}/json" ExecInspect => exec::inspect;
    POST "/commit" ImageCommit => make::commit;

    GET "/images/json" ImageList => images::list;
    POST "/images/create" ImageCreate => images::create;
    POST "/images/load" ImageLoad => images::load;
    GET "/images/get" ImageGetAll => images::save_all;
    GET "/images/search" ImageSearch => registry::search;
    POST "/images/prune" ImagePrune => images::prune;
    GET "/images/{name...}/json" ImageInspect => images::inspect;
    GET "/images/{name...}/history" ImageHistory => images::history;
    GET "/images/{name...}/get" ImageGet => images::save_one;
    POST "/images/{name...}/push" ImagePush => images::push;
    POST "/images/{name...}/tag" ImageTag => images::tag;
    DELETE "/images/{name...}" ImageDelete => images::delete;
    GET "/distribution/{name...}/json" DistributionInspect => registry::distribution;
    POST "/build" ImageBuild => classic::build;
    POST "/build/prune" BuildPrune => build::prune;
    POST "/session" Session => build::session;
    POST "/grpc" BuildKit => build::grpc;

    GET "/volumes" VolumeList => volumes::list;
    POST "/volumes/create" VolumeCreate => volumes::create;
    POST "/volumes/prune" VolumePrune => volumes::prune;
    GET "/volumes/{name}" VolumeInspect => volumes::inspect;
    PUT "/volumes/{name}" VolumeUpdate => swarm;
    DELETE "/volumes/{name}" VolumeDelete => volumes::delete;

    GET "/coracle/v1/volumes/{name}/snapshots" CoracleSnapshotList => volumes::snapshots;
    POST "/coracle/v1/volumes/{name}/snapshots" CoracleSnapshot => volumes::snapshot;
    POST "/coracle/v1/volumes/{name}/snapshots/{snapshot}/restore" CoracleSnapshotRestore => volumes::restore;
    DELETE "/coracle/v1/volumes/{name}/snapshots/{snapshot}" CoracleSnapshotDelete => volumes::delete_snapshot;

    GET "/networks" NetworkList => networks::list;
    POST "/networks/create" NetworkCreate => networks::create;
    POST "/networks/prune" NetworkPrune => networks::prune;
    GET "/networks/{id}" NetworkInspect => networks::inspect;
    DELETE "/networks/{id}" NetworkDelete => networks::delete;
    POST "/networks/{id}/connect" NetworkConnect => networks::connect;
    POST "/networks/{id}/disconnect" NetworkDisconnect => networks::disconnect;

    GET "/plugins" PluginList => system::no_plugins;
    GET "/plugins/privileges" GetPluginPrivileges => refused("managed plugins are not supported: they are images that run with the engine's own rights");
    POST "/plugins/pull" PluginPull => refused("managed plugins are not supported: they are images that run with the engine's own rights");
    GET "/plugins/{name...}/json" PluginInspect => refused("managed plugins are not supported");
    DELETE "/plugins/{name...}" PluginDelete => refused("managed plugins are not supported");
    POST "/plugins/create" PluginCreate => refused("managed plugins are not supported");
    POST "/plugins/{name...}" PluginChange => refused("managed plugins are not supported");

    POST "/swarm/init" SwarmInit => refused("this engine does not join swarms");
    POST "/swarm/join" SwarmJoin => refused("this engine does not join swarms");
    GET "/swarm" SwarmInspect => swarm;
    POST "/swarm/{x}" Swarm => swarm;
    GET "/swarm/{x}" SwarmUnlockkey => swarm;
    GET "/nodes" NodeList => swarm;
    GET "/nodes/{x...}" NodeInspect => swarm;
    POST "/nodes/{x...}" NodeUpdate => swarm;
    DELETE "/nodes/{x...}" NodeDelete => swarm;
    GET "/services" ServiceList => swarm;
    GET "/services/{x...}" ServiceInspect => swarm;
    POST "/services/{x...}" ServiceUpdate => swarm;
    DELETE "/services/{x...}" ServiceDelete => swarm;
    GET "/tasks" TaskList => swarm;
    GET "/tasks/{x...}" TaskInspect => swarm;
    GET "/secrets" SecretList => swarm;
    GET "/secrets/{x...}" SecretInspect => swarm;
    POST "/secrets/{x...}" SecretUpdate => swarm;
    DELETE "/secrets/{x...}" SecretDelete => swarm;
    GET "/configs" ConfigList => swarm;
    GET "/configs/{x...}" ConfigInspect => swarm;
    POST "/configs/{x...}" ConfigUpdate => swarm;
    DELETE "/configs/{x...}" ConfigDelete => swarm;
};

/// Names of the operations that are there.
pub fn served() -> Vec<&'static str> {
    OPERATIONS.iter().filter(|o| matches!(o.handler, Handler::Serves(_))).map(|o| o.id).collect()
}

/// What a path leads to.
pub enum Route {
    /// This operation, with its path parameters.
    To(&'static Operation, Vec<String>),
    /// Nothing.
    Nowhere,
}

/// Finds the operation for a path without its version.
pub fn route(method: &Method, path: &str) -> Route {
    for operation in OPERATIONS {
        if operation.method == *method
            && let Some(params) = matches(operation.path, path)
        {
            return Route::To(operation, params);
        }
    }
    // Also for a method that a known path does not have: dockerd tells no difference.
    Route::Nowhere
}

/// The parameters, when the path fits the pattern.
fn matches(pattern: &str, path: &str) -> Option<Vec<String>> {
    let mut params = Vec::new();
    let mut wanted = pattern.split('/').skip(1).peekable();
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    let mut at = 0;
    while let Some(segment) = wanted.next() {
        if segment.ends_with("...}") {
            let rest = wanted.clone().count();
            let end = parts.len().checked_sub(rest).filter(|end| *end > at)?;
            params.push(decode(&parts[at..end].join("/"), false));
            at = end;
        } else {
            let part = *parts.get(at)?;
            if segment.starts_with('{') {
                if part.is_empty() {
                    return None;
                }
                params.push(decode(part, false));
            } else if segment != part {
                return None;
            }
            at += 1;
        }
    }
    (at == parts.len() && params.iter().all(|p| !p.is_empty())).then_some(params)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(method: Method, path: &str) -> Option<(&'static str, Vec<String>)> {
        match route(&method, path) {
            Route::To(operation, params) => Some((operation.id, params)),
            Route::Nowhere => None,
        }
    }

    #[test]
    fn image_names_have_slashes() {
        assert_eq!(id(Method::GET, "/images/a/b:c/json").unwrap(), ("ImageInspect", vec!["a/b:c".into()]));
        assert_eq!(id(Method::GET, "/images/json").unwrap().0, "ImageList");
        assert_eq!(id(Method::DELETE, "/images/localhost:5000/x").unwrap().1, ["localhost:5000/x"]);
    }

    #[test]
    fn what_tells_of_no_container_waits_for_none() {
        let waits = |method, path| match route(&method, path) {
            Route::To(operation, _) => operation.sees_containers(),
            Route::Nowhere => panic!("{path}"),
        };
        for path in ["/containers/json", "/containers/c/json", "/exec/e/json", "/networks/n", "/info"] {
            assert!(waits(Method::GET, path), "{path}");
        }
        assert!(waits(Method::PUT, "/coracle/v1/containers/c/file"));
        for path in ["/_ping", "/version", "/events", "/images/json", "/coracle/v1/images/prunable"] {
            assert!(!waits(Method::GET, path), "{path}");
        }
    }

    #[test]
    fn unknown_paths_and_methods_lead_nowhere() {
        assert!(matches!(route(&Method::GET, "/nope"), Route::Nowhere));
        assert!(matches!(route(&Method::PUT, "/containers/json"), Route::Nowhere));
        assert!(matches!(route(&Method::GET, "/containers//json"), Route::Nowhere));
    }

    #[test]
    fn every_operation_is_reached_by_its_own_path() {
        for operation in OPERATIONS {
            let path = operation.path.replace("...", "").replace(['{', '}'], "");
            let found = id(operation.method.clone(), &path);
            // A more general pattern before it would hide it.
            assert_eq!(found.map(|f| f.0), Some(operation.id), "{path}");
        }
    }
}
