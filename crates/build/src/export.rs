//! What becomes of a build: an image in the store, an archive or a tree at the client.

mod attributes;
mod folder;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use base64::Engine as _;
use bollard_buildkit_proto::moby::buildkit::v1 as proto;
use serde_json::{Map, Value, json};

use self::attributes::{Annotations, wrong};
use crate::Error;
use crate::attest::{self, About};
use crate::builder::Builder;
use crate::control::status;
use crate::dockerfile::text::parse_bool;
use crate::jobs::{Job, Returned, Solved};
use crate::platform::Platform;
use crate::progress::Step;
use crate::remote;
use crate::rpc::{Code, Status};
use crate::sbom::{self, Said, Sbom};
use crate::session::send;
use crate::worker::{Attest, Attested, Compression, ImageWork, MadeImage, Packing, Statement, View, Worker};

/// Metadata of the client's that says which of several exporters files are for.
const EXPORTER_ID: &str = "buildkit-attachable-exporter-id";

/// What dockerd's progress calls an image that nobody named.
const NAMELESS: &str = "moby-dangling";

/// File of a tree that says how it was made.
const PROVENANCE: &str = "provenance.json";

/// What is made of a build.
enum Exporter {
    /// An image in the store.
    Image,
    /// An archive at the client: as Docker's, or an OCI layout.
    Archive,
    /// The tree, at the client.
    Local,
    /// The tree as an archive, at the client.
    Tar,
}

fn exporter(name: &str) -> Result<Option<Exporter>, Status> {
    Ok(Some(match name {
        "" | "cacheonly" => return Ok(None),
        "moby" | "image" => Exporter::Image,
        "docker" | "oci" => Exporter::Archive,
        "local" => Exporter::Local,
        "tar" => Exporter::Tar,
        other => {
            return Err(wrong(format!("exporter {other:?} could not be found")));
        }
    }))
}

fn flag(attrs: &HashMap<String, String>, name: &str) -> bool {
    attrs.get(name).is_some_and(|v| v.is_empty() || parse_bool(v) == Some(true))
}

/// The exporters of a request; older clients name one, in fields of its own.
fn exporters(request: &proto::SolveRequest) -> Vec<proto::Exporter> {
    if request.exporters.is_empty() && !request.exporter_deprecated.is_empty() {
        return vec![proto::Exporter {
            r#type: request.exporter_deprecated.clone(),
            attrs: request.exporter_attrs_deprecated.clone(),
        }];
    }
    request.exporters.clone()
}

/// Refuses what cannot be made before anything is done.
///
/// # Errors
/// What is asked for that is not there.
pub fn check<W: Worker>(worker: &W, request: &proto::SolveRequest) -> Result<(), Status> {
    for wanted in exporters(request) {
        if matches!(exporter(&wanted.r#type)?, Some(Exporter::Image | Exporter::Archive)) {
            names(worker, &wanted.attrs)?;
        }
        attributes::check(&wanted.attrs)?;
        packing(&wanted.attrs)?;
        own_epoch(&wanted.attrs)?;
    }
    attest::wanted(request)?;
    let sbom = Sbom::wanted(&request.frontend_attrs);
    sbom.map_err(wrong)?;
    for wanted in caches(request) {
        remote::check(wanted)?;
    }
    Ok(())
}

/// How layers are to be compressed: `compression`, `compression-level`, `force-compression`.
pub(crate) fn packing(attrs: &HashMap<String, String>) -> Result<Packing, Status> {
    let compression = match attrs.get("compression").map(String::as_str) {
        None | Some("gzip") => Compression::Gzip,
        Some("zstd") => Compression::Zstd,
        Some("uncompressed") => Compression::Uncompressed,
        Some(known @ "estargz") => {
            let words =
                format!("layers with compression={known} are not there: gzip, zstd and uncompressed are");
            return Err(wrong(words));
        }
        Some(other) => return Err(wrong(format!("unsupported compression type {other}"))),
    };
    let level = attrs.get("compression-level").map(|text| {
        let why = |_| {
            let why = format!("strconv.ParseInt: parsing {text:?}: invalid syntax");
            wrong(format!("non-integer value {text} specified for compression-level: {why}"))
        };
        text.parse::<i64>().map_err(why)
    });
    // A level below none is the compression's own, as with BuildKit.
    let level = level.transpose()?.and_then(|l| u32::try_from(l).ok());
    Ok(Packing { compression, level, force: flag(attrs, "force-compression"), youngest: None })
}

/// The exporter's own `source-date-epoch`, which goes before the build's: `Some(None)` is none at all.
fn own_epoch(attrs: &HashMap<String, String>) -> Result<Option<Option<i64>>, Status> {
    let read = |text: &String| match text.as_str() {
        "" => Ok(None),
        text => text.parse::<i64>().map(Some).map_err(|_| {
            let why = format!("strconv.ParseInt: parsing {text:?}: invalid syntax");
            wrong(format!("invalid source-date-epoch: {why}"))
        }),
    };
    attrs.get("source-date-epoch").map(read).transpose()
}

/// Names of an image, in full.
fn names<W: Worker>(worker: &W, attrs: &HashMap<String, String>) -> Result<Vec<String>, Status> {
    let names = attrs.get("name").map_or("", String::as_str);
    let names = names.split(',').map(str::trim).filter(|n| !n.is_empty());
    names.map(|n| worker.full_name(n).map_err(status)).collect()
}

/// Caches that are to be written.
fn caches(request: &proto::SolveRequest) -> impl Iterator<Item = &remote::Options> {
    request.cache.iter().flat_map(|c| &c.exports)
}

/// Makes all that is asked for; gives what the client is told of it.
///
/// # Errors
/// The first exporter's that failed.
pub async fn all<W: Worker>(
    builder: &Arc<Builder<W>>,
    job: &Arc<Job<W>>,
    request: &proto::SolveRequest,
    returned: &Returned,
    begun: SystemTime,
) -> Result<HashMap<String, String>, Status> {
    let mut response = HashMap::new();
    if returned.solved.is_empty() {
        // An answer to a question goes to the client as it is.
        for (key, value) in &returned.metadata {
            if key.starts_with("result.") || key == "version" {
                response.insert(key.clone(), String::from_utf8_lossy(value).into_owned());
            }
        }
        return Ok(response);
    }
    let inline = caches(request).any(|c| c.r#type == "inline");
    let inline = if inline { inside(job, request, returned).await? } else { Vec::new() };
    for (n, wanted) in exporters(request).iter().enumerate() {
        let Some(kind) = exporter(&wanted.r#type)? else { continue };
        // What nobody asked for by name makes no list of a layout's only image either, as with BuildKit.
        let list = returned.multi_platform || returned.solved.len() > 1;
        let beside = match wanted.r#type.as_str() {
            "docker" | "local" | "tar" => true,
            "oci" => !list,
            _ => false,
        };
        let by_name = |a: &attest::Wanted| !beside || !a.inline_only;
        let attest = attest::wanted(request)?.filter(by_name).map(|a| provenance(job, request, a, begun));
        // As with BuildKit: an image has Docker's media types, a layout OCI's, unless something else is asked for.
        let is_oci = match wanted.attrs.get("oci-mediatypes") {
            Some(value) => parse_bool(value) != Some(false),
            None => wanted.r#type == "oci",
        };
        let one =
            One { builder, job, attrs: &wanted.attrs, returned, number: n, inline: &inline, attest, is_oci };
        match kind {
            Exporter::Image => one.image(&mut response).await?,
            Exporter::Archive => one.archive(&wanted.r#type, &mut response).await?,
            Exporter::Local => one.local().await?,
            Exporter::Tar => one.tar().await?,
        }
    }
    for wanted in caches(request).filter(|c| c.r#type != "inline") {
        match remote::export(&job.solver, returned, wanted).await {
            Ok(told) => response.extend(told),
            Err(e) if remote::may_fail(wanted) => tracing::info!("exporting a cache: {e}"),
            Err(e) => return Err(e),
        }
    }
    Ok(response)
}

/// What images hold of the cache inside, one for each result.
async fn inside<W: Worker>(
    job: &Arc<Job<W>>,
    request: &proto::SolveRequest,
    returned: &Returned,
) -> Result<Vec<String>, Status> {
    // Layers are packed for the image before it is made: as it wants them.
    let image =
        exporters(request).into_iter().find(|e| matches!(exporter(&e.r#type), Ok(Some(Exporter::Image))));
    let packing = image.map_or(Ok(Packing::default()), |image| packing(&image.attrs))?;
    remote::for_images(&job.solver, returned, packing).await.map_err(status)
}

/// Makes the image of a build in the store.
///
/// # Errors
/// Faults of the store, names that are none.
pub(crate) async fn image<W: Worker>(
    builder: &Arc<Builder<W>>,
    job: &Arc<Job<W>>,
    returned: &Returned,
    names: &[String],
) -> Result<MadeImage, Status> {
    let attrs = HashMap::new();
    let one =
        One { builder, job, attrs: &attrs, returned, number: 0, inline: &[], attest: None, is_oci: true };
    let mut step = job.progress.begin("exporting to image");
    let made = one.make(&step, names).await;
    step.complete(made.as_ref().err().map(|e| e.message.as_str()));
    made
}

struct One<'a, W: Worker> {
    builder: &'a Arc<Builder<W>>,
    job: &'a Arc<Job<W>>,
    attrs: &'a HashMap<String, String>,
    returned: &'a Returned,
    number: usize,
    /// Caches to be put into the images.
    inline: &'a [String],
    /// Says how an image was made: by its digest, its names and its platform.
    attest: Option<Provenance>,
    /// Documents are OCI's whatever is beside them.
    is_oci: bool,
}

/// How results were made, for the history: each by its platform where there are several.
///
/// # Errors
/// Options that mean nothing.
pub(crate) fn said<W: Worker>(
    job: &Arc<Job<W>>,
    request: &proto::SolveRequest,
    returned: &Returned,
    begun: SystemTime,
) -> Result<Vec<(String, Statement)>, Status> {
    let wanted = attest::wanted(request)?.unwrap_or_default();
    let provenance = provenance(job, request, wanted, begun);
    let several = returned.multi_platform || returned.solved.len() > 1;
    let one = |solved: &Solved| {
        let platform = if several { platform_of(solved) } else { String::new() };
        (platform, provenance(&About::Files(&[])))
    };
    Ok(returned.solved.iter().map(one).collect())
}

type Provenance = Arc<dyn Fn(&About<'_>) -> Statement + Send + Sync>;

fn provenance<W: Worker>(
    job: &Arc<Job<W>>,
    request: &proto::SolveRequest,
    wanted: attest::Wanted,
    begun: SystemTime,
) -> Provenance {
    let (job, request) = (job.clone(), request.clone());
    Arc::new(move |about| {
        let solver = &job.solver;
        let materials = solver.materials.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        let remote = request.frontend_attrs.get("context").is_some_and(|c| !c.is_empty());
        let build = attest::Build {
            wanted: &wanted,
            request: &request,
            begun,
            materials,
            local: !remote,
            graph: job.graph(),
            builder: Platform::host(),
        };
        build.statement(about)
    })
}

/// Now, or this many seconds after 1970, as Go writes it.
fn rfc3339(epoch: Option<i64>) -> String {
    let time = match epoch {
        Some(seconds) => chrono::DateTime::from_timestamp(seconds, 0).unwrap_or_default(),
        None => chrono::Utc::now(),
    };
    let text = time.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true);
    // Go leaves out zeros at the end of a fraction.
    match text.strip_suffix('Z').and_then(|t| t.split_once('.')) {
        Some((whole, fraction)) => format!("{whole}.{}Z", fraction.trim_end_matches('0')),
        None => text,
    }
}

/// The configuration document of what was made. Entries of the history get the times of their layers, so that the same
/// steps give the same image however often they are exported.
///
/// `epoch`: what the image's own times are; `None`: what they were.
fn config(
    solved: &Solved,
    made: &HashMap<i64, i64>,
    epoch: Option<i64>,
) -> Result<(Map<String, Value>, Platform), Error> {
    let Some(target) = &solved.target else {
        return Err(Error::invalid("what was made has no configuration"));
    };
    let mut image = target.image.clone();
    // What was given the build's own time gets the exporter's.
    let text = |epoch: Option<i64>| epoch.map(|e| rfc3339(Some(e)));
    let given = text(target.epoch);
    for entry in image.history.iter_mut().filter(|h| h.created.is_none() || h.created == given) {
        entry.created = text(epoch);
    }
    let own = image.history.iter().filter(|h| h.created.is_none() && !h.empty_layer).count();
    let built: Vec<i64> = solved.tree.built().collect();
    let mut layers = built.iter().skip(built.len().saturating_sub(own));
    for entry in image.history.iter_mut().filter(|h| h.created.is_none() && !h.empty_layer) {
        entry.created = Some(rfc3339(layers.next().and_then(|l| made.get(l)).copied()));
    }
    // An entry without a layer is as old as the one before it; at the beginning as the first that has a time.
    let first = image.history.iter().find_map(|h| h.created.clone());
    let mut before = first.unwrap_or_else(|| rfc3339(epoch));
    for entry in &mut image.history {
        before = entry.created.get_or_insert_with(|| before.clone()).clone();
    }
    image.created = Some(match epoch {
        Some(_) => rfc3339(epoch),
        None => before,
    });
    let document = serde_json::to_value(&image).map_err(|e| Error::invalid(e.to_string()))?;
    let Value::Object(mut document) = document else {
        return Err(Error::invalid("a configuration that is no object"));
    };
    document.remove("rootfs");
    Ok((document, target.platform.clone()))
}

impl<W: Worker> One<'_, W> {
    fn names(&self) -> Result<Vec<String>, Status> {
        names(&self.builder.worker, self.attrs)
    }

    async fn make(&self, step: &Step, names: &[String]) -> Result<MadeImage, Status> {
        let annotations = Annotations::read(self.attrs)?;
        let mut packing = packing(self.attrs)?;
        let own_epoch = own_epoch(self.attrs)?;
        let mut images = Vec::new();
        for (n, solved) in self.returned.solved.iter().enumerate() {
            let made = self.builder.cache.created().map_err(status)?;
            let of_build = solved.target.as_ref().and_then(|t| t.epoch);
            let epoch = own_epoch.unwrap_or(of_build);
            // Without a time there is nothing to rewrite to, as with BuildKit.
            packing.youngest = epoch.filter(|_| flag(self.attrs, "rewrite-timestamp"));
            let (mut config, platform) = config(solved, &made, epoch).map_err(status)?;
            if let Some(cache) = self.inline.get(n) {
                config.insert(remote::format::INLINE.into(), json!(cache));
            }
            let attest = self.attestation(solved, names, &platform).await.map_err(status)?;
            let [of_manifest, of_descriptor] = annotations.of(&platform);
            images.push(ImageWork {
                tree: solved.tree.clone(),
                config,
                platform,
                names: names.to_vec(),
                annotations: of_manifest,
                descriptor_annotations: of_descriptor,
                // Statements beside an image are OCI's alone, and so is what stands beside them.
                docker_types: !self.is_oci && !annotations.want_oci() && attest.is_none(),
                packing,
                attest,
            });
        }
        let list = self.returned.multi_platform || images.len() > 1;
        let platforms: Vec<Platform> = images.iter().map(|i| i.platform.clone()).collect();
        annotations.fit(&platforms, list || images.iter().any(|i| i.attest.is_some()))?;
        let part = step.part("exporting layers");
        let mut made =
            self.builder.worker.make_image(images, list, annotations.index).await.map_err(status)?;
        made.annotations = annotations.index_descriptor;
        part.done(0);
        if !self.inline.is_empty() {
            step.part("preparing layers for inline cache").done(0);
        }
        for of in &made.manifests {
            step.part(&format!("exporting manifest {}", of.manifest)).done(0);
            step.part(&format!("exporting config {}", of.config)).done(0);
            if let Some(attestation) = &of.attestation {
                step.part(&format!("exporting attestation manifest {attestation}")).done(0);
            }
        }
        if made.list {
            step.part(&format!("exporting manifest list {}", made.digest)).done(0);
        }
        Ok(made)
    }

    /// What is said of an image.
    async fn attestation(
        &self,
        solved: &Solved,
        names: &[String],
        platform: &Platform,
    ) -> Result<Option<Attest>, Error> {
        let (said, provenance) = (self.said(solved).await?, self.attest.clone());
        if said.is_none() && provenance.is_none() {
            return Ok(None);
        }
        let of_files = said.as_ref().is_some_and(|said| !said.is_empty());
        let (names, platform) = (names.to_vec(), platform.clone());
        let say = move |image: &Attested<'_>| {
            let about = About::Image { digest: image.digest, names: &names, platform: &platform };
            let said = said.iter().flatten().map(|said| said.of_image(&about, image.layer_of));
            said.chain(provenance.iter().map(|attest| attest(&about))).collect()
        };
        Ok(Some(Attest { of_files, say: Arc::new(say) }))
    }

    /// What a scanner said of a result, where one was asked.
    async fn said(&self, solved: &Solved) -> Result<Option<Vec<Said>>, Error> {
        let Some(tree) = &solved.sbom else { return Ok(None) };
        let read = |view: View| {
            let root = view.read.first().ok_or_else(|| Error::invalid("nothing to read"))?;
            sbom::read(root)
        };
        self.builder.worker.view(None, vec![tree.clone()], read).await.map(Some)
    }

    async fn image(&self, response: &mut HashMap<String, String>) -> Result<(), Status> {
        let mut step = self.job.progress.begin("exporting to image");
        let done = self.image_in(&step, response).await;
        step.complete(done.as_ref().err().map(|e| e.message.as_str()));
        done
    }

    async fn image_in(&self, step: &Step, response: &mut HashMap<String, String>) -> Result<(), Status> {
        let names = self.names()?;
        let made = self.make(step, &names).await?;
        for name in &names {
            step.part(&format!("naming to {name}")).done(0);
            // A layer is made as a folder: there is nothing left to do.
            step.part(&format!("unpacking to {name}")).done(0);
        }
        if names.is_empty() {
            let name = format!("{NAMELESS}@{}", made.digest);
            step.part(&format!("naming to {name}")).done(0);
            step.part(&format!("unpacking to {name}")).done(0);
        }
        if flag(self.attrs, "push") {
            let asker = self.job.solver.context.asker();
            for name in &names {
                let part = step.part("pushing layers");
                self.builder.worker.push_image(name, &asker).await.map_err(status)?;
                part.done(0);
                step.part(&format!("pushing manifest for {name}@{}", made.digest)).done(0);
            }
        }
        if !names.is_empty() {
            response.insert("image.name".into(), names.join(","));
        }
        describe(&made, response);
        Ok(())
    }

    fn session(&self) -> Result<&Arc<crate::session::Session>, Status> {
        let none = || Status::new(Code::FailedPrecondition, "the build has no session to send files to");
        self.job.solver.context.session.as_ref().ok_or_else(none)
    }

    fn metadata(&self, response: &HashMap<String, String>) -> Vec<(String, String)> {
        let told = response.iter().map(|(k, v)| (format!("exporter-md-{k}"), v.clone()));
        told.chain([(EXPORTER_ID.to_owned(), self.number.to_string())]).collect()
    }

    async fn archive(&self, kind: &str, response: &mut HashMap<String, String>) -> Result<(), Status> {
        let what = if kind == "docker" { "docker image" } else { "oci image" };
        let mut step = self.job.progress.begin(&format!("exporting to {what} format"));
        let done = async {
            let names = self.names()?;
            // The image is an archive's only: it has no name here, and goes when nothing holds it.
            let made = self.make(&step, &[]).await?;
            if !names.is_empty() {
                response.insert("image.name".into(), names.join(","));
            }
            describe(&made, response);
            if self.attrs.get("tar").is_some_and(|v| parse_bool(v) == Some(false)) {
                folder::send(self.builder, self.session()?, &made).await?;
                return Ok(());
            }
            let part = step.part("sending tarball");
            let (out, sent) = send::bytes(self.session()?, &self.metadata(response));
            let save =
                async { self.builder.worker.save_image(&made, names, Box::new(out)).await.map_err(status) };
            let (saved, sent) = tokio::join!(save, sent);
            saved.and(sent)?;
            part.done(0);
            Ok(())
        }
        .await;
        step.complete(done.as_ref().err().map(|e: &Status| e.message.as_str()));
        done
    }

    /// What was made, as files: each platform in a folder of its own where there are several, or where it is said.
    /// `whole`: for an archive.
    async fn parts(&self, whole: bool) -> Result<Vec<send::Part>, Status> {
        let own_epoch = own_epoch(self.attrs)?;
        let several = self.returned.multi_platform && self.returned.solved.len() > 1;
        // Archives have a folder for each platform whatever is said.
        let split = if whole { several } else { attributes::split(self.attrs)?.unwrap_or(several) };
        let said_together = several && attributes::split(self.attrs)? == Some(false);
        let mut parts = Vec::new();
        for solved in &self.returned.solved {
            let folder = platform_of(solved).replace('/', "_");
            let (said, provenance) = (self.said(solved).await.map_err(status)?, self.attest.clone());
            let prefix = self.attrs.get("attestation-prefix").cloned().unwrap_or_default();
            // Of files that come together each says of which platform it speaks.
            let infix = said_together.then(|| folder.clone());
            let say = move |files: &[(String, String)]| {
                let about = About::Files(files);
                let scanned = said.iter().flatten().map(|s| (s.file.as_str(), s.statement(&about)));
                let made = provenance.iter().map(|attest| (PROVENANCE, attest(&about)));
                let named = |name: &str| match (&infix, name.rsplit_once('.')) {
                    (Some(infix), Some((stem, end))) => format!("{prefix}{stem}.{infix}.{end}"),
                    _ => format!("{prefix}{name}"),
                };
                scanned.chain(made).map(|(name, s)| (named(name), s.data)).collect()
            };
            let statements = solved.sbom.is_some() || self.attest.is_some();
            parts.push(send::Part {
                folder: split.then_some(folder),
                tree: solved.tree.clone(),
                time: own_epoch.unwrap_or_else(|| solved.target.as_ref().and_then(|t| t.epoch)),
                statements: statements.then(|| -> send::Say { Box::new(say) }),
            });
        }
        Ok(parts)
    }

    async fn local(&self) -> Result<(), Status> {
        let mut step = self.job.progress.begin("exporting to client directory");
        let done = async {
            let part = step.part("copying files");
            let metadata = self.metadata(&HashMap::new());
            let parts = self.parts(false).await?;
            let mut sent = 0;
            if parts.iter().all(|part| part.folder.is_some()) {
                sent += send::trees(self.builder, self.session()?, &metadata, parts).await?;
            } else {
                // One after the other into the same folder, where none may stand in another's place.
                let trees = self.returned.solved.iter().map(|s| (platform_of(s), s.tree.clone())).collect();
                send::check_apart(self.builder, trees).await.map_err(status)?;
                for part in parts {
                    sent += send::trees(self.builder, self.session()?, &metadata, vec![part]).await?;
                }
            }
            part.done(sent);
            Ok(())
        }
        .await;
        step.complete(done.as_ref().err().map(|e: &Status| e.message.as_str()));
        done
    }

    async fn tar(&self) -> Result<(), Status> {
        let mut step = self.job.progress.begin("exporting to client tarball");
        let done = async {
            let part = step.part("sending tarball");
            let metadata = self.metadata(&HashMap::new());
            send::archive(self.builder, self.session()?, &metadata, self.parts(true).await?).await?;
            part.done(0);
            Ok(())
        }
        .await;
        step.complete(done.as_ref().err().map(|e: &Status| e.message.as_str()));
        done
    }
}

/// The platform of a result, in words.
fn platform_of(solved: &Solved) -> String {
    solved.target.as_ref().map(|t| t.platform.to_string()).unwrap_or_default()
}

/// What clients are told of an image.
fn describe(made: &MadeImage, response: &mut HashMap<String, String>) {
    response.insert("containerimage.digest".into(), made.digest.clone());
    response.insert("containerimage.config.digest".into(), made.config.clone());
    let mut descriptor = json!({ "mediaType": made.media_type, "digest": made.digest, "size": made.size });
    if !made.annotations.is_empty() {
        descriptor["annotations"] = json!(made.annotations);
    }
    let descriptor = base64::engine::general_purpose::STANDARD.encode(descriptor.to_string());
    response.insert("containerimage.descriptor".into(), descriptor);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(attrs: &[(&str, &str)]) -> Result<Packing, i32> {
        let attrs = attrs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        packing(&attrs).map_err(|e| e.code)
    }

    #[test]
    fn layers_are_packed_as_it_is_said() {
        assert_eq!(read(&[]).unwrap(), Packing::default());
        let zstd =
            read(&[("compression", "zstd"), ("compression-level", "19"), ("force-compression", "true")]);
        assert_eq!(
            zstd.unwrap(),
            Packing { compression: Compression::Zstd, level: Some(19), force: true, youngest: None }
        );
        assert_eq!(read(&[("compression-level", "-1")]).unwrap().level, None);
        // Of any other kind clients put its name before the words.
        for wrong in [("compression", "estargz"), ("compression", "rar"), ("compression-level", "high")] {
            assert_eq!(read(&[wrong]), Err(Code::Unknown as i32));
        }
    }
}
