//! What all running containers use: a stream of the engine's for each, brought together here so that a window gets one
//! small message a second, however many there are.

use std::{collections::BTreeMap, collections::HashMap, time::Duration};

use http_body_util::BodyExt;
use hyper::Request;
use serde::Deserialize;
use tokio::{sync::mpsc, task::JoinHandle, time::interval};

use crate::{
    App, AppError, docker, empty,
    streams::{End, Window},
    words::{Message, Use},
};

/// Most containers that are measured at once.
const MOST: usize = 1000;
/// Pause between two messages.
const TICK: Duration = Duration::from_secs(1);
/// Longest list of containers, and longest line of numbers.
const LONGEST_LIST: usize = 64 << 20;
const LONGEST_LINE: usize = 1 << 20;
/// Samples on their way.
const QUEUE: usize = 1024;

/// A container's stream, ended with this.
struct Measured(JoinHandle<()>);

impl Drop for Measured {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Raw {
    cpu_stats: Cpu,
    precpu_stats: Cpu,
    memory_stats: Memory,
    networks: Option<HashMap<String, Net>>,
    blkio_stats: Blocks,
    pids_stats: Pids,
}
#[derive(Deserialize, Default)]
#[serde(default)]
struct Cpu {
    cpu_usage: Total,
    system_cpu_usage: u64,
    online_cpus: u32,
}
#[derive(Deserialize, Default)]
#[serde(default)]
struct Total {
    total_usage: u64,
}
#[derive(Deserialize, Default)]
#[serde(default)]
struct Memory {
    usage: u64,
    limit: u64,
    stats: HashMap<String, u64>,
}
#[derive(Deserialize, Default)]
#[serde(default)]
struct Net {
    rx_bytes: u64,
    tx_bytes: u64,
}
#[derive(Deserialize, Default)]
#[serde(default)]
struct Blocks {
    io_service_bytes_recursive: Option<Vec<Block>>,
}
#[derive(Deserialize, Default)]
#[serde(default)]
struct Block {
    op: String,
    value: u64,
}
#[derive(Deserialize, Default)]
#[serde(default)]
struct Pids {
    current: u64,
}

/// One line of the engine's, as `docker stats` reads it.
fn sample(line: &[u8]) -> Option<Use> {
    let raw: Raw = serde_json::from_slice(line).ok()?;
    let used = raw.cpu_stats.cpu_usage.total_usage.saturating_sub(raw.precpu_stats.cpu_usage.total_usage);
    let system = raw.cpu_stats.system_cpu_usage.saturating_sub(raw.precpu_stats.system_cpu_usage);
    let first = raw.precpu_stats.system_cpu_usage == 0;
    #[allow(clippy::cast_precision_loss)]
    let share = if first || system == 0 { 0.0 } else { used as f64 / system as f64 };
    let cached =
        raw.memory_stats.stats.get("inactive_file").or(raw.memory_stats.stats.get("total_inactive_file"));
    let networks = raw.networks.unwrap_or_default();
    let blocks = raw.blkio_stats.io_service_bytes_recursive.unwrap_or_default();
    let moved = |op: &str| blocks.iter().filter(|b| b.op.eq_ignore_ascii_case(op)).map(|b| b.value).sum();
    Some(Use {
        cpu: share * f64::from(raw.cpu_stats.online_cpus.max(1)) * 100.0,
        memory: raw.memory_stats.usage.saturating_sub(cached.copied().unwrap_or(0)),
        limit: raw.memory_stats.limit,
        received: networks.values().map(|n| n.rx_bytes).sum(),
        sent: networks.values().map(|n| n.tx_bytes).sum(),
        read: moved("read"),
        written: moved("write"),
        processes: raw.pids_stats.current,
    })
}

async fn measure(app: App, id: String, to: mpsc::Sender<(String, Use)>) {
    let path = format!("/containers/{id}/stats?stream=1");
    let Ok(request) = Request::get(path).body(empty()) else { return };
    let Ok(answer) = app.docker(request).await else { return };
    if !answer.status().is_success() {
        return;
    }
    let (mut body, mut waiting) = (answer.into_body(), Vec::new());
    while let Some(Ok(frame)) = body.frame().await {
        let Ok(data) = frame.into_data() else { continue };
        waiting.extend_from_slice(&data);
        if let Some(end) = waiting.iter().rposition(|b| *b == b'\n') {
            let last = waiting[..end].rsplit(|b| *b == b'\n').next().unwrap_or_default();
            if let Some(used) = sample(last)
                && to.send((id.clone(), used)).await.is_err()
            {
                return;
            }
            waiting.drain(..=end);
        } else if waiting.len() > LONGEST_LINE {
            return;
        }
    }
}

async fn running(app: &App) -> Result<Vec<String>, AppError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Container {
        id: String,
    }
    let request = Request::get("/containers/json").body(empty()).expect("a fixed request");
    let answer = app.docker(request).await?;
    if !answer.status().is_success() {
        return Err(docker::refusal(answer).await);
    }
    let body = http_body_util::Limited::new(answer.into_body(), LONGEST_LIST).collect().await;
    let body = body.map_err(|e| AppError::Unreachable(e.to_string()))?.to_bytes();
    let list: Vec<Container> = serde_json::from_slice(&body)
        .map_err(|e| AppError::Unreachable(format!("the list of containers: {e}")))?;
    Ok(list.into_iter().map(|c| c.id).collect())
}

/// Goes on until the engine or the window ends.
pub(crate) async fn follow(window: &mut Window) -> Result<(), End> {
    const CHANGES: &str = "/events?filters=%7B%22type%22%3A%5B%22container%22%5D%2C%22event%22%3A%5B%22start%22%2C%22die%22%5D%7D";
    let request = Request::get(CHANGES).body(empty()).expect("a fixed request");
    let answer = window.app.docker(request).await?;
    if !answer.status().is_success() {
        return Err(End::Failed(docker::refusal(answer).await));
    }
    let mut events = answer.into_body();
    let (to, mut samples) = mpsc::channel(QUEUE);
    let mut tasks: HashMap<String, Measured> = HashMap::new();
    let mut now: BTreeMap<String, Use> = BTreeMap::new();
    let (mut changed, mut tick) = (true, interval(TICK));
    loop {
        tokio::select! {
            frame = events.frame() => match frame.transpose()? {
                Some(_) => changed = true,
                None => return Ok(()),
            },
            sample = samples.recv() => if let Some((id, used)) = sample {
                now.insert(id, used);
            },
            _ = tick.tick() => {
                if std::mem::take(&mut changed) {
                    let ids: Vec<String> = running(&window.app).await?.into_iter().take(MOST).collect();
                    tasks.retain(|id, task| ids.contains(id) && !task.0.is_finished());
                    now.retain(|id, _| ids.contains(id));
                    for id in ids {
                        tasks.entry(id.clone()).or_insert_with(|| {
                            Measured(tokio::spawn(measure(window.app.clone(), id, to.clone())))
                        });
                    }
                }
                let at = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
                let at = u64::try_from(at.as_millis()).unwrap_or(u64::MAX);
                window.say(Message::Usage { at, containers: now.clone() }).await?;
            }
            input = window.input.recv() => if input.is_none() { return Err(End::Gone) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_as_docker_stats_reads_it() {
        let line =
            br#"{"cpu_stats":{"cpu_usage":{"total_usage":300},"system_cpu_usage":2000,"online_cpus":2},
            "precpu_stats":{"cpu_usage":{"total_usage":100},"system_cpu_usage":1000},
            "memory_stats":{"usage":100,"limit":1000,"stats":{"inactive_file":40}},
            "networks":{"eth0":{"rx_bytes":1,"tx_bytes":2},"eth1":{"rx_bytes":3,"tx_bytes":4}},
            "blkio_stats":{"io_service_bytes_recursive":[{"op":"Read","value":5},{"op":"write","value":6}]},
            "pids_stats":{"current":7}}"#;
        let used = sample(line).unwrap();
        assert!((used.cpu - 40.0).abs() < 1e-9);
        assert_eq!((used.memory, used.limit, used.received, used.sent), (60, 1000, 4, 6));
        assert_eq!((used.read, used.written, used.processes), (5, 6, 7));
        assert_eq!(sample(b"{}").unwrap(), Use::default());
        assert!(sample(b"x").is_none());
    }
}
