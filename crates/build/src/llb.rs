//! Definitions in LLB (BuildKit's `solver/pb/ops.proto`), as far as stock clients send them: where `buildx bake` reads a
//! remote file from, what a remote context is, and by which name the result of one build goes into another.
//!
//! Dockerfiles do not come this way: their graph is made by [`crate::convert`], and is never LLB.

use std::collections::HashMap;

use bollard_buildkit_proto::pb::{self, file_action::Action, op::Op as Kind};
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use crate::convert::git_source;
use crate::convert::names::clean;
use crate::dockerfile::text::parse_bool;
use crate::error::{Error, Kind as Fault};
use crate::graph::{Copy, CopySource, CopyStep, Http, Local, Op, ResolveMode, Slot, Vertex, VertexRef};
use crate::platform::Platform;

/// Identifiers of sources that are results of builds of this engine begin so.
const REF: &str = "coracle-ref://";
/// Most steps of a definition.
const STEPS: usize = 1024;

/// The definition that names a ref: it means something to this engine alone, as long as the ref's build lives.
pub fn of_ref(id: &str) -> pb::Definition {
    let source = pb::SourceOp { identifier: format!("{REF}{id}"), ..Default::default() };
    let source = pb::Op { op: Some(Kind::Source(source)), ..Default::default() }.encode_to_vec();
    let digest = digest(&source);
    let input = pb::Input { digest: digest.clone(), index: 0 };
    let end = pb::Op { inputs: vec![input], ..Default::default() }.encode_to_vec();
    let metadata = [digest, self::digest(&end)].map(|digest| (digest, pb::OpMetadata::default()));
    pb::Definition { def: vec![source, end], metadata: metadata.into(), source: None }
}

/// The steps of a definition, the last of which gives its result.
///
/// A ref of another build is an [`Op::Input`] of its id.
///
/// # Errors
/// Definitions that are none; steps that only programs other than the stock clients ask for.
pub fn steps(definition: &pb::Definition) -> Result<Vec<Vertex>, Error> {
    if definition.def.len() > STEPS {
        return Err(Error::invalid(format!("a definition with more than {STEPS} steps")));
    }
    let mut places: HashMap<String, VertexRef> = HashMap::new();
    let mut steps: Vec<Vertex> = Vec::new();
    let mut end = None;
    for bytes in &definition.def {
        let op = pb::Op::decode(bytes.as_slice())
            .map_err(|e| Error::invalid(format!("failed to parse llb proto op: {e}")))?;
        let digest = digest(bytes);
        let find = |input: &pb::Input| {
            let none = || Error::invalid(format!("invalid missing input digest {}", input.digest));
            let nth = || Error::invalid(format!("output {} of {} is not there", input.index, input.digest));
            let place = places.get(&input.digest).copied().ok_or_else(none)?;
            if input.index == 0 { Ok(place) } else { Err(nth()) }
        };
        let inputs = op.inputs.iter().map(find).collect::<Result<Vec<_>, _>>()?;
        let Some(kind) = &op.op else {
            // Only says which step gives the result.
            end = inputs.first().copied();
            continue;
        };
        let metadata = definition.metadata.get(&digest);
        let shown = metadata.and_then(|m| m.description.get("llb.customname")).cloned();
        let (name, op_made) = match kind {
            Kind::Source(op) => (format!("source {}", op.identifier), source(op)?),
            Kind::File(op) => (String::from("files"), Op::Copy(files(op, inputs.len())?)),
            Kind::Exec(_) => return Err(missing("exec")),
            Kind::Build(_) => return Err(missing("build")),
            Kind::Merge(_) => return Err(missing("merge")),
            Kind::Diff(_) => return Err(missing("diff")),
        };
        let platform = op.platform.as_ref().map(|p| Platform::normal(&p.os, &p.architecture, &p.variant));
        places.insert(digest, VertexRef(steps.len()));
        steps.push(Vertex {
            name: shown.unwrap_or(name),
            op: op_made,
            inputs,
            platform,
            ignore_cache: metadata.is_some_and(|m| m.ignore_cache),
            lines: Vec::new(),
            command: String::new(),
        });
    }
    let end = end.ok_or_else(|| Error::invalid("invalid empty definition"))?;
    // What stands behind it is no part of it.
    steps.truncate(end.0 + 1);
    Ok(steps)
}

fn digest(bytes: &[u8]) -> String {
    crate::hex(&Sha256::digest(bytes))
}

fn missing(kind: &str) -> Error {
    let words = format!("steps of kind {kind} in LLB are not there: this engine builds Dockerfiles");
    Error::invalid(words).with_kind(Fault::Unsupported)
}

fn source(op: &pb::SourceOp) -> Result<Op, Error> {
    let attr = |name: &str| op.attrs.get(name).filter(|v| !v.is_empty());
    let list = |name: &str| match attr(name) {
        None => Ok(Vec::new()),
        Some(text) => serde_json::from_str::<Vec<String>>(text)
            .map_err(|e| Error::invalid(format!("invalid {name} {text}: {e}"))),
    };
    let number = |name: &str, radix: u32| match attr(name) {
        None => Ok(None),
        Some(text) => u32::from_str_radix(text.trim_start_matches("0o"), radix)
            .map(Some)
            .map_err(|e| Error::invalid(format!("invalid {name} {text}: {e}"))),
    };
    let (scheme, rest) = op.identifier.split_once("://").unwrap_or(("", &op.identifier));
    Ok(match scheme {
        "coracle-ref" => Op::Input { name: rest.to_owned() },
        "git" => {
            let (address, fragment) = op.identifier.split_once('#').unwrap_or((&op.identifier, ""));
            // Clients older than the attribute leave the real protocol out.
            let remote = attr("git.fullurl").map_or(address, String::as_str);
            let text = if fragment.is_empty() { remote.to_owned() } else { format!("{remote}#{fragment}") };
            let keep = attr("git.keepgitdir").and_then(|v| parse_bool(v)) == Some(true);
            let none = || Error::invalid(format!("invalid git source {text}"));
            let mut git = git_source(&text, keep)?.ok_or_else(none)?;
            if let Some(checksum) = attr("git.checksum") {
                git.checksum = Some(checksum.clone());
            }
            Op::Git(git)
        }
        "http" | "https" => Op::Http(Http {
            url: op.identifier.clone(),
            checksum: attr("http.checksum").cloned(),
            filename: match attr("http.filename") {
                Some(name) => name.clone(),
                None => {
                    let path = op.identifier.split(['?', '#']).next().unwrap_or_default();
                    let last = path.rsplit('/').next().filter(|name| !name.is_empty());
                    last.unwrap_or("download").to_owned()
                }
            },
            mode: number("http.perm", 8)?,
            uid: number("http.uid", 10)?,
            gid: number("http.gid", 10)?,
        }),
        "local" => Op::Local(Local {
            name: rest.to_owned(),
            include: list("local.includepattern")?,
            exclude: list("local.excludepatterns")?,
            follow_paths: list("local.followpaths")?,
            shared_key: attr("local.sharedkeyhint").cloned().unwrap_or_default(),
            differ: attr("local.differ").is_none_or(|d| d != "none"),
        }),
        "docker-image" => Op::Image {
            reference: rest.to_owned(),
            resolve: match attr("image.resolvemode").map(String::as_str) {
                Some("pull") => ResolveMode::Pull,
                Some("local") => ResolveMode::Local,
                _ => ResolveMode::Default,
            },
        },
        other => {
            let words = format!("sources of kind {other:?} in LLB are not there");
            return Err(Error::invalid(words).with_kind(Fault::Unsupported));
        }
    })
}

/// Copies, each onto what the one before it made.
fn files(op: &pb::FileOp, inputs: usize) -> Result<Copy, Error> {
    let slot = |at: i64| match usize::try_from(at) {
        Err(_) => Ok(None),
        Ok(at) if at < inputs => Ok(Some(Slot(at))),
        Ok(at) => Err(Error::invalid(format!("input {at} of a step with {inputs}"))),
    };
    let mut copy = Copy::default();
    for (n, action) in op.actions.iter().enumerate() {
        let Some(Action::Copy(step)) = &action.action else {
            return Err(missing("file, but for copies,"));
        };
        match n.checked_sub(1) {
            None => copy.base = slot(action.input)?,
            Some(before) if usize::try_from(action.input).is_ok_and(|i| i == inputs + before) => {}
            Some(_) => return Err(missing("file, but for one copy after the other,")),
        }
        if step.owner.is_some() || step.mode > 0 || !step.mode_str.is_empty() {
            return Err(missing("file, but for copies without an owner or mode of their own,"));
        }
        copy.steps.push(CopyStep {
            from: CopySource::Tree {
                from: slot(action.secondary_input)?,
                path: clean(&format!("/{}", step.src)),
            },
            dest: match clean(&format!("/{}", step.dest)) {
                path if step.dest.ends_with('/') && path != "/" => path + "/",
                path => path,
            },
            follow_links: step.follow_symlink,
            contents_only: step.dir_copy_contents,
            wildcard: step.allow_wildcard,
            allow_empty: step.allow_empty_wildcard,
            unpack: step.attempt_unpack_docker_compatibility,
            include: step.include_patterns.clone(),
            exclude: step.exclude_patterns.clone(),
            required: step.required_paths.clone(),
            owner: None,
            chmod: None,
            time: (step.timestamp > 0).then_some(step.timestamp / 1_000_000_000),
        });
    }
    Ok(copy)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Marshals ops in order; each names inputs by the place of an earlier one.
    fn definition(ops: Vec<(Kind, Vec<usize>)>) -> pb::Definition {
        let mut digests: Vec<String> = Vec::new();
        let mut def = Vec::new();
        let input = |digests: &[String], at: usize| pb::Input { digest: digests[at].clone(), index: 0 };
        for (kind, inputs) in ops {
            let inputs = inputs.into_iter().map(|at| input(&digests, at)).collect();
            let bytes = pb::Op { inputs, op: Some(kind), ..Default::default() }.encode_to_vec();
            digests.push(digest(&bytes));
            def.push(bytes);
        }
        let last = input(&digests, digests.len() - 1);
        def.push(pb::Op { inputs: vec![last], ..Default::default() }.encode_to_vec());
        pb::Definition { def, ..Default::default() }
    }

    fn from(identifier: &str, attrs: &[(&str, &str)]) -> Kind {
        let attrs = attrs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Kind::Source(pb::SourceOp { identifier: identifier.into(), attrs })
    }

    #[test]
    fn a_ref_names_a_result_of_another_build() {
        let steps = steps(&of_ref("abc")).unwrap();
        assert_eq!(steps.len(), 1);
        assert_eq!(steps[0].op, Op::Input { name: "abc".into() });
    }

    #[test]
    fn sources_are_read_with_what_is_said_of_them() {
        let op = |identifier: &str, attrs: &[(&str, &str)]| {
            steps(&definition(vec![(from(identifier, attrs), vec![])])).map(|mut s| s.remove(0).op)
        };
        let git =
            op("git://h/r.git#main:sub", &[("git.fullurl", "http://h/r.git"), ("git.keepgitdir", "true")]);
        let Ok(Op::Git(git)) = git else { panic!("{git:?}") };
        assert_eq!((git.remote.as_str(), git.reference.as_str()), ("http://h/r.git", "main"));
        assert_eq!((git.subdir.as_str(), git.keep_git_dir), ("/sub", true));
        let http = op("https://h/a/b.tar?x=1", &[("http.perm", "0644")]);
        let Ok(Op::Http(http)) = http else { panic!("{http:?}") };
        assert_eq!((http.filename.as_str(), http.mode), ("b.tar", Some(0o644)));
        let local = op("local://context", &[("local.followpaths", "[\"a\"]")]);
        let Ok(Op::Local(local)) = local else { panic!("{local:?}") };
        assert_eq!((local.name.as_str(), local.follow_paths), ("context", vec!["a".to_owned()]));
        let wrong = op("local://context", &[("local.followpaths", "a")]).unwrap_err();
        assert!(wrong.message.contains("invalid local.followpaths"), "{}", wrong.message);
        assert!(op("ftp://x", &[]).unwrap_err().message.contains("\"ftp\""));
    }

    #[test]
    fn an_archive_is_unpacked_onto_nothing() {
        let copy = pb::FileActionCopy {
            src: "/context".into(),
            dest: "/".into(),
            attempt_unpack_docker_compatibility: true,
            mode: -1,
            ..Default::default()
        };
        let action =
            pb::FileAction { input: -1, secondary_input: 0, output: 0, action: Some(Action::Copy(copy)) };
        let files = Kind::File(pb::FileOp { actions: vec![action] });
        let steps = steps(&definition(vec![(from("http://h/x", &[]), vec![]), (files, vec![0])])).unwrap();
        let Op::Copy(copy) = &steps[1].op else { panic!("{:?}", steps[1].op) };
        assert!(copy.base.is_none() && copy.steps[0].unpack && copy.steps[0].dest == "/");
        assert_eq!(copy.steps[0].from, CopySource::Tree { from: Some(Slot(0)), path: "/context".into() });
    }

    #[test]
    fn what_is_none_or_not_there_is_refused() {
        let words = |d: &pb::Definition| steps(d).unwrap_err().message;
        assert!(words(&pb::Definition::default()).contains("empty definition"));
        let garbage = pb::Definition { def: vec![vec![0xff; 9]], ..Default::default() };
        assert!(words(&garbage).contains("failed to parse llb proto op"));
        let exec = Kind::Exec(pb::ExecOp::default());
        assert!(words(&definition(vec![(exec, vec![])])).contains("steps of kind exec"));
        let mut dangling = of_ref("x");
        dangling.def.remove(0);
        assert!(words(&dangling).contains("invalid missing input digest"));
        let many = pb::Definition { def: vec![Vec::new(); STEPS + 1], ..Default::default() };
        assert!(words(&many).contains("more than"));
    }

    proptest::proptest! {
        /// Steps of a definition name only what stands before them.
        #[test]
        fn any_definition_is_read_or_refused(
            ops in proptest::collection::vec((0usize..5, -3i64..6, -3i64..6, 0usize..9), 0..8),
            raw in proptest::collection::vec(proptest::collection::vec(proptest::prelude::any::<u8>(), 0..40), 0..4),
        ) {
            let mut made: Vec<(Kind, Vec<usize>)> = Vec::new();
            for (kind, input, other, at) in ops {
                let (before, copy) = (made.len(), pb::FileActionCopy::default());
                let action = pb::FileAction {
                    input,
                    secondary_input: other,
                    output: 0,
                    action: Some(if kind == 4 { Action::Rm(Default::default()) } else { Action::Copy(copy) }),
                };
                made.push(match kind {
                    0 => (from("coracle-ref://x", &[]), vec![]),
                    1 => (from("git://#:", &[("git.fullurl", "#")]), vec![]),
                    2 => (from("://", &[("local.followpaths", "[")]), vec![]),
                    _ => (
                        Kind::File(pb::FileOp { actions: vec![action.clone(), action] }),
                        (0..before.min(at)).collect(),
                    ),
                });
            }
            let mut whole = if made.is_empty() { pb::Definition::default() } else { definition(made) };
            for definition in [whole.clone(), { whole.def.extend(raw); whole }] {
                let Ok(steps) = steps(&definition) else { continue };
                for (n, step) in steps.iter().enumerate() {
                    assert!(step.inputs.iter().all(|input| input.0 < n), "{steps:?}");
                    let Op::Copy(copy) = &step.op else { continue };
                    let from = copy.steps.iter().map(|s| match &s.from {
                        CopySource::Tree { from, .. } => *from,
                        CopySource::Inline { .. } => None,
                    });
                    let slots = from.chain([copy.base]).flatten();
                    assert!(slots.into_iter().all(|slot| slot.0 < step.inputs.len()), "{steps:?}");
                }
            }
        }
    }
}
