//! `GET /containers/{id}/stats`.

use std::sync::Arc;

use bytes::Bytes;
use runtime::{IoStat, MEMORY_KEYS};
use serde::{Serialize, Serializer};

use crate::api::reply::Reply;
use crate::api::request::Call;
use crate::api::system::async_stream;
use crate::container::stats::{Interface, Sample, Sampler, once};
use crate::container::{Record, Status};
use crate::engine::Engine;
use crate::error::Error;
use crate::time;

pub async fn stats(engine: Arc<Engine>, call: Call) -> crate::error::Result<Reply> {
    let handle = engine.containers.find(call.param(0))?;
    let stream = call.get("stream").is_empty() || call.flag("stream");
    let one_shot = call.flag("one-shot");
    if stream && one_shot {
        return Err(Error::invalid("cannot have stream=true and one-shot=true"));
    }
    let view = handle.view();
    let memory = memory_of_machine();
    if !stream && !matches!(view.status, Status::Running { .. }) {
        return Ok(Reply::Encoded(Frame::of(&view.record, None, None, memory).line()));
    }
    if one_shot {
        return Ok(Reply::Encoded(Frame::of(&view.record, Some(&once(&handle)), None, memory).line()));
    }
    let mut samples = Sampler::watch(&engine, &handle);
    Ok(Reply::Stream(
        "application/json",
        async_stream(move |out| async move {
            let mut before: Option<Arc<Sample>> = None;
            loop {
                tokio::select! {
                    changed = samples.changed() => if changed.is_err() { return Ok(()) },
                    () = out.closed() => return Ok(()),
                }
                let Some(sample) = samples.borrow_and_update().clone() else { continue };
                // The first of a single answer is only what the second is compared with.
                if stream || before.is_some() {
                    let view = handle.view();
                    let frame = Frame::of(&view.record, Some(&sample), before.as_deref(), memory);
                    out.send(frame.line()).await?;
                }
                if !stream && before.is_some() {
                    return Ok(());
                }
                before = Some(sample);
            }
        }),
    ))
}

/// Bytes of memory: what a container without a limit has.
fn memory_of_machine() -> u64 {
    let info = rustix::system::sysinfo();
    (info.totalram as u64).saturating_mul(u64::from(info.mem_unit))
}

/// What containers have used, in dockerd's words and order.
#[derive(Serialize)]
struct Frame<'a> {
    name: Named<'a>,
    id: &'a str,
    read: String,
    preread: String,
    pids_stats: Pids,
    blkio_stats: Blkio<'a>,
    num_procs: u32,
    storage_stats: Nothing,
    cpu_stats: Cpu,
    precpu_stats: Cpu,
    memory_stats: Memory<'a>,
    #[serde(skip_serializing_if = "Networks::is_empty")]
    networks: Networks<'a>,
}

impl<'a> Frame<'a> {
    fn of(record: &'a Record, sample: Option<&'a Sample>, before: Option<&Sample>, memory: u64) -> Self {
        let at = |sample: Option<&Sample>| sample.map_or_else(|| time::ZERO.into(), |s| time::format(s.at));
        let used = sample.and_then(|s| s.used.as_ref());
        Self {
            name: Named(&record.name),
            id: &record.id,
            read: at(sample),
            preread: at(before),
            pids_stats: used.map_or_else(Pids::default, |u| Pids {
                current: Some(u.pids),
                limit: Some(u.pids_limit.unwrap_or(u64::MAX)),
            }),
            blkio_stats: Blkio::of(used.map_or(&[], |u| &u.io)),
            num_procs: 0,
            storage_stats: Nothing {},
            cpu_stats: Cpu::of(sample),
            precpu_stats: Cpu::of(before),
            memory_stats: used.map_or_else(Memory::default, |u| Memory {
                usage: Some(u.memory),
                stats: Some(MemoryStats(&u.memory_stat)),
                failcnt: (u.memory_failures > 0).then_some(u.memory_failures),
                limit: Some(u.memory_limit.map_or(memory, |l| l.min(memory))),
            }),
            networks: Networks(match used {
                Some(_) => sample.map(|s| s.interfaces.as_slice()).unwrap_or_default(),
                None => &[],
            }),
        }
    }
}

impl Frame<'_> {
    fn line(&self) -> Bytes {
        // Only what is no JSON could fail: a key that is no text, a number that is none.
        let mut line = serde_json::to_vec(self).unwrap_or_default();
        line.push(b'\n');
        line.into()
    }
}

/// A name as Docker tells it: `/name`.
struct Named<'a>(&'a str);

impl Serialize for Named<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("/{}", self.0))
    }
}

#[derive(Serialize)]
struct Nothing {}

#[derive(Default, Serialize)]
struct Pids {
    #[serde(skip_serializing_if = "Option::is_none")]
    current: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<u64>,
}

#[derive(Default, Serialize)]
struct Cpu {
    cpu_usage: CpuUsage,
    #[serde(skip_serializing_if = "Option::is_none")]
    system_cpu_usage: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    online_cpus: Option<u32>,
    throttling_data: Throttling,
}

#[derive(Default, Serialize)]
struct CpuUsage {
    total_usage: u64,
    usage_in_kernelmode: u64,
    usage_in_usermode: u64,
}

#[derive(Default, Serialize)]
struct Throttling {
    periods: u64,
    throttled_periods: u64,
    throttled_time: u64,
}

impl Cpu {
    fn of(sample: Option<&Sample>) -> Self {
        let Some((sample, used)) = sample.and_then(|s| Some((s, s.used.as_ref()?))) else {
            return Self::default();
        };
        Self {
            cpu_usage: CpuUsage {
                total_usage: used.cpu_total,
                usage_in_kernelmode: used.cpu_system,
                usage_in_usermode: used.cpu_user,
            },
            system_cpu_usage: Some(sample.system_cpu),
            online_cpus: Some(sample.cpus),
            throttling_data: Throttling {
                periods: used.cpu_periods,
                throttled_periods: used.cpu_throttled_periods,
                throttled_time: used.cpu_throttled,
            },
        }
    }
}

#[derive(Default, Serialize)]
struct Memory<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stats: Option<MemoryStats<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failcnt: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<u64>,
}

struct MemoryStats<'a>(&'a [u64; MEMORY_KEYS.len()]);

impl Serialize for MemoryStats<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(MEMORY_KEYS.iter().zip(self.0))
    }
}

/// What cgroup v1 tells besides is null.
#[derive(Serialize)]
struct Blkio<'a> {
    io_service_bytes_recursive: Option<Entries<'a>>,
    io_serviced_recursive: Option<Entries<'a>>,
    io_queue_recursive: Option<()>,
    io_service_time_recursive: Option<()>,
    io_wait_time_recursive: Option<()>,
    io_merged_recursive: Option<()>,
    io_time_recursive: Option<()>,
    sectors_recursive: Option<()>,
}

impl<'a> Blkio<'a> {
    fn of(devices: &'a [IoStat]) -> Self {
        let entries = |count| (!devices.is_empty()).then_some(Entries { devices, count });
        Self {
            io_service_bytes_recursive: entries(|d| [d.read_bytes, d.write_bytes]),
            io_serviced_recursive: entries(|d| [d.reads, d.writes]),
            io_queue_recursive: None,
            io_service_time_recursive: None,
            io_wait_time_recursive: None,
            io_merged_recursive: None,
            io_time_recursive: None,
            sectors_recursive: None,
        }
    }
}

/// One count of all block devices: for each how much was read, then how much was written.
struct Entries<'a> {
    devices: &'a [IoStat],
    count: fn(&IoStat) -> [u64; 2],
}

#[derive(Serialize)]
struct Entry {
    major: u64,
    minor: u64,
    op: &'static str,
    value: u64,
}

impl Serialize for Entries<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let of = |d: &IoStat| {
            let (major, minor) = (d.major, d.minor);
            let [read, write] = (self.count)(d);
            [("read", read), ("write", write)].map(|(op, value)| Entry { major, minor, op, value })
        };
        serializer.collect_seq(self.devices.iter().flat_map(of))
    }
}

/// By the interfaces' names.
struct Networks<'a>(&'a [Interface]);

impl Networks<'_> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for Networks<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|i| (&i.name, Network::of(i))))
    }
}

#[derive(Serialize)]
struct Network {
    rx_bytes: u64,
    rx_packets: u64,
    rx_errors: u64,
    rx_dropped: u64,
    tx_bytes: u64,
    tx_packets: u64,
    tx_errors: u64,
    tx_dropped: u64,
}

impl Network {
    fn of(interface: &Interface) -> Self {
        let [rx_bytes, rx_packets, rx_errors, rx_dropped] = interface.received;
        let [tx_bytes, tx_packets, tx_errors, tx_dropped] = interface.sent;
        Self { rx_bytes, rx_packets, rx_errors, rx_dropped, tx_bytes, tx_packets, tx_errors, tx_dropped }
    }
}
