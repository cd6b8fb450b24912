//! An image as a folder of the client's (`type=oci,tar=false`): an OCI layout, whose blobs are written one by one. The
//! client writes its index itself, by what it is told of the image.

use std::os::fd::AsFd as _;
use std::sync::Arc;

use tokio_util::io::SyncIoBridge;

use crate::builder::Builder;
use crate::control::status;
use crate::rpc::{Code, Status};
use crate::session::Session;
use crate::session::content::ContentStore;
use crate::solve::source::Temporary;
use crate::worker::{MadeImage, Worker};

/// The client's name of the folder.
const STORE: &str = "export";
/// Where an archive has its blobs.
const BLOBS: &str = "blobs/sha256";
/// Bytes on their way out of the store.
const PIPE: usize = 256 << 10;

fn failed(what: &str, e: impl std::fmt::Display) -> Status {
    Status::new(Code::Internal, format!("{what}: {e}"))
}

/// Writes all blobs of an image.
///
/// # Errors
/// The client's; faults of the disk.
pub(super) async fn send<W: Worker>(
    builder: &Arc<Builder<W>>,
    session: &Arc<Session>,
    made: &MadeImage,
) -> Result<(), Status> {
    let store = ContentStore::new(session, STORE)?;
    let place = Temporary(builder.root.join("local").join(format!("new-{}", crate::random_id())));
    std::fs::create_dir_all(&place.0).map_err(|e| failed("make room for the image", e))?;
    let folder = std::fs::File::open(&place.0).map_err(|e| failed("make room for the image", e))?;
    let (reader, writer) = tokio::io::duplex(PIPE);
    let mut reader = SyncIoBridge::new(reader);
    let unpack = tokio::task::spawn_blocking(move || {
        archive::extract(&mut reader, folder.as_fd(), &archive::ExtractOptions::plain())
            .map_err(|e| failed("lay out the image", e))?;
        // What stands after the archive's end.
        std::io::copy(&mut reader, &mut std::io::sink()).map_err(|e| failed("lay out the image", e))
    });
    let (saved, unpacked) =
        tokio::join!(builder.worker.save_image(made, Vec::new(), Box::new(writer)), unpack);
    saved.map_err(status)?;
    unpacked.map_err(|e| failed("lay out the image", e))??;
    let blobs = std::fs::read_dir(place.0.join(BLOBS)).map_err(|e| failed("read the image", e))?;
    for blob in blobs {
        let blob = blob.map_err(|e| failed("read the image", e))?;
        let digest = format!("sha256:{}", blob.file_name().to_string_lossy());
        let file = tokio::fs::File::open(blob.path()).await.map_err(|e| failed(&digest, e))?;
        let size = file.metadata().await.map_err(|e| failed(&digest, e))?.len();
        store.write(&digest, size, file).await?;
    }
    Ok(())
}
