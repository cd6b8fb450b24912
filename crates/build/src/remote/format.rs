//! BuildKit's form of a cache that is kept elsewhere (`application/vnd.buildkit.cacheconfig.v0`).
//!
//! ```text
//! {"layers":  [{"blob": "sha256:…", "parent": -1, "annotations": {…}}, …],
//!  "records": [{"digest": "sha256:…", "layers": [{"layer": 0, "createdAt": "…"}], "inputs": […]}, …]}
//! ```
//! A record's digest is a key of the solver that made it, and says nothing to another: BuildKit's are made of its own
//! steps, ours of ours. So both read what the other wrote, and find none of their steps in it. What our solver has to
//! know besides stands in a field of its own, which others leave alone.

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::platform::Platform;
use crate::worker::Blob;

/// The media type of the document.
pub(crate) const MEDIA_TYPE: &str = "application/vnd.buildkit.cacheconfig.v0";
/// Field of an image's configuration that holds the records of a cache inside of it, as base64.
pub(crate) const INLINE: &str = "moby.buildkit.cache.v0";
/// Most records that are read of one document.
const RECORDS: usize = 100_000;
/// Most layers of a record.
const LAYERS: usize = 500;
/// Most keys of a record.
const KEYS: usize = 64;

/// The document.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Document {
    #[serde(default)]
    pub layers: Vec<Layer>,
    #[serde(default)]
    pub records: Vec<Entry>,
}

/// A blob, upon another.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Layer {
    pub blob: String,
    /// Go leaves out what is 0.
    #[serde(default)]
    pub parent: i64,
    #[serde(default)]
    pub annotations: Option<Annotations>,
}

/// What else is known of a blob.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Annotations {
    #[serde(default)]
    pub media_type: String,
    #[serde(default, rename = "diffID")]
    pub diff_id: String,
    #[serde(default)]
    pub size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<String>,
}

/// A step that was done.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Entry {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<Made>,
    #[serde(default)]
    pub digest: String,
    /// What our solver knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub coracle: Option<Own>,
}

/// What a step made.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Made {
    pub layer: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<String>,
}

/// What our solver knows of a step besides.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Own {
    /// Keys under which it is found.
    pub keys: Vec<String>,
    /// Its file system.
    pub tree: Vec<Part>,
    /// What it was.
    #[serde(default)]
    pub description: String,
}

/// A part of a file system.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Part {
    /// All layers of an image.
    Image {
        /// Canonical, with digest.
        reference: String,
        /// Which of its manifests.
        platform: Platform,
    },
    /// A layer of the document.
    Layer(usize),
}

/// A part of a record's file system, with all that is known of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Piece {
    /// All layers of an image.
    Image {
        /// Canonical, with digest.
        reference: String,
        /// Which of its manifests.
        platform: Platform,
    },
    /// A layer that is somewhere else.
    Blob(Blob),
}

/// A step as it is kept elsewhere.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Record {
    /// Keys under which it is found.
    pub keys: Vec<String>,
    /// What stands for it in keys of steps upon it.
    pub output: String,
    /// Its file system.
    pub tree: Vec<Piece>,
    /// What it was.
    pub description: String,
    /// When it was made, RFC 3339.
    pub created: Option<String>,
}

/// Writes a document of these records.
pub(crate) fn write(records: &[Record]) -> Document {
    let mut document = Document::default();
    // The same blob upon the same is one layer.
    let mut places: HashMap<(i64, String), usize> = HashMap::new();
    for record in records {
        let mut parent = -1;
        let tree = record
            .tree
            .iter()
            .map(|piece| match piece {
                Piece::Image { reference, platform } => {
                    Part::Image { reference: reference.clone(), platform: platform.clone() }
                }
                Piece::Blob(blob) => {
                    let at = *places.entry((parent, blob.digest.clone())).or_insert_with(|| {
                        document.layers.push(Layer {
                            blob: blob.digest.clone(),
                            parent,
                            annotations: Some(Annotations {
                                media_type: blob.media_type.clone(),
                                diff_id: blob.diff_id.clone(),
                                size: blob.size,
                                created_at: record.created.clone(),
                            }),
                        });
                        document.layers.len() - 1
                    });
                    parent = i64::try_from(at).unwrap_or(-1);
                    Part::Layer(at)
                }
            })
            .collect();
        document.records.push(entry(record, tree));
    }
    document
}

fn entry(record: &Record, tree: Vec<Part>) -> Entry {
    let top = tree.iter().rev().find_map(|p| match p {
        Part::Layer(at) => Some(*at),
        Part::Image { .. } => None,
    });
    Entry {
        layers: top.into_iter().map(|layer| Made { layer, created_at: record.created.clone() }).collect(),
        digest: record.output.clone(),
        coracle: Some(Own { keys: record.keys.clone(), tree, description: record.description.clone() }),
    }
}

/// Records of steps whose layers are the last `built.len()` of an image's, to be kept inside of the image; `below`:
/// layers of the image that lie under them. Others are left out.
pub(crate) fn write_inline(records: &[Record], below: usize, built: &[String]) -> Vec<Entry> {
    let place = |piece: &Piece| match piece {
        Piece::Image { reference, platform } => {
            Some(Part::Image { reference: reference.clone(), platform: platform.clone() })
        }
        Piece::Blob(blob) => {
            built.iter().position(|digest| *digest == blob.digest).map(|at| Part::Layer(below + at))
        }
    };
    let one = |record: &Record| Some(entry(record, record.tree.iter().map(place).collect::<Option<_>>()?));
    records.iter().filter_map(one).collect()
}

fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:")
        .is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Reads records of ours; what names things that are not there is left out, and so is what others wrote.
pub(crate) fn read(document: &Document) -> Vec<Record> {
    let mut seen = HashSet::new();
    let blob = |at: usize| -> Option<Blob> {
        let layer = document.layers.get(at)?;
        let more = layer.annotations.clone().unwrap_or_default();
        let whole = is_digest(&layer.blob) && is_digest(&more.diff_id);
        whole.then(|| Blob {
            digest: layer.blob.clone(),
            diff_id: more.diff_id,
            size: more.size,
            media_type: more.media_type,
        })
    };
    let one = |entry: &Entry| -> Option<Record> {
        let own = entry.coracle.as_ref()?;
        let keys = own.keys.len() <= KEYS && own.keys.iter().chain([&entry.digest]).all(|k| is_digest(k));
        if !keys || own.tree.is_empty() || own.tree.len() > LAYERS {
            return None;
        }
        let piece = |part: &Part| match part {
            Part::Image { reference, platform } => {
                let reference = reference.clone();
                Some(Piece::Image { reference, platform: platform.clone() })
            }
            Part::Layer(at) => blob(*at).map(Piece::Blob),
        };
        let tree: Vec<Piece> = own.tree.iter().map(piece).collect::<Option<_>>()?;
        // A record is of a layer of its own.
        matches!(tree.last(), Some(Piece::Blob(_))).then(|| Record {
            keys: own.keys.clone(),
            output: entry.digest.clone(),
            tree,
            description: own.description.chars().take(1000).collect(),
            created: entry.layers.first().and_then(|l| l.created_at.clone()),
        })
    };
    let records = document.records.iter().take(RECORDS).filter_map(one);
    records.filter(|r| seen.insert(r.output.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(n: u8) -> String {
        format!("sha256:{}", format!("{n:02x}").repeat(32))
    }

    fn record(n: u8, blobs: &[u8]) -> Record {
        let blob = |n: u8| {
            Piece::Blob(Blob {
                digest: digest(n),
                diff_id: digest(n + 100),
                size: u64::from(n),
                media_type: "layer".into(),
            })
        };
        let base = Piece::Image {
            reference: format!("docker.io/library/busybox@{}", digest(99)),
            platform: Platform::host(),
        };
        Record {
            keys: vec![digest(n + 50), digest(n)],
            output: digest(n),
            tree: [base].into_iter().chain(blobs.iter().map(|n| blob(*n))).collect(),
            description: format!("step {n}"),
            created: Some("2026-01-01T00:00:00Z".into()),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let records = vec![record(1, &[1]), record(2, &[1, 2]), record(3, &[3])];
        let document = write(&records);
        // BuildKit's reader goes from a layer to the one below it.
        let parents: Vec<i64> = document.layers.iter().map(|l| l.parent).collect();
        assert_eq!(parents, [-1, 0, -1]);
        let text = serde_json::to_string(&document).unwrap();
        assert_eq!(read(&serde_json::from_str(&text).unwrap()), records);
    }

    #[test]
    fn inside_of_an_image_layers_go_by_their_place() {
        let entries =
            write_inline(&[record(1, &[1]), record(2, &[1, 2]), record(3, &[3])], 4, &[digest(1), digest(2)]);
        // The third has a layer that is not the image's.
        assert_eq!(entries.len(), 2);
        assert_eq!(entries[1].layers[0].layer, 5);
        assert_eq!(entries[1].coracle.as_ref().unwrap().tree[1..], [Part::Layer(4), Part::Layer(5)]);
    }

    #[test]
    fn what_others_wrote_and_what_is_wrong_is_left_out() {
        let good = write(&[record(1, &[1])]);
        let change = |change: &dyn Fn(&mut Document)| {
            let text = serde_json::to_string(&good).unwrap();
            let mut document: Document = serde_json::from_str(&text).unwrap();
            change(&mut document);
            read(&document).len()
        };
        assert_eq!(change(&|_| {}), 1);
        assert_eq!(change(&|d| d.records[0].coracle = None), 0, "BuildKit's own");
        assert_eq!(change(&|d| d.layers.clear()), 0, "a layer that is not there");
        assert_eq!(change(&|d| d.layers[0].blob = "../../etc/passwd".into()), 0);
        assert_eq!(change(&|d| d.records[0].digest = "x".into()), 0);
        assert_eq!(change(&|d| d.records[0].coracle.as_mut().unwrap().tree.truncate(1)), 0, "no layer");
        assert_eq!(change(&|d| d.records.push(d.records[0].clone())), 1, "twice the same");
        let buildkit = r#"{"layers":[{"blob":"sha256:aa","parent":-1},{"blob":"sha256:bb"}],
            "records":[{"digest":"sha256:cc"},{"digest":"sha256:dd","layers":[{"layer":1,"createdAt":"0001-01-01T00:00:00Z"}],
            "inputs":[[{"selector":"x","link":0}]]}]}"#;
        assert!(read(&serde_json::from_str(buildkit).unwrap()).is_empty());
    }
}
