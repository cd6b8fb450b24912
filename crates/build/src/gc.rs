//! What the cache uses of the disk, and what of it goes: by wish, and by itself once it is more than a limit.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bollard_buildkit_proto::moby::buildkit::v1 as proto;

use crate::Error;
use crate::builder::Builder;
use crate::cache::{Usage, kind};
use crate::progress::timestamp;
use crate::worker::Worker;

/// Records that `prune` takes only when asked for all: BuildKit calls them internal.
const INTERNAL: [&str; 2] = ["internal", "frontend"];

/// All that is kept, the last used first.
///
/// # Errors
/// Faults of the disk.
pub async fn usage<W: Worker>(builder: &Builder<W>) -> Result<Vec<Usage>, Error> {
    let layers = builder.worker.layers().await?;
    builder.cache.usage(&layers)
}

/// How long ago a record was used.
pub fn age(usage: &Usage) -> Duration {
    SystemTime::now().duration_since(usage.used).unwrap_or_default()
}

/// One record, as BuildKit's clients read it.
#[allow(deprecated)]
pub fn record(usage: &Usage) -> proto::UsageRecord {
    proto::UsageRecord {
        id: usage.id.clone(),
        mutable: usage.kind != kind::REGULAR,
        in_use: usage.in_use,
        size: i64::try_from(usage.bytes).unwrap_or(i64::MAX),
        parent: String::new(),
        created_at: Some(timestamp(usage.created)),
        last_used_at: Some(timestamp(usage.used)),
        usage_count: usage.count,
        description: usage.description.clone(),
        record_type: usage.kind.clone(),
        shared: usage.shared,
        parents: usage.parents.clone(),
    }
}

/// BuildKit's filters: each is a list of `field==value`, `field!=value`, `field~=pattern` or `field` that must all fit;
/// of several filters one must.
#[derive(Clone, Debug, Default)]
pub struct Filters(Vec<Vec<Filter>>);

#[derive(Clone, Debug)]
struct Filter {
    field: String,
    test: Test,
}

#[derive(Clone, Debug)]
enum Test {
    Is(String),
    IsNot(String),
    Fits(regex::Regex),
    There,
}

impl Filters {
    /// Reads them.
    ///
    /// # Errors
    /// When one is malformed.
    pub fn parse(filters: &[String]) -> Result<Self, Error> {
        let one = |text: &str| -> Result<Filter, Error> {
            let wrong = || Error::invalid(format!("invalid filter {text:?}"));
            let unquote = |v: &str| v.trim_matches(['"', '\'']).to_owned();
            let (field, test) = if let Some((field, value)) = text.split_once("==") {
                (field, Test::Is(unquote(value)))
            } else if let Some((field, value)) = text.split_once("!=") {
                (field, Test::IsNot(unquote(value)))
            } else if let Some((field, value)) = text.split_once("~=") {
                (field, Test::Fits(regex::Regex::new(&unquote(value)).map_err(|_| wrong())?))
            } else {
                (text, Test::There)
            };
            let known = [
                "id",
                "parents",
                "description",
                "inuse",
                "mutable",
                "immutable",
                "type",
                "shared",
                "private",
            ];
            if !known.contains(&field) {
                return Err(wrong());
            }
            Ok(Filter { field: field.to_owned(), test })
        };
        let all = |text: &String| text.split(',').map(one).collect::<Result<Vec<_>, _>>();
        Ok(Self(filters.iter().filter(|f| !f.is_empty()).map(all).collect::<Result<_, _>>()?))
    }

    /// Whether a record is meant.
    pub fn fit(&self, usage: &Usage) -> bool {
        let one = |filter: &Filter| {
            let flag = |set: bool| if set { "true".to_owned() } else { String::new() };
            let value = match filter.field.as_str() {
                "id" => usage.id.clone(),
                "parents" => usage.parents.join(","),
                "description" => usage.description.clone(),
                "type" => usage.kind.clone(),
                "inuse" => flag(usage.in_use),
                "mutable" => flag(usage.kind != kind::REGULAR),
                "immutable" => flag(usage.kind == kind::REGULAR),
                "shared" => flag(usage.shared),
                _ => flag(!usage.shared),
            };
            match &filter.test {
                Test::Is(wanted) => value == *wanted,
                Test::IsNot(wanted) => value != *wanted,
                Test::Fits(pattern) => pattern.is_match(&value),
                Test::There => !value.is_empty(),
            }
        };
        self.0.is_empty() || self.0.iter().any(|filter| filter.iter().all(one))
    }
}

/// What is to go.
#[derive(Clone, Debug, Default)]
pub struct Prune {
    /// Only these.
    pub filters: Filters,
    /// Also what images have too, and what is internal.
    pub all: bool,
    /// Only what was not used for so long.
    pub older: Duration,
    /// How much of the disk it is about.
    pub space: Space,
}

/// How much of the disk the cache may have, in bytes; 0 says nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// So many always stay.
    pub reserved: u64,
    /// Not more than so many stay.
    pub most: u64,
    /// So many are to be free on the disk afterwards.
    pub free: u64,
}

impl Space {
    /// How many of the cache's `total` bytes stay, where `free` are free now; `None`: it does not matter how many.
    fn keep(self, total: u64, free: u64) -> Option<u64> {
        if self == Self::default() {
            return None;
        }
        let missing = self.free.saturating_sub(free);
        let by_free = if self.free == 0 { 0 } else { total.saturating_sub(missing) };
        let keep = match (self.most, self.free) {
            (0, 0) => 0,
            (0, _) => by_free,
            (most, 0) => most,
            (most, _) => most.min(by_free),
        };
        Some(keep.max(self.reserved))
    }
}

/// Removes what nobody uses and nothing stands on, the longest unused first; gives what went, and the bytes that were freed.
///
/// # Errors
/// Faults of the disk.
pub async fn prune<W: Worker>(
    builder: &Arc<Builder<W>>,
    options: &Prune,
) -> Result<(Vec<Usage>, u64), Error> {
    // Two at once would each make room for the same bytes, and take twice as much.
    let _alone = builder.collecting.lock().await;
    let all = usage(builder).await?;
    let mut total: u64 = all.iter().filter(|u| !u.shared).map(|u| u.bytes).sum();
    let free = rustix::fs::statvfs(&builder.root).map_or(u64::MAX, |s| s.f_bavail * s.f_frsize);
    let keep = options.space.keep(total, free);
    let (mut gone, mut freed) = (Vec::<Usage>::new(), 0);
    // What steps stand on stays as long as they do, as BuildKit's references have it: only the tips may go.
    let mut above: HashMap<&str, usize> = HashMap::new();
    for id in all.iter().flat_map(|u| &u.parents) {
        *above.entry(id).or_default() += 1;
    }
    let by_id: HashMap<&str, &Usage> = all.iter().map(|u| (u.id.as_str(), u)).collect();
    let tip = |usage: &Usage| Reverse((usage.used, usage.id.clone()));
    let mut tips: BinaryHeap<_> =
        all.iter().filter(|u| !above.contains_key(u.id.as_str())).map(tip).collect();
    while let Some(Reverse((_, id))) = tips.pop() {
        if keep.is_some_and(|keep| total <= keep) {
            break;
        }
        let Some(candidate) = by_id.get(id.as_str()).copied() else { continue };
        let meant = !candidate.in_use
            && options.filters.fit(candidate)
            && age(candidate) >= options.older
            && (options.all || !candidate.shared && !INTERNAL.contains(&candidate.kind.as_str()));
        if !meant {
            continue;
        }
        // It may have been taken into use since, or be stood on: then nothing went.
        let went = builder.cache.remove(&candidate.id)?;
        let layers = went.iter().filter_map(|(_, layer)| *layer).collect();
        builder.worker.forget(layers).await?;
        for (id, _) in &went {
            remove_folder(builder, id);
            let Some(usage) = by_id.get(id.as_str()).copied() else { continue };
            freed += usage.bytes;
            if !usage.shared {
                total = total.saturating_sub(usage.bytes);
            }
            gone.push(usage.clone());
            for parent in &usage.parents {
                let left = above.entry(parent).or_default();
                *left = left.saturating_sub(1);
                if *left == 0 {
                    tips.extend(by_id.get(parent.as_str()).copied().map(tip));
                }
            }
        }
    }
    if options.all && gone.len() == all.len() {
        builder.forget_used();
    }
    Ok((gone, freed))
}

/// Removes the folder of a record that has one.
fn remove_folder<W: Worker>(builder: &Builder<W>, id: &str) {
    let (kind, name) = match id.split_once('-') {
        Some((kind @ ("local" | "mount"), name)) => (kind, name),
        _ => return,
    };
    let folder = builder.root.join(if kind == "local" { "local" } else { "mounts" });
    // Out of the way at once: a build may make it anew.
    let trash = folder.join(format!("new-{}", crate::random_id()));
    if std::fs::rename(folder.join(name), &trash).is_ok()
        && let Err(e) = std::fs::remove_dir_all(&trash)
    {
        tracing::warn!("{}: {e}", trash.display());
    }
}

/// Looks, in the background, whether more is kept than the limit.
pub(crate) fn later<W: Worker>(builder: &Arc<Builder<W>>) {
    let Some(keep) = builder.keep else { return };
    let builder = builder.clone();
    tokio::spawn(async move {
        let space = Space { most: keep, ..Space::default() };
        let options = Prune { all: false, space, ..Prune::default() };
        match prune(&builder, &options).await {
            Ok((gone, freed)) if !gone.is_empty() => {
                tracing::info!("build cache: {} records ({freed} bytes) went", gone.len());
            }
            Ok(_) => {}
            Err(e) => tracing::warn!("build cache: {e}"),
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_say_how_much_stays() {
        let keep = |reserved, most, free, is_free| Space { reserved, most, free }.keep(100, is_free);
        assert_eq!(keep(0, 0, 0, 5), None);
        assert_eq!(keep(30, 0, 0, 5), Some(30));
        assert_eq!(keep(0, 40, 0, 5), Some(40));
        // 45 more must be free.
        assert_eq!(keep(0, 0, 50, 5), Some(55));
        assert_eq!(keep(0, 40, 50, 5), Some(40));
        assert_eq!(keep(0, 70, 50, 5), Some(55));
        assert_eq!(keep(60, 70, 50, 5), Some(60));
        // Enough is free: all stays.
        assert_eq!(keep(0, 0, 50, 60), Some(100));
    }
}
