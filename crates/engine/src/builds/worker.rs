//! The engine, as the executor sees it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use build::Error;
use build::files::Root;
use build::frontend::{ImageRequest, ResolvedImage};
use build::graph::ResolveMode;
use build::platform::Platform;
use build::worker::{
    Artifact, Asker, Blob, Compression, Ended, Far, Fetched, ImageWork, Layer, LayerUse, MadeImage,
    MadeManifest, Packed, Packing, Run, Tree, View, WebAnswer, WebRequest, Worker,
};
use image::{BuiltImage, NewBuilt, NewBuiltImage, Part, Stack};

use crate::engine::Engine;
use crate::error::Error as EngineError;
use crate::rootfs::{self, Layers};

/// Docker Hub's registry, as clients know their credentials for it.
pub const HUB: &str = "registry-1.docker.io";

/// This engine.
pub struct EngineWorker {
    /// The engine has the builder that has this.
    engine: Weak<Engine>,
    id: String,
}

/// A layer that is being written. Whoever still writes to it holds it too.
pub struct Draft {
    pub(super) new: Arc<NewBuilt>,
    pub(super) stack: Arc<Stack>,
}

fn of_image(e: image::Error) -> Error {
    EngineError::from(e).into()
}

/// The same in the words that builds have for what a registry says.
fn of_registry(e: image::Error) -> Error {
    match e {
        image::Error::ManifestUnknown(name) => {
            Error::invalid(format!("{name}: not found")).with_kind(build::error::Kind::NotFound)
        }
        other => of_image(other),
    }
}

fn digest_of(reference: &str) -> Result<image::Digest, Error> {
    let none = || Error::invalid(format!("{reference}: an image without a digest"));
    reference.rsplit_once('@').ok_or_else(none)?.1.parse().map_err(of_image)
}

fn platform(platform: &Platform) -> image::Platform {
    let variant = (!platform.variant.is_empty()).then(|| format!("/{}", platform.variant));
    let text = format!("{}/{}{}", platform.os, platform.architecture, variant.unwrap_or_default());
    text.parse().unwrap_or_else(|_| image::Platform::host())
}

/// Whether an image's configuration is for a platform.
fn is_for(config: &[u8], platform: &Platform) -> bool {
    // What cannot be read is told of where it is used.
    build::config::Image::read(config).map_or(true, |image| {
        let of = image.platform();
        of.architecture == platform.architecture || of.architecture.is_empty()
    })
}

/// Platforms whose programs the kernel hands to an emulator (`binfmt_misc`).
fn emulated() -> Vec<Platform> {
    const NAMES: [(&str, &str, &str); 9] = [
        ("qemu-aarch64", "arm64", ""),
        ("rosetta", "amd64", ""),
        ("qemu-x86_64", "amd64", ""),
        ("qemu-arm", "arm", "v7"),
        ("qemu-i386", "386", ""),
        ("qemu-ppc64le", "ppc64le", ""),
        ("qemu-riscv64", "riscv64", ""),
        ("qemu-s390x", "s390x", ""),
        ("qemu-loongarch64", "loong64", ""),
    ];
    let enabled = |name: &str| {
        let path = std::path::Path::new("/proc/sys/fs/binfmt_misc").join(name);
        std::fs::read_to_string(path).is_ok_and(|text| text.starts_with("enabled"))
    };
    let there = NAMES.into_iter().filter(|(name, ..)| enabled(name));
    there.map(|(_, architecture, variant)| Platform::normal("linux", architecture, variant)).collect()
}

impl EngineWorker {
    pub(super) fn new(engine: &Arc<Engine>) -> Self {
        Self { engine: Arc::downgrade(engine), id: engine.id.clone() }
    }

    pub(super) fn engine(&self) -> Result<Arc<Engine>, Error> {
        self.engine.upgrade().ok_or_else(|| Error::invalid("the engine is going down"))
    }

    async fn auth(reference: &image::Reference, asker: &Asker) -> Option<image::Credentials> {
        let host = if reference.domain() == "docker.io" { HUB } else { reference.domain() };
        let (user, password) = asker.credentials(host).await?;
        Some(if user.is_empty() {
            image::Credentials::IdentityToken(password)
        } else {
            image::Credentials::Basic { user, password }
        })
    }

    /// A reference, and how it is asked for: without its digest it is named.
    async fn asked(
        reference: &str,
        wanted: &Platform,
        asker: &Asker,
    ) -> Result<(image::Reference, image::PullOptions), Error> {
        let reference: image::Reference = reference.parse().map_err(of_image)?;
        let name = reference.tag().map(|tag| reference.with_tag(tag)).transpose().map_err(of_image)?;
        let auth = Self::auth(&reference, asker).await;
        Ok((reference, image::PullOptions { platform: Some(platform(wanted)), auth, name }))
    }

    /// Parts of a stack, each image by the manifest of its platform.
    async fn parts(&self, tree: &Tree) -> Result<Vec<Part>, Error> {
        let engine = self.engine()?;
        let mut parts = Vec::new();
        for layer in &tree.0 {
            parts.push(match layer {
                Layer::Built(id) => Part::Built(*id),
                Layer::Image { reference, platform: wanted } => {
                    let digest = digest_of(reference)?;
                    let found = engine.images.document(&digest, &platform(wanted)).await;
                    Part::Image(found.map_err(of_image)?.0)
                }
                Layer::Folder(folder) => {
                    return Err(Error::invalid(format!("{} is no layer", folder.display())));
                }
            });
        }
        Ok(parts)
    }

    pub(super) async fn stack(&self, tree: &Tree) -> Result<Stack, Error> {
        let parts = self.parts(tree).await?;
        self.engine()?.images.stack(&parts).await.map_err(of_image)
    }

    /// The folders of a tree that is only read, and what keeps them.
    pub(super) async fn layers(&self, tree: &Tree) -> Result<(Vec<PathBuf>, Option<Stack>), Error> {
        if let [Layer::Folder(folder)] = tree.0.as_slice() {
            return Ok((vec![folder.clone()], None));
        }
        let stack = self.stack(tree).await?;
        Ok((stack.lower.clone(), Some(stack)))
    }

    pub(super) fn scratch(&self) -> Result<PathBuf, Error> {
        Ok(self.engine()?.paths.exec_root.join("rootfs"))
    }
}

/// In the store's words.
fn packing(wanted: Packing) -> image::Packing {
    let compression = match wanted.compression {
        Compression::Uncompressed => image::Compression::None,
        Compression::Gzip => image::Compression::Gzip,
        Compression::Zstd => image::Compression::Zstd,
    };
    image::Packing { compression, level: wanted.level, anew: wanted.force, youngest: wanted.youngest }
}

impl Worker for EngineWorker {
    type Draft = Draft;

    fn id(&self) -> String {
        self.id.clone()
    }

    fn labels(&self) -> BTreeMap<String, String> {
        let Ok(engine) = self.engine() else { return BTreeMap::new() };
        let addresses: Vec<String> =
            engine.networks.host_gateway_of_steps().iter().map(ToString::to_string).collect();
        let label = "org.mobyproject.buildkit.worker.moby.host-gateway-ip";
        if addresses.is_empty() {
            return BTreeMap::new();
        }
        BTreeMap::from([(label.to_owned(), addresses.join(","))])
    }

    fn full_name(&self, name: &str) -> Result<String, Error> {
        Ok(name.parse::<image::Reference>().map_err(of_image)?.to_string())
    }

    fn platforms(&self) -> Vec<Platform> {
        let host = Platform::host();
        let mut all = vec![host.clone()];
        // The processor runs these too.
        all.extend((host.architecture == "amd64").then(|| Platform::normal("linux", "386", "")));
        all.extend(emulated().into_iter().filter(|p| *p != host));
        all
    }

    async fn find_image(&self, request: &ImageRequest, asker: &Asker) -> Result<ResolvedImage, Error> {
        let engine = self.engine()?;
        let wanted = platform(&request.platform);
        let local = match request.mode {
            ResolveMode::Pull => None,
            ResolveMode::Default | ResolveMode::Local => {
                let id = match engine.images.get(&request.reference).await {
                    Ok(image) => Some(image.id),
                    // By digest it may be here under another name.
                    Err(_) => digest_of(&request.reference).ok(),
                };
                match id {
                    Some(id) => engine.images.document(&id, &wanted).await.ok().map(|(_, c)| (id, c)),
                    None => None,
                }
            }
        };
        let (id, config) = match local {
            Some(found) if is_for(&found.1, &request.platform) => found,
            // Of another platform: the registry may have what fits.
            Some(found) if request.mode == ResolveMode::Local && request.oci_layout.is_some() => found,
            other => {
                let (reference, options) = Self::asked(&request.reference, &request.platform, asker).await?;
                match (engine.images.look_up(&reference, options).await, other) {
                    (Ok(found), _) | (Err(_), Some(found)) => found,
                    (Err(e), None) => return Err(of_registry(e)),
                }
            }
        };
        Ok(ResolvedImage { digest: Some(id.to_string()), config })
    }

    async fn fetch_image(
        &self,
        reference: &str,
        wanted: &Platform,
        _: ResolveMode,
        asker: &Asker,
        fetched: Fetched,
    ) -> Result<(), Error> {
        let digest = digest_of(reference)?;
        if self.engine()?.images.document(&digest, &platform(wanted)).await.is_ok() {
            return Ok(());
        }
        let (reference, options) = Self::asked(reference, wanted, asker).await?;
        let resolving = format!("resolve {reference}");
        fetched(&resolving, Far::At(0, 0));
        let resolved = AtomicBool::new(false);
        let sink: image::ProgressSink = Arc::new(move |p: image::Progress| {
            // The first word comes when the registry has said what the image is.
            if !resolved.swap(true, Ordering::Relaxed) {
                fetched(&resolving, Far::Done);
            }
            let Some(layer) = p.layer else { return };
            let (blob, files) = (layer.to_string(), format!("extracting {layer}"));
            match p.status.as_str() {
                "Downloading" => fetched(&blob, Far::At(p.current, p.total)),
                "Download complete" => {
                    fetched(&blob, Far::Done);
                    fetched(&files, Far::At(0, 0));
                }
                "Pull complete" => fetched(&files, Far::Done),
                _ => {}
            }
        });
        self.engine()?.images.pull(&reference, options, sink).await.map_err(of_registry).map(drop)
    }

    async fn draft(&self, base: &Tree) -> Result<Draft, Error> {
        let stack = self.stack(base).await?;
        let new = self.engine()?.images.new_built(&stack).await.map_err(of_image)?;
        Ok(Draft { new: Arc::new(new), stack: Arc::new(stack) })
    }

    async fn keep(&self, draft: Draft) -> Result<(i64, LayerUse), Error> {
        let new = Arc::try_unwrap(draft.new);
        let new = new.map_err(|_| Error::invalid("a layer that is still written to"))?;
        let engine = self.engine()?;
        let (id, bytes) = engine.images.keep_built(new).await.map_err(of_image)?;
        Ok((id, LayerUse { bytes, shared: false }))
    }

    async fn forget(&self, layers: Vec<i64>) -> Result<u64, Error> {
        self.engine()?.images.forget_built(layers).await.map_err(of_image)
    }

    async fn layers(&self) -> Result<BTreeMap<i64, LayerUse>, Error> {
        let all = self.engine()?.images.built().await.map_err(of_image)?;
        Ok(all.into_iter().map(|(id, (bytes, shared))| (id, LayerUse { bytes, shared })).collect())
    }

    async fn view<T: Send + 'static>(
        &self,
        write: Option<(&Tree, &Draft)>,
        read: Vec<Tree>,
        work: impl FnOnce(View) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let mut trees = Vec::new();
        let mut kept: Vec<Stack> = Vec::new();
        let mut writer = None;
        if let Some((_, draft)) = write {
            let rootfs = draft.new.rootfs(&draft.stack, false);
            trees.push(Layers { lower: rootfs.lower, upper: Some((rootfs.upper, rootfs.work)) });
            writer = Some(draft.new.clone());
        }
        for tree in &read {
            let (lower, stack) = self.layers(tree).await?;
            kept.extend(stack);
            trees.push(Layers { lower, upper: None });
        }
        let writes = writer.is_some();
        let done = rootfs::trees(trees, self.scratch()?, move |places| {
            let opened = places.iter().map(|p| Root::open(p)).collect::<std::io::Result<Vec<_>>>();
            let mut read = opened.map_err(EngineError::from)?;
            let write = writes.then(|| read.remove(0));
            let done = work(View { write, read });
            drop((writer, kept));
            // The work's own error is not the engine's.
            Ok(done)
        });
        done.await.map_err(Error::from)?
    }

    async fn run(&self, run: Run<'_>, draft: &Draft) -> Result<Ended, Error> {
        super::run::run(self, run, draft).await
    }

    fn decompress(
        &self,
        input: Box<dyn std::io::BufRead + Send>,
    ) -> std::io::Result<Box<dyn std::io::Read + Send>> {
        image::decompress(input)
    }

    async fn open_url(&self, url: &str) -> Result<Pin<Box<dyn tokio::io::AsyncRead + Send>>, Error> {
        let (status, _, body) = self.engine()?.images.ask_url(url, &[], None).await.map_err(of_image)?;
        if !(200..300).contains(&status) {
            return Err(Error::invalid(format!("invalid response status {status}")));
        }
        Ok(Box::pin(body))
    }

    async fn web(&self, request: WebRequest) -> Result<WebAnswer, Error> {
        let images = &self.engine()?.images;
        let asked = images.ask_url(&request.url, &request.headers, request.body).await;
        let (status, url, body) = asked.map_err(of_image)?;
        Ok(WebAnswer { status, url, body: Box::pin(body) })
    }

    async fn load_archive(&self, input: Pin<Box<dyn tokio::io::AsyncRead + Send>>) -> Result<(), Error> {
        let quiet: image::ProgressSink = Arc::new(|_| {});
        let loaded = self.engine()?.images.load(input, image::LoadOptions::default(), quiet).await;
        loaded.map(drop).map_err(of_image)
    }

    async fn make_image(
        &self,
        images: Vec<ImageWork>,
        list: bool,
        annotations: BTreeMap<String, String>,
    ) -> Result<MadeImage, Error> {
        let engine = self.engine()?;
        let list = list || images.iter().any(|i| i.attest.is_some());
        let mut made: Vec<BuiltImage> = Vec::new();
        let mut names = Vec::new();
        for image in images {
            names = image
                .names
                .iter()
                .map(|n| n.parse::<image::Reference>().map_err(of_image))
                .collect::<Result<Vec<_>, _>>()?;
            let new = NewBuiltImage {
                parts: self.parts(&image.tree).await?,
                config: image.config,
                annotations: image.annotations,
                docker_types: image.docker_types,
                packing: packing(image.packing),
                names: if list { Vec::new() } else { names.clone() },
                keep: !list,
            };
            let mut built = engine.images.make_built(new).await.map_err(of_image)?;
            if let Some(attest) = image.attest {
                let layers = match attest.of_files {
                    true => engine.images.layers_of(&built).await.map_err(of_image)?,
                    false => image::LayerFolders::default(),
                };
                let digest = built.manifest.digest.to_string();
                let say = move || {
                    let layer_of = |path: &str| layers.find(path).map(|digest| digest.to_string());
                    (attest.say)(&build::worker::Attested { digest: &digest, layer_of: &layer_of })
                };
                let said = tokio::task::spawn_blocking(say).await;
                let said = said.map_err(|e| Error::invalid(e.to_string()))?;
                let said = said.into_iter().map(|s| (s.predicate_type, s.data)).collect();
                engine.images.attest(&mut built, said).await.map_err(of_image)?;
            }
            built.descriptor_annotations = image.descriptor_annotations;
            made.push(built);
        }
        let first = made.first().ok_or_else(|| Error::invalid("no image to make"))?;
        let (config, manifest) = (first.config.digest.to_string(), first.manifest.clone());
        let manifest_of = |built: &BuiltImage| MadeManifest {
            manifest: built.manifest.digest.to_string(),
            config: built.config.digest.to_string(),
            attestation: built.attestation().map(|d| d.digest.to_string()),
        };
        let manifests = made.iter().map(manifest_of).collect();
        let target = if list {
            engine.images.make_index(made, names.clone(), annotations).await.map_err(of_image)?
        } else {
            manifest
        };
        let id = target.digest.to_string();
        engine.image_made(&id, &names);
        Ok(MadeImage {
            digest: id,
            media_type: target.media_type,
            size: target.size,
            config,
            annotations: BTreeMap::new(),
            manifests,
            list,
        })
    }

    async fn save_image(
        &self,
        made: &MadeImage,
        names: Vec<String>,
        out: Box<dyn tokio::io::AsyncWrite + Send + Unpin>,
    ) -> Result<(), Error> {
        let engine = self.engine()?;
        let digest = made.digest.as_str();
        let id: image::Digest = digest.parse().map_err(of_image)?;
        let names = names.iter().map(|n| n.parse().map_err(of_image)).collect::<Result<Vec<_>, _>>()?;
        let saved = engine.images.save_as(&id, names, made.annotations.clone(), out).await.map_err(of_image);
        // It was made for the archive: where nobody has named it, it goes again.
        let unnamed = engine.images.get(digest).await.is_ok_and(|i| i.repo_tags.is_empty());
        if unnamed {
            let options = image::RemoveOptions::default();
            if let Err(e) = engine.images.remove(digest, options, &|_| Vec::new()).await {
                tracing::debug!("image of an archive: {e}");
            }
        }
        saved
    }

    async fn pack(&self, layers: Vec<i64>, wanted: Packing) -> Result<Vec<Packed>, Error> {
        let images = &self.engine()?.images;
        let packed = images.pack_built(layers.clone(), packing(wanted)).await.map_err(of_image)?;
        let one = |(layer, packed): (i64, image::PackedLayer)| Packed {
            layer,
            blob: Blob {
                digest: packed.descriptor.digest.to_string(),
                diff_id: packed.diff_id.to_string(),
                size: packed.descriptor.size,
                media_type: packed.descriptor.media_type.clone(),
            },
            file: packed.file.clone(),
            hold: Arc::new(packed),
        };
        Ok(layers.into_iter().zip(packed).map(one).collect())
    }

    async fn unpack(
        &self,
        blob: &Blob,
        input: Pin<Box<dyn tokio::io::AsyncRead + Send>>,
    ) -> Result<(i64, LayerUse), Error> {
        let digest = blob.digest.parse().map_err(of_image)?;
        let diff_id = blob.diff_id.parse().map_err(of_image)?;
        let images = &self.engine()?.images;
        let (id, bytes) = images.unpack_built(input, digest, diff_id).await.map_err(of_image)?;
        Ok((id, LayerUse { bytes, shared: false }))
    }

    async fn fetch_document(
        &self,
        name: &str,
        digest: Option<&str>,
        asker: &Asker,
    ) -> Result<Vec<u8>, Error> {
        let reference: image::Reference = name.parse().map_err(of_image)?;
        let auth = Self::auth(&reference, asker).await;
        let digest: Option<image::Digest> = digest.map(str::parse).transpose().map_err(of_image)?;
        let images = &self.engine()?.images;
        images.fetch_document(&reference, digest.as_ref(), auth).await.map_err(of_registry)
    }

    async fn fetch_blob(
        &self,
        name: &str,
        digest: &str,
        asker: &Asker,
    ) -> Result<Pin<Box<dyn tokio::io::AsyncRead + Send>>, Error> {
        let reference: image::Reference = name.parse().map_err(of_image)?;
        let auth = Self::auth(&reference, asker).await;
        let digest: image::Digest = digest.parse().map_err(of_image)?;
        let images = &self.engine()?.images;
        Ok(Box::pin(images.open_blob(&reference, &digest, auth).await.map_err(of_image)?))
    }

    async fn push_artifact(&self, name: &str, asker: &Asker, artifact: Artifact) -> Result<(), Error> {
        let reference: image::Reference = name.parse().map_err(of_image)?;
        let auth = Self::auth(&reference, asker).await;
        let mut blobs = Vec::new();
        for packed in &artifact.blobs {
            let digest = packed.blob.digest.parse().map_err(of_image)?;
            blobs.push((digest, packed.blob.size, packed.file.clone()));
        }
        let what = image::Manifested {
            blobs,
            data: vec![(artifact.config.0.parse().map_err(of_image)?, &artifact.config.1)],
            media_type: &artifact.media_type,
            manifest: &artifact.manifest,
        };
        self.engine()?.images.push_manifest(&reference, auth, what).await.map_err(of_image)
    }

    async fn push_image(&self, name: &str, asker: &Asker) -> Result<(), Error> {
        let engine = self.engine()?;
        let reference: image::Reference = name.parse().map_err(of_image)?;
        let auth = Self::auth(&reference, asker).await;
        let options = image::PushOptions { auth, platform: None };
        let quiet: image::ProgressSink = Arc::new(|_| {});
        engine.images.push(&reference, options, quiet).await.map(drop).map_err(of_image)
    }
}
