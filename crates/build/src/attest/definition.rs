//! What was done, step by step, in the words of BuildKit's LLB, as provenance of `mode=max` carries it: written from our own graph,
//! which has the same steps but for those that are told beside it (`solve::within`).

use std::collections::HashMap;

use base64::Engine as _;
use serde_json::{Map, Value, json};

use crate::graph::{
    Access, Chmod, Copy, CopySource, CopyStep, Exec, Id, Mount, MountKind, Network, Op, Owner, Range,
    ResolveMode, Security, Sharing, Slot, Vertex, VertexRef,
};
use crate::platform::Platform;

/// Where a cache mount's folder is in the step that makes it.
const CACHE: &str = "/cache";
/// LLB's names of what mounts are.
const SECRET: u64 = 1;
const SSH: u64 = 2;
const CACHED: u64 = 3;
const TMPFS: u64 = 4;
/// LLB for nothing, nowhere, and whatever it was.
const NONE: i64 = -1;

/// Steps of a build in LLB.
#[derive(Default)]
pub(super) struct Definition {
    steps: Vec<Value>,
    /// What progress calls the steps that it tells of.
    digests: Vec<(String, usize)>,
    /// Lines of the Dockerfile, by step.
    lines: Vec<Vec<Range>>,
}

fn name(step: usize) -> String {
    format!("step{step}")
}

impl Definition {
    /// What `output` is made of.
    pub fn of(vertices: &[Vertex], output: Option<VertexRef>) -> Self {
        let mut out = Self::default();
        let digests = crate::solve::digests(vertices).unwrap_or_default();
        let mut places: HashMap<usize, usize> = HashMap::new();
        let mut wanted = vec![false; vertices.len()];
        let mut pending: Vec<usize> = output.into_iter().map(|v| v.0).collect();
        while let Some(v) = pending.pop() {
            if let Some(vertex) = vertices.get(v).filter(|_| !std::mem::replace(&mut wanted[v], true)) {
                pending.extend(vertex.inputs.iter().map(|i| i.0));
            }
        }
        for (v, vertex) in vertices.iter().enumerate().filter(|(v, _)| wanted[*v]) {
            let inputs: Vec<usize> = vertex.inputs.iter().filter_map(|i| places.get(&i.0).copied()).collect();
            let step = out.vertex(vertex, inputs);
            places.insert(v, step);
            out.digests.extend(digests.get(v).map(|d| (d.clone(), step)));
        }
        let last: Vec<usize> = output.and_then(|v| places.get(&v.0).copied()).into_iter().collect();
        out.push(json!({ "Op": {} }), &last, Vec::new());
        out
    }

    /// As `buildConfig` has it.
    pub fn shown(&self) -> Value {
        let digests: Map<String, Value> =
            self.digests.iter().map(|(digest, step)| (digest.clone(), json!(name(*step)))).collect();
        json!({ "llbDefinition": self.steps, "digestMapping": digests })
    }

    /// Where in the Dockerfile the steps come from.
    pub fn locations(&self) -> Value {
        let range = |r: &Range| json!({ "start": { "line": r.start }, "end": { "line": r.end } });
        let of = |lines: &Vec<Range>| match lines.as_slice() {
            [] => json!({}),
            lines => {
                let each = lines.iter().map(|r| json!({ "ranges": [range(r)] }));
                json!({ "locations": each.collect::<Vec<_>>() })
            }
        };
        let lines = self.lines.iter().enumerate();
        let all: Map<String, Value> = lines.map(|(step, lines)| (name(step), of(lines))).collect();
        Value::Object(all)
    }

    fn push(&mut self, op: Value, inputs: &[usize], lines: Vec<Range>) -> usize {
        let mut step = json!({ "id": name(self.steps.len()), "op": op });
        if !inputs.is_empty() {
            step["inputs"] = inputs.iter().map(|i| json!(format!("{}:0", name(*i)))).collect();
        }
        self.steps.push(step);
        self.lines.push(lines);
        self.steps.len() - 1
    }

    fn vertex(&mut self, vertex: &Vertex, mut inputs: Vec<usize>) -> usize {
        let op = match &vertex.op {
            Op::Exec(exec) => self.exec(exec, &mut inputs),
            Op::Copy(copy) => self.copy(copy, &mut inputs),
            Op::Mkdir { base, path, mode, owner, time } => {
                let mut mkdir = json!({ "path": path, "mode": mode, "makeParents": true });
                put_owner(&mut mkdir, owner.as_ref());
                file(vec![action(place(*base), NONE, 0, "mkdir", timed(mkdir, *time))])
            }
            source => source_of(source),
        };
        let mut op = json!({ "Op": op, "constraints": {} });
        if let Some(platform) = vertex.platform.as_ref().filter(|_| !matches!(vertex.op, Op::Mkdir { .. })) {
            op["platform"] = of_platform(platform);
        }
        self.push(op, &inputs, vertex.lines.clone())
    }

    /// A step that is ours only together with the one that needs it.
    fn within(&mut self, kind: &str, made: Value) -> usize {
        let op = file(vec![action(NONE, NONE, 0, kind, timed(made, None))]);
        self.push(json!({ "Op": op, "constraints": {} }), &[], Vec::new())
    }

    fn text(&mut self, name: &str, data: &str, mode: u32) -> usize {
        let data = base64::engine::general_purpose::STANDARD.encode(data);
        self.within("mkfile", json!({ "path": format!("/{name}"), "mode": mode, "data": data }))
    }

    fn copy(&mut self, copy: &Copy, inputs: &mut Vec<usize>) -> Value {
        let mut sources = Vec::new();
        for step in &copy.steps {
            sources.push(match &step.from {
                CopySource::Tree { from, path } => (place(*from), path.clone()),
                CopySource::Inline { name, data } => {
                    inputs.push(self.text(name, data, 0o644));
                    (last(inputs), format!("/{name}"))
                }
            });
        }
        let actions = copy.steps.iter().zip(sources).enumerate().map(|(n, (step, (from, path)))| {
            // Each goes on with what the one before it made, which is counted after the inputs.
            let base = if n == 0 { place(copy.base) } else { count(inputs.len() + n - 1) };
            let output = if n + 1 == copy.steps.len() { 0 } else { NONE };
            action(base, from, output, "copy", copied(step, &path))
        });
        file(actions.collect())
    }

    fn exec(&mut self, exec: &Exec, inputs: &mut Vec<usize>) -> Value {
        let mut env = exec.env.clone();
        let agent = exec.mounts.iter().find(|m| matches!(m.kind, MountKind::Ssh { .. }));
        env.extend(agent.map(|m| format!("SSH_AUTH_SOCK={}", m.target)));
        let mut meta = json!({
            "args": exec.args, "env": env, "cwd": exec.cwd, "removeMountStubsRecursive": true,
        });
        put(&mut meta, "user", json!(exec.user));
        put(&mut meta, "hostname", json!(exec.hostname));
        put(&mut meta, "cgroupParent", json!(exec.cgroup_parent));
        let hosts: Vec<Value> =
            exec.extra_hosts.iter().map(|(host, ip)| json!({ "Host": host, "IP": ip })).collect();
        put(&mut meta, "extraHosts", json!(hosts));
        let limits: Vec<Value> =
            exec.ulimits.iter().map(|l| json!({ "Name": l.name, "Soft": l.soft, "Hard": l.hard })).collect();
        put(&mut meta, "ulimit", json!(limits));
        let mut mounts: Vec<(String, Value)> = Vec::new();
        for mount in &exec.mounts {
            mounts.push((mount.target.clone(), self.mount(mount, inputs)));
        }
        if exec.shm_size > 0 {
            mounts.push(("/dev/shm".into(), memory("/dev/shm", exec.shm_size)));
        }
        // By their places, but for secrets and agents, which come last.
        let kind = |mount: &Value| mount["mountType"].as_u64().filter(|kind| [SECRET, SSH].contains(kind));
        mounts.sort_by(|a, b| (kind(&a.1), &a.0).cmp(&(kind(&b.1), &b.0)));
        let mut root = json!({ "dest": "/" });
        put(&mut root, "input", json!(place(exec.base)));
        let mut mounts: Vec<Value> =
            std::iter::once(root).chain(mounts.into_iter().map(|(_, m)| m)).collect();
        in_order(&mut mounts, inputs);
        let mut op = json!({ "meta": meta, "mounts": mounts });
        let network = match exec.network {
            Network::Default => 0,
            Network::Host => 1,
            Network::None => 2,
        };
        put(&mut op, "network", json!(network));
        put(&mut op, "security", json!(u8::from(exec.security == Security::Insecure)));
        let secrets = exec.secret_env.iter().map(|secret| {
            let mut one = json!({ "ID": secret.id, "name": secret.env });
            put(&mut one, "optional", json!(!secret.required));
            one
        });
        put(&mut op, "secretenv", secrets.collect());
        json!({ "exec": op })
    }

    fn mount(&mut self, mount: &Mount, inputs: &mut Vec<usize>) -> Value {
        let mut out = json!({ "dest": mount.target });
        let selected = |out: &mut Value, source: &str| {
            put(out, "selector", json!(if source == "/" { "" } else { source }));
        };
        match &mount.kind {
            MountKind::Bind { from, source, writable } => {
                put(&mut out, "input", json!(place(*from)));
                selected(&mut out, source);
                out["output"] = json!(NONE);
                put(&mut out, "readonly", json!(!writable));
            }
            MountKind::Cache { id, from, source, sharing, access, read_only } => {
                let input = match access {
                    Some(Access { mode, uid, gid }) => {
                        let mut made = json!({ "path": CACHE, "mode": mode });
                        let by = |id| Some(Id::Number(id));
                        put_owner(&mut made, Some(&Owner { user: by(*uid), group: by(*gid) }));
                        inputs.push(self.within("mkdir", made));
                        last(inputs)
                    }
                    None => place(*from),
                };
                put(&mut out, "input", json!(input));
                selected(&mut out, if access.is_some() { CACHE } else { source });
                out["output"] = json!(NONE);
                put(&mut out, "readonly", json!(read_only));
                out["mountType"] = json!(CACHED);
                out["cacheOpt"] = json!({ "ID": id });
                let sharing = match sharing {
                    Sharing::Shared => 0,
                    Sharing::Private => 1,
                    Sharing::Locked => 2,
                };
                put(&mut out["cacheOpt"], "sharing", json!(sharing));
            }
            MountKind::Tmpfs { size, read_only } => {
                out = memory(&mount.target, *size);
                put(&mut out, "readonly", json!(read_only));
            }
            MountKind::Secret { id, mode, uid, gid, required } => {
                out["input"] = json!(NONE);
                out["mountType"] = json!(SECRET);
                out["secretOpt"] = guarded(id, *mode, *uid, *gid, *required);
            }
            MountKind::Ssh { id, mode, uid, gid, required } => {
                out["input"] = json!(NONE);
                out["mountType"] = json!(SSH);
                let id = if id == "default" { "" } else { id };
                out["SSHOpt"] = guarded(id, *mode, *uid, *gid, *required);
            }
            MountKind::Inline { name, data, mode } => {
                inputs.push(self.text(name, data, *mode));
                put(&mut out, "input", json!(last(inputs)));
                out["dest"] = json!(format!("{}/", mount.target));
                out["selector"] = json!("/");
                out["output"] = json!(NONE);
                out["readonly"] = json!(true);
            }
        }
        out
    }
}

/// Puts inputs into the order in which mounts name them.
fn in_order(mounts: &mut [Value], inputs: &mut Vec<usize>) {
    let before = std::mem::take(inputs);
    for mount in mounts {
        let at = mount.get("input").map_or(Some(0), Value::as_u64);
        let Some(step) = at.and_then(|at| before.get(usize::try_from(at).ok()?).copied()) else { continue };
        let place = inputs.iter().position(|i| *i == step).unwrap_or_else(|| {
            inputs.push(step);
            inputs.len() - 1
        });
        if let Some(fields) = mount.as_object_mut() {
            fields.remove("input");
        }
        put(mount, "input", json!(place));
    }
}

/// Puts what is not the default of its type, which protobuf's JSON leaves out.
fn put(into: &mut Value, key: &str, value: Value) {
    let default = match &value {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_i64() == Some(0),
        Value::String(s) => s.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
    };
    if !default {
        into[key] = value;
    }
}

fn count(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(NONE)
}

fn place(slot: Option<Slot>) -> i64 {
    slot.map_or(NONE, |slot| count(slot.0))
}

fn last(inputs: &[usize]) -> i64 {
    count(inputs.len()) - 1
}

fn file(actions: Vec<Value>) -> Value {
    json!({ "file": { "actions": actions } })
}

fn action(input: i64, second: i64, output: i64, kind: &str, what: Value) -> Value {
    json!({ "input": input, "secondaryInput": second, "output": output, "Action": { kind: what } })
}

fn timed(mut what: Value, time: Option<i64>) -> Value {
    what["timestamp"] = json!(time.map_or(NONE, |seconds| seconds.saturating_mul(1_000_000_000)));
    what
}

fn put_owner(into: &mut Value, owner: Option<&Owner>) {
    let Some(owner) = owner else { return };
    let one = |id: &Id| match id {
        Id::Number(0) => json!({ "User": {} }),
        Id::Number(n) => json!({ "User": { "byId": n } }),
        Id::Name(name) => json!({ "User": { "byName": { "name": name } } }),
    };
    for (key, id) in [("user", &owner.user), ("group", &owner.group)] {
        if let Some(id) = id {
            into["owner"][key] = one(id);
        }
    }
}

fn memory(target: &str, size: u64) -> Value {
    let mut out =
        json!({ "input": NONE, "dest": target, "output": NONE, "mountType": TMPFS, "TmpfsOpt": {} });
    put(&mut out["TmpfsOpt"], "size", json!(size));
    out
}

fn guarded(id: &str, mode: u32, uid: u32, gid: u32, required: bool) -> Value {
    let mut out = json!({});
    put(&mut out, "ID", json!(id));
    for (key, number) in [("mode", mode), ("uid", uid), ("gid", gid)] {
        put(&mut out, key, json!(number));
    }
    put(&mut out, "optional", json!(!required));
    out
}

fn copied(step: &CopyStep, path: &str) -> Value {
    let mut out = json!({ "src": path, "dest": step.dest, "createDestPath": true });
    put_owner(&mut out, step.owner.as_ref());
    match &step.chmod {
        None => out["mode"] = json!(NONE),
        Some(Chmod::Bits(bits)) => put(&mut out, "mode", json!(bits)),
        Some(Chmod::Symbolic(text)) => out["modeStr"] = json!(text),
    }
    for (key, value) in [
        ("followSymlink", step.follow_links),
        ("dirCopyContents", step.contents_only),
        ("allowWildcard", step.wildcard),
        ("allowEmptyWildcard", step.allow_empty),
        ("attemptUnpackDockerCompatibility", step.unpack),
    ] {
        put(&mut out, key, json!(value));
    }
    put(&mut out, "include_patterns", json!(step.include));
    put(&mut out, "exclude_patterns", json!(step.exclude));
    put(&mut out, "required_paths", json!(step.required));
    timed(out, step.time)
}

fn of_platform(platform: &Platform) -> Value {
    let mut out = json!({ "Architecture": platform.architecture, "OS": platform.os });
    put(&mut out, "Variant", json!(platform.variant));
    out
}

fn source_of(op: &Op) -> Value {
    let list =
        |list: &Vec<String>| if list.is_empty() { Value::Null } else { json!(json!(list).to_string()) };
    let mut attrs = json!({});
    let mut attr = |key: &str, value: Value| put(&mut attrs, key, value);
    let identifier = match op {
        Op::Image { reference, resolve } => {
            let mode = match resolve {
                ResolveMode::Default => "",
                ResolveMode::Pull => "pull",
                ResolveMode::Local => "local",
            };
            attr("image.resolvemode", json!(mode));
            format!("docker-image://{reference}")
        }
        Op::OciLayout { reference, store, session } => {
            attr("oci.store", json!(store));
            attr("oci.session", json!(session));
            format!("oci-layout://{reference}")
        }
        Op::Local(local) => {
            attr("local.followpaths", list(&local.follow_paths));
            attr("local.includepattern", list(&local.include));
            attr("local.excludepatterns", list(&local.exclude));
            attr("local.sharedkeyhint", json!(local.name));
            format!("local://{}", local.name)
        }
        Op::Http(http) => {
            attr("http.checksum", json!(http.checksum));
            attr("http.filename", json!(http.filename));
            attr("http.perm", http.mode.map_or(Value::Null, |mode| json!(format!("0{mode:o}"))));
            let number = |id: Option<u32>| id.map_or(Value::Null, |id| json!(id.to_string()));
            attr("http.uid", number(http.uid));
            attr("http.gid", number(http.gid));
            http.url.clone()
        }
        Op::Git(git) => {
            attr("git.fullurl", json!(git.remote));
            attr("git.keepgitdir", json!(if git.keep_git_dir { "true" } else { "" }));
            attr("git.checksum", json!(git.checksum));
            attr("git.authtokensecret", json!(git.auth_token_secret));
            attr("git.authheadersecret", json!(git.auth_header_secret));
            attr("git.mountsshsock", json!(git.ssh));
            let remote = git.remote.split_once("://").map_or(git.remote.as_str(), |(_, rest)| rest);
            let subdir = if git.subdir.is_empty() { String::new() } else { format!(":{}", git.subdir) };
            let fragment = format!("{}{subdir}", git.reference);
            let fragment = if fragment.is_empty() { fragment } else { format!("#{fragment}") };
            format!("git://{remote}{fragment}")
        }
        // What a client brought, or what another target made.
        Op::Input { name } => format!("input://{name}"),
        Op::Exec(_) | Op::Copy(_) | Op::Mkdir { .. } => return json!({}),
    };
    let mut source = json!({ "identifier": identifier });
    put(&mut source, "attrs", attrs);
    json!({ "source": source })
}
