//! Images: references, registries, the content store, and the root file systems of containers.
//!
//! [`Images`] is all the engine sees. An image's identity is that of containerd's store (Docker 29's default): its
//! ID is the digest of the index or manifest a name stands for; index, manifests, configuration and compressed
//! blobs are all kept as they came, so that a pushed or saved image is byte for byte the one that was pulled.
//!
//! ```text
//! Images --> pull, push -> registry (HTTP)       load, save: archives
//!        |     '----> layer (decompress, sha256, archive::extract)    make: import, commit
//!        '-> records, mount ---> store (folders, leases, transactions, collection)
//! ```
//! The tree on disk and the rules by which it changes stand in the documentation of `store`.

mod blobs;
mod built;
mod digest;
mod direct;
mod error;
mod files;
#[cfg(any(fuzzing, test))]
pub mod fuzzing;
mod images;
mod layer;
mod load;
mod make;
mod mount;
mod pack;
mod platform;
mod pull;
mod push;
mod records;
mod reference;
mod registry;
mod remove;
mod save;
mod spec;
mod store;

pub use blobs::{Manifested, PackedLayer};
pub use built::{BuiltImage, NewBuilt, NewBuiltImage, Part, Stack};
pub use digest::Digest;
pub use error::{Code, Error};
pub use files::{FileKind, LayerFile, LayerFiles, LayerFolders};
pub use images::{Config, Images};
pub use layer::decompress;
pub use load::{LoadOptions, Loaded};
pub use make::{LayerSource, NewImage};
pub use mount::RootFs;
pub use pack::{Compression, Packing};
pub use platform::Platform;
pub use pull::{Progress, ProgressSink, PullOptions, Pulled};
pub use push::{PushOptions, Pushed};
pub use records::{Image, ManifestKind, ManifestSummary};
pub use reference::Reference;
pub use registry::{Credentials, Distribution, Found, Proxies};
pub use remove::{
    DiskUsage, ImageUsage, ImageUse, InUse, Prunable, PruneOptions, Pruned, RemoveOptions, Removed,
};
pub use spec::{Descriptor, History, ImageConfig};
pub use store::make_room;
