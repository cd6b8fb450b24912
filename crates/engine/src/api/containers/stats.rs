//! `GET /containers/{id}/stats`.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::api::reply::Reply;
use crate::api::request::Call;
use crate::api::system::async_stream;
use crate::container::stats::{Sample, Sampler, once};
use crate::container::{Record, Status};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::time;

/// What containerd tells of `memory.stat`, and dockerd with it.
const MEMORY_KEYS: [&str; 31] = [
    "active_anon",
    "active_file",
    "anon",
    "anon_thp",
    "file",
    "file_dirty",
    "file_mapped",
    "file_writeback",
    "inactive_anon",
    "inactive_file",
    "kernel_stack",
    "pgactivate",
    "pgdeactivate",
    "pgfault",
    "pglazyfree",
    "pglazyfreed",
    "pgmajfault",
    "pgrefill",
    "pgscan",
    "pgsteal",
    "shmem",
    "slab",
    "slab_reclaimable",
    "slab_unreclaimable",
    "sock",
    "thp_collapse_alloc",
    "thp_fault_alloc",
    "unevictable",
    "workingset_activate",
    "workingset_nodereclaim",
    "workingset_refault",
];

pub async fn stats(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    let handle = engine.containers.find(call.param(0))?;
    let stream = call.get("stream").is_empty() || call.flag("stream");
    let one_shot = call.flag("one-shot");
    if stream && one_shot {
        return Err(Error::invalid("cannot have stream=true and one-shot=true"));
    }
    let view = handle.view();
    let memory = memory_of_machine();
    if !stream && !matches!(view.status, Status::Running { .. }) {
        return Ok(Reply::json(frame(&view.record, None, None, memory)));
    }
    if one_shot {
        return Ok(Reply::json(frame(&view.record, Some(&once(&handle).await), None, memory)));
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
                    let json = frame(&handle.view().record, Some(&sample), before.as_deref(), memory);
                    out.send(Bytes::from(format!("{json}\n"))).await?;
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

fn frame(record: &Record, sample: Option<&Sample>, before: Option<&Sample>, memory: u64) -> Value {
    let at = |sample: Option<&Sample>| sample.map_or_else(|| time::ZERO.into(), |s| time::format(s.at));
    let used = sample.and_then(|s| s.used.as_ref());
    let mut out = json!({
        "name": format!("/{}", record.name), "id": record.id,
        "read": at(sample), "preread": at(before),
        "pids_stats": {}, "num_procs": 0, "storage_stats": {},
        "blkio_stats": blkio(used), "cpu_stats": cpu(sample), "precpu_stats": cpu(before),
        "memory_stats": {},
    });
    let Some(used) = used else { return out };
    out["pids_stats"] = json!({ "current": used.pids, "limit": used.pids_limit.unwrap_or(u64::MAX) });
    let of = |key: &str| used.memory_stat.iter().find(|(k, _)| k == key).map_or(0, |(_, v)| *v);
    let stats: serde_json::Map<String, Value> =
        MEMORY_KEYS.iter().map(|key| ((*key).to_owned(), json!(of(key)))).collect();
    out["memory_stats"] = json!({
        "usage": used.memory, "stats": stats, "limit": used.memory_limit.map_or(memory, |l| l.min(memory)),
    });
    if used.memory_failures > 0 {
        out["memory_stats"]["failcnt"] = json!(used.memory_failures);
    }
    let interfaces = sample.map(|s| s.interfaces.as_slice()).unwrap_or_default();
    if !interfaces.is_empty() {
        let one = |i: &crate::container::stats::Interface| {
            let ([rb, rp, re, rd], [tb, tp, te, td]) = (i.received, i.sent);
            json!({
                "rx_bytes": rb, "rx_packets": rp, "rx_errors": re, "rx_dropped": rd,
                "tx_bytes": tb, "tx_packets": tp, "tx_errors": te, "tx_dropped": td,
            })
        };
        let all: serde_json::Map<String, Value> =
            interfaces.iter().map(|i| (i.name.clone(), one(i))).collect();
        out["networks"] = Value::Object(all);
    }
    out
}

fn cpu(sample: Option<&Sample>) -> Value {
    let none = runtime::Stats::default();
    let used = sample.and_then(|s| s.used.as_ref());
    let counted = used.unwrap_or(&none);
    let mut out = json!({
        "cpu_usage": {
            "total_usage": counted.cpu_total, "usage_in_kernelmode": counted.cpu_system,
            "usage_in_usermode": counted.cpu_user,
        },
        "throttling_data": {
            "periods": counted.cpu_periods, "throttled_periods": counted.cpu_throttled_periods,
            "throttled_time": counted.cpu_throttled,
        },
    });
    if let (Some(sample), Some(_)) = (sample, used) {
        out["system_cpu_usage"] = json!(sample.system_cpu);
        out["online_cpus"] = json!(sample.cpus);
    }
    out
}

fn blkio(used: Option<&runtime::Stats>) -> Value {
    let entries = |count: fn(&runtime::IoStat) -> [u64; 2]| {
        let devices = used.map(|u| u.io.as_slice()).unwrap_or_default();
        let all: Vec<Value> = devices
            .iter()
            .flat_map(|d| {
                ["read", "write"].into_iter().zip(count(d)).map(
                    |(op, value)| json!({ "major": d.major, "minor": d.minor, "op": op, "value": value }),
                )
            })
            .collect();
        if all.is_empty() { Value::Null } else { json!(all) }
    };
    json!({
        "io_service_bytes_recursive": entries(|d| [d.read_bytes, d.write_bytes]),
        "io_serviced_recursive": entries(|d| [d.reads, d.writes]),
        "io_queue_recursive": null, "io_service_time_recursive": null, "io_wait_time_recursive": null,
        "io_merged_recursive": null, "io_time_recursive": null, "sectors_recursive": null,
    })
}
