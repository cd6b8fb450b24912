//! Builds of the past: what is kept of each, and what clients read of it. How it was made is kept beside what was told,
//! and is read by its digest, as from BuildKit's content store.

use std::collections::HashMap;
use std::time::SystemTime;

use bollard_buildkit_proto::moby::buildkit::v1 as proto;
use prost::Message;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::builder::Builder;
use crate::cache::Cache;
use crate::control::status;
use crate::progress::{Progress, timestamp};
use crate::rpc::{Answer, Code, Status};
use crate::session::content::{Info, InfoRequest, InfoResponse, ReadRequest, ReadResponse};
use crate::worker::{Statement, Worker};

/// Builds of the past that are kept.
const HISTORY: usize = 50;
/// Bytes of one message: below gRPC's usual limit of 4 MiB.
const CHUNK: usize = 1 << 20;
/// Media type of what is said of a build.
const STATEMENT: &str = "application/vnd.in-toto+json";
/// The annotation that says which kind it is.
const KIND: &str = "in-toto.io/predicate-type";

/// What was told of a build, and said of what it made, as it is kept.
#[derive(Clone, PartialEq, Message)]
struct Kept {
    #[prost(message, repeated, tag = "1")]
    events: Vec<proto::StatusResponse>,
    #[prost(bytes = "vec", repeated, tag = "2")]
    said: Vec<Vec<u8>>,
}

/// A build that has ended.
pub(crate) struct Ended<'a> {
    pub request: &'a proto::SolveRequest,
    pub begun: SystemTime,
    pub done: &'a Result<HashMap<String, String>, Status>,
    pub progress: &'a Progress,
    /// What is said of each result, by its platform; of the only one of a build without platforms, by no name.
    pub said: Vec<(String, Statement)>,
}

fn digest(data: &[u8]) -> String {
    crate::hex(&Sha256::digest(data))
}

/// Writes a build into the history.
pub(crate) fn keep<W: Worker>(builder: &Builder<W>, ended: Ended<'_>) {
    let Ended { request, begun, done, progress, said } = ended;
    let counts = progress.counts();
    let mut record = proto::BuildHistoryRecord {
        r#ref: request.r#ref.clone(),
        frontend: request.frontend.clone(),
        frontend_attrs: request.frontend_attrs.clone(),
        exporters: request.exporters.clone(),
        error: done.as_ref().err().map(Status::to_message),
        created_at: Some(timestamp(begun)),
        completed_at: Some(crate::progress::now()),
        exporter_response: done.as_ref().ok().cloned().unwrap_or_default(),
        num_cached_steps: counts.cached,
        num_total_steps: counts.steps,
        num_completed_steps: counts.completed,
        num_warnings: counts.warnings,
        ..Default::default()
    };
    let mut kept =
        Kept { events: progress.events().iter().map(|e| (**e).clone()).collect(), said: Vec::new() };
    for (platform, statement) in said {
        // The predicate alone, as BuildKit keeps it: what it is about is the record's result.
        let whole: Value = serde_json::from_slice(&statement.data).unwrap_or_default();
        let data = serde_json::to_vec_pretty(&whole["predicate"]).unwrap_or_default();
        let about = proto::BuildResultInfo {
            attestations: vec![proto::Descriptor {
                media_type: STATEMENT.into(),
                digest: digest(&data),
                size: i64::try_from(data.len()).unwrap_or(i64::MAX),
                annotations: [(KIND.to_owned(), statement.predicate_type)].into(),
            }],
            ..Default::default()
        };
        kept.said.push(data);
        if platform.is_empty() {
            record.result = Some(about);
        } else {
            record.results.insert(platform, about);
        }
    }
    let (record, kept) = (record.encode_to_vec(), kept.encode_to_vec());
    if let Err(e) = builder.cache.put_history(&request.r#ref, &record, &kept, HISTORY) {
        tracing::warn!("history: {e}");
    }
}

/// What was told of a build of the past.
///
/// # Errors
/// Faults of the disk.
pub(crate) fn events(cache: &Cache, reference: &str) -> Result<Option<Vec<proto::StatusResponse>>, Status> {
    let kept = cache.events(reference).map_err(status)?;
    Ok(kept.map(|bytes| Kept::decode(bytes.as_slice()).unwrap_or_default().events))
}

/// What was said of a build of the past, by its digest.
fn find(cache: &Cache, wanted: &str) -> Result<Vec<u8>, Status> {
    for (bytes, _) in cache.history().map_err(status)? {
        let Ok(record) = proto::BuildHistoryRecord::decode(bytes.as_slice()) else { continue };
        let mut said = record.result.iter().chain(record.results.values()).flat_map(|r| &r.attestations);
        if !said.any(|descriptor| descriptor.digest == wanted) {
            continue;
        }
        let kept = cache.events(&record.r#ref).map_err(status)?.unwrap_or_default();
        let kept = Kept::decode(kept.as_slice()).unwrap_or_default();
        if let Some(data) = kept.said.into_iter().find(|data| digest(data) == wanted) {
            return Ok(data);
        }
    }
    Err(Status::new(Code::NotFound, format!("content {wanted}: not found")))
}

/// How large something is.
///
/// # Errors
/// When it is not there.
pub(crate) fn info(cache: &Cache, asked: InfoRequest) -> Result<Answer, Status> {
    let data = find(cache, &asked.digest)?;
    let size = i64::try_from(data.len()).unwrap_or(i64::MAX);
    Ok(Answer::one(&InfoResponse { info: Some(Info { digest: asked.digest, size }) }))
}

/// Bytes of it.
///
/// # Errors
/// When it is not there, or not so long.
pub(crate) fn read(cache: &Cache, asked: &ReadRequest) -> Result<Answer, Status> {
    let data = find(cache, &asked.digest)?;
    let from = usize::try_from(asked.offset).ok().filter(|from| *from <= data.len());
    let past = || Status::new(Code::InvalidArgument, format!("read past object length {} bytes", data.len()));
    let from = from.ok_or_else(past)?;
    let size = usize::try_from(asked.size).unwrap_or(0);
    let to = if size == 0 { data.len() } else { from.saturating_add(size).min(data.len()) };
    let pieces: Vec<Result<ReadResponse, Status>> = data[from..to]
        .chunks(CHUNK)
        .enumerate()
        .map(|(n, piece)| {
            let offset = i64::try_from(from + n * CHUNK).unwrap_or(i64::MAX);
            Ok(ReadResponse { offset, data: piece.to_vec() })
        })
        .collect();
    Ok(Answer::stream(futures_util::stream::iter(pieces)))
}

/// Tells of builds of the past.
///
/// # Errors
/// Faults of the disk.
pub(crate) fn list(cache: &Cache, asked: &proto::BuildHistoryRequest) -> Result<Answer, Status> {
    let mut events = Vec::new();
    if !asked.active_only {
        for (bytes, pinned) in cache.history().map_err(status)? {
            let Ok(mut record) = proto::BuildHistoryRecord::decode(bytes.as_slice()) else { continue };
            if !asked.r#ref.is_empty() && record.r#ref != asked.r#ref {
                continue;
            }
            record.pinned = pinned;
            events.push(Ok(proto::BuildHistoryEvent {
                r#type: proto::BuildHistoryEventType::Complete as i32,
                record: Some(record),
            }));
        }
    }
    if asked.limit > 0 {
        let skip = events.len().saturating_sub(usize::try_from(asked.limit).unwrap_or(0));
        events.drain(..skip);
    }
    Ok(Answer::stream(futures_util::stream::iter(events)))
}
